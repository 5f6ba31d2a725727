"""SIGKILL at random moments while a script chats and picks: what was shown must be there.

The script types into the real app in a pseudo-terminal and reads what the app writes. A message
counts as shown when the app says that it answers it, a pick when the app says that it is saved.
"""

from __future__ import annotations

import random
import re
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import Report, hhchat_command, table
from benchmarks.terminal import Watched

STALLED = 60.0  # seconds without what the script waits for
ESCAPES = re.compile(rb"\x1b(\[[0-9;:?<>=]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[()].|[=>78c])")
KEYS = {b"\x1b[D": "left", b"\x1b[C": "right", b"2": "left", b"7": "right", b"t": "tie"}
SAVED, CHOOSING, WRITING = "✓ saved".encode(), b"your pick", b"writing"
TROUBLE = (b"Not saved", b"NOT SAVED", b"locked", b"Traceback", b"could not be loaded")


def shown(raw: bytes) -> bytes:
    """What was written, without the escapes that place and colour it."""
    return ESCAPES.sub(b"", raw)


@dataclass(frozen=True)
class Pick:
    message: str
    outcome: str


@dataclass
class Chatter:
    """Chats and picks, one step at a time, and remembers what the screen has claimed."""

    watched: Watched
    name: str
    rng: random.Random
    told: list[str] = field(default_factory=list)  # messages that the app was answering
    picks: list[Pick] = field(default_factory=list)  # shown as saved
    waits: list[float] = field(default_factory=list)  # seconds from each such key to the screen
    starts: int = 0  # new conversations asked for
    _state: str = "opening"
    _mark: int = 0
    _since: float = field(default_factory=time.monotonic)
    _message: str = ""
    _outcome: str = ""
    _count: int = 0
    _fresh: bool = False

    @property
    def between(self) -> bool:
        """A new conversation was asked for, and nothing of it has been shown yet."""
        return self._state == "sent" and self._fresh

    def _text(self) -> bytes:
        return shown(self.watched.written[self._mark :])

    def _next(self, state: str) -> None:
        self._state, self._mark = state, len(self.watched.written)
        self._since = time.monotonic()

    def trouble(self) -> str:
        """What a user would take for a fault, among all that was written."""
        text = shown(self.watched.written)
        for words in TROUBLE:
            if words in text:
                at = text.index(words)
                return text[max(0, at - 80) : at + 160].decode(errors="replace")
        return ""

    def chat(self, until: Callable[[], bool]) -> None:
        """Go on chatting; RuntimeError when the app leaves or stalls."""
        while not until():
            self.step(0.02)

    def step(self, patience: float) -> None:
        """Read for a moment and do what is next; RuntimeError when the app leaves or stalls."""
        self.watched.read(patience)
        self.notice()
        self._act()
        if self.watched.child.poll() is not None:
            raise RuntimeError(f"the app left: {shown(self.watched.written)[-400:]!r}")
        if time.monotonic() - self._since > STALLED:
            raise RuntimeError(f"{self._state} for too long: {self._text()[-400:]!r}")

    def notice(self) -> None:
        """Take note of what the app claims; also after it was killed, of its last words."""
        text = self._text()
        if self._state == "sent" and (WRITING in text or CHOOSING in text):
            self.told.append(self._message)
            self._fresh = False
            self._state = "answered"  # the mark stays: the pair may be complete already
        if self._state == "picked" and SAVED in text:
            self.picks.append(Pick(self._message, self._outcome))
            self.waits.append(time.monotonic() - self._since)
            self._next("ready")

    def _act(self) -> None:
        text = self._text()
        if self._state == "opening":
            if CHOOSING in text:  # the message that was open is asked again
                self._message = ""
                self._pick()
            elif b"ready" in text and WRITING not in text:
                self._next("ready")
        elif self._state == "answered":
            if CHOOSING in text:
                self._pick()
        elif self._state == "ready":
            self._count += 1
            self._message = f"{self.name}m{self._count} how do I make tea?"
            if self.rng.random() < 0.2:
                self.watched.type(b"\x0e")  # ctrl+n
                self.starts += 1
                self._fresh = True
            self._next("sent")
            self.watched.type(self._message.encode() + b"\r")

    def _pick(self) -> None:
        key = self.rng.choice(list(KEYS))
        self._outcome = KEYS[key]
        self._next("picked")
        self.watched.type(key)


# -- what the database must hold


@dataclass
class Copy:
    """The database as a kill left it, looked at in a copy: the app mends the original itself."""

    integrity: str
    picks: dict[str, list[str]]  # user message -> outcomes
    tips: dict[str, str]  # user message -> the last message of its conversation


def look(database: Path) -> Copy:
    with tempfile.TemporaryDirectory(prefix="hhchat-hard-") as folder:
        copy = Path(folder) / database.name
        for end in ("", "-wal"):
            if (source := database.with_name(database.name + end)).exists():
                shutil.copy(source, copy.with_name(copy.name + end))
        with closing(sqlite3.connect(copy)) as conn:
            integrity = conn.execute("PRAGMA integrity_check").fetchone()[0]
            if not conn.execute("SELECT 1 FROM sqlite_master WHERE name = 'turn'").fetchone():
                return Copy(integrity, {}, {})
            picks: dict[str, list[str]] = {}
            for user, outcome in conn.execute(
                "SELECT t.user, c.outcome FROM turn t LEFT JOIN comparison c ON c.turn = t.id"
            ):
                picks.setdefault(user, []).extend([outcome] if outcome else [])
            tips = dict(
                conn.execute(
                    "SELECT t.user, last.user FROM turn t"
                    " JOIN conversation v ON v.id = t.conversation"
                    " JOIN turn last ON last.id = v.tip"
                ).fetchall()
            )
        return Copy(integrity, picks, tips)


def losses(copy: Copy, told: Sequence[str], picks: Sequence[Pick]) -> list[str]:
    """What was shown and is not there."""
    found = [f"message {text!r}" for text in told if text not in copy.picks]
    for pick in picks:
        if pick.message and pick.outcome not in copy.picks.get(pick.message, ()):
            found.append(f"pick {pick.outcome} of {pick.message!r}")
    return found


# -- (a) killed a hundred times


@dataclass
class Tally:
    kills: int = 0
    starting: int = 0  # of the kills, those before the app had painted
    between: int = 0  # of the kills, those before a new conversation's first message was shown
    messages: int = 0
    picks: int = 0
    lost: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    reopened: int = 0

    def row(self) -> list[Any]:
        return [
            *(self.kills, self.starting, self.messages, self.picks),
            *(len(self.lost), len(self.damaged), self.reopened, len(self.elsewhere)),
            len(self.troubles),
        ]


HEADS = (
    *("engine", "kills", "while starting", "messages shown", "picks shown as saved"),
    *("lost", "integrity not ok", "reopened on the same chat", "not so", "errors on screen"),
)


def run_kills(options: Any, report: Report) -> list[str]:
    """Both engines; what went wrong, in words."""
    rng = random.Random(options.seed)
    real = max(1, options.kills // 10)
    tallies: dict[str, Tally] = {}
    for engine, kills, span in (("quick", options.kills - real, 2.5), ("starter", real, 9.0)):
        with tempfile.TemporaryDirectory(prefix="hhchat-hard-") as folder:
            tallies[engine] = killed(Path(folder), engine, kills, span, rng)
        if kills:
            print(f"{engine}: {tallies[engine].kills} kills", flush=True)
    report.data["chat"] = {name: asdict(t) for name, t in tallies.items()}
    report.say("\n## chat: killed at random moments while a script chats and picks\n")
    report.say(table(HEADS, [[name, *t.row()] for name, t in tallies.items()]) + "\n")
    report.say(
        "quick: the real app and store on an engine that answers at once (through"
        " `hhchat.tui.run`), so that most moments are the app's own; starter: `hhchat chat`"
        " itself.\n"
    )
    return [f"{name}: {x}" for name, t in tallies.items() for x in faults(t)]


def faults(tally: Tally) -> list[str]:
    return [
        *(f"lost {x}" for x in tally.lost),
        *(f"integrity {x}" for x in tally.damaged),
        *(f"reopened elsewhere: {x}" for x in tally.elsewhere),
        *(f"on screen: {x}" for x in tally.troubles),
    ]


def killed(home: Path, engine: str, kills: int, span: float, rng: random.Random) -> Tally:
    database, tally = home / "hhchat.db", Tally()
    (home / "config.toml").write_text("[chat]\nmax_new_tokens = 48\n")
    told: list[str] = []
    picks: list[Pick] = []
    open_on = ""  # a message of the conversation that must be open
    for number in range(kills + 1):
        watched = launch(engine, database)
        try:
            if number == kills:  # the last one only has to open
                reopens(watched, database, open_on, tally)
                break
            if number and rng.random() < 0.1:
                watched.drain(rng.uniform(0, 1.0))
                tally.starting += 1
                watched.kill()
            else:
                reopens(watched, database, open_on, tally)
                chatter = Chatter(watched, f"k{number}", rng)
                end = time.monotonic() + rng.uniform(0, span)
                chatter.chat(lambda end=end: time.monotonic() >= end)  # type: ignore[misc]
                watched.kill()
                chatter.notice()
                told += chatter.told
                picks += chatter.picks
                if chatter.between:
                    tally.between, open_on = tally.between + 1, ""
                elif chatter.told:
                    open_on = chatter.told[-1]
                if words := chatter.trouble():
                    tally.troubles.append(words)
        finally:
            watched.close()
        tally.kills += 1
        copy = look(database)
        if copy.integrity != "ok":
            tally.damaged.append(f"after kill {number}: {copy.integrity}")
        tally.lost += [f"{x}, kill {number}" for x in losses(copy, told, picks)]
    tally.messages, tally.picks = len(told), len(picks)
    return tally


def launch(engine: str, database: Path) -> Watched:
    if engine == "quick":
        return Watched(["chat", str(database), "--quick"])
    return Watched(command=[*hhchat_command(), "chat"], env=home_of(database.parent))


def home_of(folder: Path) -> Mapping[str, str]:
    return {"HHCHAT_HOME": str(folder), "HHCHAT_CONFIG": str(folder / "config.toml")}


def reopens(watched: Watched, database: Path, open_on: str, tally: Tally) -> None:
    """Wait for the last message of the conversation that was open; note when it does not come."""
    if not open_on:
        watched.until(b"hhchat")
        return
    expected = look(database).tips.get(open_on, open_on).encode()
    end = time.monotonic() + 20
    while expected not in shown(watched.written):
        if time.monotonic() > end or watched.child.poll() is not None:
            tally.elsewhere.append(f"{expected.decode()} was not on the screen")
            return
        watched.read(0.02)
    tally.reopened += 1
