"""Replies and true tastes that `levers` picks from: sampled once a seed, shared by every lever.

A bank is prompts with several replies of the start to each. A simulated pick needs two of them;
which two is what "choosing what to ask" is about, so all levers meet the same replies.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.common import cache, replace_text
from hhchat.dataset import starter_prompts
from hhchat.simulate import felt_position
from hhchat.splits import split_of_messages
from hhchat.starter.users import USERS
from hhchat.types import (
    Comparison,
    Draw,
    Generation,
    Message,
    Prompt,
    Sampling,
    side_of,
    strength_of,
)

if TYPE_CHECKING:
    from hhchat.model import Model

REPLIES = 8  # of the start, to each prompt


@dataclass(frozen=True)
class Bank:
    """Prompts, the start's replies to each, and what each user truly thinks of them."""

    prompts: tuple[Prompt, ...]
    replies: tuple[tuple[Generation, ...], ...]

    @cached_property
    def utilities(self) -> dict[str, list[list[float]]]:
        """user -> prompt -> reply, in logits."""
        found: dict[str, list[list[float]]] = {}
        for name, user in USERS.items():
            found[name] = [
                [user.utility(pairs_of(p.messages), g.text) for g in row]
                for p, row in zip(self.prompts, self.replies, strict=True)
            ]
        return found


def pairs_of(messages: Sequence[Message]) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in messages]


def bank(model: Model, split: str, seed: int, size: int, replies: int = REPLIES) -> Bank:
    """The bank of that seed; sampled at temperature 1 the first time, then read."""
    chosen = list(starter_prompts("train" if split == "train" else "heldout"))
    random.Random(f"levers:{split}:{seed}").shuffle(chosen)
    chosen = chosen[:size]
    name = f"{split}-{seed}-{size}x{replies}-{model.identity.rpartition('@')[2]}.json"
    path = cache() / "levers" / name
    made = read(path, model.identity) or sample(model, chosen, f"{split}:{seed}", replies)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [[[g.text, list(g.token_ids), g.finished] for g in row] for row in made]
        replace_text(path, json.dumps(lines))
    return Bank(tuple(chosen), tuple(made))


def read(path: Path, base: str) -> list[tuple[Generation, ...]] | None:
    if not path.is_file():
        return None
    return [
        tuple(Generation(text, tuple(ids), ended, base=base) for text, ids, ended in row)
        for row in json.loads(path.read_text())
    ]


def sample(
    model: Model, prompts: Sequence[Prompt], seed: str, replies: int
) -> list[tuple[Generation, ...]]:
    from hhchat.model import LocalEngine

    rng = random.Random(f"levers:{seed}")
    settings = Sampling(max_new_tokens=128)
    draws = [
        Draw(p.messages, rng.getrandbits(31), settings, "base")
        for p in prompts
        for _ in range(replies)
    ]
    made = LocalEngine(model).generate(draws)
    return [tuple(made[i : i + replies]) for i in range(0, len(made), replies)]


def pick(
    of: Bank, user: str, place: int, pair: tuple[int, int], rng: random.Random, purpose: str
) -> Comparison:
    """What `user` says of two replies to one prompt: noisy, with a strength, as in `simulate`."""
    first, second = pair
    values = of.utilities[user][place]
    position = felt_position(values[first] - values[second], rng)
    side = side_of(position)
    chosen = 0 if side == "left" else 1
    prompt = of.prompts[place]
    return Comparison(
        messages=prompt.messages,
        replies=(of.replies[place][first], of.replies[place][second]),
        picked=chosen,
        preferred=chosen,
        outcome=side,
        position=position,
        strength=strength_of(position),
        source="simulated",
        purpose="active" if purpose == "active" else "simulated",
        conversation=f"{place}",
        split=split_of_messages(prompt.messages),
    )
