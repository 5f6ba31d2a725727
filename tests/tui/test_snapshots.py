"""How it looks, at three sizes. After a wanted change: pytest tests/tui --snapshot-update."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_until
from fake_app import REPLIES
from fake_engine import FakeEngine
from textual.pilot import Pilot

from hhchat.store import Store
from hhchat.tui.app import ChatApp
from hhchat.tui.keys import Stage
from hhchat.tui.setup import Setup


@pytest.fixture
def app(home: Path) -> Iterator[ChatApp]:
    engine = FakeEngine(lambda draw, call: REPLIES[call % len(REPLIES)])
    with Store(home) as store:
        app = ChatApp(Setup(home, lambda: engine, rng=random.Random(1)), store)
        yield app


async def calm(pilot: Pilot[Any]) -> None:
    app = pilot.app
    await wait_until(pilot, lambda: app.chat is not None and app.screen is app.chat)
    await wait_until(pilot, lambda: app.chat.engine_state == "ready" and app.chat.progress.known)
    app.chat.composer.cursor_blink = False


async def say(pilot: Pilot[Any], text: str) -> None:
    pilot.app.chat.composer.insert(text)
    await pilot.press("enter")
    await wait_until(pilot, lambda: pilot.app.chat.stage is Stage.CHOOSING)


async def pick(pilot: Pilot[Any], key: str) -> None:
    await pilot.press(key)
    await wait_until(pilot, lambda: pilot.app.chat.stage is Stage.READY)


SIZES = pytest.mark.parametrize(
    "size", [(60, 18), (80, 24), (120, 40)], ids=lambda s: f"{s[0]}x{s[1]}"
)


@SIZES
def test_first_screen(snap_compare: Any, app: ChatApp, size: tuple[int, int]) -> None:
    assert snap_compare(app, terminal_size=size, run_before=calm)


@SIZES
def test_choosing(snap_compare: Any, app: ChatApp, size: tuple[int, int]) -> None:
    async def before(pilot: Pilot[Any]) -> None:
        await calm(pilot)
        await say(pilot, "how do I make tea?")
        await pick(pilot, "2")
        await say(pilot, "and how do I add numbers?")

    assert snap_compare(app, terminal_size=size, run_before=before)


def test_after_a_pick_in_light_colours(snap_compare: Any, app: ChatApp) -> None:
    async def before(pilot: Pilot[Any]) -> None:
        await calm(pilot)
        pilot.app.theme = "hhchat-light"
        await say(pilot, "how do I make tea?")
        await pick(pilot, "right")

    assert snap_compare(app, terminal_size=(100, 30), run_before=before)


def test_progress_before_anything_was_learned(snap_compare: Any, app: ChatApp) -> None:
    async def before(pilot: Pilot[Any]) -> None:
        await calm(pilot)
        await pilot.press("ctrl+g")
        await wait_until(pilot, lambda: getattr(app.screen, "standing", None) is not None)

    assert snap_compare(app, terminal_size=(80, 24), run_before=before)
