"""Starting the process that holds the model, and starting it again when it dies."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hhchat.serving import wire
from hhchat.types import HhchatError, ModelError

SOCKET = "model"
LONGEST = 100  # bytes of a Unix socket's path; the system's limit is a little above
RESTARTS = 3  # deaths in a minute after which something is really wrong
GRACE = 3.0  # seconds a process is given to end by itself


@contextmanager
def private_folder() -> Iterator[Path]:
    """A new folder of ours alone (0700), under a short path; gone afterwards."""
    import shutil

    places = [os.environ.get("XDG_RUNTIME_DIR", ""), tempfile.gettempdir(), "/tmp"]
    fitting = [p for p in places if p and Path(p).is_dir() and len(os.fsencode(p)) < LONGEST - 32]
    folder = Path(tempfile.mkdtemp(prefix="hhchat-", dir=fitting[0] if fitting else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def listen(path: Path) -> socket.socket:
    """A listening Unix socket that only its owner can reach (0600). The parent keeps it: who
    connects while the model's process is started again waits instead of failing."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise HhchatError(f"cannot make the socket {path}: {error.strerror or error}") from None
    finally:
        os.umask(before)
    listener.listen(128)
    listener.setblocking(False)
    return listener


class ModelProcess:
    """`hhchat.cli._engine` as a child. Its standard input is its lifeline: when that closes, for
    whatever reason, it ends."""

    def __init__(
        self, listener: socket.socket, spec: Mapping[str, Any], say: Callable[[str], None]
    ) -> None:
        """`spec` is what the child is told; its `preload` names the model to load at once, or is
        null. `say` gets a line for whoever watches."""
        self._listener, self._spec, self._say = listener, dict(spec), say
        self.child: asyncio.subprocess.Process | None = None

    async def run(self) -> None:
        """Until cancelled. HhchatError when the model cannot be loaded, or dies again and again."""
        deaths: list[float] = []
        try:
            while True:
                failed = await self._once()
                if failed is not None:
                    raise failed
                assert self.child is not None
                deaths = [t for t in deaths if time.monotonic() - t < 60]
                deaths.append(time.monotonic())
                how = f"the process that holds the model has ended ({_how(self.child.returncode)})"
                if len(deaths) > RESTARTS:
                    raise ModelError(f"{how}, and again: it may not fit in memory")
                self._say(f"{how}; starting it again")
        finally:
            await self._end()

    async def _once(self) -> HhchatError | None:
        """One life of the child; the error it ended with, if it was not by accident."""
        self.child = child = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "hhchat.cli._engine",
            str(self._listener.fileno()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(self._listener.fileno(),),
            start_new_session=True,  # Ctrl-C is for the server, which ends its children
        )
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(wire.encode(self._spec))
        failed = None
        while line := await child.stdout.readline():
            try:
                told = json.loads(line)
            except ValueError:
                continue  # a library that prints
            if "loaded" in told:
                self._spec["preload"] = told["loaded"]  # also when it is started again
                self._say(f"the model is loaded: {told['base']}")
            elif "error" in told:
                failed = wire.error_in(told["error"])
        await child.wait()
        return failed

    async def _end(self) -> None:
        child = self.child
        if child is None or child.returncode is not None:
            return
        if child.stdin is not None:
            child.stdin.close()
        try:
            await asyncio.wait_for(child.wait(), GRACE)
        except TimeoutError:
            with suppress(ProcessLookupError):
                child.kill()
            await child.wait()


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {-code}"
    return f"exit status {code}"
