"""Settings as frozen dataclasses: one declaration gives the type, the check and the sentence.

`setting(default, doc, ...)` declares a field; `build(cls, table)` makes the dataclass out of a
parsed TOML table. Trainers declare their hyperparameters the same way, or as plain fields.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar, Union

from hhchat.types import BadInput, nearest

T = TypeVar("T")


class Text(str):
    """A value that came as text, from the environment or a flag, and is yet to be read."""


_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def setting(
    default: T,
    doc: str,
    *,
    choices: Sequence[T] = (),
    low: float | None = None,
    high: float | None = None,
) -> T:
    """A dataclass field with its sentence of documentation and the values it may have."""
    metadata = {"doc": doc, "choices": tuple(choices), "low": low, "high": high}
    return dataclasses.field(default=default, metadata=metadata)


def option_fields(cls: type[Any]) -> list[dataclasses.Field[Any]]:
    """The fields of `cls` that can be set from a file: none where it is no dataclass."""
    return [f for f in dataclasses.fields(cls) if f.init] if dataclasses.is_dataclass(cls) else []


def check_key(cls: type[Any], key: str, where: str) -> None:
    """BadInput with the nearest name when `cls` has no setting `key`."""
    names = [f.name for f in option_fields(cls)]
    if key not in names:
        advice = nearest(key, names) if names else "it has none at all"
        raise BadInput(f"{where} has no setting {key!r}: {advice}")


def build(cls: type[T], table: Mapping[str, Any], where: str) -> T:
    """A `cls` from a parsed table; unknown keys, wrong types and bad values are refused by name."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        check_key(cls, key, where)
        values[key] = convert(cls, key, value, f"{where} {key}")
    required = (
        f.name
        for f in option_fields(cls)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    )
    for name in required:
        if name not in values:
            raise BadInput(f"{where} needs a setting {name!r}")
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:  # a dataclass's own __post_init__ checks
        raise BadInput(f"{where}: {error}") from None


def convert(cls: type[Any], key: str, value: Any, where: str) -> Any:
    """`value` as the type of the field `key`, or BadInput. `Text` is read first."""
    f = next(f for f in option_fields(cls) if f.name == key)
    hint = typing.get_type_hints(cls)[key]
    converted = _convert(hint, value, where)
    choices = choices_of(f)
    if choices and converted not in choices:
        raise BadInput(
            f"{where} cannot be {value!r}: {nearest(str(value), [str(c) for c in choices])}"
        )
    low, high = f.metadata.get("low"), f.metadata.get("high")
    if isinstance(converted, (int, float)) and not isinstance(converted, bool):
        if low is not None and not converted >= low:
            raise BadInput(f"{where} must be at least {low:g}, not {converted!r}")
        if high is not None and not converted <= high:
            raise BadInput(f"{where} must be at most {high:g}, not {converted!r}")
    return converted


def choices_of(f: dataclasses.Field[Any]) -> tuple[Any, ...]:
    return tuple(f.metadata.get("choices", ()))


def type_name(cls: type[Any], key: str) -> str:
    """The type of a field in words a person writes in a file: integer, text, list of text."""
    return _words(typing.get_type_hints(cls)[key])


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        options = [a for a in typing.get_args(hint) if a is not type(None)]
        # a file, which has no word for it, may say "none" where no text is meant
        said = isinstance(value, Text) or (isinstance(value, str) and str not in options)
        if value is None or (said and value.lower() in ("", "none")):
            return None
        for option in options:
            try:
                return _convert(option, value, where)
            except BadInput:
                continue
        raise _wrong(hint, value, where)
    if origin is Literal:
        allowed = typing.get_args(hint)
        if value not in allowed:
            raise BadInput(f"{where} cannot be {value!r}: {nearest(str(value), list(allowed))}")
        return str(value) if isinstance(value, Text) else value
    if origin is tuple or origin is list:
        inner = typing.get_args(hint)[0]
        if isinstance(value, Text):
            value = [Text(part.strip()) for part in value.split(",") if part.strip()]
        if not isinstance(value, (list, tuple)):
            raise _wrong(hint, value, where)
        items = [_convert(inner, item, where) for item in value]
        return items if origin is list else tuple(items)
    if isinstance(value, Text):
        value = _parse(hint, value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float) and isinstance(value, bool):
        raise _wrong(hint, value, where)
    if isinstance(hint, type) and not isinstance(value, hint):
        raise _wrong(hint, value, where)
    if isinstance(value, float) and value != value:
        raise BadInput(f"{where} must be a number, not nan")
    if isinstance(value, float) and math.isinf(value):
        raise BadInput(f"{where} must be finite, not {value}")
    return value


def _parse(hint: Any, text: str) -> Any:
    """Text as `hint`, or the text itself (which then fails the type check by name)."""
    try:
        if hint is bool:
            return {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}[text.lower()]
        if hint is int:
            return int(text)
        if hint is float:
            return float(text)
    except (ValueError, KeyError):
        pass
    return str(text)


def _wrong(hint: Any, value: Any, where: str) -> BadInput:
    shown = repr(value)
    if len(shown) > 60:
        shown = shown[:57] + "..."
    return BadInput(f"{where} must be {_article(_words(hint))}, not {shown}")


def _article(words: str) -> str:
    if words in ("text", "true or false"):
        return words
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _words(hint: Any) -> str:
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_words(a) for a in typing.get_args(hint) if a is not type(None))
    if origin is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if origin in (tuple, list):
        return f"list of {_words(typing.get_args(hint)[0])}"
    names = {int: "integer", float: "number", bool: "true or false", str: "text"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))
