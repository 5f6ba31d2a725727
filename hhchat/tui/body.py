"""The text of one reply: Markdown drawn to lines once for each text and width."""

from __future__ import annotations

from textual.geometry import Region, Size
from textual.selection import Selection
from textual.strip import Strip
from textual.widget import Widget

from hhchat.tui import markdown

STEP = 32  # lines by which a growing reply gets taller


class ReplyBody(Widget):
    """A reply as Markdown; `show` may be called for every update of a growing reply."""

    def __init__(self, text: str = "", *, classes: str | None = None) -> None:
        super().__init__(classes=classes)
        self.text = text
        self._growing = False
        self._height = 0  # as the last layout was told
        self._lines: list[Strip] = []
        self._drawn: tuple[str, int, markdown.Palette] | None = None

    def show(self, text: str, growing: bool = False) -> None:
        """Replace the text. The place that is being read stays where it is.

        While it is growing its height goes up in steps, and only the lines that changed are
        painted: laying out the whole screen for each new line would hold up the keys.
        """
        if text == self.text and growing == self._growing:
            return
        before, height = self._lines, self._height
        self.text, self._growing = text, growing
        width = self.content_size.width
        if not width:
            self.refresh(layout=True)
            return
        now = self._draw(width)
        if self._tall(len(now)) != height:
            self.refresh(layout=True)
            return
        same = 0
        for old, new in zip(before, now, strict=False):
            if old is not new and old != new:
                break
            same += 1
        changed = max(len(before), len(now)) - same
        if changed:
            self.refresh(Region(0, same, width, changed))

    def _tall(self, lines: int) -> int:
        return -(-lines // STEP) * STEP if self._growing else lines

    def _draw(self, width: int) -> list[Strip]:
        key = (self.text, width, markdown.palette(self.app))
        if self._drawn != key:
            self._lines = markdown.lines(self.text, width, self.app.console, key[2])
            self._drawn = key
        return self._lines

    def get_content_width(self, container: Size, viewport: Size) -> int:
        return container.width

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        self._height = self._tall(len(self._draw(width))) if width else 0
        return self._height

    def render_line(self, y: int) -> Strip:
        width = self.content_size.width
        style = self.visual_style.rich_style
        rows = self._draw(width) if width else []
        if y >= len(rows):
            return Strip.blank(width, style)
        strip = rows[y]
        if (selection := self.text_selection) is not None and (span := selection.get_span(y)):
            start, end = span
            end = strip.cell_length if end == -1 else end
            lit = self.screen.get_component_rich_style("screen--selection")
            strip = Strip.join(
                [strip.crop(0, start), strip.crop(start, end).apply_style(lit), strip.crop(end)]
            )
        return strip.apply_style(style).apply_offsets(0, y)

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """What the mouse selected, as drawn."""
        drawn = "\n".join(line.text.rstrip() for line in self._lines)
        return selection.extract(drawn), "\n"
