"""A prompt that was trained on and is then used to judge makes every number a lie."""

from __future__ import annotations

import pytest
from pipeline_fakes import fill

from hhchat.dataset import gather, opening, recall, starter_prompts
from hhchat.store import Store
from hhchat.types import Comparison, Generation, HhchatError, Message, Prompt, Split

POOLS: tuple[Split, ...] = ("train", "heldout")


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


def test_a_prompt_of_the_starter_that_the_user_has_asked_keeps_the_user_s_side(
    store: Store,
) -> None:
    # the starter's pools have sides of their own, and the first message decides the user's
    for pool in POOLS:
        for prompt in starter_prompts(pool)[:120]:
            store.record(
                Comparison(
                    prompt.messages, (Generation("a"), Generation("b")), picked=0, outcome="left"
                )
            )
    data = gather(store, starter=True)
    taught = {opening(c.messages) for c in data.comparisons}
    tested = {opening(c.messages) for c in data.heldout}
    learned = {opening(p.messages) for p in data.prompts}
    judged = {opening(p.messages) for p in data.heldout_prompts}
    own = {pool: {opening(p.messages) for p in starter_prompts(pool)} for pool in POOLS}
    assert tested & own["train"]  # or this shows nothing
    assert taught & own["heldout"]
    assert not learned & (tested | judged)
    assert not judged & (taught | learned)


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
