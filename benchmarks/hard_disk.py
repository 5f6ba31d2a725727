"""A full disk, a terminal that is closed, a database from the future: words, and nothing lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.common import Report, hhchat_command, table
from benchmarks.hard_chat import SAVED, home_of, look, shown
from benchmarks.terminal import Watched

PATIENCE = 20.0  # seconds for words to come; the app itself tries again every 5
SIZE = 16 << 20  # bytes of the small disk


@dataclass
class Full:
    """A way to take the last byte away from the app, and to give it back."""

    folder: Path
    fill: Callable[[Watched], None]
    free: Callable[[Watched], None]


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[Full]:
    """A tmpfs of a few MB, filled by a file of ours; OSError when it cannot be mounted."""
    place = folder / "disk"
    place.mkdir()
    told = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "hhchat-hard", str(place)]
    if subprocess.run(told, capture_output=True, check=False).returncode:
        raise OSError("a small disk can only be mounted by root")
    ballast = place / "ballast"

    def fill(_: Watched) -> None:
        with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    try:
        yield Full(place, fill, lambda _: ballast.unlink())
    finally:
        subprocess.run(["umount", str(place)], check=False)


@contextlib.contextmanager
def quota(folder: Path) -> Iterator[Full]:
    """No file of the app may grow any more: the limit on file sizes, set from outside."""
    import resource

    place = folder / "quota"
    place.mkdir()

    def limit(watched: Watched, size: int) -> None:
        _, hard = resource.prlimit(watched.child.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(watched.child.pid, resource.RLIMIT_FSIZE, (size, hard))

    yield Full(place, lambda w: limit(w, 4096), lambda w: limit(w, resource.RLIM_INFINITY))


def comes(watched: Watched, words: bytes, after: int) -> bool:
    """Whether the app writes `words` in time, after byte `after`."""
    end = time.monotonic() + PATIENCE
    while words not in shown(watched.written[after:]):
        if time.monotonic() > end or watched.child.poll() is not None:
            return False
        watched.read(0.05)
    return True


def full(disk: Full) -> list[str]:
    """A pick and a message that the disk refuses, and what becomes of both."""
    database = disk.folder / "hhchat.db"
    watched = Watched(["chat", str(database), "--quick"])
    wrong: list[str] = []

    def expect(words: bytes, what: str, after: int) -> None:
        if not comes(watched, words, after):
            tail = shown(watched.written[after:])[-300:]
            wrong.append(f"{what}: {words.decode()!r} did not come, but {tail!r}")

    try:
        expect(b"ready", "at the start", 0)
        mark = len(watched.written)
        watched.type(b"is there room for a pick?\r")
        expect(b"your pick", "the pair", mark)
        disk.fill(watched)
        mark = len(watched.written)
        watched.type(b"\x1b[D")
        expect(b"NOT SAVED", "a pick on a full disk", mark)
        expect(b"disk is full", "a pick on a full disk", mark)
        watched.drain(6)  # an attempt of the app's own fails too
        if SAVED in shown(watched.written[mark:]):
            wrong.append("it says saved on a full disk")
        if look_at(database).get("is there room for a pick?"):
            wrong.append("the pick is in the database: the disk was not full")
        mark = len(watched.written)
        disk.free(watched)
        expect(SAVED, "with room again, by itself", mark)
        disk.fill(watched)
        mark = len(watched.written)
        watched.type(b"is there room for a message?\r")
        expect(b"disk is full", "a message on a full disk", mark)
        disk.free(watched)
        mark = len(watched.written)
        watched.type(b"\r")  # the text is still in the box
        expect(b"your pick", "the message, sent again", mark)
        if b"Traceback" in shown(watched.written):
            wrong.append("a traceback is on the screen")
    finally:
        watched.close()
    copy = look(database)
    if copy.integrity != "ok":
        wrong.append(f"integrity: {copy.integrity}")
    if copy.picks.get("is there room for a pick?") != ["left"]:
        wrong.append(f"the pick is not in the database: {copy.picks}")
    if "is there room for a message?" not in copy.picks:
        wrong.append("the message is not in the database")
    return wrong


def look_at(database: Path) -> dict[str, list[str]]:
    """As `look`, read in place: a full disk has no room for a copy beside it."""
    return look(database).picks


def closed(folder: Path) -> list[str]:
    """The terminal goes while both replies stream."""
    database = folder / "closed.db"
    watched = Watched(["chat", str(database), "--stream"])
    wrong: list[str] = []
    try:
        watched.until(b"ready")
        watched.type(b"do not lose me\r")
        watched.until(b"writing")
        watched.drain(0.5)
        watched.vanish()
        try:
            code = watched.child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            return ["the app stays when its terminal is gone"]
    finally:
        watched.close()
    if code != 128 + signal.SIGHUP:
        wrong.append(f"it ended with {code}, not {128 + signal.SIGHUP}")
    copy = look(database)
    if copy.integrity != "ok" or "do not lose me" not in copy.picks:
        wrong.append(f"integrity {copy.integrity}, messages {list(copy.picks)}")
    return wrong


def newer(folder: Path) -> list[str]:
    """A database that a later version has upgraded: refused with words, and left as it was."""
    from hhchat.store import Store

    home = folder / "newer"
    home.mkdir()
    (home / "config.toml").touch()
    database = home / "hhchat.db"
    with Store(database) as store:
        store.start_conversation("from the future")
    with closing(sqlite3.connect(database)) as conn, conn:
        conn.execute("UPDATE _sqlite_migrations SET name = 'm999_future'")
    before, wrong = database.read_bytes(), []
    env = {**os.environ, **home_of(home)}
    for words in (["prefs", "stats"], ["train"], ["prefs", "export"]):
        done = subprocess.run([*hhchat_command(), *words], env=env, capture_output=True, text=True)
        said = done.stderr.strip()
        if done.returncode == 0 or "newer hhchat" not in said or "Traceback" in said:
            wrong.append(f"hhchat {' '.join(words)} ended with {done.returncode}: {said[-200:]!r}")
    watched = Watched(command=[*hhchat_command(), "chat", "--mode", "helpful"], env=env)
    if not comes(watched, b"newer hhchat", 0):
        wrong.append(f"the app says {shown(watched.written)[-200:]!r}")
    if watched.child.wait(PATIENCE) == 0:
        wrong.append("the app ends with 0")
    watched.close()
    if database.read_bytes() != before:
        wrong.append("the database was changed")
    return wrong


def run_disk(options: Any, report: Report) -> list[str]:
    """Each of the three; what went wrong, in words."""
    found: dict[str, list[str] | None] = {}
    with tempfile.TemporaryDirectory(prefix="hhchat-hard-") as name:
        folder = Path(name)
        for what, place in (("a full disk", small_disk), ("no file may grow", quota)):
            try:
                with place(folder) as disk:
                    found[what] = full(disk)
            except (OSError, AttributeError) as error:  # prlimit is Linux's
                report.note(f"{what} was left out: {error}")
                found[what] = None
        for what, check in (("terminal closed mid-stream", closed), ("newer database", newer)):
            found[what] = check(folder)
        shutil.rmtree(folder / "quota", ignore_errors=True)
    report.data["disk"] = found
    report.say("\n## disk: a full disk, a closed terminal, a newer database\n")
    rows = [[w, None if x is None else "as it should" if not x else x[0]] for w, x in found.items()]
    report.say(table(("what", "came out"), rows) + "\n")
    return [f"{what}: {x}" for what, wrong in found.items() for x in wrong or ()]
