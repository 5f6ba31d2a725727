"""The real app in a test terminal, on a real store and a scripted engine."""

from __future__ import annotations

import asyncio
import random
import sqlite3
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot
from textual.widgets import Input, TextArea

sys.path.insert(0, str(Path(__file__).parent))

from fake_engine import FakeEngine

from hhchat.config import Config
from hhchat.store import Store
from hhchat.tui.app import ChatApp
from hhchat.tui.chat import ChatScreen
from hhchat.tui.keys import Stage
from hhchat.tui.setup import Setup


async def wait_until(
    pilot: Pilot[Any], predicate: Callable[[], bool], patience: float = 20
) -> None:
    """Let the app run until `predicate` holds; patience is for a busy machine, not a timing."""
    deadline = asyncio.get_running_loop().time() + patience
    while not predicate():
        assert asyncio.get_running_loop().time() < deadline, "the app never got there"
        await pilot.pause(0.01)
    await pilot.pause()


@dataclass
class Desk:
    """The app under test and what a test does with it."""

    app: ChatApp
    pilot: Pilot[None]
    store: Store

    @property
    def chat(self) -> ChatScreen:
        assert self.app.chat is not None
        return self.app.chat

    async def until(self, predicate: Callable[[], bool]) -> None:
        await wait_until(self.pilot, predicate)

    async def stage(self, stage: Stage) -> None:
        await self.until(lambda: self.chat.stage is stage)

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()

    async def type(self, text: str) -> None:
        """Into the box that has the focus, at once."""
        await self.until(lambda: isinstance(self.app.focused, (Input, TextArea)))
        box = self.app.focused
        if isinstance(box, Input):
            box.insert_text_at_cursor(text)
        else:
            assert isinstance(box, TextArea)
            box.insert(text)
        await self.pilot.pause()

    async def send(self, text: str, stage: Stage = Stage.CHOOSING) -> None:
        await self.type(text)
        await self.press("enter")
        await self.stage(stage)

    def notice(self) -> str:
        return str(self.chat.notice.render())

    def screen_text(self) -> str:
        """What can be read on the screen, line by line."""
        strips = self.app.screen._compositor.render_strips()
        return "\n".join(strip.text for strip in strips)

    def rows(self, sql: str) -> list[dict[str, Any]]:
        with closing(sqlite3.connect(self.store.path)) as conn:
            conn.row_factory = sqlite3.Row
            return [dict(row) for row in conn.execute(sql)]

    def outcomes(self) -> list[str]:
        return [row["outcome"] for row in self.rows("SELECT outcome FROM comparison ORDER BY id")]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The database, in a data folder of its own: runs and snapshots of the machine stay away."""
    monkeypatch.setenv("HHCHAT_HOME", str(tmp_path))
    return tmp_path / "hhchat.db"


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Closed: an engine with this gate waits before each step. Opened at the end of the test."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def desk(home: Path) -> Callable[..., Any]:
    @asynccontextmanager
    async def open_desk(
        engine: Any = None,
        *,
        size: tuple[int, int] = (100, 30),
        factory: Callable[[], Any] | None = None,
        opens: type[Any] | None = None,
        **options: Any,
    ) -> AsyncIterator[Desk]:
        engine = engine or FakeEngine()
        options.setdefault("config", Config())
        setup = Setup(home, factory or (lambda: engine), rng=random.Random(1), **options)
        with Store(home) as store:
            app = ChatApp(setup, store)
            async with app.run_test(size=size) as pilot:
                desk = Desk(app, pilot, store)
                if opens is not None:  # on a screen before the chat
                    await desk.until(lambda: isinstance(app.screen, opens))
                    yield desk
                    return
                await desk.until(lambda: app.chat is not None and app.screen is app.chat)
                if factory is None:
                    await desk.until(lambda: desk.chat.engine_state == "ready")
                    await desk.until(lambda: desk.chat.progress.known)
                yield desk

    return open_desk
