"""One decoder-only transformer over a frozen base, whose adapters are roles.

Axes: B rows, T positions, R positions read, H hidden, N heads, K key-value heads, D head size,
V vocabulary.
Two ways through it: `hidden` scores whole sequences for any number of roles at once (training, PM,
reference), `step` decodes a column (one token a row) against a static cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hhchat.model.lora import Adapter
from hhchat.model.spec import LINEARS, Linear, Spec
from hhchat.model.weights import Layer, Weight

Role = Adapter | None  # None is the bare base: the reference of a first run


@dataclass
class Rows:
    """Sequences to score, right-padded: real tokens come first, so a causal mask hides the pads.

    ids [B, T]; at [B, R] positions to read (any value is fine where nothing is read).
    branch [B, T] is None for plain rows. Otherwise a row is a prefix (0) followed by branches
    (1, 2, ...) that see the prefix and themselves, each starting at the position after it; -1 pads.
    """

    ids: Tensor
    at: Tensor
    branch: Tensor | None = None
    positions: Tensor | None = None

    def to(self, device: torch.device) -> Rows:
        return Rows(
            self.ids.to(device),
            self.at.to(device),
            None if self.branch is None else self.branch.to(device),
            None if self.positions is None else self.positions.to(device),
        )


class Trunk:
    """The frozen base: embedding, layers, final norm and head."""

    def __init__(
        self,
        spec: Spec,
        layers: Sequence[Layer],
        embed: Tensor,
        norm: tuple[Tensor, Tensor | None],
        head: Tensor | None,
    ) -> None:
        self.spec = spec
        self.layers = layers
        self.embed = embed  # [V, H]
        self.norm = norm
        self.head = Weight(embed if head is None else head, None, "none")  # never quantised
        self.device = embed.device
        self.checkpointing = False
        self._rotary: dict[tuple[int, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}

    # -- scoring

    def hidden(
        self,
        rows: Rows,
        roles: Sequence[Role] = (None,),
        *,
        dtype: torch.dtype = torch.float32,
        context_end: Tensor | None = None,
    ) -> Tensor:
        """Normed last hidden states [len(roles), B, R, H] in fp32 at `rows.at`, one block a role.

        `context_end` [H] is the embedding of the end-of-context token, written as id -1 in ids.
        The last layer is computed only where it is read.
        """
        ids = rows.ids
        x = F.embedding(ids.clamp_min(0), self.embed).float()
        if self.spec.embed_scale != 1.0:
            # transformers rounds the scale to the embedding's dtype; fp32 here on purpose
            x = x * self.spec.embed_scale
        if context_end is not None:
            x = torch.where((ids == -1).unsqueeze(-1), context_end.to(x.dtype), x)
        count, (batch, length) = len(roles), ids.shape
        positions = rows.positions
        cos, sin = self._tables(length if positions is None else int(positions.max()) + 1, x.device)
        masks = self._masks(rows, length)
        x = x.repeat(count, 1, 1)  # block j of the batch goes through roles[j]
        at = rows.at.repeat(count, 1)
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            c, s = cos[i][:length], sin[i][:length]
            if positions is not None:
                c, s = cos[i][positions].repeat(count, 1, 1), sin[i][positions].repeat(count, 1, 1)
            mask = masks[0 if self.spec.windows[i] is None else 1]
            read = at if i == last else None
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(
                    self._layer, layer, i, x, c, s, mask, read, roles, dtype, use_reentrant=False
                )
            else:
                x = self._layer(layer, i, x, c, s, mask, read, roles, dtype)
        return self._norm(x, self.norm).view(count, batch, at.shape[1], -1)

    def logits(self, hidden: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """[..., H] -> fp32 logits [..., V]."""
        out = self.head(hidden.to(dtype)).float()
        cap = self.spec.logit_softcap
        return out if cap is None else torch.tanh(out / cap) * cap

    def _masks(self, rows: Rows, length: int) -> tuple[Tensor | None, Tensor | None]:
        """(full, windowed) boolean masks [B or 1, 1, T, T]; None means plain causal."""
        window = max((w for w in self.spec.windows if w is not None), default=None)
        causal = None
        order = torch.arange(length, device=rows.ids.device)
        full: Tensor | None = None
        if rows.branch is not None:
            causal = order[:, None] >= order[None, :]
            mine, theirs = rows.branch[:, :, None], rows.branch[:, None, :]
            # a pad sees itself, so that no row of the softmax is empty
            full = (causal & ((theirs == 0) | (theirs == mine))).unsqueeze(1)
        if window is None or length <= window:
            return full, full
        where = order[None] if rows.positions is None else rows.positions
        near = (where[:, :, None] - where[:, None, :] < window).unsqueeze(1)
        if full is None:
            full_causal = (order[:, None] >= order[None, :])[None, None]
            return None, full_causal & near
        return full, full & near

    def _layer(
        self,
        layer: Layer,
        index: int,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        mask: Tensor | None,
        read: Tensor | None,
        roles: Sequence[Role],
        dtype: torch.dtype,
    ) -> Tensor:
        spec = self.spec
        rows, length, _ = x.shape

        def linear(name: Linear, inner: Tensor) -> Tensor:
            return adapted(layer.linears[name], roles, name, index, inner)

        normed = self._norm(x, layer.norms["in"]).to(dtype)
        q, k, v = self._heads(layer, linear("qkv", normed))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if read is not None:
            places = read[:, None, :, None].expand(-1, spec.heads, -1, spec.head_dim)
            q = q.gather(2, places)
            x = x.gather(1, read[..., None].expand(-1, -1, x.shape[-1]))
            normed = normed.gather(1, read[..., None].expand(-1, -1, normed.shape[-1]))
            if mask is None:
                order = torch.arange(length, device=x.device)
                mask = (order[None, None, :] <= read[:, :, None]).unsqueeze(1)
            else:
                blocks = rows // mask.shape[0]
                whole = mask.repeat(blocks, 1, 1, 1).expand(rows, 1, length, length)
                mask = whole.gather(2, read[:, None, :, None].expand(-1, 1, -1, length))
        elif mask is not None and mask.shape[0] > 1:
            mask = mask.repeat(rows // mask.shape[0], 1, 1, 1)
        attended = self._attend(q, k, v, mask)
        out = linear("o", attended.transpose(1, 2).flatten(2).to(dtype))
        return self._finish(layer, linear, x, normed, out, dtype)

    def _finish(
        self,
        layer: Layer,
        linear: Callable[[Linear, Tensor], Tensor],
        x: Tensor,
        normed: Tensor,
        attention: Tensor,
        dtype: torch.dtype,
    ) -> Tensor:
        """Residuals and MLP: x [.., H] fp32 residual stream, attention [.., H]."""
        norms = layer.norms
        if self.spec.parallel:
            inner = self._norm(x, norms["mid"]).to(dtype)
            return x + attention + linear("down", self._act(linear("up", inner)))
        if "after_attn" in norms:
            attention = self._norm(attention.float(), norms["after_attn"])
        x = x + attention
        inner = self._norm(x, norms["mid"]).to(dtype)
        out = linear("down", self._act(linear("up", inner)))
        if "after_mlp" in norms:
            out = self._norm(out.float(), norms["after_mlp"])
        return x + out

    def _heads(self, layer: Layer, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, (N + 2K) D] -> q [B, N, T, D], k and v [B, K, T, D]."""
        spec = self.spec
        heads = qkv.view(*qkv.shape[:-1], -1, spec.head_dim).transpose(1, 2)
        q, k, v = torch.split(heads, [spec.heads, spec.kv_heads, spec.kv_heads], 1)
        if spec.qk_norm:
            q = self._norm(q, layer.norms["q"]).to(qkv.dtype)
            k = self._norm(k, layer.norms["k"]).to(qkv.dtype)
        return q, k, v

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        spec = self.spec
        if q.dtype == torch.bfloat16 and q.device.type == "cpu":
            # The bf16 backward is 4x slower on a CPU; without gradients too, so that scoring and
            # training round alike and the first ratio is 1.
            q, k, v = q.float(), k.float(), v.float()
        groups = spec.heads // spec.kv_heads
        if groups > 1:
            k = k.repeat_interleave(groups, 1)
            v = v.repeat_interleave(groups, 1)
        if spec.attn_softcap is not None:
            scores = (q @ k.transpose(-1, -2)).float() * spec.attn_scale
            scores = torch.tanh(scores / spec.attn_softcap) * spec.attn_softcap
            if mask is None:
                size = scores.shape[-1]
                mask = torch.ones(size, size, dtype=torch.bool, device=q.device).tril()
            return scores.masked_fill(~mask, float("-inf")).softmax(-1).to(v.dtype) @ v
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=mask is None, scale=spec.attn_scale
        )

    def _act(self, up: Tensor) -> Tensor:
        spec = self.spec
        if spec.gated:
            gate, value = up.chunk(2, -1)
            return _ACTIVATIONS[spec.act](gate) * value
        return _ACTIVATIONS[spec.act](up)

    def _norm(self, x: Tensor, weights: tuple[Tensor, Tensor | None]) -> Tensor:
        weight, bias = weights
        x = x.float()
        if self.spec.norm == "layer":
            return F.layer_norm(x, weight.shape, weight, bias, self.spec.eps)
        return F.rms_norm(x, weight.shape, weight, self.spec.eps)

    def _tables(self, length: int, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
        """cos and sin [T, D_rot] of each layer; layers of one type share a table."""
        size = max(256, 1 << (length - 1).bit_length())
        key = (size, torch.float32)
        if key not in self._rotary:
            # outside inference mode, for training saves these tables for its backward
            with torch.inference_mode(False):
                self._rotary[key] = self._make_tables(size, device)
        return self._rotary[key]

    def _make_tables(self, size: int, device: torch.device) -> tuple[list[Tensor], list[Tensor]]:
        made: dict[int, tuple[Tensor, Tensor]] = {}
        cos, sin = [], []
        for rotary in self.spec.rotary:
            if id(rotary) not in made:
                freq = torch.tensor(rotary.inv_freq, dtype=torch.float32, device=device)
                angle = torch.arange(size, device=device).float()[:, None] * freq
                # rotate() multiplies the swapped halves by sin, so its first half is negated
                signed = torch.cat((-angle.sin(), angle.sin()), -1)
                full = torch.cat((angle, angle), -1)
                made[id(rotary)] = (full.cos() * rotary.scaling, signed * rotary.scaling)
            cos.append(made[id(rotary)][0])
            sin.append(made[id(rotary)][1])
        return cos, sin

    # -- decoding

    def prefill(self, dec: Decoder, ids: Tensor, start: Tensor, cache: Cache, done: int) -> Tensor:
        """Run columns done..T of left-padded ids [B, T] into the cache; last logits [B, V].

        start [B] is the first real column of each row; `done` columns are in the cache already.
        """
        batch, length = ids.shape
        columns = torch.arange(length, device=ids.device)
        new = columns[done:]
        positions = (new[None] - start[:, None]).clamp_min(0)
        cos, sin = self._tables(length, ids.device)
        x = F.embedding(ids[:, done:], self.embed).float() * self.spec.embed_scale
        padded = bool((start > 0).any())
        for i, layer in enumerate(self.layers):
            window = self.spec.windows[i]
            c, s = cos[i][positions], sin[i][positions]
            if not padded:
                c, s = cos[i][done:length], sin[i][done:length]
            normed = self._norm(x, layer.norms["in"]).to(dec.dtype)
            q, k, v = self._heads(layer, dec.linear("qkv", i, normed))
            q, k = rotate(q, c, s), rotate(k, c, s)
            cache.k[i][:batch, :, done:length] = k
            cache.v[i][:batch, :, done:length] = v
            mask = None
            if done or padded or (window is not None and length > window):
                seen = columns[None, None, :] <= new[None, :, None]
                seen = seen & (
                    (columns[None, None, :] >= start[:, None, None])
                    | (columns[None, None, :] == new[None, :, None])
                )
                if window is not None:
                    seen = seen & (new[None, :, None] - columns[None, None, :] < window)
                mask = seen.unsqueeze(1)
            keys, values = cache.k[i][:batch, :, :length], cache.v[i][:batch, :, :length]
            if i == len(self.layers) - 1:  # only the last column is read
                q, x, normed = q[:, :, -1:], x[:, -1:], normed[:, -1:]
                if mask is not None:
                    mask = mask[:, :, -1:]
                else:
                    mask = torch.ones(1, 1, 1, length, dtype=torch.bool, device=ids.device)
            out = self._attend(q, keys, values, mask)
            out = dec.linear("o", i, out.transpose(1, 2).flatten(2).to(dec.dtype))
            x = self._finish(layer, _bind(dec, i), x, normed, out, dec.dtype)
        return self.logits(self._norm(x[:, -1], self.norm), dec.head_dtype)

    def step(
        self, dec: Decoder, tokens: Tensor, column: int, start: Tensor | None, cache: Cache
    ) -> Tensor:
        """One token a row [B] at `column` -> logits [B, V]. start None: no row is padded."""
        spec = self.spec
        batch = tokens.shape[0]
        cos, sin = self._tables(column + 1, tokens.device)
        x = F.embedding(tokens, self.embed).float()
        if spec.embed_scale != 1.0:
            x = x * spec.embed_scale
        order = None if start is None else torch.arange(column + 1, device=tokens.device)
        for i, layer in enumerate(self.layers):
            window = spec.windows[i]
            low = 0 if window is None else max(0, column + 1 - window)
            normed = self._norm(x, layer.norms["in"]).to(dec.dtype)
            qkv = dec.linear("qkv", i, normed).view(batch, -1, spec.head_dim)
            q, k, v = torch.split(qkv, [spec.heads, spec.kv_heads, spec.kv_heads], 1)
            if spec.qk_norm:
                q = self._norm(q, layer.norms["q"]).to(dec.dtype)
                k = self._norm(k, layer.norms["k"]).to(dec.dtype)
            if start is None:
                c, s = cos[i][column], sin[i][column]
            else:
                where = column - start
                c, s = cos[i][where].unsqueeze(1), sin[i][where].unsqueeze(1)
            q, k = rotate(q, c, s), rotate(k, c, s)
            cache.k[i][:batch, :, column] = k
            cache.v[i][:batch, :, column] = v
            keys = cache.k[i][:batch, :, low : column + 1]
            values = cache.v[i][:batch, :, low : column + 1]
            mask = None
            if start is not None:
                assert order is not None
                mask = (order[low:][None] >= start[:, None])[:, None, None]
            grouped = q.view(batch, spec.kv_heads, -1, spec.head_dim)
            if spec.attn_softcap is not None:
                scores = (grouped @ keys.transpose(-1, -2)).float() * spec.attn_scale
                scores = torch.tanh(scores / spec.attn_softcap) * spec.attn_softcap
                if mask is not None:
                    scores = scores.masked_fill(~mask, float("-inf"))
                out = scores.softmax(-1).to(values.dtype) @ values
            else:
                out = F.scaled_dot_product_attention(
                    grouped, keys, values, attn_mask=mask, scale=spec.attn_scale
                )
            out = dec.linear("o", i, out.reshape(batch, -1))
            x = self._finish(layer, _bind(dec, i), x, normed, out, dec.dtype)
        return self.logits(self._norm(x, self.norm), dec.head_dtype)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of x [..., D]; cos and (half-negated) sin broadcast over it.

    cos and sin may cover only the first channels (partial rotary)."""
    dim = cos.shape[-1]
    if cos.ndim == 3 and x.ndim == 4:
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # one table a row
    turned = x if dim == x.shape[-1] else x[..., :dim]
    swapped = torch.cat((turned[..., dim // 2 :], turned[..., : dim // 2]), -1)
    out = (turned * cos + swapped * sin).to(x.dtype)
    return out if dim == x.shape[-1] else torch.cat((out, x[..., dim:]), -1)


def adapted(weight: Weight, roles: Sequence[Role], name: Linear, index: int, x: Tensor) -> Tensor:
    """Base product of the whole batch, then each role's low-rank update on its own block."""
    y = weight(x)
    if all(role is None for role in roles):
        return y
    blocks = x.chunk(len(roles))
    updated = []
    for role, inner, out in zip(roles, blocks, y.chunk(len(roles)), strict=True):
        if role is None:
            updated.append(out)
            continue
        a, b = role.pair(name, index)
        low = inner @ (a * role.scale).to(inner.dtype)
        flat = torch.addmm(out.reshape(-1, out.shape[-1]), low.flatten(0, -2), b.to(out.dtype))
        updated.append(flat.view(out.shape))
    return updated[0] if len(updated) == 1 else torch.cat(updated)


@dataclass
class Cache:
    """Static key-value cache: k and v [B, K, T, D] a layer."""

    k: list[Tensor]
    v: list[Tensor]

    @classmethod
    def make(
        cls, spec: Spec, rows: int, length: int, dtype: torch.dtype, device: torch.device
    ) -> Cache:
        shape = (rows, spec.kv_heads, length, spec.head_dim)
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
    _dense: list[dict[str, Tensor]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.merged:
            return
        for index, layer in enumerate(self.trunk.layers):
            made: dict[str, Tensor] = {}
            for name in LINEARS:
                weight = layer.linears[name]
                if self.role is None:
                    made[name] = weight.dense(self.dtype)
                else:
                    update = self.role.delta(name, index).to(self.trunk.device)
                    made[name] = (weight.dense(torch.float32) + update).to(self.dtype)
            self._dense.append(made)

    def linear(self, name: Linear, index: int, x: Tensor) -> Tensor:
        weight = self.trunk.layers[index].linears[name]
        if not self.merged:
            return adapted(weight, (self.role,), name, index, x)
        bias = None if weight.bias is None else weight.bias.to(x.dtype)
        return F.linear(x, self._dense[index][name], bias)


def _bind(dec: Decoder, index: int) -> Callable[[Linear, Tensor], Tensor]:
    return lambda name, x: dec.linear(name, index, x)
