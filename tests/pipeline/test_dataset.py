"""A prompt that was trained on and is then used to judge makes every number a lie."""

from __future__ import annotations

import pytest
from pipeline_fakes import fill

from hhchat.dataset import gather, opening, recall
from hhchat.store import Store
from hhchat.types import Comparison, Generation, HhchatError, Message, Prompt


def test_no_opening_is_on_both_sides_and_none_is_there_twice(store: Store) -> None:
    fill(store, picks=80, prompts=200)
    # The same openings again, differently written, with another turn, and as prompts.
    for i in range(80):
        store.add_prompts([Prompt((Message("user", f"  QUESTION number {i}?"),))])
    data = gather(store, starter=False)
    learned = [opening(p.messages) for p in data.prompts]
    judged = [opening(p.messages) for p in data.heldout_prompts]
    assert not set(learned) & set(judged)
    assert len(set(learned)) == len(learned)
    assert len(set(judged)) == len(judged)
    assert {opening(c.messages) for c in data.comparisons} <= set(learned)
    assert not {opening(c.messages) for c in data.heldout} & set(learned)
    assert len(learned) + len(judged) == 280


def test_a_context_of_several_turns_is_a_prompt_of_its_own(store: Store) -> None:
    opening_message = Message("user", "question number 1")
    later = (opening_message, Message("assistant", "hm"), Message("user", "and then?"))
    for messages in ((opening_message,), later):
        store.record(
            Comparison(messages, (Generation("a"), Generation("b")), picked=0, outcome="left")
        )
    data = gather(store, starter=False)
    assert {len(p.messages) for p in (*data.prompts, *data.heldout_prompts)} == {1, 3}


def test_a_resumed_run_finds_the_same_data_although_more_was_picked_since(store: Store) -> None:
    fill(store, picks=30, prompts=50)
    data = gather(store, starter=False)
    record = data.record()
    fill(store, picks=10, prompts=80, seed=4)
    assert recall(store, record) == data


def test_deleted_rows_are_said_and_not_silently_missing(store: Store) -> None:
    fill(store, picks=30, prompts=50)
    record = gather(store, starter=False).record()
    record["comparisons"].append("gone")
    with pytest.raises(HhchatError, match="1 of the comparisons"):
        recall(store, record)
