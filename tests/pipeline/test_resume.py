"""Hours of training must survive a kill, and a kill must never touch the assistant."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from pipeline_fakes import FakeBackend, FakePM, FakePPO, FewPlugins, config, fill, plugins

from hhchat import candidate, evaluate, hookimpl, pipeline, runfolder
from hhchat.runfolder import Journal, read_metrics
from hhchat.snapshots import Resolver
from hhchat.stopping import WAITS
from hhchat.store import Store
from hhchat.types import BadInput, HhchatError, Metric, Run

DRIVER = Path(__file__).parent / "driver.py"


def start(*flags: str, **tables: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(DRIVER), json.dumps(tables), *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(process: subprocess.Popen[str], line: str, times: int = 1) -> None:
    assert process.stdout is not None
    for told in process.stdout:
        times -= told.strip() == line
        if times == 0:
            return
    raise AssertionError(f"{line!r} never came")


def finish(process: subprocess.Popen[str]) -> list[Any]:
    out, _ = process.communicate(timeout=90)
    last = out.strip().splitlines()[-1]
    assert last.startswith("["), out
    told: list[Any] = json.loads(last)
    return told


def readings(store: Store, run: str) -> list[tuple[str, int, str, float]]:
    return sorted((m.stage, m.step, m.name, m.value) for m in store.metrics(run))


def whole_run(store: Store, **tables: Any) -> Run:
    return pipeline.train(store, config(**tables), plugins(), backend=FakeBackend())


def test_a_killed_run_leaves_everything_intact_and_goes_on_where_it_was(
    store: Store, home: Path
) -> None:
    fill(store)
    first = whole_run(store)
    slow = {"updates": 12, "quality": 2.0}
    process = start(fakeppo={**slow, "kill_at": 7})
    assert process.wait(timeout=90) == -signal.SIGKILL

    assert store.check() == "ok"
    assert Resolver(store)("current")[0] == first.snapshot
    assert len(store.snapshots()) == 1
    killed = store.runs()[0]
    assert killed.state == "running"  # nobody was left to say otherwise

    told = finish(start("--resume", fakeppo={"quality": 9.0}))
    assert told[:2] == [killed.id, "promoted"]
    # It kept the settings it began with, whatever the file says by now.
    assert store.run(killed.id).data["stages"]["fakeppo"]["quality"] == 2.0
    # The finished stage was not repeated, and every update is there once, as if never killed.
    assert store.current() == store.snapshot(f"s-{killed.id}")
    unbroken = whole_run(store, fakeppo={**slow, "quality": 2.0})
    mine = [r for r in readings(store, killed.id) if r[0] != "gate"]
    assert mine == [r for r in readings(store, unbroken.id) if r[0] != "gate"]
    assert [r[1] for r in mine if r[2] == "score"] == list(range(12))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_politely_and_the_run_can_be_continued(store: Store, number: int) -> None:
    fill(store)
    process = start(fakeppo={"updates": 200, "seconds": 0.02})
    wait_for(process, "metric fakeppo score", 3)
    process.send_signal(number)
    told = finish(process)
    assert process.returncode == 130
    assert told[1:] == ["interrupted", "stopped; continue it with: hhchat train --resume"]
    run = store.runs()[0]
    assert run.state == "interrupted"
    assert store.current() is None
    done = len([m for m in store.metrics(run.id) if m.name == "score"])
    assert 3 <= done < 200

    assert pipeline.plan(store, config(), plugins(), backend=FakeBackend()).resumable == run.id
    process = start("--resume", fakeppo={"updates": 200, "seconds": 0.02})
    wait_for(process, "stage fakeppo")  # not fakepm again: wait_for reads past nothing else
    process.send_signal(signal.SIGINT)
    assert finish(process)[0] == run.id


def test_a_second_ctrl_c_does_not_wait_for_the_update(store: Store) -> None:
    fill(store)
    process = start(fakeppo={"updates": 2, "seconds": 60.0})
    wait_for(process, "metric fakeppo updates")
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    wait_for(process, f"line  {WAITS}")
    process.send_signal(signal.SIGINT)
    assert finish(process)[1] == "interrupted"
    assert time.monotonic() - began < 40


def test_finished_stages_are_not_repeated(store: Store, home: Path) -> None:
    fill(store)
    broken = whole_run(store, fakeppo={"crash": "no luck"})
    assert broken.state == "failed"
    # The trainer of the interrupted stage is rebuilt from the settings the run began with, so
    # mend what made it fail where it is recorded.
    runs = home / "runs" / broken.id
    counted = runs / "state" / "fakepm-runs"
    assert counted.read_text() == "1"
    again = pipeline.train(store, config(), plugins(), resume=True, backend=FakeBackend())
    assert (again.id, again.state, again.reason) == (broken.id, "failed", "no luck")
    assert counted.read_text() == "1"


@pytest.mark.parametrize("where", ["seal", "compare", "write_json", "forget_state"])
def test_a_run_killed_at_any_step_after_training_finds_its_own_work(
    store: Store, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    fill(store)
    place: Any = {
        "seal": candidate,
        "compare": evaluate,
        "write_json": runfolder,  # the report
        "forget_state": runfolder.RunFolder,
    }[where]
    original = getattr(place, where)

    def dies(*args: Any, **more: Any) -> Any:
        if where != "write_json" or args[0].name == "report.json":
            raise SystemExit("as good as a kill: no handler runs")
        return original(*args, **more)

    monkeypatch.setattr(place, where, dies)
    with pytest.raises(SystemExit):
        whole_run(store)
    monkeypatch.undo()
    os.environ["HHCHAT_HOME"] = str(store.path.parent)
    try:
        killed = store.runs()[0]
        if where == "forget_state":  # the promotion was committed before
            assert killed.state == "promoted"
            return
        assert store.current() is None
        run = pipeline.train(store, config(), plugins(), resume=True, backend=FakeBackend())
    finally:
        del os.environ["HHCHAT_HOME"]
    assert (run.id, run.state) == (killed.id, "promoted"), run.reason
    assert len(store.snapshots()) == 1


def test_there_must_be_something_to_resume(store: Store) -> None:
    fill(store)
    with pytest.raises(BadInput, match="no unfinished run"):
        pipeline.train(store, config(), plugins(), resume=True, backend=FakeBackend())
    run = whole_run(store)
    with pytest.raises(BadInput, match=r"has ended \(promoted\)"):
        pipeline.train(store, config(), plugins(), resume=run.id, backend=FakeBackend())


def test_a_run_that_this_version_can_not_go_on_with_is_not_offered_again(store: Store) -> None:
    fill(store)
    run = whole_run(store, fakeppo={"crash": "outdated"})
    assert (run.state, run.reason) == ("failed", "sealed by another version")
    with pytest.raises(BadInput, match="no unfinished run"):
        pipeline.train(store, config(), plugins(), resume=True, backend=FakeBackend())


def test_a_run_that_failed_before_it_had_done_anything_is_not_offered_again(store: Store) -> None:
    fill(store)
    stages = {"stages": ["fakeppo"]}  # fails at once

    class Alone(FakePPO):
        needs = ()

    class Trainers:
        @hookimpl
        def register_trainers(self, register: Any) -> None:
            register(Alone)

    made = FewPlugins(report=lambda text: None)
    made.register(Trainers(), "alone")
    settings = config(train=stages, fakeppo={"crash": "no such thing"})
    run = pipeline.train(store, settings, made, backend=FakeBackend())
    assert (run.state, run.reason) == ("failed", "no such thing")
    with pytest.raises(BadInput, match="no unfinished run"):
        pipeline.train(store, config(), plugins(), resume=True, backend=FakeBackend())


def test_a_resumed_run_has_to_beat_the_assistant_in_use_and_not_the_one_it_began_beside(
    store: Store,
) -> None:
    class Full(FakeBackend):
        def preference(self, model: Any, folder: Path) -> Any:
            raise HhchatError("a full disk")

    fill(store)
    settings = config(fakeppo={"quality": 0.5})
    old = pipeline.train(store, settings, plugins(), backend=Full())
    assert (old.state, old.reason) == ("failed", "a full disk")
    newer = whole_run(store, fakeppo={"quality": 2.0})
    assert newer.state == "promoted", newer.reason
    lines: list[str] = []
    run = pipeline.train(
        store,
        config(),
        plugins(),
        resume=True,
        backend=FakeBackend(),
        on_event=lambda e: lines.append(e.text),
    )
    assert run.id == old.id
    assert run.state == "refused"
    assert "clearly higher" in run.reason
    assert any(f"compared with {newer.snapshot}" in line for line in lines)
    assert store.current() == store.snapshot(newer.snapshot or "")


def test_an_assistant_that_is_chosen_while_a_candidate_is_measured_is_measured_beside(
    store: Store,
) -> None:
    fill(store)
    strong = whole_run(store, fakeppo={"quality": 2.0}).snapshot or ""
    store.promote("base", reason="rolled back")
    measured: list[str] = []

    def chooses(event: Any) -> None:
        if event.kind == "evaluate" and event.done == event.total:
            measured.append("once")
            if len(measured) == 1:
                store.promote(strong, reason="the user wants it back")

    run = pipeline.train(
        store,
        config(fakeppo={"quality": 0.5}),
        plugins(),
        backend=FakeBackend(),
        on_event=chooses,
    )
    assert len(measured) == 2
    assert run.state == "refused"
    assert store.current() == store.snapshot(strong)


def test_a_run_is_not_continued_on_another_model(store: Store) -> None:
    fill(store)
    whole_run(store, fakeppo={"crash": "no luck"})
    other = FakeBackend(identity="other@2")
    with pytest.raises(BadInput, match=r"another model \(fake@1, this is other@2\); fake has"):
        pipeline.train(store, config(), plugins(), resume=True, backend=other)
    elsewhere = config(model={"path": "elsewhere"})
    with pytest.raises(BadInput, match="--resume --model fake"):
        pipeline.train(store, elsewhere, plugins(), resume=True, backend=other)
    halfway = config(model={"path": "fake", "quantization": "int8"})
    with pytest.raises(BadInput, match="--resume --quantization auto"):
        pipeline.train(store, halfway, plugins(), resume=True, backend=FakeBackend())
    assert store.runs()[0].state == "failed"


def test_only_one_training_runs_in_a_home_and_the_second_is_told_who_does(store: Store) -> None:
    fill(store)
    process = start(fakeppo={"updates": 500, "seconds": 0.02})
    wait_for(process, "stage fakeppo")
    with pytest.raises(
        HhchatError, match=f"another training is running here .process {process.pid}"
    ):
        whole_run(store)
    process.kill()
    process.communicate()
    # The dead one's lock is no lock.
    assert whole_run(store).state == "promoted"
    assert [r.state for r in store.runs()] == ["promoted", "interrupted"]


def test_a_full_disk_ends_the_run_with_words_and_the_assistant_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(store)

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hhchat.sealing.os.fsync", full)
    with pytest.raises(HhchatError, match="No space left on device"):
        whole_run(store)
    monkeypatch.undo()
    assert store.current() is None
    assert store.runs()[0].state == "failed"


def test_metrics_not_yet_in_the_database_survive_a_kill(store: Store, home: Path) -> None:
    run = store.start_run(["fakeppo"], 0, "fake@1", {})
    path = home / "metrics.jsonl"
    journal = Journal(store, run.id, path, every=3600)
    for step in range(5):
        journal.log(Metric("fakeppo", step, "kl", step / 10))
    assert store.metrics(run.id) == []  # and here the process is killed, in the middle of a line
    with path.open("a") as file:
        file.write('["fakeppo", 5, "kl", 0.')
    with Journal(store, run.id, path) as again:
        again.log(Metric("fakeppo", 4, "kl", 0.4))  # repeated by the resumed stage
        again.log(Metric("fakeppo", 5, "kl", 0.5))
    assert [(m.step, m.value) for m in store.metrics(run.id)] == [(s, s / 10) for s in range(6)]
    assert len(list(read_metrics(path))) >= 5


def test_a_not_a_number_metric_is_kept_without_stopping_the_run(store: Store, home: Path) -> None:
    run = store.start_run(["fakeppo"], 0, "fake@1", {})
    with Journal(store, run.id, home / "metrics.jsonl") as journal:
        journal.log(Metric("fakeppo", 0, "loss", float("nan")))
        journal.log(Metric("fakeppo", 0, "kl", float("inf")))
    assert len(store.metrics(run.id)) == 2


def test_a_trainer_cannot_pass_off_someone_elses_folder_as_its_work(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fill(store)
    real = FakePM.train

    def lies(self: FakePM, context: Any) -> Any:
        result = real(self, context)
        return type(result)(result.measurements, preference=tmp_path)

    monkeypatch.setattr(FakePM, "train", lies)
    run = whole_run(store)
    assert run.state == "failed"
    assert "which it did not write" in (run.reason or "")
