"""The two replies side by side (one above the other when narrow), their question and scale."""

from __future__ import annotations

import time

from textual.app import ComposeResult
from textual.containers import Container, Vertical
from textual.content import Content
from textual.widgets import Static

from hhchat.pair import Pair
from hhchat.tui.pane import ReplyPane
from hhchat.tui.scale import ScaleBar


class PairView(Vertical, can_focus=True):
    """Holds the focus while a pair is on the table, so that single keys reach the screen."""

    def __init__(self) -> None:
        super().__init__(id="pair")
        self.question = Static("", id="question", markup=False)
        self.left, self.right = ReplyPane("left"), ReplyPane("right")
        self.scale = ScaleBar("", id="scale")

    def compose(self) -> ComposeResult:
        yield self.question
        with Container(id="panes"):
            yield self.left
            yield self.right
        yield self.scale

    def ask(self, question: str, note: str, loud: bool) -> None:
        """Two empty frames under the question."""
        self.question.update(Content(("! " if loud else "") + question))
        self.question.set_class(loud, "-loud")
        self.set_zoom("")
        self.remove_class("-complete")
        for pane in (self.left, self.right):
            pane.clear(note)

    def grow(self, left: str, right: str) -> float:
        """Both sides in one update; the seconds it took."""
        start = time.perf_counter()
        self.left.grow(left)
        self.right.grow(right)
        return time.perf_counter() - start

    def finish(self, pair: Pair) -> None:
        """Both sides whole."""
        self.add_class("-complete")
        for pane in (self.left, self.right):
            index = pair.index(pane.side)
            generation = pair.generations[index]
            pane.finish(pair.texts[index], generation is not None and not generation.finished)

    def scroll_both(self, lines: int) -> None:
        for pane in (self.left, self.right):
            pane.scroll_relative(y=lines, animate=False)

    def zoom(self) -> None:
        """Left alone, right alone, both."""
        order = ("", "left", "right")
        now = next((z for z in order[1:] if self.has_class(f"-zoom-{z}")), "")
        self.set_zoom(order[(order.index(now) + 1) % 3])

    def set_zoom(self, side: str) -> None:
        self.set_class(side == "left", "-zoom-left")
        self.set_class(side == "right", "-zoom-right")
