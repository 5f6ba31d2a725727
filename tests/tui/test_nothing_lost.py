"""What a user would lose between two screens: a pick, a comment, a setting, the right question."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from fake_engine import FakeEngine
from textual.widgets import Input

from hhchat import replay
from hhchat.config import ChatConfig, Config
from hhchat.store import Store
from hhchat.tui.app import COMMANDS, Unsaved
from hhchat.tui.keys import Stage
from hhchat.types import Snapshot, StoreError

Desk = Callable[..., Any]


class Disk:
    """Full until it has room again: no pick can be recorded."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self._store, self._patch, self._real = store, monkeypatch, store.record

    def fill(self) -> None:
        def full(*_: Any, **__: Any) -> None:
            raise StoreError("the disk is full")

        self._patch.setattr(self._store, "record", full)

    def free(self) -> None:
        self._patch.setattr(self._store, "record", self._real)


def offered(d: Any) -> set[str]:
    return {command.title for command in d.app.get_system_commands(d.chat)}


# The palette ---------------------------------------------------------------------------------


async def run_all(d: Any) -> None:
    """Every command of the palette, wanted or not; whatever it opens is left again."""
    for action, _, _ in COMMANDS:
        if d.chat.stage is Stage.AGAIN or not d.chat.check_action(action, ()):
            stage = d.chat.stage
            await d.chat.command(action)
            await d.pilot.pause()
            if d.app.screen is d.chat and action != "help":
                assert d.notice(), action
                assert d.chat.stage is stage, action
        elif action not in ("new", "mode"):
            await d.chat.command(action)
            await d.pilot.pause()
        while d.app.screen is not d.chat:
            await d.press("escape")


async def test_no_command_of_the_palette_kills_a_new_chat(desk: Desk) -> None:
    async with desk() as d:
        assert not offered(d) & {"Edit last message", "Branch", "Copy reply"}
        assert {"Keys", "New conversation", "Settings", "Quit"} <= offered(d)
        d.chat.action_edit_last()
        assert "nothing to edit yet" in d.notice()
        await run_all(d)
        await d.press("ctrl+p")
        await d.type("edit last")
        await d.press("enter", "escape")
        await d.until(lambda: d.app.screen is d.chat)
        await d.send("still here")


@pytest.mark.parametrize("stage", ["SAMPLING", "CHOOSING", "UNSAVED", "READY", "AGAIN", "FAILED"])
async def test_no_command_of_the_palette_upsets_what_is_on_the_table(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, gate: Any, stage: str
) -> None:
    monkeypatch.setattr(replay, "AGE", timedelta(seconds=-5))
    config = Config(chat=ChatConfig(replay=1.0 if stage == "AGAIN" else 0.0))
    engine = FakeEngine(gate=gate) if stage in ("SAMPLING", "FAILED") else FakeEngine()
    async with desk(engine, config=config) as d:
        wanted = Stage.SAMPLING if engine.gate is not None else Stage.CHOOSING
        await d.send("hello", wanted)
        if stage == "FAILED":
            await d.press("escape")
            gate.set()
        elif stage == "UNSAVED":
            Disk(d.store, monkeypatch).fill()
            await d.press("left")
        elif stage in ("READY", "AGAIN"):
            await d.press("left")
            await d.stage(Stage.READY)
            if stage == "AGAIN":
                await d.send("and now", Stage.AGAIN)
        await d.stage(Stage[stage])
        await run_all(d)
        assert d.chat.stage is Stage[stage]
        assert d.chat.session.turn is not None


async def test_a_command_chosen_too_late_does_nothing(desk: Desk) -> None:
    async with desk() as d:
        late = next(c for c in d.app.get_system_commands(d.chat) if c.title == "New conversation")
        await d.send("hello")
        d.chat.enter(Stage.UNSAVED)
        await late.callback()
        assert "Not now" in d.notice()
        assert d.chat.session.turn is not None


# A pick that is not saved ----------------------------------------------------------------------


async def test_another_chat_is_not_opened_over_an_unsaved_pick(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk() as d:
        await d.send("the first")
        await d.press("left")
        await d.stage(Stage.READY)
        first = d.chat.session.conversation.id
        kept = d.chat.last_reply()
        await d.press("ctrl+n")
        await d.send("the second")
        disk = Disk(d.store, monkeypatch)
        disk.fill()
        await d.press("right")
        await d.stage(Stage.UNSAVED)
        for act in (d.chat.action_new, d.chat.action_conversations):
            result = act()
            if result is not None:
                await result
            else:
                await d.pilot.pause()
                await d.type("the first")
                await d.press("enter")
                await d.until(lambda: d.app.screen is d.chat)
            assert "not saved yet" in d.notice()
            assert d.chat.stage is Stage.UNSAVED
        second = d.chat.session.conversation.id
        disk.free()
        d.chat.action_conversations()
        await d.pilot.pause()
        await d.type("the first")
        await d.press("enter")
        await d.until(lambda: d.chat.session.conversation.id == first)
        await d.stage(Stage.READY)
        assert d.chat.progress.total == 2
        assert d.chat.last_reply() == kept
        assert [c.conversation for c in d.store.comparisons()] == [first, second]
        assert d.store.history(second)[0].reply is not None


async def test_quitting_with_an_unsaved_pick_asks_and_says_what_was_lost(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk() as d:
        await d.send("hello")
        Disk(d.store, monkeypatch).fill()
        await d.press("left")
        await d.stage(Stage.UNSAVED)
        await d.press("ctrl+q", "ctrl+q")
        assert isinstance(d.app.screen, Unsaved)
        assert "your last pick is not saved: the disk is full" in d.screen_text()
        await d.press("escape")  # stay
        assert d.app.screen is d.chat
        await d.press("ctrl+q", "enter")  # try again: still full
        await d.until(lambda: isinstance(d.app.screen, Unsaved))
        await d.press("down", "enter")
        await d.until(lambda: d.app.return_code is not None)
    assert d.app.return_code == 1
    assert d.app.lost == "your last pick is not saved: the disk is full"


async def test_a_pick_is_saved_on_the_way_out_when_there_is_room(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk() as d:
        disk = Disk(d.store, monkeypatch)
        await d.send("hello")
        disk.fill()
        await d.press("left")
        await d.stage(Stage.UNSAVED)
        await d.press("ctrl+q")
        disk.free()
        await d.press("enter")
        await d.until(lambda: d.app.return_code is not None)
        assert d.outcomes() == ["left"]
    assert (d.app.return_code, d.app.lost) == (0, "")


async def test_a_signal_with_an_unsaved_pick_says_what_was_lost(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with desk() as d:
        await d.send("hello")
        Disk(d.store, monkeypatch).fill()
        await d.press("left")
        await d.stage(Stage.UNSAVED)
        d.app.leave(15)
        await d.until(lambda: d.app.return_code is not None)
    assert d.app.return_code == 143
    assert "not saved" in d.app.lost


async def test_leaving_a_training_to_itself_does_not_lose_an_unsaved_pick(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    say = (sys.executable, "-c", "import time; time.sleep(60)")
    async with desk(train_command=say) as d:
        await d.send("hello")
        d.chat.start_training()
        await d.until(lambda: d.app.screen is not d.chat)
        await d.press("escape")
        disk = Disk(d.store, monkeypatch)
        disk.fill()
        await d.press("left")
        await d.stage(Stage.UNSAVED)
        await d.press("ctrl+q", "down", "enter")  # stop the training and leave
        await d.until(lambda: isinstance(d.app.screen, Unsaved))
        assert d.app.return_code is None
        disk.free()
        await d.press("enter")
        await d.until(lambda: d.app.return_code is not None)
        assert d.outcomes() == ["left"]
        training = d.chat.training

        def stopped() -> bool:
            training.look()  # an app that has ended looks no more
            return not training.running

        await d.until(stopped)


# Comments, titles, versions, old pairs -----------------------------------------------------------


async def comment(d: Any, text: str) -> None:
    await d.press("c")
    await d.type(text)
    await d.press("enter")


async def test_a_comment_goes_with_its_own_pair_only(desk: Desk) -> None:
    async with desk() as d:
        await d.send("hello")
        await comment(d, "of the first pair")
        await d.press("r")
        await d.until(lambda: len(d.rows("SELECT id FROM generation")) == 4)
        await d.stage(Stage.CHOOSING)
        await d.press("left")
        await d.stage(Stage.READY)
        assert d.rows("SELECT comment FROM comparison") == [{"comment": None}]


async def test_a_comment_survives_taking_back_and_picking_again(desk: Desk) -> None:
    async with desk() as d:
        await d.send("hello")
        await comment(d, "too long")
        await d.press("left")
        await d.stage(Stage.READY)
        await d.press("ctrl+z")
        await d.stage(Stage.CHOOSING)
        await d.press("c")
        assert d.app.screen.query_one(Input).value == "too long"
        await d.press("escape", "right")
        await d.stage(Stage.READY)
        [row] = d.store.comparisons()
        assert (row.outcome, row.comment) == ("right", "too long")


async def test_an_old_pair_is_judged_under_its_own_mode_and_question(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "AGE", timedelta(seconds=-5))
    async with desk(config=Config(chat=ChatConfig(replay=1.0)), size=(120, 30)) as d:
        await d.send("helpful, please")
        await d.press("left")
        await d.stage(Stage.READY)
        await d.chat.action_new("redteam-worst")
        await d.send("be bad", Stage.AGAIN)
        await d.pilot.pause()
        top = d.screen_text().splitlines()[0]
        assert "RED TEAM" not in top
        assert " helpful " in top
        assert "Which reply is more helpful and honest?" in top
        await d.press("right")
        await d.stage(Stage.CHOOSING)
        assert "RED TEAM · pick the MORE HARMFUL" in d.screen_text().splitlines()[0]


async def test_a_blind_trial_is_not_promised_while_there_is_one_version(desk: Desk) -> None:
    async with desk() as d:
        await d.chat.command("assistant")
        await d.pilot.pause()
        assert d.app.screen is d.chat
        assert "no other version yet" in d.notice()
        d.store.add_snapshot(Snapshot("s-1", "s-1", None, "base", d.chat.session.engine.base))
        d.store.promote("s-1")
        await d.chat.command("assistant")
        await d.pilot.pause()
        assert "Blind" in d.screen_text()
        await d.press("down", "enter")
        assert d.chat.session.dealer.blind


async def test_a_renamed_conversation_has_its_new_title_on_top(desk: Desk) -> None:
    async with desk() as d:
        await d.send("hello")
        await d.press("left")
        await d.stage(Stage.READY)
        await d.press("ctrl+o", "ctrl+t")
        await d.until(lambda: d.app.screen.query(Input).first().value == "hello")
        d.app.screen.query_one(Input).value = "About tea"
        await d.press("enter", "escape")
        await d.until(lambda: d.app.screen is d.chat)
        assert "About tea" in d.screen_text().splitlines()[0]


async def test_settings_of_one_chat_are_not_those_of_the_next(desk: Desk) -> None:
    async with desk() as d:
        await d.send("hello")
        await d.press("f2")
        d.app.screen.system.load_text("Answer as a pirate.")
        await d.press("ctrl+s", "left")
        await d.stage(Stage.READY)
        await d.press("ctrl+n")
        await d.send("and here")
        assert "pirate" not in str(d.chat.session.pair.draws[0].messages)
        assert d.chat.session.conversation.system is None
