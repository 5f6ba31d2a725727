"""JSON lines in: batches that keep a pipe flowing, and errors that name the line."""

from __future__ import annotations

import json
import os
import select
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from hhchat.types import BadInput, Message, nearest

T = TypeVar("T")
BATCH = 256  # records a call to the model is given: enough to fill it, small enough to stream
PAUSE = 0.05  # seconds of silence on a pipe after which what has come is answered
ROLES = ("system", "user", "assistant")


def read_batches(source: str, parse: Callable[[dict[str, Any]], T]) -> Iterator[list[T]]:
    """Parsed records of a file or, for "-", of standard input, in batches.

    A file is checked whole before the first batch, so a bad line is refused before any work is
    done. A pipe cannot be: its good lines before a bad one are answered, then the error is
    raised. Blank lines are skipped; errors count physical lines from 1.
    """
    if source != "-":
        path = Path(source)
        try:
            with path.open("rb") as stream:
                for _ in _records(stream, source, parse):
                    pass
            with path.open("rb") as stream:
                yield from _batched(_records(stream, source, parse))
        except OSError as error:
            raise BadInput(f"cannot read {source}: {error.strerror or error}") from None
        return
    if sys.stdin.isatty():
        raise BadInput("standard input is a terminal: pipe JSON lines in, or name a file")
    try:
        descriptor = sys.stdin.fileno()
    except (OSError, ValueError):  # not a real file, as in a test
        yield from _batched(_records(sys.stdin.buffer, "standard input", parse))
        return
    yield from _flowing(descriptor, parse)


def _records(stream: BinaryIO, source: str, parse: Callable[[dict[str, Any]], T]) -> Iterator[T]:
    for number, line in enumerate(stream, start=1):
        record = _record(line, number, source, parse)
        if record is not None:
            yield record


def _batched(records: Iterator[T]) -> Iterator[list[T]]:
    batch: list[T] = []
    try:
        for record in records:
            batch.append(record)
            if len(batch) == BATCH:
                yield batch
                batch = []
    except BadInput:
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def _flowing(descriptor: int, parse: Callable[[dict[str, Any]], T]) -> Iterator[list[T]]:
    """Batches off a pipe: full ones while input is plenty, what there is when it pauses."""
    rest, number, ended = b"", 0, False
    batch: list[T] = []
    while not ended:
        waiting = bool(batch)
        if waiting and not select.select([descriptor], [], [], PAUSE)[0]:
            yield batch
            batch = []
            continue
        block = os.read(descriptor, 1 << 16)
        ended = not block
        *lines, rest = (rest + block).split(b"\n")
        if ended and rest:
            lines.append(rest)
        for line in lines:
            number += 1
            try:
                record = _record(line, number, "standard input", parse)
            except BadInput:
                if batch:
                    yield batch
                raise
            if record is not None:
                batch.append(record)
            if len(batch) == BATCH:
                yield batch
                batch = []
    if batch:
        yield batch


def _record(
    line: bytes, number: int, source: str, parse: Callable[[dict[str, Any]], T]
) -> T | None:
    where = f"{source}, line {number}"
    if number == 1:
        line = line.removeprefix(b"\xef\xbb\xbf")
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        raise BadInput(f"{where}: not UTF-8 text") from None
    if not text.strip():
        return None
    try:
        value = json.loads(text)
    except RecursionError:
        raise BadInput(f"{where}: nested too deeply") from None
    except json.JSONDecodeError as error:
        raise BadInput(f"{where}: not JSON ({error.msg})") from None
    except ValueError:  # Python reads no integer of thousands of digits
        raise BadInput(f"{where}: a number too long to read") from None
    if not isinstance(value, dict):
        raise BadInput(f"{where}: an object is needed, not {_kind(value)}")
    try:
        return parse(value)
    except BadInput as error:
        raise BadInput(f"{where}: {error}") from None


def prompt_of(record: dict[str, Any]) -> tuple[Message, ...]:
    """The messages of {"prompt": ...} or {"messages": [...]}, ending on the user's side."""
    has_prompt, has_messages = "prompt" in record, "messages" in record
    if has_prompt and has_messages:
        raise BadInput("give either prompt or messages, not both")
    if has_prompt:
        return (Message("user", _text(record["prompt"], "prompt")),)
    if not has_messages:
        near = [nearest(key, ["prompt", "messages"]) for key in list(record)[:1]]
        raise BadInput(f"needs a key 'prompt' or 'messages'{f': {near[0]}' if near else ''}")
    return messages_of(record["messages"])


def messages_of(value: Any) -> tuple[Message, ...]:
    """A checked conversation: roles alternate, a system message only first, the user last."""
    if not isinstance(value, list) or not value:
        raise BadInput("messages must be a list of at least one message")
    messages: list[Message] = []
    for index, item in enumerate(value, start=1):
        if not isinstance(item, dict):
            raise BadInput(f"message {index} must be an object, not {_kind(item)}")
        role = item.get("role")
        if role not in ROLES:
            shown = role if isinstance(role, str) else json.dumps(role)
            raise BadInput(f"message {index} has role {shown!r}: {nearest(str(role), ROLES)}")
        messages.append(Message(role, _text(item.get("content"), f"message {index} content")))
    spoken = messages[1:] if messages[0].role == "system" else messages
    for index, message in enumerate(spoken):
        expected = "assistant" if index % 2 else "user"
        if message.role != expected:
            position = index + 1 + len(messages) - len(spoken)
            raise BadInput(f"message {position} should be the {expected}'s: turns must alternate")
    if not spoken or spoken[-1].role != "user":
        raise BadInput("the last message must be the user's")
    return tuple(messages)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise BadInput(f"{name} must be text, not {_kind(value)}")
    if not value.strip():
        raise BadInput(f"{name} is empty")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadInput(f"{name} holds half of a surrogate pair") from None
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return "null" if value is None else names.get(type(value), "a number")
