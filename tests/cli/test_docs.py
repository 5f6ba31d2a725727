"""docs/cli.md and README are test subjects: every command, every option, no stale ones."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import click
import pytest

from hhchat.cli import COMMANDS
from hhchat.config import SECTIONS
from hhchat.plugins import Plugins

ROOT = Path(__file__).resolve().parents[2]
CLI = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Said once, at the top, for all commands that load a model or sample.
SHARED = {"--model", "--quantization", "--device", "--temperature", "--top-p", "--max-new-tokens"}


def leaves() -> dict[str, click.Command]:
    """Every command that does something: `prefs import`, `sample`."""
    found: dict[str, click.Command] = {}
    for name in COMMANDS:
        command = import_module(f"hhchat.cli.{name}").command
        if isinstance(command, click.Group):
            found |= {f"{name} {sub}": c for sub, c in command.commands.items()}
        else:
            found[name] = command
    return found


def section(name: str) -> str:
    start = CLI.index(f"## `hhchat {name}`\n")
    end = CLI.find("\n## ", start + 1)
    return CLI[start : end if end > 0 else None]


@pytest.mark.parametrize("name", leaves())
def test_every_command_and_option_is_documented(name: str) -> None:
    text = section(name)
    for parameter in leaves()[name].params:
        if isinstance(parameter, click.Option):
            option = parameter.opts[-1]
            assert option in SHARED or re.search(rf"{re.escape(option)}\b", text), option


def test_nothing_is_documented_that_is_not_there() -> None:
    names = set(re.findall(r"^## `hhchat ([\w ]+)`$", CLI, re.MULTILINE))
    assert names == set(leaves())
    for name, command in leaves().items():
        usage = "".join(re.findall(r"^    hhchat.*$", section(name), re.MULTILINE))
        real = {o for p in command.params for o in p.opts}
        assert set(re.findall(r"(?<![\w-])--[a-z-]+", usage)) <= real, name


def test_every_command_that_prints_data_takes_json() -> None:
    # JSON in any case, a screen, or a shell's script
    always = {"sample", "score", "chat", "prefs export", "completion"}
    for name, command in leaves().items():
        assert name in always or any("--json" in p.opts for p in command.params), name


def test_options_have_help() -> None:
    for name, command in leaves().items():
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.opts != ["--mode"]:
                assert parameter.help, f"{name} {parameter.opts}"


def test_the_commands_of_readme_exist() -> None:
    blocks = re.findall(r"^    (?:hhchat) (\S+)", README, re.MULTILINE)
    inline = re.findall(r"`hhchat ([a-z]+)", README)
    assert {*blocks, *inline} <= set(COMMANDS)
    tables = {**SECTIONS, **Plugins.load().trainers()}
    for setting in re.findall(r"config set (\S+)", README):
        part, _, key = setting.partition(".")
        assert key in tables[part].__dataclass_fields__
    for target in re.findall(r"^    make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_files_of_readme_exist() -> None:
    for link in re.findall(r"\]\((docs/[\w.]+)\)", README + CLI):
        if link != "docs/chat.svg":
            assert (ROOT / link).exists(), link
    tree = README[README.index("## What is where") :]
    for name in re.findall(r"[\w/]+\.(?:py|md|toml|txt)\b|[\w]+/", tree):
        found = [ROOT, ROOT / "hhchat", ROOT / "docs"]
        assert any((folder / name).exists() for folder in found), name
