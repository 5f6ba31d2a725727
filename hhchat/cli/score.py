"""`hhchat score`: what the preference model thinks of replies."""

from __future__ import annotations

from typing import Any

import click

from hhchat.cli._common import emit, model_options, open_preference, open_store, settings
from hhchat.cli._lines import messages_of, read_batches
from hhchat.types import BadInput, Exchange


@click.command("score")
@click.option(
    "--input", "source", required=True, metavar="FILE|-", help="JSON lines; - is standard input."
)
@click.option(
    "--snapshot",
    default="current",
    show_default=True,
    metavar="WHICH",
    help="Whose preference model: current or a snapshot's id.",
)
@model_options
def command(
    source: str,
    snapshot: str,
    **flags: Any,
) -> None:
    """Score replies with the preference model: JSON lines in and out.

    In: {"messages": [{"role", "content"}], "reply": "..."}, one object a line. Out, in the order
    of the input: {"score": number}. Only differences of scores mean anything.
    """
    config = settings(**flags)
    batches = read_batches(source, exchange_of)
    first = next(batches, None)
    if first is None:
        return
    with open_store(reading=True) as store:
        scorer = open_preference(config, store, snapshot)
        batch: list[Exchange] | None = first
        while batch is not None:
            for score in scorer.score(batch):
                emit({"score": score})
            batch = next(batches, None)


def exchange_of(record: dict[str, Any]) -> Exchange:
    """{"messages": [...], "reply": "..."} as an exchange."""
    for key in ("messages", "reply"):
        if key not in record:
            raise BadInput(f"needs a key {key!r}")
    reply = record["reply"]
    if not isinstance(reply, str):
        raise BadInput("reply must be text")
    return Exchange(messages_of(record["messages"]), reply)
