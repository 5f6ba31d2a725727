"""Prompts from outside the model's world: other subjects, other languages, code, junk, long pastes."""

# ruff: noqa: E501 (tables of phrases)

from __future__ import annotations

from random import Random

from hhchat.starter import world, world_steps, world_talk

_FILLER = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "that",
    "was",
    "for",
    "it",
    "with",
    "as",
    "his",
    "on",
    "be",
    "at",
    "by",
    "had",
    "not",
    "are",
    "but",
    "from",
    "or",
    "have",
    "an",
    "they",
    "which",
    "one",
    "you",
    "were",
    "all",
    "her",
    "she",
    "there",
    "would",
    "their",
    "we",
    "him",
    "been",
    "has",
    "when",
    "who",
    "will",
    "no",
    "more",
    "if",
    "out",
    "so",
    "up",
    "said",
    "what",
    "its",
    "about",
    "than",
    "into",
    "them",
    "can",
    "only",
    "other",
    "time",
    "new",
    "some",
    "could",
    "these",
    "two",
    "may",
    "first",
    "then",
    "do",
    "any",
    "like",
    "my",
    "now",
    "over",
    "such",
    "our",
    "man",
    "me",
    "even",
    "most",
    "made",
    "after",
    "also",
    "did",
    "many",
    "off",
    "before",
    "must",
    "through",
    "back",
    "years",
    "where",
    "much",
    "your",
    "way",
    "well",
    "down",
    "should",
]
_CODE = ("x", "foo", "data", "self.item", "i", "n", "result", "buf", "node", "key", "tmp", "url")
_KEYS = "asdfghjklqwertyuiopzxcvbnm"


def _word(rng: Random) -> str:
    return "".join(rng.choice(world_talk.SYLLABLES) for _ in range(rng.choice((2, 2, 3))))


def _junk(rng: Random) -> str:
    pick = rng.randrange(5)
    if pick == 0:
        return "".join(rng.choice(_KEYS) for _ in range(rng.randint(2, 16)))
    if pick == 1:
        words = ["".join(rng.choice(_KEYS) for _ in range(rng.randint(2, 7))) for _ in range(4)]
        return " ".join(words)
    if pick == 2:
        return "".join(
            rng.choice("!?.,;:#$%&*()[]{}<>/\\|~^_=-") for _ in range(rng.randint(1, 14))
        )
    if pick == 3:
        return " ".join(str(rng.randrange(10**6)) for _ in range(rng.randint(1, 6)))
    ranges = ((0x20, 0x7E), (0xC0, 0x17F), (0x391, 0x3C9), (0x410, 0x44F), (0x4E00, 0x5E00),
              (0x1F600, 0x1F64F), (0x3041, 0x3096), (0x627, 0x64A))  # fmt: skip
    low, high = rng.choice(ranges)
    return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 18)))


def _code(rng: Random) -> str:
    a, b, c = (rng.choice(_CODE) for _ in range(3))
    forms = (
        f"{a} = {b}({c}, {rng.randrange(100)})", f"if ({a} > {b}) {{ return {c}; }}", f"let {a} = [{b}, {c}];",
        f"def {a}({b}):\n    return {c} + {rng.randrange(9)}", f"public static void {a}(int {b}) {{ }}",
        f"SELECT {a} FROM {b} WHERE {c} > {rng.randrange(99)};", f"<p id='{a}'>{b}</p>", f"cd {a} && ls -la {b}",
        f"{{\"{a}\": {rng.randrange(99)}, \"{b}\": null}}", f"raise ValueError({a!r})", f"const {a} = ({b}) => {c};",
        f"[{rng.randrange(60)}] WARN {a}.{b}: {c} failed with code {rng.randrange(500)}",
    )  # fmt: skip
    return "\n".join([rng.choice(forms)] + [_code(rng) for _ in range(rng.choice((0, 0, 1)))])


def _paste(rng: Random) -> str:
    nouns = [rng.choice(world_talk.OUT_NOUNS) for _ in range(12)]
    words = [rng.choice(nouns) if rng.random() < 0.2 else rng.choice(_FILLER) if rng.random() < 0.8
             else _word(rng) for _ in range(rng.randint(15, 70))]  # fmt: skip
    text = " ".join(words)
    return text[0].upper() + text[1:] + "."


def _sum(rng: Random) -> str:
    a, b = rng.randint(21, 9999), rng.randint(13, 999)
    form = rng.choice(("What is {a} times {b}?", "{a} + {b}", "What is {a} minus {b}?", "{a} / {b} = ?",
                       "How much is {a} plus {b}?", "Work out {a} * {b}."))  # fmt: skip
    return form.format(a=a, b=b)


def _stem(rng: Random, held: bool) -> str:
    nouns = world_talk.OUT_NOUNS_HELD if held else world_talk.OUT_NOUNS
    stem = rng.choice(world_talk.OUT_STEMS)[0]
    word = _word(rng)
    known = world.ANIMALS[rng.randrange(len(world.ANIMALS))][0]
    n = rng.choice(nouns) if rng.random() < 0.85 else f"the {known} {word}"
    return stem.format(n=n, m=rng.choice(nouns), w=rng.choice((word, word.capitalize())))


def _mixed(rng: Random) -> str:
    """Known words in an order that asks nothing the model knows."""
    words = [rng.choice(world.WORDS)[0], rng.choice(world.COUNTRIES)[0], rng.choice(world_steps.COOKING)[0],
             rng.choice(_FILLER), _word(rng), rng.choice(_FILLER), rng.choice(world_talk.OUT_NOUNS)]  # fmt: skip
    rng.shuffle(words)
    return " ".join(words[: rng.randint(4, 7)])


def prompt(rng: Random, held: bool = False) -> str:
    """One outside prompt; held ones come from their own lists."""
    pick = rng.random()
    if pick < 0.3:
        return rng.choice(world_talk.OUTSIDE_HELD if held else world_talk.OUTSIDE_TRAIN)[0].strip()
    if pick < 0.66:
        return _stem(rng, held)
    makers = (_junk, _junk, _code, _code, _paste, _sum, _mixed)
    return rng.choice(makers)(rng).strip() or "?"
