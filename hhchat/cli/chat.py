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
    from pathlib import Path

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
    return open_app(model, quantization, device, server, mode, resume)


def open_app(
    model: str | None,
    quantization: str | None,
    device: str | None,
    server: str | None,
    mode: str | None,
    resume: str | None,
    *,
    browser: bool = False,
    shared: Path | None = None,
) -> int:
    """The app, in this terminal or in a browser. `shared` is the socket of the process that holds
    the model for all of the browser's tabs; without it the model is loaded here."""
    from hhchat import paths, tui
    from hhchat.plugins import Plugins
    from hhchat.remote import is_remote
    from hhchat.tui.setup import FirstRun

    config = settings(
        model=model, quantization=quantization, device=device, server=server, mode=mode
    )
    shown = with_server(config)
    if not browser:
        tui.require_terminal()
    quiet_libraries()
    path = paths.database()

    loaded = config

    def engine() -> Engine:
        if shared is not None and not is_remote(loaded):
            from hhchat.serving.shared import SharedEngine

            return SharedEngine(shared, loaded.model.path)
        # Called in a worker thread, which needs a connection of its own.
        from hhchat.store import Store

        return open_engine(loaded, Store(path, read_only=True))

    def choose(name: str) -> Config:
        from hhchat.config_file import set_value

        nonlocal loaded
        set_value("model.path", name)
        loaded = settings(quantization=quantization, device=device)
        return loaded

    def fits(name: str) -> str:
        if shared is not None:
            from hhchat.serving.shared import fits

            return fits(shared, name)
        return what_fits(replace(config, model=replace(config.model, path=name)))

    # The screen belongs to the app while it runs: what plugins did wrong is said afterwards.
    told: list[str] = []
    plugins = Plugins.load(report=told.append)
    check_mode(config.chat.mode, plugins)
    check_question(config.chat.question, plugins)
    try:
        return tui.run(
            path,
            engine,
            shown,
            mode=mode,
            resume=resume,
            plugins=plugins,
            first_run=FirstRun(fits, choose) if is_first(config) and not resume else None,
            browser=browser,
        )
    finally:
        for line in told:
            say(line, err=True)


def is_first(config: Config) -> bool:
    """Whether nothing has been set yet: who has settings, or says on the command line what is
    wanted, is asked nothing."""
    return not (config.path is None or config.path.exists() or config.origins)


def what_fits(config: Config) -> str:
    """A line about the memory that the model needs and this machine has; of no model: which
    sizes it has room for."""
    if not config.model.path:
        from hhchat.cli.doctor import fitting_sizes
        from hhchat.model.base import free_memory, has_bf16, pick_device

        device = pick_device(config.model.device)
        return f"What fits {fitting_sizes(free_memory(device), has_bf16(device))[0]}"
    from hhchat.backend import LocalBackend

    memory = LocalBackend().memory(config)
    if memory.needed is None or memory.available is None:
        return "How much memory it needs could not be found out."
    sizes = (
        f"{memory.needed / 2**30:.1f} GiB needed to train it, {memory.available / 2**30:.1f} free"
    )
    return f"It fits: {sizes}" if memory.fits else f"Too big: {sizes}. {memory.advice}"


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


def known_mode(mode: str) -> None:
    """BadInput when a mode is neither ours nor a plugin's; plugins are loaded only to find out."""
    from hhchat.types import MODES

    if mode not in MODES:
        from hhchat.plugins import Plugins

        check_mode(mode, Plugins.load())


def check_question(name: str, plugins: Plugins) -> None:
    """BadInput when [chat] question names no objective."""
    if name:
        plugins.objective(name)
