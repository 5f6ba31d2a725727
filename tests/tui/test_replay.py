"""A second look at an old pair, between a message and its replies."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from hhchat import replay
from hhchat.config import ChatConfig, Config
from hhchat.tui.keys import Stage

Desk = Callable[..., Any]
ALWAYS = Config(chat=ChatConfig(replay=1.0))


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "AGE", timedelta(seconds=-5))


async def test_an_old_pair_is_judged_first_and_the_conversation_goes_on(desk: Desk) -> None:
    async with desk(config=ALWAYS) as d:
        await d.send("first question")
        await d.press("left")
        await d.stage(Stage.READY)
        await d.press("ctrl+n")
        await d.send("second question", Stage.AGAIN)
        text = d.screen_text()
        assert "first question" in text
        assert "second question" not in d.chat.log_view.children[0].render().plain
        assert "An old pair again" in text
        assert "how much" in text
        await d.press("right")
        await d.stage(Stage.CHOOSING)
        assert "second question" in d.screen_text()
        rows = d.rows("SELECT purpose, outcome, turn FROM comparison ORDER BY id")
        assert [(r["purpose"], r["outcome"]) for r in rows] == [
            ("chat", "left"),
            ("replay", "right"),
        ]
        assert rows[1]["turn"] is None
        await d.press("left")
        await d.stage(Stage.READY)
        assert [t.user for t in d.chat.session.history()] == ["second question"]


@pytest.mark.parametrize("key", ["s", "t", "7"])
async def test_it_can_be_skipped_tied_and_scaled(desk: Desk, key: str) -> None:
    async with desk(config=ALWAYS) as d:
        await d.send("first question")
        await d.press("left")
        await d.stage(Stage.READY)
        await d.send("second question", Stage.AGAIN)
        await d.press("b", "e", "u", "escape")  # of another stage
        assert d.chat.stage is Stage.AGAIN
        await d.press(key)
        await d.stage(Stage.CHOOSING)
        rows = d.rows("SELECT outcome, position FROM comparison WHERE purpose = 'replay'")
        expected = {"s": [], "t": [("tie", None)], "7": [("right", 7)]}[key]
        assert [(r["outcome"], r["position"]) for r in rows] == expected
