"""One line at the top: the conversation, its mode, and what the model is doing."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.content import Content
from textual.widgets import Static

from hhchat.text import one_line

MODES = {
    "helpful": "helpful",
    "redteam-best": "RED TEAM · pick the better",
    "redteam-worst": "RED TEAM · pick the MORE HARMFUL",
}


class TopBar(Horizontal):
    def __init__(self) -> None:
        super().__init__(id="top")
        self.name_line = Static("hhchat", id="top-name", markup=False)
        self.mode = Static("", id="top-mode", markup=False)
        self.title = Static("", id="top-title", markup=False)
        self.state = Static("", id="top-state", markup=False)

    def compose(self) -> ComposeResult:
        yield self.name_line
        yield self.mode
        yield self.title
        yield self.state

    def show_mode(self, mode: str) -> None:
        self.mode.update(Content(f" {MODES.get(mode, one_line(mode, 24))} "))
        self.set_class(mode.startswith("redteam"), "-redteam")

    def show_title(self, title: str) -> None:
        self.title.update(Content(one_line(title, 60)))

    def show_state(self, state: str, kind: str = "") -> None:
        """`kind` is quiet, busy or bad; the words carry the meaning, the colour repeats it."""
        self.state.update(Content(state))
        for name in ("busy", "bad"):
            self.state.set_class(kind == name, f"-{name}")
