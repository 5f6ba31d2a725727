"""A plain check that text reads as the model's English: known words in an order that occurs in the corpus."""

# ruff: noqa: E501 (long literals)

from __future__ import annotations

import itertools
import json
import re
from functools import cache
from pathlib import Path

from hhchat.starter.corpus import corpus

PATH = Path(__file__).parent / "model" / "language.json"
_TOKEN = re.compile(r"`[^`\n]*`|[A-Za-z]+(?:'[A-Za-z]+)*|\d+|\n- |[^\w\s]")


def tokens(text: str) -> list[str]:
    """Words in lower case, numbers as '0', code spans as one token, and punctuation."""
    out = []
    for token in _TOKEN.findall("\n" + text.strip()):
        if token[0] == "`":
            out.append("`" if len(token) > 2 else "``")
        elif token[0].isdigit():
            out.append("0")
        else:
            out.append(token.strip(" ").replace("\n", "").lower() if token[0] != "\n" else "*")
    return out


def collect(seed: int = 11, n: int = 60000) -> dict[str, str]:
    """Each token of the corpus's replies with the tokens that follow it."""
    after: dict[str, set[str]] = {}
    for talk in corpus(seed, n):
        for role, text in talk:
            if role == "assistant":
                row = ["^", *tokens(text), "$"]
                for a, b in itertools.pairwise(row):
                    after.setdefault(a, set()).add(b)
    return {a: " ".join(sorted(after[a])) for a in sorted(after)}


@cache
def table() -> dict[str, frozenset[str]]:
    """The stored table."""
    stored: dict[str, str] = json.loads(PATH.read_text(encoding="utf-8"))
    return {word: frozenset(row.split()) for word, row in stored.items()}


def strangeness(text: str) -> float:
    """The share of neighbouring token pairs that never occur in the corpus; an unknown word counts double."""
    row = ["^", *tokens(text), "$"]
    known = table()
    odd = sum(b not in known.get(a, frozenset()) for a, b in itertools.pairwise(row))
    odd += sum(token not in known for token in row[1:-1])
    return odd / (len(row) - 1)


def is_english(text: str) -> bool:
    """Every word is known and at most one pair in fifteen (or one in all) is new."""
    row = tokens(text)
    known = table()
    if not row or any(token not in known for token in row):
        return False
    pairs = list(zip(["^", *row], [*row, "$"], strict=True))
    odd = sum(b not in known.get(a, frozenset()) for a, b in pairs)
    return odd <= max(1, len(pairs) // 15)


def write(path: Path = PATH) -> None:
    """Collect and store the table."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(collect(), indent=0, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
