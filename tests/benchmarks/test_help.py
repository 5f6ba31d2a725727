"""Every benchmark imports, explains itself fast, and measures with sound arithmetic."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import common, taught

NAMES = ("speed", "taught", "levers", "ui", "hard", "gpu")


@pytest.mark.parametrize("name", NAMES)
def test_help_names_the_options_that_all_have(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as left:
        import_module(f"benchmarks.{name}").main(["--help"])
    assert left.value.code == 0
    text = capsys.readouterr().out
    assert f"python -m benchmarks.{name}" in text
    assert "--out" in text
    assert "--smoke" in text


@pytest.mark.parametrize(
    "name",
    [
        "arena",
        "first_token",
        "inputs",
        "large",
        "made",
        "ours",
        "peers",
        "synthetic",
        "terminal",
        "common",
        "levers_bank",
    ],
)
def test_every_module_imports_without_the_peers(name: str) -> None:
    import_module(f"benchmarks.{name}")


def test_a_report_is_json_and_markdown(tmp_path: Path) -> None:
    report = common.Report("speed", {"rounds": 1}, tmp_path / "speed.json")
    report.say(common.table(("what", "s"), [["a step", 1.2345], ["not measured", None]]))
    report.note("a peer is missing")
    report.data["ppo"] = {"a": 1}
    report.save()
    content = json.loads((tmp_path / "speed.json").read_text())
    assert content["results"] == {"ppo": {"a": 1}}
    assert content["machine"]["cores"] >= 1
    text = (tmp_path / "speed.md").read_text()
    for wanted in ("1.23", "a peer is missing", "torch", "command"):
        assert wanted in text


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert common.Bar("x", None, 2.0).met is None
    assert common.Bar("x", 2.0, 2.0).met is True
    assert common.Bar("x", 3.0, 2.0, at_most=True).met is False


def test_percentiles_are_of_the_readings_themselves() -> None:
    values = [float(n) for n in range(1, 101)]
    assert common.percentile(values, 0.99) == 100.0
    assert common.percentile(values, 0.5) == 51.0
    assert common.percentile([7.0], 0.99) == 7.0


def made(**changes: Any) -> dict[str, Any]:
    found = {
        **{"picks": 300, "user": "helpful", "method": "ppo", "seed": 0, "state": "promoted"},
        **{"win_rate": 0.8, "kl": 3.0, "length": 20.0, "unfinished": 0.0, "pm_accuracy": 0.8},
        **{"facts_before": 0.9, "facts_after": 0.9, "wall": 60.0, "cpu": 60.0},
    }
    return {**found, **changes}


def test_the_worst_seed_is_held_against_the_bar() -> None:
    bars = {b.what: b for b in taught.bars([made(), made(seed=1, win_rate=0.5, kl=9.0)])}
    assert bars["helpful: mean win rate, ppo, 300 picks"].value == pytest.approx(65.0)
    assert bars["helpful: worst seed"].met is False
    assert bars["largest KL"].met is False
    assert bars["brief: mean win rate, ppo, 300 picks"].met is None


def test_seconds_of_trainings_that_shared_the_machine_are_not_held_against_the_bar() -> None:
    def slowest(*cells: dict[str, Any]) -> float | None:
        return next(b.value for b in taught.bars(cells) if b.what.startswith("slowest"))

    beside = made(seed=1, wall=500.0, cpu=None)
    assert slowest(beside) is None
    assert slowest(made(), beside) == 60.0


def test_intervals_widen_for_few_seeds() -> None:
    assert taught.interval([0.8]) == "80.0"
    assert taught.interval([0.7, 0.8, 0.9]) == "80.0 ± 24.8"
    assert taught.interval([None]) == "-"


def test_the_gates_readings_win_over_a_stages() -> None:
    shown = {"metrics": {"gate": {"kl": 2.0}, "ppo": {"kl": 5.0, "length": 9.0}}}
    assert taught.metrics_of(shown) == {"kl": 2.0, "length": 9.0}


def test_a_synthetic_database_is_one_the_store_knows(tmp_path: Path) -> None:
    from benchmarks.synthetic import build
    from hhchat.store import Store

    build(tmp_path / "x.db", 30, 7)
    with Store(tmp_path / "x.db") as store:
        assert store.check() == "ok"
        assert store.stats()["comparisons"] == 30
        assert len(store.conversations(limit=50)) == 8  # and the one it was begun with
        assert store.conversations("water") != []
        assert len(store.usable()) == 30


def test_a_loss_is_named_by_the_message_whose_pick_was_shown() -> None:
    from benchmarks.hard_chat import Copy, Pick, losses, shown

    copy = Copy("ok", {"one": ["left"], "two": []}, {})
    assert losses(copy, ["one", "two"], [Pick("one", "left")]) == []
    assert losses(copy, ["three"], []) == ["message 'three'"]
    assert losses(copy, [], [Pick("one", "right"), Pick("two", "left")]) == [
        "pick right of 'one'",
        "pick left of 'two'",
    ]
    assert shown(b"\x1b[1;2H\x1b[38;2;1;2;3mNot \x1b[0msaved\x1b]22;default\x07") == b"Not saved"
    assert shown("\x1b[?25l✓ saved".encode()) == "✓ saved".encode()


def test_two_runs_that_differ_in_a_bit_are_not_equal() -> None:
    from benchmarks.hard_train import Outcome

    one = Outcome({("pm", 0, "loss"): 0.5}, {"pm/a.safetensors": "aa"}, "promoted", "ok")
    assert one.unlike(one) == []
    other = Outcome({("pm", 0, "loss"): 0.5000000000000001}, {}, "refused", "broken")
    assert len(one.unlike(other)) == 4
