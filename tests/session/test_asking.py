"""Of several replies the two that teach most are shown; what tests a model stays a fair draw."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from fake_engine import FakeEngine

from hhchat.session import Session
from hhchat.splits import split_of
from hhchat.store import Store
from hhchat.types import Comparison, Generation, Message

Make = Callable[..., Session]
TAUGHT = next(f"What is {n}?" for n in range(99) if split_of(f"What is {n}?") == "train")
TESTED = next(f"What is {n}?" for n in range(99) if split_of(f"What is {n}?") == "heldout")


class Chooser:
    """Shows the two longest of the replies; keeps what it was told."""

    def __init__(self, able: bool = True) -> None:
        self.latest, self.able = "", able
        self.learnt: list[Comparison] = []
        self.offered: list[Sequence[Generation]] = []

    def learn(self, comparisons: Sequence[Comparison]) -> None:
        self.learnt += comparisons
        self.latest = max([self.latest, *(c.id for c in comparisons)])

    def choose(
        self, messages: Sequence[Message], replies: Sequence[Generation]
    ) -> tuple[int, int] | None:
        self.offered.append(replies)
        best = sorted(range(len(replies)), key=lambda i: -len(replies[i].text))
        return (best[0], best[1]) if self.able else None


class AskingEngine(FakeEngine):
    def __init__(self, *args: Any, able: bool = True, **options: Any) -> None:
        super().__init__(*args, **options)
        self.asker = Chooser(able)


REPLIES = ("Tea.", "Coffee, black and strong.", "Water.", "Cocoa with a lot of whipped cream.")


def turn(session: Session, text: str = TAUGHT) -> None:
    session.say(text)
    session.draw_pair()
    list(session.ask())


def test_the_two_that_teach_most_are_shown_and_stored_as_chosen_to_teach(
    store: Store, make: Make
) -> None:
    session = make(engine=AskingEngine(REPLIES), candidates=4, plain=0.0)
    turn(session)
    shown = set(session.pair.shown())
    assert shown == {REPLIES[1], REPLIES[3]}
    comparison = session.pick(side="left")
    assert comparison.purpose == "active"
    assert comparison.chosen.text == session.pair.shown()[0]
    # the seeds are those of the two replies: they can be sampled again
    seeds = {d.seed: t for d, t in zip(session.pair.draws, session.pair.texts, strict=True)}
    assert {r.seed: r.text for r in comparison.replies} == seeds
    assert store.usable() == [comparison]
    assert store.usable(evaluation=True) == []  # it teaches, and never tests


def test_conversations_held_out_for_testing_always_get_a_plain_pair(
    store: Store, make: Make
) -> None:
    engine = AskingEngine(REPLIES)
    session = make(engine=engine, candidates=4, plain=0.0)
    turn(session, TESTED)
    assert session.pick(side="left").purpose == "chat"
    assert len(engine.draws) == 2
    assert len(store.usable("heldout", evaluation=True)) == 1


def test_a_share_of_the_other_pairs_stays_a_plain_draw(make: Make) -> None:
    session = make(engine=AskingEngine(REPLIES), candidates=3, plain=0.5)
    purposes = []
    for _ in range(80):
        session.new()
        turn(session)
        purposes.append(session.pick(side="left").purpose)
    assert 25 <= purposes.count("active") <= 55


@pytest.mark.parametrize("engine", [FakeEngine(REPLIES), AskingEngine(REPLIES, able=False)])
def test_where_nothing_can_choose_the_pair_is_a_plain_one(make: Make, engine: FakeEngine) -> None:
    session = make(engine=engine, candidates=4, plain=0.0)
    turn(session)
    assert set(session.pair.shown()) == {REPLIES[0], REPLIES[1]}
    assert session.pick(side="left").purpose == "chat"


def test_every_pick_that_teaches_is_learnt_once_and_in_order(store: Store, make: Make) -> None:
    engine = AskingEngine(REPLIES)
    first = make(engine=engine, candidates=4, plain=0.0)
    made = []
    for position in (1, 4, 7):  # the weakest, 4, is not used
        first.new()
        turn(first)
        made.append(first.pick(position=position))
    second = make(engine=engine, candidates=4, plain=0.0)  # another conversation, same engine
    turn(second)
    turn(make(engine=engine, candidates=4, plain=0.0))
    assert [c.id for c in engine.asker.learnt] == [made[0].id, made[2].id]


def test_stopping_while_candidates_are_sampled_shows_and_stores_nothing(
    store: Store, make: Make
) -> None:
    gate = threading.Event()
    session = make(engine=AskingEngine(REPLIES, gate=gate), candidates=4, plain=0.0)
    session.say(TAUGHT)
    session.draw_pair()
    assert list(session.ask(lambda: True)) == []
    session.keep()
    assert session.pair.shown() == ("", "")
    assert store.usable() == []
    gate.set()
    session.draw_pair()  # asked again
    list(session.ask())
    assert session.pick(side="right").purpose == "active"
