"""What the gate lets through decides what the user talks to tomorrow."""

from __future__ import annotations

import math
import random
from dataclasses import fields

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hhchat import stats
from hhchat.gate import GateRules, decide
from hhchat.settings import build
from hhchat.types import BadInput, Measurement, Report

NUMBERS = st.floats(allow_nan=True, allow_infinity=True)


def report(**changes: Measurement | float | None) -> Report:
    """A candidate that deserves promotion, with changes; None takes a measurement away."""
    good: dict[str, Measurement] = {
        "pm_accuracy": Measurement("pm_accuracy", 0.7, 0.58, 0.8, 60),
        "score_gain": Measurement("score_gain", 0.6, 0.4, 0.8, 200),
        "gauge_gain_half": Measurement("gauge_gain_half", 0.5, 0.2, 0.8, 200),
        "kl": Measurement("kl", 4.0, unit="nats/response"),
        "unfinished": Measurement("unfinished", 0.01),
        "unfinished_incumbent": Measurement("unfinished_incumbent", 0.01),
        "length": Measurement("length", 40.0),
        "length_incumbent": Measurement("length_incumbent", 30.0),
        "distinct": Measurement("distinct", 0.9),
        "distinct_incumbent": Measurement("distinct_incumbent", 0.95),
        "repetition": Measurement("repetition", 0.02),
        "repetition_incumbent": Measurement("repetition_incumbent", 0.02),
    }
    for name, change in changes.items():
        if change is None:
            del good[name]
        elif isinstance(change, Measurement):
            good[name] = change
        else:
            good[name] = Measurement(name, change)
    return Report("s-new", "base", good)


def test_a_clearly_better_assistant_is_promoted() -> None:
    verdict = decide(report())
    assert verdict.promote
    assert "70.0% of 60 unseen pairs" in verdict.reasons[0]
    assert verdict.reasons[1] == "score gain 0.6 (95%: 0.4 to 0.8) at 4 nats per response"


def test_a_drift_estimated_a_little_below_zero_is_told_as_none() -> None:
    found = report(kl=-0.0813)
    assert decide(found).reasons[1].endswith("at 0 nats per response")
    assert found.measurements["kl"].value == -0.0813


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pm_accuracy": Measurement("pm_accuracy", 0.6, 0.47, 0.7, 60)}, "not clearly above"),
        ({"pm_accuracy": None}, "was not tested"),
        ({"score_gain": Measurement("score_gain", 0.1, -0.02, 0.2, 200)}, "clearly higher"),
        ({"score_gain": Measurement("score_gain", 0.1)}, "clearly higher"),
        ({"score_gain": Measurement("score_gain", 0.0, 0.0, 0.0, 200)}, "exactly as the old"),
        ({"score_gain": None}, "not scored"),
        ({"score_gain": Measurement("score_gain", 1.0, 0.5, 1.5, 3)}, "only 3 held-out prompts"),
        ({"kl": 10.5}, "drifted 10.5 nats"),
        ({"kl": math.nan}, "drifted nan nats"),
        ({"kl_best_of": 6.5}, "drifted 10.5 nats"),  # choosing among replies adds to it
        ({"kl": None}, "was not measured"),
        ({"unfinished": 0.05}, "5.0% of the new replies do not end"),
        ({"unfinished": None}, "replies that end by themselves was not measured"),
        ({"length": 90.0}, "more than 2.5 times"),
        ({"length": 3.0}, "less than 0.2 times"),
        ({"length": math.nan}, "times as long"),
        ({"length_incumbent": None}, "length of the replies was not measured"),
        ({"distinct": 0.1}, "repeat each other"),
        ({"repetition": 0.3}, "repeat themselves"),
        ({"gauge_gain_half": Measurement("gauge_gain_half", 0.1, -0.1, 0.3)}, "its judge"),
        ({"gauge_gain_half": None}, "no preference model but the one the policy was trained on"),
    ],
)
def test_each_kind_of_harm_is_refused_in_plain_words(
    changes: dict[str, Measurement | float | None], words: str
) -> None:
    verdict = decide(report(**changes))
    assert not verdict.promote
    assert len(verdict.reasons) == 1
    assert words in verdict.reasons[0]
    assert verdict.reasons[0].isprintable()


def test_a_gauge_is_only_blamed_when_the_judge_itself_was_won_over() -> None:
    nothing = Measurement("score_gain", 0.0, 0.0, 0.0, 200)
    gauge = Measurement("gauge_gain_a", 0.0, 0.0, 0.0, 200)
    verdict = decide(report(score_gain=nothing, gauge_gain_a=gauge))
    assert len(verdict.reasons) == 1
    assert not verdict.promote


def test_every_reason_is_told_at_once() -> None:
    verdict = decide(report(kl=50.0, unfinished=0.5, length=1000.0))
    assert len(verdict.reasons) == 3


def test_a_better_starting_point_may_have_worse_endings_than_zero() -> None:
    assert decide(report(unfinished=0.3, unfinished_incumbent=0.3)).promote
    assert decide(report(unfinished=0.0, unfinished_incumbent=0.3)).promote


def test_an_incumbent_that_said_nothing_does_not_break_the_length_rule() -> None:
    assert not decide(report(length=10.0, length_incumbent=0.0)).promote
    assert decide(report(length=0.0, length_incumbent=0.0)).promote


def test_the_accuracy_on_more_pairs_is_believed_whether_better_or_worse() -> None:
    good = Measurement("pm_cross_accuracy", 0.65, 0.6, 0.7, 300)
    bad = Measurement("pm_cross_accuracy", 0.51, 0.46, 0.56, 300)
    weak = Measurement("pm_accuracy", 0.6, 0.42, 0.75, 30)
    assert decide(report(pm_accuracy=weak, pm_cross_accuracy=good)).promote
    assert not decide(report(pm_cross_accuracy=bad)).promote


def test_an_accuracy_without_an_interval_gets_one_from_its_count() -> None:
    assert not decide(report(pm_accuracy=Measurement("pm_accuracy", 0.7, n=10))).promote
    assert decide(report(pm_accuracy=Measurement("pm_accuracy", 0.7, n=100))).promote
    assert not decide(report(pm_accuracy=Measurement("pm_accuracy", 0.9))).promote


def test_a_run_that_trained_only_the_preference_model_is_judged_by_that_alone() -> None:
    only = Report("s", "base", {"pm_accuracy": Measurement("pm_accuracy", 0.7, 0.6, 0.8, 60)})
    assert decide(only, policy=False).promote
    assert not decide(only).promote
    assert not decide(Report("s", "base", {}), policy=False).promote


def test_nothing_measured_is_nothing_promoted() -> None:
    verdict = decide(Report("s", "base", {}))
    assert not verdict.promote
    assert len(verdict.reasons) == 5


def test_the_rules_are_a_config_table_with_a_sentence_each() -> None:
    rules = build(GateRules, {"max_kl": 3}, "[gate]")
    assert not decide(report(), rules).promote
    assert all(f.metadata["doc"].endswith(".") for f in fields(GateRules))
    with pytest.raises(BadInput, match="max_kl"):
        build(GateRules, {"max_lk": 3}, "[gate]")
    with pytest.raises(BadInput):
        build(GateRules, {"max_kl": math.nan}, "[gate]")


@example({"length": 0.0, "length_incumbent": math.nan})
@given(st.dictionaries(st.sampled_from(sorted(report().measurements)), NUMBERS))
def test_no_number_whatever_crashes_the_gate_or_slips_through_as_nan(
    values: dict[str, float],
) -> None:
    changed = {name: Measurement(name, value, value, value, 100) for name, value in values.items()}
    verdict = decide(report(**changed))
    assert verdict.reasons
    critical = ("pm_accuracy", "score_gain", "kl", "unfinished", "length", "length_incumbent")
    if any(math.isnan(values[name]) for name in critical if name in values):
        assert not verdict.promote


@given(st.floats(0, 30), st.floats(0, 30))
def test_more_drift_never_turns_a_refusal_into_a_promotion(a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert decide(report(kl=low)).promote >= decide(report(kl=high)).promote


def _verdict_of_a_worthless_model(picks: int, accuracy: float, rng: random.Random) -> bool:
    """A run whose preference model agrees with unseen picks at `accuracy`, and whose policy
    looks better to that model, as it always does."""
    n = picks
    hits = sum(rng.random() < accuracy for _ in range(n))
    measured = stats.share("pm_accuracy", hits, n)
    return decide(report(pm_accuracy=measured)).promote


@pytest.mark.parametrize(("picks", "accuracy"), [(8, 0.5), (30, 0.5), (300, 0.5), (40, 0.48)])
def test_a_preference_model_that_learned_nothing_promotes_in_under_one_of_ten(
    picks: int, accuracy: float
) -> None:
    rng = random.Random(f"{picks}:{accuracy}")
    promoted = sum(_verdict_of_a_worthless_model(picks, accuracy, rng) for _ in range(2000))
    assert promoted / 2000 < 0.06


def test_a_preference_model_that_learned_something_gets_through() -> None:
    rng = random.Random(5)
    promoted = sum(_verdict_of_a_worthless_model(300, 0.62, rng) for _ in range(200))
    assert promoted / 200 > 0.95
