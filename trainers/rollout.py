"""Between sampling and updating there is one thing: a batch of responses with their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hhchat.model import LocalEngine, Model
from hhchat.model.decode import Row
from hhchat.model.engine import make_decoder
from hhchat.model.lora import Adapter
from hhchat.model.preference import ScalarHead, in_groups
from hhchat.model.roles import Role
from hhchat.model.rows import Rows
from hhchat.parallel import ALONE, World
from hhchat.types import Exchange, Message, Prompt


@dataclass(frozen=True)
class Response:
    """One sampled reply: the ids that conditioned it and the ids that were sampled."""

    messages: tuple[Message, ...]
    prompt: list[int]
    tokens: list[int]  # as sampled, the end token included when it came
    ended: bool
    text: str

    @property
    def length(self) -> int:
        """Tokens that a forward runs for it."""
        return len(self.prompt) + len(self.tokens)

    @property
    def exchange(self) -> Exchange:
        return Exchange(self.messages, self.text)


def roll_out(
    engine: LocalEngine,
    role: Adapter | None,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    max_new: int,
    world: World = ALONE,
) -> list[Response]:
    """One reply a prompt at temperature 1, top-p 1: what is sampled is what is scored (trap 10)."""
    model = engine.model
    decoder = make_decoder(model, role, model.fast, head=_head_dtype(model))
    rows: list[Row] = []
    for prompt, seed in zip(prompts, seeds, strict=True):
        ids, room = engine.fit(prompt.messages, max_new)
        rows.append(Row(ids, seed, room))
    order = sorted(range(len(rows)), key=lambda i: (len(rows[i].prompt), i))

    def decode(some: Sequence[Row]) -> list[tuple[list[int], bool]]:
        for at in range(0, len(some), engine.rows):
            engine.run(decoder, some[at : at + engine.rows])
        return [(r.tokens, r.ended) for r in some]

    made = world.spread([rows[i] for i in order], [len(rows[i].prompt) for i in order], decode)
    for i, (tokens, ended) in zip(order, made, strict=True):
        rows[i].tokens, rows[i].ended = tokens, ended
    return [
        Response(p.messages, r.prompt, r.tokens, r.ended, model.render.decode(r.tokens))
        for p, r in zip(prompts, rows, strict=True)
    ]


def _head_dtype(model: Model) -> torch.dtype:
    """What logits are made in, to sample as to score (trap 10)."""
    return torch.float32 if model.device.type == "cpu" else model.fast


@dataclass
class Tokens:
    """Responses as tensors: rows right-padded, `at` where each response token is predicted."""

    rows: Rows
    tokens_BT: Tensor
    mask_BT: Tensor


def tensors(responses: Sequence[Response]) -> Tokens:
    """Pack responses; T is the longest one's tokens."""
    length = max(len(r.prompt) + len(r.tokens) for r in responses)
    width = max(len(r.tokens) for r in responses)
    ids = torch.zeros(len(responses), length, dtype=torch.long)
    at = torch.zeros(len(responses), width, dtype=torch.long)
    tokens = torch.zeros(len(responses), width, dtype=torch.long)
    mask = torch.zeros(len(responses), width)
    for i, r in enumerate(responses):
        whole = [*r.prompt, *r.tokens]
        n = len(r.tokens)
        ids[i, : len(whole)] = torch.tensor(whole)
        at[i, :n] = torch.arange(len(r.prompt) - 1, len(whole) - 1)  # token t is predicted at t-1
        tokens[i, :n] = torch.tensor(r.tokens)
        tokens[i, n:] = r.tokens[-1]  # pads repeat a token that can be sampled: 0 * -inf is nan
        mask[i, :n] = 1.0
    rows = Rows(
        ids,
        at,
        lengths=[r.length for r in responses],
        reads=[len(r.tokens) for r in responses],
    )
    return Tokens(rows, tokens, mask)


def logprobs_of(model: Model, hidden: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
    """Log-probabilities [B, T] of tokens from hidden [B, T, H], over what sampling may choose.

    Logits are made where the mask [B, T] is 1 only; 0 elsewhere."""
    real = mask > 0
    blocked = model.render.blocked
    outside = torch.tensor(blocked, device=hidden.device) if blocked else None
    head = _head_dtype(model)
    found = model.trunk.logprobs(hidden[real], tokens[real], outside, head, model.fast)
    return torch.zeros_like(mask).masked_scatter(real, found)


@dataclass
class Scored:
    """What each role says of a batch of responses, padded to [B, T]."""

    tokens: Tokens
    logprobs_BT: Tensor  # of the policy that sampled
    reference_BT: Tensor
    values_BT: Tensor | None


def score_roles(
    model: Model,
    responses: Sequence[Response],
    policy: Role,
    reference: Role,
    value: tuple[Adapter, ScalarHead] | None,
    *,
    budget: int = 4096,
    world: World = ALONE,
) -> Scored:
    """Policy, reference and value in one pass: each a block of the same forward over one base."""
    packed = tensors(responses)
    shape = packed.tokens_BT.shape
    logprobs, reference_out = torch.zeros(shape), torch.zeros(shape)
    values = torch.zeros(shape)
    # policy and value side by side, as in the update: their low-rank products are one
    roles: list[Role] = [reference, policy] + ([] if value is None else [value[0]])

    @torch.no_grad()
    def score(like: list[int]) -> None:
        group = [mine[i] for i in like]
        part = tensors([responses[i] for i in group])
        width = part.tokens_BT.shape[1]
        rows = part.rows.to(model.device)
        tokens, real = part.tokens_BT.to(model.device), part.mask_BT.to(model.device)
        hidden = model.trunk.hidden(rows, roles, dtype=model.fast)
        logprobs[group, :width] = logprobs_of(model, hidden[1], tokens, real).cpu()
        reference_out[group, :width] = logprobs_of(model, hidden[0], tokens, real).cpu()
        if value is not None:
            values[group, :width] = value[1](hidden[2]).cpu()

    mine = world.share([r.length for r in responses])
    in_groups(model, [responses[i].length for i in mine], budget, score)
    world.sum_([logprobs, reference_out, values])  # of each row all but one process has zeros
    mask = packed.mask_BT
    return Scored(
        packed, logprobs * mask, reference_out * mask, None if value is None else values * mask
    )
