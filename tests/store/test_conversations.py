"""What a user has said stays said, is found again, and is gone when deleted."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hhchat.splits import normalised, split_of
from hhchat.store import Store
from hhchat.types import BadInput, Comparison, Generation, Message, Sampling


def test_a_conversation_is_reopened_where_it_was_left(path, store, pick):
    conversation, turn = store.start_conversation(
        "hi", mode="redteam-best", system="be kind", sampling=Sampling(0.7)
    )
    pick(turn, "hello")
    second = store.add_turn(conversation.id, "and now?")
    with Store(path) as again:
        latest = again.latest_conversation()
        assert latest is not None
        assert (latest.id, latest.mode, latest.system) == (
            conversation.id,
            "redteam-best",
            "be kind",
        )
        assert latest.sampling == Sampling(0.7)
        assert latest.tip == second.id
        assert again.messages(latest.id) == (
            Message("system", "be kind"),
            Message("user", "hi"),
            Message("assistant", "hello"),
            Message("user", "and now?"),
        )
        assert [t.index for t in again.history(latest.id)] == [0, 1]


def test_what_was_typed_is_stored_before_any_reply(path, store):
    store.start_conversation("only this")
    with Store(path) as again:
        latest = again.latest_conversation()
        assert again.messages(latest.id) == (Message("user", "only this"),)


def test_complete_replies_survive_without_a_pick(path, store):
    _, turn = store.start_conversation("hi")
    kept = store.keep_generations(
        turn.id,
        [
            Generation(
                "one\x1b[2J\0",
                (1, 2, 3),
                finished=False,
                snapshot="S1",
                base="starter@1",
                sampling=Sampling(0.5, 0.9, 7, 2),
                seed=2**64 - 1,
            ),
            Generation("two"),
        ],
    )
    with Store(path) as again:
        assert again.generations(turn.id) == kept
        assert kept[0].text == "one\x1b[2J\0"
        assert kept[0].seed == 2**64 - 1


def test_a_branch_keeps_both_futures(store, pick):
    conversation, turn = store.start_conversation("one")
    pick(turn, "1")
    second = store.add_turn(conversation.id, "two")
    pick(second, "2")
    branch = store.add_turn(conversation.id, "other two", parent=turn.id)
    assert [m.content for m in store.messages(conversation.id)] == ["one", "1", "other two"]
    store.set_tip(conversation.id, second.id)
    assert [m.content for m in store.messages(conversation.id)] == ["one", "1", "two", "2"]
    root = store.add_turn(conversation.id, "one, edited", parent=None)
    assert (root.index, root.parent) == (0, None)
    assert {t.id for t in store.turns(conversation.id)} == {turn.id, second.id, branch.id, root.id}


def test_a_message_is_not_added_after_an_unanswered_one(store):
    conversation, _ = store.start_conversation("one")
    with pytest.raises(BadInput, match="no reply yet"):
        store.add_turn(conversation.id, "two")


def test_regenerating_asks_the_same_question_again(store, pick):
    _, turn = store.start_conversation("hi", system="s")
    pick(turn)
    assert store.context(turn.id) == (Message("system", "s"), Message("user", "hi"))


def test_list_shows_the_last_used_first(store, pick):
    first, turn = store.start_conversation("first")
    second, _ = store.start_conversation("second")
    assert [c.id for c in store.conversations()] == [second.id, first.id]
    pick(turn)
    assert [c.id for c in store.conversations()] == [first.id, second.id]
    assert [c.id for c in store.conversations(limit=1, offset=1)] == [second.id]


def test_search_finds_messages_picked_replies_and_titles(store, pick):
    a, turn = store.start_conversation("Tell me about the café in Zürich")
    pick(turn, "It serves marvellous strudel", "It serves horrible coffee")
    b, _ = store.start_conversation("Something else")
    store.rename(b.id, "Holiday plans")
    assert [c.id for c in store.conversations("cafe")] == [a.id]
    assert [c.id for c in store.conversations("STRUDEL")] == [a.id]
    assert "«strudel»" in store.conversations("strudel")[0].snippet
    assert store.conversations("horrible") == []  # the rejected reply is not what was said
    assert [c.id for c in store.conversations("about zur")] == [a.id]  # while it is typed
    assert [c.id for c in store.conversations("holi")] == [b.id]
    assert store.conversation(b.id).title == "Holiday plans"


def test_whole_words_come_before_beginnings_on_every_page(store):
    long = [store.start_conversation(f"winter {i}")[0].id for i in range(3)]
    whole = [store.start_conversation(f"win {i}")[0].id for i in range(3)]
    more = [store.start_conversation(f"window {i}")[0].id for i in range(3)]
    expected = whole[::-1] + more[::-1] + long[::-1]
    assert [c.id for at in range(0, 10, 2) for c in store.conversations("win", 2, at)] == expected
    assert store.conversations("win", limit=0) == []


@given(query=st.text(max_size=30))
def test_no_query_is_read_as_search_syntax(query, shared):
    assert isinstance(shared.conversations(query), list)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with Store(tmp_path_factory.mktemp("shared") / "hhchat.db") as store:
        store.start_conversation('"quoted" AND words* NOT near(here) title:x ^y -z')
        yield store


@pytest.mark.parametrize("query", ['"', "a AND", "NOT", "title:x", "NEAR(a b)", "*", "-z", "'"])
def test_search_syntax_is_searched_as_text(shared, query):
    shared.conversations(query)


def test_deleted_words_are_gone_from_the_disk(path, pick, store):
    conversation, turn = store.start_conversation("my secret is xyzzyplugh", system="sysxyzzy")
    pick(turn, "replyxyzzy", "rejectedxyzzy", comment="commentxyzzy")
    store.rename(conversation.id, "titlexyzzy")
    store.record(  # a reply that was written and belongs to no turn
        Comparison(
            (Message("user", "aloofxyzzy"),),
            (Generation("looserepxyzzy"), Generation("b")),
            picked=0,
            conversation=conversation.id,
        )
    )
    other, _ = store.start_conversation("something to stay")
    store.delete_conversation(conversation.id)
    for file in path.parent.iterdir():
        assert b"xyzzy" not in file.read_bytes(), file.name
    assert [c.id for c in store.conversations()] == [other.id]
    assert store.conversations("xyzzyplugh") == []
    assert store.stats()["generations"] == store.stats()["comparisons"] == 0
    assert store.check() == "ok"


def test_words_whose_overwriting_was_put_off_are_overwritten_later(path, store, monkeypatch):
    monkeypatch.setattr("hhchat.store.conversations.PURGE_TURNS", -1)
    for i in range(30):
        store.start_conversation(f"plugh number {i}")
    for conversation in store.conversations():
        store.delete_conversation(conversation.id)
    assert store.purge_due
    assert store.conversations("plugh") == []
    store.purge()
    assert not store.purge_due
    assert not [f for f in path.parent.iterdir() if b"plugh" in f.read_bytes()]
    assert store.check() == "ok"


def test_a_deletion_while_an_older_one_is_overwritten_stays_due(store, monkeypatch):
    monkeypatch.setattr("hhchat.store.conversations.PURGE_TURNS", -1)
    first, _ = store.start_conversation("one")
    second, _ = store.start_conversation("two")
    store.delete_conversation(first.id)
    store.purge(stopped=lambda: True)
    assert store.purge_due  # stopped before it was done

    def meanwhile() -> bool:
        if len(store.conversations()) == 1:
            store.delete_conversation(second.id)
        return False

    store.purge(meanwhile)
    assert store.purge_due
    store.purge()
    assert not store.purge_due


def test_deleting_one_conversation_leaves_its_twin(store, pick):
    a, turn_a = store.start_conversation("same words")
    _, turn_b = store.start_conversation("same words")
    pick(turn_a)
    kept = pick(turn_b)
    store.delete_conversation(a.id)
    assert store.comparison(kept.id).messages == (Message("user", "same words"),)
    assert store.check() == "ok"


def test_an_unknown_or_ambiguous_id_is_named(store):
    a, _ = store.start_conversation("a")
    store.start_conversation("b")
    assert store.conversation(a.id.lower()).id == a.id
    with pytest.raises(BadInput, match="more than one conversation"):
        store.conversation(a.id[:6])
    for id in ("nothing", "", "%", a.id + "X"):
        with pytest.raises(BadInput, match="no conversation"):
            store.conversation(id)


def test_half_a_surrogate_pair_from_a_terminal_does_not_lose_the_message(store):
    conversation, turn = store.start_conversation("hi \ud83d there")
    assert turn.user == "hi \ufffd there"
    assert store.messages(conversation.id)[0].content == "hi \ufffd there"


def test_a_megabyte_is_kept_whole(store):
    text = "x" * 1_000_000
    conversation, _ = store.start_conversation(text)
    assert store.messages(conversation.id)[0].content == text
    assert len(store.conversation(conversation.id).title) <= 60


@given(text=st.text(max_size=40))
def test_near_copies_never_straddle_the_split(text):
    assume(any(c.isalnum() for c in text))
    split = split_of(text)
    assert split_of("  " + text.replace(" ", "  ") + " !? ") == split
    assert split_of(normalised(text)) == split
    if text.isascii():
        assert split_of(text.upper()) == split


def test_a_tenth_is_held_out_and_stays_so():
    held = [i for i in range(2000) if split_of(f"message {i}") == "heldout"]
    assert 150 < len(held) < 250
    # written down: a change of the hash would leak held-out conversations into training
    known = {"hello": "train", "Hello there!": "heldout", "": "train", "hello  THERE": "heldout"}
    assert {text: split_of(text) for text in known} == known


def test_a_store_lives_where_HHCHAT_HOME_says(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("HHCHAT_HOME", str(tmp_path / "elsewhere"))
    with Store() as store:
        assert store.path == tmp_path / "elsewhere" / "hhchat.db"
