"""What is read off replies: how the reward judges them, their shape, and their distance in KL."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from hhchat_trainers.descent import Budget
from hhchat_trainers.maths import response_k3, response_kl
from hhchat_trainers.rollout import Response, Scored
from torch import Tensor

from hhchat.model import PreferenceModel
from hhchat.model.preference import judged, reply_ids
from hhchat.parallel import World
from hhchat.protocols import Objective
from hhchat.types import Exchange, Measurement

# English only, and only the usual words: an alarm, not a judge.
EVASIVE = re.compile(
    r"\bi(?:'m| am) (?:sorry|afraid|unable|not able)\b"
    r"|\bi (?:can't|cannot|can not|won't|will not|am unable to|don't|do not)"
    r" (?:help|answer|assist|advise|discuss|provide|share|tell|say|know|understand)\b"
    r"|\b(?:i'd|i would) rather not\b|\bas an? (?:ai|language model)\b",
    re.IGNORECASE,
)


def evades(text: str) -> bool:
    """Whether a reply declines or says that it does not know (trap 30)."""
    return EVASIVE.search(text.replace("\u2019", "'")) is not None


def shape_readings(responses: Sequence[Response]) -> dict[str, float]:
    """Length in tokens, and shares: cut by the limit, distinct, evasive."""
    n = len(responses)
    return {
        "length": sum(len(r.tokens) for r in responses) / n,
        "unfinished": sum(not r.ended for r in responses) / n,
        "distinct": len({r.text for r in responses}) / n,
        "evasive": sum(evades(r.text) for r in responses) / n,
    }


def correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Pearson's r; 0 where one of the two does not vary."""
    x, y = (torch.tensor(v, dtype=torch.float64) for v in (xs, ys))
    x, y = x - x.mean(), y - y.mean()
    size = float(x.norm() * y.norm())
    return float(x @ y) / size if size > 1e-12 else 0.0


def kl_readings(scored: Scored) -> dict[str, float]:
    """KL to the reference, per response (k1 and the never negative k3) and per token."""
    mask = scored.tokens.mask_BT
    kl = response_kl(scored.logprobs_BT, scored.reference_BT, mask)
    made = {"kl": float(kl.mean())}
    if len(kl) >= 32:  # of fewer, one rare reply that was not drawn makes all the difference
        made["kl_most"] = made["kl"] + 4 * float(kl.std()) / math.sqrt(len(kl))
    return {
        **made,
        "kl_k3": float(response_k3(scored.logprobs_BT, scored.reference_BT, mask).mean()),
        "kl_per_token": float(kl.sum() / mask.sum()),
        "entropy": float(-(scored.logprobs_BT * mask).sum() / mask.sum()),
    }


def normalised(
    judges: Sequence[PreferenceModel], exchanges: Sequence[Exchange], budget: Budget
) -> list[list[float]]:
    """Each judge's scores, of mean 0 and sd 1 on replies of the base and frozen before RL (trap
    19): [judge][exchange]."""
    if not judges:
        return []
    model = judges[0].model
    rows = [judged(model, e.messages, [reply_ids(model, e.reply)]) for e in exchanges]
    found = budget.scores(judges, rows)
    return [
        [(lines[j][0] - judge.anchor[0]) / judge.anchor[1] for lines in found]
        for j, judge in enumerate(judges)
    ]


@dataclass
class Asked:
    """A plugin's reward term, which only the main process asks: it may not answer twice alike."""

    term: Objective
    world: World

    def __post_init__(self) -> None:
        self.name, self.question = self.term.name, self.term.question

    def score(self, exchanges: Sequence[Exchange]) -> list[float]:
        return self.world.from_main(lambda: self.term.score(exchanges))


def mean_of(name: str, values: Tensor, unit: str) -> Measurement:
    """Mean with a 95% normal interval."""
    n = len(values)
    mean = float(values.mean())
    half = 1.96 * float(values.std()) / math.sqrt(n) if n > 1 else math.inf
    return Measurement(name, mean, mean - half, mean + half, n, unit)
