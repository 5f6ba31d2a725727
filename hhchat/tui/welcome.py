"""What an empty conversation shows: what this is, and what the bundled model is not."""

from __future__ import annotations

from textual.content import Content
from textual.widgets import Static

HOW = (
    "[bold]Say something.[/] You get two replies; pick the better one with one key, and the "
    "conversation goes on from it. Your picks are stored on this machine, and "
    "[bold]hhchat train[/] teaches the assistant from them."
)
STARTER = (
    "[bold]You are talking to the bundled starter: a toy.[/] It is small enough to train here in "
    "minutes, so that you can see the whole loop work. It knows little and is often wrong. "
    "Try: [italic]hello[/] · [italic]what is 7 plus 5?[/] · [italic]how do I make tea?[/]\n\n"
    "For an assistant worth teaching, bring a real model:\n\n"
    "    [bold $accent]hhchat chat --model PATH_OR_HUB_ID[/]"
)


class Welcome(Static):
    def __init__(self, starter: bool) -> None:
        text = f"{HOW}\n\n{STARTER}" if starter else HOW
        super().__init__(Content.from_markup(text), id="welcome")
