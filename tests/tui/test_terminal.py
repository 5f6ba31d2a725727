"""What reaches a real terminal, and what is left of it afterwards."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hostile import HOSTILE
from terminal import ALT_OFF, ALT_ON, APP, Terminal

from hhchat.tui.keys import Stage


@pytest.fixture
def open_terminal(tmp_path: Path) -> Iterator[Any]:
    opened: list[Terminal] = []

    def start(*arguments: str) -> Terminal:
        terminal = Terminal(str(tmp_path / "hhchat.db"), *arguments)
        opened.append(terminal)
        return terminal

    yield start
    for terminal in opened:
        terminal.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("busy", ["loading", "streaming"])
def test_a_closed_or_terminated_app_leaves_a_clean_terminal(
    open_terminal: Any, number: signal.Signals, busy: str
) -> None:
    terminal = open_terminal(*(["--load", "60"] if busy == "loading" else ["--slow"]))
    terminal.until_written(b"Say something")
    if busy == "streaming":
        terminal.until_written(b"ready")
        terminal.type(b"hello\r")
        terminal.until_written(b"writing")
    assert terminal.leave(number) == 128 + number
    written = terminal.written
    assert written.count(ALT_ON) == written.count(ALT_OFF) == 1
    assert written.rfind(b"\x1b[?1000l") > written.rfind(b"\x1b[?1000h")
    assert b"\x1b[?25h" in written[written.rfind(ALT_ON) :]
    assert b"Traceback" not in written


def test_ctrl_q_leaves_with_status_0_even_while_the_model_loads(open_terminal: Any) -> None:
    terminal = open_terminal("--load", "60")
    terminal.until_written(b"Say something")
    terminal.type(b"\x11")
    assert terminal.leave() == 0
    assert terminal.written.count(ALT_OFF) == 1


def test_a_terminal_that_is_gone_ends_the_app_and_loses_nothing(
    open_terminal: Any, tmp_path: Path
) -> None:
    terminal = open_terminal("--slow")
    terminal.until_written(b"ready")
    terminal.type(b"do not lose me\r")
    terminal.until_written(b"writing")
    os.close(terminal._master)  # the window was closed: the kernel sends SIGHUP
    terminal.child.send_signal(signal.SIGHUP)
    terminal.child.wait(timeout=30)
    terminal._master = os.open(os.devnull, os.O_RDWR)
    with closing(sqlite3.connect(tmp_path / "hhchat.db")) as conn:
        assert conn.execute("SELECT user FROM turn").fetchall() == [("do not lose me",)]
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("busy", ["idle", "streaming"])
def test_a_terminal_that_vanishes_without_a_signal_ends_the_app_and_loses_nothing(
    open_terminal: Any, tmp_path: Path, busy: str
) -> None:
    """Started in a session of its own, so that no terminal's end reaches it as SIGHUP."""
    terminal = open_terminal("--slow")
    terminal.until_written(b"ready")
    if busy == "streaming":
        terminal.type(b"do not lose me\r")
        terminal.until_written(b"writing")
    terminal.vanish()
    assert terminal.child.wait(timeout=30) == 128 + signal.SIGHUP
    with closing(sqlite3.connect(tmp_path / "hhchat.db")) as conn:
        said = [("do not lose me",)] if busy == "streaming" else []
        assert conn.execute("SELECT user FROM turn").fetchall() == said
        assert conn.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_what_is_typed_right_after_a_key_does_not_overtake_it(
    open_terminal: Any, tmp_path: Path
) -> None:
    """As a slow line or a fast hand sends it: all in one piece."""

    def asked() -> list[Any]:
        with closing(sqlite3.connect(tmp_path / "hhchat.db")) as conn:
            return conn.execute("SELECT conversation, user FROM turn ORDER BY n").fetchall()

    terminal = open_terminal()
    terminal.until_written(b"ready")
    terminal.type(b"first\r")
    terminal.until_written(b"your pick")
    terminal.type(b"\x1b[D")
    terminal.until_written("✓ saved".encode())
    before = len(terminal.written)
    terminal.type(b"\x0esecond\r")  # ctrl+n: a new conversation
    terminal.until_written(b"your pick", before)
    (first, _), (second, said) = asked()
    assert said == "second"
    assert first != second
    terminal.type(b"\x0fzebra")  # ctrl+o: the list, whose search box takes the word
    terminal.until_written(b"zebra", before)
    assert terminal.child.poll() is None
    assert len(asked()) == 2


def test_sigterm_ends_the_app_even_when_the_terminal_takes_no_more(open_terminal: Any) -> None:
    terminal = open_terminal("--slow")
    terminal.until_written(b"ready")
    terminal.deaf()  # nobody reads: its buffer fills and every write blocks
    terminal.child.send_signal(signal.SIGTERM)
    assert terminal.child.wait(timeout=30) == 128 + signal.SIGTERM


def test_without_a_terminal_it_says_so_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(APP), str(tmp_path / "x.db")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.strip().splitlines()) == 1
    assert "terminal" in done.stderr
    assert "\x1b" not in done.stderr


OBEYED = re.compile(
    rb"\x1b\]|\x1bP|\x1b_|\x1b\^|\x1bX|\x1b\[2J|\x1b\[31m|\x07|\xc2[\x80-\x9f]"
    rb"|\xe2\x80[\xae\xac\x8f\xa8\xa9]|\xe2\x81[\xa6\xa9]|\xf3\xa0[\x80\x81]"
)


def test_hostile_replies_change_nothing_on_a_real_terminal(
    open_terminal: Any, tmp_path: Path
) -> None:
    def count(table: str) -> int:
        with closing(sqlite3.connect(tmp_path / "hhchat.db")) as conn:
            found: int = conn.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            return found

    terminal = open_terminal("--hostile")
    terminal.until_written(b"ready")
    for picks in range((len(HOSTILE) + 1) // 2):
        terminal.type(b"next\r")
        terminal.until(lambda picks=picks: count("turn") == picks + 1)
        while count("comparison") == picks:  # the key does nothing until there is a pair
            terminal.type(b"\x1b[D")
            time.sleep(0.1)
            assert terminal.child.poll() is None
    terminal.type(b"\x11")
    assert terminal.leave() == 0
    # Textual itself resets the shape of the mouse pointer: the one OSC that is allowed
    app = terminal.written.replace(b"\x1b]22;default\x07", b"")
    found = {m[0] for m in OBEYED.finditer(app)}
    assert not found, (
        found,
        [app[m.start() - 40 : m.end() + 40] for m in OBEYED.finditer(app)][:3],
    )
    assert app.count(ALT_OFF) == 1
    assert b"Traceback" not in app


async def test_hostile_replies_never_stop_the_chat(desk: Any) -> None:
    from fake_engine import FakeEngine

    async with desk(FakeEngine(list(HOSTILE), chunk=200_000)) as d:
        for _ in range((len(HOSTILE) + 1) // 2):
            await d.send("next")
            await d.press("right")
            await d.stage(Stage.READY)
        assert not d.app._exit
        stored = {r["text"] for r in d.rows("SELECT text FROM generation")}
        assert HOSTILE[0] in stored  # the record keeps what was written, whole
        assert HOSTILE[8] in stored


async def test_a_hostile_conversation_title_and_question_are_only_text(desk: Any) -> None:
    async with desk() as d:
        await d.send("[/INST] [@click=app.quit]x[/] [red]")
        await d.press("left")
        await d.stage(Stage.READY)
        assert "[@click=app.quit]" in d.screen_text()
        await d.press("ctrl+o")
        assert "[/INST]" in d.screen_text()
        await d.press("ctrl+t", "enter", "ctrl+d", "n", "escape")
        assert d.app.screen is d.chat


def test_a_pick_that_is_left_behind_is_said_after_the_app_has_gone(
    open_terminal: Any, tmp_path: Path
) -> None:
    terminal = open_terminal()
    terminal.until_written(b"ready")
    terminal.type(b"hello\r")
    terminal.until_written(b"your pick")
    with closing(sqlite3.connect(tmp_path / "hhchat.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # another program keeps the store to itself
        terminal.type(b"\x1b[D")
        terminal.until_written(b"NOT SAVED")
        terminal.type(b"\x11")
        terminal.until_written(b"Quit and lose it")
        terminal.type(b"\x1b[B\r")
        assert terminal.leave() == 1
    after = terminal.written[terminal.written.rfind(ALT_OFF) :]
    assert b"hhchat: error: your last pick is not saved: " in after
    assert b"Traceback" not in after
