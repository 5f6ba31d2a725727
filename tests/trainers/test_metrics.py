"""A number that nobody explains is no reading: whatever a run logs is in docs/metrics.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trainer_world as tw
from test_methods import METHODS

from hhchat import evaluate
from hhchat.types import Delta, Generation, Message, Prompt

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
SECTIONS = {"pm": "## Stage `pm`", "policy": "## Stages `ppo`", "gate": "## What the gate reads"}


def explained(section: str) -> dict[str, list[str]]:
    """Names of a section's table with the cells of their row."""
    text = DOCS.read_text(encoding="utf-8")
    text = text[text.index(SECTIONS[section]) :]
    text = text[: text.find("\n## ", 3)]
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    return {name: row for row in rows for name in re.findall(r"`([^`]+)`", row[0])}


class Warm:
    name = "warm"
    question = ""

    def score(self, exchanges):
        return [float(len(e.reply)) for e in exchanges]


class Speaker:
    base = "b"

    def generate(self, draws):
        return [Generation(f"word {d.seed}", base="b", seed=d.seed) for d in draws]

    def sample(self, draws, cancelled=lambda: False):
        yield Delta(0)


@pytest.fixture
def logged(world) -> dict[str, set[str]]:
    """Every name that a short run of each trainer and of the evaluation logs, by section."""
    pm = world.train(tw.pm(epochs=2, patience=2), "pm-metrics")
    trainers = {"ppo": tw.ppo(updates=2, batch=32), **METHODS}
    ran = [
        world.train(trainer, f"m-{name}", terms=[(Warm(), 0.1)])
        for name, trainer in trainers.items()
    ]
    ran.append(world.train(tw.ppo(updates=1), "m-again", start=ran[0].context.out))
    measured = evaluate.compare(
        Speaker(),
        Warm(),
        [Prompt((Message("user", f"{i}"),)) for i in range(4)],
        candidate="c",
        incumbent="i",
        seed=0,
        terms=[(Warm(), 0.1)],
        gauges={"a": Warm(), "b": Warm()},
    )
    closing = {m.name for r in (pm, *ran) for m in r.result.measurements}
    # what the pipeline adds for a best-of and for a plugin's evaluations
    closing |= {evaluate.drift_of_choosing(8).name, "eval_<name>"}
    return {
        "pm": {re.sub("_half_[ab]$", "", m.name) for m in pm.metrics},
        "policy": {re.sub("_warm$", "_<term>", m.name) for r in ran for m in r.metrics},
        "gate": closing | {re.sub("_warm$", "_<term>", m.name) for m in measured.measurements},
    }


def test_every_number_that_a_run_logs_is_explained_and_none_that_it_does_not(logged) -> None:
    for section, names in logged.items():
        told = set(explained(section))
        plain = {name.removesuffix("_incumbent") for name in names}
        assert plain <= told, f"{section}: not explained: {plain - told}"
        assert told <= plain, f"{section}: explained, but never logged: {told - plain}"


def test_every_line_says_what_it_is_its_unit_and_where_it_should_be() -> None:
    for section in SECTIONS:
        for name, row in explained(section).items():
            assert len(row) == 4, name
            assert all(cell.strip() for cell in row), name
