"""`hhchat completion`: the script that makes a shell complete commands and options."""

from __future__ import annotations

import click

from hhchat.types import BadInput, nearest

SHELLS = ("bash", "zsh", "fish")


@click.command("completion")
@click.argument("shell", metavar="bash|zsh|fish")
def command(shell: str) -> None:
    """Print the completion script of a shell."""
    from click.shell_completion import get_completion_class

    from hhchat.cli import cli

    if shell not in SHELLS:
        raise BadInput(f"no completion for {shell!r}: {nearest(shell, SHELLS)}")
    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "hhchat", "_HHCHAT_COMPLETE").source())
