"""The preference model: a LoRA role with a scalar head on the end-of-context token.

The whole conversation goes in, the last reply is judged, and one scalar is read on a token that is
appended after the reply's end token (Bai et al. 2022, A.2). That token has an embedding of the PM's
own, so it exists for every base model and can never be typed, sampled or confused with a pad.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hhchat.model.base import Model
from hhchat.model.lanes import lanes, side_by_side
from hhchat.model.locate import same_base
from hhchat.model.lora import Adapter, load_adapter, save_adapter
from hhchat.model.rows import Rows, by_length
from hhchat.types import Exchange, Generation, Message, ModelError, drop_oldest_turn

T = TypeVar("T")

CONTEXT_END = -1  # the id that stands for the PM's own token


class ScalarHead(nn.Module):
    """fp32 weight [H] and bias []: hidden [..., H] -> scores [...]. Never quantised."""

    def __init__(self, hidden: int, *, seed: int = 0, scale: float | None = None) -> None:
        super().__init__()
        std = 1.0 / hidden if scale is None else scale
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(hidden, generator=generator) * std)
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, hidden: Tensor) -> Tensor:
        return (hidden.float() * self.weight).sum(-1) + self.bias


class PreferenceRole(nn.Module):
    """What a PM trains: its adapter, its end-of-context embedding [H] and its head."""

    def __init__(
        self, model: Model, rank: int, *, alpha: float | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.adapter = Adapter(model.spec, rank, alpha, seed=seed)
        end = model.trunk.embed[model.render.end_id].detach().float().cpu()
        self.context_end = nn.Parameter(end.clone())
        self.head = ScalarHead(model.spec.hidden, seed=seed + 1)


@dataclass(frozen=True)
class Judged:
    """One row to score: ids of the conversation, then of each reply to it (end token included)."""

    prompt: list[int]
    replies: list[list[int]]


def judged(model: Model, messages: Sequence[Message], replies: Sequence[list[int]]) -> Judged:
    """Ids for the PM. Oldest whole turns go when it is too long; the reply never does (trap 2)."""
    room = model.spec.max_positions - max(len(r) for r in replies) - 1
    kept = list(messages)
    prompt = model.render.prompt(kept)
    while len(prompt) > room:
        fewer = drop_oldest_turn(kept)
        if not fewer:  # the one question left is longer than the model: its beginning goes
            prompt = prompt[-max(room, 1) :]
            break
        kept = fewer
        prompt = model.render.prompt(kept)
    longest = model.spec.max_positions - 2  # one token of the prompt and the end of context
    return Judged(prompt, [r if len(r) <= longest else [*r[: longest - 1], r[-1]] for r in replies])


def reply_ids(model: Model, reply: Generation | str) -> list[int]:
    """Ids of a reply with its end token: a cut reply is scored on a copy that ends (trap 7).

    The sampled ids are used where this base sampled them, else the text is encoded."""
    ids = [] if isinstance(reply, str) or reply.base != model.identity else list(reply.token_ids)
    if not ids or model.render.stopped(ids):  # a plain format's turn mark is not of the reply
        ids = model.render.reply(reply if isinstance(reply, str) else reply.text)
    while ids and ids[-1] in model.render.end_ids:
        ids.pop()
    return [*ids, model.render.end_id]


def pack(rows: Sequence[Judged]) -> Rows:
    """Rows for the PM: each conversation once, its replies as branches, read at their last token.

    Chosen and rejected share the conversation's keys and values instead of running it twice."""
    layouts = [_layout(row) for row in rows]
    length = max(len(ids) for ids, _, _, _ in layouts)
    width = max(len(at) for _, _, _, at in layouts)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    branch = torch.full((len(rows), length), -1, dtype=torch.long)
    positions = torch.zeros(len(rows), length, dtype=torch.long)
    at = torch.zeros(len(rows), width, dtype=torch.long)
    for i, (row_ids, row_branch, row_positions, row_at) in enumerate(layouts):
        ids[i, : len(row_ids)] = torch.tensor(row_ids)
        branch[i, : len(row_ids)] = torch.tensor(row_branch)
        positions[i, : len(row_ids)] = torch.tensor(row_positions)
        at[i, : len(row_at)] = torch.tensor(row_at)
    lengths, reads = [len(x[0]) for x in layouts], [len(x[3]) for x in layouts]
    if width == 1:  # one reply each: plain causal rows
        return Rows(ids, at, lengths=lengths, reads=reads)
    return Rows(ids, at, branch, positions, lengths, reads)


def _layout(row: Judged) -> tuple[list[int], list[int], list[int], list[int]]:
    ids, branch = list(row.prompt), [0] * len(row.prompt)
    positions, at = list(range(len(row.prompt))), []
    for number, reply in enumerate(row.replies, 1):
        ids += [*reply, CONTEXT_END]
        branch += [number] * (len(reply) + 1)
        positions += range(len(row.prompt), len(row.prompt) + len(reply) + 1)
        at.append(len(ids) - 1)
    return ids, branch, positions, at


def in_groups(
    model: Model, sizes: Sequence[int], tokens: int, work: Callable[[list[int]], T]
) -> list[tuple[list[int], T]]:
    """Rows of these sizes in the groups of passes without gradients, with what `work(group)` gives,
    where there is room for so many tokens."""
    count = lanes(model.device, sizes, tokens)
    groups = by_length(sizes, min(tokens // count, model.chunk), count)
    found = side_by_side([partial(work, group) for group in groups], count)
    return list(zip(groups, found, strict=True))


def size_of(row: Judged) -> int:
    """Tokens that a row runs."""
    return len(row.prompt) + sum(len(r) + 1 for r in row.replies)


class PreferenceModel:
    """A trained PM over the shared base: `score` reads text, `score_ids` reads ids.

    Scores are anchored: the mean over the anchor set is removed, so that PMs can be compared (C17).
    """

    def __init__(
        self,
        model: Model,
        role: PreferenceRole,
        *,
        anchor: tuple[float, float] = (0.0, 1.0),
        info: dict[str, Any] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model = model
        self.role = role.to(model.device)
        self.anchor = anchor  # mean and sd of raw scores on reference samples
        self.info = info or {}
        self.dtype = dtype or model.fast

    def raw(self, rows: Sequence[Judged], *, tokens: int = 4096) -> list[list[float]]:
        """Raw scores of each row's replies, as the head gives them."""
        return [line for (line,) in raw_scores([self], rows, tokens=tokens)]

    def features(self, rows: Sequence[Judged], *, tokens: int = 4096) -> list[Tensor]:
        """What the head reads: [R, H] on the CPU, for each row's replies."""
        return _of_each(self.model, rows, tokens, lambda packed: self.hidden(packed).float().cpu())

    def hidden(self, rows: Rows) -> Tensor:
        """Hidden states [B, R, H] at the end-of-context tokens; differentiable."""
        return _hidden([self], rows)[0]

    def forward(self, rows: Rows) -> Tensor:
        """Raw scores [B, R] at the end-of-context tokens; differentiable."""
        scores: Tensor = self.role.head(self.hidden(rows))
        return scores

    def score(self, exchanges: Sequence[Exchange]) -> list[float]:
        """Anchored scores; exchanges that share a conversation are packed together."""
        grouped: dict[tuple[Message, ...], list[int]] = {}
        for i, exchange in enumerate(exchanges):
            grouped.setdefault(exchange.messages, []).append(i)
        rows, owners = [], []
        for messages, indices in grouped.items():
            for at in range(0, len(indices), 8):
                some = indices[at : at + 8]
                ids = [reply_ids(self.model, exchanges[i].reply) for i in some]
                rows.append(judged(self.model, messages, ids))
                owners.append(some)
        scores = [0.0] * len(exchanges)
        for some, line in zip(owners, self.raw(rows), strict=True):
            for i, value in zip(some, line, strict=True):
                scores[i] = value - self.anchor[0]
        return scores

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Adapter in peft's layout, head and embedding in head.safetensors, numbers in pm.json.

        `dtype` is that of the adapter's file."""
        from safetensors.torch import save_file

        save_adapter(self.role.adapter, folder, self.model.name, dtype)
        tensors = {
            "context_end": self.role.context_end.detach().cpu().contiguous(),
            "head.weight": self.role.head.weight.detach().cpu().contiguous(),
            "head.bias": self.role.head.bias.detach().cpu().reshape(1),
        }
        save_file(tensors, str(folder / "head.safetensors"))
        content = {
            **self.info,  # of a loaded one they name its base and anchor too
            "base": self.model.identity,
            "anchor_mean": self.anchor[0],
            "anchor_sd": self.anchor[1],
        }
        (folder / "pm.json").write_text(json.dumps(content, indent=1))

    @classmethod
    def load(cls, model: Model, folder: Path) -> PreferenceModel:
        """Read a saved PM. Raises ModelError when it is half written or of another base."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            content = json.loads((folder / "pm.json").read_text())
            if not same_base(str(content["base"]), model.identity):
                raise ModelError(
                    f"preference model {folder} is of another base: {content['base']}, and this is"
                    f" {model.identity}"
                )
            tensors = load_file(str(folder / "head.safetensors"))
            anchor = (float(content["anchor_mean"]), float(content["anchor_sd"]))
            adapter = load_adapter(model.spec, folder)
            role = PreferenceRole(model, adapter.rank, alpha=adapter.alpha)
            role.adapter = adapter
            with torch.no_grad():
                role.context_end.copy_(tensors["context_end"])
                role.head.weight.copy_(tensors["head.weight"])
                role.head.bias.copy_(tensors["head.bias"].reshape(()))
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelError(f"preference model {folder} is missing or damaged: {first}") from None
        return cls(model, role, anchor=anchor, info=content)


def raw_scores(
    judges: Sequence[PreferenceModel], rows: Sequence[Judged], *, tokens: int = 4096
) -> list[list[list[float]]]:
    """Raw scores of each row's replies by each judge, all of one model: [row][judge][reply].

    The judges are roles of one pass, whose base product they share."""

    def scores(packed: Rows) -> Tensor:
        read = zip(judges, _hidden(judges, packed), strict=True)
        return torch.stack([judge.role.head(hidden) for judge, hidden in read], -1).float().cpu()

    found = _of_each(judges[0].model, rows, tokens, scores)
    return [lines.t().tolist() for lines in found]


def _hidden(judges: Sequence[PreferenceModel], rows: Rows) -> Tensor:
    """Hidden states [judges, B, R, H] at the end-of-context tokens; differentiable."""
    first, roles = judges[0], [judge.role for judge in judges]
    return first.model.trunk.hidden(
        rows,
        [role.adapter for role in roles],
        dtype=first.dtype,
        context_end=torch.stack([role.context_end for role in roles]),
    )


def _of_each(
    model: Model, rows: Sequence[Judged], tokens: int, read: Callable[[Rows], Tensor]
) -> list[Tensor]:
    """What `read` gives of each row [R, ...], without gradients, from [B, R or more, ...] of rows
    of like sizes."""

    def work(group: list[int]) -> Tensor:
        with torch.inference_mode():
            return read(pack([rows[i] for i in group]).to(model.device))

    out = [torch.empty(0)] * len(rows)
    for group, made in in_groups(model, [size_of(row) for row in rows], tokens, work):
        for i, line in zip(group, made, strict=True):
            out[i] = line[: len(rows[i].replies)]
    return out
