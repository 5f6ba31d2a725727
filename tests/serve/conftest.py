"""A server for all tests that leave it as it is, and servers of a test's own."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("textual_serve", reason="textual-serve is not installed")
from aiohttp import ClientSession, CookieJar

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tui"))

from serving import Served, Visitor


@pytest.fixture
def visit() -> Callable[[Served], Any]:
    @asynccontextmanager
    async def visiting(served: Served) -> AsyncIterator[Visitor]:
        async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as session:
            visitor = Visitor(served, session)
            await visitor.enter()
            yield visitor

    return visiting


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server with the starter model for every test that leaves it as it is."""
    server = Served(tmp_path_factory.mktemp("served") / "home", "--model", "starter")
    yield server
    server.stop()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    """A server of the test's own."""
    started: list[Served] = []

    def start(*args: str) -> Served:
        started.append(Served(tmp_path / f"home{len(started)}", *args))
        return started[-1]

    yield start
    for server in started:
        server.stop()
