"""The whole map of keys, from the same table that makes them work."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Static

from hhchat.tui.keys import KEYS

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


class Help(ModalScreen[None]):
    BINDINGS = [Binding("escape,question_mark,f1,q,enter", "close", "close", show=False)]

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -large"):
            yield Static("Keys", classes="dialog-title", markup=False)
            with VerticalScroll(id="help-map"):
                for group in dict.fromkeys(key.group for key in KEYS):
                    yield Static(Content(group), classes="help-group", markup=False)
                    for key in (key for key in KEYS if key.group == group):
                        with Horizontal(classes="help-row"):
                            yield Static(Content(key.cap), classes="help-cap", markup=False)
                            yield Static(Content(key.help), classes="help-text", markup=False)
                yield Static("What this is", classes="help-group", markup=False)
                yield Static(Content(ABOUT), markup=False)
            yield Static("esc closes", classes="dialog-keys", markup=False)

    def on_mount(self) -> None:
        self.query_one("#help-map").focus()

    def action_close(self) -> None:
        self.dismiss(None)
