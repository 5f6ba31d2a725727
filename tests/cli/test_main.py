"""The group: help, errors in one line, exit codes, pipes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest

from hhchat import __version__
from hhchat.cli import COMMANDS
from hhchat.types import HhchatError

Run = Callable[..., Any]


def one_error(ran: Any) -> str:
    """The single line of an error."""
    lines = ran.err.splitlines()
    assert len(lines) == 1, ran.err
    assert lines[0].startswith("hhchat: error: ")
    assert ran.out == ""
    return str(lines[0].removeprefix("hhchat: error: "))


def test_help_lists_every_command(run: Run) -> None:
    out = run("--help").ok().out
    assert all(name in out for name in COMMANDS)
    assert run("-h").ok().out == out


def test_the_sentences_of_help_are_the_commands_own() -> None:
    for name, sentence in COMMANDS.items():
        command: click.Command = import_module(f"hhchat.cli.{name}").command
        assert (command.help or "").splitlines()[0] == sentence


def test_version(run: Run) -> None:
    assert __version__ in run("--version").ok().out


def test_an_unknown_command_names_the_nearest(run: Run) -> None:
    ran = run("snapshot")
    assert ran.code == 2
    assert one_error(ran) == "there is no command 'snapshot': did you mean 'snapshots'?"


def test_an_unknown_subcommand_names_the_nearest(run: Run) -> None:
    ran = run("snapshots", "rolback")
    assert ran.code == 2
    assert "did you mean 'rollback'?" in one_error(ran)


def test_an_unknown_option_is_one_line(run: Run) -> None:
    ran = run("sample", "--inptu", "x")
    assert ran.code == 2
    assert "--inptu" in one_error(ran)


def test_without_a_command_it_is_the_chat_which_needs_a_terminal(run: Run) -> None:
    for args in ([], ["--mode", "helpful"], ["chat"], ["chat", "--resume", "x"]):
        ran = run(*args)
        assert ran.code == 2
        assert "terminal" in one_error(ran)


def test_an_unexpected_error_is_one_line_with_the_log(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**flags: Any) -> None:
        raise RuntimeError("the \x1b[31mroof\nis on fire")

    monkeypatch.setattr("hhchat.cli.config.settings", broken)
    ran = run("config")
    assert ran.code == 1
    line = one_error(ran)
    assert line.startswith("RuntimeError: the \\x1b[31mroof is on fire (details: ")
    log = home / "hhchat.log"
    assert str(log) in line
    assert "Traceback" in log.read_text()
    assert log.stat().st_mode & 0o777 == 0o600


def test_the_traceback_is_shown_when_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hhchat.cli.config.settings", lambda: 1 / 0)
    monkeypatch.setenv("HHCHAT_DEBUG", "1")
    ran = run("config")
    assert ran.code == 1
    assert "Traceback" in ran.err


def test_our_own_errors_carry_their_exit_code(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(HhchatError):
        exit_code = 7

    def odd() -> None:
        raise Odd("two\nlines \x1b]52;c;AAAA\x07")

    monkeypatch.setattr("hhchat.cli.config.settings", odd)
    ran = run("config")
    assert ran.code == 7
    assert one_error(ran) == "two lines \\x1b]52;c;AAAA\\x07"


def test_ctrl_c_is_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hhchat.cli.config.settings", stop)
    ran = run("config")
    assert ran.code == 130
    assert ran.err.strip() == ""


def test_a_reader_that_leaves_is_no_error() -> None:
    script = "import sys; from hhchat.cli import main; sys.exit(main(['config', '--json']))"
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_and_a_closed_output_are_no_accidents(tmp_path: Path) -> None:
    env = {**os.environ, "HHCHAT_HOME": str(tmp_path / "home"), "HHCHAT": sys.executable}
    for where, code, said in (
        (">/dev/full", 1, "hhchat: error: cannot write the output: No space left on device\n"),
        (">&-", 0, ""),
    ):
        command = f'"$HHCHAT" -m hhchat config {where}'
        ran = subprocess.run(command, shell=True, env=env, capture_output=True, text=True)
        assert (ran.returncode, ran.stderr) == (code, said)


def test_a_terminal_without_the_characters_gets_escapes(shell: Run) -> None:
    shell("prompts", "add", "a snowman: \u2603", PYTHONUTF8="1").ok()
    ran = shell("prompts", "list", PYTHONUTF8="0", PYTHONIOENCODING="latin-1").ok()
    assert "a snowman: \\u2603" in ran.out


def test_completion_for_the_three_shells(shell: Run) -> None:
    for name in ("bash", "zsh", "fish"):
        ran = shell(_HHCHAT_COMPLETE=f"{name}_source")
        assert "_HHCHAT_COMPLETE" in ran.out, ran.err
