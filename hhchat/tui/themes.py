"""Two calm themes of our own; Textual's can be chosen from the palette."""

from __future__ import annotations

from textual.theme import Theme

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
