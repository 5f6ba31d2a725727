"""What an app and the process that holds the model say to each other: a JSON object a line.

The app sends one request a connection:

    {"do": "hello", "model": NAME}      answered by {"base": ...} once the model is loaded
    {"do": "fits", "model": NAME}       answered by {"line": ...}
    {"do": "sample", "draws": [...]}    answered by deltas, then {"end": true}
    {"do": "generate", "draws": [...]}  answered by deltas with whole replies, then {"end": true}
    {"do": "latest"}                    answered by {"latest": ID}: what the asker has learnt up to
    {"do": "learn", "comparisons": [...]}                   answered by {"latest": ID}
    {"do": "choose", "messages": [...], "replies": [...]}   answered by {"two": [i, j] or null}

and may then send {"do": "cancel"}; to close the connection is to cancel. Whatever fails is
answered by {"error": {"kind", "text"}}, the last line. Lines and counts are limited, and every
value is checked: nothing is ever evaluated or unpickled.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, cast, get_args

from hhchat.text import one_line
from hhchat.types import (
    BadInput,
    Cancelled,
    Comparison,
    Delta,
    Draw,
    Generation,
    HhchatError,
    Message,
    ModelError,
    Sampling,
    Source,
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
            "messages": messages_out(draw.messages),
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
    return Draw(
        messages_in(draw.get("messages")),
        _whole(draw, "seed", 0, SEEDS),
        _sampling_in(draw.get("sampling")),
        text(draw, "snapshot"),
    )


def messages_out(messages: Sequence[Message]) -> list[list[str]]:
    return [[m.role, m.content] for m in messages]


def messages_in(value: object) -> tuple[Message, ...]:
    return tuple(_message_in(message) for message in _list(value, "messages"))


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
    if delta.generation is not None:
        record["generation"] = generation_out(delta.generation)
    return record


def delta_in(record: Mapping[str, Any], rows: int) -> Delta:
    """A delta of one of `rows` rows."""
    row, piece = _whole(record, "row", 0, rows - 1), text(record, "text")
    value = record.get("generation")
    return Delta(row, piece, None if value is None else generation_in(value))


def generation_out(made: Generation) -> dict[str, Any]:
    return {
        "text": made.text,
        "token_ids": list(made.token_ids),
        "finished": made.finished,
        "source": made.source,
        "snapshot": made.snapshot,
        "base": made.base,
        "sampling": None if made.sampling is None else _sampling_out(made.sampling),
        "seed": made.seed,
    }


def generation_in(value: object) -> Generation:
    """A reply; what the store knows of it (its id, its context) does not travel."""
    made = _object(value, "a reply")
    tokens, sampling, source = made.get("token_ids"), made.get("sampling"), made.get("source")
    if not isinstance(tokens, list) or not all(type(t) is int for t in tokens):
        raise WireError("`token_ids` is not a list of whole numbers")
    if type(made.get("finished")) is not bool:
        raise WireError("`finished` is neither true nor false")
    if source not in get_args(Source):
        raise WireError("`source` is not where a reply can come from")
    return Generation(
        text=text(made, "text"),
        token_ids=tuple(tokens),
        finished=made["finished"],
        source=cast(Source, source),
        snapshot=None if made.get("snapshot") is None else text(made, "snapshot"),
        base=None if made.get("base") is None else text(made, "base"),
        sampling=None if sampling is None else _sampling_in(sampling),
        seed=None if made.get("seed") is None else _whole(made, "seed", 0, SEEDS),
    )


def replies_in(value: object) -> list[Generation]:
    return [generation_in(reply) for reply in _list(value, "replies")]


def comparison_out(comparison: Comparison) -> dict[str, Any]:
    """What an asker learns from, and nothing else of it."""
    return {
        "id": comparison.id,
        "messages": messages_out(comparison.messages),
        "replies": [generation_out(reply) for reply in comparison.replies],
        "preferred": comparison.preferred,
        "strength": comparison.strength,
    }


def comparisons_in(value: object) -> list[Comparison]:
    found = []
    for item in _list(value, "comparisons"):
        told = _object(item, "a comparison")
        replies, preferred, strength = (told.get(k) for k in ("replies", "preferred", "strength"))
        if preferred not in (None, 0, 1) or type(preferred) is bool:
            raise WireError("`preferred` is not 0, 1 or null")
        match replies_in(replies):
            case [first, second]:
                pass
            case _:
                raise WireError("a comparison is not of two replies")
        found.append(
            Comparison(
                messages_in(told.get("messages")),
                (first, second),
                preferred=preferred,
                strength=None if strength is None else _whole(told, "strength", 1, 4),
                id=text(told, "id"),
            )
        )
    return found


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


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise WireError(f"`{name}` is not a list")
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
