"""`hhchat train`: the stages, the gate, and what they say while they run."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from hhchat import parallel
from hhchat.cli._common import (
    emit,
    json_option,
    load_plugins,
    model_options,
    open_store,
    quiet_libraries,
    say,
    settings,
)
from hhchat.cli.runs import record
from hhchat.settings import Text
from hhchat.types import BadInput

if TYPE_CHECKING:
    from hhchat.crew import Crew
    from hhchat.events import Event
    from hhchat.preflight import Plan


@click.command("train")
@click.option("--stages", metavar="A,B", help="Stages in order; else [train] stages.")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Seed of the run.")
@click.option("--dry-run", is_flag=True, help="Say what would happen, and do none of it.")
@click.option("--resume", is_flag=True, help="Continue the run that was interrupted last.")
@click.option(
    "--warm-start",
    is_flag=True,
    help="Start from the current policy instead of the base: a deviation from the paper.",
)
@model_options
@json_option
def command(**options: Any) -> int:
    """Learn from the picks: a preference model, then PPO, then the gate.

    Exits with 0 when the result is promoted, 3 when the gate refuses it, 130 when it is
    interrupted (`--resume` continues) and 1 when it fails; in all but the first case the
    assistant stays the one it was. Several processes share the work when they are started by
    `accelerate launch --multi_gpu --num_processes N -m hhchat train`.
    """
    if line := parallel.launched_in_vain():
        say(line, err=True)
    with parallel.joined() as world:
        if world.size == 1:
            return _train(None, **options)
        quiet_libraries()
        from hhchat.crew import follow, led

        if not world.main:
            return follow(world, load_plugins())
        with led(world) as crew:
            return _train(crew, **options)


def _train(
    crew: Crew | None,
    stages: str | None,
    seed: int | None,
    dry_run: bool,
    resume: bool,
    warm_start: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    if resume:
        given = {"--stages": stages is not None, "--seed": seed is not None,
                 "--warm-start": warm_start, "--dry-run": dry_run}  # fmt: skip
        if named := ", ".join(name for name, is_given in given.items() if is_given):
            raise BadInput(f"--resume goes on as the run began: leave {named} out")
    config = settings(
        stages=None if stages is None else Text(stages),
        warm_start=warm_start or None,
        **flags,
    )
    named_stages = config.train.stages if stages else None  # else a stage may step aside
    quiet_libraries()
    plugins = load_plugins()
    with open_store(reading=dry_run) as store:
        if dry_run:
            from hhchat.preflight import plan

            told = plan(store, config, plugins, stages=named_stages)
            if as_json:
                emit(plan_record(told))
            else:
                _tell_plan(told)
            return 0
        from hhchat.pipeline import EXIT_CODES, alone, train
        from hhchat.progress import Progress

        with Progress() as progress:
            run = train(
                store,
                config,
                plugins,
                stages=named_stages,
                seed=seed,
                resume=resume,
                warm_start=warm_start,
                on_event=_emit if as_json else progress,
                backend=crew,
                work=crew.work if crew else alone,
            )
    if not as_json:
        say(f"run {run.id} {run.state}: {run.reason or ''}".rstrip(": "))
        if run.state == "promoted":
            say(f"the assistant is now {run.snapshot}; `hhchat snapshots rollback` takes it back")
    sys.stdout.flush()
    return EXIT_CODES.get(run.state, 1)


def _emit(event: Event) -> None:
    from hhchat.events import as_record

    told = as_record(event)
    if event.run is not None:
        told["run"] = record(event.run)
    emit(told)
    sys.stdout.flush()  # whoever watches the run reads it through a pipe


def plan_record(plan: Plan) -> dict[str, Any]:
    """A dry run as `--json` prints it."""
    return {
        "stages": [{"name": s.name, "settings": dict(s.settings)} for s in plan.stages],
        "base": plan.base,
        "incumbent": plan.incumbent,
        "comparisons": plan.comparisons,
        "heldout": plan.heldout,
        "needed": plan.needed,
        "missing": plan.missing,
        "prompts": plan.prompts,
        "heldout_prompts": plan.heldout_prompts,
        "memory": asdict(plan.memory),
        "resumable": plan.resumable,
        "problems": list(plan.problems),
        "warnings": list(plan.warnings),
    }


def _tell_plan(plan: Plan) -> None:
    say(f"base        {plan.base}; the assistant is {plan.incumbent}")
    say(f"stages      {', '.join(stage.name for stage in plan.stages)}")
    say(f"comparisons {plan.comparisons} usable to train on (needed {plan.needed})")
    say(f"held out    {plan.heldout} usable comparisons, {plan.heldout_prompts} prompts")
    say(f"prompts     {plan.prompts} to sample from")
    memory = plan.memory
    if memory.needed is not None:
        free = "" if memory.available is None else f" of {memory.available / 2**30:.1f} GiB free"
        say(f"memory      {memory.needed / 2**30:.2f} GiB needed{free} {memory.device}".rstrip())
    if plan.resumable:
        say(f"unfinished  run {plan.resumable}: `hhchat train --resume` continues it")
    for stage in plan.stages:
        say(f"\n[{stage.name}]")
        for name, value in stage.settings.items():
            say(f"{name} = {'none' if value is None else value}")
    say()
    for warning in plan.warnings:
        say(warning)
    for problem in plan.problems:
        say(f"would not start: {problem}")
    if not plan.problems:
        say("ready: nothing was done, run it without --dry-run")
