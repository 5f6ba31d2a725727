"""The whole story in small: picks teach a preference model, and the model teaches the policy."""

from __future__ import annotations

import trainer_world as tw

from hhchat.model import LocalEngine
from hhchat.types import Draw, Sampling


def test_picks_of_a_taste_raise_the_share_of_replies_that_meet_it(world):
    model = world.model
    world.comparisons = tw.comparisons(model, 160)
    world.heldout = tw.comparisons(model, 60, start=5000)
    judge = tw.pm(rank=8, learning_rate=6e-3, epochs=3, anchors=40)
    learnt = world.train(judge, "pm")
    measured = {m.name: m for m in learnt.result.measurements}
    assert measured["pm_accuracy"].value > 0.8
    assert measured["pm_accuracy"].low > 0.7
    assert measured["pm_cross_accuracy"].value > 0.7

    world.stages = {"pm": learnt.result.preference}
    hyper = tw.ppo(updates=8, batch=48, epochs=3, learning_rate=4e-3, beta=0.02, rank=8)
    ran = world.train(hyper, "ppo")
    engine = LocalEngine(
        model, lambda name: ("base", None) if name == "base" else ("new", ran.result.policy)
    )
    shares = {}
    for snapshot in ("base", "new"):
        draws = [
            Draw(p.messages, i, Sampling(max_new_tokens=12), snapshot)
            for i, p in enumerate(tw.prompts(300, 1300))  # none of them was trained on
        ]
        shares[snapshot] = tw.liked_share([g.text for g in engine.generate(draws)])
    assert shares["new"] > shares["base"] + 0.15
    assert 0 < next(m.value for m in ran.result.measurements if m.name == "kl") < 10
