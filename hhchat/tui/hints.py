"""What the keys do now: one small pill a key, clickable, wrapping between pills."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from textual import events
from textual.content import Content
from textual.style import Style
from textual.widgets import Static

from hhchat.tui.keys import Key

ROWS = 2  # on a narrow screen the lesser keys are left to the map


class Hints(Static):
    """The key hints of the current stage, always on screen."""

    _keys: Sequence[Key] = ()

    def show(self, keys: Sequence[Key]) -> None:
        if list(keys) != list(self._keys):  # asked at each key that is typed
            self._keys = keys
            self._lay_out()

    def on_resize(self) -> None:
        self._lay_out()

    def _lay_out(self) -> None:
        """Pills are never broken: whole ones go to the next line."""
        keys = list(self._keys)
        rows = _rows(keys, self.content_size.width or 80)
        while len(rows) > ROWS and any(key.minor for key in keys):
            keys.remove([key for key in keys if key.minor][-1])  # the map has them still
            rows = _rows(keys, self.content_size.width)
        self.update(Content("\n").join(Content("  ").join(map(_pill, row)) for row in rows))

    async def on_click(self, event: events.Click) -> None:
        action = event.style.meta.get("hint") if event.style.meta else None
        if action:
            await self.run_action(action)


def _rows(keys: Sequence[Key], width: int) -> list[list[Key]]:
    rows: list[list[Key]] = [[]]
    used = 0
    for key in keys:
        size = cell_len(key.cap) + cell_len(key.label) + 5
        if rows[-1] and used + size - 2 > width:
            rows.append([])
            used = 0
        rows[-1].append(key)
        used += size
    return rows


def _pill(key: Key) -> Content:
    pill = Content.assemble(
        (f" {key.cap} ", "bold $foreground on $panel"),
        (f" {key.label}", "$foreground-muted"),
    )
    action = target(key)
    return pill.stylize(Style.from_meta({"hint": action})) if action else pill


def target(key: Key) -> str:
    """The action a click on the hint runs; empty when a click could not know what is meant."""
    if key.action == "scale":
        return ""
    if key.action in ("quit", "command_palette"):
        return f"app.{key.action}"
    return f"screen.{key.action}" if "(" in key.action else f"screen.{key.action}()"
