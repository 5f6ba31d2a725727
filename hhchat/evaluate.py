"""A candidate beside the incumbent on held-out prompts: the numbers that the gate reads.

Both answer the same prompts with the same seeds, and every difference is taken prompt by
prompt: pairing is what makes a couple of hundred prompts enough to see a small change.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

from hhchat import stats
from hhchat.gate import INCUMBENT
from hhchat.protocols import Engine, Objective, Scorer
from hhchat.rewards import Reward
from hhchat.types import (
    Comparison,
    Draw,
    Exchange,
    Generation,
    Measurement,
    Prompt,
    SampleReport,
    Sampling,
)

CHUNK = 32  # prompts a batch: short enough to stop and to show progress, long enough to be fast
SHOWN = 8  # pairs of replies kept for people to read
DRAWS = 17  # the paper shows the median of 17 samples by PM score, so that nobody picks (App. C)


@dataclass(frozen=True)
class Typical:
    """The reply of median score out of `DRAWS`, before and after, and all of their scores."""

    prompt: str
    before: str
    after: str
    scores_before: tuple[float, ...]
    scores_after: tuple[float, ...]


@dataclass(frozen=True)
class Judged:
    """What the evaluation found, in full: the run's page is drawn from it."""

    measurements: list[Measurement] = field(default_factory=list)
    samples: list[SampleReport] = field(default_factory=list)
    rows: list[dict[str, object]] = field(default_factory=list)
    typical: list[Typical] = field(default_factory=list)
    pairs: list[dict[str, object]] = field(default_factory=list)  # see `pair_rows`
    replies: Mapping[str, object] = field(default_factory=dict)  # a policy stage's own, by name

    def record(self) -> dict[str, object]:
        """All but the measurements, as report.json keeps it."""
        return {
            "samples": [asdict(s) for s in self.samples],
            "rows": self.rows,
            "typical": [asdict(t) for t in self.typical],
            "pairs": self.pairs,
            "replies": dict(self.replies),
        }


def choose(prompts: Sequence[Prompt], n: int, seed: int) -> list[Prompt]:
    """At most n prompts, the same ones for the same seed: an even share of each source.

    Without the share a large pool would drown the user's own few prompts.
    """
    rng = random.Random(f"{seed}:evaluation")
    by_source: dict[str, list[Prompt]] = {}
    for prompt in prompts:
        by_source.setdefault(prompt.source, []).append(prompt)
    for pool in by_source.values():
        rng.shuffle(pool)
    chosen: list[Prompt] = []
    queues = [by_source[source] for source in sorted(by_source)]
    while len(chosen) < n and any(queues):
        for queue in queues:
            if queue and len(chosen) < n:
                chosen.append(queue.pop())
    return chosen


def draws(prompts: Sequence[Prompt], snapshot: str, seed: int, max_new_tokens: int) -> list[Draw]:
    """One plain draw a prompt (temperature 1): decoding tricks would hide what was learned."""
    sampling = Sampling(temperature=1.0, top_p=1.0, max_new_tokens=max_new_tokens)
    return [
        Draw(p.messages, random.Random(f"{seed}:{i}").getrandbits(31), sampling, snapshot)
        for i, p in enumerate(prompts)
    ]


def compare(
    engine: Engine,
    preference: Scorer,
    prompts: Sequence[Prompt],
    *,
    candidate: str,
    incumbent: str,
    seed: int,
    max_new_tokens: int = 256,
    terms: Sequence[tuple[Objective, float]] = (),
    gauges: Mapping[str, Scorer] | None = None,
    shown: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
    report: Callable[[str], None] = lambda text: None,
) -> Judged:
    """Sample both on `prompts` and measure them under the preference model and the terms.

    Of the first `shown` prompts the typical replies are kept as well.
    """
    sampled: dict[str, list[Generation]] = {candidate: [], incumbent: []}
    plans = {name: draws(prompts, name, seed, max_new_tokens) for name in sampled}
    first = len(prompts) * len(plans)
    total = first + min(shown, len(prompts)) * DRAWS * len(plans)
    # One model at a time: switching adapters between batches throws away warm state.
    for name, plan in plans.items():
        for start in range(0, len(plan), CHUNK):
            sampled[name].extend(engine.generate(plan[start : start + CHUNK]))
            progress(sum(map(len, sampled.values())), total)
    new, old = sampled[candidate], sampled[incumbent]
    reward = Reward(preference, terms, report=report)
    # both sides at once: a term that failed on one only would be a gain of its own, and replies to
    # one prompt share its conversation
    both, half = [*_exchanges(prompts, new), *_exchanges(prompts, old)], len(prompts)
    _, parts = reward.score(both)
    new_parts = {name: scores[:half] for name, scores in parts.items()}
    old_parts = {name: scores[half:] for name, scores in parts.items()}
    asked_for = _asked_for(new_parts, old_parts, terms)
    found = _gains(new_parts, old_parts, asked_for)
    for name, gauge in (gauges or {}).items():
        scores = gauge.score(both)
        gained = _whole(scores[:half], scores[half:], asked_for)
        found.append(stats.mean_of(f"gauge_gain_{name}", gained, "sd"))
    for suffix, replies in (("", new), (INCUMBENT, old)):
        found.extend(describe(replies, suffix))
    rows: list[dict[str, object]] = [
        {
            "prompt": prompts[i].messages[-1].content,
            "score": new_parts["preference"][i],
            "score_incumbent": old_parts["preference"][i],
            "length": length_of(new[i]),
            "length_incumbent": length_of(old[i]),
            "finished": new[i].finished,
            "finished_incumbent": old[i].finished,
        }
        for i in range(len(prompts))
    ]
    samples = [
        SampleReport(prompts[i].messages[-1].content, old[i].text, new[i].text)
        for i in range(min(SHOWN, len(prompts)))
    ]
    medians = typical(
        engine,
        preference,
        prompts[:shown],
        candidate=candidate,
        incumbent=incumbent,
        seed=seed,
        max_new_tokens=max_new_tokens,
        progress=lambda done: progress(first + done, total),
    )
    return Judged(found, samples, rows, medians)


def _asked_for(
    new: Mapping[str, list[float]],
    old: Mapping[str, list[float]],
    terms: Sequence[tuple[Objective, float]],
) -> list[float]:
    """What each prompt gains by the terms and their weights, whoever judges the rest."""
    gains = [(w, _differences(new[t.name], old[t.name])) for t, w in terms]
    return [sum(w * gain[i] for w, gain in gains) for i in range(len(new["preference"]))]


def _whole(new: Sequence[float], old: Sequence[float], asked_for: Sequence[float]) -> list[float]:
    """The gain in a judge's scores and the terms.

    Scores have no scale of their own, the weights of terms are meant against scores of spread 1:
    so the sum has them divided by their spread over the incumbent's replies.
    """
    spread = _spread(old)
    return [g / spread + a for g, a in zip(_differences(new, old), asked_for, strict=True)]


def _gains(
    new: Mapping[str, list[float]], old: Mapping[str, list[float]], asked_for: Sequence[float]
) -> list[Measurement]:
    """The gain in the whole reward, in the preference model's score, and in each term."""
    gains = {name: _differences(new[name], old[name]) for name in new}
    pm = gains.pop("preference")
    whole = _whole(new["preference"], old["preference"], asked_for)
    return [
        stats.mean_of("score_gain", whole, "sd"),
        stats.mean_of("pm_gain", pm, "score"),
        *(stats.mean_of(f"gain_{name}", gain) for name, gain in gains.items()),
    ]


def drift_of_choosing(k: int) -> Measurement:
    """The most KL that saying the favourite of k replies adds: log k - (k - 1) / k
    (2401.01879)."""
    return Measurement("kl_best_of", math.log(k) - (k - 1) / k, unit="nats/response")


def describe(replies: Sequence[Generation], suffix: str = "") -> list[Measurement]:
    """Length, endings, and how much replies repeat each other and themselves."""
    texts = [r.text for r in replies]
    return [
        stats.mean_of(f"length{suffix}", [length_of(r) for r in replies], "tokens"),
        stats.share(f"unfinished{suffix}", sum(not r.finished for r in replies), len(replies)),
        Measurement(f"distinct{suffix}", len(set(texts)) / len(texts), n=len(texts)),
        Measurement(f"repetition{suffix}", stats.mean([repetition(t) for t in texts])),
    ]


def length_of(reply: Generation) -> float:
    """Tokens, or words where the reply has no tokens."""
    return float(len(reply.token_ids) or len(reply.text.split()))


def repetition(text: str) -> float:
    """The share of a text's three-word runs that it has said before: 0 for ordinary prose."""
    words = text.casefold().split()
    runs = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def gaps(preference: Scorer, comparisons: Sequence[Comparison]) -> list[tuple[str, float]]:
    """(id, score of the preferred reply minus the other's) of each usable comparison."""
    usable = [c for c in comparisons if c.preferred is not None]
    chosen = preference.score([Exchange(c.messages, c.chosen.text) for c in usable])
    rejected = preference.score([Exchange(c.messages, c.rejected.text) for c in usable])
    return [(c.id, a - b) for c, a, b in zip(usable, chosen, rejected, strict=True)]


def accuracy(found: Sequence[tuple[str, float]]) -> Measurement | None:
    """How often the preference model agrees with unseen picks; None when there are none."""
    if not found:
        return None
    return stats.win_rate("pm_accuracy", [gap for _, gap in found], [0.0] * len(found))


def pair_rows(
    tested: Mapping[str, Iterable[tuple[str, float]]], comparisons: Iterable[Comparison]
) -> list[dict[str, object]]:
    """Each tested pair with what it is: by which set, turn, mode and source accuracy is drawn.

    `tested` maps the name of a set (heldout, cross) to ids and gaps. No text is kept.
    """
    known = {c.id: c for c in comparisons}
    return [
        {
            "set": which,
            "gap": float(gap),
            "turn": known[name].turn_index + 1,
            "mode": known[name].mode,
            "source": known[name].source,
            "strength": known[name].strength,
        }
        for which, found in tested.items()
        for name, gap in found
        if name in known
    ]


def typical(
    engine: Engine,
    preference: Scorer,
    prompts: Sequence[Prompt],
    *,
    candidate: str,
    incumbent: str,
    seed: int,
    max_new_tokens: int = 256,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Typical]:
    """Of each prompt the reply of median score out of `DRAWS`, of incumbent and candidate.

    Empty replies are not shown, where there is another."""
    if not prompts:
        return []
    asked = [p for p in prompts for _ in range(DRAWS)]
    medians: dict[str, list[str]] = {}
    scores: dict[str, list[tuple[float, ...]]] = {}
    for turn, name in enumerate((incumbent, candidate)):
        replies = engine.generate(draws(asked, name, seed, max_new_tokens))
        found = preference.score(_exchanges(asked, replies))
        medians[name], scores[name] = [], []
        for at in range(0, len(asked), DRAWS):
            drawn = range(at, at + DRAWS)
            said = [i for i in drawn if replies[i].text.strip()] or list(drawn)
            order = sorted(said, key=lambda i: found[i])
            medians[name].append(replies[order[len(order) // 2]].text)
            scores[name].append(tuple(sorted(found[at : at + DRAWS])))
        progress((turn + 1) * len(asked))
    return [
        Typical(
            p.messages[-1].content,
            medians[incumbent][i],
            medians[candidate][i],
            scores[incumbent][i],
            scores[candidate][i],
        )
        for i, p in enumerate(prompts)
    ]


def _exchanges(prompts: Sequence[Prompt], replies: Sequence[Generation]) -> list[Exchange]:
    return [Exchange(p.messages, r.text) for p, r in zip(prompts, replies, strict=True)]


def _differences(new: Sequence[float], old: Sequence[float]) -> list[float]:
    return [a - b for a, b in zip(new, old, strict=True)]


def _spread(values: Sequence[float]) -> float:
    centre = stats.mean(values)
    variance = stats.mean([(v - centre) ** 2 for v in values])
    return variance**0.5 or 1.0
