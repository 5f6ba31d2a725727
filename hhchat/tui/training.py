"""A training run beside the chat: `hhchat train` as a process of its own, and what it tells.

It tells into a file, not a pipe: when the app is killed, the run goes on and can be looked up.
What it tells is an event a line, as `--json` prints them; whatever else it says is kept as words.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import Screen
from textual.widgets import Static

from hhchat.events import Event, from_record
from hhchat.liveview import view
from hhchat.progress import Watch
from hhchat.text import printable
from hhchat.types import HhchatError

if TYPE_CHECKING:
    from hhchat.config import Config

LOG = "train.log"  # a file beside the database, of the latest run only
LINES = 400  # the last ones are shown
TICK = 0.5  # seconds between two looks


def command(config: Config) -> list[str]:
    """The command line that trains the model this chat is with."""
    model = config.model
    words = ["--model", model.path, "--quantization", model.quantization, "--device", model.device]
    return [sys.executable, "-m", "hhchat", "train", "--json", *words]


class Listener(Watch):
    """The watch of a run whose words go to the app's own list."""

    def __init__(self, words: deque[str]) -> None:
        super().__init__()
        self.words = words

    def _say(self, text: str) -> None:
        self.words.append(printable(text))


class Training:
    """The process. Its exit status says how it went, as `hhchat train --help` tells."""

    def __init__(self, words: Sequence[str], folder: Path, before: str) -> None:
        """Starts it. `before` is the assistant that was current. HhchatError when it cannot."""
        self.before = before
        self.began = time.monotonic()
        self.ended: float | None = None
        self.lines: deque[str] = deque(maxlen=LINES)
        self.watch = Listener(self.lines)
        self.stopping = False
        self._part = b""
        log = folder / LOG
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                self._process = subprocess.Popen(
                    list(words),
                    stdin=subprocess.DEVNULL,
                    stdout=descriptor,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "PYTHONUNBUFFERED": "1"},
                    start_new_session=True,  # the end of our terminal is not its end
                )
            finally:
                os.close(descriptor)
            self._log: BinaryIO = log.open("rb")
        except OSError as error:
            raise HhchatError(f"cannot start the training: {error.strerror or error}") from error

    def look(self) -> bool:
        """Read what is new; whether anything is."""
        code = self._process.poll()  # before reading: what it said last is read then
        new = b"" if self._log.closed else self._log.read()
        if code is not None and self.ended is None:
            self.ended = time.monotonic()
            new += b"\n"
        if self.ended is not None and not new.strip():
            self._log.close()
        *whole, self._part = (self._part + new).split(b"\n")
        for line in whole:
            self._take(line.decode("utf-8", "replace").rstrip())
        return bool(new)

    def _take(self, line: str) -> None:
        """One line of the file: an event, or words."""
        event = _event(line)
        if event is None:
            if line:
                self.lines.append(printable(line))
            return
        self.watch(event)
        if event.kind == "end" and event.run is not None:
            reason = f": {event.run.reason}" if event.run.reason else ""
            self.lines.append(printable(f"run {event.run.id} {event.run.state}{reason}"))

    @property
    def code(self) -> int | None:
        return self._process.returncode

    @property
    def running(self) -> bool:
        return self.ended is None

    @property
    def last(self) -> str:
        return self.lines[-1] if self.lines else ""

    def cancel(self) -> None:
        """Ask it to seal its state and end; asked twice, it ends at once."""
        if self._process.poll() is None:
            self.stopping = True
            self._process.send_signal(signal.SIGINT)

    def state(self) -> str:
        took = int((self.ended or time.monotonic()) - self.began)
        clock = f"{took // 60}:{took % 60:02}"
        if self.running:
            return (
                f"stopping, its state is kept · {clock}" if self.stopping else f"running · {clock}"
            )
        ends = {0: "promoted", 3: "refused by the gate", 130: "stopped; it can be resumed"}
        return f"{ends.get(self.code or 0, 'failed')} · took {clock}"


def _event(line: str) -> Event | None:
    if not line.startswith("{"):
        return None
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return from_record(told) if isinstance(told, dict) else None


class TrainScreen(Screen[None]):
    """The run as it stands, and its words. Leaving this screen does not stop the run."""

    BINDINGS = [
        Binding("escape,ctrl+t,q", "close", "back", show=False),
        Binding("c", "stop", "stop", show=False),
        Binding("up,k", "scroll(-3)", "up", show=False),
        Binding("down,j", "scroll(3)", "down", show=False),
        Binding("pageup", "scroll(-15)", "up", show=False),
        Binding("pagedown,space", "scroll(15)", "down", show=False),
    ]

    def __init__(self, training: Training) -> None:
        super().__init__()
        self._training = training
        self.words = Static("", id="train-words", markup=False)
        self.picture = Static("", id="train-view", markup=False)
        self.state = Static("", id="dashboard-title", markup=False)
        self.keys = Static("", classes="dialog-keys", id="dashboard-keys")

    def compose(self) -> ComposeResult:
        yield self.state
        yield self.picture
        with VerticalScroll(id="train-log"):
            yield self.words
        yield self.keys

    def on_mount(self) -> None:
        self.query_one("#train-log").anchor()
        self.draw()
        self.set_interval(TICK, self.draw)

    def draw(self) -> None:
        """The app looks after the run; this only shows it."""
        training = self._training
        self.state.update(Content(f"Training · {training.state()}"))
        width = max(20, self.size.width - 7)
        self.picture.display = training.watch.run is not None
        if self.picture.display:
            self.picture.update(view(training.watch, width, self.size.height - 8))
        self.words.update(Content("\n".join(training.lines) or "starting …"))
        how = "stop at once" if training.stopping else "stop it"
        stop = f"[@click=screen.stop][bold]c[/] {how}[/]  " if training.running else ""
        self.keys.update(
            Content.from_markup(
                f"{stop}[bold]↑↓[/] scroll  "
                "[@click=screen.close][bold]esc[/] back to the chat[/]"
                + (", it goes on meanwhile" if training.running else "")
            )
        )

    def action_scroll(self, lines: int) -> None:
        self.query_one("#train-log").scroll_relative(y=lines, animate=False)

    def action_stop(self) -> None:
        self._training.cancel()
        self.draw()

    def action_close(self) -> None:
        self.dismiss(None)
