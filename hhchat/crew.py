"""How the processes of one run work together: the main one leads, the others follow.

The main process runs the whole story of `hhchat train`. The others wait for it to say which model
to load and which stage to run, with the data, settings, seed and folders of that stage, and run
it beside it; they open no database, write no file of the run and print nothing. A trainer shares
its work when it says `shares_work = True`; any other runs on the main process alone.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hhchat import parallel
from hhchat.backend import Backend, LocalBackend, Memory, Resolve, Settings
from hhchat.config import Config
from hhchat.parallel import Lost, World
from hhchat.preflight import settings_of
from hhchat.protocols import Engine, Scorer, StageResult, Trainer, TrainingContext
from hhchat.stopping import Stop
from hhchat.types import Cancelled, Exchange, HhchatError

if TYPE_CHECKING:
    from hhchat.model import Model
    from hhchat.plugins import Plugins

GIVEN = (  # what a follower needs of a stage's context
    *("comparisons", "heldout", "prompts", "heldout_prompts"),
    *("out", "stages", "gauges", "state", "seed", "start"),
)
LINGER = 2.0  # seconds a failed follower waits, so that the main process tells its story first


@dataclass(frozen=True)
class Stage:
    """A stage that the followers are to run beside the main process."""

    name: str
    settings: Mapping[str, Any]
    given: Mapping[str, Any]
    terms: Sequence[tuple[str, str, float]]  # name, question, weight


@dataclass
class Crew:
    """The main process's side: a backend whose models the others load too, and shared stages."""

    world: World
    backend: Backend = field(default_factory=LocalBackend)
    leading: bool = True  # whether the others wait for what is next

    def load(self, config: Config) -> Model:
        self.world.from_main(lambda: config.model)
        return self.backend.load(placed(config, self.world))

    def engine(self, model: Model, resolve: Resolve) -> Engine:
        return self.backend.engine(model, resolve)

    def preference(self, model: Model, folder: Path) -> Scorer:
        return self.backend.preference(model, folder)

    def memory(self, config: Config, stages: Settings | None = None) -> Memory:
        """On a CPU the processes take theirs from one and the same memory."""
        memory = self.backend.memory(config, stages)
        if memory.needed is None or memory.device != "cpu":
            return memory
        return replace(memory, needed=memory.needed * self.world.size)

    def work(self, trainer: Trainer, context: TrainingContext) -> StageResult:
        """Run a stage, with the others where the trainer can. Raises Lost when one of them ends."""
        if not getattr(trainer, "shares_work", False):
            return trainer.train(context)
        for note in context.state.parent.glob("process-*.txt"):
            note.unlink()
        given = {name: getattr(context, name) for name in GIVEN}
        terms = [(term.name, term.question, weight) for term, weight in context.terms]
        stage = Stage(trainer.name, settings_of(trainer), given, terms)
        self.world.from_main(lambda: stage)
        self.leading = False
        try:
            result = trainer.train(replace(context, world=self.world))
        except Lost:
            raise Lost(_why(context.state.parent)) from None
        self.leading = True  # not after an error: nobody knows then where the others are
        return result


def placed(config: Config, world: World) -> Config:
    """The config with this process's own device in it."""
    return replace(config, model=replace(config.model, device=world.device(config.model.device)))


def _why(folder: Path) -> str:
    for note in sorted(folder.glob("process-*.txt")):
        with contextlib.suppress(OSError, IndexError):
            return note.read_text(encoding="utf-8").splitlines()[0]
    return (
        "another process of this run is gone (killed, or short of memory?); "
        "start it again with --resume to go on"
    )


@contextlib.contextmanager
def led(world: World) -> Iterator[Crew]:
    """The main process's crew; on the way out the others are told to end too."""
    crew = Crew(world)
    try:
        yield crew
    finally:
        if crew.leading:
            with contextlib.suppress(Lost):
                world.from_main(lambda: None)


def follow(world: World, plugins: Plugins, backend: Backend | None = None) -> int:
    """Do what the main process says until it says no more. Returns this process's exit code."""
    backend = backend or LocalBackend()
    model: Model | None = None
    folder: Path | None = None
    code = 0
    with Stop() as stop:
        try:
            while (task := world.from_main(lambda: None)) is not None:
                if isinstance(task, Stage):
                    assert model is not None
                    folder = task.given["state"].parent
                    with stop.cooperative():
                        _run(task, model, world, plugins, stop.asked)
                else:
                    model = backend.load(placed(Config(model=task), world))
        except Lost:
            code = 1  # the main process has said why, if it could
        except (Cancelled, KeyboardInterrupt):
            code = 130
        except Exception as error:
            code = 1
            _leave_note(folder, world.rank, error)
    if code:
        parallel.leave()
        time.sleep(LINGER)
    return code


def _run(
    stage: Stage, model: Model, world: World, plugins: Plugins, stopped: Callable[[], bool]
) -> None:
    context = TrainingContext(
        model=model,
        log=lambda metric: None,
        stopped=stopped,
        terms=[(_Elsewhere(name, question), weight) for name, question, weight in stage.terms],
        world=world,
        **stage.given,
    )
    plugins.trainer(stage.name, stage.settings).train(context)


@dataclass
class _Elsewhere:
    """A reward term that the main process is asked for."""

    name: str
    question: str

    def score(self, exchanges: Sequence[Exchange]) -> list[float]:
        raise HhchatError(f"reward term {self.name!r} is scored by the main process")


def _leave_note(folder: Path | None, rank: int, error: Exception) -> None:
    """What ended this process, for the main one to tell and for whoever mends it."""
    if folder is None:
        return
    line = " ".join((str(error) or type(error).__name__).split())
    named = line if isinstance(error, HhchatError) else f"{type(error).__name__}: {line}"
    with contextlib.suppress(OSError):
        note = folder / f"process-{rank}.txt"
        note.write_text(f"process {rank + 1}: {named}\n\n{traceback.format_exc()}", "utf-8")
