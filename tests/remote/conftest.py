"""A real server process on a loopback port, one for all tests of the file."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hhchat.openai_wire import Server
from hhchat.remote import RemoteEngine
from hhchat.types import Draw, Message, Sampling


@dataclass
class Running:
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def asked(self) -> list[dict[str, Any]]:
        """Every request so far, the oldest first."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/asked") as answer:
            return list(json.load(answer))


def started(*models: str) -> Iterator[Running]:
    script = Path(__file__).with_name("server.py")
    with subprocess.Popen([sys.executable, script, *models], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield Running(int(process.stdout.readline()))
        finally:
            process.kill()


@pytest.fixture(scope="session")
def server() -> Iterator[Running]:
    yield from started()


@pytest.fixture(scope="session")
def crowded() -> Iterator[Running]:
    """A server with two models."""
    yield from started("llama", "evil\x1b[2J", "two\nlines", "qwen")


@pytest.fixture
def engine(server: Running) -> Callable[..., RemoteEngine]:
    def make(model: str = "normal", path: str = "/v1", **options: Any) -> RemoteEngine:
        options.setdefault("timeout", 5.0)
        where = Server("http", "127.0.0.1", server.port, path, **options)
        return RemoteEngine(where, model, retry=0.01)

    return make


@pytest.fixture
def draw() -> Callable[..., Draw]:
    def make(seed: int = 1, text: str = "Hi", snapshot: str = "current", **sampling: Any) -> Draw:
        return Draw((Message("user", text),), seed, Sampling(**sampling), snapshot)

    return make
