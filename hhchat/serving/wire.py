"""What an app and the process that holds the model say to each other: a JSON object a line.

The app sends one request a connection:

    {"do": "hello", "model": NAME}      answered by {"base": ...} once the model is loaded
    {"do": "fits", "model": NAME}       answered by {"line": ...}
    {"do": "sample", "draws": [...]}    answered by deltas, then {"end": true}
    {"do": "generate", "draws": [...]}  answered by deltas with whole replies, then {"end": true}

and may then send {"do": "cancel"}; to close the connection is to cancel. Whatever fails is
answered by {"error": {"kind", "text"}}, the last line. Lines and counts are limited, and every
value is checked: nothing is ever evaluated or unpickled.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from hhchat.text import one_line
from hhchat.types import (
    BadInput,
    Cancelled,
    Delta,
    Draw,
    Generation,
    HhchatError,
    Message,
    ModelError,
    Sampling,
    StoreError,
    TooLong,
)

LINE = 32 << 20  # bytes of the longest line, either way
DRAWS = 64  # replies asked for at once
SEEDS = 1 << 64
MOST_TOKENS = 1 << 20
KINDS: dict[str, type[HhchatError]] = {
    kind.__name__: kind
    for kind in (HhchatError, BadInput, Cancelled, ModelError, StoreError, TooLong)
}


class WireError(HhchatError):
    """The other side said something that is no part of the protocol."""


def encode(record: Mapping[str, Any]) -> bytes:
    """One line. ASCII, so that a lone surrogate in a text travels as the escape that it is."""
    return json.dumps(record, ensure_ascii=True, separators=(",", ":")).encode("ascii") + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """The object on a line; WireError when it is none, or too long."""
    if len(line) > LINE:
        raise WireError(f"a line is longer than {LINE:,} bytes")
    try:
        record = json.loads(line, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise WireError("a line is not JSON") from None
    if not isinstance(record, dict):
        raise WireError("a line is not a JSON object")
    return record


def _no_number(name: str) -> NoReturn:
    raise ValueError(name)


# Draws -----------------------------------------------------------------------------------------


def draws_out(draws: Sequence[Draw]) -> list[dict[str, Any]]:
    return [
        {
            "messages": [[m.role, m.content] for m in draw.messages],
            "seed": draw.seed,
            "sampling": _sampling_out(draw.sampling),
            "snapshot": draw.snapshot,
        }
        for draw in draws
    ]


def draws_in(value: object) -> list[Draw]:
    """The draws of a request; WireError when there are none, too many, or a value is off."""
    if not isinstance(value, list) or not 1 <= len(value) <= DRAWS:
        raise WireError(f"`draws` is not a list of 1 to {DRAWS}")
    return [_draw_in(item) for item in value]


def _draw_in(value: object) -> Draw:
    draw = _object(value, "a draw")
    messages = draw.get("messages")
    if not isinstance(messages, list):
        raise WireError("`messages` is not a list")
    return Draw(
        tuple(_message_in(message) for message in messages),
        _whole(draw, "seed", 0, SEEDS),
        _sampling_in(draw.get("sampling")),
        text(draw, "snapshot"),
    )


def _message_in(value: object) -> Message:
    match value:
        case ["system" | "user" | "assistant" as role, str(content)]:
            return Message(role, content)
    raise WireError("a message is not [role, text]")


def _sampling_out(sampling: Sampling) -> dict[str, Any]:
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_new_tokens": sampling.max_new_tokens,
        "best_of": sampling.best_of,
    }


def _sampling_in(value: object) -> Sampling:
    told = _object(value, "`sampling`")
    return Sampling(
        _number(told, "temperature"),
        _number(told, "top_p"),
        _whole(told, "max_new_tokens", 1, MOST_TOKENS),
        _whole(told, "best_of", 1, DRAWS),
    )


# Replies ---------------------------------------------------------------------------------------


def delta_out(delta: Delta) -> dict[str, Any]:
    record: dict[str, Any] = {"row": delta.row, "text": delta.text}
    made = delta.generation
    if made is not None:
        record["generation"] = {
            "text": made.text,
            "token_ids": list(made.token_ids),
            "finished": made.finished,
            "snapshot": made.snapshot,
            "base": made.base,
            "sampling": None if made.sampling is None else _sampling_out(made.sampling),
            "seed": made.seed,
        }
    return record


def delta_in(record: Mapping[str, Any], rows: int) -> Delta:
    """A delta of one of `rows` rows."""
    row, piece = _whole(record, "row", 0, rows - 1), text(record, "text")
    value = record.get("generation")
    if value is None:
        return Delta(row, piece)
    made = _object(value, "`generation`")
    tokens = made.get("token_ids")
    if not isinstance(tokens, list) or not all(type(t) is int for t in tokens):
        raise WireError("`token_ids` is not a list of whole numbers")
    if type(made.get("finished")) is not bool:
        raise WireError("`finished` is neither true nor false")
    sampling = made.get("sampling")
    return Delta(
        row,
        piece,
        Generation(
            text=text(made, "text"),
            token_ids=tuple(tokens),
            finished=made["finished"],
            source="model",
            snapshot=None if made.get("snapshot") is None else text(made, "snapshot"),
            base=None if made.get("base") is None else text(made, "base"),
            sampling=None if sampling is None else _sampling_in(sampling),
            seed=None if made.get("seed") is None else _whole(made, "seed", 0, SEEDS),
        ),
    )


def generations_out(made: Iterable[Generation]) -> list[Delta]:
    return [Delta(row, "", generation) for row, generation in enumerate(made)]


# Errors ----------------------------------------------------------------------------------------


def error_out(error: BaseException) -> dict[str, Any]:
    """What the user is told, and as which of our errors; never a traceback."""
    told = one_line(str(error), 300)
    kind = next((c.__name__ for c in type(error).__mro__ if c.__name__ in KINDS), "ModelError")
    if not isinstance(error, HhchatError):
        told = f"{type(error).__name__}: {told}" if told else type(error).__name__
    return {"error": {"kind": kind, "text": told or "something went wrong"}}


def error_in(value: object) -> HhchatError:
    told = _object(value, "`error`")
    return KINDS.get(text(told, "kind"), ModelError)(one_line(text(told, "text"), 400))


# Values ----------------------------------------------------------------------------------------


def _object(value: object, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise WireError(f"{name} is not a JSON object")
    return value


def text(record: Mapping[str, Any], key: str) -> str:
    """A value that has to be text; WireError when it is not."""
    value = record.get(key)
    if not isinstance(value, str):
        raise WireError(f"`{key}` is not text")
    return value


def _whole(record: Mapping[str, Any], key: str, low: int, high: int) -> int:
    value = record.get(key)
    if type(value) is not int or not low <= value <= high:
        raise WireError(f"`{key}` is not a whole number from {low} to {high}")
    return value


def _number(record: Mapping[str, Any], key: str) -> float:
    value = record.get(key)
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or value < 0
    ):
        raise WireError(f"`{key}` is not a number of at least 0")
    return float(value)
