"""Writing so that a kill at any instant leaves either the old state or the new one, never half.

Write aside, flush to the disk, rename: the rename is the one step that publishes.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hhchat.types import HhchatError


def write_json(path: Path, value: Any) -> None:
    """Replace a file by this value as JSON, in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("w", encoding="utf-8") as file:
            json.dump(value, file, ensure_ascii=False, indent=1, allow_nan=True)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise HhchatError(f"cannot write {path}: {error.strerror or error}") from None
    _sync(path.parent)


def read_json(path: Path) -> Any:
    """The value of a JSON file; HhchatError names the file when it cannot be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HhchatError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError:
        raise HhchatError(f"{path} is damaged: it is not JSON") from None


def seal(folder: Path, target: Path) -> None:
    """Publish a finished folder under its final name: contents on the disk first, then a rename."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() or path.is_dir():
            _sync(path)
    _sync(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.rename(target)
    except OSError as error:
        raise HhchatError(f"cannot move {folder} to {target}: {error.strerror or error}") from None
    _sync(target.parent)


def _sync(path: Path) -> None:
    """fsync a file or folder; where folders cannot be opened (Windows) there is nothing to do."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass  # some file systems refuse fsync on folders; the rename is still atomic
    finally:
        os.close(handle)


@contextlib.contextmanager
def only_one(path: Path, what: str = "training") -> Iterator[None]:
    """Hold a lock file for as long as this process lives; HhchatError when another one holds it.

    The operating system drops the lock with the process, however it ends, so a stale file left
    by a killed one never blocks anybody. The pid inside is only for the message.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise HhchatError(f"cannot write {path}: {error.strerror or error}") from None
    try:
        try:
            _lock(handle)
        except OSError:
            pid = os.read(handle, 32).decode("ascii", "replace").strip()
            who = f" (process {pid})" if pid.isdigit() else ""
            raise HhchatError(
                f"another {what} is running here{who}; wait for it, or stop it first"
            ) from None
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        os.close(handle)


def is_held(path: Path) -> bool:
    """Whether a living process holds this lock file; writes nothing."""
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        try:  # in a folder that is read-only for us, the holder may well be somebody else
            handle = os.open(path, os.O_RDONLY)
        except OSError:
            return False
    try:
        _lock(handle)
    except OSError:
        return True
    else:
        return False
    finally:
        os.close(handle)


def _lock(handle: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        # A byte far beyond the pid, so that others can still read the pid.
        os.lseek(handle, 1 << 20, os.SEEK_SET)
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        os.lseek(handle, 0, os.SEEK_SET)
        return
    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
