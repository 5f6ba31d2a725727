"""`hhchat simulate`: a user whose taste is known chats and picks, or judges two snapshots."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from hhchat.cli._common import (
    emit,
    json_option,
    load_plugins,
    model_options,
    open_engine,
    open_store,
    sampling_of,
    sampling_options,
    say,
    settings,
)
from hhchat.types import BadInput

if TYPE_CHECKING:
    from hhchat.config import Config
    from hhchat.simulate import SimReport


@click.command("simulate")
@click.option("--user", required=True, metavar="NAME", help="helpful, harmless, brief or curious.")
@click.option("--picks", type=click.IntRange(min=1), metavar="N", help="How many picks to make.")
@click.option(
    "--judge",
    nargs=2,
    metavar="A B",
    help="Win rate of snapshot A over B under the user's taste; ids, current or base.",
)
@click.option(
    "--prompts",
    "n",
    type=click.IntRange(min=1),
    default=400,
    show_default=True,
    metavar="N",
    help="Held-out prompts to judge on.",
)
@click.option("--seed", default=0, show_default=True, metavar="N", help="Same seed, same picks.")
@click.option(
    "--snapshot",
    default="current",
    show_default=True,
    metavar="WHICH",
    help="Who is chatted with: current, base or a snapshot's id.",
)
@click.option(
    "--candidates",
    type=int,
    metavar="N",
    help="Show the two of N replies that teach most; else [chat] candidates.",
)
@click.option(
    "--flip",
    type=float,
    default=0.0,
    metavar="SHARE",
    help="Turn this share of the picks round, as by someone who does not look.",
)
@sampling_options
@model_options
@json_option
def command(
    user: str,
    picks: int | None,
    judge: tuple[str, str] | None,
    n: int,
    seed: int,
    snapshot: str,
    candidates: int | None,
    flip: float,
    as_json: bool,
    **flags: Any,
) -> None:
    """Let a simulated user chat and pick, or judge two snapshots.

    The user picks through the same session code as a person, noisily (Bradley-Terry) by a known
    utility, so what is learned from the picks can be measured against the truth.
    """
    if (picks is None) == (not judge):
        raise BadInput("give either --picks N or --judge A B")
    from hhchat.simulate import find_user

    find_user(user)  # an unknown name is refused before a model is loaded
    config = settings(**flags, **{"chat.candidates": candidates})
    if judge:
        _judge(config, user, judge, n, seed, as_json)
    else:
        assert picks is not None
        _simulate(config, user, picks, seed, snapshot, flip, as_json)


def _simulate(
    config: Config, user: str, picks: int, seed: int, snapshot: str, flip: float, as_json: bool
) -> None:
    from hhchat.simulate import simulate

    counter = _Counter("picks", picks)
    with open_store() as store:
        report = simulate(
            store,
            open_engine(config, store),
            user,
            picks,
            seed,
            counter.report,
            sampling=sampling_of(config),
            snapshot=snapshot,
            plugins=load_plugins(),
            candidates=config.chat.candidates,
            plain=config.chat.plain,
            flip=flip,
        )
    counter.close()
    told = {key: value for key, value in asdict(report).items() if key != "comparisons"}
    if as_json:
        emit(told)
        return
    say(
        f"{report.user} made {report.picks} picks in {report.conversations} conversations"
        f" ({report.ties} ties on top, {report.heldout} held out) in {report.seconds:.1f} s"
    )
    say(f"picked the truly better reply {report.better / max(1, report.picks):.1%} of the time")


def _judge(
    config: Config, user: str, judged: tuple[str, str], n: int, seed: int, as_json: bool
) -> None:
    from hhchat.simulate import judge

    counter = _Counter("replies", 0)
    with open_store() as store:
        result = judge(
            open_engine(config, store),
            user,
            *judged,
            seed=seed,
            n=n,
            sampling=sampling_of(config),
            progress=counter.count,
        )
    counter.close()
    if as_json:
        emit({"user": user, "a": judged[0], "b": judged[1], **asdict(result)})
        return
    low, high = result.low, result.high
    interval = "" if low is None or high is None else f" (95%: {low:.1%} to {high:.1%})"
    say(
        f"{user} prefers {judged[0]} to {judged[1]} in {result.value:.1%}{interval}"
        f" of {result.n} prompts"
    )


class _Counter:
    """A count on stderr that is rewritten; silent when nobody watches."""

    def __init__(self, what: str, total: int) -> None:
        self.what, self.total, self.shown = what, total, False

    def report(self, report: SimReport) -> None:
        self.count(report.picks, self.total)

    def count(self, done: int, total: int) -> None:
        if sys.stderr.isatty():
            click.echo(f"\r\x1b[2K{done}/{total} {self.what}", err=True, nl=False)
            self.shown = True

    def close(self) -> None:
        if self.shown:
            click.echo(err=True)
