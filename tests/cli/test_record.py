"""prefs, prompts, runs and snapshots: what is printed, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hhchat import paths
from hhchat.cli.prefs import FORMATS
from hhchat.protocols import StageResult
from hhchat.runfolder import RunFolder
from hhchat.sealing import only_one
from hhchat.store import Store
from hhchat.text import printable
from hhchat.types import Metric, Snapshot

Run = Callable[..., Any]
ESCAPES = "\x1b]52;c;QUFB\x07 [/INST] [red]\x9b31m \u202e"
PAIR = {
    "messages": [{"role": "user", "content": "Say hi"}],
    "chosen": f"Hello! {ESCAPES}",
    "rejected": "Go away.",
    "strength": 3,
    "mode": "helpful",
}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(PAIR) + "\n" + json.dumps({**PAIR, "chosen": "Hey!"}) + "\n")
    return path


def safe(text: str) -> None:
    """Nothing that a terminal would obey."""
    assert not [c for c in text if (ord(c) < 32 and c not in "\n\t") or 127 <= ord(c) < 160]
    assert "\u202e" not in text


def test_import_twice_changes_nothing(run: Run, pairs: Path) -> None:
    assert run("prefs", "import", pairs, "--json").ok().lines == [
        {"added": 2, "duplicates": 0, "unusable": 0, "bad": []}
    ]
    assert run("prefs", "import", pairs).ok().out == "0 added, 2 were there already\n"


def test_bad_lines_are_named_and_good_ones_kept(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    path.write_text(f'{json.dumps(PAIR)}\nnot json\n{{"chosen": 3}}\n')
    ran = run("prefs", "import", path, "--format", "hhchat").ok()
    assert "line 2" in ran.err
    assert "line 3" in ran.err
    assert ran.out == "1 added, 2 bad lines skipped\n"
    strict = run("prefs", "import", path, "--format", "hhchat", "--strict")
    assert strict.code == 2
    assert "line 2" in strict.err


def test_import_from_a_pipe(run: Run, pairs: Path) -> None:
    assert "2 added" in run("prefs", "import", "-", stdin=pairs.read_bytes()).ok().out


@pytest.mark.parametrize(
    ("content", "args", "said"),
    [
        (b"\x00\xff\xfe\x80" * 50, [], "mystery"),
        (b"hello\n", [], "mystery"),
        (b'{"a": 1}\n', ["--format", "dop"], "did you mean 'dpo'?"),
    ],
)
def test_a_file_that_is_no_preferences(
    run: Run, tmp_path: Path, content: bytes, args: list[str], said: str
) -> None:
    path = tmp_path / "mystery"
    path.write_bytes(content)
    ran = run("prefs", "import", path, *args)
    assert ran.code == 2
    assert said in ran.err.splitlines()[-1]


def test_a_missing_file(run: Run, tmp_path: Path) -> None:
    ran = run("prefs", "import", tmp_path / "nope")
    assert ran.code == 2
    assert "No such file" in ran.err


@pytest.mark.parametrize("form", FORMATS)
def test_export_and_import_again(run: Run, pairs: Path, tmp_path: Path, form: str) -> None:
    run("prefs", "import", pairs).ok()
    out = run("prefs", "export", "--format", form).ok().out
    safe(out)
    assert len(out.splitlines()) == 2
    target = tmp_path / "out.jsonl"
    assert "2 written" in run("prefs", "export", "--format", form, "--output", target).ok().out
    assert json.loads(target.read_text().splitlines()[0]) == json.loads(out.splitlines()[0])
    assert "0 added" in run("prefs", "import", target, "--format", form).ok().out


def test_the_formats_of_help_are_the_ones_there_are() -> None:
    from hhchat import formats

    assert set(FORMATS) == set(formats.FORMATS)


def test_export_to_nowhere(run: Run, pairs: Path, tmp_path: Path) -> None:
    ran = run("prefs", "export", "--output", tmp_path / "no" / "such" / "folder")
    assert ran.code == 2
    assert len(ran.err.splitlines()) == 1


def test_list_and_stats(run: Run, pairs: Path) -> None:
    run("prefs", "import", pairs).ok()
    text = run("prefs", "list").ok().out
    safe(text)
    assert "\\x1b]52" in text
    rows = run("prefs", "list", "--json").ok().lines
    assert [row["replies"][0]["text"] for row in rows] == ["Hey!", PAIR["chosen"]]
    assert rows[0]["strength"] == 3
    assert rows[0]["preferred"] == 0
    assert len(run("prefs", "list", "--n", "1", "--json").ok().lines) == 1
    assert len(run("prefs", "list", "--all", "--json").ok().lines) == 2
    assert run("prefs", "list", "--mode", "other", "--json").ok().lines == []
    [stats] = run("prefs", "stats", "--json").ok().lines
    assert stats["comparisons"] == 2
    assert run("prefs", "--json").ok().lines == [stats]
    assert "comparisons      2" in run("prefs", "stats").ok().out


def test_prompts(run: Run) -> None:
    assert run("prompts", "add", "What is rain?", f"Why {ESCAPES}?").ok().out == "2 added\n"
    assert run("prompts", "add", "What is rain?", "--json").ok().lines == [{"given": 1, "added": 0}]
    assert run("prompts", "add", stdin="one\n\ntwo\n").ok().out == "2 added\n"
    lines = '{"messages": [{"role": "user", "content": "three"}]}\n{"prompt": "four"}\n'
    assert run("prompts", "add", "--input", "-", stdin=lines).ok().out == "2 added\n"
    safe(run("prompts", "list").ok().out)
    rows = run("prompts", "list", "--source", "mine", "--json").ok().lines
    assert len(rows) == 6
    assert set(rows[0]) == {"source", "split", "mode", "messages"}
    assert len(run("prompts", "--n", "2", "--json").ok().lines) == 2
    starter = run("prompts", "list", "--source", "starter", "--split", "heldout", "--json").ok()
    assert {row["split"] for row in starter.lines} == {"heldout"}


@pytest.mark.parametrize("args", [["prompts", "add", " "], ["prompts", "list", "--n", "-1"]])
def test_prompts_refused(run: Run, args: list[str]) -> None:
    assert run(*args).code == 2


def test_a_prompt_that_is_not_text(run: Run) -> None:
    ran = run("prompts", "add", stdin=b"\xff\xfe")
    assert ran.code == 2
    assert "not UTF-8" in ran.err


@pytest.mark.parametrize("args", [["prefs", "list"], ["runs", "list"]])
def test_a_count_of_rows_is_at_least_one(run: Run, args: list[str]) -> None:
    assert "x>=1" in run(*args, "--n", "0").err


def test_a_folder_is_no_file_to_export_to(run: Run) -> None:
    ran = run("prefs", "export", "--output", ".")
    assert (ran.code, ran.err) == (2, "hhchat: error: cannot write .: it is a folder\n")


def test_an_empty_list_names_the_mode(run: Run) -> None:
    assert "no picks in mode 'helpfull'" in run("prefs", "list", "--mode", "helpfull").ok().out


# --- runs and snapshots ----------------------------------------------------------------------


def add_snapshot(store: Store, id: str) -> None:
    folder = paths.snapshots() / id
    (folder / "ppo").mkdir(parents=True)
    (folder / "snapshot.json").write_text('{"policy": "ppo"}')
    store.add_snapshot(Snapshot(id, id, None, "base", "starter@0", info={"reasons": ["good"]}))


@pytest.fixture
def snapshots() -> None:
    with Store() as store:
        add_snapshot(store, "first")
        add_snapshot(store, "second")


def test_snapshots(run: Run, snapshots: None) -> None:
    shown = run("snapshots").ok().out
    assert "the assistant is base" in shown
    assert shown.count("refused") == 2
    assert run("snapshots", "use", "first", "--json").ok().lines == [{"current": "first"}]
    assert "now second" in run("snapshots", "use", "second").ok().out
    rows = run("snapshots", "--json").ok().lines
    assert [(row["id"], row["current"]) for row in rows] == [("first", False), ("second", True)]
    assert [row["state"] for row in rows] == ["promoted", "current"]
    assert run("snapshots", "rollback", "--json").ok().lines == [{"current": "first"}]
    assert run("snapshots", "rollback", "--json").ok().lines == [{"current": "base"}]
    ran = run("snapshots", "rollback")
    assert ran.code == 2
    assert "nothing to roll back" in ran.err
    run("snapshots", "use", "first").ok()
    run("snapshots", "use", "second").ok()
    (paths.snapshots() / "first").rename(paths.snapshots() / "away")
    ran = run("snapshots", "rollback")
    assert ran.code != 0
    assert "snapshot first is missing" in ran.err
    assert [row["current"] for row in run("snapshots", "--json").ok().lines] == [False, True]
    (paths.snapshots() / "away").rename(paths.snapshots() / "first")
    run("snapshots", "use", "base").ok()
    [shown] = run("snapshots", "show", "first", "--json").ok().lines
    assert shown["info"] == {"reasons": ["good"]}
    assert shown["folder"] == str(paths.snapshots() / "first")
    assert "good" in run("snapshots", "show", "first").ok().out


def test_a_snapshot_that_is_not_there(run: Run, snapshots: None) -> None:
    for args in (["use", "third"], ["show", "third"]):
        ran = run("snapshots", *args)
        assert ran.code == 2
        assert "third" in ran.err
        assert len(ran.err.splitlines()) == 1


@pytest.mark.parametrize("damage", ["folder", "manifest", "half"])
def test_a_damaged_snapshot_is_never_made_current(run: Run, snapshots: None, damage: str) -> None:
    folder = paths.snapshots() / "first"
    if damage == "half":
        (folder / "ppo").rmdir()
    else:
        (folder / "snapshot.json").unlink()
        if damage == "folder":
            (folder / "ppo").rmdir()
            folder.rmdir()
    ran = run("snapshots", "use", "first")
    assert ran.code == 1
    assert "first" in ran.err
    assert "the assistant is base" in run("snapshots").ok().out


def test_runs(run: Run) -> None:
    assert "no runs yet" in run("runs").ok().out
    with Store() as store:
        made = store.start_run(("pm", "ppo"), 7, "starter", {"note": 1})
        store.add_metrics(made.id, [Metric("pm", 0, "loss", 0.7), Metric("pm", 1, "loss", 0.5)])
        store.finish_run(made.id, "refused", reason=f"too far {ESCAPES}")
    [row] = run("runs", "--json").ok().lines
    assert row["state"] == "refused"
    assert row["stages"] == ["pm", "ppo"]
    assert row["seed"] == 7
    safe(run("runs").ok().out)
    [shown] = run("runs", "show", made.id, "--json").ok().lines
    assert shown["metrics"] == {"pm": {"loss": 0.5}}
    assert shown["data"] == {"note": 1}
    text = run("runs", "show", made.id).ok().out
    safe(text)
    assert "too far" in text
    readings = run("runs", "show", made.id, "--metrics").ok().lines
    assert readings[1] == {"stage": "pm", "step": 1, "name": "loss", "value": 0.5}
    ran = run("runs", "show", "nope")
    assert ran.code == 2
    assert "nope" in ran.err


@pytest.mark.parametrize(
    "why", ["12% of the replies do not end", "two losses in a row were not finite", ESCAPES]
)
def test_whoever_looks_a_run_up_reads_what_stopped_its_policy(run: Run, why: str) -> None:
    with Store() as store:
        made = store.start_run(("pm", "ppo"), 7, "starter", {})
    folder = RunFolder(made.id)
    for stage, info in (("pm", {}), ("ppo", {"stop": why, "best_update": 3})):
        folder.out(stage)
        folder.finish(stage, StageResult(info=info))
    [shown] = run("runs", "show", made.id, "--json").ok().lines
    assert shown["stops"] == {"ppo": why}
    text = run("runs", "show", made.id).ok().out
    safe(text)
    assert f"stopped    ppo, early: {printable(why)}" in text
    for damaged in ("{", "[]", '{"info": 3}', '{"info": {"stop": null}}'):
        (folder.build / "ppo" / "stage.json").write_text(damaged)
        assert run("runs", "show", made.id, "--json").ok().lines[0]["stops"] == {}


def test_a_killed_run_is_not_called_running(run: Run) -> None:
    with Store() as store:
        made = store.start_run(("pm", "ppo"), 7, "starter", {})
    assert not paths.train_lock().exists()
    with only_one(paths.train_lock()):
        assert [row["state"] for row in run("runs", "--json").ok().lines] == ["running"]
    for args in ([], ["show", made.id]):
        [row] = run("runs", *args, "--json").ok().lines
        assert (row["state"], row["finished"]) == ("interrupted", None)
        assert "was killed" in row["reason"]
    with Store() as store:
        assert store.run(made.id).state == "running"  # looking changes nothing


def test_a_database_that_is_not_one(run: Run, home: Path) -> None:
    home.mkdir()
    rubbish = b"not a database, " * 999
    (home / "hhchat.db").write_bytes(rubbish)
    for args in (["prefs"], ["runs"], ["snapshots"]):
        ran = run(*args)
        assert ran.code == 1
        assert "hhchat.db" in ran.err
        assert len(ran.err.splitlines()) == 1
    assert (home / "hhchat.db").read_bytes() == rubbish
