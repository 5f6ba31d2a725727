"""What one training run learns from, gathered once and then frozen.

The rows are fixed at the start: the user goes on picking while a run is under way, and a run
that is resumed must see exactly what it saw before. No prompt that shares its first message
with a held-out conversation is ever trained on, and no prompt that was trained on is ever used
to judge.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hhchat.splits import normalised
from hhchat.types import Comparison, HhchatError, Message, Prompt, Split

if TYPE_CHECKING:
    from hhchat.store import Store


@dataclass(frozen=True)
class Dataset:
    """Comparisons and prompts of both splits."""

    comparisons: tuple[Comparison, ...] = ()
    heldout: tuple[Comparison, ...] = ()
    prompts: tuple[Prompt, ...] = ()
    heldout_prompts: tuple[Prompt, ...] = ()

    def record(self) -> dict[str, Any]:
        """What a run keeps to find the same data again: row ids, and the prompts themselves.

        Prompts are kept as text because the pools they came from may change under a run.
        """
        return {
            "comparisons": [c.id for c in self.comparisons],
            "heldout": [c.id for c in self.heldout],
            "prompts": [asdict(p) for p in self.prompts],
            "heldout_prompts": [asdict(p) for p in self.heldout_prompts],
        }


def gather(store: Store, *, starter: bool) -> Dataset:
    """All usable data as it stands now; `starter` adds the bundled model's prompt pools."""
    comparisons = tuple(store.usable(split="train"))
    heldout = tuple(store.usable(split="heldout", evaluation=True))
    trained_on = {opening(c.messages) for c in comparisons}

    judged_by = _unique(
        [
            *_contexts(heldout, "heldout"),
            *store.prompts(split="heldout"),
            *(starter_prompts("heldout") if starter else ()),
        ],
        without=trained_on,
    )
    # All held-out comparisons count here, also those that taught and so never judge: their
    # conversations are held out all the same.
    kept_out = {opening(c.messages) for c in store.usable(split="heldout")}
    kept_out |= {opening(p.messages) for p in judged_by}
    learned_from = _unique(
        [
            *_contexts(comparisons, "train"),
            *store.prompts(split="train"),
            *(starter_prompts("train") if starter else ()),
        ],
        without=kept_out,
    )
    return Dataset(comparisons, heldout, tuple(learned_from), tuple(judged_by))


def recall(store: Store, record: Mapping[str, Any]) -> Dataset:
    """The data of an earlier run, by what it recorded; HhchatError when rows are gone."""
    try:
        prompts, heldout = (
            tuple(_prompt(p) for p in record[name]) for name in ("prompts", "heldout_prompts")
        )
        rows = record["comparisons"], record["heldout"]
    except (KeyError, TypeError, AttributeError):
        raise HhchatError("what this run learns from (its data.json) is damaged") from None
    return Dataset(_rows(store, rows[0]), _rows(store, rows[1]), prompts, heldout)


def opening(messages: Sequence[Message]) -> str:
    """The normalised first user message: what makes two conversations near-copies."""
    return next((normalised(m.content) for m in messages if m.role == "user"), "")


def _contexts(comparisons: Iterable[Comparison], split: Split) -> list[Prompt]:
    return [Prompt(c.messages, "mine", split, c.mode) for c in comparisons]


def starter_prompts(split: Split) -> list[Prompt]:
    """The bundled model's own prompts of one split."""
    from hhchat.starter import prompts

    return [
        Prompt(tuple(_message(*m) for m in p.messages), "starter", split)
        for p in prompts.pool(split)
    ]


def _message(role: str, content: str) -> Message:
    return Message("assistant" if role == "assistant" else "user", content)


def _unique(prompts: Iterable[Prompt], without: set[str]) -> list[Prompt]:
    """Prompts in order, without near-copies and without openings that belong to the other side."""
    seen: set[tuple[tuple[str, str], ...]] = set()
    kept = []
    for prompt in prompts:
        key = tuple((m.role, normalised(m.content)) for m in prompt.messages)
        if not key or prompt.messages[-1].role != "user":
            continue
        if key not in seen and opening(prompt.messages) not in without:
            seen.add(key)
            kept.append(prompt)
    return kept


def _rows(store: Store, ids: Sequence[str]) -> tuple[Comparison, ...]:
    rows, gone = [], 0
    for row_id in ids:
        try:
            rows.append(store.comparison(row_id))
        except HhchatError:
            gone += 1
    if gone:
        raise HhchatError(
            f"{gone} of the comparisons that run started with were deleted since, so it cannot "
            "be continued as it was; start a new one with `hhchat train`"
        )
    return tuple(rows)


def _prompt(record: Mapping[str, Any]) -> Prompt:
    messages = tuple(Message(m["role"], m["content"]) for m in record["messages"])
    return Prompt(messages, record["source"], record["split"], record["mode"], record["id"])
