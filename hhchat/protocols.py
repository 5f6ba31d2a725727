"""The seams: what a scorer, an engine, a trainer, a panel and an evaluation look like.

Standard library only. Anything that satisfies one of these can be a plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from hhchat.types import (
    Comparison,
    Delta,
    Draw,
    Exchange,
    Generation,
    Measurement,
    Message,
    Metric,
    Prompt,
    SampleReport,
)

if TYPE_CHECKING:
    from hhchat.model import Model
    from hhchat.parallel import World


class Scorer(Protocol):
    """The preference model, a plugin's reward term and the evaluator share one verb."""

    def score(self, exchanges: Sequence[Exchange]) -> list[float]:
        """One score per exchange, higher is better; only differences mean anything."""
        ...


@runtime_checkable
class Objective(Scorer, Protocol):
    """A question for the user and a reward term. Its weight comes from `[weights]`."""

    name: str
    question: str


class Engine(Protocol):
    """Samples replies. Knows no SQL and no widget; called from a worker thread."""

    base: str  # identity of the base model, stored with each generation

    def sample(self, draws: Sequence[Draw], cancelled: Callable[[], bool] = ...) -> Iterator[Delta]:
        """Rows grow in lockstep; each row's last delta carries its generation.

        When `cancelled()` turns true the rows end as they are, finished=False.
        """
        ...

    def generate(self, draws: Sequence[Draw]) -> list[Generation]:
        """All replies at once, batched for throughput, in the order of `draws`."""
        ...


class Asker(Protocol):
    """Chooses which two of several replies a pick between would teach most."""

    latest: str  # id of the last comparison it has learnt from

    def learn(self, comparisons: Sequence[Comparison]) -> None:
        """Take in the user's picks since `latest`."""
        ...

    def choose(
        self, messages: Sequence[Message], replies: Sequence[Generation]
    ) -> tuple[int, int] | None:
        """The two to show; None when it cannot tell."""
        ...


@runtime_checkable
class Asking(Protocol):
    """An engine that can choose what to ask."""

    asker: Asker


@dataclass(frozen=True)
class TrainingContext:
    """All that a trainer is given. It writes only under `out` and speaks only through `log`."""

    model: Model
    comparisons: Sequence[Comparison]  # usable, train split, oldest first
    heldout: Sequence[Comparison]  # usable, held-out split; never pairs chosen to teach
    prompts: Sequence[Prompt]  # train split
    heldout_prompts: Sequence[Prompt]
    out: Path  # this stage's folder, becomes part of the snapshot
    stages: dict[str, Path]  # folders of the stages that ran before, by name
    state: Path  # where resumable state is sealed after each update
    log: Callable[[Metric], None]
    seed: int = 0
    terms: Sequence[tuple[Objective, float]] = ()  # plugin reward terms and their weights
    gauges: Mapping[str, Path] = field(default_factory=dict)  # preference models of half the picks
    start: Path | None = None  # a policy adapter to start from (--warm-start); None: the base
    report: Callable[[str], None] = field(default=lambda text: None)  # a line for the user
    stopped: Callable[[], bool] = field(default=lambda: False)  # Ctrl-C: seal and raise Cancelled
    # Takes an update's number and replies to the same prompts before training and now, for people
    # to look at; None: nobody looks, so sample nothing. Nothing of the run may depend on it.
    show: Callable[[int, Sequence[SampleReport]], None] | None = None
    # The processes that run this stage together, given to trainers with `shares_work = True`;
    # None: this one alone. Of several, only the main one may write.
    world: World | None = None


@dataclass(frozen=True)
class StageResult:
    """What a stage gives back: its measurements, and the folder of the role it produced."""

    measurements: Sequence[Measurement] = ()
    policy: Path | None = None  # a policy adapter, if this stage made one
    preference: Path | None = None  # a preference model, if this stage made one
    stop: str | None = None  # a reason to end the run here without a candidate
    info: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Trainer(Protocol):
    """A frozen dataclass that *is* its hyperparameters; built from its `[name]` config table.

    `needs`, where a class has it, names the stages that must come before it. `makes = "policy"`
    says that it trains one: a run takes one such stage. `check()`, where it has one, raises
    BadInput for settings with which it could not run; nothing is loaded yet.
    """

    name: ClassVar[str]

    def train(self, context: TrainingContext) -> StageResult:
        """Run the stage, resuming from `context.state` when it holds sealed state.

        Raises HhchatError with a one-line reason when it cannot go on.
        """
        ...


class PanelData(Protocol):
    """What a dashboard panel may read (a store's read-only face)."""

    def metrics(self, run: str | None = None) -> Sequence[Metric]: ...


@runtime_checkable
class Panel(Protocol):
    """A titled block of text on the dashboard."""

    name: str
    title: str

    def lines(self, data: PanelData) -> list[str]: ...


@runtime_checkable
class Evaluation(Protocol):
    """A named measurement of a snapshot's engine, with an optional scorer at hand."""

    name: str

    def measure(
        self, engine: Engine, snapshot: str, prompts: Sequence[Prompt], scorer: Scorer | None
    ) -> list[Measurement]: ...
