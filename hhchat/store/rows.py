"""Records to rows and back. Pure: no connection here."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

from hhchat.types import (
    Comparison,
    Conversation,
    Generation,
    Message,
    Metric,
    Prompt,
    Run,
    Sampling,
    Snapshot,
    side_of,
    strength_of,
)

Index = Literal[0, 1]


def clean(text: str) -> str:
    """`text` with lone surrogates, which UTF-8 cannot hold, shown as U+FFFD."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    return text


def pack(value: Any) -> str:
    """JSON, compact, the same for equal values."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def pack_messages(messages: Iterable[Message]) -> str:
    return json.dumps(
        [{"role": m.role, "content": clean(m.content)} for m in messages],
        ensure_ascii=False,
        separators=(",", ":"),
    )


def unpack_messages(text: str) -> tuple[Message, ...]:
    return tuple(Message(m["role"], m["content"]) for m in json.loads(text))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def pack_sampling(sampling: Sampling | None) -> str | None:
    return None if sampling is None else pack(asdict(sampling))


def unpack_sampling(text: str | None) -> Sampling | None:
    if text is None:
        return None
    known = {k: v for k, v in json.loads(text).items() if k in Sampling.__dataclass_fields__}
    return Sampling(**known)


def fingerprint(context: str, chosen: str, rejected: str, mode: str) -> str:
    """What makes two imported lines the same line, whatever file format they came in."""
    return digest(pack([context, chosen, rejected, mode]))[:32]


def identical(first: Generation, second: Generation) -> bool:
    """Whether a scorer would read the same reply twice."""
    if first.text == second.text:
        return True
    if first.token_ids and second.token_ids:
        return first.token_ids == second.token_ids
    return first.text.split() == second.text.split()


def empty(first: Generation, second: Generation) -> bool:
    """Whether one of them says nothing."""
    return not (first.text.strip() and second.text.strip())


def judged(comparison: Comparison) -> Comparison:
    """The comparison with `preferred` and `strength` worked out. ValueError when inconsistent.

    This is the one place where redteam-worst is turned round: there the user picks the more
    harmful reply, and the assistant should lean to the other.
    """
    c = comparison
    if c.id:
        raise ValueError(f"comparison {c.id} is recorded already")
    if c.outcome in ("left", "right"):
        shown: Index = c.left if c.outcome == "left" else (1 if c.left == 0 else 0)
        if c.picked is None:
            raise ValueError(f"outcome {c.outcome!r} without a picked reply")
        if c.picked != shown:
            raise ValueError(f"outcome {c.outcome!r} is reply {shown}, picked says {c.picked}")
        preferred: Index | None = c.picked
        if c.mode == "redteam-worst":
            preferred = 1 if c.picked == 0 else 0
    elif c.outcome in ("tie", "both-bad", "skip"):
        if c.picked is not None:
            raise ValueError(f"outcome {c.outcome!r} with a picked reply")
        preferred = None
    else:
        raise ValueError(f"unknown outcome {c.outcome!r}")
    if c.preferred is not None and c.preferred != preferred:
        raise ValueError(f"in mode {c.mode!r} the preferred reply is {preferred}")
    strength = c.strength
    if strength is not None and strength not in (1, 2, 3, 4):
        raise ValueError(f"strength {strength} is not between 1 and 4")
    if c.position is not None:
        if strength not in (None, strength_of(c.position)):
            raise ValueError(f"position {c.position} has strength {strength_of(c.position)}")
        if c.outcome in ("left", "right") and side_of(c.position) != c.outcome:
            raise ValueError(f"position {c.position} is not on the {c.outcome}")
        strength = strength_of(c.position)
    if c.latency is not None and not (math.isfinite(c.latency) and c.latency >= 0):
        raise ValueError(f"latency {c.latency} is not a number of seconds")
    return replace(c, preferred=preferred, strength=strength)


def to_conversation(row: sqlite3.Row, snippet: str = "") -> Conversation:
    return Conversation(
        id=row["id"],
        mode=row["mode"],
        system=row["system"],
        split=row["split"],
        created=row["created"],
        title=row["title"],
        tip=row["tip"],
        sampling=unpack_sampling(row["sampling"]),
        snippet=snippet,
    )


def generation_row(
    g: Generation, id: str, turn: str | None, context: str | None, created: str
) -> dict[str, Any]:
    return {
        "id": id,
        "turn": turn,
        "context": context,
        "text": clean(g.text),
        "token_ids": pack(list(g.token_ids)),
        "finished": int(g.finished),
        "source": g.source,
        "snapshot": g.snapshot,
        "base": g.base,
        "sampling": pack_sampling(g.sampling),
        "seed": None if g.seed is None else str(g.seed),
        "created": created,
    }


GENERATION = (
    "id",
    "text",
    "token_ids",
    "finished",
    "source",
    "snapshot",
    "base",
    "sampling",
    "seed",
    "context",
    "created",
)


def generation_columns(table: str, prefix: str = "") -> str:
    """`g.id AS a_id, ...`: a generation's columns under a prefix, for joins."""
    return ", ".join(f"{table}.{name} AS {prefix}{name}" for name in GENERATION)


def to_generation(row: sqlite3.Row, prefix: str = "") -> Generation:
    seed = row[prefix + "seed"]
    return Generation(
        text=row[prefix + "text"],
        token_ids=tuple(json.loads(row[prefix + "token_ids"])),
        finished=bool(row[prefix + "finished"]),
        source=row[prefix + "source"],
        snapshot=row[prefix + "snapshot"],
        base=row[prefix + "base"],
        sampling=unpack_sampling(row[prefix + "sampling"]),
        seed=None if seed is None else int(seed),
        context=row[prefix + "context"],
        id=row[prefix + "id"],
        created=row[prefix + "created"],
    )


def to_game(row: sqlite3.Row) -> Comparison:
    """A bare comparison: who wrote the replies, and which of them is preferred."""
    first, second = (
        Generation(
            text="",
            source=row[f"{side}_source"],
            snapshot=row[f"{side}_snapshot"],
            base=row[f"{side}_base"],
            sampling=unpack_sampling(row[f"{side}_sampling"]),
        )
        for side in "ab"
    )
    return Comparison(
        messages=(),
        replies=(first, second),
        source=row["source"],
        mode=row["mode"],
        preferred=row["preferred"],
    )


def to_comparison(row: sqlite3.Row) -> Comparison:
    """From a row of comparison joined with context.messages and both generations (a_, b_)."""
    return Comparison(
        messages=unpack_messages(row["messages"]),
        replies=(to_generation(row, "a_"), to_generation(row, "b_")),
        left=row["left"],
        picked=row["picked"],
        preferred=row["preferred"],
        outcome=row["outcome"],
        position=row["position"],
        strength=row["strength"],
        mode=row["mode"],
        question=row["question"],
        turn_index=row["turn_index"],
        latency=row["latency"],
        source=row["source"],
        purpose=row["purpose"],
        comment=row["comment"],
        conversation=row["conversation"],
        split=row["split"],
        id=row["id"],
        created=row["created"],
    )


def to_run(row: sqlite3.Row) -> Run:
    return Run(
        id=row["id"],
        state=row["state"],
        stages=tuple(json.loads(row["stages"])),
        seed=int(row["seed"]),
        base=row["base"],
        created=row["created"],
        finished=row["finished"],
        reason=row["reason"],
        snapshot=row["snapshot"],
        data=json.loads(row["data"]),
    )


def to_metric(row: sqlite3.Row) -> Metric:
    value = row["value"]
    return Metric(row["stage"], row["step"], row["name"], math.nan if value is None else value)


def to_snapshot(row: sqlite3.Row) -> Snapshot:
    return Snapshot(
        id=row["id"],
        path=row["path"],
        run=row["run"],
        parent=row["parent"],
        base=row["base"],
        created=row["created"],
        info=json.loads(row["info"]),
    )


def to_prompt(row: sqlite3.Row) -> Prompt:
    return Prompt(
        messages=unpack_messages(row["messages"]),
        source=row["source"],
        split=row["split"],
        mode=row["mode"],
        id=row["id"],
    )


def insert(table: str, values: Mapping[str, Any] | Sequence[str]) -> str:
    """`INSERT INTO table (a, b) VALUES (:a, :b)` for the keys of `values`."""
    names = list(values)
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(':' + n for n in names)})"
