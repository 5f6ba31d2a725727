"""`hhchat ask`: one question, one answer, no screen."""

from __future__ import annotations

import sys
from dataclasses import asdict

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
    settings,
)
from hhchat.types import BadInput, Draw, Message


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
@click.option("--seed", type=int, metavar="N", help="Same seed, same answer; else a random one.")
@sampling_options
@model_options
@json_option
def command(
    question: tuple[str, ...],
    system: str | None,
    snapshot: str,
    seed: int | None,
    temperature: float | None,
    top_p: float | None,
    max_new_tokens: int | None,
    model: str | None,
    quantization: str | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Answer one question without a screen.

    The question is the arguments, or standard input when there are none, or both: the arguments,
    then what was piped in.
    """
    text = _question(question)
    config = settings(
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        model=model,
        quantization=quantization,
        device=device,
    )
    if seed is None:
        import secrets

        seed = secrets.randbits(31)
    told = system if system is not None else config.chat.system
    messages = (*((Message("system", told),) if told else ()), Message("user", text))
    with open_store() as store:
        engine = open_engine(config, store)
        [reply] = engine.generate([Draw(messages, seed, sampling_of(config), snapshot)])
    if as_json:
        emit(
            {
                "messages": [asdict(message) for message in messages],
                "snapshot": reply.snapshot,
                "base": reply.base,
                "text": reply.text,
                "finished": reply.finished,
                "tokens": len(reply.token_ids),
                "seed": reply.seed,
            }
        )
    else:
        say(reply.text)


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
