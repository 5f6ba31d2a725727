from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from hhchat.store import Store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("HHCHAT_HOME", str(tmp_path / "home"))
    with Store() as opened:
        yield opened
