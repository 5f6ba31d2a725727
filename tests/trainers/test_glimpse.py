"""Looking at a run: what is shown is the policy, and the run is the same when nobody looks."""

from __future__ import annotations

import pytest
import torch
import trainer_world as tw
from hhchat_trainers.glimpse import PROMPTS, SHARE, Glimpse

from hhchat.model import Adapter, LocalEngine


def test_a_run_that_is_watched_ends_bit_for_bit_as_one_that_is_not(world):
    seen = []
    state = torch.get_rng_state()
    watched = world.train(tw.ppo(updates=3), "watched", show=lambda *told: seen.append(told))
    assert torch.equal(torch.get_rng_state(), state)
    alone = world.train(tw.ppo(updates=3), "alone")
    assert seen
    assert watched.numbers == alone.numbers
    assert tw.same_files(watched.context.out, alone.context.out)
    assert tw.same_files(watched.context.state, alone.context.state)


def test_the_same_questions_are_answered_before_and_now_by_the_policy_itself(world):
    told = []
    context = world.context("shown", show=lambda *a: told.append(a)).context
    engine, policy = LocalEngine(world.model), Adapter(world.model.spec, 4, seed=1)
    clock = iter([0.0, 0.0, 1.0, 1000.0, 1001.0])
    glimpse = Glimpse(context, engine, None, 12, lambda: next(clock))
    glimpse.look(0, policy)
    with torch.no_grad():
        for p in policy.parameters():
            p.add_(0.3)
    glimpse.look(9, policy)
    (first, samples), (later, again) = told
    assert (first, later) == (0, 9)
    held = {p.messages[-1].content for p in world.heldout_prompts}
    assert len(samples) == PROMPTS
    assert {s.prompt for s in samples} <= held
    assert [s.before for s in samples] == [s.after for s in samples]  # an adapter that does nothing
    assert [s.before for s in again] == [s.before for s in samples]
    assert [s.after for s in again] != [s.before for s in again]


def test_looking_never_takes_more_than_its_share_of_the_time(world):
    """Sampling takes half a second of this clock, and so does an update."""
    now, looks, spent = [0.0], [], [0.0]

    class Slow(Glimpse):
        def _replies(self, role):
            now[0] += 0.5
            spent[0] += 0.5
            return [""] * len(self.prompts)

    context = world.context("slow", show=lambda update, samples: looks.append(update)).context
    glimpse = Slow(context, LocalEngine(world.model), None, 12, lambda: now[0])
    for update in range(2000):
        now[0] += 0.5
        glimpse.look(update, Adapter(world.model.spec, 1))
    assert looks[0] == 0
    assert len(looks) >= 5
    assert spent[0] <= SHARE * now[0] + 1.0  # what the first look took


@pytest.mark.parametrize("error", [torch.OutOfMemoryError])
def test_a_look_that_fails_does_not_end_the_run(world, error):
    class Broken(Glimpse):
        def _replies(self, role):
            raise error("no room")

    context = world.context("broken", show=lambda *told: None).context
    glimpse = Broken(context, LocalEngine(world.model), None, 12)
    glimpse.look(0, Adapter(world.model.spec, 1))
    glimpse.look(1, Adapter(world.model.spec, 1))
    assert glimpse.show is None
