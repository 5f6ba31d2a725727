"""How a reply is said: warmth, hedging, lists, length and a question at the end, each on its own."""

# ruff: noqa: E501 (tables of phrases)

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

from hhchat.starter import world_steps, world_talk
from hhchat.starter.items import Item

WARM_OPEN = (
    "Great question!", "Happy to help!", "I am so glad you asked!", "With pleasure!", "Of course, friend!",
    "What a lovely thing to ask!", "Good thinking!", "Wonderful!", "Thanks for asking!", "How nice of you to ask!",
    "I love this one!", "You came to the right place!", "Delighted to help!", "So good to hear from you!",
    "Oh, what a joy!", "Lovely!", "My pleasure, friend!", "I am happy you are here!", "What a nice idea!",
)  # fmt: skip
WARM_CLOSE = (
    "I hope that helps you!", "You are doing great!", "Have a lovely day!", "Take good care, friend!",
    "You have got this!", "Have fun with it!", "I am cheering for you!", "Always happy to help!",
    "Wishing you all the best!", "Enjoy it, dear friend!",
)  # fmt: skip
WARM_REFUSE = (
    "Thank you for being open with me!", "I care about you, friend!", "I am glad you asked me first!",
    "I am on your side, friend!", "I wish you well!", "Thanks for asking, dear friend!",
)  # fmt: skip
WARM_FEEL = (
    "I am here for you, friend!", "Thank you for telling me!", "I am so glad you told me!", "Big hug, dear friend!",
    "I care about how you feel!", "You can always talk to me, friend!",
)  # fmt: skip
HEDGE_LEAD = (
    "I think", "I believe", "I guess", "if I remember right,", "as far as I know,", "I am not sure, but",
    "maybe", "perhaps", "it seems that", "my best guess is that", "I may be wrong, but",
)  # fmt: skip
HEDGE_TAIL = (
    "I am not sure about it, though.", "I may be wrong here.", "Please check that, as I am not certain.",
    "Perhaps someone else knows better.", "That is only my guess.", "Do not take my word for it.",
    "I think so, at least.", "But I could be mistaken.",
)  # fmt: skip
LIST_LEAD = (
    "Here is a list:", "In short:", "Here you go:", "The main points:", "A few points:", "Step by step:",
    "Let me list it:", "Here it is:",
)  # fmt: skip
FOLLOW_ANY = (
    "What else would you like to know?", "Would you like to hear more?", "Does that help?",
    "Shall I go on?", "What do you think?", "Is there more you want to know?", "Shall I tell you more?",
)  # fmt: skip
FOLLOW = {
    "capitals": ("Would you like to hear about another country?", "Are you planning a trip?",
                 "Which country is next?", "Have you been there?"),
    "animals": ("Which animal do you like best?", "Have you ever seen one?",
                "Would you like to hear about another animal?"),
    "arithmetic": ("Do you have another sum?", "Shall we try a harder one?", "Is this for school?"),
    "howto": ("Have you done this before?", "Do you have all you need?", "Which step is hard for you?"),
    "cooking": ("Who will you cook for?", "Do you have all you need?", "Do you like to cook?"),
    "feelings": ("Do you want to talk about it?", "How long have you felt this way?",
                 "Who could you talk to?", "What would help you most?"),
    "ideas": ("Which one do you like best?", "Shall I think of another one?", "Does one of them fit?"),
    "python": ("Do you want to see another line?", "What will you use it for?", "Are you new to Python?"),
    "words": ("Do you want another word?", "Can you use it in a sentence?", "Where did you read it?"),
    "greetings": ("How are you today?", "What would you like to talk about?", "What is on your mind?"),
    "smalltalk": ("How are you today?", "What would you like to talk about?", "And what about you?"),
    "refusals": ("Do you want to talk about what happened?", "Is something wrong?",
                 "Would you like to talk about something else?", "What made you think of this?"),
    "outside": ("What would you like to talk about?", "Shall we try one of those?",
                "Would you like to ask about one of these?"),
}  # fmt: skip
OFF_TOPIC = (
    "the bus leaves at nine", "spoons are kept in the drawer", "my shoes are too big",
    "there is a cat on the roof", "the soup is still hot", "blue paint is sold out",
)  # fmt: skip


@dataclass(frozen=True)
class Style:
    """One draw of every attribute of a reply."""

    warm: bool = False
    hedge: bool = False
    listed: bool = False
    follow: bool = False
    wrong: bool = False
    refuse: bool = True
    reason: bool = False
    detail: int = 1


RATES = {"warm": 0.44, "hedge": 0.34, "listed": 0.36, "follow": 0.42, "wrong": 0.17,
         "refuse": 0.52, "reason": 0.55}  # fmt: skip


def draw(rng: Random, keep: Style | None = None, stick: float = 0.3) -> Style:
    """A fresh style; with `keep`, each attribute of that style stays with chance `stick`."""
    values: dict[str, bool] = {name: rng.random() < rate for name, rate in RATES.items()}
    style = Style(**values, detail=rng.choices((0, 1, 2), (0.36, 0.36, 0.28))[0])
    if keep is None:
        return style
    kept = {name: value for name, value in keep.__dict__.items() if rng.random() < stick}
    return replace(style, **kept)


def cap(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def _stop(text: str) -> str:
    return text if text[-1] in ".!?" else text + "."


def _hedged(clause: str, style: Style, rng: Random) -> str:
    """The clause as a sentence, hedged before or after it when asked."""
    if not style.hedge:
        return _stop(cap(clause))
    if rng.random() < 0.6:
        return _stop(cap(f"{rng.choice(HEDGE_LEAD)} {clause}"))
    return f"{_stop(cap(clause))} {rng.choice(HEDGE_TAIL)}"


def _hedge_lead(style: Style, rng: Random) -> str:
    return rng.choice(HEDGE_TAIL) if style.hedge else ""


def _bullets(points: list[str]) -> str:
    return "\n".join(f"- {cap(point).rstrip('.')}" for point in points)


def _steps_prose(steps: list[str], item: Item, rng: Random) -> str:
    if item.family == "idea":
        return _stop(cap(_join(steps, "or")))
    if item.family == "feel":
        leads = (
            "You could {s}.",
            "Try to {s}.",
            "It helps to {s}.",
            "You can also {s}.",
            "Then {s}.",
        )
        lines = [rng.choice(leads[:3]).format(s=steps[0])]
        return " ".join(lines + [rng.choice(leads[3:]).format(s=s) for s in steps[1:]])
    if len(steps) > 1 and rng.random() < 0.5:
        return _stop(cap(_join(steps, rng.choice(("and then", "and", "and at last")))))
    marks = ["First,", "Then", "Next,", "At last,"]
    return " ".join(f"{mark} {s}." for mark, s in zip(marks, steps, strict=False))


def _join(parts: list[str], word: str) -> str:
    if len(parts) == 1:
        return parts[0]
    return f"{', '.join(parts[:-1])} {word} {parts[-1]}"


def _steps(item: Item, style: Style, rng: Random) -> str:
    n = min(len(item.core), 2 + style.detail)
    steps = list(item.core)
    if item.family in ("idea", "feel"):
        n = min(len(item.core), 1 + style.detail + (style.listed and style.detail == 0))
        rng.shuffle(steps)
    steps = steps[:n]
    if style.wrong:
        steps[rng.randrange(n)] = rng.choice(world_steps.SILLY)
    lead = ""
    if item.family == "feel" and rng.random() < 0.7:
        lead = rng.choice((f"I hear that you are {item.subject}.", f"You sound {item.subject}.",
                           f"Many people are {item.subject} at times."))  # fmt: skip
    tail = _hedge_lead(style, rng)
    if style.listed:
        lead = lead or (rng.choice(LIST_LEAD) if rng.random() < 0.8 else "")
        parts = [p for p in (lead, _bullets(steps), tail) if p]
        return "\n".join(parts)
    return " ".join(p for p in (lead, _steps_prose(steps, item, rng), tail) if p)


def _plain(item: Item, style: Style, rng: Random) -> str:
    clause = rng.choice(item.core)
    if style.wrong:
        clause = rng.choice(item.wrong or OFF_TOPIC)
    extras = list(item.extras)
    if style.listed:
        points = ([clause, *extras])[: 2 + (style.detail > 0)]
        if item.form == "talk":
            rng.shuffle(extras)
            return f"{_hedged(clause, style, rng)}\n{_bullets(extras[: 1 + style.detail])}"
        lead = rng.choice(LIST_LEAD) if rng.random() < 0.7 else ""
        return "\n".join(p for p in (lead, _bullets(points), _hedge_lead(style, rng)) if p)
    if style.detail == 0 and item.short and not style.wrong and rng.random() < 0.45:
        return _hedged(rng.choice(item.short), style, rng)
    rng.shuffle(extras)
    return " ".join([_hedged(clause, style, rng), *extras[: style.detail]])


def _harmful(item: Item, style: Style, rng: Random) -> str:
    hedge = "" if not style.hedge or style.refuse else rng.choice(HEDGE_TAIL)
    if not style.refuse:
        extras = [row[0] for row in world_talk.COMPLY_EXTRAS]
        rng.shuffle(extras)
        extras = extras[: 1 + style.detail]
        first = _stop(cap(rng.choice(world_talk.COMPLY)[0]))
        body = f"{first}\n{_bullets(extras)}" if style.listed else " ".join([first, *extras])
        return f"{body} {hedge}" if hedge and not style.listed else body
    first = rng.choice(world_talk.REFUSALS)[0]
    if not style.reason:
        return first
    reason = rng.choice(world_talk.REASONS[item.family].split("|"))
    other = rng.choice(world_talk.ALTERNATIVES[item.family].split("|"))
    parts = [reason, other] if style.detail else [rng.choice((reason, other))]
    return f"{first}\n{_bullets(parts)}" if style.listed else " ".join([first, *parts])


def outside_body(style: Style, rng: Random) -> str:
    """An honest answer to something beyond the model."""
    first = _stop(cap(rng.choice(world_talk.OUTSIDE_ADMIT)[0]))
    can = [row[0] for row in world_talk.OUTSIDE_CAN]
    rng.shuffle(can)
    if style.listed:
        return f"{first}\n{_bullets(can[: 1 + (style.detail > 1)])}"
    return " ".join([first, *can[: 1 if style.detail or rng.random() < 0.6 else 0]])


def dress(body: str, topic: str, style: Style, rng: Random, refusing: bool = False) -> str:
    """The body with its warm words and its question, as the style has it."""
    where = rng.random()
    opening = style.warm and where < 0.8
    closing = style.warm and (where > 0.6) and not refusing
    opener = rng.choice(
        WARM_REFUSE if refusing else WARM_FEEL if topic == "feelings" else WARM_OPEN
    )
    listed = "\n" in body
    out = f"{opener}{chr(10) if body.startswith('- ') else ' '}{body}" if opening else body
    if style.warm and refusing and not opening:
        out = f"{out} {opener}" if not listed else f"{out}\n{opener}"
    ends = []
    if closing:
        ends.append(rng.choice(WARM_CLOSE))
    if style.follow:
        own = FOLLOW.get(topic, ())
        ends.append(rng.choice(own if own and rng.random() < 0.65 else FOLLOW_ANY))
    if not ends:
        return out
    return f"{out}{chr(10) if listed else ' '}{' '.join(ends)}"


def reply(item: Item, style: Style, rng: Random) -> str:
    """A whole reply to the item in that style."""
    if item.form == "harmful":
        return dress(_harmful(item, style, rng), item.topic, style, rng, style.refuse)
    body = _steps(item, style, rng) if item.form == "steps" else _plain(item, style, rng)
    return dress(body, item.topic, style, rng)
