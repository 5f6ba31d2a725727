"""The benchmark of large models runs in small on a CPU; TRL's part needs TRL, and is not here."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import arena, gpu, large, speed
from benchmarks.common import Report

OURS = ("hhchat-int8", "hhchat-int8-limited", "hhchat-bf16", "generate-int8")


class Here(arena.Contestant):
    """A contestant in this process: a process of its own takes seconds to import torch."""

    def __init__(self, name: str, kind: str, settings: Mapping[str, Any], **_: Any) -> None:
        self.name, self.turns, self.memory = name, [], {}
        if settings.get("memory") is not None and name != "hhchat-int8-limited":
            raise AssertionError(f"{name} was to have no limit")
        self.made = large.KINDS[kind](settings)

    def step(self) -> dict[str, float]:
        read: dict[str, float] = self.made.step()
        return read

    def close(self) -> None:
        del self.made


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    from hhchat.model import base

    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(speed, "Contestant", Here)
    monkeypatch.setattr(base, "free_memory", base.free_memory)  # which the limit replaces
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("alone", ["smoke", ""])
def test_smoke_runs_every_contestant_but_trl(
    here: None, alone: str, capsys: pytest.CaptureFixture
) -> None:
    wanted = ",".join(("hhchat-int8", "trl-int8") if alone else (*OURS, "trl-int8"))
    assert gpu.main(["--smoke", "--no-peers", "--contestants", wanted, "--alone", alone]) == 0
    text = capsys.readouterr().out
    assert "unverified on a GPU" in text
    assert "smoke: trl-int8 is left out: --no-peers" in text
    assert "is not" not in text  # replies ran to the limit
    lines = [line.split("|") for line in text.splitlines() if line.startswith("|")]
    rows = {cells[1].strip(): [c.strip() for c in cells[2:-1]] for cells in lines}
    for name in wanted.split(","):
        assert (rows[name][-1] == "left out") == (name == "trl-int8")
    assert "-" not in rows["hhchat-int8"]
    assert rows["smoke step over TRL on int8"][-1] == "not measured"


def test_memory_that_runs_out_is_told_of_the_contestant_whose_it_was() -> None:
    report = Report("gpu", {}, None)
    report.note("7b: failed: trl-int8-autocast: torch.OutOfMemoryError: CUDA out of memory.")
    report.note("7b: trl-int8 is left out: RuntimeError: no kernel")
    report.note("7b: failed: trl-bf16: ended with -9")
    assert gpu.why(report, "7b", "trl-int8-autocast") == "out of memory"
    assert gpu.why(report, "7b", "trl-int8") == "left out"
    assert gpu.why(report, "7b", "trl-bf16") == "failed"
