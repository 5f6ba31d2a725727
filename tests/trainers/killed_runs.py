"""Trains a stage once undisturbed and once killed again and again; run as a program of its own.

Usage: killed_runs.py SPEAKER PM FOLDER STAGE KILLS. This process only imports and forks: each
attempt is a child that trains, and SIGKILL meets it wherever it is. FOLDER/whole and FOLDER/killed
then hold each run's out folder and metrics.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

import trainer_world as tw

from hhchat.model import lanes


def train(speaker: Path, judge: Path, folder: Path, stage: str) -> None:
    """One attempt: goes on from what is sealed, appends what it says to metrics.jsonl."""
    threads = int(os.environ["OMP_NUM_THREADS"])
    torch.set_num_threads(threads)
    if threads > 1:
        lanes.WORTH = 0
    world = tw.World(
        tw.load(speaker),
        [],
        [],
        tw.prompts(40),
        tw.prompts(16, 1500),
        folder,
        {"pm": judge},
    )
    if stage == "pm":
        world.comparisons = tw.comparisons(world.model, 40)
        world.heldout = tw.comparisons(world.model, 16, start=1000)
    trainer = (
        tw.pm(epochs=4, patience=1, learning_rate=1e-2, halves=True, anchors=16)
        if stage == "pm"
        else tw.ppo(updates=8, target_kl=0.5, smoothing=0.5)
    )
    with (folder / "metrics.jsonl").open("a") as out:

        def log(metric) -> None:
            out.write(json.dumps([metric.stage, metric.step, metric.name, metric.value]) + "\n")
            out.flush()

        trainer.train(world.context("stage", log=log).context)


def attempt(arguments: tuple, patience: float | None) -> bool:
    """A child that trains; killed after `patience` seconds. True when it finished by itself."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train(*arguments)
            code = 0
        finally:
            os._exit(code)
    end = time.monotonic() + (patience if patience is not None else 600)
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if os.waitstatus_to_exitcode(status) != 0:
                sys.exit("an attempt failed")
            return True
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def main() -> None:
    speaker, judge, folder = map(Path, sys.argv[1:4])
    stage, kills = sys.argv[4], int(sys.argv[5])
    for name in ("whole", "killed"):
        (folder / name).mkdir(parents=True)
    began = time.monotonic()
    attempt((speaker, judge, folder / "whole", stage), None)
    took = time.monotonic() - began
    draw = random.Random(kills)
    killed = 0
    while killed < kills:
        if attempt((speaker, judge, folder / "killed", stage), draw.uniform(0.05, 0.4) * took):
            break
        killed += 1
    attempt((speaker, judge, folder / "killed", stage), None)
    print(json.dumps({"killed": killed, "took": took}))


if __name__ == "__main__":
    main()
