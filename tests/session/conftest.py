"""A session on a real store in a temporary folder, and a scripted engine."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "tui"))

from fake_engine import FakeEngine

from hhchat.session import Session
from hhchat.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "hhchat.db") as store:
        yield store


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def make(store: Store, engine: FakeEngine) -> Callable[..., Session]:
    def make(**options: Any) -> Session:
        options.setdefault("rng", random.Random(0))
        return Session(options.pop("store", store), options.pop("engine", engine), **options)

    return make
