"""`hhchat sample`: many prompts in, replies out, in one batched and repeatable run."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import click

from hhchat.cli._common import (
    emit,
    model_options,
    open_engine,
    open_store,
    sampling_of,
    sampling_options,
    settings,
)
from hhchat.cli._lines import prompt_of, read_batches
from hhchat.types import BadInput, Draw, Message


@click.command("sample")
@click.option(
    "--input", "source", required=True, metavar="FILE|-", help="JSON lines; - is standard input."
)
@click.option("-n", "n", default=2, show_default=True, metavar="N", help="Replies to each prompt.")
@click.option(
    "--snapshot",
    default="current",
    show_default=True,
    metavar="WHICH",
    help="current, base or a snapshot's id.",
)
@click.option(
    "--best-of", type=int, metavar="K", help="The preference model's favourite of K, for each."
)
@click.option("--seed", default=0, show_default=True, metavar="N", help="Same seed, same replies.")
@sampling_options
@model_options
def command(
    source: str,
    n: int,
    snapshot: str,
    seed: int,
    best_of: int | None,
    **flags: Any,
) -> None:
    """Sample replies to many prompts: JSON lines in and out.

    In: {"prompt": "..."} or {"messages": [{"role", "content"}]}, one object a line. Out, in the
    order of the input: {"prompt", "messages", "snapshot", "replies": [{"text", "finished",
    "tokens", "seed"}]}.
    """
    if n < 1:
        raise BadInput(f"-n must be at least 1, not {n}")
    config = settings(**flags, **{"chat.best_of": best_of})
    sampling = replace(sampling_of(config), best_of=config.chat.best_of if best_of else 1)
    batches = read_batches(source, prompt_of)
    # A file is checked whole when its first batch is asked for: before the model is loaded.
    first = next(batches, None)
    if first is None:
        return
    with open_store(reading=True) as store:
        engine = open_engine(config, store)
        line = 0
        batch: list[tuple[Message, ...]] | None = first
        while batch is not None:
            draws = [
                Draw(messages, seed_of(seed, line + i, reply), sampling, snapshot)
                for i, messages in enumerate(batch)
                for reply in range(n)
            ]
            replies = engine.generate(draws)
            for i, messages in enumerate(batch):
                mine = replies[i * n : (i + 1) * n]
                emit(
                    {
                        "prompt": messages[-1].content,
                        "messages": [{"role": m.role, "content": m.content} for m in messages],
                        "snapshot": mine[0].snapshot,
                        "replies": [
                            {
                                "text": reply.text,
                                "finished": reply.finished,
                                "tokens": len(reply.token_ids),
                                "seed": reply.seed,
                            }
                            for reply in mine
                        ],
                    }
                )
            line += len(batch)
            batch = next(batches, None)


def seed_of(seed: int, line: int, reply: int) -> int:
    """The seed of one reply: a hash, so that neighbouring seeds and lines share no stream."""
    digest = hashlib.sha256(f"{seed}:{line}:{reply}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
