"""What commands share: options, the store, the model, and printing that no terminal obeys."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hhchat.text import one_line, printable
from hhchat.types import BadInput, Sampling, nearest

if TYPE_CHECKING:
    from hhchat.config import Config
    from hhchat.model import Model
    from hhchat.plugins import Plugins
    from hhchat.protocols import Engine, Scorer
    from hhchat.store import Store

F = TypeVar("F", bound=Callable[..., Any])

json_option = click.option("as_json", "--json", is_flag=True, help="Print JSON, one object a line.")


def model_options(command: F) -> F:
    """--model, --quantization and --device: they override the [model] section.

    A command takes these, and those below, as `**flags`, and gives them to `settings` as they are.
    """
    for option in (
        click.option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N."),
        click.option("--quantization", metavar="HOW", help="auto, int8, nf4 or none."),
        click.option(
            "--model", metavar="PATH_OR_HUB_ID", help="The base model; `starter` is bundled."
        ),
    ):
        command = option(command)
    return command


def sampling_options(command: F) -> F:
    """--temperature, --top-p and --max-new-tokens: they override the [chat] section."""
    for option in (
        click.option("--max-new-tokens", type=int, metavar="N", help="Longest reply, in tokens."),
        click.option("--top-p", type=float, metavar="P", help="Nucleus sampling mass."),
        click.option("--temperature", type=float, metavar="T", help="0 is greedy."),
    ):
        command = option(command)
    return command


def server_option(command: F) -> F:
    """--server: overrides [remote] url."""
    return click.option(
        "--server",
        metavar="URL",
        help="An OpenAI-compatible server to ask; `local`: the local model.",
    )(command)


def settings(**flags: Any) -> Config:
    """The effective config, with the flags that were given on top.

    Keywords are `section_key`; the section is what stands before the first underscore, except
    that `model`, `quantization` and the sampling options are known by their option's name.
    """
    from hhchat.config import load_config

    named = {FLAGS.get(name, name): value for name, value in flags.items()}
    return load_config(flags=named)


# Option names -> settings.
FLAGS = {
    "model": "model.path",
    "quantization": "model.quantization",
    "device": "model.device",
    "server": "remote.url",
    "temperature": "chat.temperature",
    "top_p": "chat.top_p",
    "max_new_tokens": "chat.max_new_tokens",
    "mode": "chat.mode",
    "stages": "train.stages",
    "warm_start": "train.warm_start",
}


def sampling_of(config: Config) -> Sampling:
    chat = config.chat
    return Sampling(chat.temperature, chat.top_p, chat.max_new_tokens, chat.best_of)


def open_store(*, reading: bool = False) -> Store:
    """The database in the data folder; made and migrated when needed.

    `reading`: for a command that changes nothing, which works on a read-only folder too.
    """
    import os

    from hhchat import paths
    from hhchat.store import Store

    path = paths.database()
    there = [p for p in (path, path.parent) if p.exists()]
    fixed = bool(there) and not all(os.access(p, os.W_OK) for p in there)
    return Store(read_only=reading and fixed)


def open_model(config: Config) -> Model:
    """The base model, loaded. This is where torch is imported."""
    quiet_libraries()
    from hhchat.backend import LocalBackend

    return LocalBackend().load(config)


def quiet_libraries() -> None:
    """Keep the libraries' bars and advice off the screen; call it before importing them."""
    import logging
    import os

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for name in ("bitsandbytes", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)


def open_engine(config: Config, store: Store) -> Engine:
    """A sampler over the base and the store's snapshots, or over a server's model."""
    from hhchat.remote import is_remote, open_remote

    if is_remote(config):
        return open_remote(config)
    from hhchat.backend import LocalBackend
    from hhchat.snapshots import Resolver

    return LocalBackend().engine(open_model(config), Resolver(store))


def open_preference(config: Config, store: Store, snapshot: str) -> Scorer:
    """The preference model that goes with a snapshot; BadInput when there is none yet."""
    from hhchat.backend import LocalBackend
    from hhchat.snapshots import preference_of

    folder = preference_of(store, snapshot)
    if folder is None:
        raise BadInput(
            f"snapshot {snapshot!r} has no preference model yet: "
            "pick between replies in `hhchat`, then run `hhchat train`"
        )
    return LocalBackend().preference(open_model(config), folder)


def load_plugins() -> Plugins:
    from hhchat.plugins import Plugins

    return Plugins.load()


class DefaultGroup(click.Group):
    """A group that does `default` when no subcommand is named: `hhchat runs --json` lists."""

    default = "list"
    own_options: tuple[str, ...] = ("-h", "--help")  # any other leading option is the default's

    def unknown(self, ctx: click.Context, name: str) -> str:
        return f"{ctx.command_path} has no {name!r}"

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        # A shell that completes the first word wants the commands, not what the default takes.
        if (not args and not ctx.resilient_parsing) or (
            args and args[0].startswith("-") and args[0] not in self.own_options
        ):
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None:
            if ctx.resilient_parsing:  # a shell completing a line: no errors among its choices
                return None, None, []
            names = self.list_commands(ctx)
            raise BadInput(f"{self.unknown(ctx, args[0])}: {nearest(args[0], names)}")
        return super().resolve_command(ctx, args)


# --- printing ----------------------------------------------------------------------------------


def emit(record: Mapping[str, Any]) -> None:
    """One JSON object on a line, in ASCII: no escape sequence reaches a terminal raw."""
    text = json.dumps(record, ensure_ascii=True, default=str)
    click.echo(text.replace("\x7f", "\\u007f"))


def json_for_terminal(line: str) -> str:
    """A line of JSON that no terminal obeys: as it is when harmless, else all in ASCII escapes."""
    if printable(line) == line:
        return line
    return json.dumps(json.loads(line), ensure_ascii=True).replace("\x7f", "\\u007f")


def say(text: str = "", *, err: bool = False) -> None:
    """Text for a person, with everything a terminal could obey made visible."""
    click.echo(printable(text), err=err)


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]], *, width: int = 60) -> None:
    """Aligned columns, each cell on one line and cut to `width`; nothing when there are no rows."""
    cells = [[one_line(_cell(value), width) for value in row] for row in rows]
    if not cells:
        return
    lines = [list(headers), *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(headers))]
    for line in lines:
        click.echo("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return str(value)
