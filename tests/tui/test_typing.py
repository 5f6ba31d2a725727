"""What can go wrong while a message is typed, pasted, edited or copied."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
from fake_engine import FakeEngine
from textual import events
from textual.screen import Screen
from textual.widgets import TextArea

from hhchat.tui import pump
from hhchat.tui.composer import LIMIT
from hhchat.tui.keys import Stage
from hhchat.types import StoreError

Desk = Callable[..., Any]


async def paste(d: Any, text: str) -> None:
    d.chat.composer.post_message(events.Paste(text))
    await d.pilot.pause()
    await d.pilot.pause()


async def test_an_empty_message_is_ignored_with_a_hint(desk: Desk) -> None:
    async with desk() as d:
        await d.press("enter")
        assert "Type a message first" in d.notice()
        await d.press("space", "ctrl+j", "enter")
        assert d.rows("SELECT id FROM turn") == []
        assert d.chat.stage is Stage.READY


async def test_a_megabyte_paste_is_refused_politely_and_typing_goes_on(desk: Desk) -> None:
    async with desk() as d:
        await d.type("kept ")
        await paste(d, "x" * 1_000_000)
        assert "1,000,000 characters" in d.notice()
        assert d.chat.composer.text == "kept "
        await paste(d, "small paste")
        assert d.chat.composer.text == "kept small paste"


async def test_a_large_paste_that_fits_is_sent_whole(desk: Desk) -> None:
    text = "\n".join(f"line {i} of a long paste" for i in range(3000))
    assert len(text) < LIMIT
    async with desk() as d:
        await paste(d, text)
        await d.press("enter")
        await d.stage(Stage.CHOOSING)
        assert d.rows("SELECT user FROM turn")[0]["user"] == text


async def test_pasted_escape_sequences_become_visible_text(desk: Desk) -> None:
    async with desk() as d:
        await paste(d, "look \x1b]52;c;eA==\x07 here\r\nand\u202e there")
        assert "\x1b" not in d.chat.composer.text
        assert "\\x1b]52" in d.chat.composer.text
        assert "\nand\\u202e there" in d.chat.composer.text


async def test_ctrl_j_breaks_the_line_and_enter_sends(desk: Desk) -> None:
    async with desk() as d:
        await d.press("a", "ctrl+j", "b")
        assert d.chat.composer.text == "a\nb"
        await d.press("enter")
        await d.stage(Stage.CHOOSING)
        assert d.rows("SELECT user FROM turn")[0]["user"] == "a\nb"


async def test_a_message_the_disk_refused_stays_in_the_box(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk() as d:

        def full(*_: Any, **__: Any) -> None:
            raise StoreError("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(d.store, "start_conversation", full)
            await d.type("precious words")
            await d.press("enter")
            assert "the disk is full" in d.notice()
            assert d.chat.composer.text == "precious words"
        await d.press("enter")
        await d.stage(Stage.CHOOSING)


async def test_editing_the_last_message_sends_it_again_beside_the_old_one(desk: Desk) -> None:
    async with desk() as d:
        await d.send("helo")
        await d.press("ctrl+e")
        await d.type(" there")
        await d.press("enter")
        await d.until(lambda: d.chat.session.turn.user == "helo there")
        await d.stage(Stage.CHOOSING)
        await d.press("left")
        await d.stage(Stage.READY)
        assert [r["user"] for r in d.rows("SELECT user FROM turn ORDER BY n")] == [
            "helo",
            "helo there",
        ]
        assert [t.user for t in d.chat.session.history()] == ["helo there"]


async def test_a_long_message_is_edited_with_all_its_lines(desk: Desk) -> None:
    async with desk() as d:
        await d.send("first line\n\nthird line")
        await d.press("ctrl+e", "x", "escape")  # leaving sends nothing
        assert d.chat.stage is Stage.CHOOSING
        assert d.chat.session.turn.user == "first line\n\nthird line"
        await d.press("ctrl+e")
        assert isinstance(d.app.focused, TextArea)
        assert d.app.focused.text == "first line\n\nthird line"
        await d.press("exclamation_mark", "ctrl+j", "question_mark", "enter")
        await d.until(lambda: d.chat.session.turn.user == "first line\n\nthird line!\n?")
        await d.stage(Stage.CHOOSING)


async def test_an_editor_takes_the_keys_that_the_empty_chat_box_gives_away(desk: Desk) -> None:
    async with desk() as d:
        await d.send("hello")
        await d.press("e", "question_mark", "ctrl+e", "ctrl+z", "ctrl+y")
        assert d.app.focused.text == "?"
        await d.press("ctrl+z", "ctrl+z", "ctrl+e", "enter")  # empty: nothing to keep
        assert d.outcomes() == []
        assert isinstance(d.app.focused, TextArea)


async def test_a_reply_is_copied_through_the_terminal(desk: Desk) -> None:
    async with desk(FakeEngine(["left or right\n\n```py\ncode()\n```"])) as d:
        await d.send("hello")
        await d.press("y")
        assert d.app.clipboard.startswith("left or right")
        d.chat.action_copy_code()
        await d.pilot.pause()
        await d.press("enter")
        assert d.app.clipboard == "code()"
        await d.press("left")
        await d.stage(Stage.READY)
        await d.press("ctrl+y")
        assert d.app.clipboard.startswith("left or right")


async def test_keys_of_another_stage_do_nothing(desk: Desk, gate: threading.Event) -> None:
    async with desk(FakeEngine(gate=gate)) as d:
        await d.send("hello", Stage.SAMPLING)
        await d.press("1", "left", "t", "b", "s", "e", "u", "c")
        assert d.chat.stage is Stage.SAMPLING
        assert d.app.screen is d.chat
        assert d.outcomes() == []


async def test_letters_are_letters_while_typing(desk: Desk) -> None:
    async with desk() as d:
        await d.press(*"tbsuer18y")
        assert d.chat.composer.text == "tbsuer18y"
        assert d.outcomes() == []


async def test_reading_is_never_interrupted_by_a_jump(desk: Desk, gate: threading.Event) -> None:
    long = "\n\n".join(f"Paragraph {i} of a long reply." for i in range(60))
    engine = FakeEngine([long, long.replace("long", "very long")], gate=gate, chunk=40)
    async with desk(engine, size=(80, 24)) as d:
        await d.send("tell me", Stage.SAMPLING)
        gate.set()
        await d.stage(Stage.CHOOSING)
        left, right = d.chat.pair_view.left, d.chat.pair_view.right
        assert left.scroll_y == right.scroll_y == 0
        assert left.max_scroll_y > 20
        await d.press("pagedown")
        await d.until(lambda: left.scroll_y == right.scroll_y == 8)


async def test_each_side_is_copied_by_its_own_key(desk: Desk) -> None:
    async with desk(FakeEngine(["The first reply.", "Another reply."])) as d:
        await d.send("hello")
        left, right = d.chat.session.pair.shown()
        await d.press("Y")
        assert d.app.clipboard == right
        await d.press("y")
        assert d.app.clipboard == left


async def test_a_growing_reply_is_painted_line_by_line_and_laid_out_rarely(
    desk: Desk, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    laid_out = 0
    refresh_layout = Screen._refresh_layout

    def count(self: Any, *given: Any, **named: Any) -> None:
        nonlocal laid_out
        laid_out += 1
        refresh_layout(self, *given, **named)

    text = "\n".join(f"- item {i} of a list" for i in range(60))
    async with desk(FakeEngine([text], gate=gate), size=(100, 40)) as d:
        await d.send("tell me", Stage.SAMPLING)
        pair = d.chat.pair_view
        pair.grow("- begun", "- begun")
        await d.pilot.pause()
        monkeypatch.setattr(Screen, "_refresh_layout", count)
        for end in range(20, len(text), 15):
            pair.grow(text[:end], text[:end])
            await d.pilot.pause()
        assert laid_out < 20  # of some 70 updates on two sides
        shown = d.screen_text()
        visible = pair.left.size.height
        assert all(shown.count(f"item {i} of") == 2 for i in range(visible - 1))
        gate.set()
        await d.stage(Stage.CHOOSING)
        assert pair.left.body.size.height == 60


def test_garbage_is_collected_again_once_the_model_is_there_or_has_failed() -> None:
    def fails() -> FakeEngine:
        raise StoreError("no such model")

    for factory in (FakeEngine, fails):
        gc.enable()
        loader = pump.Loader(factory, lambda message: None)
        loader.start()
        loader.join()
        assert gc.isenabled()
