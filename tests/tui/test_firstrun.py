"""A newcomer's first screens, and who never sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from textual.widgets import Input

from hhchat.config import Config, ModelConfig
from hhchat.tui.firstrun import What, Which
from hhchat.tui.keys import Stage
from hhchat.tui.setup import FirstRun
from hhchat.types import BadInput

Desk = Callable[..., Any]


class Choices:
    """What the command line would do, written down."""

    def __init__(self) -> None:
        self.chosen: list[str] = []
        self.first_run = FirstRun(self.fits, self.choose)

    def fits(self, name: str) -> str:
        if not name:
            return "What fits within 8.0 GiB: chat up to 3B (int8)"
        if name == "nowhere":
            raise BadInput("no model at nowhere [/INST]")
        return "It fits: 1.0 GiB needed to train it, 8.0 free"

    def choose(self, name: str) -> Config:
        self.chosen.append(name)
        return Config(model=ModelConfig(path=name))


async def test_three_screens_to_the_first_question(desk: Desk) -> None:
    choices = Choices()
    async with desk(first_run=choices.first_run, opens=What) as d:
        assert "two replies" in " ".join(d.screen_text().split())
        await d.press("enter")
        assert isinstance(d.app.screen, Which)
        await d.press("down", "enter")
        await d.until(lambda: "What fits within 8.0 GiB" in d.screen_text())
        await d.type("nowhere")
        await d.press("enter")
        await d.until(lambda: "no model at nowhere [/INST]" in d.screen_text())
        await d.press("enter")
        assert isinstance(d.app.screen, Which)
        d.app.screen.query_one(Input).value = ""
        await d.type("org/model")
        await d.press("enter")
        await d.until(lambda: "It fits" in d.screen_text())
        await d.press("enter")
        await d.until(lambda: d.app.screen is d.chat)
        assert choices.chosen == ["org/model"]
        assert d.app.setup.config.model.path == "org/model"
        await d.until(lambda: "a toy" not in d.screen_text())
        await d.until(lambda: d.chat.engine_state == "ready")
        await d.send("hello")


async def test_one_key_skips_it(desk: Desk) -> None:
    choices = Choices()
    async with desk(first_run=choices.first_run, opens=What) as d:
        await d.press("escape")
        await d.until(lambda: d.chat.engine_state == "ready")
        await d.send("hello")
        assert choices.chosen == []


async def test_the_starter_is_a_key_away(desk: Desk) -> None:
    for keys in (("enter", "enter"), ("enter", "escape")):
        choices = Choices()
        async with desk(first_run=choices.first_run, opens=What) as d:
            await d.press(*keys)
            await d.until(lambda: d.app.screen is d.chat)
            await d.until(lambda: d.chat.engine_state == "ready")
            assert choices.chosen == []
            assert "a toy" in d.screen_text()


async def test_who_has_chatted_or_asks_for_something_is_asked_nothing(desk: Desk) -> None:
    choices = Choices()
    async with desk(first_run=choices.first_run, resume="new"):
        pass
    async with desk() as d:
        await d.send("hello")
        await d.press("left")
        await d.stage(Stage.READY)
    async with desk(first_run=choices.first_run) as d:
        assert d.app.screen is d.chat


async def test_it_fits_small_terminals(desk: Desk) -> None:
    async with desk(first_run=Choices().first_run, opens=What, size=(60, 18)) as d:
        text = d.screen_text()
        assert "Welcome to hhchat" in text
        assert "straight to the chat" in text
        await d.press("enter")
        assert "bundled starter" in d.screen_text()
