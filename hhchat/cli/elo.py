"""`hhchat elo`: the assistant's versions, ranked by the picks between them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

import click

from hhchat.cli._common import emit, json_option, open_store, say, table
from hhchat.types import BadInput, nearest

if TYPE_CHECKING:
    from hhchat.elo import Group
    from hhchat.ranking import Picks, Ranking

WHOSE = ("all", "mine", "simulated")


@click.command("elo")
@click.option(
    "--picks", default="all", show_default=True, metavar="WHOSE", help="all, mine or simulated."
)
@click.option("--mode", metavar="MODE", help="Only picks made in this mode.")
@click.option(
    "--anchor", metavar="VERSION", help="The version at 0; the start of its name will do."
)
@json_option
def command(picks: str, mode: str | None, anchor: str | None, as_json: bool) -> None:
    """Rank the assistant's versions by the picks between them.

    Elo by maximum likelihood with 95% intervals, from usable picks between replies of two
    different versions. The bare base is at 0 where it has played.
    """
    from hhchat.ranking import rank_games

    if picks not in WHOSE:
        raise BadInput(f"--picks cannot be {picks!r}: {nearest(picks, WHOSE)}")
    whose = cast("Picks", picks)
    with open_store(reading=True) as store:
        ranking = rank_games(store.games(), picks=whose, mode=mode, anchor=anchor)
    if as_json:
        emit(_record(ranking))
    else:
        _print(ranking)


def _record(ranking: Ranking) -> dict[str, Any]:
    from hhchat.stats import win_rate_of_elo

    groups = []
    for group in ranking.groups:
        ratings = [
            {
                "version": r.player,
                "snapshot": ranking.players[r.player].snapshot,
                "base": ranking.players[r.player].base,
                "best_of": ranking.players[r.player].best_of,
                **{k: v for k, v in asdict(r).items() if k != "player"},
                "win_rate": win_rate_of_elo(r.elo),
            }
            for r in group.ratings
        ]
        groups.append(
            {
                "anchor": group.anchor,
                "level": group.level,
                "games": group.games,
                "regularised": group.regularised,
                "ordered": group.ordered,
                "supported": [list(pair) for pair in group.supported()],
                "ratings": ratings,
            }
        )
    return {
        "games": ranking.games,
        "alike": ranking.alike,
        "modes": ranking.modes,
        "groups": groups,
    }


def _print(ranking: Ranking) -> None:
    if not ranking.groups:
        say("No picks between two different versions yet.")
        say("Chat with two in the pool (`hhchat config set pool.previous 1`) and pick.")
        return
    for i, group in enumerate(ranking.groups):
        if i:
            say()
            say("No game connects those above with these:")
        _print_group(group)
    if len(ranking.modes) > 1:
        counts = ", ".join(f"{mode} {n}" for mode, n in sorted(ranking.modes.items()))
        say(f"Modes are pooled ({counts}): --mode tells them apart.")


def _print_group(group: Group) -> None:
    from hhchat.stats import win_rate_of_elo

    def against(elo: float) -> str:
        return f"{win_rate_of_elo(elo):.0%}"

    rows = [
        (
            r.player,
            f"{r.elo:+.0f}" if r.player != group.anchor else "0",
            f"{r.low:+.0f} to {r.high:+.0f}" if r.player != group.anchor else "anchor",
            against(r.elo) if r.player != group.anchor else "",
            r.games,
            r.wins,
        )
        for r in group.ratings
    ]
    table(("version", "Elo", f"{group.level:.0%} interval", "beats anchor", "games", "won"), rows)
    if group.regularised:
        say("Some only won or only lost: their Elo has no bound, and these numbers are a guess.")
    supported = group.supported()
    if not supported:
        say(f"The data supports no order yet: {group.games} games tell none of them apart.")
    elif group.ordered:
        say("The data supports this order.")
    else:
        words = ", ".join(f"{a} over {b}" for a, b in supported)
        say(f"The data supports only: {words}.")
