"""Old pairs shown again, sides swapped: how often the user agrees with their own past picks.

That is the most that a preference model can learn, and it is measured from fresh eyes: a pair
is at least a day old when it comes again, and is not shown a third time soon.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import TYPE_CHECKING

from hhchat.pair import Pair, other_of
from hhchat.store.ids import encode
from hhchat.types import Comparison, Draw, Generation, Sampling, Side, side_of, strength_of

if TYPE_CHECKING:
    from hhchat.store import Store

AGE = timedelta(days=1)
LOOK = 60  # comparisons looked at from where chance points
SOON = 200  # comparisons that must have gone by before a pair is shown again


@dataclass(frozen=True)
class Again:
    """An old pair on the table for a second look, its sides swapped."""

    before: Comparison
    pair: Pair

    @classmethod
    def of(cls, before: Comparison) -> Again:
        first, second = (
            Draw(before.messages, r.seed or 0, r.sampling or Sampling(), r.snapshot or "base")
            for r in before.replies
        )
        pair = Pair((first, second), other_of(before.left))
        pair.texts = [r.text for r in before.replies]
        pair.generations = list(before.replies)
        return cls(before, pair)


def judged_again(
    again: Again, side: Side | None, position: int | None, latency: float | None
) -> Comparison:
    """The second look as a row: a tie without side and position. It teaches nothing: it is compared
    with the first."""
    if position is not None:
        side = side_of(position)
    return replace(
        again.before,
        id="",
        left=again.pair.left,
        picked=None if side is None else again.pair.index(side),
        preferred=None,
        outcome=side or "tie",
        position=position,
        strength=None if position is None else strength_of(position),
        latency=latency,
        purpose="replay",
        comment=None,
    )


def old_pair(store: Store, rng: random.Random, now: datetime | None = None) -> Comparison | None:
    """A pair that the user picked from long enough ago; None when there is none in reach.

    Chance points at a moment between the first pick and a day ago, and the pairs that follow it
    are looked at: no search through a long history.
    """
    now = now or datetime.now(UTC)
    first = next(store.comparisons(limit=1), None)
    if first is None:
        return None
    begin, end = _when(first), now - AGE
    if begin > end:
        return None
    moment = begin + (end - begin) * rng.random()
    cursor = encode(int(moment.timestamp() * 1000) << 80)
    lately: set[frozenset[str]] = set()
    for c in store.comparisons(limit=SOON, newest_first=True):
        if c.purpose == "replay":
            lately.add(_ids(c.replies))
    nearby = chain(
        store.comparisons(limit=LOOK, after=cursor, source="model"),
        store.comparisons(limit=LOOK, source="model"),
    )
    for c in nearby:
        old = _when(c) <= end and _ids(c.replies) not in lately
        if old and c.purpose == "chat" and c.picked is not None and store.teaches(c):
            return c
    return None


def _when(comparison: Comparison) -> datetime:
    return datetime.fromisoformat(comparison.created)


def _ids(replies: tuple[Generation, Generation]) -> frozenset[str]:
    return frozenset(reply.id for reply in replies)
