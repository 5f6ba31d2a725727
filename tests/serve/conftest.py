"""A server for all tests that leave it as it is, and servers of a test's own."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("textual_serve", reason="textual-serve is not installed")
from aiohttp import ClientSession, CookieJar

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent / "tui"))

from hostile import HOSTILE
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
        started.append(Served(tmp_path / f"home{len(started) + 1}", *args))
        return started[-1]

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def hostile() -> Iterator[int]:
    """The port of a model server whose replies try to do something to the terminal."""
    texts = iter([f"{text} {i}" for i, text in enumerate(HOSTILE[:6])])

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            text = next(texts, "done").encode("utf-8", "replace").decode()
            answer = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}
            raw = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()
