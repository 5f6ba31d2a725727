"""`hhchat train` may only ever change the assistant by its very last step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from pipeline_fakes import (
    FakeBackend,
    FakeEngine,
    FakePM,
    FakePPO,
    FewPlugins,
    config,
    fill,
    plugins,
    quality,
)

from hhchat import evaluate, hookimpl, pipeline
from hhchat.pipeline import Event
from hhchat.protocols import StageResult, Trainer, TrainingContext
from hhchat.snapshots import Resolver
from hhchat.store import Store
from hhchat.types import (
    BadInput,
    Cancelled,
    Comparison,
    Draw,
    Exchange,
    Generation,
    HhchatError,
    Measurement,
    Message,
    ModelError,
    Prompt,
    Report,
    Run,
    Snapshot,
)


def train(
    store: Store, *, backend: FakeBackend | None = None, more: Any = (), **tables: Any
) -> Run:
    return pipeline.train(store, config(**tables), plugins(*more), backend=backend or FakeBackend())


def test_a_good_run_ends_with_a_promoted_snapshot_that_the_chat_finds(
    store: Store, home: Path
) -> None:
    fill(store)
    events: list[Event] = []
    run = pipeline.train(
        store, config(), plugins(), seed=7, on_event=events.append, backend=FakeBackend()
    )
    assert run.state == "promoted", run.reason
    current = store.current()
    assert current is not None
    assert current.id == run.snapshot == f"s-{run.id}"
    told = json.loads((home / "snapshots" / current.path / "snapshot.json").read_text())
    assert (told["policy"], told["preference"]) == ("fakeppo/policy", "fakepm")
    resolved, folder = Resolver(store)("current")
    assert resolved == current.id
    assert folder == home / "snapshots" / current.path / "fakeppo" / "policy"
    kinds = [e.kind for e in events]
    assert kinds[0] == "line"
    assert kinds[1] == "run"
    assert kinds[-2:] == ["verdict", "end"]
    assert [e.stage for e in events if e.kind == "stage"] == ["fakepm", "fakeppo"]
    assert store.promotions()[-1].run == run.id
    assert current.info["measurements"]["score_gain"]["value"] > 0.5


def test_the_run_keeps_what_it_learned_from_although_the_user_goes_on_picking(
    store: Store,
) -> None:
    fill(store)
    before = [c.id for c in store.usable(split="train")]
    run = train(store)
    fill(store, picks=5, prompts=0, seed=9)
    assert store.run(run.id).data["comparisons"] == before
    assert store.run(run.id).data["stages"]["fakeppo"]["updates"] == 3
    assert "python" in run.data["versions"]


def test_picks_made_while_a_run_trains_wait_for_the_next_run(store: Store) -> None:
    fill(store)
    before = [c.id for c in store.usable(split="train")]
    seen: list[list[str]] = []

    def work(trainer: Trainer, context: TrainingContext) -> StageResult:
        # the user goes on with the old assistant; at the second stage the machine is needed
        fill(store, picks=5, prompts=450 + 50 * len(seen), seed=20 + len(seen))
        seen.append([c.id for c in context.comparisons])
        prompts.append(context.prompts)
        if len(seen) == 2:
            raise Cancelled("stopped")
        return trainer.train(context)

    prompts: list[Sequence[Prompt]] = []
    how: dict[str, Any] = {"backend": FakeBackend(), "work": work}
    assert pipeline.train(store, config(), plugins(), **how).state == "interrupted"
    assert pipeline.train(store, config(), plugins(), resume=True, **how).state == "promoted"
    assert seen == [before] * 3
    assert list(prompts[0]) == list(prompts[1]) == list(prompts[2])
    assert len(store.usable(split="train")) > len(before)


def test_the_candidate_is_judged_on_prompts_that_no_stage_was_given(
    store: Store, home: Path
) -> None:
    fill(store)
    taught: set[str] = set()

    def work(trainer: Trainer, context: TrainingContext) -> StageResult:
        taught.update(p.messages[-1].content for p in context.prompts)
        taught.update(c.messages[-1].content for c in context.comparisons)
        assert not taught & {p.messages[-1].content for p in context.heldout_prompts}
        assert not taught & {c.messages[-1].content for c in context.heldout}
        return trainer.train(context)

    run = pipeline.train(store, config(), plugins(), backend=FakeBackend(), work=work)
    rows = json.loads((home / "runs" / run.id / "report.json").read_text())["rows"]
    assert rows
    assert taught
    assert not taught & {row["prompt"] for row in rows}


def test_metrics_and_measurements_can_be_looked_at_afterwards(store: Store, home: Path) -> None:
    fill(store)
    run = train(store)
    names = {(m.stage, m.name) for m in store.metrics(run.id)}
    assert {("fakeppo", "score"), ("gate", "kl"), ("gate", "score_gain")} <= names
    report = json.loads((home / "runs" / run.id / "report.json").read_text())
    assert report["promote"] is True
    assert len(report["samples"]) == 8
    assert len(report["rows"]) == 40
    assert {"prompt", "before", "after"} == set(report["samples"][0])


def test_a_run_keeps_what_its_page_draws(store: Store, home: Path) -> None:
    fill(store)
    run = train(store, train={"shown_prompts": 3})
    report = json.loads((home / "runs" / run.id / "report.json").read_text())
    assert report["schema"] == 2
    assert len(report["typical"]) == 3
    for told in report["typical"]:
        for side in ("before", "after"):
            scores = told[f"scores_{side}"]
            assert scores == sorted(scores)
            assert len(scores) == 17
            assert quality(told[side]) == pytest.approx(scores[8])
    heldout = list(store.usable(split="heldout"))
    assert len(report["pairs"]) == len(heldout) > 0
    assert all(p["set"] == "heldout" and p["turn"] == 1 for p in report["pairs"])
    assert all(p["gap"] > 0 for p in report["pairs"])  # this world's user is never wrong
    told = json.dumps(report["pairs"])
    assert not any(c.chosen.text in told for c in heldout)


def test_both_assistants_are_measured_as_they_sample_without_decoding_tricks() -> None:
    asked = [Prompt((Message("user", f"{i}"),)) for i in range(9)]
    one, two = (evaluate.draws(asked, name, 3, 50) for name in ("candidate", "incumbent"))
    for mine, theirs in zip(one, two, strict=True):
        assert (mine.sampling.temperature, mine.sampling.top_p, mine.sampling.best_of) == (1, 1, 1)
        assert replace(mine, snapshot="incumbent") == theirs  # the same seeds, prompt by prompt
    assert len({d.seed for d in one}) == 9


def test_each_tested_pick_is_kept_with_its_own_turn_mode_and_source() -> None:
    # pooled, an accuracy hides the turns and modes in which nothing was learnt
    picks = [
        Comparison(
            (Message("user", "hi"),),
            (Generation("a"), Generation("b")),
            mode=mode,
            turn_index=turn,
            source=source,
            strength=2 + turn,
            id=f"{mode} {turn}",
        )
        for turn, source in ((0, "model"), (2, "simulated"))
        for mode in ("helpful", "redteam-worst")
    ]
    gaps = [(c.id, float(i)) for i, c in enumerate(picks)]
    rows = evaluate.pair_rows({"cross": gaps[:3], "heldout": [*gaps[3:], ("gone", 1.0)]}, picks)
    for i, (row, c) in enumerate(zip(rows, picks, strict=True)):
        assert row == {
            "set": "cross" if i < 3 else "heldout",
            "gap": float(i),
            "turn": c.turn_index + 1,
            "mode": c.mode,
            "source": c.source,
            "strength": c.strength,
        }


def test_a_prompt_shows_its_median_reply_and_not_an_empty_one() -> None:
    class Silent(FakeEngine):
        def _one(self, draw: Draw) -> Generation:
            made = super()._one(draw)
            return replace(made, text="") if draw.seed % 2 else made

    class Reads:
        def score(self, exchanges: Sequence[Exchange]) -> list[float]:
            return [quality(e.reply) if e.reply else -99.0 for e in exchanges]

    engine = Silent(lambda name: (name, None))
    prompts = [Prompt((Message("user", f"question {i}"),)) for i in range(4)]
    both = {"candidate": "base", "incumbent": "base", "seed": 3}
    for told in evaluate.typical(engine, Reads(), prompts, **both):
        spoken = sorted(s for s in told.scores_after if s > -99)
        assert 0 < len(spoken) < 17
        assert quality(told.after) == pytest.approx(spoken[len(spoken) // 2])


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"fakeppo": {"quality": 0.0}}, "clearly higher"),
        ({"fakeppo": {"kl": 40.0}}, "drifted 40 nats"),
        ({"fakeppo": {"unfinished": 0.5}}, "do not end"),
        ({"fakeppo": {"length": 60}}, "times as long"),
        ({"fakepm": {"accuracy": 0.5}}, "not clearly above"),
        ({"fakeppo": {"gauge_sign": -1.0, "quality": 2.0}}, "rather than your taste"),
        ({"gate": {"max_kl": 1.0}}, "more than the 1 allowed"),
    ],
)
def test_a_worse_assistant_is_refused_with_the_reason_and_the_old_one_stays(
    store: Store, tables: dict[str, Any], words: str
) -> None:
    fill(store)
    first = train(store)
    run = train(store, **tables)
    assert run.state == "refused"
    assert run.reason is not None
    assert words in run.reason
    current = store.current()
    assert current is not None
    assert current.id == first.snapshot
    # It is kept, so that the user may look at it, but nobody talks to it.
    assert store.snapshot(run.snapshot or "").info["promoted"] is False


def test_the_second_run_is_measured_against_the_first_and_rollback_returns_it(
    store: Store,
) -> None:
    fill(store)
    first = train(store)
    second = train(store, fakeppo={"quality": 3.0})
    assert second.state == "promoted", second.reason
    assert second.data["incumbent"] == first.snapshot
    assert store.snapshot(second.snapshot or "").parent == "base"
    back = store.rollback()
    assert back is not None
    assert back.id == first.snapshot
    assert Resolver(store)("current")[0] == first.snapshot


def test_a_gain_over_the_base_is_not_a_gain_over_a_better_assistant(store: Store) -> None:
    fill(store)
    assert train(store, fakeppo={"quality": 3.0}).state == "promoted"
    assert train(store, fakeppo={"quality": 1.0}).state == "refused"


def test_too_few_picks_say_how_many_are_missing_and_start_nothing(store: Store) -> None:
    fill(store, picks=12)
    have = len(store.usable(split="train"))
    backend = FakeBackend()
    with pytest.raises(HhchatError, match=f"{20 - have} more picks to go"):
        train(store, backend=backend)
    assert store.runs() == []
    assert backend.loads == 0


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(store: Store) -> None:
    fill(store)
    backend = FakeBackend(fits=False)
    with pytest.raises(ModelError, match=r"needs 8\.0 GiB on cpu and 4\.0 GiB is free\. Try"):
        train(store, backend=backend)
    assert (store.runs(), backend.loads) == ([], 0)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"train": {"stages": []}}, "at least one"),
        ({"train": {"stages": ["fakepm", "fakepm"]}}, "twice"),
        ({"train": {"stages": ["fakepp"]}}, "did you mean"),
        ({"train": {"stages": ["../x"]}}, "name of a folder"),
        ({"train": {"stages": ["fakeppo"]}}, "'fakeppo' needs 'fakepm' before it: --stages fakepm"),
        ({"train": {"stages": ["fakeppo", "fakepm"]}}, "before it: --stages fakepm,fakeppo$"),
        ({"fakeppo": {"updats": 3}}, "did you mean 'updates'"),
        ({"gate": {"max_lk": 3}}, "did you mean 'max_kl'"),
        ({"weights": {"nosuch": 1.0}}, "nosuch"),
    ],
)
def test_a_slip_in_the_settings_is_named_before_anything_starts(
    store: Store, tables: dict[str, Any], words: str
) -> None:
    fill(store)
    with pytest.raises(BadInput, match=words):
        train(store, **tables)
    assert store.runs() == []


@pytest.mark.parametrize(
    ("crash", "reason"),
    [
        ("stranger", "ZeroDivisionError: no samples left in the batch"),
        ("the loss is not a number", "the loss is not a number"),
    ],
)
def test_a_crash_says_why_in_one_line_and_leaves_the_assistant(
    store: Store, home: Path, crash: str, reason: str
) -> None:
    fill(store)
    first = train(store)
    run = train(store, fakeppo={"crash": crash})
    assert (run.state, run.reason, run.snapshot) == ("failed", reason, None)
    assert len(store.snapshots()) == 1
    assert store.current() == store.snapshot(first.snapshot or "")
    assert (home / "runs" / run.id / "error.txt").exists() == (crash == "stranger")


def test_a_stage_that_ends_the_run_leaves_no_candidate(store: Store) -> None:
    fill(store)
    run = train(store, fakeppo={"stop": "the score fell"})
    assert (run.state, run.reason, run.snapshot) == ("refused", "the score fell", None)
    assert store.snapshots() == []


def test_training_only_the_preference_model_keeps_the_assistants_replies(store: Store) -> None:
    fill(store)
    first = train(store)
    run = train(store, train={"stages": ["fakepm"]})
    assert run.state == "promoted", run.reason
    folder = Resolver(store)("current")[1]
    assert folder is not None
    assert folder.parent.name == f"s-{run.id}"
    old = Resolver(store)(first.snapshot or "")[1]
    assert old is not None
    assert (folder / "policy.json").read_text() == (old / "policy.json").read_text()


class Plugin:
    """A stranger's plugin: a term, a veto, a notification that raises."""

    name, question, weight = "terse", "Which is shorter?", 1.0

    def __init__(self, veto: str | None = None, broken: bool = False) -> None:
        self.veto, self.broken, self.told = veto, broken, []

    def score(self, exchanges: list[Exchange]) -> list[float]:
        if self.broken:
            raise RuntimeError("no")
        return [-len(e.reply.split()) / 10 for e in exchanges]

    @hookimpl
    def register_objectives(self, register: Any) -> None:
        register(self)

    @hookimpl
    def veto_promotion(self, report: Report) -> str | None:
        return self.veto

    @hookimpl
    def snapshot_promoted(self, snapshot: Snapshot) -> None:
        self.told.append(snapshot.id)
        raise RuntimeError("told, and fell over")


def test_a_plugin_can_veto_a_promotion_and_is_named_as_the_one_who_did(store: Store) -> None:
    fill(store)
    plugin = Plugin(veto="it forgot the capital of France")
    run = train(store, more=[plugin])
    assert run.state == "refused"
    assert run.reason == "vetoed by plugin more0: it forgot the capital of France"
    assert plugin.told == []


def test_plugins_hear_of_a_promotion_after_it_is_committed_and_cannot_undo_it(
    store: Store,
) -> None:
    fill(store)
    plugin = Plugin()
    run = train(store, more=[plugin])
    assert run.state == "promoted", run.reason
    assert plugin.told == [run.snapshot]


def test_a_plugins_term_counts_and_is_measured_by_its_name(store: Store) -> None:
    fill(store)
    run = train(store, more=[Plugin()], fakeppo={"length": 12, "quality": 0.2})
    assert run.state == "refused"
    measured = store.snapshot(run.snapshot or "").info["measurements"]
    assert measured["gain_terse"]["value"] == pytest.approx(-0.7)
    assert measured["score_gain"]["value"] < 0 < measured["pm_gain"]["value"]


def test_a_broken_term_counts_as_nothing(store: Store) -> None:
    fill(store)
    run = train(store, more=[Plugin(broken=True)])
    assert run.state == "promoted", run.reason


def test_a_term_that_fails_on_one_side_only_is_no_gain(store: Store) -> None:
    class Flaky:
        name, question = "flaky", "?"
        calls = 0

        def score(self, exchanges: Any) -> list[float]:
            self.calls += 1
            if self.calls > 1:
                raise OSError("gone")
            return [2.0] * len(exchanges)

    class Gives:
        @hookimpl
        def register_objectives(self, register: Any) -> None:
            register(Flaky())

    fill(store)
    run = train(store, more=[Gives()], fakeppo={"quality": 0.0})
    assert run.state == "refused"
    measured = store.snapshot(run.snapshot or "").info["measurements"]
    assert measured["gain_flaky"]["value"] == 0.0
    assert abs(measured["score_gain"]["value"]) < 0.5


def test_the_gauges_count_what_the_user_asked_for_by_a_weight(store: Store) -> None:
    fill(store)
    run = train(store, more=[Plugin()], fakeppo={"length": 2, "quality": 0.0, "gauge_sign": 1.0})
    measured = store.snapshot(run.snapshot or "").info["measurements"]
    assert measured["gauge_gain_half"]["value"] == measured["score_gain"]["value"] > 0.2


def test_a_plugin_s_evaluation_is_asked_of_both_assistants_and_kept_beside_the_gates_own(
    store: Store, home: Path
) -> None:
    class Words:
        name = "words"

        def measure(self, engine: Any, snapshot: str, prompts: Any, scorer: Any) -> Any:
            draws = evaluate.draws(prompts, snapshot, 0, 64)
            texts = [len(r.text.split()) for r in engine.generate(draws)]
            return [Measurement("kl", sum(texts) / len(texts))]  # no name is the gate's

    class Breaks:
        name = "breaks"

        def measure(self, *anything: Any) -> Any:
            raise ZeroDivisionError("no words")

    class Gives:
        @hookimpl
        def register_evaluations(self, register: Any) -> None:
            register(Words())
            register(Breaks())

        @hookimpl
        def veto_promotion(self, report: Any) -> str | None:
            grown = report.value("eval_kl") > report.value("eval_kl_incumbent")
            return "it talks more" if grown else None

    fill(store)
    run = train(store, more=[Gives()], fakeppo={"length": 6})
    measured = store.snapshot(run.snapshot or "").info["measurements"]
    assert (measured["eval_kl"]["value"], measured["eval_kl_incumbent"]["value"]) == (8, 7)
    assert measured["kl"]["value"] == 2.0
    assert (run.state, run.reason) == ("refused", "vetoed by plugin more0: it talks more")


def test_settings_that_cannot_run_are_refused_before_the_model_is_loaded(store: Store) -> None:
    @dataclass(frozen=True)
    class Picky(FakePM):
        where: str = ""

        def check(self) -> None:
            if self.where:
                raise BadInput(f"[fakepm] where: {self.where} is not there")

    class Trainers:
        @hookimpl
        def register_trainers(self, register: Any) -> None:
            register(Picky)
            register(FakePPO)

    fill(store)
    made = FewPlugins(report=lambda text: None)
    made.register(Trainers(), "picky")
    backend = FakeBackend()
    wrong = config(fakepm={"where": "nowhere"})
    for start in (pipeline.plan, pipeline.train):
        with pytest.raises(BadInput, match="nowhere is not there"):
            start(store, wrong, made, backend=backend)
    assert (backend.loads, store.runs()) == (0, [])


def test_a_dry_run_says_what_would_happen_and_writes_nothing(store: Store, home: Path) -> None:
    fill(store, picks=15)
    before = sorted(home.rglob("*"))
    plan = pipeline.plan(store, config(), plugins(), backend=FakeBackend())
    assert [s.name for s in plan.stages] == ["fakepm", "fakeppo"]
    assert plan.stages[1].settings["updates"] == 3
    assert plan.missing == 20 - plan.comparisons > 0
    assert plan.heldout + plan.comparisons == 15
    assert plan.incumbent == "base"
    assert plan.memory.fits
    assert "more picks" in plan.problems[0]
    assert sorted(home.rglob("*")) == before


def test_a_dry_run_refuses_a_weight_of_no_objective_as_the_run_would(store: Store) -> None:
    fill(store)
    settings = config(weights={"nothing": 1.0})
    for story in (pipeline.plan, pipeline.train):
        with pytest.raises(BadInput, match="names no objective 'nothing'"):
            story(store, settings, plugins(), backend=FakeBackend())


def test_another_base_model_starts_from_itself_and_not_from_a_foreign_adapter(
    store: Store,
) -> None:
    fill(store)
    assert train(store).state == "promoted"
    run = train(store, backend=FakeBackend(identity="other@2"))
    assert run.data["incumbent"] == "base"
    assert Resolver(store, base="fake@1")("current") == ("base", None)
    with pytest.raises(ModelError, match="was trained on other@2"):
        Resolver(store, base="fake@1")(run.snapshot or "")


def test_warm_start_is_recorded_as_the_deviation_it_is(store: Store) -> None:
    fill(store)
    first = train(store)
    run = train(store, train={"warm_start": True}, fakeppo={"quality": 2.0})
    assert run.data["warm_start"] is True
    assert store.snapshot(run.snapshot or "").parent == first.snapshot


def test_a_warm_start_begins_as_the_assistant_and_any_other_run_as_the_base(
    store: Store, home: Path
) -> None:
    fill(store)
    starts: list[Path | None] = []

    def work(trainer: Trainer, context: TrainingContext) -> StageResult:
        starts.append(context.start)
        return trainer.train(context)

    how: dict[str, Any] = {"backend": FakeBackend(), "work": work}
    first = pipeline.train(store, config(), plugins(), **how)
    pipeline.train(store, config(), plugins(), **how)
    assert starts == [None] * 4
    current = store.current()
    assert current is not None
    pipeline.train(store, config(), plugins(), warm_start=True, **how)
    assert first.state == "promoted"
    assert starts[4:] == [home / "snapshots" / current.path / "fakeppo" / "policy"] * 2


def test_without_held_out_prompts_the_user_is_warned_before_and_told_after(store: Store) -> None:
    fill(store, picks=40, prompts=0)
    events: list[Event] = []
    run = pipeline.train(
        store,
        config(gate={"min_prompts": 30}),
        plugins(),
        on_event=events.append,
        backend=FakeBackend(),
    )
    assert "it will be refused" in events[0].text
    assert "held-out prompts to judge on" in (run.reason or "")
    plan = pipeline.plan(store, config(gate={"min_prompts": 30}), plugins(), backend=FakeBackend())
    assert (plan.problems, len(plan.warnings)) == ((), 1)


def test_a_finished_run_keeps_no_copy_of_what_the_user_may_delete(store: Store, home: Path) -> None:
    fill(store)
    run = train(store)
    folder = home / "runs" / run.id
    assert sorted(p.name for p in folder.iterdir()) == ["metrics.jsonl", "report.json"]
