"""A conversation with a server's model: what is stored, also when one side fails."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from hhchat.ranking import rank
from hhchat.remote import RemoteEngine
from hhchat.session import Session
from hhchat.store import Store
from hhchat.types import HhchatError

Make = Callable[..., RemoteEngine]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "hhchat.db") as store:
        yield store


def drawn(session: Session, text: str = "hello") -> None:
    session.say(text)
    session.draw_pair()
    with closing(session.ask()) as deltas:  # type: ignore[type-var]
        for _ in deltas:
            pass


def test_a_pick_records_who_wrote_it(store: Store, engine: Make, server: Any) -> None:
    session = Session(store, engine("slow"), rng=random.Random(0))
    drawn(session)
    session.pick(side="left")
    [kept] = store.comparisons()
    for reply in kept.replies:
        assert reply.base == f"server:127.0.0.1:{server.port}/slow"
        assert reply.snapshot == "remote"
        assert reply.seed is not None
    drawn(session, "and then?")
    talk = server.asked()[-1]["body"]["messages"]
    assert [m["role"] for m in talk] == ["user", "assistant", "user"]
    assert talk[1]["content"] == kept.chosen.text


def test_two_models_of_one_server_are_ranked(store: Store, engine: Make, server: Any) -> None:
    session = Session(
        store, engine("normal"), pool={"current": 1, "remote:slow": 1}, rng=random.Random(0)
    )
    for i in range(12):
        session.new()
        drawn(session, f"hello {i}")
        assert session.pair is not None
        first, second = session.pair.replies()
        if first.base != second.base:
            session.pick(side=session.pair.side(0 if "slow" in str(first.base) else 1))
    ranking = rank(store.usable())
    [group] = ranking.groups
    assert group.ratings[0].player == f"server:127.0.0.1:{server.port}/slow"
    assert group.ratings[0].wins == ranking.games > 2


def test_the_good_reply_of_a_failed_pair_is_kept(store: Store, engine: Make) -> None:
    session = Session(store, engine("half"), rng=Odd())
    session.say("hello")
    session.draw_pair()
    with pytest.raises(HhchatError, match="failed"):
        list(session.ask())
    session.draw_pair()  # asking again stores what the first pair had
    assert store.stats()["generations"] == 1


def test_a_broken_pair_is_kept_as_it_came(store: Store, engine: Make) -> None:
    session = Session(store, engine("dropped"))
    session.say("hello")
    session.draw_pair()
    with pytest.raises(HhchatError, match="midway"):
        list(session.ask())
    assert session.pair is not None
    assert session.pair.complete
    assert {g.finished for g in session.pair.replies()} == {False}


class Odd(random.Random):
    """Seeds that are odd, then even: the server fails on the odd ones."""

    def getrandbits(self, k: int, /) -> int:
        self.n = getattr(self, "n", 0) + 1
        return super().getrandbits(k) // 2 * 2 + self.n % 2


def test_the_app_reveals_the_server_s_model() -> None:
    from hhchat.tui.judging import writer
    from hhchat.types import Generation, Sampling

    told = Generation("x", snapshot="remote:q", base="server:h:1/q/\x1b[2J", sampling=Sampling())
    assert writer(told) == "q/\\x1b[2J"
