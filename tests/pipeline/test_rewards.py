"""A reward that cannot be taken apart by name cannot be trusted, and a plugin must not ruin it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from hhchat.rewards import Reward
from hhchat.types import Exchange, HhchatError, Message

ASKED = [Exchange((Message("user", "hi"),), reply) for reply in ("a", "bb", "ccc")]


class Length:
    question = "Which is longer?"

    def __init__(self, name: str = "length", answer: Sequence[float] | None = None) -> None:
        self.name, self.answer, self.calls = name, answer, 0

    def score(self, exchanges: Sequence[Exchange]) -> list[float]:
        self.calls += 1
        if self.answer is not None:
            return list(self.answer)
        return [float(len(e.reply)) for e in exchanges]


class Broken(Length):
    def score(self, exchanges: Sequence[Exchange]) -> list[float]:
        self.calls += 1
        raise KeyError("nothing here")


def test_the_parts_are_kept_by_name_before_their_weights() -> None:
    reward = Reward(Length("pm"), [(Length("brevity"), -0.5)], weight=2.0)
    totals, parts = reward.score(ASKED)
    assert parts == {"preference": [1, 2, 3], "brevity": [1, 2, 3]}
    assert totals == [1.5, 3.0, 4.5] == reward.as_scorer().score(ASKED)


def test_no_replies_cost_no_call() -> None:
    term = Length()
    assert Reward(term).score([]) == ([], {})
    assert term.calls == 0


def test_a_term_that_raises_is_named_once_and_is_zero_for_the_rest_of_the_run() -> None:
    told: list[str] = []
    broken = Broken("moody")
    reward = Reward(Length("pm"), [(broken, 5.0)], report=told.append)
    for _ in range(3):
        totals, parts = reward.score(ASKED)
        assert totals == [1, 2, 3]
        assert parts["moody"] == [0, 0, 0]
    assert broken.calls == 1
    assert len(told) == 1
    assert "'moody'" in told[0]
    assert "KeyError" in told[0]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ([1.0, math.nan, 0.0], "gave nan for reply 2 of 3"),
        ([1.0, math.inf, 0.0], "gave inf for reply 2 of 3"),
        ([1.0], "gave 1 scores for 3 replies"),
    ],
)
def test_nonsense_is_refused_by_name(answer: list[float], words: str) -> None:
    told: list[str] = []
    Reward(Length("pm"), [(Length("odd", answer), 1.0)], report=told.append).score(ASKED)
    assert words in told[0]
    assert "odd" in told[0]
    # The preference model is no extra: without it there is no reward.
    with pytest.raises(HhchatError, match="preference gave"):
        Reward(Length("pm", answer)).score(ASKED)


def test_two_terms_of_one_name_and_weights_that_are_no_number_are_refused() -> None:
    with pytest.raises(HhchatError, match="'length'"):
        Reward(None, [(Length(), 1.0), (Length(), 2.0)])
    with pytest.raises(HhchatError, match="preference"):
        Reward(None, [(Length("preference"), 1.0)])
    with pytest.raises(HhchatError, match="nan"):
        Reward(None, [(Length(), math.nan)])
