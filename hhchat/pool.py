"""Which versions of the assistant the two sides of a pair are drawn from.

Members of `[pool]`, by weight:

    current      the promoted snapshot, or the base while there is none: always a member
    previous     the one before it, along the line that rollbacks follow
    start        the bare base, where training begins (also called base)
    best-of-K    the current one, the preference model's favourite of K replies
    an id        a snapshot, or the unique start of its id
    remote:NAME  another model of the server, when a server writes the replies

A member may be best-of-K too: "previous best-of-4". What cannot play now has no say: a snapshot
before the first promotion, one of another base model, a best-of without a preference model, a
snapshot of this machine while a server writes. Two names of one version share their weights.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hhchat.snapshots import BASE, CURRENT, folder_of, part
from hhchat.types import BadInput, HhchatError, Sampling, Snapshot, nearest

if TYPE_CHECKING:
    from hhchat.store import Store

PREVIOUS = "previous"
START = "start"
REMOTE = "remote"
NAMES = (CURRENT, PREVIOUS, START, BASE, "best-of-4")
SERVER = "server:"  # what the base of a server's replies begins with
_BEST = re.compile(r"(?:(?P<name>\S+) )?best-of-(?P<k>\d{1,2})")


@dataclass(frozen=True)
class Member:
    """One version: what a draw of it says, and best_of 1 unless it is a best-of-K."""

    snapshot: str
    best_of: int = 1


class Pool:
    """Draws members by weight. Asks the store at each draw: a promotion counts at once."""

    def __init__(self, store: Store, weights: Mapping[str, float]) -> None:
        """BadInput when a name is none, or when no weight is above 0."""
        self.store = store
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}
        if not self.weights or min(weights.values()) < 0:
            raise BadInput("[pool]: weights are at least 0, and one must be above 0")
        for name in weights:
            snapshot, _ = _read(name)
            if snapshot not in (*NAMES, REMOTE) and not snapshot.startswith(f"{REMOTE}:"):
                _find(store, snapshot)

    def members(self, base: str | None = None) -> dict[Member, float]:
        """Who can play now, with weights that add up to 1. `base` is the engine's."""
        if set(self.weights) == {CURRENT}:  # as a rule, and then there is nothing to look up
            return {Member(CURRENT): 1.0}
        found: dict[Member, float] = {}
        for name, weight in self.weights.items():
            member = self._member(name, base)
            if member is not None:
                found[member] = found.get(member, 0.0) + weight
        current = Member(CURRENT)
        if current not in found:  # the user's own assistant is never left out
            found = {current: min(found.values(), default=1.0), **found}
        total = sum(found.values())
        return {member: weight / total for member, weight in found.items()}

    def draw(
        self,
        rng: random.Random,
        sampling: Sampling,
        base: str | None = None,
        other: tuple[str, Sampling] | None = None,
    ) -> tuple[str, Sampling]:
        """The snapshot and the sampling of one side.

        `other` is the side drawn before, when the two should differ: after a near-identical
        pair, another member is drawn where there is one (section 4.5).
        """
        members = self.members(base)
        if other is not None:
            for taken in list(members):
                if len(members) > 1 and _side(taken, sampling) == other:
                    del members[taken]
        [member] = rng.choices(list(members), list(members.values()))
        return _side(member, sampling)

    # -- inside

    def _member(self, name: str, base: str | None) -> Member | None:
        """The member of that name as it stands now; None when it cannot play."""
        snapshot, best_of = _read(name)
        if base is not None and base.startswith(SERVER):
            return _of_server(snapshot, best_of, base)
        if snapshot.startswith(REMOTE):
            return None
        found = self._id(snapshot, base)
        if found is None or (best_of > 1 and not self._has_preference(found)):
            return None
        return Member(CURRENT if found == self._id(CURRENT, base) else found, best_of)

    def _id(self, name: str, base: str | None) -> str | None:
        """The snapshot a name stands for now, or "base"; None when it cannot play."""
        if name in (START, BASE):
            return BASE
        if name == CURRENT:
            now = self.store.current()
            # One of another base model gives way to the base itself, as in the engine.
            return now.id if now is not None and base in (None, now.base) else BASE
        if name == PREVIOUS:
            line = self._line()
            if len(line) == 1:
                return None
            if not line[-2]:
                return BASE
            name = line[-2]
        found = _find(self.store, name)
        return found.id if base in (None, found.base) else None

    def _has_preference(self, snapshot: str) -> bool:
        if snapshot == BASE:
            return False
        try:
            return part(folder_of(self.store.snapshot(snapshot)), "preference") is not None
        except HhchatError:  # damaged: whoever uses it says so
            return False

    def _line(self) -> list[str]:
        """The versions one could roll back through, the current one last; "" is the base."""
        line = [""]
        for promotion in self.store.promotions():
            if promotion.rollback:
                line.pop()
            elif (promotion.snapshot or "") != line[-1]:
                line.append(promotion.snapshot or "")
        return line


def _read(name: str) -> tuple[str, int]:
    """("previous", 4) for "previous best-of-4"."""
    best = _BEST.fullmatch(name)
    if best is None:
        return name, 1
    k = int(best["k"])
    if not 1 < k <= 64:
        raise BadInput(f"[pool] {name}: the best of 2 to 64 replies")
    return best["name"] or CURRENT, k


def _find(store: Store, name: str) -> Snapshot:
    try:
        return store.snapshot(name)
    except BadInput:
        raise BadInput(f"[pool] has no version {name!r}: {nearest(name, NAMES)}") from None


def _of_server(snapshot: str, best_of: int, base: str) -> Member | None:
    if best_of > 1:
        return None
    kind, _, model = snapshot.partition(":")
    if kind == REMOTE and model and model != base.partition("/")[2]:
        return Member(snapshot)
    return Member(CURRENT) if kind in (CURRENT, REMOTE) else None


def _side(member: Member, sampling: Sampling) -> tuple[str, Sampling]:
    if member.best_of > 1:
        sampling = replace(sampling, best_of=member.best_of)
    return member.snapshot, sampling
