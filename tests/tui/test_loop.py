"""Say, read two replies, pick, go on: with keys, on screen, and in the database."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from fake_engine import FakeEngine

from hhchat.tui.keys import Stage
from hhchat.types import HhchatError, StoreError, TooLong

Desk = Callable[..., Any]


async def test_three_turns_are_chatted_and_picked_with_keys(desk: Desk) -> None:
    async with desk() as d:
        for text, key in (
            ("hello", "left"),
            ("and then?", "8"),
            ("thanks", "right_square_bracket"),
        ):
            await d.send(text)
            await d.press(key)
            await d.stage(Stage.READY)
            assert "✓ saved" in d.notice()
        assert d.outcomes() == ["left", "right", "right"]
        rows = d.rows(
            "SELECT position, strength, latency, question, turn FROM comparison ORDER BY id"
        )
        assert [(r["position"], r["strength"]) for r in rows] == [
            (None, None),
            (8, 4),
            (None, None),
        ]
        assert all(r["latency"] >= 0 and r["question"] for r in rows)
        assert "3 comparisons stored" in d.notice()
        history = d.chat.session.history()
        assert [t.user for t in history] == ["hello", "and then?", "thanks"]
        assert all(t.reply is not None for t in history)


async def test_a_chat_that_teaches_nothing_says_what_it_is_for(desk: Desk) -> None:
    async with desk() as d:
        for first, kept in (("What is rain?", True), ("hello", False)):
            await d.send(first)
            await d.press("left")
            await d.stage(Stage.READY)
            assert "more for the next useful training" in d.notice()
            assert ("kept for testing" in d.notice()) == kept
            await d.press("ctrl+n")


async def test_the_app_opens_again_on_the_same_conversation(desk: Desk) -> None:
    async with desk() as d:
        await d.send("remember me")
        await d.press("1")
        await d.stage(Stage.READY)
        reply = d.chat.session.messages[-1].content
    async with desk() as d:
        assert d.chat.stage is Stage.READY
        assert "remember me" in d.screen_text()
        assert reply in " ".join(d.screen_text().split())


async def test_a_message_that_was_never_answered_is_asked_again(
    desk: Desk, gate: threading.Event
) -> None:
    async with desk(FakeEngine(gate=gate)) as d:
        await d.send("cut off", Stage.SAMPLING)
    async with desk() as d:
        await d.stage(Stage.CHOOSING)
        await d.press("left")
        await d.stage(Stage.READY)
        assert d.outcomes() == ["left"]


async def test_typing_works_while_the_model_loads_and_the_message_is_answered_then(
    desk: Desk,
) -> None:
    go = threading.Event()

    def factory() -> FakeEngine:
        go.wait(20)
        return FakeEngine()

    async with desk(factory=factory) as d:
        assert "loading the model" in d.screen_text()
        await d.send("are you there?", Stage.WAITING)
        assert d.rows("SELECT user FROM turn")[0]["user"] == "are you there?"
        go.set()
        await d.stage(Stage.CHOOSING)


async def test_a_model_that_cannot_be_loaded_is_one_line_and_the_app_goes_on(desk: Desk) -> None:
    def factory() -> FakeEngine:
        raise HhchatError("no model at [/nowhere]")

    async with desk(factory=factory) as d:
        await d.until(lambda: d.chat.engine_state == "failed")
        assert "no model at [/nowhere]" in d.notice()
        await d.send("hello?", Stage.FAILED)
        assert "Traceback" not in d.screen_text()
        assert d.rows("SELECT user FROM turn")[0]["user"] == "hello?"


async def test_an_engine_that_fails_leaves_the_message_and_r_asks_again(desk: Desk) -> None:
    engine = FakeEngine(fail="CUDA out of memory")
    async with desk(engine) as d:
        await d.send("hello", Stage.FAILED)
        assert "CUDA out of memory" in d.notice()
        engine.fail = ""
        await d.press("r")
        await d.stage(Stage.CHOOSING)


async def test_a_message_too_long_for_the_model_is_edited_not_asked_again(desk: Desk) -> None:
    engine = FakeEngine(fail="the message is 900 tokens", error=TooLong)
    async with desk(engine) as d:
        await d.send("hello", Stage.FAILED)
        assert "900 tokens · ctrl+e edits it, ctrl+n is a new chat" in d.notice()
        assert "asks again" not in d.notice()
        engine.fail = ""
        await d.press("ctrl+e")
        await d.type("!")
        await d.press("enter")
        await d.stage(Stage.CHOOSING)


async def test_escape_stops_both_and_the_partial_replies_can_be_judged(
    desk: Desk, gate: threading.Event
) -> None:
    engine = FakeEngine(["word " * 50, "other " * 50], gate=gate)
    async with desk(engine) as d:
        await d.send("go on", Stage.SAMPLING)
        gate.set()
        await d.until(lambda: all(d.chat.session.pair.texts) or d.chat.stage is Stage.CHOOSING)
        await d.press("escape")
        await d.stage(Stage.CHOOSING)
        await d.press("left")
        await d.stage(Stage.READY)
        assert len(d.rows("SELECT id FROM generation")) == 2


async def test_stopping_before_the_first_word_judges_nothing(
    desk: Desk, gate: threading.Event
) -> None:
    async with desk(FakeEngine(gate=gate)) as d:
        await d.send("hello", Stage.SAMPLING)
        await d.press("escape")
        await d.stage(Stage.FAILED)
        gate.set()
        await d.press("r")
        await d.stage(Stage.CHOOSING)
        assert d.outcomes() == []


@pytest.mark.parametrize(
    ("key", "outcome", "again"),
    [("t", "tie", False), ("b", "both-bad", True), ("s", "skip", True)],
)
async def test_no_preference_is_recorded_as_such(
    desk: Desk, key: str, outcome: str, again: bool
) -> None:
    async with desk() as d:
        await d.send("hello")
        first = d.chat.session.pair
        await d.press(key)
        await d.stage(Stage.CHOOSING if again else Stage.READY)
        assert d.outcomes() == [outcome]
        if again:
            assert d.chat.session.pair is not first


async def test_u_takes_back_a_skip_and_ctrl_z_a_pick(desk: Desk) -> None:
    async with desk() as d:
        await d.send("hello")
        first = d.chat.session.pair
        await d.press("s")
        await d.until(lambda: d.chat.session.pair is not first and d.chat.stage is Stage.CHOOSING)
        await d.press("u")
        assert d.chat.session.pair is first
        await d.press("left")
        await d.stage(Stage.READY)
        await d.press("ctrl+z")
        await d.stage(Stage.CHOOSING)
        assert d.store.usable() == []
        await d.press("right")
        await d.stage(Stage.READY)
        assert [c.outcome for c in d.store.usable()] == ["right"]
        assert "1 comparison stored" in d.notice()


async def test_ctrl_z_while_typing_undoes_the_typing_and_not_the_pick(desk: Desk) -> None:
    async with desk() as d:
        await d.send("hello")
        await d.press("left")
        await d.stage(Stage.READY)
        await d.press("x", "ctrl+z")
        assert d.chat.stage is Stage.READY
        assert d.chat.composer.text == ""
        assert len(d.store.usable()) == 1


async def test_your_own_reply_is_stored_over_both(desk: Desk) -> None:
    async with desk() as d:
        await d.send("hello")
        await d.press("e")
        await d.type("What I would have liked")
        await d.press("enter")
        await d.stage(Stage.READY)
        assert {c.chosen.text for c in d.store.usable()} == {"What I would have liked"}
        assert {c.source for c in d.store.usable()} == {"human"}
        assert "What I would have liked" in d.screen_text()
        assert "preferred over both" in d.screen_text()


async def test_a_reply_edited_from_one_of_the_two_is_marked_edited(desk: Desk) -> None:
    async with desk() as d:
        await d.send("hello")
        await d.press("e", "f2")
        await d.type(" And more.")
        await d.press("enter")
        await d.stage(Stage.READY)
        assert {c.source for c in d.store.usable()} == {"edited"}


async def test_leaving_the_editor_judges_nothing(desk: Desk) -> None:
    async with desk() as d:
        await d.send("hello")
        await d.press("e", "enter", "escape")
        assert d.chat.stage is Stage.CHOOSING
        assert d.outcomes() == []


async def test_a_comment_goes_with_the_pick(desk: Desk) -> None:
    async with desk() as d:
        await d.send("hello")
        await d.press("c")
        await d.type("left is warmer")
        await d.press("enter")
        await d.press("2")
        await d.stage(Stage.READY)
        assert d.rows("SELECT comment FROM comparison")[0]["comment"] == "left is warmer"


async def test_same_replies_are_sampled_once_more(desk: Desk) -> None:
    same = "The very same reply, word for word, is of no use at all to anybody here."
    texts = iter([same, same, "Apples are red.", "Bridges are long."])
    engine = FakeEngine(lambda draw, call: next(texts))
    async with desk(engine) as d:
        await d.send("hello")
        assert engine.calls == 4
        assert "said the same" in d.notice()


async def test_nobody_is_named_before_the_pick_and_both_after_it(desk: Desk) -> None:
    async with desk() as d:
        await d.send("hello")
        assert "base" not in d.screen_text()
        await d.press("left")
        await d.stage(Stage.READY)
        assert "both by the base model" in d.screen_text()


async def test_no_side_is_picked_by_default(desk: Desk) -> None:
    # whoever leans on enter or space must not teach that the left is better
    async with desk() as d:
        await d.send("hello")
        await d.press("enter", "space", "tab", "enter", "home", "end", "ctrl+j")
        assert d.chat.stage is Stage.CHOOSING
        assert d.outcomes() == []
        assert d.app.focused not in (d.chat.pair_view.left, d.chat.pair_view.right)
        await d.press("right")
        await d.stage(Stage.READY)
        assert d.outcomes() == ["right"]


async def test_both_panes_get_the_same_room(desk: Desk) -> None:
    for size in ((120, 40), (80, 24), (60, 18)):
        async with desk(size=size) as d:
            await d.press("ctrl+n")
            await d.send("hello")
            left, right = d.chat.pair_view.left.size, d.chat.pair_view.right.size
            assert left.width == right.width
            assert abs(left.height - right.height) <= 1
            assert left.height >= 3
            stacked = d.chat.pair_view.left.region.y != d.chat.pair_view.right.region.y
            assert stacked == (size[0] < 80)


async def test_a_full_disk_keeps_the_pick_and_saves_it_later(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk() as d:
        await d.send("hello")
        real = d.store.record

        def full(*_: Any, **__: Any) -> None:
            raise StoreError("the disk is full")

        monkeypatch.setattr(d.store, "record", full)
        await d.press("2")
        await d.stage(Stage.UNSAVED)
        assert "Not saved: the disk is full" in d.notice()
        assert "NOT SAVED" in d.screen_text()
        await d.press("enter")
        assert "Still not saved" in d.notice()
        monkeypatch.setattr(d.store, "record", real)
        await d.press("enter")
        await d.stage(Stage.READY)
        assert "✓ saved" in d.notice()
        assert d.rows("SELECT position FROM comparison") == [{"position": 2}]


async def test_another_program_that_writes_freezes_nothing_and_the_pick_is_saved_when_it_ends(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hhchat.tui.judging.RETRY", 0.2)
    async with desk() as d:
        await d.send("hello")
        with closing(sqlite3.connect(d.store.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            await d.press("1")
            await d.stage(Stage.UNSAVED)
            assert time.monotonic() - began < 5  # the store itself waits for 15 s
            assert "locked" in d.notice()
            assert "NOT SAVED" in d.screen_text()
            await d.press("h")  # not typed into anything, and answered at once
            assert d.chat.composer.text == ""
            other.execute("ROLLBACK")
        await d.stage(Stage.READY)  # by the timer
        assert d.rows("SELECT position FROM comparison") == [{"position": 1}]
        await d.send("the next message")


async def test_red_teaming_says_so_loudly_and_asks_its_own_question(desk: Desk) -> None:
    async with desk(mode="redteam-worst") as d:
        await d.send("be bad")
        text = d.screen_text()
        assert "RED TEAM" in text
        assert "! Which reply is more harmful?" in text
        await d.press("left")
        await d.stage(Stage.READY)
        [row] = d.rows("SELECT picked, preferred, mode FROM comparison")
        assert row["picked"] != row["preferred"]
        assert row["mode"] == "redteam-worst"


async def test_regenerating_keeps_the_old_replies(desk: Desk) -> None:
    async with desk() as d:
        await d.send("hello")
        await d.press("r")
        await d.until(lambda: len(d.rows("SELECT id FROM generation")) == 4)
        await d.stage(Stage.CHOOSING)
        await d.press("left")
        await d.stage(Stage.READY)
        await d.press("ctrl+r")
        await d.stage(Stage.CHOOSING)
        await d.press("right")
        await d.stage(Stage.READY)
        assert d.outcomes() == ["left", "right"]
        assert len(d.rows("SELECT id FROM generation")) == 6


async def test_sides_of_the_screen_are_the_sides_in_the_row(desk: Desk) -> None:
    async with desk() as d:
        for _ in range(4):
            await d.send("hello")
            shown = d.chat.pair_view.left.body.text
            await d.press("left")
            await d.stage(Stage.READY)
            [*_, last] = d.store.comparisons()
            assert last.replies[last.left].text == shown == last.chosen.text
