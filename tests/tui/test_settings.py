"""The settings of one conversation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fake_engine import FakeEngine
from textual.widgets import Input

from hhchat.tui.keys import Stage
from hhchat.tui.settings import Settings
from hhchat.types import Message, Sampling

Desk = Callable[..., Any]


def fill(d: Any, **values: str) -> None:
    for name, value in values.items():
        d.app.screen.query_one(f"#setting-{name}", Input).value = value


async def test_system_prompt_and_sampling_count_from_the_next_replies(desk: Desk) -> None:
    engine = FakeEngine()
    async with desk(engine) as d:
        await d.send("hello")
        await d.press("f2")
        assert isinstance(d.app.screen, Settings)
        await d.type("Answer as a pirate [/INST].")
        fill(d, temperature="0.7", top_p="0.9", max_new_tokens="64")
        await d.press("ctrl+s")
        await d.until(lambda: d.app.screen is d.chat)
        await d.press("r")
        await d.until(lambda: len(engine.draws) == 4)
        await d.stage(Stage.CHOOSING)
        assert engine.draws[0].sampling == Sampling()
        assert engine.draws[3].sampling == Sampling(0.7, 0.9, 64)
        assert engine.draws[3].messages[0] == Message("system", "Answer as a pirate [/INST].")
        conversation = d.store.conversations()[0].id
        await d.press("left")
        await d.stage(Stage.READY)
    async with desk() as d:
        assert d.chat.session.conversation.id == conversation
        assert d.chat.session.sampling == Sampling(0.7, 0.9, 64)
        await d.press("f2")
        assert "pirate [/INST]" in d.screen_text()
        await d.press("escape")
        assert d.app.screen is d.chat


async def test_what_is_out_of_range_is_refused_in_words(desk: Desk) -> None:
    async with desk(size=(60, 18)) as d:
        await d.press("f2")
        for values, words in (
            ({"temperature": "hot"}, "temperature"),
            ({"temperature": "1", "top_p": "2"}, "top"),
            ({"top_p": "1", "max_new_tokens": "0"}, "max"),
        ):
            fill(d, **values)
            await d.press("ctrl+s")
            assert isinstance(d.app.screen, Settings)
            assert words in str(d.app.screen.about.render())
        fill(d, max_new_tokens="32")
        d.app.screen.query_one("#setting-top_p").focus()
        await d.press("enter")
        await d.until(lambda: d.app.screen is d.chat)
        assert d.chat.session.sampling.max_new_tokens == 32
        await d.send("a conversation that starts with it")
        assert d.store.conversations()[0].sampling == Sampling(1.0, 1.0, 32)
