"""`hhchat chat`: open the app."""

from __future__ import annotations

import sys

import click

from hhchat.cli._common import model_options, settings
from hhchat.types import BadInput


@click.command("chat")
@model_options
@click.option(
    "--mode", metavar="MODE", help="helpful, redteam-best, redteam-worst or a plugin's objective."
)
@click.option("--resume", metavar="ID", help="A conversation's id, or `last`.")
def command(
    model: str | None,
    quantization: str | None,
    device: str | None,
    mode: str | None,
    resume: str | None,
) -> int:
    """Chat, and pick between two replies (what `hhchat` alone does)."""
    config = settings(model=model, quantization=quantization, device=device, mode=mode)
    # Textual would run without one and write its escapes into the pipe.
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout)):
        raise BadInput("the chat needs a terminal; `hhchat ask` answers without one")
    from hhchat import tui

    return int(tui.run(config, resume=resume) or 0)
