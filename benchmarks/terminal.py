"""hhchat in a pseudo-terminal: when it paints, and how long a key takes to reach the screen.

As a program, it is the app that is watched: `empty` (a Textual app with nothing but a line and an
input) or `chat DATABASE` (the real app; `--stream`: on an engine that streams lists and code;
`--quick`: on one that answers within a fifth of a second).
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import ROOT, hhchat_command

if TYPE_CHECKING:
    from hhchat.types import Delta, Draw

READY = {"empty": b"type here", "chat": b"Say something"}
PATIENCE = 60.0
MARK = b"\x1b[20~"  # F9, which the app itself does not use
# Letters that the replies and the frame do not use, so that one of them is surely the echo
LETTERS = "\u0416\u0429\u042e\u042f\u0424\u0426\u042b\u042d"


class Watched:
    """A child on a pseudo-terminal of 120x40 that we read as it writes.

    `words` are this module's own; with `command` it is any program that is watched.
    """

    def __init__(
        self,
        words: Sequence[str] = (),
        command: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        env = {**os.environ, **(env or {}), "TERM": "xterm-256color", "COLORTERM": "truecolor"}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH")]))
        self.began = time.perf_counter()
        self.child = subprocess.Popen(
            list(command) or [sys.executable, "-m", "benchmarks.terminal", *words],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env=env,
        )
        os.close(slave)
        self.written = b""

    def read(self, patience: float) -> bool:
        """Take what has been written; False when nothing came within `patience` seconds."""
        if not select.select([self.master], [], [], patience)[0]:
            return False
        try:
            piece = os.read(self.master, 1 << 20)
        except OSError:
            return False
        self.written += piece
        return bool(piece)

    def until(self, text: bytes, after: int = 0) -> float:
        """Seconds since the start at which `text` had been written after byte `after`."""
        deadline = time.perf_counter() + PATIENCE
        while text not in self.written[max(0, after - len(text)) :]:
            if time.perf_counter() > deadline or self.child.poll() is not None:
                raise RuntimeError(f"the app never wrote {text!r}: {self.written[-300:]!r}")
            self.read(0.05)
        return time.perf_counter() - self.began

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def drain(self, seconds: float) -> None:
        end = time.perf_counter() + seconds
        while (left := end - time.perf_counter()) > 0:
            self.read(left)

    def kill(self) -> None:
        """SIGKILL, and take what it had written until then."""
        self.child.kill()
        self.child.wait()
        while self.read(0):
            pass

    def vanish(self) -> None:
        """Close the terminal's other end, as a window that is closed does."""
        os.close(self.master)
        self.master = os.open(os.devnull, os.O_RDWR)

    def close(self) -> None:
        if self.child.poll() is None:
            self.child.kill()
        self.child.wait()
        os.close(self.master)


@dataclass(frozen=True)
class Paint:
    """Seconds from the start of the process."""

    ready: float  # the input and its hint are on the screen
    echo: float  # a key typed at once is on the screen


def first_paint(words: Sequence[str], home: Path | None = None) -> Paint:
    """One start; with `home`, that of `hhchat chat` itself in that home."""
    command: list[str] = []
    env: dict[str, str] = {}
    if home is not None:
        command = [*hhchat_command(), "chat", "--mode", "helpful"]
        env = {"HHCHAT_HOME": str(home)}
    watched = Watched(words, command, env)
    try:
        ready = watched.until(READY[words[0]])
        before = len(watched.written)
        watched.type(LETTERS[0].encode())
        return Paint(ready, watched.until(LETTERS[0].encode(), before))
    finally:
        watched.close()


def key_echo(database: Path, count: int, *, loading: bool = False) -> list[float]:
    """Seconds from each key to the screen, while replies stream or while the libraries load.

    The message box is hidden while replies stream, so there the key is one that shows a letter in
    a corner: the way from the terminal through the event loop and the compositor back to it."""
    watched = Watched(["chat", str(database), "--load" if loading else "--stream"])
    found: list[float] = []
    try:
        watched.until(READY["chat"])
        if not loading:
            watched.until(b"ready")
            watched.type(b"write a long list\r")
            watched.until(b"writing")
            watched.drain(0.5)
        for i in range(count):
            letter = LETTERS[i % len(LETTERS)].encode()
            before, start = len(watched.written), time.perf_counter()
            watched.type(letter if loading else MARK)
            watched.until(letter, before)
            found.append(time.perf_counter() - start)
            watched.drain(0.03 + 0.007 * (i % 7))  # not in step with the screen's own rhythm
            if loading and i % 40 == 39:  # a new line, so that the input never scrolls sideways
                watched.type(b"\x0a")
                watched.drain(0.1)
        return found
    finally:
        watched.close()


# -- the watched side


REPLY = (
    "## A plan in steps\n\n"
    + "".join(f"{n}. First weigh *one* thing, then **another**, `half` of it.\n" for n in range(9))
    + "\n- a point\n  - and a smaller one\n- the last\n\n```python\n"
    + "".join(f"def step_{n}(value):\n    return value * {n}\n" for n in range(9))
    + "```\n\n| what | how much |\n|---|---|\n| tea | one cup |\n| milk | half |\n\n"
)


class Streaming:
    """An engine whose two replies grow by a token's worth of text at a chat model's pace."""

    base = "benchmark"

    def sample(self, draws: Sequence[Draw], cancelled: Any = lambda: False) -> Iterator[Delta]:
        from hhchat.types import Delta, Generation

        text, at = REPLY * 40, 0
        while not cancelled() and at < len(text):
            for row in range(len(draws)):
                yield Delta(row, text[at : at + 4])
            at += 4
            time.sleep(0.02)
        for row, draw in enumerate(draws):
            made = Generation(text[:at], tuple(range(at // 4)), False, sampling=draw.sampling)
            yield Delta(row, "", made)

    def generate(self, draws: Sequence[Draw]) -> list[Any]:
        raise NotImplementedError


class Quick:
    """Two replies that differ, written in a fifth of a second: most of the time is the app's."""

    base = "benchmark"

    def sample(self, draws: Sequence[Draw], cancelled: Any = lambda: False) -> Iterator[Delta]:
        from hhchat.types import Delta, Generation

        for _ in range(4):
            time.sleep(0.04)
            for row in range(len(draws)):
                yield Delta(row, "some words that come first, ")
        for row, draw in enumerate(draws):
            numbers = " ".join(str(draw.seed >> shift & 255) for shift in (0, 8, 16))
            made = Generation(f"The numbers are {numbers}.", (), sampling=draw.sampling)
            yield Delta(row, "", made)

    def generate(self, draws: Sequence[Draw]) -> list[Any]:
        raise NotImplementedError


def watched_empty() -> int:
    from textual.app import App, ComposeResult
    from textual.widgets import Input, Static

    class Empty(App[None]):
        def compose(self) -> ComposeResult:
            yield Static("type here")
            yield Input()

    Empty().run()
    return 0


ENGINES: dict[str, Any] = {"--stream": Streaming, "--quick": Quick}


def watched_chat(database: Path, how: str) -> int:
    from hhchat.tui import run

    def factory() -> Any:
        if how in ENGINES:
            return ENGINES[how]()
        # as the real app does behind the first frame: the libraries, then the bundled model
        from hhchat.model import LocalEngine, load_model

        return LocalEngine(load_model("starter", quantization="none", device="cpu"))

    if how == "--stream":
        add_mark()
    return run(database, factory)


def add_mark() -> None:
    """F9 shows the next letter in a corner of the chat."""
    from textual.widgets import Static

    import hhchat.tui.app as module

    class Marked(module.ChatApp):
        CSS_PATH = str(Path(module.__file__).with_name("app.tcss"))
        BINDINGS = [("f9", "mark", "mark")]
        marks = 0
        corner: Static | None = None

        def action_mark(self) -> None:
            letter = LETTERS[self.marks % len(LETTERS)]
            self.marks += 1
            if self.corner is None:
                self.corner = Static(letter, id="mark")
                self.corner.styles.dock = "bottom"
                self.corner.styles.height, self.corner.styles.width = 1, 4
                self.screen.mount(self.corner)
            else:
                self.corner.update(letter)

    module.ChatApp = Marked  # type: ignore[misc]


if __name__ == "__main__":
    if sys.argv[1] == "empty":
        raise SystemExit(watched_empty())
    raise SystemExit(watched_chat(Path(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else ""))
