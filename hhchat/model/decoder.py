"""Decoding: a trunk seen through one role, a column of tokens at a time against a static cache.

Axes as in trunk.py: B rows, T positions, H hidden, N heads, K key-value heads, D head size,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from hhchat.model.attention import additive
from hhchat.model.kernels import Packed, turn_
from hhchat.model.spec import LINEARS, Linear, Spec
from hhchat.model.trunk import Role, Trunk, adapted


@dataclass
class Cache:
    """Static key-value cache: k and v [B, K, T, D] a layer. A column is written, then read."""

    k: list[Tensor]
    v: list[Tensor]

    @classmethod
    def make(
        cls, spec: Spec, rows: int, length: int, dtype: torch.dtype, device: torch.device
    ) -> Cache:
        shape = (rows, spec.kv_heads, length, spec.head_dim)
        return cls(
            [torch.empty(shape, dtype=dtype, device=device) for _ in range(spec.layers)],
            [torch.empty(shape, dtype=dtype, device=device) for _ in range(spec.layers)],
        )

    def select(self, rows: Tensor) -> Cache:
        """The cache of some rows (repeats allowed), copied."""
        return Cache(
            [t.index_select(0, rows) for t in self.k], [t.index_select(0, rows) for t in self.v]
        )


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
    layers: list[Callable[[Linear, Tensor], Tensor]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._head: Callable[[Tensor], Tensor] = self.trunk.head
        if not self.merged:
            self.layers = [_apart(self, index) for index in range(self.trunk.spec.layers)]
            return
        for index, layer in enumerate(self.trunk.layers):
            made: dict[Linear, Packed] = {}
            for name in LINEARS:
                weight = layer.linears[name]
                if self.role is None:
                    dense = weight.dense(self.dtype)
                else:
                    update = self.role.delta(name, index).to(self.trunk.device)
                    dense = (weight.dense(torch.float32) + update).to(self.dtype)
                made[name] = Packed(dense, weight.bias)
            self.layers.append(_laid_out(made))
        self._head = self.trunk.packed_head(self.head_dtype)

    @property
    def cache_dtype(self) -> torch.dtype:
        """Of keys and values: attention on a CPU is slow in bf16."""
        return torch.float32 if self.trunk.device.type == "cpu" else self.dtype

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., H] -> fp32 logits [..., V]."""
        out = self._head(hidden.to(self.head_dtype)).float()
        cap = self.trunk.spec.logit_softcap
        return out if cap is None else torch.tanh(out / cap) * cap

    def prefill(self, ids: Tensor, start: Tensor, cache: Cache, done: int) -> Tensor:
        """Run columns done..T of left-padded ids [B, T] into the cache; last logits [B, V].

        start [B] is the first real column of each row; `done` columns are in the cache already.
        """
        trunk = self.trunk
        batch, length = ids.shape
        columns = torch.arange(length, device=ids.device)
        new = columns[done:]
        padded = bool((start > 0).any())
        cos, sin = trunk.tables(length, ids.device)
        positions = (new[None] - start[:, None]).clamp_min(0)
        x = F.embedding(ids[:, done:], trunk.embed).float() * trunk.spec.embed_scale
        seen = columns[None, None, :] <= new[None, :, None]
        seen = seen & (
            (columns[None, None, :] >= start[:, None, None])
            | (columns[None, None, :] == new[None, :, None])
        )
        for i, layer in enumerate(trunk.layers):
            window, linear = trunk.spec.windows[i], self.layers[i]
            c, s = cos[i][done:length], sin[i][done:length]
            if padded:
                c, s = cos[i][positions], sin[i][positions]
            normed = trunk.normalise(x, layer.norms["in"], self.dtype)
            q, k, v = trunk.heads_of(layer, linear("qkv", normed), c, s)
            cache.k[i][:batch, :, done:length] = k
            cache.v[i][:batch, :, done:length] = v
            mask = None
            near = window is not None and length > window
            if done or padded or near or i == len(trunk.layers) - 1:
                where = seen
                if window is not None:
                    where = seen & (new[None, :, None] - columns[None, None, :] < window)
                mask = additive(where, q.dtype).unsqueeze(1)
            keys, values = cache.k[i][:batch, :, :length], cache.v[i][:batch, :, :length]
            if i == len(trunk.layers) - 1:  # only the last column is read
                assert mask is not None
                q, x, mask = q[:, :, -1:], x[:, -1:], mask[:, :, -1:]
            out = trunk.attend(q, keys, values, mask)
            out = linear("o", out.transpose(1, 2).flatten(2).to(self.dtype))
            x = trunk.finish(layer, linear, x, out, self.dtype)
        return self.logits(trunk.normalise(x[:, -1], trunk.norm))

    def step(self, tokens: Tensor, column: int, start: Tensor | None, cache: Cache) -> Tensor:
        """One token a row [B] at `column` -> logits [B, V]. start None: no row is padded."""
        trunk, spec = self.trunk, self.trunk.spec
        batch = tokens.shape[0]
        both = spec.heads + spec.kv_heads
        cos, sin = trunk.tables(column + 1, tokens.device)
        x = F.embedding(tokens, trunk.embed).float()
        if spec.embed_scale != 1.0:
            x = x * spec.embed_scale
        mask: Tensor | None = None
        where: Tensor | int = column
        if start is not None:
            where = column - start
            begun = torch.arange(column + 1, device=tokens.device)[None] >= start[:, None]
            mask = additive(begun, cache.k[0].dtype)[:, None, None]
        turns: dict[int, tuple[Tensor, Tensor]] = {}
        for i, layer in enumerate(trunk.layers):
            window, linear = spec.windows[i], self.layers[i]
            low = 0 if window is None else max(0, column + 1 - window)
            if id(cos[i]) not in turns:
                c, s = cos[i][where], sin[i][where]
                turns[id(cos[i])] = (c, s) if start is None else (c.unsqueeze(1), s.unsqueeze(1))
            normed = trunk.normalise(x, layer.norms["in"], self.dtype)
            heads = linear("qkv", normed).view(batch, -1, spec.head_dim).float()
            if spec.qk_norm:
                heads[:, : spec.heads] = trunk.normalise(heads[:, : spec.heads], layer.norms["q"])
                keys = heads[:, spec.heads : both]
                heads[:, spec.heads : both] = trunk.normalise(keys, layer.norms["k"])
            turn_(heads[:, :both], *turns[id(cos[i])])
            cache.k[i][:batch, :, column] = heads[:, spec.heads : both]
            cache.v[i][:batch, :, column] = heads[:, both:]
            keys = cache.k[i][:batch, :, low : column + 1]
            values = cache.v[i][:batch, :, low : column + 1]
            seen = None if mask is None else mask[..., low:]
            q = heads[:, : spec.heads].to(keys.dtype)
            grouped = q.reshape(batch, spec.kv_heads, -1, spec.head_dim)
            if spec.attn_softcap is not None:
                scores = (grouped @ keys.transpose(-1, -2)).float() * spec.attn_scale
                scores = torch.tanh(scores / spec.attn_softcap) * spec.attn_softcap
                if seen is not None:
                    scores = scores + seen.float()
                out = scores.softmax(-1).to(values.dtype) @ values
            else:
                out = F.scaled_dot_product_attention(
                    grouped, keys, values, attn_mask=seen, scale=spec.attn_scale
                )
            out = linear("o", out.reshape(batch, -1).to(self.dtype))
            x = trunk.finish(layer, linear, x, out, self.dtype)
        return self.logits(trunk.normalise(x, trunk.norm))


def _laid_out(made: dict[Linear, Packed]) -> Callable[[Linear, Tensor], Tensor]:
    return lambda name, x: made[name](x)


def _apart(dec: Decoder, index: int) -> Callable[[Linear, Tensor], Tensor]:
    linears = dec.trunk.layers[index].linears
    return lambda name, x: adapted(linears[name], (dec.role,), name, index, x)
