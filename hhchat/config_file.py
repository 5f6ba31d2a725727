"""Writing one setting into config.toml: the user's own lines and comments stay as they are."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hhchat import paths
from hhchat.config import (
    SECTIONS,
    WEIGHT_SECTIONS,
    Config,
    config_path,
    from_document,
    read_file,
)
from hhchat.settings import Text, check_key, convert
from hhchat.types import BadInput, nearest


def set_value(
    key: str,
    text: str,
    path: Path | None = None,
    *,
    check: Callable[[Config], None] = lambda config: None,
) -> Any:
    """Set `section.key` to what `text` says; returns the value as it will be read.

    The result is parsed and checked as a whole before the file is replaced in one step; `check`
    raises what is wrong with it that only the value's own reader knows, such as a trainer.
    """
    path = config_path() if path is None else path
    section, dot, name = key.partition(".")
    if not dot or not name:
        raise BadInput(f"write the setting as section.key, not {key!r}")
    value = _value(section, name, text)
    read_file(path)  # a file that does not parse is not touched
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    after = edit(before, section, name, toml_value(value))
    document = tomllib.loads(after)
    written = document[section][name]
    check(from_document(document, path=path))
    paths.ensure(path.parent)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as out:
            out.write(after)
            out.flush()
            os.fsync(out.fileno())
        aside.replace(path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise BadInput(f"cannot write {path}: {error.strerror or error}") from None
    return written


def edit(document: str, section: str, name: str, value: str) -> str:
    """`document` with `name = value` in `[section]`, replaced in place or added at its end."""
    lines = document.splitlines()
    start, stop = _section(lines, section)
    line = f"{_key(name)} = {value}"
    if start is None:
        gap = [""] if lines and lines[-1].strip() else []
        return "\n".join([*lines, *gap, f"[{section}]", line, ""])
    pattern = re.compile(rf"\s*(?:{re.escape(name)}|\"{re.escape(name)}\")\s*=")
    for index in range(start, stop):
        if pattern.match(lines[index]):
            end = _end_of_value(lines, index, stop)
            return "\n".join([*lines[:index], line, *lines[end:], ""])
    while stop > start and not lines[stop - 1].strip():
        stop -= 1
    return "\n".join([*lines[:stop], line, *lines[stop:], ""])


def toml_value(value: Any) -> str:
    """A setting's value as TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON's escapes are TOML's, save DEL, and \ud800 pairs which ensure_ascii would make.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return str(value)


def _value(section: str, name: str, text: str) -> Any:
    if section in SECTIONS:
        check_key(SECTIONS[section], name, f"[{section}]")
        return convert(SECTIONS[section], name, Text(text), f"{section}.{name}")
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        value = text
    if section in WEIGHT_SECTIONS and (
        isinstance(value, bool) or not isinstance(value, int | float)
    ):
        raise BadInput(f"{section}.{name} must be a number, not {text!r}")
    if not re.fullmatch(r"[A-Za-z0-9_-]+", section):
        raise BadInput(f"unknown section [{section}]: {nearest(section, list(SECTIONS))}")
    return value


def _section(lines: Sequence[str], section: str) -> tuple[int | None, int]:
    """First line after `[section]` and the line where the section ends."""
    header = re.compile(r"\s*\[\s*([^\]]+?)\s*\]\s*(#.*)?$")
    start: int | None = None
    for index, line in enumerate(lines):
        found = header.match(line)
        if found and start is not None:
            return start, index
        if found and found[1].strip("\"'") == section:
            start = index + 1
    return start, len(lines)


def _end_of_value(lines: Sequence[str], index: int, stop: int) -> int:
    """The line after a value that starts at `index` and may go over several lines."""
    for end in range(index + 1, stop + 1):
        try:
            tomllib.loads("\n".join(lines[index:end]))
        except tomllib.TOMLDecodeError:
            continue
        return end
    return index + 1


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)
