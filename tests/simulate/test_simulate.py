"""Simulated picks stand in for a person's: if they differ from real ones, so does every result."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from hhchat import hookimpl
from hhchat.plugins import Plugins
from hhchat.simulate import felt_position, find_user, heldout_prompts, judge, simulate
from hhchat.stats import sigmoid
from hhchat.store import Store
from hhchat.types import (
    BadInput,
    Comparison,
    Delta,
    Draw,
    Generation,
    HhchatError,
    Message,
    Prompt,
    side_of,
)


@dataclass
class Engine:
    """Replies that are a number drawn from the seed; snapshot "better" draws higher ones."""

    base: str = "fake@1"
    same: bool = False
    batches: list[int] = field(default_factory=list)

    def generate(self, draws: Sequence[Draw]) -> list[Generation]:
        self.batches.append(len(draws))
        return [self._one(draw) for draw in draws]

    def sample(
        self, draws: Sequence[Draw], cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[Delta]:
        for row, generation in enumerate(self.generate(draws)):
            yield Delta(row, generation.text, generation)

    def _one(self, draw: Draw) -> Generation:
        shift = 1.0 if draw.snapshot == "better" else 0.0
        value = 0.0 if self.same else random.Random(draw.seed).gauss(shift, 1)
        return Generation(
            f"value {value:.9f}",
            (1, 2, draw.seed % 1000),
            snapshot=draw.snapshot,
            base=self.base,
            sampling=draw.sampling,
            seed=draw.seed,
        )


class Taste:
    """Likes large numbers, whatever was asked."""

    name = "large"

    def utility(self, messages: Sequence[tuple[str, str]], reply: str) -> float:
        assert messages[-1][0] == "user"
        return float(reply.split()[1])


PROMPTS = [Prompt((Message("user", f"question number {i}"),)) for i in range(200)]


def run(store: Store, picks: int, seed: int = 0, **more: Any) -> Any:
    more.setdefault("prompts", PROMPTS)
    return simulate(store, more.pop("engine", Engine()), Taste(), picks, seed, **more)


def test_the_asked_number_of_picks_is_in_the_database_with_every_field(store: Store) -> None:
    seen: list[int] = []
    report = run(store, 75, on_pick=lambda r: seen.append(r.picks))
    rows = list(store.comparisons())
    assert report.picks == len(rows) == seen[-1] == 75
    assert [c.id for c in rows] == report.comparisons
    for c in rows:
        assert (c.source, c.purpose, c.mode) == ("simulated", "simulated", "helpful")
        assert c.position is not None
        assert c.outcome == side_of(c.position)
        assert c.latency is not None
        assert c.latency > 0
        assert c.question
        assert all(g.seed is not None and g.snapshot and g.token_ids for g in c.replies)
    assert {c.split for c in rows} == {"train", "heldout"}
    assert report.heldout == sum(c.split == "heldout" for c in rows)


def test_the_same_seed_gives_the_same_picks_and_another_gives_others(
    tmp_path: Any, store: Store
) -> None:
    def picks(name: str, seed: int) -> list[Any]:
        with Store(tmp_path / name) as other:
            run(other, 30, seed)
            return [
                (c.messages, c.position, c.left, c.replies[0].text) for c in other.comparisons()
            ]

    assert picks("a.db", 1) == picks("b.db", 1) != picks("c.db", 2)


def test_the_user_mostly_but_not_always_picks_what_they_like_better(store: Store) -> None:
    report = run(store, 400)
    assert 0.6 < report.better / report.picks < 0.85  # gaps of sd 1.4, Bradley-Terry noise
    assert 0.4 < report.left / report.picks < 0.6


def test_nearly_all_picks_can_teach(store: Store) -> None:
    run(store, 200)
    assert len(store.usable()) >= 180


@pytest.mark.parametrize("gap", [-3.0, -0.5, 0.0, 1.0, 4.0])
def test_a_pick_is_a_bradley_terry_choice_at_temperature_1(gap: float) -> None:
    rng = random.Random(f"{gap}")
    n = 4000
    left = sum(felt_position(gap, rng) <= 4 for _ in range(n))
    p = sigmoid(gap)
    assert left / n == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / n) + 1e-9)


def test_a_larger_gap_is_felt_more_strongly() -> None:
    rng = random.Random(0)
    small = [felt_position(0.2, rng) for _ in range(2000)]
    large = [felt_position(4.0, rng) for _ in range(2000)]
    assert large.count(1) / 2000 > 0.7 > 0.2 > small.count(1) / 2000
    assert set(small) == set(range(1, 9))


def test_second_turns_continue_from_the_picked_reply(store: Store) -> None:
    first = (Message("user", "tell me about owls"),)
    script = (*first, Message("assistant", "scripted"), Message("user", "and at night?"))
    report = run(store, 20, prompts=[Prompt(script), *PROMPTS[:5]])
    second = [c for c in store.comparisons() if c.turn_index == 1]
    assert second
    for c in second:
        said: Comparison = next(
            f for f in store.comparisons(conversation=c.conversation) if f.turn_index == 0
        )
        assert said.picked is not None
        assert c.messages[1].content == said.replies[said.picked].text
        assert c.messages[2].content == "and at night?"
    assert report.conversations < report.picks


def test_many_conversations_share_one_batch(store: Store) -> None:
    engine = Engine()
    run(store, 96, engine=engine)
    assert engine.batches == [64, 64, 64]


def test_a_model_that_always_says_the_same_ends_the_simulation_with_words(store: Store) -> None:
    with pytest.raises(HhchatError, match="the same two replies"):
        run(store, 5, engine=Engine(same=True), prompts=PROMPTS[:8])
    assert all(c.outcome == "tie" for c in store.comparisons())


def test_plugins_hear_of_simulated_picks_too(store: Store) -> None:
    class Plugin:
        def __init__(self) -> None:
            self.told: list[str] = []

        @hookimpl
        def comparison_recorded(self, comparison: Comparison) -> None:
            self.told.append(comparison.id)

    plugins, plugin = Plugins(), Plugin()
    plugins.register(plugin, "listener")
    report = run(store, 10, plugins=plugins)
    assert plugin.told == report.comparisons


def test_300_picks_leave_time_for_the_model(store: Store) -> None:
    began = time.monotonic()
    run(store, 300)
    assert time.monotonic() - began < 20


def test_a_users_name_that_is_not_shipped_is_refused_with_the_nearest() -> None:
    assert find_user("helpful").name == "helpful"
    with pytest.raises(BadInput, match="'helpful'"):
        find_user("helpfull")
    with pytest.raises(BadInput, match="at least 1"):
        simulate(None, Engine(), Taste(), 0)  # type: ignore[arg-type]


def test_the_verdict_finds_the_better_snapshot_with_its_interval() -> None:
    progress: list[tuple[int, int]] = []
    rate = judge(
        Engine(), Taste(), "better", "base", PROMPTS, progress=lambda *now: progress.append(now)
    )
    assert rate.n == 200
    # One standard deviation apart, independent draws: 76%.
    assert 0.68 < rate.value < 0.84
    assert rate.low is not None
    assert rate.high is not None
    assert 0.6 < rate.low < rate.value < rate.high < 0.9
    assert progress[-1] == (400, 400)


def test_a_snapshot_wins_half_against_itself_and_ties_count_half() -> None:
    rate = judge(Engine(), Taste(), "base", "base", PROMPTS)
    assert 0.4 < rate.value < 0.6
    assert judge(Engine(same=True), Taste(), "better", "base", PROMPTS).value == 0.5


def test_the_verdict_is_spoken_on_400_prompts_that_nobody_trained_on() -> None:
    from hhchat.dataset import opening, starter_prompts

    held = heldout_prompts()
    assert len(held) == 400
    trained = {opening(p.messages) for p in starter_prompts("train")}
    assert not trained & {opening(p.messages) for p in held}
    with pytest.raises(BadInput, match="no held-out prompts"):
        judge(Engine(), Taste(), "a", "b", [])


def test_picks_that_are_turned_round_point_at_the_worse_reply(store: Store) -> None:
    told = run(store, 400, seed=1, flip=1.0)
    assert told.better / told.picks < 0.3  # a user who always points at the other reply
    with pytest.raises(BadInput, match="from 0 to 1"):
        run(store, 4, flip=1.5)
