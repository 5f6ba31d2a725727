"""A pick says what the user meant by it, once, and teaches only where it can."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hhchat.store import Store, rows
from hhchat.store.ids import decode, encode, new_id
from hhchat.types import (
    BadInput,
    Comparison,
    Generation,
    Message,
    Prompt,
    Sampling,
    side_of,
    strength_of,
)

ASKED = (Message("user", "hi"),)
TWO = (Generation("good", (1,)), Generation("bad", (2,)))
PLAIN = Comparison(ASKED, TWO, picked=0)


def test_every_field_of_a_pick_comes_back(store):
    _, turn = store.start_conversation("hi", mode="redteam-best")
    replies = (
        Generation(
            "a",
            (1, 2),
            finished=False,
            snapshot="S",
            base="b",
            sampling=Sampling(0.3),
            seed=5,
        ),
        Generation("mine", source="human"),
    )
    recorded = store.record(
        Comparison(
            (),
            replies,
            left=1,
            picked=1,
            outcome="left",
            position=1,
            mode="redteam-best",
            question="Which?",
            latency=1.25,
            source="human",
            purpose="active",
            comment="because",
        ),
        turn.id,
    )
    assert recorded == store.comparison(recorded.id)
    assert recorded.preferred == 1
    assert recorded.strength == 4
    assert recorded.messages == ASKED
    assert recorded.conversation == store.latest_conversation().id
    assert recorded.replies[0].seed == 5
    assert all(g.id and g.context for g in recorded.replies)


@pytest.mark.parametrize("mode", ["helpful", "redteam-best", "redteam-worst", "a plugin's own"])
@pytest.mark.parametrize("left", [0, 1])
@pytest.mark.parametrize("position", range(1, 9))
def test_the_label_is_inverted_in_redteam_worst_and_nowhere_else(store, mode, left, position):
    side = side_of(position)
    picked = left if side == "left" else 1 - left
    c = store.record(
        replace(PLAIN, mode=mode, left=left, picked=picked, outcome=side, position=position)
    )
    assert c.preferred == (1 - picked if mode == "redteam-worst" else picked)
    assert c.strength == strength_of(position)
    assert store.comparison(c.id) == c
    usable = store.usable()
    assert usable == ([] if position in (4, 5) else [c])


def test_the_conversation_continues_from_the_picked_reply_even_in_redteam_worst(store):
    conversation, turn = store.start_conversation("hi", mode="redteam-worst")
    store.record(Comparison((), TWO, picked=0, mode="redteam-worst"), turn.id)
    assert store.messages(conversation.id)[-1] == Message("assistant", "good")
    assert store.usable()[0].chosen.text == "bad"


@pytest.mark.parametrize(
    "wrong",
    [
        {"picked": None},
        {"picked": 1},
        {"outcome": "right"},
        {"outcome": "tie"},
        {"outcome": "neither"},
        {"preferred": 1},
        {"mode": "redteam-worst", "preferred": 0},
        {"position": 7},
        {"position": 9},
        {"position": 2, "strength": 1},
        {"strength": 5},
        {"latency": float("nan")},
        {"messages": ()},
        {"id": "01ABC"},
    ],
    ids=str,
)
def test_a_contradictory_pick_is_refused_and_nothing_is_written(store, wrong):
    with pytest.raises(ValueError):  # noqa: PT011
        store.record(replace(PLAIN, **wrong))
    assert store.stats()["generations"] == 0


@pytest.mark.parametrize(
    ("why", "change"),
    [
        ("tie", {"outcome": "tie", "picked": None}),
        ("both bad", {"outcome": "both-bad", "picked": None}),
        ("skip", {"outcome": "skip", "picked": None}),
        ("weakest", {"strength": 1}),
        ("replayed", {"purpose": "replay"}),
        ("same text", {"replies": (Generation("a"), Generation("a"))}),
        ("same words", {"replies": (Generation("a b"), Generation(" a\nb"))}),
        ("same tokens", {"replies": (Generation("a", (1,)), Generation("a ", (1,)))}),
        ("an empty reply", {"replies": (Generation("a"), Generation(" \n"))}),
    ],
)
def test_what_cannot_teach_is_kept_but_not_used(store, why, change):
    recorded = store.record(replace(PLAIN, **change))
    assert store.usable() == []
    assert store.stats()["usable"] == 0
    assert list(store.comparisons()) == [recorded]
    if recorded.preferred is not None:
        assert not store.teaches(recorded)


def test_different_tokens_are_different_replies(store):
    c = store.record(
        replace(PLAIN, replies=(Generation("a b", (1, 2)), Generation("a  b", (1, 3))))
    )
    assert store.usable() == [c]


def test_pairs_chosen_to_teach_never_evaluate(store):
    a = store.record(PLAIN)
    b = store.record(replace(PLAIN, purpose="active"))
    assert store.usable() == [a, b]
    assert store.usable(evaluation=True) == [a]


def test_an_undone_pick_stops_teaching_and_opens_the_turn(store, pick):
    conversation, turn = store.start_conversation("hi")
    c = pick(turn)
    store.undo(c.id)
    store.undo(c.id)
    assert store.usable() == []
    assert list(store.comparisons()) == []
    assert store.comparison(c.id) == c  # nothing is lost
    assert store.messages(conversation.id) == (Message("user", "hi"),)
    assert store.conversations("good") == []
    again = store.record(replace(c, id="", picked=1, preferred=None, outcome="right"), turn.id)
    assert store.usable() == [again]
    assert len(store.generations(turn.id)) == 2  # the same replies, not copies
    assert store.stats()["undone"] == 1


def test_a_pick_is_not_undone_under_the_messages_that_followed(store, pick):
    conversation, turn = store.start_conversation("hi")
    c = pick(turn)
    store.add_turn(conversation.id, "more")
    with pytest.raises(BadInput, match="gone on"):
        store.undo(c.id)
    assert store.usable() == [c]


def test_a_reply_written_by_hand_is_preferred_over_both(store):
    conversation, turn = store.start_conversation("hi")
    kept = store.keep_generations(turn.id, TWO)
    mine = Generation("my own", source="human")
    with store.writing():
        first = store.record(Comparison((), (mine, kept[0]), picked=0, source="human"), turn.id)
        store.record(Comparison((), (first.replies[0], kept[1]), picked=0, source="human"), turn.id)
    assert [(c.chosen.text, c.rejected.text) for c in store.usable()] == [
        ("my own", "good"),
        ("my own", "bad"),
    ]
    assert len(store.generations(turn.id)) == 3
    assert store.messages(conversation.id)[-1].content == "my own"


def test_a_cursor_misses_no_pick_made_by_another_chat(path, store):
    with Store(path) as other:
        made = [(store if i % 2 else other).record(PLAIN).id for i in range(600)]
    assert made == sorted(made)
    assert [c.id for c in store.comparisons()] == made
    assert [c.id for c in store.comparisons(after=made[297])] == made[298:]
    assert [c.id for c in store.comparisons(limit=300, after=made[3])] == made[4:304]
    assert [c.id for c in store.comparisons(newest_first=True, limit=3)] == made[:-4:-1]
    assert [c.id for c in store.comparisons(newest_first=True, after=made[2])] == made[1::-1]
    assert [c.id for c in store.iter_usable(after=made[590])] == made[591:]


def test_a_clock_set_back_does_not_reorder_picks(store, monkeypatch):
    first = store.record(PLAIN)
    monkeypatch.setattr("hhchat.store.ids._last", 0)
    monkeypatch.setattr("time.time_ns", lambda: 10**15)
    second = store.record(PLAIN)
    assert second.id > first.id


@given(number=st.integers(0, 2**128 - 1))
def test_ids_sort_as_their_numbers(number):
    assert decode(encode(number)) == number
    assert (encode(number) < encode(number // 2 + 7)) == (number < number // 2 + 7)


def test_an_id_rises_above_one_from_a_clock_that_was_ahead(monkeypatch):
    monkeypatch.setattr("hhchat.store.ids._last", 0)
    ahead = encode(2**127)
    assert ahead < new_id(ahead) < new_id()


def test_a_first_message_never_teaches_and_tests(store, pick):
    by_split: dict[str, set[str]] = {"train": set(), "heldout": set()}
    for i in range(80):
        conversation, turn = store.start_conversation(f"Question {i % 40}?")
        c = pick(turn)
        assert c.split == conversation.split
        by_split[c.split].add(c.messages[0].content)
        # edited into another first message, it takes that one's split
        edited = store.add_turn(conversation.id, f"question {(i * 7 + 3) % 40}", parent=None)
        c = pick(edited)
        by_split[c.split].add(c.messages[0].content.capitalize() + "?")
        assert len(list(store.comparisons(split=c.split))) > 0
    assert by_split["heldout"]
    assert not by_split["train"] & by_split["heldout"]
    store.add_prompts([Prompt((Message("user", f"QUESTION {i}"),)) for i in range(40)])
    held = {p.messages[0].content.capitalize() + "?" for p in store.prompts(split="heldout")}
    assert held == by_split["heldout"]


def test_all_turns_of_a_conversation_are_on_one_side_of_the_split(store, pick):
    # a later turn holds the earlier ones: one of them in training would give the others away
    sides: dict[str, set[str]] = {}
    for i in range(40):
        _, turn = store.start_conversation(f"question {i}?")
        said: list[Message] = []
        for j in range(3):
            c = pick(turn)
            said += [Message("user", turn.user), Message("assistant", "good")]
            # as someone else's file or pool of prompts would bring the same conversation
            copy = replace(PLAIN, messages=(*said, Message("user", f"imported {i} {j}")))
            store.add_prompts([Prompt(copy.messages, source=f"{j}")])
            sides.setdefault(c.conversation, set()).update((c.split, store.record(copy).split))
            turn = store.add_turn(c.conversation, f"and then {i} {j}?")
    assert all(len(found) == 1 for found in sides.values())
    assert set.union(*sides.values()) == {"train", "heldout"}
    for split in ("train", "heldout"):
        openings = {p.messages[0].content for p in store.prompts(split=split)}
        assert openings == {c.messages[0].content for c in store.usable(split=split)}


def test_prompts_are_kept_once(store):
    prompts = [Prompt((Message("user", "a"),)), Prompt((Message("user", "b"),), source="starter")]
    assert store.add_prompts(prompts) == 2
    assert store.add_prompts(prompts) == 0
    assert [p.messages for p in store.prompts(source="starter")] == [prompts[1].messages]
    assert len(store.prompts(limit=1)) == 1
    with pytest.raises(BadInput):
        store.add_prompts([Prompt((Message("user", "c"),)), Prompt((Message("assistant", "a"),))])
    assert len(store.prompts()) == 2  # all or none


def test_stats_count_what_a_user_would_count(store):
    for change in (
        {},
        {"picked": 1, "outcome": "right"},
        {"outcome": "tie", "picked": None},
        {"strength": 1},
        {"mode": "redteam-worst"},
    ):
        store.record(replace(PLAIN, **change))
    stats = store.stats()
    assert stats["comparisons"] == 5
    assert stats["picks"] == 4
    assert stats["usable"] == 3
    assert stats["ties"] == stats["weakest"] == 1
    assert stats["by_mode"] == {"helpful": 2, "redteam-worst": 1}
    assert stats["left_rate"] == 0.75
    assert stats["longer_rate"] == pytest.approx(1 / 3)


def test_a_failed_part_does_not_take_the_rest_of_its_transaction(store):
    with store.writing():
        kept = store.record(PLAIN)
        with pytest.raises(ValueError, match="not in the store"):
            store.record(replace(PLAIN, replies=(Generation("x"), Generation("y", id="GONE"))))
    assert list(store.comparisons()) == [kept]
    assert store.stats()["generations"] == 2


def test_identical_is_symmetric():
    a, b = Generation("a b", (1, 2)), Generation("a  b")
    assert rows.identical(a, b) == rows.identical(b, a) is True
