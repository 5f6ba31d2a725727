"""Small dialogs: a line of text, a reply of your own, a yes or no, a choice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from hhchat.text import one_line, printable
from hhchat.tui.composer import Composer
from hhchat.tui.keyline import KeyLine, Keys
from hhchat.types import Source

CANCEL = Binding("escape", "cancel", "cancel", show=False)


LEAVES = ("esc", "leaves", "cancel")


class Ask(ModalScreen[str | None]):
    """One line of text."""

    BINDINGS = [CANCEL]

    def __init__(self, title: str, text: str = "") -> None:
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Content(self._title), classes="dialog-title", markup=False)
            yield Input(self._text)
            yield KeyLine(("enter", "keeps it", "keep"), LEAVES)

    def on_input_submitted(self) -> None:
        self.action_keep()

    def action_keep(self) -> None:
        self.dismiss(self.query_one(Input).value)

    def action_cancel(self) -> None:
        self.dismiss(None)


class Confirm(ModalScreen[bool]):
    """Yes or no, where no is the safe answer."""

    BINDINGS = [
        Binding("y", "answer(True)", "yes", show=False),
        Binding("n,escape,enter", "answer(False)", "no", show=False),
    ]

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._title, self._text = title, text

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Content(self._title), classes="dialog-title", markup=False)
            yield Static(Content(self._text), markup=False)
            yield KeyLine(("y", "yes", "answer(True)"), ("n", "no", "answer(False)"))

    def action_answer(self, answer: bool) -> None:
        self.dismiss(answer)


Edited = TypeVar("Edited")


class Editor(ModalScreen[Edited | None]):
    """The chat's own message box, large: Enter keeps, Ctrl-J breaks the line, Esc leaves."""

    BINDINGS = [CANCEL, Binding("ctrl+s", "send", "keep", show=False, priority=True)]
    KEPT = "keeps it"
    MORE: Keys = ()

    def __init__(self, title: str, placeholder: str, text: str = "") -> None:
        super().__init__()
        self._title, self._text = title, text
        self.editor = Composer(placeholder=placeholder)

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -large"):
            yield Static(Content(self._title), classes="dialog-title", markup=False)
            yield self.editor
            enter, line = ("enter", self.KEPT, "send"), ("ctrl+j", "new line", "")
            yield KeyLine(enter, line, *self.MORE, LEAVES)

    def on_mount(self) -> None:
        self.load(self._text)

    def load(self, text: str) -> None:
        self.editor.load_text(printable(text))
        self.editor.move_cursor(self.editor.document.end)
        self.editor.focus()

    def on_composer_sent(self, event: Composer.Sent) -> None:
        event.stop()
        self.action_send()

    def on_composer_refused(self, event: Composer.Refused) -> None:
        event.stop()
        self.app.notify(event.why, severity="warning", markup=False)

    def action_send(self) -> None:
        if self.editor.text.strip():
            self.dismiss(self.kept(self.editor.text))

    def kept(self, text: str) -> Edited:
        """What the dialog is dismissed with."""
        raise NotImplementedError

    def action_cancel(self) -> None:
        self.dismiss(None)


class Edit(Editor[str]):
    """A message of the user's, to be sent."""

    KEPT = "sends it"

    def __init__(self, title: str, text: str = "") -> None:
        super().__init__(title, "Say something …", text)

    def kept(self, text: str) -> str:
        return text


class Write(Editor[tuple[str, Source]]):
    """The user's own reply: human when written from nothing, edited when from one of the two."""

    BINDINGS = [
        Binding("f2", "start(0)", "from left", show=False),
        Binding("f3", "start(1)", "from right", show=False),
    ]
    MORE = (("f2", "from left", "start(0)"), ("f3", "from right", "start(1)"))

    def __init__(self, replies: Sequence[str]) -> None:
        super().__init__("Your own reply", "The reply you would have liked …")
        self._replies = replies
        self._source: Source = "human"

    def kept(self, text: str) -> tuple[str, Source]:
        return text, self._source

    def action_start(self, index: int) -> None:
        self.load(self._replies[index])
        self._source = "edited"


class Choose(ModalScreen[int | None]):
    """One of a list."""

    BINDINGS = [CANCEL]

    def __init__(self, title: str, options: Sequence[str]) -> None:
        super().__init__()
        self._title, self._options = title, options

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(Content(self._title), classes="dialog-title", markup=False)
            yield OptionList(*(Option(Content(one_line(text, 200))) for text in self._options))
            yield KeyLine(("enter", "takes it", "take"), LEAVES)

    def action_take(self) -> None:
        self.query_one(OptionList).action_select()

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        self.dismiss(event.option_index)

    def action_cancel(self) -> None:
        self.dismiss(None)
