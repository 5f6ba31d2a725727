"""Preference files: four formats read line by line and written again. Pure: no store here.

| format  | a line                                                                            |
| ------- | --------------------------------------------------------------------------------- |
| hhchat  | {"messages": [{"role", "content"}], "chosen", "rejected", "strength": 1..4, "mode"} |
| hh-rlhf | {"chosen", "rejected"}: whole transcripts, "\\n\\nHuman: ...\\n\\nAssistant: ..."     |
| dpo     | {"prompt", "chosen", "rejected"}: texts, or lists of {"role", "content"}           |
| sharegpt| {"conversations": [{"from", "value"}], "chosen": {...}, "rejected": {...}}         |

Each may be JSON lines or one JSON array, gzipped or not. Files are other people's: whatever is
wrong with a line becomes a reason to name it by, and the lines around it are still read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any

from hhchat.jsonlines import BadLine, items
from hhchat.types import BadInput, Comparison, Message, Role, nearest

ROLES: Mapping[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
MARKER = re.compile(r"(?:\A|\n\n)(Human|Assistant):")


@dataclass(frozen=True, slots=True)
class Pair:
    """A preferred and a less preferred reply to `messages`, which end on the user's side."""

    messages: tuple[Message, ...]
    chosen: str
    rejected: str
    strength: int | None = None  # 1 weakest .. 4 strongest
    mode: str | None = None  # None: the file does not say
    original: str | None = None  # the line, where writing the pair again would spell it otherwise


# -- pairs from JSON objects -----------------------------------------------------------------


def parse(item: Any, format: str) -> Pair:
    """One JSON value as a pair. Raises BadLine."""
    if not isinstance(item, dict):
        raise BadLine(f"a {_kind(item)} where an object was expected")
    pair = PARSERS[format](item)
    for text in (*(m.content for m in pair.messages), pair.chosen, pair.rejected, pair.mode or ""):
        if _half(text):
            raise BadLine("half of a surrogate pair, which is not a character")
    return pair


def detect(item: Any) -> str | None:
    """The format that a JSON value looks like, or None."""
    if not isinstance(item, dict):
        return None
    if "conversations" in item:
        return "sharegpt"
    if not {"chosen", "rejected"} <= item.keys():
        return None
    if "messages" in item:
        return "hhchat"
    if "prompt" in item or not isinstance(item["chosen"], str):
        return "dpo"
    return "hh-rlhf"


def _parse_hhchat(item: dict[str, Any]) -> Pair:
    strength = item.get("strength")
    if strength is not None and (isinstance(strength, bool) or strength not in (1, 2, 3, 4)):
        raise BadLine(f"strength {_short(strength)} is not one of 1, 2, 3, 4")
    mode = item.get("mode")
    if mode is not None and not (isinstance(mode, str) and mode.strip()):
        raise BadLine(f"mode {_short(mode)} is not a name")
    return Pair(
        _messages(_get(item, "messages"), "role", "content"),
        _text(item, "chosen"),
        _text(item, "rejected"),
        None if strength is None else int(strength),
        mode,
    )


def _parse_dpo(item: dict[str, Any]) -> Pair:
    chosen, rejected = _get(item, "chosen"), _get(item, "rejected")
    if "prompt" not in item:  # the prompt may be left to be seen in two whole conversations
        return _common(_turns(chosen, "chosen"), _turns(rejected, "rejected"))
    prompt = item["prompt"]
    if isinstance(prompt, str):
        messages = (*_system(item), Message("user", prompt))
    else:
        messages = _messages(prompt, "role", "content", _system(item))
    return Pair(messages, _reply(chosen, "chosen"), _reply(rejected, "rejected"))


def _parse_sharegpt(item: dict[str, Any]) -> Pair:
    return Pair(
        _messages(_get(item, "conversations"), "from", "value", _system(item)),
        _reply(_get(item, "chosen"), "chosen"),
        _reply(_get(item, "rejected"), "rejected"),
    )


def _parse_hh(item: dict[str, Any]) -> Pair:
    texts = _text(item, "chosen"), _text(item, "rejected")
    pair = _common(_transcript(texts[0], "chosen"), _transcript(texts[1], "rejected"))
    if texts == (transcript(pair.messages, pair.chosen), transcript(pair.messages, pair.rejected)):
        return pair
    # spelled in a way of its own, such as no space after "Human:"; kept to be exported as it was
    return replace(pair, original=_line({"chosen": texts[0], "rejected": texts[1]}))


PARSERS: Mapping[str, Callable[[dict[str, Any]], Pair]] = {
    "hhchat": _parse_hhchat,
    "hh-rlhf": _parse_hh,
    "dpo": _parse_dpo,
    "sharegpt": _parse_sharegpt,
}
FORMATS = tuple(PARSERS)


def _transcript(text: str, name: str) -> tuple[Message, ...]:
    """A transcript as turns that alternate; text before the first speaker is a system prompt.

    The released data repeats "Assistant:" inside some replies. That is part of the reply: taken
    as a turn of its own it would leave a reply to nothing, and the pair without a common prompt.
    """
    marks = list(MARKER.finditer(text))
    if not marks:
        raise BadLine(f"{name} has no 'Human:' and 'Assistant:' turns")
    before = text[: marks[0].start()]
    turns = [Message("system", before)] if before.strip() else []
    for mark, following in zip(marks, [*marks[1:], None], strict=True):
        role: Role = "user" if mark[1] == "Human" else "assistant"
        said = text[mark.end() : following.start() if following else len(text)]
        last = turns[-1] if turns else None
        if role == "assistant" and last is not None and last.role == "assistant":
            turns[-1] = Message("assistant", last.content + mark[0] + said)
            continue
        turns.append(Message(role, said.removeprefix(" ")))
    _alternate(turns, name)
    return tuple(turns)


def _common(chosen: Sequence[Message], rejected: Sequence[Message]) -> Pair:
    """The pair in two whole conversations that differ in their last reply alone."""
    for turns, name in ((chosen, "chosen"), (rejected, "rejected")):
        if not turns or turns[-1].role != "assistant":
            raise BadLine(f"{name} does not end on the assistant's side")
    if tuple(chosen[:-1]) != tuple(rejected[:-1]):
        raise BadLine("chosen and rejected differ before their last reply")
    return Pair(tuple(chosen[:-1]), chosen[-1].content, rejected[-1].content)


def _turns(
    value: Any, name: str, role: str = "role", content: str = "content"
) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise BadLine(f"{name} is a {_kind(value)}, not a list of messages")
    turns = []
    for entry in value:
        if not isinstance(entry, dict):
            raise BadLine(f"{name} holds a {_kind(entry)} where a message was expected")
        who = entry.get(role)
        if not isinstance(who, str) or who not in ROLES:
            raise BadLine(f"unknown speaker {_short(who)}: {nearest(str(who), list(ROLES))}")
        turns.append(Message(ROLES[who], _text(entry, content)))
    _alternate(turns, name)
    return tuple(turns)


def _messages(
    value: Any, role: str, content: str, system: tuple[Message, ...] = ()
) -> tuple[Message, ...]:
    turns = _turns(value, "the conversation", role, content)
    if system and turns and turns[0].role == "system":
        system = ()
    if not turns or turns[-1].role != "user":
        raise BadLine("the conversation does not end on the user's side")
    return (*system, *turns)


def _alternate(turns: Sequence[Message], name: str) -> None:
    talk = turns[1:] if turns and turns[0].role == "system" else turns
    for index, turn in enumerate(talk):
        expected = "user" if index % 2 == 0 else "assistant"
        if turn.role != expected:
            raise BadLine(
                f"the turns of {name} do not alternate: turn {index + 1} is the {turn.role}'s"
            )


def _system(item: dict[str, Any]) -> tuple[Message, ...]:
    system = item.get("system")
    return (Message("system", system),) if isinstance(system, str) and system else ()


def _reply(value: Any, name: str) -> str:
    """A reply as text, as one message, or as a list of one message."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        raise BadLine(f"{name} is a {_kind(value)}, not one reply")
    who = value.get("from", value.get("role"))
    if not isinstance(who, str) or ROLES.get(who) != "assistant":
        raise BadLine(f"{name} is not the assistant's")
    return _text(value, "value" if "value" in value else "content")


def _get(item: dict[str, Any], key: str) -> Any:
    if key not in item:
        raise BadLine(f"no {key!r}")
    return item[key]


def _text(item: dict[str, Any], key: str) -> str:
    value = _get(item, key)
    if not isinstance(value, str):
        raise BadLine(f"{key!r} is a {_kind(value)}, not a text")
    return value


def _kind(value: Any) -> str:
    kinds = {dict: "object", list: "list", str: "text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "number")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:39] + "…"


def _half(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False


# -- files -----------------------------------------------------------------------------------


def read(file: IO[bytes], format: str = "auto") -> Iterator[tuple[int, Pair | BadLine]]:
    """Every line of a file that is not blank: its number from 1 and its pair, or what is wrong.

    `format` "auto" takes the format of the first line that looks like one. In a JSON array the
    number is that of the line on which an item begins. Raises BadInput when the format is unknown
    or no line looks like any.
    """
    if format != "auto" and format not in PARSERS:
        raise BadInput(f"unknown format {format!r}: {nearest(format, ('auto', *FORMATS))}")
    known = None if format == "auto" else format
    unread: list[tuple[int, BadLine]] = []  # lines before the format was known
    for number, item in items(file):
        if isinstance(item, BadLine):
            if known is None:
                unread.append((number, item))
            else:
                yield number, item
            continue
        if known is None:
            known = detect(item)
            if known is None:
                unread.append((number, BadLine("not in a known format")))
                if len(unread) < 100:
                    continue
                break
            yield from unread
            unread = []
        try:
            yield number, parse(item, known)
        except BadLine as error:
            yield number, error
    if unread:
        number, why = unread[0]
        raise BadInput(f"no line is in a known format ({', '.join(FORMATS)}); line {number}: {why}")


# -- writing ---------------------------------------------------------------------------------


def transcript(messages: Sequence[Message], reply: str) -> str:
    """A conversation in the spelling of hh-rlhf. A speaker's mark inside a text is not escaped."""
    names = {"user": "\n\nHuman: ", "assistant": "\n\nAssistant: ", "system": ""}
    said = "".join(names[m.role] + m.content for m in messages)
    return f"{said}\n\nAssistant: {reply}"


def write(comparison: Comparison, format: str, original: str | None = None) -> str:
    """A comparison as one line of JSON, without the line end.

    `original` is an imported line to repeat as it was (hh-rlhf only). Raises BadInput for an
    unknown format, ValueError for a tie or skip.
    """
    if format not in PARSERS:
        raise BadInput(f"unknown format {format!r}: {nearest(format, FORMATS)}")
    messages = comparison.messages
    chosen, rejected = comparison.chosen.text, comparison.rejected.text
    if format == "hh-rlhf":
        if original is not None:
            return original
        return _line(
            {"chosen": transcript(messages, chosen), "rejected": transcript(messages, rejected)}
        )
    if format == "sharegpt":
        names = {"user": "human", "assistant": "gpt", "system": "system"}
        return _line(
            {
                "conversations": [{"from": names[m.role], "value": m.content} for m in messages],
                "chosen": {"from": "gpt", "value": chosen},
                "rejected": {"from": "gpt", "value": rejected},
            }
        )
    said = [{"role": m.role, "content": m.content} for m in messages]
    if format == "dpo":
        return _line(
            {
                "prompt": said,
                "chosen": [{"role": "assistant", "content": chosen}],
                "rejected": [{"role": "assistant", "content": rejected}],
            }
        )
    line: dict[str, Any] = {"messages": said, "chosen": chosen, "rejected": rejected}
    if comparison.strength is not None:
        line["strength"] = comparison.strength
    return _line({**line, "mode": comparison.mode})


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)
