"""Prompts of the starter's world: one pool seen in training and one held out, and the fact questions."""

# ruff: noqa: E501 (a few long lines)

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Literal

from hhchat.starter import corpus, style
from hhchat.starter.items import items

Split = Literal["train", "heldout"]
Kind = Literal["plain", "harmful", "outside"]
SIZES: dict[Split, int] = {"train": 3000, "heldout": 1200}


@dataclass(frozen=True)
class StarterPrompt:
    """A user turn with the messages before it; `messages` ends with the turn itself."""

    text: str
    topic: str
    kind: Kind
    messages: tuple[tuple[str, str], ...]


def _kind(topic: str) -> Kind:
    return "harmful" if topic == "refusals" else "outside" if topic == "outside" else "plain"


def _one(rng: Random, held: bool, topic: str | None, back: bool) -> StarterPrompt:
    drawn = corpus.choose(rng, held, topic)
    while topic is None and drawn.topic in ("refusals", "outside"):
        drawn = corpus.choose(rng, held)
    if not back:
        return StarterPrompt(drawn.text, drawn.topic, _kind(drawn.topic), (("user", drawn.text),))
    look = style.draw(rng)
    said = corpus.answer(drawn, look, rng)
    text, _, _, _ = corpus.follow_up(drawn.item, look, style.draw(rng), rng, held)
    before = (("user", drawn.text), ("assistant", said))
    return StarterPrompt(text, "followups", "plain", (*before, ("user", text)))


@cache
def _train_texts() -> frozenset[str]:
    """Every first question that training can ask as it stands, and every plain follow-up."""
    return frozenset(form for item in items() if not item.unseen for form in item.asks)


@cache
def _pool(split: Split, seed: int) -> tuple[StarterPrompt, ...]:
    held = split == "heldout"
    rng = Random(seed * 2 + held + 1000)
    out: dict[tuple[tuple[str, str], ...], StarterPrompt] = {}
    while len(out) < SIZES[split]:
        roll, goal = rng.random(), len(out) + 1
        topic = "refusals" if roll < 0.17 else "outside" if roll < 0.22 else None
        while len(out) < goal:
            made = _one(rng, held, topic, 0.22 <= roll < 0.37)
            if not held or made.text not in _train_texts():
                out.setdefault(made.messages, made)
    return tuple(out.values())


def pool(split: Split, seed: int = 0, n: int | None = None) -> list[StarterPrompt]:
    """Distinct prompts of one split, in an order fixed by the seed; the first n when n is given.
    A held-out conversation never occurs in training: its question is phrased as none is there."""
    found = _pool(split, seed)
    return list(found if n is None else found[:n])


def facts() -> list[tuple[str, tuple[str, ...]]]:
    """Questions with one right answer, in their first phrasing, and the answers that count."""
    families = ("capital", "young", "fact", "day", "month", "opposite")
    chosen = [item for item in items() if item.family in families and item.form == "fact"]
    return [(item.asks[0], item.accept) for item in chosen]
