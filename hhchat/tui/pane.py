"""One of the two replies, in a frame that names the keys that prefer it, and no writer."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.widgets import Static

from hhchat.tui.body import ReplyBody
from hhchat.types import Side

ARROW = {"left": "←", "right": "→"}
KEYS = {"left": "1 2 3 4", "right": "5 6 7 8"}


class ReplyPane(VerticalScroll, can_focus=False):
    """A scrolling frame around one reply. It opens at the top and never scrolls by itself."""

    class Clicked(Message):
        """The user clicked the frame of a complete reply twice."""

        def __init__(self, side: Side) -> None:
            super().__init__()
            self.side = side

    def __init__(self, side: Side) -> None:
        super().__init__(id=f"pane-{side}", classes="pane")
        self.side = side
        self.body = ReplyBody()
        self.empty = Static("", classes="pane-empty", markup=False)

    def compose(self) -> ComposeResult:
        yield self.empty
        yield self.body

    def on_mount(self) -> None:
        arrow = ARROW[self.side]
        words = f"{arrow} {self.side}" if self.side == "left" else f"{self.side} {arrow}"
        self.border_title = Content(words)
        self.border_subtitle = Content("")

    def clear(self, note: str = "…") -> None:
        """An empty frame with a quiet note in it, the same on both sides."""
        self.body.show("")
        self.empty.update(Content(note))
        self.empty.display = True
        self.scroll_home(animate=False)
        self.border_subtitle = Content("")

    def grow(self, text: str) -> None:
        if text and self.empty.display:
            self.empty.display = False
        self.body.show(text, growing=True)

    def finish(self, text: str, cut: bool) -> None:
        """The whole reply; `cut` when it was stopped or ran into the length limit."""
        self.body.show(text)
        self.empty.display = not text.strip()
        if not text.strip():
            self.empty.update(Content("(an empty reply)"))
        note = "stopped here · " if cut else ""
        self.border_subtitle = Content(f"{note}{KEYS[self.side]}")

    def on_click(self, event: object) -> None:
        if getattr(event, "chain", 1) == 2:
            self.post_message(self.Clicked(self.side))
