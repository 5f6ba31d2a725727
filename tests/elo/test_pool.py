"""The pool: who can play, how often, and that the user's own assistant always can."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hhchat import paths
from hhchat.pool import Member, Pool
from hhchat.session import Session
from hhchat.store import Store
from hhchat.types import BadInput, Delta, Draw, Generation, Sampling, Snapshot

BASE = "starter@1"
CURRENT = Member("current")
Promote = Callable[..., None]


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    paths.ensure(home)
    with Store(paths.database()) as store:
        yield store


@pytest.fixture
def promote(store: Store) -> Promote:
    """A promoted snapshot on disk, with a preference model unless told otherwise."""

    def promote(id: str, base: str = BASE, preference: bool = True) -> None:
        folder = paths.snapshots() / id
        (folder / "ppo").mkdir(parents=True)
        (folder / "pm").mkdir()
        told = {"policy": "ppo", **({"preference": "pm"} if preference else {})}
        (folder / "snapshot.json").write_text(json.dumps(told))
        store.add_snapshot(Snapshot(id, id, None, "base", base))
        store.promote(id)

    return promote


def shares(store: Store, **weights: float) -> dict[Member, float]:
    named = {name.replace("_", "-"): weight for name, weight in weights.items()}
    return Pool(store, named).members(BASE)


def test_alone(store: Store) -> None:
    assert shares(store, current=3) == {CURRENT: 1.0}


def test_nothing_is_promoted_yet(store: Store) -> None:
    """Every name is the base, or nobody: one version, drawn under one name."""
    assert shares(store, current=1, start=1, previous=5) == {CURRENT: 1.0}


def test_the_names(store: Store, promote: Promote) -> None:
    promote("s1")
    assert shares(store, current=1, previous=1) == {CURRENT: 0.5, Member("base"): 0.5}
    promote("s2")
    found = shares(store, current=4, previous=2, start=1, base=1, best_of_4=2)
    assert found == {
        CURRENT: 0.4,
        Member("s1"): 0.2,
        Member("base"): 0.2,
        Member("current", 4): 0.2,
    }
    assert shares(store, current=1, s1=1, previous=1, s2=1) == {CURRENT: 0.5, Member("s1"): 0.5}
    assert Pool(store, {"current": 1, "previous best-of-2": 1}).members(BASE) == {
        CURRENT: 0.5,
        Member("s1", 2): 0.5,
    }


def test_previous_follows_rollbacks(store: Store, promote: Promote) -> None:
    for name in ("s1", "s2", "s3"):
        promote(name)
    assert Member("s2") in shares(store, current=1, previous=1)
    store.rollback()
    assert Member("s1") in shares(store, current=1, previous=1)
    store.promote("base")
    assert Member("s2") in shares(store, current=1, previous=1)


def test_a_promotion_counts_at_once(store: Store, promote: Promote) -> None:
    pool = Pool(store, {"current": 1, "previous": 1})
    assert pool.members(BASE) == {CURRENT: 1.0}
    promote("s1")
    assert Member("base") in pool.members(BASE)


def test_the_current_one_is_never_left_out(store: Store, promote: Promote) -> None:
    promote("s1")
    promote("s2")
    assert shares(store, start=3, previous=1)[CURRENT] == pytest.approx(1 / 5)
    assert shares(store, current=0, start=1)[CURRENT] == 0.5


def test_what_cannot_play_has_no_say(store: Store, promote: Promote) -> None:
    promote("s1", base="another@2")
    promote("s2", preference=False)
    assert shares(store, current=1, s1=1, previous=1, best_of_4=1) == {CURRENT: 1.0}
    promote("s3", base="another@2")  # on this base the assistant is the bare base again
    assert shares(store, current=1, start=1) == {CURRENT: 1.0}
    (paths.snapshots() / "s2" / "snapshot.json").write_text("{")
    assert Pool(store, {"current": 1, "s2 best-of-4": 1}).members(BASE) == {CURRENT: 1.0}
    assert Pool(store, {"current": 1, "remote:llama": 1}).members(BASE) == {CURRENT: 1.0}


def test_on_a_server_only_its_models_play(store: Store, promote: Promote) -> None:
    promote("s1")
    weights = {"current": 1, "start": 1, "s1": 1, "best-of-4": 1, "remote:a/b": 1, "remote:q": 2}
    found = Pool(store, weights).members("server:127.0.0.1:80/a/b")
    assert found == {CURRENT: 0.5, Member("remote:q"): 0.5}
    assert Pool(store, {"remote:q": 2}).members("server:127.0.0.1:80/q") == {CURRENT: 1.0}


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ({"curent": 1}, "'curent': did you mean 'current'"),
        ({"current": 1, "nobody": 0}, "no version 'nobody'"),
        ({"best-of-1": 1}, "2 to 64"),
        ({"best-of-99": 1}, "2 to 64"),
        ({"current": 0}, "above 0"),
        ({"current": 1, "start": -1}, "at least 0"),
    ],
)
def test_what_is_no_pool(store: Store, weights: dict[str, float], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        Pool(store, weights)


def test_draws_follow_the_weights_and_the_seed(store: Store, promote: Promote) -> None:
    promote("s1")
    pool = Pool(store, {"current": 3, "start": 1, "best-of-4": 1})
    plain = Sampling(max_new_tokens=9)

    def drawn(seed: int) -> list[tuple[str, Sampling]]:
        rng = random.Random(seed)
        return [pool.draw(rng, plain, BASE) for _ in range(400)]

    counts = Counter((name, s.best_of) for name, s in drawn(1))
    assert counts["current", 1] == pytest.approx(240, abs=40)
    assert counts["base", 1] == pytest.approx(80, abs=30)
    assert counts["current", 4] == pytest.approx(80, abs=30)
    assert drawn(1) == drawn(1) != drawn(2)
    assert {s.max_new_tokens for _, s in drawn(3)} == {9}


class Parrot:
    """Says the same whatever is drawn."""

    base = BASE

    def sample(self, draws: Any, cancelled: Any = None) -> Iterator[Delta]:
        for row, d in enumerate(draws):
            yield Delta(row, "same", Generation("same", sampling=d.sampling, seed=d.seed))

    def generate(self, draws: Any) -> list[Generation]:
        raise NotImplementedError


def test_a_near_identical_pair_is_followed_by_two_versions(store: Store, promote: Promote) -> None:
    """Two replies that say the same teach nothing: the next pair comes from two members."""
    promote("s1")
    same = differ = 0
    for seed in range(40):
        session = Session(store, Parrot(), pool={"current": 9, "start": 1}, rng=random.Random(seed))
        session.say(f"hello {seed}")
        first = session.draw_pair()
        same += versions(first) == 1
        list(session.ask())
        again = session.draw_pair()
        assert session.pair is not None
        assert session.pair.attempt == 1
        differ += versions(again) == 2
    assert same > 20
    assert differ == 40


def versions(draws: tuple[Draw, Draw]) -> int:
    return len({d.snapshot for d in draws})


def test_a_session_without_a_pool_asks_one_version(store: Store, promote: Promote) -> None:
    promote("s1")
    session = Session(store, Parrot(), snapshot="base")
    session.say("hello")
    assert [d.snapshot for d in session.draw_pair()] == ["base", "base"]
