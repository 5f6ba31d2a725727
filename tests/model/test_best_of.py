"""The best of several replies is the favourite of the snapshot's own preference model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from hhchat import paths
from hhchat.backend import LocalBackend
from hhchat.cli import cli
from hhchat.model import LocalEngine, Model, PreferenceModel
from hhchat.model.preference import PreferenceRole
from hhchat.snapshots import Resolver
from hhchat.store import Store
from hhchat.types import Draw, Exchange, Message, Sampling, Snapshot

ASKED = ["the cat sat", "why dog", "hello again"]


@pytest.fixture
def tastes(
    tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Model, dict[str, PreferenceModel]]:
    """Two snapshots of the bare base with opposite tastes; `likes` is the current one."""
    monkeypatch.setenv("HHCHAT_HOME", str(tmp_path / "home"))
    model = tiny.load()
    made = {}
    with Store() as store:
        for name, sign in (("likes", 1.0), ("loathes", -1.0)):
            role = PreferenceRole(model, 4, seed=1)
            with torch.no_grad():
                role.head.weight.mul_(100 * sign)
            made[name] = PreferenceModel(model, role)
            folder = paths.snapshots() / name
            made[name].save(folder / "pm")
            (folder / "snapshot.json").write_text(json.dumps({"preference": "pm"}))
            store.add_snapshot(Snapshot(name, name, None, "base", model.identity))
        store.promote("likes", reason="a test")
    return model, made


def test_each_snapshot_s_replies_are_chosen_by_its_own_preference_model(tastes) -> None:
    model, made = tastes
    with Store() as store:
        engine = LocalBackend().engine(model, Resolver(store))
        sampling = Sampling(max_new_tokens=12, best_of=4)
        found = {}
        for name, judge in made.items():
            talks = [(Message("user", text),) for text in ASKED]
            draws = [Draw(talk, i, sampling, name) for i, talk in enumerate(talks)]
            found[name] = [g.text for g in engine.generate(draws)]
            alone = LocalEngine(model, lambda _: ("x", None), judge=lambda _, it=judge: it)
            assert found[name] == [g.text for g in alone.generate(draws)]
    assert found["likes"] != found["loathes"]


def test_the_command_says_what_the_current_preference_model_likes_best(tastes, tmp_path) -> None:
    model, made = tastes
    asked = tmp_path / "asked.jsonl"
    asked.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ASKED))

    def said(*more: str) -> list[str]:
        command = ["sample", "--input", str(asked), "-n", "1", "--max-new-tokens", "12"]
        ran = CliRunner().invoke(cli, [*command, "--model", str(model.folder), *more])
        assert ran.exit_code == 0, ran.output
        lines = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("{")]
        return [line["replies"][0]["text"] for line in lines]

    def mean(texts: list[str]) -> float:
        talks = [(Message("user", text),) for text in ASKED]
        pairs = zip(talks, texts, strict=True)
        return sum(made["likes"].score([Exchange(talk, text) for talk, text in pairs]))

    best, worst = said("--best-of", "8"), said("--best-of", "8", "--snapshot", "loathes")
    assert mean(best) > mean(said()) > mean(worst)
