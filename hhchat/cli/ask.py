"""`hhchat ask`: one question, one answer, no screen."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from hhchat.cli._common import (
    emit,
    json_option,
    model_options,
    open_engine,
    open_store,
    sampling_of,
    sampling_options,
    say,
    server_option,
    settings,
)
from hhchat.text import printable
from hhchat.types import BadInput, Draw, Generation, HhchatError, Message

if TYPE_CHECKING:
    from hhchat.protocols import Engine

MOST = 64  # replies at once


@click.command("ask")
@click.argument("question", required=False, nargs=-1)
@click.option("--system", metavar="TEXT", help="A system prompt.")
@click.option(
    "--snapshot",
    default="current",
    show_default=True,
    metavar="WHICH",
    help="current, base or a snapshot's id.",
)
@click.option("-n", "--n", "n", default=1, show_default=True, metavar="N", help="Replies.")
@click.option(
    "--best-of", type=int, metavar="K", help="The preference model's favourite of K, for each."
)
@click.option("--seed", type=int, metavar="N", help="Same seed, same answer; else a random one.")
@sampling_options
@model_options
@server_option
@json_option
def command(
    question: tuple[str, ...],
    system: str | None,
    snapshot: str,
    n: int,
    best_of: int | None,
    seed: int | None,
    as_json: bool,
    **flags: Any,
) -> None:
    """Answer one question without a screen.

    The question is the arguments, or standard input when there are none, or both: the arguments,
    then what was piped in. Several replies are told apart by a line of three dashes.
    """
    if not 1 <= n <= MOST:
        raise BadInput(f"--n must be between 1 and {MOST}, not {n}")
    if seed is not None and not 0 <= seed < 1 << 62:
        raise BadInput(f"--seed must be between 0 and 2^62, not {seed}")
    text = _question(question)
    config = settings(**{"chat.best_of": best_of}, **flags)
    if seed is None:
        import secrets

        seed = secrets.randbits(31)
    told = system if system is not None else config.chat.system
    messages = (*((Message("system", told),) if told else ()), Message("user", text))
    sampling = sampling_of(config)
    draws = [Draw(messages, seed + i, sampling, snapshot) for i in range(n)]
    with open_store(reading=True) as store:
        engine = open_engine(config, store)
        # Shown as it comes where that can be: one reply, in plain text.
        replies, failed = _sampled(engine, draws, show=n == 1 and not as_json)
    if as_json and replies:  # also what a server broke off: "finished" says so, and the exit code
        record = {"messages": [asdict(message) for message in messages], **_record(replies[0])}
        if n > 1:
            record["replies"] = [_record(reply) for reply in replies]
        emit(record)
    elif n > 1 and not as_json:
        for i, reply in enumerate(replies):
            if i:
                say("---")
            say(reply.text)
    if failed is not None:
        raise failed


def _sampled(
    engine: Engine, draws: Sequence[Draw], show: bool
) -> tuple[list[Generation], HhchatError | None]:
    """The replies in order, and the error that kept the rest away or cut one short."""
    found: dict[int, Generation] = {}
    text = ""
    printed = 0
    failed: HhchatError | None = None
    try:
        for delta in engine.sample(draws, lambda: False):
            if delta.generation is not None:
                found[delta.row] = delta.generation
            if not show:
                continue
            text = delta.generation.text if delta.generation is not None else text + delta.text
            # Up to a space: nothing that has to be seen whole to be made safe holds one.
            upto = max(text.rfind(" "), text.rfind("\n")) + 1
            if upto > printed:
                click.echo(printable(text[printed:upto]), nl=False)
                printed = upto
    except HhchatError as error:
        failed = error
    if show and (found or text):
        say(text[printed:])
    return [found[row] for row in sorted(found)], failed


def _record(reply: Generation) -> dict[str, Any]:
    return {
        "snapshot": reply.snapshot,
        "base": reply.base,
        "text": reply.text,
        "finished": reply.finished,
        "tokens": len(reply.token_ids),
        "seed": reply.seed,
    }


def _question(words: tuple[str, ...]) -> str:
    parts = [" ".join(words)]
    if not sys.stdin.isatty() and (not words or _piped()):
        try:
            parts.append(sys.stdin.buffer.read().decode("utf-8"))
        except UnicodeDecodeError:
            raise BadInput("standard input is not UTF-8 text") from None
    text = "\n\n".join(part.strip() for part in parts if part.strip())
    if not text:
        raise BadInput('what is the question? hhchat ask "..."')
    return text


def _piped() -> bool:
    """Whether standard input is a pipe or a file, as opposed to whatever a daemon was left with."""
    import os
    import stat

    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)
