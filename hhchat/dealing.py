"""Who deals a pair: versions, seeds and sides of the replies to come, and which two are shown."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from hhchat.pair import Index, Pair
from hhchat.pool import Pool
from hhchat.protocols import Asking, Engine
from hhchat.types import Comparison, Conversation, Delta, Draw, Generation, Message, Sampling

if TYPE_CHECKING:
    from hhchat.store import Store

RECALLED = 500  # of the latest comparisons, for an engine that chooses what to ask
SEED_BITS = 31  # what every sampler and every SQLite integer holds


class Dealer:
    """Draws each reply's version and seed, and the sides the two are shown on.

    Versions come from a pool, by weight; without one all are `snapshot`. Of `candidates` replies
    the two that teach most are shown, where the engine can tell; never in held-out conversations,
    and not for the share `plain` of the others, so that what tests a model stays a fair draw.
    """

    def __init__(
        self,
        store: Store,
        rng: random.Random,
        snapshot: str = "current",
        pool: Mapping[str, float] | None = None,
        candidates: int = 2,
        plain: float = 0.25,
    ) -> None:
        self.store, self.rng = store, rng
        self.snapshot, self.pool = snapshot, Pool(store, pool) if pool else None
        self._usual = (self.snapshot, self.pool)
        self.blind = False  # each pair is of two versions, where the pool has two
        self.candidates, self.plain = max(2, candidates), plain
        self._sides: list[Index] = []

    def pin(self, snapshot: str) -> None:
        """Both replies of the coming pairs are by this version, whatever is promoted."""
        self.snapshot, self.pool, self.blind = snapshot, None, False

    def unpin(self) -> None:
        """Draw from what it was made with again."""
        self.snapshot, self.pool = self._usual
        self.blind = False

    def versus(self, pool: Mapping[str, float]) -> None:
        """The coming pairs are of two different versions of this pool."""
        self.pool, self.blind = Pool(self.store, pool), True

    def deal(
        self,
        conversation: Conversation,
        messages: tuple[Message, ...],
        sampling: Sampling,
        engine: Engine | None,
        before: Pair | None,
    ) -> Pair:
        """The pair to sample next, with more draws beside it when it is to be chosen from them.

        `before` is the pair it takes the place of, if any: after a near-identical one the two
        replies are by different versions, once, where there are any."""
        again = before is not None and before.alike and before.attempt == 0
        unlike = again or self.blind
        draws: list[Draw] = []
        for _ in range(self._wanted(conversation, engine)):
            seed = self.rng.getrandbits(SEED_BITS)
            first = (draws[0].snapshot, draws[0].sampling) if unlike and draws else None
            snapshot, settings = self._version(sampling, engine, first)
            draws.append(Draw(messages, seed, settings, snapshot))
        pair = Pair((draws[0], draws[1]), self._next_side(), attempt=1 if again else 0)
        if len(draws) > 2:
            pair.others, pair.picks = tuple(draws[2:]), self._unlearnt(engine)
        return pair

    def _version(
        self, sampling: Sampling, engine: Engine | None, other: tuple[str, Sampling] | None
    ) -> tuple[str, Sampling]:
        """Snapshot and sampling of one reply; unlike `other`'s, where the pool has another."""
        if self.pool is None:
            return self.rng.choices([self.snapshot])[0], sampling  # as a pool of one draws
        base = None if engine is None else engine.base
        return self.pool.draw(self.rng, sampling, base, other)

    def _wanted(self, conversation: Conversation, engine: Engine | None) -> int:
        """How many replies to sample for the pair that comes."""
        if (
            self.candidates == 2
            or self.blind
            or conversation.split == "heldout"
            or not isinstance(engine, Asking)
            or self.rng.random() < self.plain
        ):
            return 2
        return self.candidates

    def _unlearnt(self, engine: Engine | None) -> tuple[Comparison, ...]:
        """Picks that the engine's asker has not seen, oldest first."""
        assert isinstance(engine, Asking)
        latest = engine.asker.latest
        if latest:
            return tuple(self.store.iter_usable(split="train", after=latest))
        found = self.store.comparisons(limit=RECALLED, newest_first=True, split="train")
        return tuple(c for c in reversed(list(found)) if self.store.teaches(c))

    def _next_side(self) -> Index:
        """Shuffled in blocks of four, two of each, so that neither side is ever favoured."""
        if not self._sides:
            self._sides = [0, 1, 0, 1]
            self.rng.shuffle(self._sides)
        return self._sides.pop()


def sampled(engine: Engine, pair: Pair, cancelled: Callable[[], bool]) -> Iterator[Delta]:
    """Sample the pair, filling it; rows are display sides, 0 left and 1 right. Touches no store.

    A pair that is chosen from more candidates comes whole: which two it is shows when all are
    there."""
    deltas = (
        _chosen(engine, pair, cancelled) if pair.others else engine.sample(pair.draws, cancelled)
    )
    for delta in deltas:
        if delta.text:
            pair.texts[delta.row] += delta.text
        if delta.generation is not None:
            pair.texts[delta.row] = delta.generation.text
            pair.generations[delta.row] = delta.generation
        yield replace(delta, row=0 if pair.side(delta.row) == "left" else 1)


def _chosen(engine: Engine, pair: Pair, cancelled: Callable[[], bool]) -> list[Delta]:
    """Sample all candidates and make the two that teach most the pair; as whole rows."""
    assert isinstance(engine, Asking)
    draws = (*pair.draws, *pair.others)
    made: list[Generation | None] = [None] * len(draws)
    for delta in engine.sample(draws, cancelled):
        if delta.generation is not None:
            made[delta.row] = delta.generation
    replies = [g for g in made if g is not None]
    if len(replies) < len(draws) or cancelled():
        return []  # stopped before there was anything to choose from
    engine.asker.learn(pair.picks)
    two = engine.asker.choose(draws[0].messages, replies)
    first, second = two or (0, 1)
    pair.active, pair.others, pair.picks = two is not None, (), ()
    pair.draws = (draws[first], draws[second])
    return [Delta(row, replies[i].text, replies[i]) for row, i in enumerate((first, second))]
