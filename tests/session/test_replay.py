"""An old pair again: which, how it is recorded, and that it teaches nothing."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from hhchat import replay
from hhchat.replay import SOON, old_pair
from hhchat.session import Session
from hhchat.standing import consistency
from hhchat.store import Store
from hhchat.types import BadInput

Make = Callable[..., Session]
LATER = datetime.now(UTC) + timedelta(days=3)


def turns(session: Session, n: int) -> None:
    for i in range(n):
        session.say(f"question {i}")
        session.draw_pair()
        list(session.ask())
        session.pick(side="left")


def test_a_pair_is_at_least_a_day_old(store: Store, make: Make) -> None:
    rng = random.Random(0)
    assert old_pair(store, rng, LATER) is None
    turns(make(), 3)
    assert old_pair(store, rng) is None
    assert old_pair(store, rng, LATER) is not None


def test_only_picks_of_the_users_own_come_again(store: Store, make: Make) -> None:
    session = make()
    session.say("hello")
    session.draw_pair()
    list(session.ask())
    session.tie()
    session.say("again")
    session.draw_pair()
    list(session.ask())
    session.pick(position=4)  # barely: no opinion to be consistent about
    simulated = make(source="simulated")
    turns(simulated, 2)
    assert old_pair(store, random.Random(0), LATER) is None


def test_it_is_shown_swapped_and_recorded_beside_the_conversation(
    store: Store, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "AGE", timedelta(seconds=-5))
    session = make(replay=1.0)
    turns(session, 1)
    [before] = store.comparisons()
    session.say("the next question")
    again = session.look_again()
    assert again is not None
    assert again.before == before
    assert again.pair.left == 1 - before.left
    assert (
        again.pair.shown()
        == tuple(reversed([before.replies[i].text for i in (0, 1)]))[
            :: 1 if before.left == 0 else -1
        ]
    )
    with pytest.raises(BadInput, match="no pair to judge"):
        session.pick(side="left")
    second = session.judge_again(side="right", latency=1.5)  # the same reply, now on the right
    assert second.purpose == "replay"
    assert second.chosen.id == before.chosen.id
    assert second.conversation == before.conversation
    assert session.unanswered
    assert [c.id for c in store.usable()] == [before.id]  # it teaches nothing
    same = consistency(list(store.comparisons()))
    assert same is not None
    assert (same.value, same.n) == (1.0, 1)
    assert session.look_again() is None  # not a third time soon
    with pytest.raises(BadInput, match="no old pair"):
        session.judge_again(side="left")


def test_a_second_look_may_say_how_much_or_be_a_tie(
    store: Store, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "AGE", timedelta(seconds=-5))
    session = make(replay=1.0)
    turns(session, 2)
    assert session.look_again() is not None
    first = session.judge_again(position=1)
    assert (first.position, first.strength, first.outcome) == (1, 4, "left")
    assert session.look_again() is not None
    assert session.judge_again().outcome == "tie"
    found = consistency(list(store.comparisons()))
    assert found is not None
    assert found.n == 1
    assert SOON > 2


def test_without_a_share_chance_is_not_asked(make: Make) -> None:
    session = make(rng=random.Random(3))
    assert session.look_again() is None
    assert session.rng.random() == random.Random(3).random()
