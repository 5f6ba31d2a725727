"""Two calm themes of our own; Textual's can be chosen from the palette."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, cast

from textual.theme import BUILTIN_THEMES, Theme, ThemeProvider

from hhchat.types import BadInput, nearest

if TYPE_CHECKING:
    from hhchat.tui.app import ChatApp

DARK = Theme(
    name="hhchat-dark",
    primary="#7aa2d8",
    secondary="#8fb3a5",
    accent="#e0b070",
    warning="#e0b070",
    error="#d8706c",
    success="#86b876",
    foreground="#d6d9de",
    background="#15181d",
    surface="#1b1f25",
    panel="#242a32",
    dark=True,
    variables={"frame": "#4a525e"},
)
LIGHT = Theme(
    name="hhchat-light",
    primary="#2f5f9e",
    secondary="#3c7463",
    accent="#96600f",
    warning="#96600f",
    error="#b03a36",
    success="#3f7a2e",
    foreground="#24292f",
    background="#faf9f6",
    surface="#f2f0eb",
    panel="#e6e3dc",
    dark=False,
    variables={"frame": "#b9b4a8"},
)
THEMES = (DARK, LIGHT)


def check_theme(name: str) -> None:
    """BadInput with the nearest name when there is no such theme."""
    names = [*(theme.name for theme in THEMES), *BUILTIN_THEMES]
    if name not in names:
        raise BadInput(f"[chat] theme cannot be {name!r}: {nearest(name, names)}")


class Themes(ThemeProvider):
    """The palette's list of themes; the one that is chosen is there at the next start too."""

    @property
    def commands(self) -> list[tuple[str, Callable[[], None]]]:
        app = cast("ChatApp", self.app)
        return [(name, partial(app.choose_theme, name)) for name in sorted(app.available_themes)]
