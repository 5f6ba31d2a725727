"""The story of `hhchat train`: stages, candidate, gate, promotion.

Per stage the trainer is built from its config table and writes into the run's own folder. The
finished folders are sealed under the snapshot's id by one rename, the candidate is measured
beside the incumbent, and the last step, one appended row, promotes it. Whatever happens before
that row leaves the assistant as it was. No database transaction is ever open across a step.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from hhchat import paths
from hhchat.backend import Backend, LocalBackend, Settings
from hhchat.candidate import GATE, Candidate
from hhchat.dataset import Dataset, gather, recall
from hhchat.events import Event
from hhchat.gate import decide
from hhchat.plugins import one_line
from hhchat.preflight import (
    Plan,
    StagePlan,
    bury_the_dead,
    incumbent_of,
    is_starter,
    plan,
    resumable,
    settings_of,
    step_aside,
    too_big,
    too_few,
    too_few_prompts,
    trainers_of,
    versions,
)
from hhchat.protocols import Objective, StageResult, Trainer, TrainingContext
from hhchat.runfolder import Journal, Results, RunFolder
from hhchat.sealing import only_one, read_json, write_json
from hhchat.snapshots import Resolver, whole
from hhchat.stopping import Stop
from hhchat.types import (
    BadInput,
    Cancelled,
    HhchatError,
    Metric,
    ModelError,
    Outdated,
    Report,
    Run,
    Snapshot,
    Verdict,
)

if TYPE_CHECKING:
    from hhchat.config import Config
    from hhchat.model import Model
    from hhchat.plugins import Plugins
    from hhchat.store import Store

__all__ = ["EXIT_CODES", "Event", "Plan", "StagePlan", "plan", "train"]

EXIT_CODES = {"promoted": 0, "refused": 3, "failed": 1, "interrupted": 130, "running": 1}
Work = Callable[[Trainer, TrainingContext], StageResult]


def alone(trainer: Trainer, context: TrainingContext) -> StageResult:
    """Run a stage in this process."""
    return trainer.train(context)


def train(
    store: Store,
    config: Config,
    plugins: Plugins,
    *,
    stages: Sequence[str] | None = None,
    seed: int | None = None,
    resume: bool | str = False,
    warm_start: bool = False,
    on_event: Callable[[Event], None] = lambda event: None,
    backend: Backend | None = None,
    work: Work = alone,
) -> Run:
    """Train, judge, and promote or refuse. Returns the run's row as it ended.

    `work` runs a stage: where several processes share it, theirs (`hhchat.crew`).
    `resume` continues the latest unfinished run, or the one of that id, with the data, stages,
    settings and seed it started with.

    Raises HhchatError only for what prevents a run from starting. Once its row is open, what
    goes wrong is the run's `reason`, and the assistant stays the one it was.
    """
    backend = backend or LocalBackend()
    stopping = Stop(lambda line: on_event(Event("line", text=line)))
    paths.ensure(paths.home())
    with only_one(paths.train_lock()), stopping as stop:
        bury_the_dead(store)
        try:
            if resume:
                run_id = resume if isinstance(resume, str) else None
                story = _Story.again(store, config, plugins, backend, on_event, stop, run_id)
            else:
                chosen = config.train.seed if seed is None else seed
                warm = warm_start or config.train.warm_start
                story = _Story.new(
                    store, config, plugins, backend, on_event, stop, stages, chosen, warm
                )
        except KeyboardInterrupt:
            raise Cancelled("stopped before the run began; nothing has changed") from None
        story.work = work
        return story.tell()


def _check_room(store: Store, config: Config, backend: Backend, told: Settings) -> None:
    """Refuse what would end a run after hours: too little memory, an assistant to be measured
    beside whose files are gone."""
    memory = backend.memory(config, told)
    if not memory.fits:
        raise ModelError(too_big(memory))
    current = store.current()
    if current is not None:
        whole(current)


@dataclass
class _Story:
    """One run from its open row to its end."""

    store: Store
    config: Config
    plugins: Plugins
    backend: Backend
    on_event: Callable[[Event], None]
    stop: Stop
    run: Run
    trainers: list[Trainer]
    data: Dataset
    folder: RunFolder
    model: Model
    work: Work = alone

    @classmethod
    def new(
        cls,
        store: Store,
        config: Config,
        plugins: Plugins,
        backend: Backend,
        on_event: Callable[[Event], None],
        stop: Stop,
        stages: Sequence[str] | None,
        seed: int,
        warm_start: bool,
    ) -> _Story:
        """Check all that can be checked before hours are spent, then open the run's row."""
        trainers_of(config, plugins, stages)  # refuses names before it counts picks
        terms = plugins.terms(config.weights)
        data = gather(store, starter=is_starter(config))
        if len(data.comparisons) < config.train.min_comparisons:
            raise HhchatError(too_few(len(data.comparisons), config.train.min_comparisons))
        stages, aside = step_aside(config, stages, len(data.comparisons))
        trainers = trainers_of(config, plugins, stages)
        if aside:
            on_event(Event("line", text=aside))
        told = {t.name: settings_of(t) for t in trainers}
        _check_room(store, config, backend, told)
        if len(data.heldout_prompts) < config.gate.min_prompts:
            on_event(Event("line", text=too_few_prompts(data, config)))
        on_event(Event("line", text=f"loading {config.model.path}"))
        model = backend.load(config)
        record = {
            "stages": told,
            "model": asdict(config.model),
            "incumbent": incumbent_of(store, model.identity),
            "warm_start": warm_start,
            "eval_prompts": config.train.eval_prompts,
            "gate": asdict(config.gate),
            "max_new_tokens": config.chat.max_new_tokens,
            "shown_prompts": config.train.shown_prompts,
            "weights": {term.name: weight for term, weight in terms},
            "comparisons": [c.id for c in data.comparisons],
            "heldout": [c.id for c in data.heldout],
            "versions": versions(),
        }
        names = tuple(t.name for t in trainers)
        with stop.shielded():
            run = store.start_run(names, seed, model.identity, record)
            folder = RunFolder(run.id)
            try:
                folder.make()
                write_json(folder.data, data.record())
            except HhchatError as error:
                store.finish_run(run.id, "failed", reason=str(error))
                raise
        return cls(
            store, config, plugins, backend, on_event, stop, run, trainers, data, folder, model
        )

    @classmethod
    def again(
        cls,
        store: Store,
        config: Config,
        plugins: Plugins,
        backend: Backend,
        on_event: Callable[[Event], None],
        stop: Stop,
        run_id: str | None,
    ) -> _Story:
        """An unfinished run with the data, stages and settings it started with."""
        run = resumable(store, run_id)
        if run is None:
            raise BadInput("there is no unfinished run to continue; start one: hhchat train")
        folder = RunFolder(run.id)
        data = recall(store, read_json(folder.data))
        held = str(run.data["model"].get("quantization", config.model.quantization))
        if held != config.model.quantization:
            raise BadInput(
                f"run {run.id} holds its base as {held!r}, not {config.model.quantization!r}; "
                f"continue it so: hhchat train --resume --quantization {held}"
            )
        told = run.data["stages"]
        trainers = [plugins.trainer(name, told[name]) for name in run.stages]
        _check_room(store, config, backend, told)
        on_event(Event("line", text=f"loading {config.model.path}"))
        model = backend.load(config)
        if run.base != model.identity:
            path = run.data["model"]["path"]
            advice = (
                f"{path} has changed since, so start a new run: hhchat train"
                if path == config.model.path
                else f"continue it with that one: hhchat train --resume --model {path}"
            )
            raise BadInput(
                f"run {run.id} trains another model ({run.base}, this is {model.identity}); "
                f"{advice}"
            )
        run = store.finish_run(run.id, "running")
        return cls(
            store, config, plugins, backend, on_event, stop, run, trainers, data, folder, model
        )

    # The story ---------------------------------------------------------------------------

    def tell(self) -> Run:
        """All of it; whatever happens, the row says how it ended."""
        self.on_event(Event("run", run=self.run, total=len(self.trainers)))
        try:
            with Journal(self.store, self.run.id, self.folder.metrics) as self.journal:
                report, verdict, snapshot = self._steps()
            with self.stop.shielded():
                return self._conclude(report, verdict, snapshot)
        except _NoCandidate as error:
            return self._end("refused", str(error))
        except (Cancelled, KeyboardInterrupt):
            return self._end("interrupted", "stopped; continue it with: hhchat train --resume")
        except Outdated as error:  # it would be offered to be resumed for good
            self.folder.forget_state()
            return self._end("failed", str(error))
        except HhchatError as error:
            self._bury_unborn()
            return self._end("failed", str(error) or type(error).__name__)
        except Exception as error:
            # A trainer may raise anything. The user gets its name and message in one line;
            # whoever mends it finds the rest beside the run.
            self.folder.keep_error(traceback.format_exc())
            self._bury_unborn()
            return self._end("failed", one_line(error))

    def _bury_unborn(self) -> None:
        """What failed before it had done anything is not offered to be resumed: it holds the
        settings that it failed with."""
        if not self.folder.worked:
            self.folder.forget_state()

    def _steps(self) -> tuple[Report, Verdict, Snapshot]:
        results = self._stages()
        if results.stop is not None:
            raise _NoCandidate(results.stop)
        if results.policy is None and results.preference is None:
            raise _NoCandidate("no stage made a policy or a preference model")
        if results.policy is None:
            results.inherit(Resolver(self.store).folder(self._incumbent))
        candidate = Candidate(
            self.run,
            results,
            self.folder,
            self.data,
            self.model,
            self.backend,
            self.store,
            self.plugins,
            self.terms,
            self.on_event,
        )
        with self.stop.shielded():
            snapshot = candidate.seal()
        while True:  # until the assistant that it was measured beside is still the one in use
            now = incumbent_of(self.store, self.run.base)
            speaks = results.speaks or now != self._incumbent
            report, judged = candidate.beside(now if speaks else None)
            if now == incumbent_of(self.store, self.run.base):
                break
        for name, measurement in report.measurements.items():
            self._log(Metric(GATE, 0, name, measurement.value))
        rules = replace(self.config.gate, **self.run.data.get("gate", {}))
        verdict = decide(report, rules, policy=speaks)
        if verdict.promote:
            vetoes = self.plugins.veto_promotion(report)
            if vetoes:
                verdict = Verdict(False, tuple(f"vetoed by plugin {veto}" for veto in vetoes))
        self.folder.keep_report(report, verdict, judged)
        return report, verdict, snapshot

    def _stages(self) -> Results:
        """Run the stages that are not finished yet, in order."""
        results = Results()
        for index, trainer in enumerate(self.trainers):
            told = self.folder.finished(trainer.name)
            if told is None:
                self.on_event(Event("stage", trainer.name, done=index, total=len(self.trainers)))
                context = self._context(trainer.name, results)
                with self.stop.cooperative():
                    result = self.work(trainer, context)
                self.journal.flush()
                told = self.folder.finish(trainer.name, result)
            results.add(trainer.name, self.folder.build / trainer.name, told)
            if results.stop is not None:
                break
        return results

    def _context(self, stage: str, results: Results) -> TrainingContext:
        return TrainingContext(
            model=self.model,
            comparisons=self.data.comparisons,
            heldout=self.data.heldout,
            prompts=self.data.prompts,
            heldout_prompts=self.data.heldout_prompts,
            out=self.folder.out(stage),
            stages=dict(results.folders),
            gauges={name: self.folder.build / where for name, where in results.gauges.items()},
            state=self.folder.state(stage),
            log=self._log,
            seed=self.run.seed,
            terms=self.terms,
            start=self._start(),
            report=lambda text: self.on_event(Event("line", stage, text=text)),
            stopped=self.stop.asked,
            show=lambda update, samples: self.on_event(
                Event("samples", stage, done=update, samples=tuple(samples))
            ),
        )

    def _start(self) -> Path | None:
        """The incumbent's policy adapter when warm-starting; None: the base, as in the paper."""
        if not self.run.data["warm_start"]:
            return None
        return Resolver(self.store)(self._incumbent)[1]

    @property
    def terms(self) -> list[tuple[Objective, float]]:
        """The plugin terms and weights that the run began with, also when it is resumed."""
        weights = self.run.data["weights"]
        return [pair for pair in self.plugins.terms(weights) if pair[0].name in weights]

    @property
    def _incumbent(self) -> str:
        return str(self.run.data["incumbent"])

    def _log(self, metric: Metric) -> None:
        self.journal.log(metric)
        self.on_event(Event("metric", metric.stage, metric=metric))

    # Conclude ------------------------------------------------------------------------------

    def _conclude(self, report: Report, verdict: Verdict, snapshot: Snapshot) -> Run:
        """Keep the snapshot's row, also when refused: it can be looked at and compared."""
        reason = "; ".join(verdict.reasons)
        self.on_event(Event("verdict", text=reason, done=int(verdict.promote)))
        info = {
            "promoted": verdict.promote,
            "reasons": list(verdict.reasons),
            "measurements": {name: asdict(m) for name, m in report.measurements.items()},
        }
        snapshot = replace(snapshot, info=info)
        if snapshot.id not in {s.id for s in self.store.snapshots()}:
            self.store.add_snapshot(snapshot)
        if not verdict.promote:
            return self._end("refused", reason, snapshot.id)
        self.store.promote(snapshot.id, run=self.run.id, reason=reason)
        run = self._end("promoted", reason, snapshot.id)
        self.plugins.snapshot_promoted(snapshot)
        return run

    def _end(
        self,
        state: Literal["promoted", "refused", "failed", "interrupted"],
        reason: str,
        snapshot: str | None = None,
    ) -> Run:
        with self.stop.shielded():
            run = self.store.finish_run(self.run.id, state, reason=reason, snapshot=snapshot)
            if state in ("promoted", "refused"):
                self.folder.forget_state()
            self.on_event(Event("end", text=reason, run=run))
        return run


class _NoCandidate(Exception):
    """The stages ended without anything to judge; the message says why."""
