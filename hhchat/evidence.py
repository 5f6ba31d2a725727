"""All that is left of a run, gathered for its page: from the database and from its folder.

Nothing in a run's folder is trusted to be there or to be whole: a run may have been killed, a
disk full, a file edited. What cannot be read is left out and named.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hhchat.runfolder import REPORT_SCHEMA, RunFolder, read_metrics
from hhchat.sealing import read_json
from hhchat.types import HhchatError, Measurement, Metric, Run

if TYPE_CHECKING:
    from hhchat.store import Store

TESTED = ("pm_cross_accuracy", "pm_accuracy")  # of unseen picks
Readings = dict[str, list[tuple[float, float]]]  # of one stage: name -> (update, value)


@dataclass
class Evidence:
    """All that is left of a run. What is not there is empty, and `missing` says so in words."""

    run: Run
    stages: dict[str, Readings] = field(default_factory=dict)
    info: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    measured: dict[str, Measurement] = field(default_factory=dict)
    tested: dict[str, Measurement] = field(default_factory=dict)  # also before the gate has them
    reasons: list[str] = field(default_factory=list)
    samples: list[Mapping[str, Any]] = field(default_factory=list)
    rows: list[Mapping[str, Any]] = field(default_factory=list)
    typical: list[Mapping[str, Any]] = field(default_factory=list)
    pairs: list[Mapping[str, Any]] = field(default_factory=list)
    replies: Mapping[str, Any] = field(default_factory=dict)
    current: str = ""
    incumbent: str | None = None  # what the candidate was compared with
    missing: list[str] = field(default_factory=list)


def gather(store: Store, run: Run) -> Evidence:
    """What the database and the run's folder hold; whatever cannot be read is left out."""
    found = Evidence(run)
    folder = RunFolder(run.id)
    metrics = list(store.metrics(run.id))
    try:
        # The journal is ahead of the database while a run goes on, and after it was killed.
        metrics.extend(read_metrics(folder.metrics))
    except (OSError, TypeError):
        found.missing.append("metrics.jsonl cannot be read: only the database's readings are here")
    found.stages = _by_stage(metrics)
    if not found.stages:
        found.missing.append("the run has logged no readings")
    known: dict[str, Measurement] = {}  # what finished stages measured themselves
    for stage in run.stages:
        told = folder.finished(stage) or {}
        found.info[stage] = _mapping(told.get("info"))
        known |= _measurements(told.get("measurements"))
    current = store.current()
    found.current = current.id if current is not None else "base"
    _verdict(found, folder, store)
    # a run that never came to the gate has them from its stage, or at least their readings
    readings = found.stages.get("pm", {})
    logged = {name: Measurement(name, readings[name][-1][1]) for name in TESTED if name in readings}
    known = {**logged, **known, **found.measured}
    found.tested = {name: known[name] for name in TESTED if name in known}
    return found


def _verdict(found: Evidence, folder: RunFolder, store: Store) -> None:
    """What the gate saw: from report.json, else what the snapshot's row keeps of it."""
    try:
        report = _mapping(read_json(folder.root / "report.json"))
    except (HhchatError, RecursionError):
        report = {}
        why = "cannot be read" if (folder.root / "report.json").exists() else "is not there"
        found.missing.append(f"report.json {why}: no histograms and no samples")
    measured = as_list(report.get("measurements"))
    found.reasons = [str(reason) for reason in as_list(report.get("reasons"))]
    if not report:
        for snapshot in store.snapshots():
            if snapshot.id == found.run.snapshot:
                measured = list(_mapping(snapshot.info.get("measurements")).values())
                found.reasons = [str(r) for r in as_list(snapshot.info.get("reasons"))]
    incumbent = report.get("incumbent", found.run.data.get("incumbent"))
    found.incumbent = incumbent if isinstance(incumbent, str) else None
    found.measured = _measurements(measured)
    found.samples = [_mapping(sample) for sample in as_list(report.get("samples"))]
    found.rows = [_mapping(row) for row in as_list(report.get("rows"))]
    found.typical = [_mapping(told) for told in as_list(report.get("typical"))]
    found.pairs = [_mapping(pair) for pair in as_list(report.get("pairs"))]
    found.replies = _mapping(report.get("replies"))
    schema = report.get("schema", 1)
    if report and schema == 1:
        found.missing.append(
            "scores of tested pairs, KL of single replies and the median of 17 replies: "
            "the run is of an older hhchat, which kept none"
        )
    elif is_number(schema) and schema > REPORT_SCHEMA:
        found.missing.append("whatever a newer hhchat wrote into report.json that this one lacks")


def _by_stage(metrics: Iterable[Metric]) -> dict[str, Readings]:
    """Readings by stage and name in order of update; of one taken twice the first stays."""
    seen: dict[str, dict[str, dict[int, float]]] = {}
    for m in metrics:
        if isinstance(m.step, int) and is_number(m.step) and is_number(m.value):
            seen.setdefault(str(m.stage), {}).setdefault(str(m.name), {}).setdefault(
                m.step, m.value
            )
    return {
        stage: {name: sorted((float(s), v) for s, v in steps.items()) for name, steps in of.items()}
        for stage, of in seen.items()
    }


def is_number(value: Any) -> bool:
    """A float of any kind, or a whole number that a float can hold."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**53
    return isinstance(value, float)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def as_list(value: Any) -> list[Any]:
    """A list as it is; anything else is none."""
    return value if isinstance(value, list) else []


def _measurements(values: Any) -> dict[str, Measurement]:
    return {m.name: m for m in map(_measurement, as_list(values)) if m is not None}


def _measurement(value: Any) -> Measurement | None:
    told = _mapping(value)
    if not isinstance(told.get("name"), str) or not is_number(told.get("value")):
        return None
    low, high, n = (told[k] if is_number(told.get(k)) else None for k in ("low", "high", "n"))
    return Measurement(told["name"], told["value"], low, high, n, str(told.get("unit") or ""))
