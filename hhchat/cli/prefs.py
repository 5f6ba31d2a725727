"""`hhchat prefs`: preferences in, out, listed and counted."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from hhchat.cli._common import (
    DefaultGroup,
    emit,
    json_for_terminal,
    json_option,
    open_store,
    say,
    table,
)
from hhchat.types import BadInput, Comparison

FORMATS = ("hhchat", "hh-rlhf", "dpo", "sharegpt")
NAMED = 10  # bad lines named one by one; all of them with --json


class PrefsGroup(DefaultGroup):
    default = "stats"


@click.group("prefs", cls=PrefsGroup)
def command() -> None:
    """Import, export, list or count preferences."""


@command.command("import")
@click.argument("file", metavar="FILE|-")
@click.option(
    "--format",
    "form",
    default="auto",
    show_default=True,
    metavar="FORMAT",
    help=f"auto, {', '.join(FORMATS)}.",
)
@click.option("--strict", is_flag=True, help="A bad line refuses the whole file.")
@click.option(
    "--mode",
    default="helpful",
    show_default=True,
    metavar="MODE",
    help="For pairs that do not state theirs.",
)
@json_option
def import_(file: str, form: str, strict: bool, mode: str, as_json: bool) -> None:
    """Add the pairs of a file (gzip too). Importing it again adds nothing.

    Good lines are kept, bad ones are counted and named; importing none at all exits with 2.
    """
    from hhchat.cli.chat import known_mode
    from hhchat.transfer import import_pairs

    known_mode(mode)
    source = sys.stdin.buffer if file == "-" else Path(file)
    with open_store() as store:
        report = import_pairs(store, source, form, strict=strict, mode=mode)
    if as_json:
        emit(
            {
                "added": report.added,
                "duplicates": report.duplicates,
                "unusable": report.unusable,
                "bad": [{"line": line, "error": error} for line, error in report.bad],
            }
        )
    else:
        for line, error in report.bad[:NAMED]:
            say(f"line {line}: {error}", err=True)
        if len(report.bad) > NAMED:
            say(f"... and {len(report.bad) - NAMED} more bad lines", err=True)
        parts = [f"{report.added} added"]
        if report.duplicates:
            parts.append(f"{report.duplicates} were there already")
        if report.unusable:
            parts.append(f"{report.unusable} of those added cannot teach")
        if report.bad:
            parts.append(f"{len(report.bad)} bad lines skipped")
        say(", ".join(parts))
    if report.bad and not report.added and not report.duplicates:
        raise BadInput(f"no line of {file} is a preference")


@command.command("export")
@click.option(
    "--format",
    "form",
    default="hhchat",
    show_default=True,
    metavar="FORMAT",
    help=f"{', '.join(FORMATS)}.",
)
@click.option("--output", metavar="FILE", help="Write here instead; the file appears when whole.")
@click.option("--usable", is_flag=True, help="Only pairs that can teach.")
def export(form: str, output: str | None, usable: bool) -> None:
    """Print the pairs as JSON lines, oldest first."""
    from hhchat.transfer import export_pairs

    with open_store(reading=True) as store:
        lines = export_pairs(store, form, usable_only=usable)
        if output is None:
            for line in lines:
                click.echo(json_for_terminal(line))
            return
        target = Path(output)
        if target.is_dir():
            raise BadInput(f"cannot write {output}: it is a folder")
        aside = target.with_name(f".{target.name}.{os.getpid()}")
        count = 0
        try:
            with aside.open("w", encoding="utf-8") as out:
                for line in lines:
                    out.write(line + "\n")
                    count += 1
            aside.replace(target)
        except OSError as error:
            raise BadInput(f"cannot write {output}: {error.strerror or error}") from None
        finally:
            aside.unlink(missing_ok=True)
    say(f"{count} written to {output}")


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
@click.option("--all", "all_", is_flag=True, help="All of them, oldest first.")
@click.option("--mode", metavar="MODE", help="Only this mode.")
@json_option
def list_(n: int, all_: bool, mode: str | None, as_json: bool) -> None:
    """The latest picks, ties and skips among them."""
    rows = []
    with open_store(reading=True) as store:
        found = (
            store.comparisons(mode=mode)
            if all_
            else store.comparisons(limit=n, newest_first=True, mode=mode)
        )
        for comparison in found:
            if as_json:
                emit(record(comparison))
            else:
                rows.append(row(comparison))
    if not as_json:
        if not rows:
            where = f" in mode {mode!r}" if mode else ""
            say(f"no picks{where} yet: `hhchat` opens the chat")
        table(("pick", "when", "mode", "outcome", "strength", "asked", "preferred"), rows, width=36)


@command.command("stats")
@json_option
def stats(as_json: bool) -> None:
    """How many picks there are, and what they lean to."""
    with open_store(reading=True) as store:
        told = store.stats()
    if as_json:
        emit(told)
        return
    for key, value in told.items():
        name = key.replace("_", " ")
        if isinstance(value, dict):
            inner = ", ".join(f"{k} {v}" for k, v in value.items()) or "-"
            say(f"{name:<16} {inner}")
        elif isinstance(value, float):
            say(f"{name:<16} {value:.1%}" if name.endswith("rate") else f"{name:<16} {value:.4g}")
        else:
            say(f"{name:<16} {'-' if value is None else value}")


def record(c: Comparison) -> dict[str, Any]:
    """A comparison as `--json` prints it. "first" and "second" are in storage order."""
    return {
        "id": c.id,
        "created": c.created,
        "conversation": c.conversation,
        "turn": c.turn_index,
        "mode": c.mode,
        "question": c.question,
        "messages": [{"role": m.role, "content": m.content} for m in c.messages],
        "replies": [
            {"text": r.text, "source": r.source, "snapshot": r.snapshot, "finished": r.finished}
            for r in c.replies
        ],
        "left": c.left,
        "outcome": c.outcome,
        "picked": c.picked,
        "preferred": c.preferred,
        "position": c.position,
        "strength": c.strength,
        "latency": c.latency,
        "source": c.source,
        "purpose": c.purpose,
        "comment": c.comment,
        "split": c.split,
    }


def row(c: Comparison) -> tuple[Any, ...]:
    """A comparison as a line of a table."""
    preferred = "" if c.preferred is None else c.chosen.text
    asked = c.messages[-1].content if c.messages else ""
    return (c.id, c.created[:19], c.mode, c.outcome, c.strength, asked, preferred)
