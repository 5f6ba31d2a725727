"""The assistant's versions ranked by the picks between them.

A player is everything that made a reply what it is: the snapshot or the server's model, how many
replies it was the best of, and its decoding settings. Elo is never pooled over settings of the
sampler (section 2.4): a snapshot at temperature 0.7 is another player than itself at 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from hhchat.elo import Group, fit
from hhchat.types import BadInput, Comparison, Generation, Sampling, nearest

Picks = Literal["all", "mine", "simulated"]
SOURCES = {"all": ("model", "simulated"), "mine": ("model",), "simulated": ("simulated",)}


@dataclass(frozen=True, order=True)
class Player:
    snapshot: str
    base: str
    best_of: int = 1
    temperature: float = 1.0
    top_p: float = 1.0

    @property
    def name(self) -> str:
        """The snapshot's id, "base", or the server's model, and whatever is not plain sampling."""
        words = [self.base if self.snapshot.startswith("remote") else self.snapshot]
        if self.best_of > 1:
            words.append(f"best-of-{self.best_of}")
        if self.temperature != 1.0:
            words.append(f"T={self.temperature:g}")
        if self.top_p != 1.0:
            words.append(f"top-p={self.top_p:g}")
        return " ".join(words)


@dataclass(frozen=True)
class Ranking:
    groups: tuple[Group, ...]
    players: dict[str, Player]  # by the name that they have in the groups
    games: int
    modes: dict[str, int]  # games by mode
    alike: int  # picks between two replies of one player: they rank nobody


def rank(comparisons: Iterable[Comparison]) -> Ranking:
    """`rank_games` of comparisons one by one."""
    return rank_games((c, 1) for c in comparisons)


def rank_games(
    games: Iterable[tuple[Comparison, int]],
    *,
    picks: Picks = "all",
    mode: str | None = None,
    anchor: str | None = None,
    level: float = 0.95,
) -> Ranking:
    """Elo from usable comparisons, each with how often it was made (`Store.games`), whose replies
    come from two different players.

    Replies that were written, edited or imported are left out: no version of ours wrote them.
    The anchor is the bare base where it played, else the oldest snapshot; `anchor` names another
    one, by the start of its name.
    """
    won: Counter[tuple[Player, Player]] = Counter()
    modes: Counter[str] = Counter()
    alike = 0
    for c, often in games:
        if c.source not in SOURCES[picks] or c.preferred is None:
            continue
        if mode is not None and c.mode != mode:
            continue
        better, worse = player_of(c.chosen), player_of(c.rejected)
        if better is None or worse is None:
            continue
        if better == worse:
            alike += often
            continue
        won[better, worse] += often
        modes[c.mode] += often
    names = _names({player for pair in won for player in pair})
    counts = {(names[a], names[b]): float(n) for (a, b), n in won.items()}
    zero = _anchor(anchor, names, won)
    return Ranking(
        groups=tuple(fit(counts, zero, level)),
        players={name: player for player, name in names.items()},
        games=sum(won.values()),
        modes=dict(modes),
        alike=alike,
    )


def player_of(reply: Generation) -> Player | None:
    """Who wrote a reply; None when it was not a version of the assistant."""
    if reply.source != "model" or reply.snapshot is None:
        return None
    sampling = reply.sampling or Sampling()
    greedy = sampling.temperature == 0  # nothing is drawn, whatever top-p says
    return Player(
        # One model of a server has one name, whether it was the default or asked for by name.
        "remote" if reply.snapshot.startswith("remote") else reply.snapshot,
        reply.base or "",
        sampling.best_of,
        sampling.temperature,
        1.0 if greedy else sampling.top_p,
    )


def _names(players: set[Player]) -> dict[Player, str]:
    """A name for each, with the base model added where two would be called the same."""
    taken = Counter(p.name for p in players)
    return {
        p: p.name if taken[p.name] == 1 else replace(p, snapshot=f"{p.snapshot} of {p.base}").name
        for p in sorted(players)
    }


def _anchor(
    asked: str | None, names: dict[Player, str], won: Counter[tuple[Player, Player]]
) -> str | None:
    if not names:
        return None
    if asked is not None:
        found = [name for name in names.values() if name == asked]
        found = found or [name for name in names.values() if name.startswith(asked)]
        if len(found) != 1:
            listed = list(names.values())
            why = "could be several versions" if found else "has played no game"
            raise BadInput(f"{asked!r} {why}: {nearest(asked, found or listed)}")
        return found[0]
    played: Counter[Player] = Counter()
    for (a, b), n in won.items():
        played[a] += n
        played[b] += n
    plain = [p for p in names if p.snapshot == "base" and p.name == "base"]
    return names[max(plain, key=lambda p: played[p])] if plain else None
