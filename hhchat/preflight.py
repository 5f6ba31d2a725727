"""What a run needs before it starts: its stages, its settings, enough picks, enough memory.

Everything here is cheap: no model is loaded and nothing is written, so that `--dry-run` and a
real run refuse for the same reasons with the same words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hhchat import paths
from hhchat.backend import Backend, LocalBackend, Memory
from hhchat.dataset import Dataset, gather
from hhchat.protocols import Trainer
from hhchat.runfolder import RunFolder, safe_name
from hhchat.sealing import is_held
from hhchat.snapshots import BASE, whole
from hhchat.types import BadInput, HhchatError, Run

if TYPE_CHECKING:
    from hhchat.config import Config
    from hhchat.plugins import Plugins
    from hhchat.store import Store

NEED_PICKS = ("ppo", "rloo")  # trainers of a policy on the preference model's scores
KILLED = "the process was killed; continue it with: hhchat train --resume"


@dataclass(frozen=True)
class StagePlan:
    """A stage and the hyperparameters it would run with."""

    name: str
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """What `hhchat train` would do now."""

    stages: tuple[StagePlan, ...]
    base: str
    incumbent: str
    comparisons: int
    heldout: int
    prompts: int
    heldout_prompts: int
    needed: int  # usable training comparisons a run wants
    memory: Memory
    resumable: str | None = None  # id of the interrupted run that --resume would continue
    problems: tuple[str, ...] = ()  # why it would not start
    warnings: tuple[str, ...] = ()

    @property
    def missing(self) -> int:
        """How many more usable training comparisons it takes; 0: enough."""
        return max(0, self.needed - self.comparisons)


def plan(
    store: Store,
    config: Config,
    plugins: Plugins,
    *,
    stages: Sequence[str] | None = None,
    backend: Backend | None = None,
) -> Plan:
    """What a run would do, without doing any of it: nothing is loaded and nothing is written."""
    trainers_of(config, plugins, stages)  # refuses names before it counts picks
    plugins.terms(config.weights)  # a term that nobody offers is refused, as the run would
    data = gather(store, starter=is_starter(config))
    stages, aside = step_aside(config, stages, len(data.comparisons))
    trainers = trainers_of(config, plugins, stages)
    problems: list[str] = []
    try:
        settings = {t.name: settings_of(t) for t in trainers}
        memory = (backend or LocalBackend()).memory(config, settings)
    except HhchatError as error:
        memory, problems = Memory(None, None), [str(error)]
    unfinished = resumable(store)
    incumbent = store.current()
    if incumbent is not None:
        try:
            whole(incumbent)
        except HhchatError as error:
            problems.append(str(error))
    planned = Plan(
        stages=tuple(StagePlan(t.name, settings_of(t)) for t in trainers),
        base=config.model.path,
        incumbent=incumbent.id if incumbent else BASE,
        comparisons=len(data.comparisons),
        heldout=len(data.heldout),
        prompts=len(data.prompts),
        heldout_prompts=len(data.heldout_prompts),
        needed=config.train.min_comparisons,
        memory=memory,
        resumable=unfinished.id if unfinished else None,
    )
    if planned.missing:
        problems.append(too_few(planned.comparisons, planned.needed))
    if not memory.fits:
        problems.append(too_big(memory))
    warnings = [aside] if aside else []
    if len(data.heldout_prompts) < config.gate.min_prompts:
        warnings.append(too_few_prompts(data, config))
    return replace(planned, problems=tuple(problems), warnings=tuple(warnings))


def trainers_of(config: Config, plugins: Plugins, stages: Sequence[str] | None) -> list[Trainer]:
    """The stages' trainers with their settings; every name and key is checked here."""
    names = list(stages if stages is not None else config.train.stages)
    if not names:
        raise BadInput("[train] stages is empty: name at least one, for example pm,ppo")
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"stage {name!r} is named twice in [train] stages")
        if not safe_name(name):
            raise BadInput(f"stage {name!r} cannot be the name of a folder")
    trainers = [trainer_of(config, plugins, name) for name in names]
    for place, trainer in enumerate(trainers):
        for needed in getattr(trainer, "needs", ()):
            if needed not in names[:place]:
                mended = dict.fromkeys([*names[:place], needed, *names[place:]])
                raise BadInput(
                    f"stage {trainer.name!r} needs {needed!r} before it: "
                    f"--stages {','.join(mended)}"
                )
    policies = [t.name for t in trainers if getattr(t, "makes", "") == "policy"]
    if len(policies) > 1:  # each starts anew, and a later one replaces an earlier one
        raise BadInput(
            f"stages {policies[0]!r} and {policies[1]!r} each train a policy, and only the last "
            "would be kept: name one of them"
        )
    return trainers


def trainer_of(config: Config, plugins: Plugins, name: str) -> Trainer:
    """A stage's trainer, by its own word able to run as it is set."""
    trainer = plugins.trainer(name, config.table(name))
    check = getattr(trainer, "check", None)
    if callable(check):
        check()
    return trainer


def step_aside(config: Config, stages: Sequence[str] | None, have: int) -> tuple[list[str], str]:
    """The stages to run, and a line for the user where they are not those of `[train] stages`.

    On few picks a policy learns its judge's mistakes: the preference model then serves by itself,
    as the favourite of several replies. Stages that were named for this run are run as named.
    """
    if stages is not None:
        return list(stages), ""
    names, least = list(config.train.stages), config.train.min_ppo
    learners = [name for name in names if name in NEED_PICKS]
    if not learners or have >= least or "pm" not in names:
        return names, ""
    names = list(dict.fromkeys("best-of" if name in learners else name for name in names))
    told = (
        f"{learners[0].upper()} steps aside below {least} usable training comparisons, and there "
        f"are {have}: the preference model chooses the best of several replies instead "
        "([train] min_ppo)"
    )
    return names, told


def settings_of(trainer: Trainer) -> dict[str, Any]:
    if not is_dataclass(trainer):
        return {}
    return {f.name: getattr(trainer, f.name) for f in fields(trainer) if f.init}


def is_starter(config: Config) -> bool:
    """Whether the base is the bundled model, whose prompt pools then count as training data."""
    if config.model.path == "starter":
        return True
    bundled = Path(__file__).parent / "starter" / "model"
    return Path(config.model.path).expanduser().absolute() == bundled


def incumbent_of(store: Store, base: str) -> str:
    """The current snapshot, if it belongs to this base; another base starts from itself."""
    current = store.current()
    return current.id if current is not None and current.base == base else BASE


def resumable(store: Store, run_id: str | None = None) -> Run | None:
    """The run to continue: of that id, else the latest that did not reach its verdict."""
    if run_id is not None:
        run = store.run(run_id)
        if run.state in ("promoted", "refused"):
            raise BadInput(f"run {run.id} has ended ({run.state}); there is nothing to continue")
        return run
    unfinished = (run for run in store.runs() if run.state in ("interrupted", "failed", "running"))
    return next((run for run in unfinished if RunFolder(run.id).data.exists()), None)


def bury_the_dead(store: Store) -> None:
    """We hold the lock, so whatever is still called running was killed."""
    for run in store.runs():
        if run.state == "running":
            store.finish_run(run.id, "interrupted", reason=KILLED)


def as_it_is(run: Run) -> Run:
    """The run as the next training will find it: a killed one could not say so itself."""
    if run.state == "running" and not is_held(paths.train_lock()):
        return replace(run, state="interrupted", reason=KILLED)
    return run


def too_few(have: int, needed: int) -> str:
    missing = needed - have
    return (
        f"{have} usable training comparisons, and a run takes {needed}: {missing} more "
        f"{'pick' if missing == 1 else 'picks'} to go (about one conversation in ten is held out "
        "for testing; ties and weak picks do not count)"
    )


def too_few_prompts(data: Dataset, config: Config) -> str:
    have = len(data.heldout_prompts)
    return (
        f"warning: {have} held-out prompts, and the gate judges a new policy on at least "
        f"{config.gate.min_prompts}: it will be refused. Add some with `hhchat prompts add`"
    )


def too_big(memory: Memory) -> str:
    needed, available = (memory.needed or 0) / 2**30, (memory.available or 0) / 2**30
    where = f" on {memory.device}" if memory.device else ""
    advice = f". {memory.advice}" if memory.advice else ""
    return f"this needs {needed:.1f} GiB{where} and {available:.1f} GiB is free{advice}"


def versions() -> dict[str, str]:
    import platform
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("hhchat", "torch", "transformers", "peft", "bitsandbytes"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
