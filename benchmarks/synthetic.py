"""A database as years of use would leave it: many conversations, very many comparisons.

Written in bulk through the store's own schema: counts and the search index are made by the same
triggers as always, only the syncing to disk of every row is left out.
"""

from __future__ import annotations

import random
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from benchmarks.common import cache

WORDS = (  # noqa: SIM905 (a hundred quotes less)
    "the of and to in that is was for on as with be by at this have from or one had not but what"
    " all were when we there can an your which their said if do will each about how up out them"
    " then she many some so these would other into has more her two like him see time could no"
    " make than first been its who now people my made over did down only way find use may water"
    " long little very after words called just where most know get through back much before go"
    " good new write our used me man too any day same right look think also around another came"
    " come work three word must because does part even place well such here take why things help"
    " put years different away again off went old number great tell men say small every found"
).split()


def database(comparisons: int, conversations: int) -> Path:
    """The synthetic database of that size in the cache; made once, which takes minutes."""
    file = cache() / "synthetic" / f"{comparisons}-{conversations}.db"
    if file.is_file():
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_suffix(".new")
    for old in file.parent.glob(f"{aside.name}*"):
        old.unlink()
    print(f"building a database of {comparisons:,} comparisons, once", file=sys.stderr, flush=True)
    build(aside, comparisons, conversations)
    aside.rename(file)
    return file


def build(path: Path, comparisons: int, conversations: int) -> None:
    from hhchat.store import Store

    with Store(path) as store:
        store.start_conversation("the first message")
    with closing(sqlite3.connect(path, isolation_level=None)) as conn:
        conn.execute("PRAGMA journal_mode = MEMORY")
        conn.execute("PRAGMA synchronous = OFF")
        conn.execute("PRAGMA cache_size = -200000")
        conn.execute("BEGIN")
        for table, row in rows(comparisons, conversations):
            names = ", ".join(row)
            marks = ", ".join(f":{name}" for name in row)
            conn.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", row)
        conn.execute("COMMIT")


def rows(comparisons: int, conversations: int) -> Iterator[tuple[str, dict[str, object]]]:
    """(table, row) of everything, a conversation at a time."""
    from hhchat.splits import split_of
    from hhchat.store.ids import encode
    from hhchat.store.rows import digest, fingerprint, pack_messages
    from hhchat.types import Message

    rng = random.Random(0)
    # ids sort by age: the milliseconds of 2025-01-01, then one apart
    stamp, base = "2025-01-01T00:00:00.000+00:00", 1_735_689_600_000 << 80
    counter = 0

    def fresh() -> str:
        nonlocal counter
        counter += 1
        return encode(base + (counter << 60))

    def text(low: int, high: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))

    each, extra = divmod(comparisons, conversations)
    for number in range(conversations):
        first = f"{text(4, 12)} {number}"
        split, talk, parent = split_of(first), fresh(), None
        turns = each + (number < extra)
        yield (
            "conversation",
            {
                **{"id": talk, "mode": "helpful", "split": split, "created": stamp},
                **{"title": first[:60], "touched": fresh()},
            },
        )
        for index in range(turns):
            asked = first if index == 0 else text(3, 10)
            # the context of a later turn is cut to its question: what the rows hold is enough
            packed = pack_messages([Message("user", f"{asked} {number} {index}")])
            context, turn = digest(packed), fresh()
            replies = [(fresh(), text(8, 30)) for _ in range(2)]
            picked = rng.randint(0, 1)
            yield "context", {"id": context, "messages": packed}
            yield (
                "turn",
                {
                    **{"id": turn, "conversation": talk, "parent": parent, "idx": index},
                    **{"user": asked, "created": stamp},
                },
            )
            for id, said in replies:
                yield (
                    "generation",
                    {
                        **{"id": id, "turn": turn, "context": context, "text": said},
                        **{"token_ids": "[]", "finished": 1, "source": "model"},
                        **{"snapshot": "base", "created": stamp},
                    },
                )
            chosen, rejected = replies[picked][1], replies[1 - picked][1]
            yield (
                "comparison",
                {
                    **{"id": fresh(), "conversation": talk, "turn": turn, "context": context},
                    **{"first": replies[0][0], "second": replies[1][0], "left": 0},
                    **{"picked": picked, "preferred": picked},
                    **{"outcome": "right" if picked else "left", "mode": "helpful"},
                    **{"question": "", "turn_index": index, "source": "model"},
                    **{"purpose": "chat", "split": split, "created": stamp},
                    **{"identical": 0, "empty": 0, "longer": int(len(chosen) > len(rejected))},
                    "fingerprint": fingerprint(context, chosen, rejected, "helpful"),
                },
            )
            parent = turn
