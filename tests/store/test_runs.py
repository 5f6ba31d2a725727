"""Which assistant is current is never in doubt, whatever a run did."""

from __future__ import annotations

import math

import pytest

from hhchat.types import BadInput, Metric, Snapshot


def snapshot(id: str) -> Snapshot:
    return Snapshot(id, id, None, "base", "starter", info={"policy": "ppo"})


def test_a_run_says_how_it_ended(store):
    run = store.start_run(("pm", "ppo"), 2**63, "starter", {"comparisons": ["a"], "n": 1})
    assert store.run(run.id) == run
    done = store.finish_run(run.id, "refused", reason="KL 12 > 10")
    assert (done.state, done.reason, bool(done.finished)) == ("refused", "KL 12 > 10", True)
    again = store.finish_run(run.id, "running")
    assert again.finished is None
    other = store.start_run(("pm",), 1, "starter")
    assert [r.id for r in store.runs()] == [other.id, run.id]
    assert [r.id for r in store.runs(limit=1)] == [other.id]
    with pytest.raises(BadInput, match="no run"):
        store.finish_run("nothing", "failed")


def test_naming_what_does_not_exist_is_one_line(store):
    for use in (
        lambda: store.add_metrics("gone", [Metric("pm", 0, "loss", 1.0)]),
        lambda: store.promote("base", run="gone"),
        lambda: store.set_reply(store.start_conversation("hi")[1].id, "gone"),
        lambda: store.undo("gone"),
        lambda: store.turn("gone"),
        lambda: store.keep_generations("gone", []),
        lambda: store.delete_conversation("gone"),
    ):
        with pytest.raises(BadInput):
            use()
    assert store.promotions() == []


def test_readings_come_back_even_when_they_are_not_numbers(store):
    assert list(store.metrics()) == []
    run = store.start_run(("pm",), 0, "starter")
    store.add_metrics(run.id, [Metric("pm", i, "loss", 1 / (i + 1)) for i in range(3)])
    store.add_metrics(run.id, [Metric("ppo", 0, "kl", math.nan), Metric("ppo", 1, "kl", math.inf)])
    assert [m.step for m in store.metrics(run.id, stage="pm", name="loss")] == [0, 1, 2]
    kl = [m.value for m in store.metrics(name="kl")]
    assert math.isnan(kl[0])
    assert kl[1] == math.inf


def test_rollback_returns_to_the_assistant_before_each_time(store):
    assert store.current() is None
    with pytest.raises(BadInput, match="nothing to roll back"):
        store.rollback()
    for id in ("A", "B", "C"):
        store.add_snapshot(snapshot(id))
        store.promote(id, reason="better")
    store.promote("C")  # again: no further step back
    assert store.current().id == "C"
    assert store.rollback().id == "B"
    store.promote("C")
    assert store.rollback().id == "B"
    assert store.rollback().id == "A"
    assert store.rollback() is None
    with pytest.raises(BadInput, match="nothing to roll back"):
        store.rollback()
    assert [p.snapshot for p in store.promotions()] == [
        *("A", "B", "C", "C", "B", "C", "B", "A", None)
    ]
    store.promote("B")
    store.promote("base")
    assert store.current() is None
    assert store.rollback().id == "B"


def test_snapshots_are_found_by_the_start_of_their_name(store):
    for id in ("wise-ant", "wise-bee", "kind-cat"):
        store.add_snapshot(snapshot(id))
    assert store.snapshot("kind").id == "kind-cat"
    assert store.snapshot("wise-ant").info == {"policy": "ppo"}
    with pytest.raises(BadInput, match="more than one"):
        store.snapshot("wise")
    with pytest.raises(BadInput, match="no snapshot 'curent': did you mean 'current'"):
        store.snapshot("curent")
    with pytest.raises(BadInput, match="no snapshot"):
        store.promote("gone")
    with pytest.raises(BadInput, match="cannot register"):
        store.add_snapshot(snapshot("kind-cat"))
    with pytest.raises(BadInput, match="cannot name"):
        store.add_snapshot(snapshot("base"))
    assert [s.id for s in store.snapshots()] == ["wise-ant", "wise-bee", "kind-cat"]
