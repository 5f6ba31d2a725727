"""The plugin surface, all of it. `import hhchat; hhchat.hookimpl` marks an implementation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from hhchat.protocols import Evaluation, Objective, Panel, Trainer
    from hhchat.types import Comparison, Report, Snapshot

hookspec = pluggy.HookspecMarker("hhchat")
hookimpl = pluggy.HookimplMarker("hhchat")


@hookspec
def register_objectives(register: Callable[[Objective], None]) -> None:
    """Give a question for the user and a reward term, at the start of chat and train."""


@hookspec
def register_trainers(register: Callable[[type[Trainer]], None]) -> None:
    """Give a training stage, named in `[train] stages`, at the start of `hhchat train`."""


@hookspec
def register_evaluations(register: Callable[[Evaluation], None]) -> None:
    """Give a named measurement of a snapshot or a preference model."""


@hookspec
def register_panels(register: Callable[[Panel], None]) -> None:
    """Give a panel of metrics, when the app mounts."""


@hookspec
def register_commands(cli: click.Group) -> None:
    """Add a command, at start-up."""


@hookspec
def comparison_recorded(comparison: Comparison) -> None:
    """A comparison's row has been committed."""


@hookspec
def veto_promotion(report: Report) -> str | None:
    """Return a reason to refuse a promotion the built-in gate accepts, or None."""


@hookspec
def snapshot_promoted(snapshot: Snapshot) -> None:
    """A promotion's row has been committed."""
