"""The keys of a dialog or a screen in one quiet line: clickable, broken only between two keys."""

from __future__ import annotations

from rich.cells import cell_len
from textual.content import Content
from textual.style import Style
from textual.widgets import Static

GAP = "  "
Keys = tuple[tuple[str, str, str], ...]  # (cap, words, action or nothing)


class KeyLine(Static):
    """`enter keeps it  esc leaves`. An action is run on the screen that the line is on."""

    def __init__(self, *keys: tuple[str, str, str], id: str | None = None) -> None:
        super().__init__("", id=id, classes="dialog-keys", markup=False)
        self._keys: Keys = keys

    def show(self, *keys: tuple[str, str, str]) -> None:
        self._keys = keys
        self._lay_out()

    def on_mount(self) -> None:
        self._lay_out()

    def on_resize(self) -> None:
        self._lay_out()

    def _lay_out(self) -> None:
        width = self.content_size.width or self.screen.size.width
        rows: list[list[Content]] = [[]]
        used = 0
        for cap, words, action in self._keys:
            size = cell_len(f"{cap} {words}")
            if rows[-1] and used + size > width:
                rows.append([])
                used = 0
            key = Content.assemble((cap, "bold $foreground-muted"), f" {words}")
            if action:
                key = key.stylize(Style.from_meta({"@click": f"screen.{action}"}))
            rows[-1].append(key)
            used += size + len(GAP)
        self.update(Content("\n").join(Content(GAP).join(row) for row in rows))
