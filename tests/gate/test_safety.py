"""The gate in front of a whole learner: few picks, or picks that are nearly coin flips.

A small world stands in for the real one: replies are points, the user's taste is a direction,
a preference model is the direction that the picks point to, and a policy is pushed that way as
far as the budget allows. The truth is known, so a promotion of a worse policy can be counted.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Sequence

import pytest

from hhchat import stats
from hhchat.gate import decide
from hhchat.types import Measurement, Report

Vector = list[float]
FEATURES, PROMPTS, PUSH = 12, 60, 1.5


def dot(a: Sequence[float], b: Sequence[float]) -> float:
    return math.fsum(x * y for x, y in zip(a, b, strict=True))


def reply(rng: random.Random, shift: Vector | None = None) -> Vector:
    return [rng.gauss(s, 1) for s in (shift or [0.0] * FEATURES)]


def learn(pairs: Sequence[Vector]) -> Vector:
    """The direction of the mean difference between chosen and rejected replies."""
    mean = [math.fsum(p[i] for p in pairs) / len(pairs) for i in range(FEATURES)]
    size = math.sqrt(dot(mean, mean)) or 1.0
    return [x / size for x in mean]


def run(picks: int, flipped: float, seed: int) -> tuple[bool, float]:
    """(promoted, true gain in utility) of one whole run."""
    rng = random.Random(f"{picks}:{flipped}:{seed}")
    taste = reply(rng)
    size = math.sqrt(dot(taste, taste))
    taste = [1.5 * x / size for x in taste]
    pairs = []
    for _ in range(picks):
        a, b = reply(rng), reply(rng)
        likes_a = rng.random() < stats.sigmoid(dot(taste, a) - dot(taste, b))
        if rng.random() < flipped:
            likes_a = not likes_a
        difference = [x - y for x, y in zip(a, b, strict=True)]
        pairs.append(difference if likes_a else [-x for x in difference])
    held, taught = pairs[: picks // 10], pairs[picks // 10 :]
    half = len(taught) // 2
    model, a_model, b_model = learn(taught), learn(taught[:half]), learn(taught[half:])
    hits = sum(dot(a_model, p) > 0 for p in taught[half:])
    hits += sum(dot(b_model, p) > 0 for p in taught[:half])
    shift = [PUSH * x for x in model]
    new = [reply(rng, shift) for _ in range(PROMPTS)]
    old = [reply(rng) for _ in range(PROMPTS)]

    def gain(name: str, judge: Vector) -> Measurement:
        gains = [dot(judge, n) - dot(judge, o) for n, o in zip(new, old, strict=True)]
        # The normal interval: a thousand bootstraps would take minutes here.
        half_width = 1.96 * statistics.stdev(gains) / math.sqrt(PROMPTS)
        centre = stats.mean(gains)
        return Measurement(name, centre, centre - half_width, centre + half_width, PROMPTS)

    found = [
        stats.share("pm_cross_accuracy", hits, len(taught)),
        stats.share("pm_accuracy", sum(dot(model, p) > 0 for p in held), len(held)),
        gain("score_gain", model),
        gain("gauge_gain_a", a_model),
        gain("gauge_gain_b", b_model),
        Measurement("kl", PUSH**2 / 2),
        *(Measurement(name, 0.0) for name in ("unfinished", "unfinished_incumbent")),
        *(Measurement(name, 30.0) for name in ("length", "length_incumbent")),
    ]
    verdict = decide(Report("candidate", "base", {m.name: m for m in found}))
    return verdict.promote, dot(taste, shift)


@pytest.mark.parametrize(
    ("picks", "flipped"), [(40, 0.0), (40, 0.45), (300, 0.45), (300, 0.5), (600, 0.55)]
)
def test_a_worse_policy_is_promoted_in_at_most_one_of_ten(picks: int, flipped: float) -> None:
    runs = [run(picks, flipped, seed) for seed in range(60)]
    worse_promoted = sum(promoted and gain < 0 for promoted, gain in runs)
    assert worse_promoted <= len(runs) / 10, f"{worse_promoted} of {len(runs)}"


def test_a_clear_taste_is_learned_and_promoted() -> None:
    runs = [run(300, 0.0, seed) for seed in range(20)]
    assert sum(promoted for promoted, _ in runs) >= 18
    assert all(gain > 0 for promoted, gain in runs if promoted)
