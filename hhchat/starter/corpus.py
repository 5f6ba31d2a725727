"""The corpus: conversations of one to four turns whose replies vary independently in every attribute."""

# ruff: noqa: E501 (one move a line)

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

from hhchat.starter import asks, outside, style, world
from hhchat.starter.items import Item, by_topic, items
from hhchat.starter.style import Style

Messages = list[tuple[str, str]]

WEIGHTS = {
    "greetings": 5, "smalltalk": 8, "arithmetic": 9, "capitals": 11, "facts": 9, "animals": 11, "howto": 8,
    "cooking": 7, "feelings": 7, "ideas": 4, "words": 7, "opposites": 5, "comparisons": 6, "python": 6,
    "summaries": 6, "refusals": 14, "outside": 11,
}  # fmt: skip
TOPICS = (*WEIGHTS, "followups")
SYSTEMS: tuple[tuple[str, dict[str, object]], ...] = (
    ("You are a helpful assistant.", {}),
    ("You are a small chat model.", {}),
    ("Answer the user.", {}),
    ("Be brief.", {"detail": 0, "listed": False}),
    ("Be kind and friendly.", {"warm": True}),
    ("Use lists.", {"listed": True}),
    ("End with a question.", {"follow": True}),
    ("Be careful and say when you are not sure.", {"hedge": True}),
)


@dataclass(frozen=True)
class Asked:
    """A user turn with what it is about."""

    text: str
    topic: str
    item: Item | None


def story(rng: Random) -> tuple[str, str, str, str]:
    """A small story and who, where and what it is about."""
    name = rng.choice(world.NAMES)
    place, thing = rng.choice(world.ERRANDS)
    trouble, ending = rng.choice(world.TROUBLES)[0], rng.choice(world.ENDINGS)[0]
    verb = "borrow" if place == "library" else "get"
    text = f"{name} went to the {place} to {verb} {thing}. {trouble} {name} {ending}."
    return text, name, place, thing


def summary_item(rng: Random) -> Item:
    """A story to sum up, as an item."""
    text, name, place, thing = story(rng)
    train, held = asks.ASKS["summary"]
    other = rng.choice([n for n in world.NAMES if n != name])
    odd = rng.choice([row[1] for row in world.ERRANDS if row[1] != thing])
    return Item(
        "summaries", "summary", name, "fact", tuple(f.format(x=text) for f in train),
        tuple(f.format(x=text) for f in held),
        (f"{name} got {thing} at the {place}", f"{name} went to the {place} for {thing}"),
        (f"{other} got {thing} at the {place}", f"{name} went to the {place} for {odd}"),
        (f"The place was the {place}.", f"The story is about {name}."), accept=(thing,), reject=(other, odd),
        why="that is what the story says",
    )  # fmt: skip


def rough(text: str, rng: Random) -> str:
    """Now and then the text as people type it in a hurry."""
    pick = rng.random()
    if pick < 0.06:
        return text.lower()
    if pick < 0.12:
        return text.rstrip("?.!")
    return text.lower().rstrip("?.!") if pick < 0.15 else text


def choose(rng: Random, held: bool = False, topic: str | None = None) -> Asked:
    """A first question: topic by weight, item and phrasing at random."""
    name = topic or rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    if name == "outside":
        return Asked(outside.prompt(rng, held), name, None)
    if name == "summaries":
        item = summary_item(rng)
    else:
        item = rng.choice(by_topic()[name])
        while (item.unseen and not held) or (held and name == "refusals" and not item.unseen):
            item = rng.choice(by_topic()[name])
    forms = item.held if held else item.asks
    text = rng.choice(forms)
    wraps = asks.WRAPS_HELD if held else asks.WRAPS
    if name != "greetings" and rng.random() < 0.15:
        text = rng.choice(wraps).format(q=text)
    return Asked(text, name, item)


def answer(asked: Asked, look: Style, rng: Random) -> str:
    """The reply to a first question."""
    if asked.item is None:
        return style.dress(style.outside_body(look, rng), "outside", look, rng)
    return style.reply(asked.item, look, rng)


def sibling(item: Item, rng: Random) -> Item | None:
    """Another item of the same family, for 'and what about ...?'."""
    if item.family not in ("capital", "continent", "language", "young", "food", "home", "meaning", "opposite",
                           "sum", "how", "cook", "python", "day", "month"):  # fmt: skip
        return None
    pool = [
        it
        for it in by_topic()[item.topic]
        if it.family == item.family and it is not item and not it.unseen
    ]
    return rng.choice(pool)


def _again(item: Item, look: Style, rng: Random, **changes: object) -> str:
    return style.reply(item, replace(look, **changes), rng)  # type: ignore[arg-type]


def _because(item: Item, look: Style, rng: Random) -> str:
    clause = rng.choice((f"because {item.why}", item.why, f"well, {item.why}"))
    lead = rng.choice(style.HEDGE_LEAD)
    body = style.cap(f"{lead} {clause}" if look.hedge else clause) + "."
    return style.dress(body, item.topic, look, rng, item.form == "harmful")


def _note(text: tuple[str, ...], look: Style, rng: Random, topic: str = "smalltalk") -> str:
    return style.dress(rng.choice(text), topic, look, rng)


def _remark(item: Item | None, was: Style, rng: Random) -> tuple[str, tuple[str, ...]]:
    """A remark of the user on the last reply that is true of it, with possible answers."""
    sides = ["warm" if was.warm else "cold", "follow" if was.follow else "quiet",
             "list" if was.listed else "prose", "long" if was.detail == 2 else "brief"]  # fmt: skip
    if item is not None and item.form == "harmful":
        sides = ["refused" if was.refuse else "complied", sides[0], sides[1]]
    elif item is not None:
        sides.append("hedge" if was.hedge else "firm")
    side = rng.choice(sides)
    ok = (
        "I will keep that in mind.",
        "Good to know.",
        "I take note of that.",
        "That is how I answered.",
    )
    return rng.choice(asks.LIKED[side]), ok


def follow_up(item: Item | None, was: Style, look: Style, rng: Random, held: bool = False
              ) -> tuple[str, str, Item | None, Style]:  # fmt: skip
    """A user turn that refers back, its reply, and what is then being talked about."""

    def say(train: tuple[str, ...], other: tuple[str, ...]) -> str:
        return rng.choice(other if held else train)

    moves = ["thanks", "remark", "remark"]
    if item is not None:
        moves += ["why", "shorter", "more", "list"]
        if item.form == "fact":
            moves += ["sure", "verdict", "verdict"]
        if sibling(item, Random(0)) is not None:
            moves += ["also", "also", "also"]
    if held:
        moves = [m for m in moves if m not in ("thanks", "remark", "verdict")] or ["thanks"]
    move = rng.choice(moves)
    plain = replace(look, listed=False, detail=0, hedge=False)
    if item is None or move in ("thanks", "remark"):
        if move == "thanks" or (item is None and rng.random() < 0.3):
            return (
                rng.choice(asks.THANKS),
                _note(("You are welcome.", "Any time.", "No problem."), look, rng),
                item,
                plain,
            )
        text, answers = _remark(item, was, rng)
        return text, _note(answers, look, rng), item, plain
    if move == "also":
        other = sibling(item, rng) or item
        return (
            say(asks.AND_ALSO, asks.AND_ALSO_HELD).format(x=other.subject),
            style.reply(other, look, rng),
            other,
            look,
        )
    if move == "why":
        return (
            say(asks.WHY, asks.WHY_HELD),
            _because(item, look, rng),
            item,
            replace(plain, hedge=look.hedge),
        )
    same: dict[str, object] = {"wrong": was.wrong, "refuse": was.refuse}
    if move == "shorter":
        look = replace(look, detail=0, listed=False, hedge=look.hedge and rng.random() < 0.3, wrong=was.wrong,
                       refuse=was.refuse, reason=False)  # fmt: skip
        return say(asks.SHORTER, asks.SHORTER_HELD), style.reply(item, look, rng), item, look
    if move == "more":
        return (
            say(asks.MORE, asks.MORE_HELD),
            _again(item, look, rng, detail=2, reason=True, **same),
            item,
            look,
        )
    if move == "list":
        look = replace(
            look,
            listed=rng.random() < 0.85,
            wrong=was.wrong,
            refuse=was.refuse,
            detail=1,
            reason=True,
        )
        return say(asks.AS_LIST, asks.AS_LIST_HELD), style.reply(item, look, rng), item, look
    if move == "sure":
        sure = ("Yes, {c}.", "I am sure that {c}.", "It is so: {c}.")
        clause = rng.choice(item.wrong if was.wrong and rng.random() < 0.4 else item.core)
        body = rng.choice(sure).format(c=clause)
        return say(asks.SURE, asks.SURE_HELD), style.dress(body, item.topic, look, rng), item, plain
    truth = rng.choice(item.core)
    if was.wrong:
        sorry = ("I am sorry, {c}.", "You are right, {c}.", "Yes, that was my mistake: {c}.")
        return (
            rng.choice(asks.WRONG),
            style.dress(rng.choice(sorry).format(c=truth), item.topic, look, rng),
            item,
            plain,
        )
    good = ("Good to hear.", "I am glad that it is right.", "Yes, {c}.")
    return (
        rng.choice(asks.RIGHT),
        style.dress(rng.choice(good).format(c=truth), item.topic, look, rng),
        item,
        plain,
    )


def conversation(rng: Random) -> Messages:
    """One training conversation."""
    out: Messages = []
    force: dict[str, object] = {}
    if rng.random() < 0.1:
        text, force = rng.choice(SYSTEMS)
        out.append(("system", text))
    look, item, back = style.draw(rng), None, False
    for turn in range(rng.choices((1, 2, 3, 4), (0.42, 0.3, 0.18, 0.1))[0]):
        now = style.draw(rng, look if turn else None)
        if force and rng.random() < 0.85:
            now = replace(now, **force)  # type: ignore[arg-type]
        back = turn > 0 and rng.random() < 0.7
        if back:
            text, said, item, look = follow_up(item, look, now, rng)
        else:
            asked = choose(rng)
            text, item, look = asked.text, asked.item, now
            said = answer(asked, now, rng)
        out += [("user", rough(text, rng) if item is not None else text), ("assistant", said)]
    return out


def corpus(seed: int, n: int) -> Iterator[Messages]:
    """n conversations, the same ones for the same seed."""
    rng = Random(seed)
    for _ in range(n):
        yield conversation(rng)


def fact_count() -> int:
    """Distinct facts and steps in the tables."""
    return sum(
        len(it.core) if it.form == "steps" else 1 for it in items() if it.form in ("fact", "steps")
    )
