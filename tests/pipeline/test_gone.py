"""What is missing or deleted must cost the user no hours, and stay deleted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from pipeline_fakes import FakeBackend, FakePPO, config, fill, plugins

from hhchat import evaluate, pipeline
from hhchat.protocols import StageResult, TrainingContext
from hhchat.runfolder import RunFolder, forget_words
from hhchat.store import Store
from hhchat.types import HhchatError, ModelError, Run


def train(store: Store, *, backend: FakeBackend | None = None, **more: Any) -> Run:
    tables = more.pop("tables", {})
    backend = backend or FakeBackend()
    return pipeline.train(store, config(**tables), plugins(), backend=backend, **more)


def test_an_assistant_whose_files_are_gone_is_told_before_anything_is_trained(
    store: Store, home: Path
) -> None:
    fill(store)
    first = train(store)
    broken = train(store, tables={"fakeppo": {"crash": "no luck"}})
    shutil.rmtree(home / "snapshots" / str(first.snapshot) / "fakepm")
    words = f"snapshot {first.snapshot} is damaged: its preference"
    plan = pipeline.plan(store, config(), plugins(), backend=FakeBackend())
    assert words in plan.problems[0]
    backend = FakeBackend()
    for resume in (False, broken.id):
        with pytest.raises(HhchatError, match=words):
            train(store, resume=resume, backend=backend)
    assert backend.loads == 0
    assert [r.id for r in store.runs()] == [broken.id, first.id]


def test_an_assistant_whose_weights_are_cut_short_is_told_before_it_is_passed_on(
    store: Store, home: Path
) -> None:
    fill(store)
    first = train(store)
    weights = home / "snapshots" / str(first.snapshot) / "fakeppo" / "policy"
    weights = weights / "adapter_model.safetensors"
    (weights.parent / "adapter_config.json").write_text("{}")
    for damage in (None, b"", b"half of"):
        if damage is not None:
            weights.write_bytes(damage)
        words = f"snapshot {first.snapshot} is damaged: adapter_model.safetensors of its policy"
        plan = pipeline.plan(store, config(), plugins(), backend=FakeBackend())
        assert words in plan.problems[0]
        with pytest.raises(HhchatError, match=words):
            train(store, stages=["fakepm"])
    assert [r.id for r in store.runs()] == [first.id]


def test_a_finished_stage_whose_record_is_damaged_is_run_again(store: Store) -> None:
    fill(store)
    broken = train(store, tables={"fakeppo": {"crash": "no luck"}})
    for text in ("[]", "{}", "{", '{"measurements": []}'):
        (RunFolder(broken.id).build / "fakepm" / "stage.json").write_text(text)
        assert train(store, resume=True, tables={"fakeppo": {"crash": "no luck"}}).reason != ""
        assert RunFolder(broken.id).finished("fakepm") is not None


def test_a_resumed_run_that_does_not_fit_is_refused_before_it_is_loaded(store: Store) -> None:
    fill(store)
    train(store, tables={"fakeppo": {"crash": "no luck"}})
    backend = FakeBackend(fits=False)
    with pytest.raises(ModelError, match=r"4\.0 GiB is free"):
        train(store, resume=True, backend=backend)
    assert backend.loads == 0


def test_data_that_is_not_a_run_s_is_told_in_one_line(store: Store) -> None:
    fill(store)
    broken = train(store, tables={"fakeppo": {"crash": "no luck"}})
    for text in ("[]", "{}", '{"prompts": [3]}', "7"):
        RunFolder(broken.id).data.write_text(text)
        with pytest.raises(HhchatError, match="damaged"):
            train(store, resume=True)


def test_stages_are_told_which_gauges_there_are_to_be(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, Path]] = []
    original = FakePPO.train

    def looks(self: FakePPO, context: TrainingContext) -> StageResult:
        seen.append(dict(context.gauges))
        return original(self, context)

    monkeypatch.setattr(FakePPO, "train", looks)
    fill(store)
    train(store, tables={"fakepm": {"halves": True}})
    assert [(name, path.name) for name, path in seen[0].items()] == [
        ("a", "half-a"),
        ("b", "half-b"),
    ]


def test_words_of_a_deleted_conversation_leave_what_runs_keep(store: Store, home: Path) -> None:
    fill(store)
    ended = train(store, tables={"train": {"shown_prompts": 3}})
    going = train(store, tables={"fakeppo": {"crash": "no luck"}})
    report = home / "runs" / ended.id / "report.json"
    before = json.loads(report.read_text())
    asked = {before["samples"][0]["prompt"], before["typical"][1]["prompt"]}
    data = json.loads(RunFolder(going.id).data.read_text())
    trained = data["prompts"][0]["messages"][-1]["content"]
    forget_words({*asked, trained})
    assert not any(word in report.read_text() for word in asked)
    after = json.loads(report.read_text())
    assert after["measurements"] == before["measurements"]
    assert [r["score"] for r in after["rows"]] == [r["score"] for r in before["rows"]]
    assert len(after["samples"]) < len(before["samples"])
    left = [
        m["content"]
        for p in json.loads(RunFolder(going.id).data.read_text())["prompts"]
        for m in p["messages"]
    ]
    assert left
    assert trained not in left
    for text in ("[]", "{}", "no JSON"):  # what cannot be read stays as it is
        report.write_text(text)
        forget_words(asked)
        assert report.read_text() == text


def test_the_end_of_measuring_is_told_once() -> None:
    assert evaluate.typical(None, None, [], candidate="a", incumbent="b", seed=0) == []  # type: ignore[arg-type]
