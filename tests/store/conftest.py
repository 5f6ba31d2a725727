from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hhchat.store import Store
from hhchat.types import Comparison, Generation, Turn


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "hhchat.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store(path) as store:
        yield store


@pytest.fixture
def pick(store: Store) -> Callable[..., Comparison]:
    """Answer a turn with two replies and pick the first, which is on the left."""

    def pick(turn: Turn, first: str = "good", second: str = "bad", **fields: object) -> Comparison:
        replies = (Generation(first), Generation(second))
        asked: dict = {"picked": 0, **fields}
        return store.record(Comparison((), replies, **asked), turn.id)

    return pick
