"""What the assistant is told and how replies are drawn, for the conversation on screen."""

from __future__ import annotations

from dataclasses import replace

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from hhchat.config import ChatConfig
from hhchat.settings import Text, build, convert
from hhchat.text import one_line, printable
from hhchat.tui.composer import Composer
from hhchat.tui.keyline import KeyLine
from hhchat.types import BadInput, Sampling

FIELDS = {
    "temperature": "0 is greedy, 1 as the model learned",
    "top_p": "of the likeliest tokens, up to 1",
    "max_new_tokens": "the longest reply",
}
Kept = tuple[str, Sampling]


class Settings(ModalScreen[Kept | None]):
    """Dismissed with the system prompt and the sampling settings, or None."""

    BINDINGS = [
        Binding("escape", "cancel", "leave", show=False),
        Binding("ctrl+s", "keep", "keep", show=False, priority=True),
    ]

    def __init__(self, system: str, sampling: Sampling) -> None:
        super().__init__()
        self._sampling = sampling
        self.system = Composer(placeholder="You are … (empty: no system prompt)")
        self._text = system
        self.about = Static("", id="settings-about", markup=False)

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -settings"):
            yield Static("This conversation", classes="dialog-title", markup=False)
            yield self.system
            for name, words in FIELDS.items():
                with Horizontal(classes="setting"):
                    label = name.replace("_", " ")
                    yield Static(Content(label), classes="setting-name", markup=False)
                    value = getattr(self._sampling, name)
                    yield Input(f"{value:g}", id=f"setting-{name}", compact=True)
                    yield Static(Content(words), classes="setting-help", markup=False)
            yield self.about
            keep = ("ctrl+s", "keeps it", "keep")
            yield KeyLine(("tab", "next", ""), keep, ("esc", "leaves", "cancel"))

    def on_mount(self) -> None:
        self.system.load_text(printable(self._text))
        self.about.update("It counts from the next replies on.")

    def on_composer_sent(self, event: Composer.Sent) -> None:
        event.stop()
        self.query_one("#setting-temperature").focus()

    def on_composer_refused(self, event: Composer.Refused) -> None:
        event.stop()
        self.about.update(Content(event.why))

    def on_input_submitted(self) -> None:
        self.action_keep()

    def action_keep(self) -> None:
        try:
            self.dismiss((self.system.text.strip(), self._read()))
        except BadInput as error:
            self.about.update(Content(one_line(str(error), 200)))

    def _read(self) -> Sampling:
        """The limits are those of the settings file."""
        values = {}
        for name in FIELDS:
            text = Text(self.query_one(f"#setting-{name}", Input).value.strip())
            values[name] = convert(ChatConfig, name, text, name.replace("_", " "))
        build(ChatConfig, values, "")
        return replace(self._sampling, **values)

    def action_cancel(self) -> None:
        self.dismiss(None)
