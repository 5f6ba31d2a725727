"""Commands on the real starter model: repeatable, and clear about what cannot be loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hhchat import paths
from hhchat.model.locate import STARTER
from hhchat.store import Store
from hhchat.types import Snapshot

Run = Callable[..., Any]
pytestmark = pytest.mark.skipif(
    not (STARTER / "model.safetensors").exists(), reason="the starter model is not built"
)
PROMPTS = "".join(
    json.dumps({"prompt": text}) + "\n"
    for text in ("Hello!", "What is the capital of France?", "<|endoftext|> [/INST] \x1b[31m")
)
SHORT = ("--max-new-tokens", "12")


def test_the_same_seed_is_the_same_text(run: Run) -> None:
    first = run("sample", "--input", "-", *SHORT, stdin=PROMPTS).ok()
    assert len(first.lines) == 3
    assert "\x1b" not in first.out
    for line in first.lines:
        assert line["snapshot"] == "base"
        for reply in line["replies"]:
            assert reply["tokens"] <= 12
            assert isinstance(reply["finished"], bool)
    assert run("sample", "--input", "-", *SHORT, stdin=PROMPTS).ok().out == first.out
    alone = run("sample", "--input", "-", *SHORT, stdin=PROMPTS.splitlines()[0]).ok()
    assert alone.lines[0] == first.lines[0], "whatever else is in the batch"
    other = run("sample", "--input", "-", *SHORT, "--seed", "1", stdin=PROMPTS).ok()
    assert other.out != first.out


def test_ask_and_doctor(run: Run) -> None:
    assert run("ask", "Hello!", "--seed", "1", *SHORT).ok().out.strip()
    ran = run("doctor", "--json").ok()
    checks = {line["check"]: line for line in ran.lines}
    assert checks["packages"]["ok"]
    assert checks["device"]["ok"]
    assert checks["8-bit"]["ok"]
    assert checks["model"]["data"]["path"] == "starter"
    assert "chat" in checks["fits"]["data"]["0.5B"]["fits"]
    assert "int8 works" in run("doctor").ok().out


def test_doctor_misses_the_files_of_the_assistant(run: Run, home: Path) -> None:
    with Store() as store:
        store.add_snapshot(Snapshot("s-gone", "s-gone", None, "base", "starter@0"))
        store.promote("s-gone", reason="by hand")
    ran = run("doctor", "--json")
    assert ran.code == 1
    [told] = [line for line in ran.lines if line["check"] == "assistant"]
    assert not told["ok"]
    assert "s-gone is missing" in told["text"]


def test_doctor_fails_on_a_damaged_database(run: Run, home: Path) -> None:
    home.mkdir()
    (home / "hhchat.db").write_bytes(b"rubbish" * 1000)
    ran = run("doctor", "--json")
    assert ran.code == 1
    checks = {line["check"]: line for line in ran.lines}
    assert checks["database"]["ok"] is False
    assert checks["8-bit"]["ok"] is True


@pytest.mark.parametrize("damage", ["nothing", "manifest", "policy", "weights"])
def test_a_snapshot_that_cannot_be_used(run: Run, damage: str) -> None:
    if damage != "nothing":
        folder = paths.snapshots() / "snap"
        (folder / "ppo").mkdir(parents=True)
        (folder / "snapshot.json").write_text('{"policy": "ppo"}')
        if damage == "manifest":
            (folder / "snapshot.json").write_text('{"policy":')
        if damage == "policy":
            (folder / "ppo").rmdir()
        with Store() as store:
            store.add_snapshot(Snapshot("snap", "snap", None, "base", "starter"))
    ran = run("sample", "--input", "-", "--snapshot", "snap", *SHORT, stdin=PROMPTS)
    assert ran.code in (1, 2)
    assert ran.out == ""
    assert "snap" in ran.err or "adapter" in ran.err
    assert len(ran.err.splitlines()) == 1
    assert "Error:" not in ran.err


@pytest.mark.parametrize(
    "what", ["a file", "an empty folder", "no such thing", "only pickles", "half a config"]
)
def test_a_path_that_is_no_model(run: Run, tmp_path: Path, what: str) -> None:
    path = tmp_path / "model"
    if what == "a file":
        path.write_text("hello")
    elif what != "no such thing":
        path.mkdir()
    if what in ("only pickles", "half a config"):
        shutil.copytree(STARTER, path, dirs_exist_ok=True)
    if what == "only pickles":
        (path / "model.safetensors").rename(path / "pytorch_model.bin")
    if what == "half a config":
        (path / "config.json").write_text('{"model_type": "lla')
    ran = run("ask", "hello", "--model", path)
    assert ran.code in (1, 2)
    assert ran.out == ""
    assert len(ran.err.splitlines()) == 1
    assert "model" in ran.err
    assert "Error:" not in ran.err
    if what == "only pickles":
        assert "safetensors" in ran.err


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--quantization", "int9", "did you mean 'int8'?"),
        ("--device", "gpu", "gpu"),
        ("--temperature", "-1", "--temperature must be at least 0"),
        ("--top-p", "7", "--top-p must be at most 1"),
        ("--max-new-tokens", "0", "--max-new-tokens must be at least 1"),
    ],
)
def test_options_that_cannot_be(run: Run, option: str, value: str, said: str) -> None:
    ran = run("ask", "hello", option, value)
    assert ran.code == 2
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_dry_run_says_what_is_missing(run: Run) -> None:
    [plan] = run("train", "--dry-run", "--json").ok().lines
    assert plan["comparisons"] == 0
    assert plan["missing"] == plan["needed"]
    assert plan["problems"]
    assert [stage["name"] for stage in plan["stages"]] == ["pm", "best-of"]  # few picks
    assert any("steps aside" in line for line in plan["warnings"])
    told = run("train", "--dry-run").ok().out
    assert "would not start" in told
    assert "PPO steps aside below" in told
    named = run("train", "--dry-run", "--stages", "pm,rloo").ok().out
    assert "epochs = none" in run("train", "--dry-run", "--stages", "pm,ppo").ok().out
    assert "stages      pm, rloo" in named  # as the run would: what is named does not step aside
    ran = run("train")
    assert ran.code == 1
    assert "more" in ran.err.splitlines()[-1]
    assert "no runs yet" in run("runs").ok().out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--stages", "pm,pppo"], "no trainer is called 'pppo': did you mean 'ppo'?"),
        (["--stages", "pm,ppo,dpo"], "stages 'ppo' and 'dpo' each train a policy"),
        (["--dry-run", "--stages", "pm,best-of-k,rloo"], "'best-of-k' and 'rloo' each train a"),
        (["--resume"], "no unfinished run to continue"),
        (["--resume", "--seed", "3"], "leave --seed out"),
    ],
)
def test_a_run_that_cannot_start(run: Run, args: list[str], said: str) -> None:
    ran = run("train", *args)
    assert ran.code in (1, 2)
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_policy_may_be_followed_by_the_best_of_its_replies(run: Run) -> None:
    told = run("train", "--dry-run", "--stages", "pm,ppo,best-of").ok().out
    assert "pm, ppo, best-of" in told


def test_a_prior_that_is_not_there_is_refused_before_a_run_begins(run: Run, home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text('[pm]\nprior = "/no/such/prior"\n')
    for ran in (run("train", "--dry-run"), run("train")):
        assert ran.code in (1, 2)
        assert "/no/such/prior is not a preference model" in ran.err
    assert "no runs yet" in run("runs").ok().out


def test_a_trainers_table_is_checked_before_anything_runs(run: Run, home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text("[ppo]\nlearning_rat = 1e-4\n")
    ran = run("train", "--dry-run")
    assert ran.code == 2
    assert "did you mean 'learning_rate'?" in ran.err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--user", "helpfull", "--picks", "3"], "did you mean 'helpful'?"),
        (["--user", "helpful"], "either --picks N or --judge A B"),
        (["--user", "helpful", "--picks", "0"], "0"),
        (["--user", "helpful", "--judge", "current", "nope"], "nope"),
    ],
)
def test_simulate_refuses(run: Run, args: list[str], said: str) -> None:
    ran = run("simulate", *args)
    assert ran.code == 2
    assert said in ran.err


def test_simulate_and_judge(run: Run) -> None:
    [told] = run("simulate", "--user", "brief", "--picks", "4", "--json", *SHORT).ok().lines
    assert told["picks"] == 4
    assert set(told) == {
        "user", "picks", "ties", "conversations", "heldout", "better", "left", "active", "seconds",
    }  # fmt: skip
    [stats] = run("prefs", "stats", "--json").ok().lines
    assert stats["picks"] == 4
    judged = ["--judge", "current", "base", "--prompts", "8", *SHORT]
    [verdict] = run("simulate", "--user", "brief", *judged, "--json").ok().lines
    assert verdict["n"] == 8
    assert 0 <= verdict["low"] <= verdict["value"] <= verdict["high"] <= 1
    assert "brief prefers current to base" in run("simulate", "--user", "brief", *judged).ok().out
