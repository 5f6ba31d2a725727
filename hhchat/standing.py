"""Where the learning stands: what the dashboard shows, gathered a page at a time.

Everything comes from the store. `gather` is a generator that pauses after each page, so that
whoever draws the screen can draw in between; its value is the `Standing`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hhchat.ranking import Ranking, rank
from hhchat.stats import share
from hhchat.types import Comparison, Measurement, Run, Snapshot

if TYPE_CHECKING:
    from hhchat.store import Store

LATEST = 20_000  # comparisons that ranking and consistency look at, the newest first
PAGE = 200  # comparisons between two pauses
GROWTH = 0.25  # a training is worth its time again when there is this much more to learn from
ACCURACIES = ("pm_cross_accuracy", "pm_accuracy")


@dataclass(frozen=True)
class Version:
    """A snapshot with what its run measured."""

    snapshot: Snapshot
    accuracy: Measurement | None
    gain: Measurement | None  # over the assistant before it, as its preference model judges


@dataclass(frozen=True)
class Standing:
    stats: Mapping[str, Any]
    needed: int  # usable training pairs at which the next training is worth its time
    versions: tuple[Version, ...]  # the oldest first
    current: str  # a snapshot's id, or "base"
    run: Run | None  # the latest
    ranking: Ranking
    consistency: Measurement | None  # how often the user's second look agrees with the first
    read: int  # comparisons that ranking and consistency come from

    @property
    def usable(self) -> int:
        return int(self.stats["by_split"].get("train", 0))

    @property
    def missing(self) -> int:
        return max(0, self.needed - self.usable)

    @property
    def whole(self) -> bool:
        """Whether every comparison was looked at."""
        return self.read >= int(self.stats["comparisons"])


def needed(store: Store, least: int) -> int:
    """How many usable training pairs make the next run worthwhile: `least` for the first, then
    a quarter more than the last run that came to a verdict has read."""
    for run in store.runs(20):
        if run.state in ("promoted", "refused"):
            read = run.data.get("comparisons")
            if isinstance(read, list):
                return max(least, len(read) + max(1, round(GROWTH * len(read))))
    return least


def gather(store: Store, least: int) -> Generator[None, None, Standing]:
    """`least` is `[train] min_comparisons`."""
    looked: list[Comparison] = []
    teaching: list[Comparison] = []  # as `hhchat elo`: none that were chosen to teach, either
    for comparison in store.comparisons(limit=LATEST, newest_first=True):
        looked.append(_bare(comparison))
        if comparison.purpose != "active" and store.teaches(comparison):
            teaching.append(looked[-1])
        if len(looked) % PAGE == 0:
            yield
    from hhchat.preflight import as_it_is

    current = store.current()
    runs = [as_it_is(run) for run in store.runs(1)]
    return Standing(
        stats=store.stats(),
        needed=needed(store, least),
        versions=tuple(_version(s) for s in store.snapshots()),
        current="base" if current is None else current.id,
        run=runs[0] if runs else None,
        ranking=rank(teaching),
        consistency=consistency(looked),
        read=len(looked),
    )


def consistency(comparisons: list[Comparison]) -> Measurement | None:
    """How often the user preferred the same reply of a pair that was shown again.

    None without such pairs. No preference model can be expected to agree with the user more
    often than the user does.
    """
    again: dict[frozenset[str], list[str]] = {}
    for c in comparisons:
        if c.purpose == "replay" and c.preferred is not None:
            again.setdefault(_ids(c), []).append(c.chosen.id)
    pairs = same = 0
    for c in comparisons:
        if c.purpose == "replay" or c.preferred is None:
            continue
        for chosen in again.pop(_ids(c), ()):
            pairs += 1
            same += chosen == c.chosen.id
    return share("consistency", same, pairs) if pairs else None


def _ids(comparison: Comparison) -> frozenset[str]:
    return frozenset(reply.id for reply in comparison.replies)


def _bare(c: Comparison) -> Comparison:
    """Without the texts: twenty thousand of them would be large."""
    first, second = (replace(reply, text="", token_ids=()) for reply in c.replies)
    return replace(c, messages=(), replies=(first, second))


def _version(snapshot: Snapshot) -> Version:
    found = snapshot.info.get("measurements")
    measured = dict(_measurements(found)) if isinstance(found, Mapping) else {}
    # The one from most pairs, as the gate chooses: the larger value would flatter.
    known = [measured[name] for name in ACCURACIES if name in measured]
    accuracy = max(known, key=lambda m: m.n or 0, default=None)
    return Version(snapshot, accuracy, measured.get("score_gain"))


def _measurements(found: Mapping[str, Any]) -> Iterator[tuple[str, Measurement]]:
    for name, values in found.items():
        if isinstance(values, Mapping) and isinstance(values.get("value"), (int, float)):
            known = {k: values[k] for k in ("value", "low", "high", "n", "unit") if k in values}
            yield name, Measurement(name, **known)
