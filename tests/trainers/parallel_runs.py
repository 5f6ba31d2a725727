"""One of the processes of a run; a launcher sets RANK and WORLD_SIZE and starts several.

Usage: parallel_runs.py WHAT SPEAKER PM FOLDER. WHAT is `train` (each method, then PM and PPO
again, the last process asking to stop before every update) or `die` (the last one just ends).
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

import trainer_world as tw
from hhchat_trainers.best_of_k import BestOfK
from hhchat_trainers.dpo import DPO
from hhchat_trainers.rloo import RLOO

from hhchat import parallel
from hhchat.types import Cancelled

CALM = {"rank": 4, "learning_rate": 3e-3, "warmup": 0.0, "max_kl": 1e9, "max_new_tokens": 12,
        "max_length_ratio": 1e9, "min_length_ratio": 0.0, "max_unfinished": 2.0,
        "min_distinct": 0.0, "evaluate": 9, "updates": 2}  # fmt: skip
METHODS = {
    # 17 pairs in batches of 5: shares of unlike sizes, and a last batch smaller than the others
    "pm": tw.pm(halves=True, anchors=9, batch_pairs=5, patience=0),
    "ppo": tw.ppo(updates=3, batch=9, minibatches=2, epochs=2, target_kl=0.01, evaluate=9),
    "rloo": RLOO(**CALM, batch=8, samples=2, epochs=1),
    "best-of-k": BestOfK(**CALM, batch=5, k=2),
    "dpo": DPO(**CALM, batch=5, check=1, replies=9),
}


class Brief:
    """A plugin's term that must be asked in one place only: it answers each process otherwise."""

    name, question = "brief", "?"

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def score(self, exchanges):
        return [-0.1 * len(e.reply) - 5.0 * self.rank for e in exchanges]


def world_of(speaker: Path, judge: Path, folder: Path) -> tw.World:
    model = tw.load(speaker)
    pairs, heldout = tw.comparisons(model, 17), tw.comparisons(model, 8, start=1000)
    return tw.World(
        model, pairs, heldout, tw.prompts(40), tw.prompts(16, 1500), folder, {"pm": judge}
    )


def main() -> None:
    what = sys.argv[1]
    speaker, judge, folder = map(Path, sys.argv[2:5])
    torch.set_num_threads(1)
    world = world_of(speaker, judge, folder)
    with parallel.joined() as several:
        last = several.rank == several.size - 1
        shared = {"world": several, "terms": [(Brief(several.rank), 0.1)]}
        if what == "die":
            asked = iter([False, False])
            ran = world.context(
                "dies", **shared, stopped=lambda: last and next(asked, None) is None and os._exit(9)
            )
            METHODS["ppo"].train(ran.context)
            return
        numbers = {}
        for name, method in METHODS.items():
            numbers[name] = world.train(method, name, **shared).numbers
        for name in ("pm", "ppo"):
            while True:
                asked = iter([False])
                ran = world.context(
                    f"halted-{name}", **shared, stopped=lambda a=asked: last and next(a, True)
                )
                try:
                    METHODS[name].train(ran.context)
                except Cancelled:
                    continue
                break
        if several.main:
            (folder / "numbers.json").write_text(json.dumps(numbers))


if __name__ == "__main__":
    main()
