"""The first run: what this is, which model; the chat itself is the third screen."""

from __future__ import annotations

import threading

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.screen import ModalScreen
from textual.widgets import Input, OptionList, Static
from textual.widgets.option_list import Option

from hhchat.text import one_line
from hhchat.tui import pump
from hhchat.tui.keyline import KeyLine
from hhchat.tui.setup import FirstRun

WHAT = (
    "You chat with an assistant that runs on this machine. Each message gets [bold]two "
    "replies[/], and one key says which is better.\n\n"
    "From some dozens of such picks it learns what [bold]you[/] prefer, first by a model of "
    "your picks, then by training the assistant toward it. A new version replaces the old one "
    "only when it is measured to be better, and any version can be taken back.\n\n"
    "Nothing leaves this machine. Everything is stored as you go."
)
STARTER = "starter"


class What(ModalScreen[bool]):
    """Dismissed with whether to go on; False skips the rest."""

    CSS = "What { background: $background; }"  # nothing else to read
    BINDINGS = [
        Binding("enter,space", "answer(True)", "next", show=False),
        Binding("escape,q", "answer(False)", "skip", show=False),
    ]

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static("Welcome to hhchat", classes="dialog-title", markup=False)
            yield Static(Content.from_markup(WHAT))
            choose = ("enter", "choose a model", "answer(True)")
            yield KeyLine(choose, ("esc", "straight to the chat", "answer(False)"))

    def action_answer(self, answer: bool) -> None:
        self.dismiss(answer)


class Which(ModalScreen[str | None]):
    """Dismissed with the model to use: the starter, a folder or a hub id; None skips."""

    CSS = "Which { background: $background; }"
    BINDINGS = [Binding("escape", "cancel", "skip", show=False)]

    class Told(Message):
        """What was found out about a model, in a thread: a line, and whether it can be used."""

        def __init__(self, name: str, line: str, usable: bool) -> None:
            super().__init__()
            self.name, self.line, self.usable = name, line, usable

    def __init__(self, first: FirstRun) -> None:
        super().__init__()
        self._first = first
        self._usable = ""  # the name that was looked at and can be used
        self.about = Static("", id="first-about", markup=False)

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static("Which model?", classes="dialog-title", markup=False)
            yield OptionList(
                Option(Content("The bundled starter: a toy, small enough to train in minutes")),
                Option(Content("A model of your own: a folder, or a Hugging Face hub id")),
            )
            yield Input(placeholder="folder or hub id, then enter")
            yield self.about
            yield KeyLine(("enter", "takes it", "take"), ("esc", "the starter", "cancel"))

    def on_mount(self) -> None:
        self.query_one(Input).display = False
        self.query_one(OptionList).focus()
        self.say("It can be changed at any time: hhchat config set model.path …")

    def say(self, line: str) -> None:
        self.about.update(Content(one_line(line, 300)))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        if event.option_index == 0:
            self.dismiss(STARTER)
            return
        box = self.query_one(Input)
        box.display = True
        box.focus()
        self._find_out("")  # what sizes this machine has room for

    async def action_take(self) -> None:
        box, options = self.query_one(Input), self.query_one(OptionList)
        if box.display:
            await box.action_submit()
        else:
            options.action_select()

    def on_input_changed(self) -> None:
        self._usable = ""

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Enter looks whether it fits this machine; Enter again takes it."""
        name = event.value.strip()
        if not name:
            return
        if name == self._usable:
            self.dismiss(name)
            return
        self.say("looking … (a model of the hub is fetched first, which can take minutes)")
        self._find_out(name)

    def _find_out(self, name: str) -> None:
        threading.Thread(target=self._look, args=(name,), name="hhchat-fits", daemon=True).start()

    def _look(self, name: str) -> None:
        try:
            told = self.Told(name, self._first.fits(name), usable=True)
        except BaseException as error:
            told = self.Told(name, pump.reason(error), usable=False)
        pump.deliver(self.post_message, told)

    def on_which_told(self, message: Told) -> None:
        if message.name != self.query_one(Input).value.strip():
            return  # something else has been typed since
        if not message.name:
            if message.usable:
                self.say(message.line)
        else:
            self._usable = message.name if message.usable else ""
            self.say(message.line + (" · enter takes it" if message.usable else ""))

    def action_cancel(self) -> None:
        self.dismiss(None)
