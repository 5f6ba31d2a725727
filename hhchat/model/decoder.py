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
        # zeros: a step of fixed shape also multiplies what it masks, and 0 * nan is nan
        return cls(
            [torch.zeros(shape, dtype=dtype, device=device) for _ in range(spec.layers)],
            [torch.zeros(shape, dtype=dtype, device=device) for _ in range(spec.layers)],
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
    fixed: bool = False  # steps of one shape, which CUDA replays as a graph
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
            aligned = q.shape[2] == keys.shape[2]  # else the columns before are in the cache
            out = trunk.attend(q, keys, values, mask, aligned=aligned)
            out = linear("o", out.transpose(1, 2).flatten(2).to(self.dtype))
            x = trunk.finish(layer, linear, x, out, self.dtype)
        return self.logits(trunk.normalise(x[:, -1], trunk.norm))

    def step(
        self, tokens: Tensor, column: int | Tensor, start: Tensor | None, cache: Cache
    ) -> Tensor:
        """One token a row [B] at `column` -> logits [B, V]. start None: no row is padded.

        A column given as a tensor [1] is read on the device: every shape is then the same at each
        column (all of the cache is attended to, masked), as a graph needs it."""
        trunk, spec = self.trunk, self.trunk.spec
        batch = tokens.shape[0]
        both = spec.heads + spec.kv_heads
        seen = _Seen(column, start, cache)
        cos, sin = trunk.tables(seen.length, tokens.device)
        x = F.embedding(tokens, trunk.embed).float()
        if spec.embed_scale != 1.0:
            x = x * spec.embed_scale
        turns: dict[int, tuple[Tensor, Tensor]] = {}
        for i, layer in enumerate(trunk.layers):
            linear = self.layers[i]
            if id(cos[i]) not in turns:
                c, s = cos[i][seen.where], sin[i][seen.where]
                turns[id(cos[i])] = (c, s) if start is None else (c.unsqueeze(1), s.unsqueeze(1))
            normed = trunk.normalise(x, layer.norms["in"], self.dtype)
            heads = linear("qkv", normed).view(batch, -1, spec.head_dim).float()
            if spec.qk_norm:
                heads[:, : spec.heads] = trunk.normalise(heads[:, : spec.heads], layer.norms["q"])
                keys = heads[:, spec.heads : both]
                heads[:, spec.heads : both] = trunk.normalise(keys, layer.norms["k"])
            turn_(heads[:, :both], *turns[id(cos[i])])
            keys = seen.kept(cache.k[i], heads[:, spec.heads : both], spec.windows[i])
            values = seen.kept(cache.v[i], heads[:, both:], spec.windows[i])
            mask = seen.mask(spec.windows[i])
            q = heads[:, : spec.heads].to(keys.dtype)
            grouped = q.reshape(batch, spec.kv_heads, -1, spec.head_dim)
            if spec.attn_softcap is not None:
                scores = (grouped @ keys.transpose(-1, -2)).float() * spec.attn_scale
                scores = torch.tanh(scores / spec.attn_softcap) * spec.attn_softcap
                if mask is not None:
                    scores = scores + mask.float()
                out = scores.softmax(-1).to(values.dtype) @ values
            else:
                out = F.scaled_dot_product_attention(
                    grouped, keys, values, attn_mask=mask, scale=spec.attn_scale
                )
            out = linear("o", out.reshape(batch, -1).to(self.dtype))
            x = trunk.finish(layer, linear, x, out, self.dtype)
        return self.logits(trunk.normalise(x, trunk.norm))


class _Seen:
    """What a step at `column` writes to the cache and reads of it: up to the column, or all of it
    under a mask where the column is known to the device alone."""

    def __init__(self, column: int | Tensor, start: Tensor | None, cache: Cache) -> None:
        self.column = column
        self.length = cache.k[0].shape[2] if isinstance(column, Tensor) else column + 1
        self.where: Tensor | int = column if start is None else column - start
        self._dtype = cache.k[0].dtype
        self._columns = torch.arange(self.length, device=cache.k[0].device)[None]
        self._begun = None if start is None else self._columns >= start[:, None]
        self._masks: dict[int | None, Tensor | None] = {}

    def kept(self, kept: Tensor, new: Tensor, window: int | None) -> Tensor:
        """Write `new` [B, K, D] at the column of kept [B, K, T, D]; what the step attends to."""
        if isinstance(self.column, Tensor):
            kept.index_copy_(2, self.column, new.to(kept.dtype).unsqueeze(2))
            return kept
        kept[: len(new), :, self.column] = new
        return kept[: len(new), :, self._low(window) : self.length]

    def mask(self, window: int | None) -> Tensor | None:
        """[B or 1, 1, 1, T] over what `kept` gave; None where all of it is seen."""
        if window not in self._masks:
            self._masks[window] = self._mask(window)
        return self._masks[window]

    def _mask(self, window: int | None) -> Tensor | None:
        seen = self._begun
        if isinstance(self.column, Tensor):
            there = self._columns <= self.column
            if window is not None:
                there = there & (self._columns > self.column - window)
            seen = there if seen is None else seen & there
        if seen is None:
            return None
        made = additive(seen, self._dtype)[:, None, None]
        return made if isinstance(self.column, Tensor) else made[..., self._low(window) :]

    def _low(self, window: int | None) -> int:
        return 0 if window is None else max(0, self.length - window)


def _laid_out(made: dict[Linear, Packed]) -> Callable[[Linear, Tensor], Tensor]:
    return lambda name, x: made[name](x)


def _apart(dec: Decoder, index: int) -> Callable[[Linear, Tensor], Tensor]:
    linears = dec.trunk.layers[index].linears
    return lambda name, x: adapted(linears[name], (dec.role,), name, index, x)
