"""Contestants are looked at for as long as each other, or their ratio is the machine's."""

from __future__ import annotations

import pytest

from benchmarks.arena import Contestant, take_turns


class Steady(Contestant):
    """A step always takes so many seconds."""

    def __init__(self, name: str, seconds: float) -> None:
        self.name, self.turns, self.seconds = name, [], seconds

    def step(self) -> dict[str, float]:
        return {"cpu": self.seconds, "wall": self.seconds, "pairs_per_s": 6 / self.seconds}


@pytest.mark.parametrize(("even", "steps"), [(True, 4), (False, 1)])
def test_turns_that_are_even_last_as_long_as_the_slowest_contestants(
    even: bool, steps: int
) -> None:
    slow, quick = Steady("slow", 12.0), Steady("quick", 3.0)
    assert take_turns([slow, quick], 3, even=even) == []
    assert [len(t) for t in slow.turns] == [1, 1, 1]
    assert [len(t) for t in quick.turns] == [steps] * 3
    assert (quick.median("cpu"), quick.least, quick.median("pairs_per_s")) == (3.0, 3.0, 2.0)
