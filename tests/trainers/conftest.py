from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

import trainer_world as tw


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)  # the order of a sum is part of "bit for bit"


@pytest.fixture(scope="session")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny model that speaks in words."""
    folder = tmp_path_factory.mktemp("speaker") / "model"
    folder.mkdir()
    tw.make_speaker(folder)
    return folder


@pytest.fixture(scope="session")
def judged_world(speaker: Path, tmp_path_factory: pytest.TempPathFactory) -> tw.World:
    """A world whose preference model and halves are trained. Copied by `world` for each test."""
    world = tw.make_world(speaker, tmp_path_factory.mktemp("judged"))
    ran = world.train(tw.pm(), "pm")
    assert ran.result is not None
    assert ran.result.preference is not None
    world.stages = {"pm": ran.result.preference}
    return world


@pytest.fixture
def world(judged_world: tw.World, tmp_path: Path) -> tw.World:
    """The trained world with a folder of this test's own; the model and the PM are read only."""
    w = judged_world
    return tw.World(
        w.model, w.comparisons, w.heldout, w.prompts, w.heldout_prompts, tmp_path, dict(w.stages)
    )


@pytest.fixture
def make_world(speaker: Path, tmp_path: Path) -> Callable[..., tw.World]:
    """`make_world(dtype="bf16", quantization="int8")`: a world of another precision."""

    def make(**loading: str) -> tw.World:
        return tw.make_world(speaker, tmp_path / "made", pairs=16, **loading)

    return make
