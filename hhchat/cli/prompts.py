"""`hhchat prompts`: what training samples from and the gate measures on."""

from __future__ import annotations

import sys
from typing import Any

import click

from hhchat.cli._common import DefaultGroup, emit, json_option, open_store, say, table
from hhchat.types import BadInput, Message, Prompt, Split

SPLITS: tuple[Split, ...] = ("train", "heldout")


@click.group("prompts", cls=DefaultGroup)
def command() -> None:
    """List or add prompts for training and evaluation."""


@command.command("list")
@click.option(
    "--source",
    type=click.Choice(["starter", "mine", "imported"]),
    help="Only these; else your own and imported ones.",
)
@click.option("--split", type=click.Choice(SPLITS), help="Only this split.")
@click.option("--n", "n", type=int, metavar="N", help="At most this many.")
@json_option
def list_(source: str | None, split: Split | None, n: int | None, as_json: bool) -> None:
    """Prompts, in the order they were added."""
    if n is not None and n < 0:
        raise BadInput(f"--n must be at least 0, not {n}")
    if source == "starter":
        from hhchat.dataset import starter_prompts

        splits = [s for s in SPLITS if split in (None, s)]
        prompts = [prompt for s in splits for prompt in starter_prompts(s)]
        prompts = prompts[:n]
    else:
        with open_store() as store:
            prompts = store.prompts(source=source, split=split, limit=n)
    if as_json:
        for prompt in prompts:
            emit(record(prompt))
        return
    if not prompts:
        say("no prompts yet: `hhchat prompts add` or `hhchat prefs import` add some")
    table(
        ("source", "split", "mode", "turns", "prompt"),
        [
            (p.source, p.split, p.mode, (len(p.messages) + 1) // 2, p.messages[-1].content)
            for p in prompts
        ],
        width=80,
    )


@command.command("add")
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option("--input", "source", metavar="FILE|-", help="JSON lines, as for `hhchat sample`.")
@click.option("--mode", default="helpful", show_default=True, metavar="MODE")
@json_option
def add(texts: tuple[str, ...], source: str | None, mode: str, as_json: bool) -> None:
    """Add prompts: each TEXT, each line of JSON in FILE, or each line piped in.

    Adding one twice changes nothing. Whether a prompt trains or evaluates is fixed for life by a
    hash of its first message.
    """
    from hhchat.cli.chat import known_mode

    known_mode(mode)
    prompts = [Prompt((Message("user", text),), mode=mode) for text in texts if text.strip()]
    if len(prompts) != len(texts):
        raise BadInput("a prompt is empty")
    if source is not None:
        from hhchat.cli._lines import prompt_of, read_batches

        for batch in read_batches(source, prompt_of):
            prompts += [Prompt(messages, mode=mode) for messages in batch]
    elif not texts:
        if sys.stdin.isatty():
            raise BadInput("which prompt? give a TEXT, --input FILE, or pipe lines in")
        try:
            lines = sys.stdin.buffer.read().decode("utf-8").splitlines()
        except UnicodeDecodeError:
            raise BadInput("standard input is not UTF-8 text") from None
        prompts = [Prompt((Message("user", line.strip()),), mode=mode) for line in lines if
                   line.strip()]  # fmt: skip
    with open_store() as store:
        added = store.add_prompts(prompts)
    if as_json:
        emit({"given": len(prompts), "added": added})
    else:
        known = len(prompts) - added
        say(f"{added} added" + (f", {known} were there already" if known else ""))


def record(prompt: Prompt) -> dict[str, Any]:
    """A prompt as `--json` prints it."""
    return {
        "source": prompt.source,
        "split": prompt.split,
        "mode": prompt.mode,
        "messages": [{"role": m.role, "content": m.content} for m in prompt.messages],
    }
