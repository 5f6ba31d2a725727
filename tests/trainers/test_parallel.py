"""Several processes train as one would, agree to the last bit, and end together."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import parallel_runs
import pytest
import torch
import trainer_world as tw
from safetensors.torch import load_file

SCRIPT = Path(parallel_runs.__file__)
# of the largest move of a weight: sums are rounded in another order, and then go through Adam
TOLERANCE = 1e-3


def start(what: str, size: int, *arguments: Path) -> list[subprocess.Popen[str]]:
    """`size` processes that meet, as `accelerate launch` starts them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    meet = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(size)}
    return [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), what, *map(str, arguments)],
            env={
                **os.environ,
                **meet,
                "RANK": str(i),
                "LOCAL_RANK": str(i),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i in range(size)
    ]


@pytest.fixture(scope="module")
def two(speaker, judged_world, tmp_path_factory) -> Path:
    """The folder of what two processes trained."""
    folder = tmp_path_factory.mktemp("two")
    for process in start("train", 2, speaker, judged_world.stages["pm"], folder):
        said = process.communicate(timeout=120)[0]
        assert process.returncode == 0, said
    return folder


@pytest.fixture(scope="module")
def one(speaker, judged_world, tmp_path_factory) -> tw.World:
    folder = tmp_path_factory.mktemp("one")
    return parallel_runs.world_of(speaker, judged_world.stages["pm"], folder)


def sealed(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of the last update, which need not be the ones that are kept."""
    files = sorted((folder / "state").rglob("*.safetensors"))
    return {
        f"{f.parent.name}/{k}": t
        for f in files
        for k, t in load_file(str(f)).items()
        if k.split("/")[0] in ("role", "policy", "value", "head")
        # the bias of a PM has no gradient but rounding, which Adam blows up; no gap depends on it
        and k != "role/head.bias"
    }


def assert_ends_alike(one: Path, two: Path, still: Path) -> None:
    """Runs one and two end on the same weights but for rounding; still is one that never moved."""
    mine, theirs, began = map(sealed, (one, two, still))
    assert mine.keys() == theirs.keys() == began.keys() != set()
    moved = max(float((mine[k] - began[k]).abs().max()) for k in mine)
    apart = max(float((mine[k] - theirs[k]).abs().max()) for k in mine)
    assert moved > 1e-3
    assert apart <= TOLERANCE * moved


@pytest.mark.parametrize("name", sorted(parallel_runs.METHODS))
def test_two_processes_end_where_one_process_ends(name, one, two):
    method, terms = parallel_runs.METHODS[name], [(parallel_runs.Brief(0), 0.1)]
    alone = one.train(method, name, terms=terms)
    one.train(type(method)(**{**vars(method), "learning_rate": 0.0}), f"{name}-still")
    assert_ends_alike(one.folder / name, two / name, one.folder / f"{name}-still")
    told = json.loads((two / "numbers.json").read_text())[name]
    assert [n[:3] for n in told] == [list(n[:3]) for n in alone.numbers]
    for (_, step, what, value), (*_, want) in zip(told, alone.numbers, strict=True):
        if (name, step, what) != ("dpo", 0, "accuracy"):  # of gaps that are all 0 but for rounding
            assert value == pytest.approx(want, rel=1e-4, abs=1e-4), (step, what)


@pytest.mark.parametrize("name", ["pm", "ppo"])
def test_two_processes_that_are_stopped_at_each_update_end_as_if_left_alone(name, two):
    """One of them alone was asked to stop: both do, and both go on from the same state."""
    assert tw.same_files(two / name / "out", two / f"halted-{name}" / "out")


def test_a_process_that_dies_ends_the_others_with_one_line_and_no_wait(
    speaker, judged_world, tmp_path
):
    main, last = start("die", 2, speaker, judged_world.stages["pm"], tmp_path)
    said = main.communicate(timeout=60)[0]
    last.communicate(timeout=60)
    assert last.returncode == 9
    assert main.returncode == 1
    assert "another process of this run is gone" in said
