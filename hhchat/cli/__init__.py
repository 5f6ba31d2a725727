"""The command line. Importing this, and `hhchat --help`, load no torch, no textual and no SQL.

The sentence of each command stands in `COMMANDS`, so that help needs none of their modules; a
test compares it with the command's own.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

import hhchat.threads  # noqa: F401 (before anything imports torch)
from hhchat import __version__
from hhchat.cli._common import DefaultGroup
from hhchat.types import HhchatError

# name -> what it does; the module is hhchat.cli.<name> and its command is called `command`.
COMMANDS: dict[str, str] = {
    "chat": "Chat, and pick between two replies (what `hhchat` alone does).",
    "serve": "Serve the chat to a browser on this machine.",
    "ask": "Answer one question without a screen.",
    "train": "Learn from the picks: a preference model, then PPO, then the gate.",
    "runs": "List training runs, or show one.",
    "report": "Write one run's page: plots, what the gate saw, replies before and after.",
    "snapshots": "List the assistant's versions, switch or roll back.",
    "prefs": "Import, export, list or count preferences.",
    "prompts": "List or add prompts for training and evaluation.",
    "sample": "Sample replies to many prompts: JSON lines in and out.",
    "score": "Score replies with the preference model: JSON lines in and out.",
    "simulate": "Let a simulated user chat and pick, or judge two snapshots.",
    "elo": "Rank the assistant's versions by the picks between them.",
    "config": "Show the settings and where each comes from, or set one.",
    "plugins": "List plugins, their hooks and their failures.",
    "doctor": "Check versions, device, memory, data folder and database.",
    "completion": "Print the completion script of a shell.",
}
# What the group itself answers; any other leading option belongs to `chat`.
OWN_OPTIONS = ("--help", "-h", "--version")


class Commands(DefaultGroup):
    """Commands that are imported when used, then those that plugins add."""

    default = "chat"
    own_options = OWN_OPTIONS
    _asked_plugins = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *sorted(set(self.commands) - set(COMMANDS))]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            if cmd_name not in self.commands:
                from importlib import import_module

                self.commands[cmd_name] = import_module(f"hhchat.cli.{cmd_name}").command
            return self.commands[cmd_name]
        self._ask_plugins()
        return self.commands.get(cmd_name)

    def unknown(self, ctx: click.Context, name: str) -> str:
        return f"there is no command {name!r}"

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self._ask_plugins()
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        extra = [(name, c) for name, c in sorted(self.commands.items()) if name not in COMMANDS]
        if extra:
            from hhchat.text import one_line

            with formatter.section("Commands of plugins"):
                formatter.write_dl([(n, one_line(c.get_short_help_str(70))) for n, c in extra])

    def _ask_plugins(self) -> None:
        """Load the plugins that may add commands: only others', and only when it can matter."""
        if self._asked_plugins:
            return
        self._asked_plugins = True
        from hhchat.plugins import APP, Plugins, available, wanted

        if any(not plugin.ours and wanted(plugin) for plugin in available((APP,))):
            Plugins.load().commands(self)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`hhchat COMMAND --help` explains a command. Settings: `hhchat config`.",
)
@click.version_option(__version__, prog_name="hhchat")
def cli() -> None:
    """A terminal chat whose assistant learns from your picks."""


def main(args: Sequence[str] | None = None) -> int:
    """Run a command; every error is one line on stderr. Returns the exit code."""
    return report_errors(lambda: cli.main(args, prog_name="hhchat", standalone_mode=False))


def report_errors(act: Callable[[], Any]) -> int:
    """What `act` returns as an exit code; every error is one line on stderr."""
    _reopen_closed()
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets its escape, not a crash.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        result = act()
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except HhchatError as error:
        return _fail(str(error), error.exit_code)
    except click.Abort:  # Ctrl-C, or the end of input at a question
        return 130
    except click.ClickException as error:
        hint = ""
        context = getattr(error, "ctx", None)
        if isinstance(error, click.UsageError) and context is not None:
            hint = f" (see `{context.command_path} --help`)"
        return _fail(error.format_message() + hint, error.exit_code)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _quiet_pipe()
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            return _fail(f"cannot write {error.filename or 'the output'}: {error.strerror}", 1)
        from hhchat.cli._crash import crash_line

        return _fail(crash_line(error), 1)


def _reopen_closed() -> None:
    """Started with `>&-`: output goes nowhere, and no file we open is taken for it."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w"))


def _fail(message: str, code: int) -> int:
    from hhchat.text import printable

    click.echo(f"hhchat: error: {' '.join(printable(message).split())}", err=True)
    return code


def _quiet_pipe() -> int:
    """The reader went away (`| head`): nothing to say, and nothing to flush at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
