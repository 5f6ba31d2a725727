"""What a conversation's last user turn asks about, by looking it up in the world."""

# ruff: noqa: E501 (long literals)

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from hhchat.starter import asks, world
from hhchat.starter.items import Item, items

Message = tuple[str, str]


@dataclass(frozen=True)
class Request:
    """The item asked about and how the turn refers to it."""

    item: Item
    mode: str = "ask"  # ask | why | shorter | more | list | sure | note


def norm(text: str) -> str:
    """Lower case, single spaces, no outer punctuation."""
    return re.sub(r"\s+", " ", text.lower()).strip(" .!?,;:")


def plain(text: str) -> str:
    """The words of a text in lower case, single spaces between them and at both ends."""
    return f" {' '.join(re.findall(r'[a-z0-9]+', text.lower()))} "


@cache
def _index() -> dict[str, Item]:
    out: dict[str, Item] = {}
    for item in items():
        for form in item.asks + item.held:
            out.setdefault(norm(form), item)
    return out


@cache
def _subjects() -> dict[tuple[str, str], Item]:
    return {(item.family, norm(item.subject)): item for item in items() if item.form != "talk"}


@cache
def _wraps() -> tuple[re.Pattern[str], ...]:
    forms = [w for w in asks.WRAPS + asks.WRAPS_HELD if w != "{q}"]
    out = []
    for form in forms:
        head, tail = (re.escape(part.strip(" .!?")) for part in form.lower().split("{q}"))
        out.append(re.compile(rf"^{head}[\s.!]*(.*?)\s*{tail}$", re.S))
    return tuple(out)


@cache
def _also() -> tuple[re.Pattern[str], ...]:
    forms = asks.AND_ALSO + asks.AND_ALSO_HELD
    return tuple(re.compile("^" + norm(f).replace("{x}", "(.+)") + "$") for f in forms)


@cache
def _back() -> dict[str, str]:
    out: dict[str, str] = {}
    groups = {
        "why": asks.WHY + asks.WHY_HELD, "shorter": asks.SHORTER + asks.SHORTER_HELD,
        "more": asks.MORE + asks.MORE_HELD, "list": asks.AS_LIST + asks.AS_LIST_HELD,
        "sure": asks.SURE + asks.SURE_HELD, "verdict": asks.WRONG + asks.RIGHT,
        "note": asks.THANKS + tuple(t for group in asks.LIKED.values() for t in group),
    }  # fmt: skip
    for mode, forms in groups.items():
        out.update({norm(form): mode for form in forms})
    return out


_STORY = re.compile(r"(\w+) went to the ([\w ]+?) to (?:borrow|get) ([\w ]+?)\.", re.I)


def _story(text: str) -> Item | None:
    found = _STORY.search(text)
    if not found:
        return None
    name, place, thing = found.groups()
    others = tuple(n for n in world.NAMES if n.lower() != name.lower())
    odd = tuple(row[1] for row in world.ERRANDS if row[1] != thing.lower())
    return Item("summaries", "summary", name, "fact", (), (), (f"{name} got {thing} at the {place}",),
                accept=(thing,), reject=others + odd, why="that is what the story says")  # fmt: skip


def lookup(text: str) -> Item | None:
    """The item a first question asks about."""
    key = norm(text)
    found = _index().get(key) or _story(text)
    if found is not None:
        return found
    for wrap in _wraps():
        match = wrap.match(key)
        if match and (found := _index().get(norm(match[1]))):
            return found
    return None


def resolve(messages: Sequence[Message]) -> Request | None:
    """What the last user turn asks; None when it lies outside the world."""
    users = [text for role, text in messages if role == "user"]
    if not users:
        return None
    found = lookup(users[-1])
    if found is not None:
        return Request(found)
    if len(users) < 2:
        return None
    key = norm(users[-1])
    mode = _back().get(key)
    cut = max(i for i, (role, _) in enumerate(messages) if role == "user")
    if mode is None:
        before = resolve(messages[:cut])
        for also in _also():
            match = also.match(key)
            other = (
                _subjects().get((before.item.family, norm(match[1]))) if match and before else None
            )
            if other is not None:
                return Request(other)
        return None
    before = resolve(messages[:cut])
    if before is None:
        return Request(_index()["thanks"], "note") if mode == "note" else None
    return Request(before.item, mode)
