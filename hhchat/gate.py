"""Promote or refuse: a pure function of what was measured. Every refusal is a plain sentence.

The reward that a policy was trained on always says that the policy got better, so a gain alone
promotes nothing. The gate first asks whether the preference model knows the user's taste on
picks it has not seen, then whether the policy gained by more than chance, and then whether it
paid for that with drift, length, collapse or replies that do not end. What should have been
measured and was not counts against promotion.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from hhchat.settings import setting
from hhchat.stats import wilson
from hhchat.types import Measurement, Report, Verdict


@dataclass(frozen=True)
class GateRules:
    """What a candidate must show; the `[gate]` table of config.toml."""

    min_pm_accuracy: float = setting(
        0.5,
        "The lower end of the preference model's accuracy on unseen picks must lie above this.",
    )
    min_score_gain: float = setting(
        0.0, "The lower end of the gain in preference-model score must lie above this."
    )
    min_prompts: int = setting(
        8, "On fewer held-out prompts than this a gain in score proves nothing.", low=2
    )
    need_gauges: bool = setting(
        True,
        "A preference model that the policy was not trained on has to judge it: one on each half "
        "of the picks does, from 8 picks of two conversations on ([pm] halves).",
    )
    max_kl: float = setting(10.0, "Most drift from the base, in nats per response.")
    max_unfinished_increase: float = setting(
        0.02, "How much larger the share of replies that do not end may become."
    )
    min_length_ratio: float = setting(
        0.2, "Mean reply length against the incumbent's: not below this."
    )
    max_length_ratio: float = setting(
        2.5, "Mean reply length against the incumbent's: not above this."
    )
    min_distinct_ratio: float = setting(
        0.3, "Share of distinct replies against the incumbent's: not below this (collapse)."
    )
    max_repetition_increase: float = setting(
        0.1, "How much larger the share of repeated three-word runs inside replies may become."
    )

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if math.isnan(value):
                raise ValueError(f"{name} is not a number")


# What each side is measured by; the incumbent's has this suffix.
INCUMBENT = "_incumbent"


def decide(report: Report, rules: GateRules | None = None, *, policy: bool = True) -> Verdict:
    """Promote when no rule is broken; otherwise all reasons, so that one look shows everything.

    `policy` is False for a run that trained only a preference model: the assistant's replies
    are the incumbent's, and only the preference model has to prove itself.
    """
    rules = rules or GateRules()
    reasons = list(_preference(report, rules))
    if policy:
        for check in (_gain, _gauges, _drift, _endings, _length, _collapse):
            reasons.extend(check(report, rules))
    if reasons:
        return Verdict(False, tuple(reasons))
    return Verdict(True, tuple(_praise(report, policy)))


def _preference(report: Report, rules: GateRules) -> Iterator[str]:
    accuracy = _best_evidence(report)
    if accuracy is None:
        yield (
            "the preference model was not tested on picks it has not seen, "
            "so its scores cannot be trusted"
        )
        return
    low, _ = interval(accuracy)
    if not low > rules.min_pm_accuracy:
        yield (
            f"the preference model picks the reply you preferred in {_share(accuracy)} of "
            f"{accuracy.n or '?'} unseen pairs; that is not clearly above "
            f"{rules.min_pm_accuracy:.0%} (its interval starts at {_percent(low)}). "
            "More picks will help"
        )


def _best_evidence(report: Report) -> Measurement | None:
    """The accuracy measured on most pairs.

    `pm_cross_accuracy`: models trained on one half of the picks, judged on the other half.
    `pm_accuracy`: the run's own model on the held-out split. Choosing by n and not by value
    keeps the test honest: taking the better of two looks would double its false alarms.
    """
    found = [
        report.measurements[name]
        for name in ("pm_cross_accuracy", "pm_accuracy")
        if name in report.measurements
    ]
    return max(found, key=lambda m: m.n or 0) if found else None


def _gain(report: Report, rules: GateRules) -> Iterator[str]:
    gain = report.measurements.get("score_gain")
    if gain is None:
        yield "the candidate's replies were not scored against the incumbent's"
    elif gain.n is not None and gain.n < rules.min_prompts:
        yield (
            f"there were only {gain.n} held-out prompts to judge on, and it takes "
            f"{rules.min_prompts}; add some with `hhchat prompts add`"
        )
    elif not _lower(gain) > rules.min_score_gain and gain.value == gain.low == gain.high == 0:
        yield "the new replies score exactly as the old ones on every prompt: no gain to promote"
    elif not _lower(gain) > rules.min_score_gain:
        yield (
            "the preference model does not score the new replies clearly higher: gain "
            f"{_number(gain.value)} with an interval from {_number(_lower(gain))} to "
            f"{_number(interval(gain)[1])}, needed above {_number(rules.min_score_gain)}"
        )


def _gauges(report: Report, rules: GateRules) -> Iterator[str]:
    """Preference models that the policy was not trained on must see a gain too.

    Where the trained one sees none either, that has been said already.
    """
    if next(_gain(report, rules), None) is not None:
        return
    names = [n for n in report.measurements if n == "gauge_gain" or n.startswith("gauge_gain_")]
    if rules.need_gauges and not names:
        yield (
            "no preference model but the one the policy was trained on has judged it: it takes "
            "[pm] halves, and 8 picks of two conversations"
        )
    for name in names:
        gauge = report.measurements[name]
        if not _lower(gauge) > rules.min_score_gain:
            yield (
                f"a preference model the policy was not trained on sees no clear gain ({name} "
                f"{_number(gauge.value)}, interval from {_number(_lower(gauge))}): the policy "
                "learned its judge rather than your taste"
            )


def _drift(report: Report, rules: GateRules) -> Iterator[str]:
    whole = _drifted(report)
    if whole is None:
        yield "the drift from the base (KL) was not measured"
    elif not whole <= rules.max_kl:
        yield (
            f"the policy drifted {_number(whole)} nats per response from the base, "
            f"more than the {_number(rules.max_kl)} allowed"
        )


def _drifted(report: Report) -> float | None:
    """The policy's KL and what choosing among its replies adds at most."""
    kl = report.measurements.get("kl")
    chosen = report.measurements.get("kl_best_of")
    return None if kl is None else kl.value + (0.0 if chosen is None else chosen.value)


def _endings(report: Report, rules: GateRules) -> Iterator[str]:
    both = _both(report, "unfinished")
    if both is None:
        yield "the share of replies that end by themselves was not measured"
        return
    candidate, incumbent = both
    if not candidate - incumbent <= rules.max_unfinished_increase + 1e-12:
        yield (
            f"{_percent(candidate)} of the new replies do not end by themselves, "
            f"against {_percent(incumbent)} before"
        )


def _length(report: Report, rules: GateRules) -> Iterator[str]:
    both = _both(report, "length")
    if both is None:
        yield "the length of the replies was not measured"
        return
    candidate, incumbent = both
    if incumbent > 0:
        ratio = candidate / incumbent
    else:  # nothing to compare with: nothing is as long as nothing, and nan proves nothing
        ratio = 1.0 if candidate == incumbent == 0 else math.inf
    if not ratio >= rules.min_length_ratio:
        yield (
            f"the new replies are {_number(ratio)} times as long as before "
            f"({_number(candidate)} tokens), less than {_number(rules.min_length_ratio)} times"
        )
    elif not ratio <= rules.max_length_ratio:
        yield (
            f"the new replies are {_number(ratio)} times as long as before "
            f"({_number(candidate)} tokens), more than {_number(rules.max_length_ratio)} times"
        )


def _collapse(report: Report, rules: GateRules) -> Iterator[str]:
    both = _both(report, "distinct")
    if both is not None and not both[0] >= rules.min_distinct_ratio * both[1]:
        yield (
            f"the new replies repeat each other: {_percent(both[0])} are distinct, "
            f"against {_percent(both[1])} before"
        )
    both = _both(report, "repetition")
    if both is not None and not both[0] - both[1] <= rules.max_repetition_increase + 1e-12:
        yield (
            f"the new replies repeat themselves: {_percent(both[0])} of their three-word runs, "
            f"against {_percent(both[1])} before"
        )


def _praise(report: Report, policy: bool) -> Iterator[str]:
    accuracy = _best_evidence(report)
    if accuracy is not None:
        yield (
            f"the preference model picks the reply you preferred in {_share(accuracy)} of "
            f"{accuracy.n or '?'} unseen pairs"
        )
    if policy:
        gain = report.measurements["score_gain"]
        low, high = interval(gain)
        drifted = max(0.0, _drifted(report) or 0.0)  # the estimate of a small KL can be below 0
        yield (
            f"score gain {_number(gain.value)} (95%: {_number(low)} to {_number(high)}) at "
            f"{_number(drifted)} nats per response"
        )


def interval(m: Measurement) -> tuple[float, float]:
    """A measurement's interval; a share without one gets Wilson's, anything else gets none.

    Without an interval and without n the ends are infinite: an unproven number proves nothing.
    """
    if m.low is not None and m.high is not None:
        return m.low, m.high
    if m.n and 0 <= m.value <= 1 and m.name.endswith("accuracy"):
        return wilson(m.value * m.n, m.n)
    low = m.low if m.low is not None else -math.inf
    return low, m.high if m.high is not None else math.inf


def _lower(m: Measurement) -> float:
    # A mean that is not a number has no lower end either, whatever its interval claims.
    return math.nan if math.isnan(m.value) else interval(m)[0]


def _both(report: Report, name: str) -> tuple[float, float] | None:
    candidate = report.measurements.get(name)
    incumbent = report.measurements.get(name + INCUMBENT)
    if candidate is None or incumbent is None:
        return None
    return candidate.value, incumbent.value


def _share(m: Measurement) -> str:
    return _percent(m.value)


def _percent(value: float) -> str:
    return f"{value:.1%}"


def _number(value: float) -> str:
    return f"{value:.3g}"
