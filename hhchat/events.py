"""What a run tells whoever watches it, and the same as JSON for who watches from outside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from hhchat.types import Metric, Run, SampleReport

Kind = Literal["run", "stage", "metric", "line", "samples", "evaluate", "verdict", "end"]


@dataclass(frozen=True)
class Event:
    """One thing that happened. `done` of `total`: stages, or replies of the evaluation."""

    kind: Kind
    stage: str = ""
    text: str = ""
    metric: Metric | None = None
    done: int = 0
    total: int = 0
    run: Run | None = None
    samples: tuple[SampleReport, ...] = ()  # replies of update `done`, beside those of the start


def as_record(event: Event) -> dict[str, Any]:
    """All but the run, as `hhchat train --json` prints it."""
    told: dict[str, Any] = {"event": event.kind, "stage": event.stage}
    if event.text:
        told["text"] = event.text
    if event.total:
        told |= {"done": event.done, "total": event.total}
    if event.kind == "verdict":
        told["promote"] = bool(event.done)
    if event.metric is not None:
        m = event.metric
        told |= {"step": m.step, "name": m.name, "value": m.value}
    if event.samples:
        told |= {"step": event.done, "samples": [asdict(s) for s in event.samples]}
    return told


def from_record(told: Mapping[str, Any]) -> Event | None:
    """The event that a record tells of; None when it is none: the file it is from may be cut."""
    try:
        kind = told["event"]
        if kind not in get_args(Kind):
            return None
        run = told.get("run")
        return Event(
            kind,
            str(told.get("stage", "")),
            str(told.get("text", "")),
            Metric(str(told["stage"]), int(told["step"]), str(told["name"]), float(told["value"]))
            if kind == "metric"
            else None,
            int(told.get("step" if kind == "samples" else "done", told.get("promote", 0))),
            int(told.get("total", 0)),
            None if run is None else _run(run),
            tuple(
                SampleReport(str(s["prompt"]), str(s["before"]), str(s["after"]))
                for s in told.get("samples", ())
            ),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _run(told: Mapping[str, Any]) -> Run:
    return Run(
        str(told["id"]),
        told["state"],
        tuple(map(str, told["stages"])),
        int(told["seed"]),
        str(told["base"]),
        str(told["created"]),
        told.get("finished"),
        told.get("reason"),
        told.get("snapshot"),
    )
