"""The message box: Enter sends, Ctrl-J breaks the line, a huge paste is refused politely."""

from __future__ import annotations

from textual import events
from textual.binding import Binding
from textual.message import Message
from textual.widgets import TextArea

from hhchat.text import printable

LIMIT = 100_000  # characters; far more than any context window this app will meet


class Composer(TextArea):
    """The chat's message box, and the editor of every dialog that takes more than a line."""

    BINDINGS = [
        Binding("ctrl+j", "newline", "new line", show=False),
        Binding("ctrl+z", "undo_here", "undo", show=False, priority=True),
        Binding("ctrl+e", "edit_here", "edit last", show=False, priority=True),
        Binding("ctrl+y", "copy_here", "copy reply", show=False, priority=True),
    ]

    class Sent(Message):
        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    class Refused(Message):
        """A paste or a key that the box did not take, and why."""

        def __init__(self, why: str) -> None:
            super().__init__()
            self.why = why

    def __init__(
        self, *, id: str | None = None, placeholder: str = "", of_chat: bool = False
    ) -> None:
        """`of_chat`: in an empty box some keys are the chat screen's."""
        super().__init__(
            id=id, placeholder=placeholder, show_line_numbers=False, highlight_cursor_line=False
        )
        self._of_chat = of_chat

    async def _on_key(self, event: events.Key) -> None:
        if event.key == "enter":
            event.stop()
            event.prevent_default()
            self.post_message(self.Sent(self.text))
            return
        if event.key == "question_mark" and self._of_chat and not self.text:
            event.stop()
            event.prevent_default()
            await self.run_action("screen.help")
            return
        if event.is_printable and len(self.text) >= LIMIT:
            event.stop()
            event.prevent_default()
            self.post_message(self.Refused(f"A message holds at most {LIMIT:,} characters."))
            return
        await super()._on_key(event)

    async def _on_paste(self, event: events.Paste) -> None:
        event.stop()
        event.prevent_default()
        if self.read_only:
            return
        total = len(event.text) + len(self.text)
        if total > LIMIT:
            self.post_message(
                self.Refused(
                    f"That paste has {len(event.text):,} characters; a message holds {LIMIT:,}. "
                    "Nothing was pasted."
                )
            )
            return
        text = printable(event.text.replace("\r", "\n") if "\n" not in event.text else event.text)
        if result := self._replace_via_keyboard(text, *self.selection):
            self.move_cursor(result.end_location)

    def action_newline(self) -> None:
        self._replace_via_keyboard("\n", *self.selection)

    async def action_undo_here(self) -> None:
        """Undo typing; in an empty box, undo the last pick."""
        if self.text or not self._of_chat:
            self.undo()
        else:
            await self.run_action("screen.undo")

    async def action_edit_here(self) -> None:
        """End of line as everywhere; in an empty box, bring back the last message."""
        if self.text or not self._of_chat:
            self.action_cursor_line_end()
        else:
            await self.run_action("screen.edit_last")

    async def action_copy_here(self) -> None:
        """Redo typing; in an empty box, copy the last reply."""
        if self.text or not self._of_chat:
            self.redo()
        else:
            await self.run_action("screen.copy_reply")
