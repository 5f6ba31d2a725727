"""The paper's scale of eight positions, as a row that can be clicked."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

WORDS = ("by far", "clearly", "somewhat", "barely", "barely", "somewhat", "clearly", "by far")


class ScaleBar(Static):
    """`left better 1 2 3 4 · 5 6 7 8 right better`: each number picks that position."""

    def on_mount(self) -> None:
        self.draw()

    def on_resize(self) -> None:
        self.draw()

    def draw(self) -> None:
        wide = self.size.width >= 70
        parts: list[str] = [
            "[$foreground-muted]left by far[/]  " if wide else "[$foreground-muted]left[/] "
        ]
        for position in range(1, 9):
            weak = position in (4, 5)
            style = "$foreground-muted on $panel" if weak else "$foreground on $primary-muted"
            parts.append(f"[@click=screen.scale({position})][{style}] {position} [/][/]")
            parts.append("  [$foreground-muted]·[/]  " if position == 4 else " ")
        parts.append(
            " [$foreground-muted]right by far[/]" if wide else "[$foreground-muted]right[/]"
        )
        self.update(Content.from_markup("".join(parts)))
        self.tooltip = "How much better: 1 and 8 by far, 4 and 5 about equal"
