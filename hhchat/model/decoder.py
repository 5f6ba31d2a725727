"""Decoding: a trunk seen through one role, a column of tokens at a time against a static cache.

Axes as in trunk.py: B rows, T positions, H hidden, N heads, K key-value heads, D head size,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from hhchat.model.attention import additive
from hhchat.model.kernels import CHUNK, turn_
from hhchat.model.packed import Packed
from hhchat.model.replay import Script
from hhchat.model.roles import Role, Roles
from hhchat.model.spec import LINEARS, Linear, Spec
from hhchat.model.trunk import Norm, Norms, Trunk


@dataclass
class Cache:
    """Static key-value cache of all layers. A column is written, then read.

    Values are [L, B, K, T, D]; keys are [L, B, K, D, T] where `turned`, as a CPU likes to multiply
    them: a query's product with them is then a sum of rows that lie as they are read."""

    keys: Tensor
    values: Tensor
    turned: bool

    @classmethod
    def make(
        cls, spec: Spec, rows: int, length: int, dtype: torch.dtype, device: torch.device
    ) -> Cache:
        turned = device.type == "cpu"
        shape = (spec.layers, rows, spec.kv_heads, length, spec.head_dim)
        # zeros: a step of fixed shape also multiplies what it masks, and 0 * nan is nan
        values = torch.zeros(shape, dtype=dtype, device=device)
        lying = (*shape[:3], spec.head_dim, length) if turned else shape
        return cls(torch.zeros(lying, dtype=dtype, device=device), values, turned)

    @property
    def length(self) -> int:
        """Columns there is room for."""
        return self.values.shape[3]

    def columns(self, low: int, high: int) -> tuple[Tensor, Tensor]:
        """Keys and values [L, B, K, high - low, D] of these columns: views, to read and write."""
        keys = self.keys.transpose(3, 4) if self.turned else self.keys
        return keys.narrow(3, low, high - low), self.values.narrow(3, low, high - low)

    def select(self, rows: Tensor) -> Cache:
        """The cache of some rows (repeats allowed), copied."""
        return Cache(
            self.keys.index_select(1, rows), self.values.index_select(1, rows), self.turned
        )

    def close_up(self, order: Sequence[int], count: int) -> Cache:
        """The cache of rows `order`, in the memory of this one: row j becomes order[j] >= j, of
        which the first `count` columns are copied where it is another."""
        for mine in self.columns(0, count):
            for j, row in enumerate(order):
                if row != j:
                    mine[:, j].copy_(mine[:, row])
        return self.part(slice(len(order)), 0, self.length)

    def part(self, rows: slice, low: int, high: int) -> Cache:
        """A view of some rows and columns: what is written there is written here."""
        keys = self.keys[:, rows].narrow(4 if self.turned else 3, low, high - low)
        return Cache(keys, self.values[:, rows].narrow(3, low, high - low), self.turned)

    def copy_row(self, there: Cache, row: int, count: int) -> None:
        """Take the first columns of a row of another cache into row 0."""
        for mine, theirs in zip(self.columns(0, count), there.columns(0, count), strict=True):
            mine[:, 0] = theirs[:, row]


PATIENCE = 8  # steps before one is recorded, which takes as long as some dozens
_NORM_BEFORE: dict[Linear, str] = {"qkv": "in", "up": "mid"}


@dataclass(frozen=True)
class _Layer:
    """A layer as it is decoded: norms, and products of fp32 in the decoder's dtype. Merged ones are
    of matrices that are handed in, so that a recorded step goes with any role."""

    norms: Norms
    matrices: Mapping[Linear, Packed]
    apart: Callable[[Linear, Tensor], Tensor] | None = None

    def linear(self, weights: Sequence[Tensor]) -> Callable[[Linear, Tensor], Tensor]:
        """The products, by `weights` in the order of LINEARS."""
        if self.apart is not None:
            return self.apart
        return lambda name, x: self.matrices[name].product(x, weights[LINEARS.index(name)])


@dataclass
class Decoder:
    """The base seen through one role, ready to decode in one dtype.

    Merged: W + scale (A B)^T once, so that a step costs what the bare base costs. Where a dense
    copy does not fit (a large quantised base) the product and the low-rank update stay apart.
    """

    trunk: Trunk
    role: Role
    dtype: torch.dtype = torch.float32
    merged: bool = True
    head_dtype: torch.dtype = torch.float32
    fixed: bool = False  # steps of one shape, which CUDA replays as a graph
    layers: list[_Layer] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        every = range(self.trunk.spec.layers)
        if self.merged:
            self.layers = [self._merged(index) for index in every]
        else:
            roles = Roles((self.role,), self.dtype)
            self.layers = [self._apart(index, roles) for index in every]
        self._norm: Norm = self.trunk.norm
        self._head: Packed | None = None
        if self.merged:
            self._head = self.trunk.packed_head(self.head_dtype)
            if self.trunk.folds:
                self._norm = (None, None)
        made = [p for layer in self.layers for p in layer.matrices.values()]
        made += [] if self._head is None else [self._head]
        self._weights = tuple(p.weight for p in made)

    @property
    def cache_dtype(self) -> torch.dtype:
        """Of keys and values: attention on a CPU is slow in bf16."""
        return torch.float32 if self.trunk.device.type == "cpu" else self.dtype

    # -- a layer as it is decoded

    def _merged(self, index: int) -> _Layer:
        layer = self.trunk.layers[index]
        norms: dict[str, Norm] = {**layer.norms}
        made: dict[Linear, Packed] = {}
        for name in LINEARS:
            weight = layer.linears[name]
            as_is = self.role is None and not self.trunk.folds  # the base's own, not a copy of it
            dense = weight.dense(self.dtype if as_is else torch.float32)
            bias = weight.bias
            if self.role is not None:
                dense = dense + self.role.delta(name, index).to(dense.device)
            before = _NORM_BEFORE.get(name)
            if before is not None and self.trunk.folds:
                dense = dense * layer.norms[before][0]
                norms[before] = (None, None)
            made[name] = Packed(dense, bias, self.dtype)
        return _Layer(norms, made)

    def _apart(self, index: int, roles: Roles) -> _Layer:
        layer = self.trunk.layers[index]

        def linear(name: Linear, x: Tensor) -> Tensor:
            return roles.product(layer.linears[name], name, index, x.to(self.dtype))

        return _Layer(layer.norms, {}, linear)

    # -- two ways through it

    def logits(self, hidden: Tensor, head: Tensor | None = None) -> Tensor:
        """[..., H] -> fp32 logits [..., V]. `head` is its matrix as it is laid out."""
        if self._head is None:
            return self.trunk.logits(hidden, self.head_dtype)
        out = self._head.product(hidden, self._head.weight if head is None else head).float()
        cap = self.trunk.spec.logit_softcap
        return out if cap is None else torch.tanh(out / cap) * cap

    def prefill(self, ids: Tensor, start: Tensor, cache: Cache, done: int) -> Tensor:
        """Run columns done..T of left-padded ids [B, T] into the cache; last logits [B, V].

        start [B] is the first real column of each row; `done` columns are in the cache already.
        """
        trunk, last = self.trunk, len(self.layers) - 1
        length = ids.shape[1]
        columns = torch.arange(length, device=ids.device)
        new = columns[done:]
        padded = bool((start > 0).any())
        turns = trunk.turns(length, ids.device)
        positions = (new[None] - start[:, None]).clamp_min(0)
        x = F.embedding(ids[:, done:], trunk.embed).float() * trunk.spec.embed_scale
        seen = columns[None, None, :] <= new[None, :, None]
        seen = seen & (
            (columns[None, None, :] >= start[:, None, None])
            | (columns[None, None, :] == new[None, :, None])
        )
        written, read = cache.columns(done, length), cache.columns(0, length)
        for i, layer in enumerate(self.layers):
            linear = layer.linear(self._weights[len(LINEARS) * i :])
            window = trunk.spec.windows[i]
            turn = turns[i][positions] if padded else turns[i][done:length]
            qkv = linear("qkv", trunk.normalise(x, layer.norms["in"]))
            there = qkv.view(*qkv.shape[:2], -1, trunk.spec.head_dim).transpose(1, 2)
            heads = there.new_empty(there.shape, dtype=torch.float32).copy_(there)
            q, k, v = self._turned(layer, heads, turn)
            for to, made in zip(written, (k, v), strict=True):
                to[i].copy_(made)
            mask = None
            near = window is not None and length > window
            if done or padded or near or i == last:
                where = seen
                if window is not None:
                    where = seen & (new[None, :, None] - columns[None, None, :] < window)
                mask = additive(where, q.dtype).unsqueeze(1)
            if done:
                k, v = (t[i].contiguous() for t in read)
            if i == last:  # only the last column is read
                assert mask is not None
                q, x, mask = q[:, :, -1:], x[:, -1:], mask[:, :, -1:]
            aligned = q.shape[2] == k.shape[2]  # else the columns before are in the cache
            out = trunk.attend(q, k, v, mask, aligned=aligned)
            x = trunk.finish(layer.norms, linear, x, linear("o", out.transpose(1, 2).flatten(2)))
        return self.logits(trunk.normalise(x[:, -1], self._norm))

    def step(
        self, tokens: Tensor, column: int | Tensor, start: Tensor | None, cache: Cache
    ) -> Tensor:
        """One token a row [B] at `column` -> logits [B, V]. start None: no row is padded.

        A column given as a tensor [1] is read on the device: every shape is then the same at each
        column (all of the cache is attended to, masked), as a graph needs it."""
        given = self._given(tokens, column, start, cache)
        if isinstance(column, Tensor):
            return self._through(*given, self._weights, column)
        if not self.merged or tokens.is_cuda or len(tokens) > CHUNK:
            return self._through(*given, self._weights)
        kind = (self.dtype, self.head_dtype, start is None)  # what a recording fixes
        met = self.trunk.recorded.get(kind, 0)
        if isinstance(met, int):
            met = Script(self._through, (*given, self._weights)) if met == PATIENCE else met + 1
            self.trunk.recorded[kind] = met
        run = self._through if isinstance(met, int) or met.failed else met
        return run(*given, self._weights)

    def _given(
        self, tokens: Tensor, column: int | Tensor, start: Tensor | None, cache: Cache
    ) -> _Given:
        trunk = self.trunk
        device = isinstance(column, Tensor)  # then it is not known here
        length = cache.length if isinstance(column, Tensor) else column + 1
        where = column if start is None else column - start
        turns = [
            t[where][:, None, None] if isinstance(where, Tensor) else t[where].view(1, 1, 1, -1)
            for t in _distinct(trunk.turns(length, tokens.device))
        ]
        columns = torch.arange(length, device=tokens.device)[None]
        begun = None if start is None else columns >= start[:, None]
        reads: list[tuple[Tensor, ...]] = []
        for window in _distinct(trunk.spec.windows):
            low, seen = 0, begun
            if device:
                there = columns <= column
                if window is not None:
                    there = there & (columns > column - window)
                seen = there if seen is None else seen & there
            elif window is not None:
                low = max(0, length - window)
            read: tuple[Tensor, ...] = cache.columns(low, length)
            if seen is not None:
                read = *read, additive(seen, cache.values.dtype)[:, None, None, low:]
            reads.append(read)
        written = cache.columns(0, length) if device else cache.columns(length - 1, length)
        # here, for a recording would keep the embedding for as long as the process lives
        x = F.embedding(tokens, trunk.embed).float()
        if trunk.spec.embed_scale != 1.0:
            x = x * trunk.spec.embed_scale
        return _Given(x, tuple(turns), written, tuple(reads))

    def _through(
        self,
        x: Tensor,
        turns: tuple[Tensor, ...],
        written: tuple[Tensor, Tensor],
        reads: tuple[tuple[Tensor, ...], ...],
        weights: tuple[Tensor, ...],
        column: Tensor | None = None,
    ) -> Tensor:
        """A step of tensors alone, and of shapes that it does not look at, as a recording needs
        it."""
        trunk, spec = self.trunk, self.trunk.spec
        turn_of = dict(zip(map(id, _distinct(spec.rotary)), turns, strict=True))
        read_of = dict(zip(_distinct(spec.windows), reads, strict=True))
        for i, layer in enumerate(self.layers):
            linear = layer.linear(weights[len(LINEARS) * i :])
            qkv = linear("qkv", trunk.normalise(x, layer.norms["in"])).float()
            heads = qkv.view(-1, spec.heads + 2 * spec.kv_heads, 1, spec.head_dim)
            q, k, v = self._turned(layer, heads, turn_of[id(spec.rotary[i])])
            for to, made in zip(written, (k, v), strict=True):
                if column is None:
                    to[i].copy_(made)
                else:
                    to[i].index_copy_(2, column, made)
            keys, values, *mask = read_of[spec.windows[i]]
            out = self._attend(q, keys[i], values[i], *mask)
            out = linear("o", out.reshape(-1, spec.heads * spec.head_dim))
            x = trunk.finish(layer.norms, linear, x, out)
        return self.logits(trunk.normalise(x, self._norm), weights[-1] if self.merged else None)

    def _turned(self, layer: _Layer, heads: Tensor, turn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """heads [B, N + 2K, t, D] in fp32 -> q [B, N, t, D], k and v [B, K, t, D], rotated by
        complex turn [t, D_rot / 2], [B, t, D_rot / 2] or [B, 1, t, D_rot / 2]."""
        spec = self.trunk.spec
        q, k, v = torch.split(heads, [spec.heads, spec.kv_heads, spec.kv_heads], 1)
        if spec.qk_norm:
            q.copy_(self.trunk.normalise(q, layer.norms["q"]))
            k.copy_(self.trunk.normalise(k, layer.norms["k"]))
        turn_(heads.narrow(1, 0, spec.heads + spec.kv_heads), turn)
        dtype = self.cache_dtype
        return q.to(dtype), k.to(dtype), v.to(dtype)

    def _attend(
        self, q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """One query a row: q [B, N, 1, D] over keys and values [B, K, T, D] -> [B, N, D] in any
        shape of as many numbers. mask [B or 1, 1, 1, T] is added to the scores."""
        spec = self.trunk.spec
        cap, group = spec.attn_softcap, spec.heads // spec.kv_heads
        if cap is None and q.is_cuda:
            grouped = q.reshape(-1, spec.kv_heads, group, spec.head_dim)
            return F.scaled_dot_product_attention(
                grouped, keys, values, attn_mask=mask, scale=spec.attn_scale
            )
        # one query a row is little work for a fused kernel: on a CPU two products are quicker
        grouped = q.reshape(-1, group, spec.head_dim)
        keys, values = keys.flatten(0, 1), values.flatten(0, 1)
        scores = torch.bmm(grouped, keys.transpose(1, 2)).float().mul_(spec.attn_scale)
        if cap is not None:
            scores = torch.tanh(scores / cap).mul_(cap)
        if mask is not None:
            torch.unflatten(scores, 0, (-1, spec.kv_heads)).add_(mask)
        return torch.bmm(scores.softmax(-1).to(values.dtype), values)


class _Given(NamedTuple):
    """What a step is given, apart from weights: tensors alone."""

    x: Tensor  # embeddings of the tokens [B, H]
    turns: tuple[Tensor, ...]  # [B or 1, 1, 1, D_rot / 2] of each kind of rotary
    written: tuple[Tensor, Tensor]  # keys and values [L, B, K, 1, D] of the column
    # of each kind of window keys, values [L, B, K, T, D] and, where not all of them are seen, a
    # mask [B or 1, 1, 1, T]
    reads: tuple[tuple[Tensor, ...], ...]


def _distinct(things: Sequence[Any]) -> list[Any]:
    """Each once, in order; tensors and rotaries by which they are."""
    plain = (int, type(None))
    return list({t if isinstance(t, plain) else id(t): t for t in things}.values())
