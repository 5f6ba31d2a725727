"""The whole map of keys, from the same table that makes them work."""

from __future__ import annotations

from typing import cast

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from hhchat.tui.hints import target
from hhchat.tui.keyline import KeyLine
from hhchat.tui.keys import KEYS, Key

ABOUT = (
    "Each message gets two replies. You say which is better; the chat goes on from it, and the "
    "comparison is stored on this machine. Nothing is sent anywhere. `hhchat train` turns your "
    "comparisons into a preference model and trains the assistant toward it. Pick the more "
    "helpful and honest reply; a lie does not help, and you need not check every fact.\n\n"
    "Now and then a pair of an earlier day comes back, sides swapped ([chat] replay in the "
    "settings): how often you agree with yourself is the most that can be learned from you. "
    "Modes, themes, branching and which assistant writes are among the commands (ctrl+p); click "
    "any words that name a key, double-click a reply to pick it."
)


class Row(Horizontal):
    """A key and what it does; clicked, it does it."""

    def __init__(self, key: Key) -> None:
        super().__init__(classes="help-row")
        self.key = key

    def compose(self) -> ComposeResult:
        yield Static(Content(self.key.cap), classes="help-cap", markup=False)
        yield Static(Content(self.key.help), classes="help-text", markup=False)

    def on_click(self) -> None:
        cast("Help", self.screen).dismiss(target(self.key) or None)


class Help(ModalScreen[str | None]):
    """Dismissed with the action of the row that was clicked, if one was."""

    BINDINGS = [Binding("escape,question_mark,f1,q,enter", "close", "close", show=False)]

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -large"):
            yield Static("Keys", classes="dialog-title", markup=False)
            with VerticalScroll(id="help-map"):
                for group in dict.fromkeys(key.group for key in KEYS):
                    yield Static(Content(group), classes="help-group", markup=False)
                    for key in (key for key in KEYS if key.group == group):
                        yield Row(key)
                yield Static("What this is", classes="help-group", markup=False)
                yield Static(Content(ABOUT), markup=False)
            yield KeyLine(("esc", "closes", "close"), ("click", "a line to do it", ""))

    def on_mount(self) -> None:
        self.query_one("#help-map").focus()

    def action_close(self) -> None:
        self.dismiss(None)
