"""A run's own folder, and the journal of its metrics.

    <home>/runs/<run>/data.json       the rows and prompts it learns from
    <home>/runs/<run>/snapshot/       what becomes the snapshot: one folder a stage
    <home>/runs/<run>/state/<stage>/  sealed state, from which a stage goes on after a kill
    <home>/runs/<run>/metrics.jsonl   every metric at once; the database gets them in batches
    <home>/runs/<run>/report.json     what the gate saw and why it decided, and what its page draws
    <home>/runs/<run>/error.txt       the traceback of a crash, for whoever mends it

`snapshot/` is renamed to <home>/snapshots/s-<run> when it is complete: at any instant the stage
folders are in exactly one of the two places.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hhchat import paths
from hhchat.evaluate import Judged
from hhchat.protocols import StageResult
from hhchat.sealing import read_json, write_json
from hhchat.snapshots import best_of, manifest, part
from hhchat.types import HhchatError, Measurement, Metric, Report, Verdict

if TYPE_CHECKING:
    from hhchat.store import Store

DONE = "stage.json"
TOLD = {"measurements", "policy", "preference", "gauges", "stop"}  # in it, at the least
REPORT_SCHEMA = 2  # 1 had no number, and no typical, pairs and replies
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def safe_name(name: str) -> bool:
    """Whether a stage's name can name its folder on every system."""
    return _NAME.fullmatch(name) is not None


@dataclass
class Results:
    """What the finished stages gave; paths are relative to the snapshot's folder."""

    folders: dict[str, Path] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    policy: str | None = None
    preference: str | None = None
    gauges: dict[str, str] = field(default_factory=dict)
    best_of: int = 1  # above 1: the assistant says the preference model's favourite of so many
    inherited: Path | None = None  # the incumbent's policy, where no stage made one
    stop: str | None = None
    tested: dict[str, Any] = field(default_factory=dict)  # a preference model's pairs and gaps
    replies: dict[str, Any] = field(default_factory=dict)  # a policy's, one number a reply

    def add(self, stage: str, folder: Path, told: dict[str, Any]) -> None:
        """One more stage; a later policy or preference model replaces an earlier one."""
        self.folders[stage] = folder
        self.measurements.extend(Measurement(**m) for m in told["measurements"])
        self.policy = told["policy"] or self.policy
        self.preference = told["preference"] or self.preference
        self.gauges.update(told["gauges"])
        self.stop = told["stop"]
        info = told.get("info") or {}
        self.best_of = int(info.get("best_of", 1 if told["policy"] else self.best_of))
        self.tested = (info.get("tested") if told["preference"] else None) or self.tested
        self.replies = (info.get("replies") if told["policy"] else None) or self.replies

    def inherit(self, folder: Path | None) -> None:
        """A run without a policy stage keeps the assistant in `folder`, None for the bare base:
        its policy, and how many replies it draws where the run does not say."""
        told = {} if folder is None else manifest(folder)
        self.inherited = None if folder is None else part(folder, "policy")
        if self.best_of == 1:
            self.best_of = best_of(folder)
        if any(m.name == "kl" for m in self.measurements):
            return
        measured = [Measurement(**m) for m in told.get("measurements", ())]
        if self.inherited is None:  # the bare base has not drifted
            measured = [Measurement("kl", 0.0, unit="nats/response")]
        self.measurements += [m for m in measured if m.name == "kl"]

    @property
    def speaks(self) -> bool:
        """Whether the replies are other than before, so that the gate has to judge them: what is
        chosen among several is another preference model's favourite."""
        return self.policy is not None or self.best_of > 1


@dataclass(frozen=True)
class RunFolder:
    """Where a run's files are."""

    run: str

    @property
    def root(self) -> Path:
        return paths.runs() / self.run

    @property
    def snapshot_id(self) -> str:
        """Known from the start, so that a run killed while it publishes finds its own work."""
        return f"s-{self.run}"

    @property
    def sealed(self) -> Path:
        return paths.snapshots() / self.snapshot_id

    @property
    def build(self) -> Path:
        """The stage folders: under the run until they are published, then under snapshots."""
        return self.sealed if self.sealed.exists() else self.root / "snapshot"

    @property
    def data(self) -> Path:
        return self.root / "data.json"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics.jsonl"

    def make(self) -> None:
        paths.ensure(paths.runs())
        paths.ensure(self.root)
        (self.root / "snapshot").mkdir(exist_ok=True)

    def out(self, stage: str) -> Path:
        folder = self.build / stage
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def state(self, stage: str) -> Path:
        folder = self.root / "state" / stage
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def worked(self) -> bool:
        """Whether a stage has sealed or finished anything, so that there is what to go on with."""
        return any(self.root.glob("state/*/*")) or any(self.build.glob(f"*/{DONE}"))

    def finished(self, stage: str) -> dict[str, Any] | None:
        """What a finished stage told; None while it is not finished, and where that can not be
        read: it is run again then, from its last seal, and tells the same."""
        try:
            told = read_json(self.build / stage / DONE)
        except HhchatError:
            return None
        return told if isinstance(told, dict) and told.keys() >= TOLD else None

    def stopped(self, stage: str) -> str:
        """Why a finished stage ended before its last update; "" where it did not, or is lost."""
        info = (self.finished(stage) or {}).get("info")
        return str(info.get("stop") or "") if isinstance(info, dict) else ""

    def finish(self, stage: str, result: StageResult) -> dict[str, Any]:
        """Record a stage as finished: from here on a resumed run does not repeat it."""
        info = dict(result.info)
        gauges = info.pop("gauges", {})
        told = {
            "measurements": [asdict(m) for m in result.measurements],
            "policy": self._inside(stage, "policy", result.policy),
            "preference": self._inside(stage, "preference model", result.preference),
            "gauges": {n: self._inside(stage, f"gauge {n}", Path(p)) for n, p in gauges.items()},
            "stop": result.stop,
            "info": json.loads(json.dumps(info, default=str)),
        }
        write_json(self.build / stage / DONE, told)
        return told

    def _inside(self, stage: str, what: str, path: Path | None) -> str | None:
        if path is None:
            return None
        base = (self.build / stage).resolve()
        path = path if path.is_absolute() else base / path
        if not path.is_dir() or not path.resolve().is_relative_to(base):
            raise HhchatError(f"stage {stage} names {path} as its {what}, which it did not write")
        return path.resolve().relative_to(base.parent).as_posix()

    def adopt(self, folder: Path, name: str) -> str:
        """Copy a folder of another snapshot into this one: a snapshot never needs a second."""
        target = self.build / name
        if target.exists():  # a run that was killed while it copied
            shutil.rmtree(target)
        shutil.copytree(folder, target)
        return name

    def keep_report(self, report: Report, verdict: Verdict, judged: Judged) -> None:
        write_json(
            self.root / "report.json",
            {
                "schema": REPORT_SCHEMA,
                "candidate": report.candidate,
                "incumbent": report.incumbent,
                "promote": verdict.promote,
                "reasons": list(verdict.reasons),
                "measurements": [asdict(m) for m in report.measurements.values()],
                **judged.record(),
            },
        )

    def keep_error(self, text: str) -> None:
        with contextlib.suppress(OSError):
            (self.root / "error.txt").write_text(text, encoding="utf-8")

    def forget_state(self) -> None:
        """A run that reached its verdict is never resumed: its optimiser state is only weight,
        and its copy of the prompts would outlive a conversation that the user deletes."""
        shutil.rmtree(self.root / "state", ignore_errors=True)
        self.data.unlink(missing_ok=True)


def forget_words(asked: Collection[str]) -> None:
    """Take what was asked in a deleted conversation out of what runs keep: the replies shown on
    their pages, and the prompts of those that could go on. What was measured stays, and what
    cannot be read. Raises HhchatError when a file that has the words cannot be written."""
    for root in sorted(paths.runs().glob("*")):
        for name, clean in (("report.json", _shown_without), ("data.json", _data_without)):
            try:
                told = read_json(root / name)
                left = clean(told, asked)
            except (HhchatError, TypeError, AttributeError, KeyError):
                continue
            if left != told:
                write_json(root / name, left)


def _shown_without(report: Mapping[str, Any], asked: Collection[str]) -> dict[str, Any]:
    left = {**report}
    for name in {"samples", "typical"} & left.keys():
        left[name] = [s for s in left[name] if s["prompt"] not in asked]
    if "rows" in left:
        left["rows"] = [{**r, "prompt": ""} if r["prompt"] in asked else r for r in left["rows"]]
    return left


def _data_without(data: Mapping[str, Any], asked: Collection[str]) -> dict[str, Any]:
    kept = ("prompts", "heldout_prompts")
    return {**data, **{name: [p for p in data[name] if not _asks(p, asked)] for name in kept}}


def _asks(prompt: Mapping[str, Any], asked: Collection[str]) -> bool:
    return any(m["role"] == "user" and m["content"] in asked for m in prompt["messages"])


class Journal:
    """Metrics on their way to the database: in a file at once, in the store in batches.

    A transaction a metric would make a fast trainer wait for the disk, and a batch in memory
    would be lost by a kill. So each goes to a file as it comes, and what the database has not
    seen of it is put there when the run is resumed. A resumed stage repeats the updates since
    its last seal; the same update gives the same numbers, so the first reading of each stays.
    """

    def __init__(self, store: Store, run: str, path: Path, every: float = 1.0) -> None:
        self.store, self.run, self.path, self.every = store, run, path, every
        self._waiting: list[Metric] = []
        self._seen = {_key(m) for m in store.metrics(run)}
        self._flushed = time.monotonic()
        lost = [m for m in read_metrics(path) if _key(m) not in self._seen]
        for metric in lost:
            if _key(metric) not in self._seen:
                self._seen.add(_key(metric))
                self._waiting.append(metric)
        self._file = path.open("a", encoding="utf-8")
        self.flush()

    def log(self, metric: Metric) -> None:
        if _key(metric) in self._seen:
            return
        self._seen.add(_key(metric))
        value = float(metric.value)  # a tensor's or numpy's number is not for keeping
        metric = Metric(metric.stage, int(metric.step), metric.name, value)
        self._file.write(json.dumps([metric.stage, metric.step, metric.name, value]) + "\n")
        self._file.flush()
        self._waiting.append(metric)
        if time.monotonic() - self._flushed >= self.every:
            self.flush()

    def flush(self) -> None:
        self._flushed = time.monotonic()
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self.store.add_metrics(self.run, waiting)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._file.close()
        if kind is None:
            self.flush()
            return
        # The run already has an error to report; the file keeps what the store cannot take.
        with contextlib.suppress(HhchatError):
            self.flush()


def read_metrics(path: Path) -> Iterable[Metric]:
    """The metrics of a journal file; a line cut by a kill is left out."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            stage, step, name, value = json.loads(line)
        except ValueError:
            continue
        yield Metric(stage, step, name, value)


def _key(metric: Metric) -> tuple[str, int, str]:
    return metric.stage, int(metric.step), metric.name
