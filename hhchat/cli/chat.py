"""`hhchat chat`: open the app."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from hhchat.cli._common import (
    model_options,
    open_engine,
    quiet_libraries,
    say,
    server_option,
    settings,
)

if TYPE_CHECKING:
    from hhchat.config import Config
    from hhchat.plugins import Plugins
    from hhchat.protocols import Engine


@click.command("chat")
@model_options
@server_option
@click.option(
    "--mode", metavar="MODE", help="helpful, redteam-best, redteam-worst or a plugin's objective."
)
@click.option("--resume", metavar="ID", help="A conversation's id, or `latest`.")
def command(
    model: str | None,
    quantization: str | None,
    device: str | None,
    server: str | None,
    mode: str | None,
    resume: str | None,
) -> int:
    """Chat, and pick between two replies (what `hhchat` alone does)."""
    from hhchat import paths, tui
    from hhchat.plugins import Plugins

    config = settings(
        model=model, quantization=quantization, device=device, server=server, mode=mode
    )
    shown = with_server(config)
    tui.require_terminal()
    quiet_libraries()
    path = paths.database()

    def engine() -> Engine:
        # Called in a worker thread, which needs a connection of its own.
        from hhchat.store import Store

        return open_engine(config, Store(path, read_only=True))

    # The screen belongs to the app while it runs: what plugins did wrong is said afterwards.
    told: list[str] = []
    plugins = Plugins.load(report=told.append)
    check_mode(config.chat.mode, plugins)
    check_question(config.chat.question, plugins)
    try:
        return tui.run(path, engine, shown, mode=mode, resume=resume, plugins=plugins)
    finally:
        for line in told:
            say(line, err=True)


def with_server(config: Config) -> Config:
    """The settings as the app should read them: a server's address stands for the model's path,
    so that it is not taken for the bundled model; BadInput when it is no address."""
    from hhchat.remote import is_remote, label

    if not is_remote(config):
        return config
    return replace(config, model=replace(config.model, path=label(config)))


def check_mode(mode: str, plugins: Plugins) -> None:
    """BadInput with the nearest name when neither we nor a plugin know the mode."""
    from hhchat.types import MODES, BadInput, nearest

    names = [*MODES, *(o.name for o in plugins.objectives() if o.name not in MODES)]
    if mode not in names:
        raise BadInput(f"there is no mode {mode!r}: {nearest(mode, names)}")


def check_question(name: str, plugins: Plugins) -> None:
    """BadInput when [chat] question names no objective."""
    if name:
        plugins.objective(name)
