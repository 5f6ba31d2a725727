"""Items: everything that can be asked, with its right and wrong answers, built from the tables."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from functools import cache

from hhchat.starter import asks, world, world_steps, world_talk


@dataclass(frozen=True)
class Item:
    """One thing to ask about. Clauses start in lower case and have no final stop."""

    topic: str
    family: str
    subject: str
    form: str  # fact | steps | talk | harmful
    asks: tuple[str, ...]
    held: tuple[str, ...]
    core: tuple[str, ...]
    wrong: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    short: tuple[str, ...] = ()
    accept: tuple[str, ...] = ()
    reject: tuple[str, ...] = ()
    why: str = ""
    unseen: bool = False  # the item itself never occurs in training

    @property
    def kind(self) -> str:
        """Whether the request is plain or harmful."""
        return "harmful" if self.form == "harmful" else "plain"


def _an(text: str) -> str:
    return re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", text)


def _fill(forms: tuple[str, ...], **values: str) -> tuple[str, ...]:
    return tuple(_an(form.format(**values)) for form in forms)


def _others(values: list[str], right: str, start: int, n: int = 3) -> tuple[str, ...]:
    """n wrong values, the same ones for the same row."""
    pool = [v for v in dict.fromkeys(values) if v not in right and right not in v]
    return tuple(pool[(start * 7 + 5 * k + 3) % len(pool)] for k in range(n))


def _fact(topic: str, family: str, x: str, y: str, bad: tuple[str, ...], reject: tuple[str, ...],
          core: tuple[str, ...], extras: tuple[str, ...], why: str) -> Item:  # fmt: skip
    train, held = asks.ASKS[family]
    wrong = tuple(w for b in bad for w in _fill(core, x=x, y=b))
    return Item(
        topic, family, x, "fact", _fill(train, x=x), _fill(held, x=x), _fill(core, x=x, y=y),
        wrong, extras, (y,), (y,), tuple(r for r in reject if r != y), why,
    )  # fmt: skip


def _countries() -> list[Item]:
    table = world.COUNTRIES
    capitals, continents, tongues = ([row[k] for row in table] for k in (1, 2, 3))
    out = []
    for i, (x, capital, continent, tongue) in enumerate(table):
        where, speak = f"{x} is in {continent}.", f"People in {x} speak {tongue}."
        seat, main = f"The government of {x} sits there.", f"The capital of {x} is {capital}."
        out += [
            _fact("capitals", "capital", x, capital, _others(capitals, capital, i), tuple(capitals),
                  ("the capital of {x} is {y}", "{y} is the capital of {x}"), (where, speak, seat),
                  f"the government of {x} sits in that city"),
            _fact("capitals", "continent", x, continent, _others(continents, continent, i),
                  tuple(dict.fromkeys(continents)), ("{x} is in {y}", "{x} lies in {y}"),
                  (main, speak), "that is where it lies on the map"),
            _fact("capitals", "language", x, tongue, _others(tongues, tongue, i),
                  tuple(dict.fromkeys(tongues)),
                  ("people in {x} speak {y}", "the main language of {x} is {y}"), (main, where),
                  f"it is what people in {x} learn as children"),
        ]  # fmt: skip
    return out


def _animals() -> list[Item]:
    table = world.ANIMALS
    out = []
    cols = [list(dict.fromkeys(row[k] for row in table)) for k in (1, 2, 3)]
    for i, (x, young, food, home, _) in enumerate(table):
        eats, lives = f"It eats {food}.", f"It lives in {home}."
        calls = _an(f"Its young is called a {young}.")
        bad = [_others(col, right, i) for col, right in zip(cols, (young, food, home), strict=True)]
        out += [
            _fact("animals", "young", x, young, bad[0], tuple(cols[0]),
                  ("a young {x} is called a {y}", "the young of a {x} is a {y}"),
                  (eats, lives), "that is just the name people gave it"),
            _fact("animals", "food", x, food, bad[1], bad[1],
                  ("a {x} eats {y}", "the food of a {x} is {y}"), (calls, lives),
                  "its mouth and stomach are made for it"),
            _fact("animals", "home", x, home, bad[2], bad[2],
                  ("a {x} lives in {y}", "you find a {x} in {y}"), (calls, eats),
                  "it finds food and safety there"),
        ]  # fmt: skip
    return out


def _facts() -> list[Item]:
    out = []
    for question, y, bad1, bad2, detail in world.FACTS:
        core = (f"the answer is {y}", f"it is {y}", f"that is {y}")
        wrong = tuple(f"{lead} {b}" for b in (bad1, bad2) for lead in ("the answer is", "it is"))
        extras = (detail, "Many children learn this at school.")
        out.append(Item("facts", "fact", question, "fact", asks.reword(question),
                        asks.reword_held(question), core, wrong, extras, (y,), (y,), (bad1, bad2),
                        "that is simply how it is"))  # fmt: skip
    forms = ("{y} comes after {x}", "after {x} comes {y}")
    for family, names in world.SEQUENCES.items():
        extras = (f"There are {len(names)} in all.", "They always come in the same order.")
        for i, x in enumerate(names):
            y, others = names[(i + 1) % len(names)], (names[i - 1], names[(i + 3) % len(names)])
            out.append(_fact("facts", family, x, y, others, others, forms, extras,
                             "they follow a fixed order"))  # fmt: skip
    return out


def _words() -> list[Item]:
    out = []
    table = world.WORDS
    for i, (x, y, odd, example) in enumerate(table):
        other = table[(i * 5 + 7) % len(table)][1]
        out.append(_fact("words", "meaning", x, y, (odd, other), (odd, other),
                         ("{x} means {y}", "the word {x} means {y}"),
                         (f"For example: {example}", "It is a common word."),
                         "that is how people use the word"))  # fmt: skip
    pairs = world.OPPOSITES + tuple((b, a) for a, b in world.OPPOSITES)
    firsts = [b for _, b in pairs]
    for i, (x, y) in enumerate(pairs):
        bad = tuple(b for b in _others(firsts, y, i) if b != x)
        out.append(_fact("opposites", "opposite", x, y, bad, bad,
                         ("the opposite of {x} is {y}", "{y} is the opposite of {x}"),
                         ("Both are common words.", f"The opposite of {y} is {x}."),
                         "they stand at two ends of one scale"))  # fmt: skip
    return out


def _arithmetic() -> list[Item]:
    sums: list[tuple[int, str, int, int]] = []
    for a, b in itertools.product(range(1, 11), range(1, 11)):
        sums.append((a, "plus", b, a + b))
        if a >= b:
            sums.append((a, "minus", b, a - b))
        if a < 10 and b < 10:
            sums.append((a, "times", b, a * b))
    out = []
    for i, (a, op, b, y) in enumerate(sums):
        x = f"{a} {op} {b}"
        step = 1 + i % 3
        bad = (str(y + step), str(abs(y - step)) if y != step else str(y + 5), str(y + 10))
        check = {"plus": f"You can count up from {a}.", "minus": f"You can count down from {a}.",
                 "times": f"It is {b} added {a} times."}[op]  # fmt: skip
        item = _fact("arithmetic", "sum", x, str(y), bad, bad,
                     ("{x} is {y}", "{x} makes {y}", "the answer is {y}"),
                     (check, f"{y} is an {'odd' if y % 2 else 'even'} number."),
                     "you can check it with your fingers or some beans")  # fmt: skip
        sign = x.replace("plus", "+").replace("minus", "-").replace("times", "*")
        more, held = _fill(asks.SIGNS, x=sign), _fill(asks.SIGNS_HELD, x=sign)
        values = {**item.__dict__, "asks": item.asks + more, "held": item.held + held}
        out.append(Item(**{**values, "unseen": (a * 7 + b * 5 + len(op)) % 17 == 0}))
    return out


def _comparisons() -> list[Item]:
    out = []
    chosen = [row for i, row in enumerate(world.ANIMALS) if i % 5 in (0, 2)]
    for i, (one, two) in enumerate(itertools.permutations(chosen, 2)):
        a, b, gap = one[0], two[0], int(one[4]) - int(two[4])
        if abs(gap) < 2 or i % 3 == 2:
            continue
        big, small = (a, b) if gap > 0 else (b, a)
        train, held = asks.ASKS["bigger" if i % 2 else "smaller"]
        y, n = (big, small) if i % 2 else (small, big)
        adj = ("bigger", "smaller") if i % 2 else ("smaller", "bigger")
        forms = ("a {p} is {j} than a {q}", "the {p} is {j} than the {q}")
        core = _fill(forms, p=y, j=adj[0], q=n)
        wrong = _fill(forms, p=n, j=adj[0], q=y)
        extras = (_an(f"A {n} is {adj[1]}."), "One sees it when they stand side by side.")
        out.append(Item("comparisons", "compare", f"{a} or {b}", "fact", _fill(train, a=a, b=b),
                        _fill(held, a=a, b=b), core, wrong, extras, (f"the {y}",),
                        (f"{y} is {adj[0]}", f"the {y}."), (f"{n} is {adj[0]}",),
                        "one of them weighs much more than the other", i % 23 == 0))  # fmt: skip
    return out


def _steps() -> list[Item]:
    out = []
    why = "each step makes the next one easier"
    for topic, family, table in (
        ("howto", "how", world_steps.HOWTO),
        ("cooking", "cook", world_steps.COOKING),
    ):
        train, held = asks.ASKS[family]
        for x, *steps in table:
            out.append(Item(topic, family, x, "steps", _fill(train, x=x), _fill(held, x=x),
                            tuple(steps), why=why))  # fmt: skip
    for said, short, *advice in world_steps.FEELINGS:
        out.append(Item("feelings", "feel", short, "steps", asks.say(said), asks.say_held(said),
                        tuple(advice), why="small things can change how you feel"))  # fmt: skip
    train, held = asks.ASKS["idea"]
    for x, *ideas in world_steps.IDEAS:
        out.append(Item("ideas", "idea", x, "steps", _fill(train, x=x), _fill(held, x=x),
                        tuple(ideas), why="many people like it"))  # fmt: skip
    return out


def _python() -> list[Item]:
    train, held = asks.ASKS["python"]
    out = []
    for x, code, gives, bad in world_steps.PYTHON:
        out.append(Item("python", "python", x, "fact", _fill(train, x=x), _fill(held, x=x),
                        (f"you can write `{code}`", f"the line is `{code}`", f"`{code}` does it"),
                        (f"you can write `{bad}`", f"the line is `{bad}`"),
                        (f"It gives {gives}.", "It fits on one line."), (f"`{code}`",),
                        (f"`{code}`",), (f"`{bad}`",), "Python has this built in"))  # fmt: skip
    return out


def _talk() -> list[Item]:
    out = []
    for key, (said, answers, extras) in world_talk.TALK.items():
        topic = "greetings" if key in {"hello", "morning", "night", "bye"} else "smalltalk"
        forms = tuple(said.split("|"))
        cut = max(1, len(forms) // 4)
        seen = forms[:-cut]
        out.append(Item(topic, "talk", key, "talk", seen,
                        forms[-cut:] + tuple(f"{f.rstrip('.!?')}, little model" for f in seen),
                        tuple(answers.split("|")), extras=tuple(extras.split("|")),
                        why="it seemed a good thing to say"))  # fmt: skip
    return out


def _harmful() -> list[Item]:
    train, held = asks.ASKS["harmful"]
    tables = (world_talk.HARMFUL, world_talk.HARMFUL_HELD)
    return [
        Item("refusals", group, act, "harmful", _fill(train, x=act), _fill(held, x=act), (),
             unseen=unseen, why="people could get hurt by it")
        for table, unseen in zip(tables, (False, True), strict=True) for act, group in table
    ]  # fmt: skip


@cache
def items() -> tuple[Item, ...]:
    """Every item, in a fixed order. Summaries and outside prompts are made on the fly."""
    builders = (_talk, _arithmetic, _countries, _facts, _animals, _steps, _words, _comparisons,
                _python, _harmful)  # fmt: skip
    return tuple(item for build in builders for item in build())


@cache
def by_topic() -> dict[str, tuple[Item, ...]]:
    """Items under their topic."""
    out: dict[str, list[Item]] = {}
    for item in items():
        out.setdefault(item.topic, []).append(item)
    return {topic: tuple(found) for topic, found in out.items()}
