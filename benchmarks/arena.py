"""Contestants in processes of their own, given their turns one after the other.

A process each makes the peak memory each one's own, and keeps what one library sets for a whole
process (accelerate's precision, thread pools) away from the others. While one works the others
wait on a pipe, which costs nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, cache, median

AS_STARTED = dict(os.environ)  # before hhchat sets what is for itself: peers run as they run


class Failed(Exception):
    """A contestant could not be set up or died; the message is for the report."""


class Contestant:
    """One process that answers "step" with its readings.

    `kind` names the class in `benchmarks.ours`, `peers` or `large`; `settings` are its own.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        settings: Mapping[str, Any],
        *,
        threads: int = 1,
        path: Sequence[Path] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.turns: list[list[dict[str, float]]] = []  # the kept turns, a few steps each
        self.memory: dict[str, float] = {}
        paths = [*map(str, path), str(ROOT), AS_STARTED.get("PYTHONPATH", "")]
        environment = {
            **AS_STARTED,
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "TRANSFORMERS_VERBOSITY": "error",
            "TRL_EXPERIMENTAL_SILENCE": "1",
            "WANDB_DISABLED": "true",
            "BENCH_CACHE": str(cache()),
            **(env or {}),
            "PYTHONPATH": os.pathsep.join(p for p in paths if p),
        }
        # What the libraries print goes to a log, not to the pipe that carries the answers.
        logs = cache() / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        self.log = logs / f"{name}.log"
        with self.log.open("w") as errors:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.arena", kind, json.dumps(dict(settings))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )
        try:
            self.memory = self._answer()
        except Failed:
            self.close()
            raise

    def _answer(self) -> dict[str, float]:
        assert self.child.stdout is not None
        line = self.child.stdout.readline()
        if not line:
            lines = self.log.read_text(errors="replace").strip().splitlines()
            raise Failed(lines[-1] if lines else f"ended with {self.child.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Failed(str(answer["error"]))
        return answer

    def step(self) -> dict[str, float]:
        assert self.child.stdin is not None
        self.child.stdin.write("step\n")
        self.child.stdin.flush()
        read = self._answer()
        self.memory["peak"] = max(self.memory.get("peak", 0.0), read.pop("peak"))
        return read

    def turn(self, steps: int, keep: bool = True) -> float:
        """So many steps one after the other; wall seconds of one."""
        made = [self.step() for _ in range(steps)]
        if keep:
            self.turns.append(made)
        return sum(s["wall"] for s in made) / steps

    @property
    def steps(self) -> list[dict[str, float]]:
        """Of all kept turns."""
        return [step for turn in self.turns for step in turn]

    def median(self, reading: str) -> float:
        """Of the turns' means; of a rate, what the turn's CPU time gave."""
        return median([_mean(t, reading) for t in self.turns if reading in t[0]])

    @property
    def least(self) -> float:
        """CPU seconds of a step in the quietest turn."""
        return min((_mean(t, "cpu") for t in self.turns), default=float("nan"))

    @property
    def peak(self) -> float:
        """MiB at the peak over what was resident after the imports."""
        return self.memory.get("peak", 0.0) - self.memory.get("imports", 0.0)

    def record(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "turns": [len(t) for t in self.turns],
            "memory": self.memory,
            "peak_over_imports": self.peak,
        }

    def close(self) -> None:
        for pipe in (self.child.stdin, self.child.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self.child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


def take_turns(
    contestants: Sequence[Contestant], rounds: int, *, even: bool, warm: int = 1
) -> list[str]:
    """Give each its turns, forwards then backwards; names and reasons of those that failed.

    A turn is one step or, where they are `even`, as many as take about as long as one of the
    slowest contestant: where a machine's speed changes from one moment to the next, three seconds
    now and then tell less than ten do.
    """
    failed: dict[str, str] = {}
    seconds: dict[str, float] = {}  # of a step, as the last turn had it
    for turn in range(-warm, rounds):
        longest = max(seconds.values(), default=0.0)
        for c in contestants if turn % 2 == 0 else contestants[::-1]:
            if c.name in failed:
                continue
            quick = even and c.name in seconds
            steps = max(1, round(longest / seconds[c.name])) if quick else 1
            try:
                seconds[c.name] = c.turn(steps, keep=turn >= 0)
            except Failed as error:
                failed[c.name] = f"{c.name}: {error}"
                seconds.pop(c.name, None)
    return list(failed.values())


def _mean(turn: Sequence[Mapping[str, float]], reading: str) -> float:
    if not reading.endswith("_per_s"):
        return sum(s[reading] for s in turn) / len(turn)
    return sum(s[reading] * s["cpu"] for s in turn) / sum(s["cpu"] for s in turn)


def serve(kind: str, settings: Mapping[str, Any]) -> None:
    """The child's side: build the contestant, then a step for each line that comes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.stdout = sys.stderr

    def tell(what: Mapping[str, Any]) -> None:
        answers.write(json.dumps(dict(what)) + "\n")
        answers.flush()

    from benchmarks import large, ours, peers
    from benchmarks.common import resident

    try:
        kinds = {**ours.KINDS, **peers.KINDS, **large.KINDS}
        kinds[kind].imports()
        warm_libraries()
        after_imports = resident("VmRSS")
        made = kinds[kind](settings)
    except Exception as error:
        tell({"error": f"{type(error).__name__}: {error}"})
        raise
    tell({"imports": after_imports, "loaded": resident("VmRSS"), "peak": resident()})
    for line in sys.stdin:
        if line.strip() == "step":
            tell({**made.step(), "peak": resident()})


def warm_libraries() -> None:
    """Load what every contestant loads sooner or later, so that it counts as imports for all.

    torch fetches megabytes of its own code at the first optimiser step and the first bf16
    product; without this, whoever imports less beforehand would look larger.
    """
    import bitsandbytes  # noqa: F401
    import peft  # noqa: F401
    import torch
    import transformers  # noqa: F401

    for dtype in (torch.float32, torch.bfloat16):
        weight = torch.nn.Parameter(torch.ones(64, 64, dtype=dtype))
        optimiser = torch.optim.AdamW([weight], lr=0.0)
        (torch.ones(8, 64, dtype=dtype) @ weight).sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(sys.argv[2]))
