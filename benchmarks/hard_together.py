"""Two chats, one training and one import on one database at once: no lost row, no lock."""

from __future__ import annotations

import json
import os
import random
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.common import Report, hhchat_command, percentile, table
from benchmarks.hard_chat import Chatter, home_of, look, losses
from benchmarks.hard_train import outcome, prepared
from benchmarks.terminal import Watched

LONGEST = 420.0  # seconds until a training that does not end is given up
WORDS = ("locked", "busy", "Traceback", "could not be read")


class Importing(threading.Thread):
    """Imports one big file after the other, every third of them again, until it is told to stop."""

    def __init__(self, home: Path, pairs: int) -> None:
        super().__init__(name="importing")
        self.home, self.pairs = home, pairs
        self.over = threading.Event()
        self.added = self.files = 0
        self.wrong: list[str] = []

    def run(self) -> None:
        while not self.over.is_set():
            file = self.home / "pairs.jsonl"
            with file.open("w") as out:
                for n in range(self.pairs):
                    told = f"how is pair {self.files}-{n} made?"
                    pair = {"prompt": told, "chosen": f"with care, {n} times", "rejected": "no"}
                    out.write(json.dumps(pair) + "\n")
            new = self._import(file)
            if new != self.pairs:
                self.wrong.append(f"an import of {self.pairs} new pairs added {new}")
            if self.files % 3 == 0 and (again := self._import(file)):
                self.wrong.append(f"the same file again added {again}")
            self.files += 1

    def _import(self, file: Path) -> int:
        done = command(self.home, "prefs", "import", str(file), "--json").communicate()
        try:
            added = int(json.loads(done[0].splitlines()[-1])["added"])
        except (ValueError, KeyError, IndexError):
            self.wrong.append(f"an import said {(done[0] + done[1])[-300:]!r}")
            return 0
        self.wrong += [f"an import said {done[1]!r}" for w in WORDS if w in done[1]]
        self.added += added
        return added


def command(home: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*hhchat_command(), *words],
        env={**os.environ, **home_of(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Training(threading.Thread):
    """`hhchat train` to its verdict; `begun` once it has frozen what it learns from."""

    def __init__(self, home: Path) -> None:
        super().__init__(name="training")
        self.child = command(home, "train", "--json")
        self.begun = threading.Event()
        self.words: list[str] = []
        self.errors = ""

    def run(self) -> None:
        assert self.child.stdout is not None
        assert self.child.stderr is not None
        for line in self.child.stdout:
            self.words = [*self.words[-3:], line[:300]]
            if '"event": "run"' in line[:40]:
                self.begun.set()
        self.errors = self.child.stderr.read()
        self.child.wait()
        self.begun.set()


def run_together(options: Any, report: Report) -> list[str]:
    """At least `--seconds`, and until the training has its verdict."""
    with tempfile.TemporaryDirectory(prefix="hhchat-hard-") as folder:
        home = prepared(Path(folder) / "home", options)
        return _together(home, options, report)


def _together(home: Path, options: Any, report: Report) -> list[str]:
    rng = random.Random(options.seed)
    wrong: list[str] = []
    training, importing = Training(home), Importing(home, 200 if options.smoke else 20_000)
    training.start()
    training.begun.wait(LONGEST)  # imported pairs would make it a longer run, not a harder one
    chats: list[Chatter] = []
    started = time.monotonic()
    try:
        importing.start()
        for name in ("a", "b"):
            watched = Watched(command=[*hhchat_command(), "chat"], env=home_of(home))
            chats.append(Chatter(watched, name, rng))
        while time.monotonic() - started < LONGEST:
            for chat in chats:
                chat.step(0.01)
            if time.monotonic() - started >= options.seconds and not training.is_alive():
                break
    except RuntimeError as error:
        wrong.append(f"a chat: {error}")
    finally:
        lasted = time.monotonic() - started
        importing.over.set()
        importing.join()
        for chat in chats:
            with suppress(OSError):
                chat.watched.type(b"\x11")  # ctrl+q
                chat.watched.drain(2)
            chat.notice()
            chat.watched.close()
        training.join(max(0.0, started + LONGEST - time.monotonic()))
        if training.is_alive():
            wrong.append(f"the training had no verdict after {LONGEST:.0f} s")
            training.child.kill()
            training.join()
    wrong += _checked(home, training, importing, chats)
    waits = [1000 * w for chat in chats for w in chat.waits]
    row = {
        "seconds": lasted,
        "picks shown as saved": sum(len(c.picks) for c in chats),
        "pairs imported": importing.added,
        "training": outcome(home).state,
        "key to saved, p50 ms": percentile(waits, 0.5),
        "key to saved, most ms": max(waits, default=float("nan")),
        "faults": len(wrong),
    }
    report.data["together"] = row
    report.say("\n## together: two chats, one training, one import at once\n")
    report.say(table(tuple(row), [list(row.values())]) + "\n")
    return wrong


def _checked(
    home: Path, training: Training, importing: Importing, chats: list[Chatter]
) -> list[str]:
    from hhchat.runfolder import read_metrics
    from hhchat.store import Store

    wrong = list(importing.wrong)
    if training.child.returncode not in (0, 3):
        wrong.append(f"the training ended with {training.child.returncode}: {training.words}")
    wrong += [f"the training said {training.errors!r}" for w in WORDS if w in training.errors]
    for chat in chats:
        wrong += [f"on the screen of a chat: {w}" for w in [chat.trouble()] if w]
        if not chat.picks:
            wrong.append("a chat saved no pick at all")
    copy = look(home / "hhchat.db")
    if copy.integrity != "ok":
        wrong.append(f"integrity: {copy.integrity}")
    for chat in chats:
        wrong += [f"lost {x}" for x in losses(copy, chat.told, chat.picks)]
    with Store(home / "hhchat.db") as store:
        kept = store.conn.execute("SELECT count(*) FROM comparison WHERE purpose = 'imported'")
        if (rows := kept.fetchone()[0]) != importing.added:
            wrong.append(f"imports said {importing.added} pairs, the database has {rows}")
        if (said := store.check()) != "ok":
            wrong.append(f"check: {said}")
        run = store.runs(1)[0]
        written = {(m.stage, m.step, m.name) for m in store.metrics(run.id)}
        journal = {
            (m.stage, m.step, m.name)
            for m in read_metrics(home / "runs" / run.id / "metrics.jsonl")
        }
        if journal - written:
            wrong.append(f"{len(journal - written)} metrics are not in the database")
    return wrong
