"""`hhchat runs`: what was trained, and how it ended."""

from __future__ import annotations

from typing import Any

import click

from hhchat.cli._common import DefaultGroup, emit, json_option, open_store, say, table
from hhchat.types import Metric, Run


@click.group("runs", cls=DefaultGroup)
def command() -> None:
    """List training runs, or show one."""


@command.command("list")
@click.option(
    "--n",
    "n",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    metavar="N",
    help="How many, newest first.",
)
@json_option
def list_(n: int, as_json: bool) -> None:
    """The latest runs, newest first."""
    from hhchat.preflight import as_it_is

    with open_store(reading=True) as store:
        runs = [as_it_is(run) for run in store.runs(n)]
    if as_json:
        for run in runs:
            emit(record(run))
        return
    if not runs:
        say("no runs yet: `hhchat train` makes one")
    table(
        ("run", "state", "stages", "started", "snapshot", "reason"),
        [(r.id, r.state, ",".join(r.stages), r.created, r.snapshot, r.reason) for r in runs],
    )


@command.command("show")
@click.argument("run_id", metavar="ID")
@click.option("--metrics", "all_metrics", is_flag=True, help="Every reading, one object a line.")
@json_option
def show(run_id: str, all_metrics: bool, as_json: bool) -> None:
    """One run: its settings, how it ended, what stopped a stage early, its last readings."""
    from hhchat.preflight import as_it_is
    from hhchat.runfolder import RunFolder

    with open_store(reading=True) as store:
        run = as_it_is(store.run(run_id))
        metrics = store.metrics(run.id)
    if all_metrics:
        for m in metrics:
            emit({"stage": m.stage, "step": m.step, "name": m.name, "value": m.value})
        return
    last = latest(metrics)
    stops = {stage: why for stage in run.stages if (why := RunFolder(run.id).stopped(stage))}
    if as_json:
        emit({**record(run), "stops": stops, "data": dict(run.data), "metrics": last})
        return
    for key, value in record(run).items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else value
        say(f"{key:<10} {shown if shown not in (None, '') else '-'}")
    for stage, why in stops.items():
        say(f"stopped    {stage}, early: {why}")
    for stage, values in last.items():
        say(f"\n{stage}")
        table(("reading", "last value"), list(values.items()))


def record(run: Run) -> dict[str, Any]:
    """A run as `--json` prints it."""
    return {
        "id": run.id,
        "state": run.state,
        "stages": list(run.stages),
        "seed": run.seed,
        "base": run.base,
        "created": run.created,
        "finished": run.finished,
        "reason": run.reason,
        "snapshot": run.snapshot,
    }


def latest(metrics: list[Metric]) -> dict[str, dict[str, float]]:
    """The last value of each reading, by stage."""
    found: dict[str, dict[str, float]] = {}
    for metric in metrics:
        found.setdefault(metric.stage, {})[metric.name] = metric.value
    return found
