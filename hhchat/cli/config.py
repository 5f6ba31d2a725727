"""`hhchat config`: the effective settings, their sentences, and where each came from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hhchat.cli._common import (
    DefaultGroup,
    emit,
    json_option,
    load_plugins,
    open_store,
    quiet_libraries,
    say,
    settings,
)

if TYPE_CHECKING:
    from hhchat.config import Config
    from hhchat.protocols import Trainer


class ConfigGroup(DefaultGroup):
    default = "show"


@click.group("config", cls=ConfigGroup)
def command() -> None:
    """Show the settings and where each comes from, or set one."""


@command.command("show")
@click.argument("keys", nargs=-1, metavar="[SECTION|SECTION.KEY]...")
@json_option
def show(keys: tuple[str, ...], as_json: bool) -> None:
    """The effective settings: default, then file, then environment."""
    from hhchat.config import SECTIONS, WEIGHT_SECTIONS, describe, installed_trainers
    from hhchat.plugins import build_trainer
    from hhchat.types import BadInput, nearest

    config = settings()
    ours = {*SECTIONS, *WEIGHT_SECTIONS}
    heads = ours | {*config.tables, *installed_trainers()}
    asked_of = {key.partition(".")[0] for key in keys}
    for head in sorted(asked_of - heads):
        raise BadInput(f"there is no section {head!r}: {nearest(head.lower(), sorted(heads))}")
    trainers: dict[str, type[Trainer]] = {}
    if asked_of - ours:  # to read a trainer's own settings imports torch
        quiet_libraries()
        trainers = load_plugins().trainers()
    asked = [build_trainer(cls, config.table(t)) for t, cls in trainers.items() if t in asked_of]
    rows = describe(config, asked)
    known = [row["key"] for row in rows]
    for key in keys:
        if "." in key and key not in known:
            mine = [k for k in known if k.startswith(f"{key.partition('.')[0]}.")]
            raise BadInput(f"there is no setting {key!r}: {nearest(key.lower(), mine or known)}")
    if keys:
        rows = [r for r in rows if r["key"] in keys or r["key"].split(".")[0] in keys]
    if as_json:
        for row in rows:
            emit(row)
        return
    say(f"# {config.path}" + ("" if config.path and config.path.exists() else " (no file yet)"))
    section = ""
    for row in rows:
        head, _, name = row["key"].partition(".")
        if head != section:
            section = head
            say(f"\n[{section}]")
        where = "" if row["origin"] == "default" else f"  (from the {row['origin']})"
        say(f"{name} = {_toml(row['value'])}{where}")
        if row["doc"]:
            say(f"    {row['doc']}")
    if not keys:
        say("\n# the settings of a stage of training: hhchat config show pm")


@command.command("path")
@json_option
def path(as_json: bool) -> None:
    """Where the file is (it need not exist)."""
    from hhchat.config import config_path

    where = config_path()
    if as_json:
        emit({"path": str(where), "exists": where.exists()})
    else:
        say(str(where))


@command.command("set", context_settings={"ignore_unknown_options": True})  # -0.5 is a value
@click.argument("key", metavar="SECTION.KEY")
@click.argument("value")
@json_option
def set_(key: str, value: str, as_json: bool) -> None:
    """Write one setting to the file, which is checked before it is replaced."""
    from hhchat.config_file import set_value

    written = set_value(key, value, check=lambda config: _check(config, key))
    if as_json:
        emit({"key": key, "value": written})
    else:
        say(f"{key} = {_toml(written)}")


def _check(config: Config, key: str) -> None:
    """Refuse what the command that reads `key` would refuse, by that command's own check.

    Only what `key` concerns is looked at: a trainer's own settings are its class's, and to read
    them imports torch.
    """
    from hhchat.config import SECTIONS

    section = key.partition(".")[0]
    if section == "pool":
        from hhchat.pool import Pool

        with open_store(reading=True) as store:
            Pool(store, config.pool)
    elif section == "weights":
        load_plugins().terms(config.weights)
    elif section == "remote":
        from hhchat.remote import check_remote

        check_remote(config.remote)
    elif key == "train.stages":
        from hhchat.preflight import trainers_of

        quiet_libraries()
        trainers_of(config, load_plugins(), None)
    elif key == "chat.mode":
        from hhchat.cli.chat import known_mode

        known_mode(config.chat.mode)
    elif key == "chat.question":
        from hhchat.cli.chat import check_question

        check_question(config.chat.question, load_plugins())
    elif key == "chat.theme":
        from hhchat.tui.themes import check_theme

        check_theme(config.chat.theme)
    elif section not in SECTIONS:
        quiet_libraries()
        from hhchat.preflight import trainer_of

        trainer_of(config, load_plugins(), section)


def _toml(value: Any) -> str:
    from hhchat.config_file import toml_value

    return "none" if value is None else toml_value(value)
