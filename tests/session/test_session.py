"""A conversation without a screen, on a real store."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from fake_engine import FakeEngine

from hhchat.session import QUESTIONS, Session
from hhchat.store import Store
from hhchat.types import BadInput, Comparison, ModelError, Sampling, Snapshot, StoreError

Make = Callable[..., Session]


def turn(session: Session, text: str = "hello") -> None:
    """Say something and sample a whole pair."""
    session.say(text)
    pair(session)


def pair(session: Session) -> None:
    session.draw_pair()
    list(session.ask())
    session.keep()


def rows(store: Store, sql: str) -> list[sqlite3.Row]:
    with closing(sqlite3.connect(store.path)) as conn:
        conn.row_factory = sqlite3.Row
        return conn.execute(sql).fetchall()


def test_a_pick_is_on_disk_with_everything_needed_to_learn_from_it(
    store: Store, make: Make
) -> None:
    session = make(sampling=Sampling(temperature=0.7, max_new_tokens=99))
    turn(session, "tea?")
    comparison = session.pick(position=2, latency=1.5, comment=" because ")
    [row] = rows(store, "SELECT * FROM comparison")
    assert row["picked"] == row["preferred"] == session.last.pair.index("left")
    assert (row["position"], row["strength"], row["mode"]) == (2, 3, "helpful")
    assert row["question"] == QUESTIONS["helpful"]
    assert row["comment"] == "because"
    assert row["latency"] == 1.5
    kept = rows(store, "SELECT * FROM generation")
    assert len(kept) == 2
    for generation in comparison.replies:
        assert generation.sampling == Sampling(temperature=0.7, max_new_tokens=99)
        assert generation.seed is not None
        assert generation.base == "fake-base"
        assert generation.token_ids


def test_the_conversation_goes_on_from_the_picked_reply(store: Store, make: Make) -> None:
    session = make()
    turn(session)
    right = session.pair.texts[session.pair.index("right")]
    session.pick(side="right")
    assert session.messages[-1].content == right
    turn(session, "and then?")
    assert [m.content for m in session.pair.draws[0].messages] == ["hello", right, "and then?"]
    assert session.turn.index == 1


def test_a_message_is_stored_before_anything_is_sampled(store: Store, make: Make) -> None:
    session = make(engine=FakeEngine(fail="out of memory"))
    session.say("do not lose me")
    session.draw_pair()
    with pytest.raises(Exception, match="out of memory"):
        list(session.ask())
    again = make(conversation_id=store.latest_conversation().id)
    assert again.unanswered
    assert again.messages[-1].content == "do not lose me"
    pair(again)
    again.pick(side="left")
    assert not again.unanswered


def test_an_empty_message_is_refused_and_nothing_is_stored(store: Store, make: Make) -> None:
    session = make()
    with pytest.raises(BadInput):
        session.say(" \n\t ")
    assert store.conversations() == []


def test_a_second_message_waits_for_the_pick(make: Make) -> None:
    session = make()
    turn(session)
    with pytest.raises(BadInput, match="pick one"):
        session.say("too early")


def test_the_display_side_of_a_delta_is_the_side_the_reply_is_shown_on(make: Make) -> None:
    for seed in range(6):
        session = make(rng=random.Random(seed))
        session.say("hello")
        session.draw_pair()
        shown = ["", ""]
        for delta in session.ask():
            shown[delta.row] += delta.text
        assert tuple(shown) == session.pair.shown()
        left = session.pair.generations[session.pair.left]
        assert shown[0] == left.text


def test_neither_side_is_favoured_by_the_shuffle(make: Make) -> None:
    session = make(rng=random.Random(5))
    session.say("hello")
    sides = []
    for _ in range(40):
        pair(session)
        sides.append(session.pair.left)
        session.skip()
    assert sides.count(0) == sides.count(1) == 20
    for start in range(0, 40, 4):
        assert sorted(sides[start : start + 4]) == [0, 0, 1, 1]
    assert len({tuple(sides[i : i + 4]) for i in range(0, 40, 4)}) > 1


def test_the_side_each_reply_was_shown_on_can_be_read_back(store: Store, make: Make) -> None:
    session = make()
    turn(session)
    left_text = session.pair.shown()[0]
    comparison = session.pick(side="left")
    stored = store.comparison(comparison.id)
    assert stored.replies[stored.left].text == left_text
    assert stored.outcome == "left"
    assert stored.chosen.text == left_text


@pytest.mark.parametrize(
    ("mode", "prefers_picked"),
    [("helpful", True), ("redteam-best", True), ("redteam-worst", False)],
)
def test_only_worst_of_red_team_teaches_the_opposite_of_the_pick(
    make: Make, mode: str, prefers_picked: bool
) -> None:
    session = make(mode=mode)
    turn(session)
    assert session.question == QUESTIONS[mode]
    comparison = session.pick(side="left")
    assert (comparison.preferred == comparison.picked) is prefers_picked
    # the chat goes on from the picked reply in every mode, as in the paper
    assert session.messages[-1].content == comparison.replies[comparison.picked].text


def test_a_tie_is_recorded_and_goes_on_from_either_reply(store: Store, make: Make) -> None:
    chosen = Counter()
    for seed in range(12):
        session = make(rng=random.Random(seed))
        turn(session)
        comparison = session.tie()
        assert (comparison.outcome, comparison.picked, comparison.preferred) == ("tie", None, None)
        sides = [
            session.last.pair.side(i)
            for i, g in enumerate(comparison.replies)
            if g.text == session.messages[-1].content
        ]
        chosen.update(sides[:1])
        again = make(conversation_id=session.conversation.id)
        assert again.messages == session.messages
    assert set(chosen) == {"left", "right"}


@pytest.mark.parametrize("outcome", ["skip", "both_bad"])
def test_skipped_replies_are_kept_and_the_turn_waits_for_another_pair(
    store: Store, make: Make, outcome: str
) -> None:
    session = make()
    turn(session)
    getattr(session, outcome)()
    assert session.unanswered
    assert len(rows(store, "SELECT * FROM generation")) == 2
    pair(session)
    session.pick(side="left")
    assert len(rows(store, "SELECT * FROM generation")) == 4
    outcomes = [r["outcome"] for r in rows(store, "SELECT outcome FROM comparison ORDER BY id")]
    assert outcomes == [outcome.replace("_", "-"), "left"]


def test_undo_gives_the_same_pair_back_and_training_never_sees_the_pick(
    store: Store, make: Make
) -> None:
    session = make()
    turn(session, "what do you think of the sea?")
    texts = list(session.pair.texts)
    session.pick(position=1)
    assert len(store.usable()) == 1
    session.undo()
    assert store.usable() == []
    assert session.unanswered
    assert session.pair.texts == texts
    session.pick(position=8)
    [left] = store.usable()
    assert left.position == 8
    assert len(rows(store, "SELECT * FROM generation")) == 2
    assert make(conversation_id=session.conversation.id).messages == session.messages


def test_undo_reaches_back_over_skips_and_stops_at_the_next_message(make: Make) -> None:
    session = make()
    turn(session)
    first = session.pair
    session.skip()
    pair(session)
    session.pick(side="left")
    session.undo()
    session.undo()
    assert session.pair is first
    session.pick(side="left")
    session.say("next")
    assert not session.can_undo
    with pytest.raises(BadInput, match="nothing to undo"):
        session.undo()


@pytest.mark.parametrize("mode", ["helpful", "redteam-best", "redteam-worst"])
def test_your_own_reply_beats_both_and_the_chat_goes_on_from_it(
    store: Store, make: Make, mode: str
) -> None:
    session = make(mode=mode)
    turn(session)
    done = session.write_own("  My own words.  ")
    assert len(done) == 2
    assert {c.chosen.text for c in done} == {"My own words."}
    assert len({c.rejected.text for c in done}) == 2
    assert {c.source for c in done} == {"human"}
    assert done[0].chosen.id == done[1].chosen.id
    assert session.messages[-1].content == "My own words."
    kept = rows(store, "SELECT source FROM generation ORDER BY source")
    assert [r["source"] for r in kept] == ["human", "model", "model"]
    assert make(conversation_id=session.conversation.id).messages == session.messages
    session.undo()
    assert store.usable() == []
    assert session.unanswered


def test_same_answers_are_noticed_and_asked_again_only_once(make: Make) -> None:
    same = "The capital of France is Paris, and it lies on the river Seine in the north."
    session = make(engine=FakeEngine([same, same + " "]))
    turn(session)
    assert session.pair.alike
    assert session.pair.attempt == 0
    pair(session)
    assert session.pair.attempt == 1
    pair(session)
    assert session.pair.attempt == 0


def test_short_answers_that_differ_in_one_word_are_still_two_answers(make: Make) -> None:
    session = make(engine=FakeEngine(["Yes, I am sure.", "No, I am sure."]))
    turn(session)
    assert not session.pair.alike


def test_a_faster_side_never_runs_ahead(make: Make) -> None:
    session = make(engine=FakeEngine(["short", "a much longer reply " * 5], chunk=7))
    session.say("hello")
    session.draw_pair()
    for _ in session.ask():
        left, right = session.pair.shown()
        if not session.pair.complete:
            waiting = [
                len(t)
                for t, g in zip(session.pair.texts, session.pair.generations, strict=True)
                if g is None
            ]
            assert max(len(left), len(right)) <= min(waiting)
    assert session.pair.shown() != ("", "")


def test_stopping_keeps_what_was_said_and_marks_it_cut(store: Store, make: Make) -> None:
    session = make(engine=FakeEngine(["word " * 100, "other " * 100]))
    session.say("hello")
    session.draw_pair()
    seen = 0

    def cancelled() -> bool:
        return seen >= 4

    for _ in session.ask(cancelled):
        seen += 1
    session.keep()
    assert session.pair.complete
    session.pick(side="left")
    assert {r["finished"] for r in rows(store, "SELECT finished FROM generation")} == {0}


def test_editing_the_last_message_makes_a_branch_and_keeps_the_old_one(
    store: Store, make: Make
) -> None:
    session = make()
    turn(session, "first")
    session.pick(side="left")
    turn(session, "secnod")
    session.edit("second")
    assert [m.content for m in session.messages if m.role == "user"] == ["first", "second"]
    pair(session)
    session.pick(side="right")
    assert len(store.turns(session.conversation.id)) == 3


def test_a_branch_leaves_from_an_earlier_turn(store: Store, make: Make) -> None:
    session = make()
    for text in ("one", "two", "three"):
        turn(session, text)
        session.pick(side="left")
    first = session.history()[0]
    session.branch(first.id, "another two")
    assert [m.content for m in session.messages if m.role == "user"] == ["one", "another two"]


def test_asking_again_after_a_pick_keeps_the_pick(store: Store, make: Make) -> None:
    session = make()
    turn(session)
    session.pick(side="left")
    session.reopen()
    assert session.unanswered
    pair(session)
    session.pick(side="right")
    assert len(rows(store, "SELECT * FROM comparison")) == 2
    again = make(conversation_id=session.conversation.id)
    assert again.messages == session.messages


def test_without_a_model_the_message_is_safe_and_the_reason_is_one_line(make: Make) -> None:
    session = make(engine=None)
    session.say("hello")
    session.draw_pair()
    with pytest.raises(ModelError, match="not loaded"):
        list(session.ask())
    session.engine = FakeEngine()
    pair(session)
    session.pick(side="left")


class Full:
    """A store on a disk that is full while `full` is set."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.full = False

    def __getattr__(self, name: str) -> Any:
        if self.full and name in ("record", "keep_generations", "start_conversation", "add_turn"):
            raise StoreError("the disk is full")
        return getattr(self._store, name)


@pytest.mark.parametrize("act", ["pick", "tie", "own"])
def test_a_pick_on_a_full_disk_is_kept_and_saved_later(store: Store, make: Make, act: str) -> None:
    disk = Full(store)
    session = make(store=disk)
    session.say("hello")
    session.draw_pair()
    list(session.ask())
    disk.full = True
    acts: dict[str, Callable[[], object]] = {
        "pick": lambda: session.pick(position=7),
        "tie": session.tie,
        "own": lambda: session.write_own("mine"),
    }
    with pytest.raises(StoreError):
        acts[act]()
    assert rows(store, "SELECT * FROM comparison") == []
    with pytest.raises(StoreError):
        session.retry()
    with pytest.raises(BadInput, match="not saved yet"):
        session.pick(side="left")
    disk.full = False
    done = session.retry()
    assert [c.id for c in done] == [
        r["id"] for r in rows(store, "SELECT id FROM comparison ORDER BY id")
    ]
    assert session.unsaved is None
    assert not session.unanswered
    session.say("on we go")


def test_a_pick_that_could_not_be_saved_can_be_taken_back(store: Store, make: Make) -> None:
    disk = Full(store)
    session = make(store=disk)
    turn(session)
    disk.full = True
    with pytest.raises(StoreError):
        session.pick(side="left")
    disk.full = False
    session.undo()
    session.pick(side="right")
    assert [r["outcome"] for r in rows(store, "SELECT outcome FROM comparison")] == ["right"]


def test_an_unsaved_pick_never_lands_in_another_conversation(store: Store, make: Make) -> None:
    disk = Full(store)
    session = make(store=disk)
    turn(session, "of the first")
    kept = session.pick(side="left").chosen.text
    first = session.conversation.id
    session.new()
    turn(session, "of the second")
    second = session.conversation.id
    disk.full = True
    with pytest.raises(StoreError):
        session.pick(side="right")
    with pytest.raises(StoreError):
        session.resume(first)
    assert session.conversation.id == second
    assert session.unsaved is not None
    disk.full = False
    session.resume(first)
    assert session.messages[-1].content == kept
    session.say("on we go")
    [reply] = [t.reply for t in store.history(second)]
    assert [c.outcome for c in store.comparisons()] == ["left", "right"]
    assert [c.conversation for c in store.comparisons()] == [first, second]
    assert reply is not None
    assert reply.text == list(store.comparisons())[1].chosen.text
    assert store.history(first)[0].reply.text == kept


def test_the_conversation_of_an_unsaved_pick_opens_again_with_the_pick(
    store: Store, make: Make
) -> None:
    disk = Full(store)
    session = make(store=disk)
    turn(session)
    disk.full = True
    with pytest.raises(StoreError):
        session.pick(side="right")
    disk.full = False
    session.resume(session.conversation.id)
    assert not session.unanswered


def test_what_was_set_for_one_conversation_does_not_leak_into_the_next(
    store: Store, make: Make
) -> None:
    usual = Sampling(temperature=0.7)
    other = store.start_conversation("without sampling of its own", mode="helpful")[0].id
    session = make(system="Be kind.", sampling=usual)
    turn(session)
    session.pick(side="left")
    session.settle_on("Answer as a pirate.", Sampling(temperature=1.9))
    pirates = session.conversation.id
    session.new()
    assert (session.system, session.sampling) == ("Be kind.", usual)
    turn(session)
    assert session.pair.draws[0].messages[0].content == "Be kind."
    assert session.pair.draws[0].sampling == usual
    session.resume(pirates)
    assert (session.system, session.sampling.temperature) == ("Answer as a pirate.", 1.9)
    session.resume(other)
    assert (session.system, session.sampling) == (None, usual)


def test_what_is_set_before_the_first_message_counts_for_it(store: Store, make: Make) -> None:
    session = make()
    session.settle_on("Be brief.", Sampling(temperature=0.5))
    session.new("redteam-best")  # the mode of the conversation to be started
    session.say("hello")
    assert session.conversation.system == "Be brief."
    assert session.conversation.sampling.temperature == 0.5


def test_a_message_on_a_full_disk_can_be_sent_again(store: Store, make: Make) -> None:
    disk = Full(store)
    session = make(store=disk)
    disk.full = True
    with pytest.raises(StoreError):
        session.say("hello")
    disk.full = False
    session.say("hello")
    assert len(store.conversations()) == 1


class Kind:
    name = "kind"
    question = "Which reply is kinder?"

    def score(self, exchanges: object) -> list[float]:
        return []


def test_a_plugins_question_heads_the_chat_by_setting_or_by_mode(make: Make) -> None:
    assert make(objectives=[Kind()]).question == QUESTIONS["helpful"]
    assert make(objectives=[Kind()], question="kind").question == "Which reply is kinder?"
    session = make(objectives=[Kind()], mode="kind")
    turn(session)
    comparison = session.pick(side="left")
    assert comparison.mode == "kind"
    assert comparison.question == "Which reply is kinder?"


class Listener:
    def __init__(self) -> None:
        self.heard: list[Comparison] = []

    def objectives(self) -> list[Any]:
        return [Kind()]

    def panels(self) -> list[Any]:
        return []

    def question(self, mode: str, name: str = "") -> str:
        return "A plugin asks?"

    def comparison_recorded(self, comparison: Comparison) -> None:
        self.heard.append(comparison)


def test_plugins_hear_of_a_pick_once_it_is_on_disk(store: Store, make: Make) -> None:
    listener = Listener()
    session = make(plugins=listener)
    assert session.question == "A plugin asks?"
    turn(session)
    comparison = session.pick(side="left")
    assert listener.heard == [comparison]
    assert comparison.id


def test_red_teaming_is_never_asked_a_plugins_question(make: Make) -> None:
    session = make(plugins=Listener(), mode="redteam-worst")
    assert session.question == QUESTIONS["redteam-worst"]


def test_a_pool_of_snapshots_is_drawn_by_weight(make: Make, store: Store) -> None:
    # With nothing promoted yet, current and base would be one version under two names.
    store.add_snapshot(Snapshot("s1", "s1", None, "base", FakeEngine.base))
    store.promote("s1")
    session = make(pool={"current": 1.0, "base": 3.0})
    session.say("hello")
    seen = Counter()
    for _ in range(60):
        seen.update(d.snapshot for d in session.draw_pair())
    assert 70 <= seen["base"] <= 110
    assert seen["current"] == 120 - seen["base"]


def test_the_same_seed_draws_the_same_pairs(make: Make) -> None:
    first, second = make(rng=random.Random(9)), make(rng=random.Random(9))
    for session in (first, second):
        session.say("hello")
        session.draw_pair()
    assert first.pair.draws == second.pair.draws
    assert first.pair.left == second.pair.left
    assert first.pair.draws[0].seed != first.pair.draws[1].seed


def test_a_simulated_pick_is_marked_as_such(make: Make) -> None:
    session = make(source="simulated")
    turn(session)
    comparison = session.pick(side="left")
    assert (comparison.source, comparison.purpose) == ("simulated", "simulated")


def test_settings_changed_over_a_pair_do_not_change_what_it_answers(
    store: Store, make: Make
) -> None:
    session = make(system="Be brief.")
    session.say("hello")
    session.draw_pair()
    list(session.ask())
    session.settle_on("Be long.", Sampling(temperature=0.5))
    assert session.pick(side="left").messages[0].content == "Be brief."
    session.say("and now?")
    assert session.draw_pair()[0].messages[0].content == "Be long."
    assert session.draw_pair()[0].sampling.temperature == 0.5
    session.settle_on("", Sampling())
    assert [m.role for m in session.draw_pair()[0].messages] == ["user", "assistant", "user"]
