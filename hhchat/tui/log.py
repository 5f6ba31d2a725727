"""The conversation so far: what was said, and the replies it went on from."""

from __future__ import annotations

from collections.abc import Sequence

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Static

from hhchat.text import printable
from hhchat.tui.body import ReplyBody
from hhchat.types import Turn

RECENT = 20  # turns that are drawn when a conversation is opened; earlier ones on demand


class Said(Static):
    """A message of the user's."""

    def __init__(self, text: str) -> None:
        super().__init__(Content(printable(text[:20_000])), classes="said", markup=False)


class Reply(Vertical):
    """The reply the conversation went on from, with a quiet line under it."""

    def __init__(self, text: str, note: str = "") -> None:
        super().__init__(classes="reply")
        self.text = text
        self.note = note

    def compose(self) -> ComposeResult:
        yield ReplyBody(self.text)
        if self.note:
            yield Static(Content(self.note), classes="reply-note", markup=False)


class Earlier(Static):
    """Stands for the turns that are not drawn yet."""

    class Wanted(Message):
        pass

    def on_click(self) -> None:
        self.post_message(self.Wanted())


class ConversationLog(VerticalScroll, can_focus=False):
    """Opens at the end, and follows the end as long as the reader is there."""

    def __init__(self) -> None:
        super().__init__(id="log")
        self._turns: list[Turn] = []
        self._first = 0

    async def open(self, turns: Sequence[Turn], welcome: Widget | None = None) -> None:
        """Show a conversation, or `welcome` when there is none yet."""
        self._turns = list(turns)
        self._first = max(0, len(self._turns) - RECENT)
        await self.remove_children()
        shown: list[Widget] = []
        if self._first:
            shown.append(
                Earlier(Content(f"↑ {self._first} earlier turns (click)"), classes="earlier")
            )
        for turn in self._turns[self._first :]:
            shown.extend(_widgets(turn))
        if not shown and welcome is not None:
            shown.append(welcome)
        await self.mount_all(shown)
        self.anchor(bool(self._turns))  # the welcome is read from its top

    async def say(self, text: str) -> None:
        await self.query("#welcome").remove()
        await self.mount(Said(text))
        self.anchor()

    async def reply(self, text: str, note: str) -> None:
        await self.mount(Reply(text, note))
        self.anchor()

    async def take_back(self) -> None:
        """Remove the reply of the last turn (the pick was undone)."""
        if self.children and isinstance(self.children[-1], Reply):
            await self.children[-1].remove()

    async def on_earlier_wanted(self) -> None:
        """Draw the earlier turns; the place that was being read stays in view."""
        await self.query(Earlier).remove()
        before = self.children[0] if self.children else None
        widgets = [w for turn in self._turns[: self._first] for w in _widgets(turn)]
        self._first = 0
        await self.mount_all(widgets, before=before)


def _widgets(turn: Turn) -> list[Widget]:
    widgets: list[Widget] = [Said(turn.user)]
    if turn.reply is not None:
        note = "written by you" if turn.reply.source in ("human", "edited") else ""
        widgets.append(Reply(turn.reply.text, note))
    return widgets
