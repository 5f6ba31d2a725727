"""One decoder-only transformer over a frozen base, whose adapters are roles.

Axes: B rows, T positions, R positions read, H hidden, N heads, K key-value heads, D head size,
V vocabulary.
Two ways through it: `hidden` scores whole sequences for any number of roles at once (training, PM,
reference), and the decoder (decoder.py) runs a column of tokens against a static cache.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hhchat.model.attention import additive, attention
from hhchat.model.kernels import (
    Gated,
    chosen_logprobs,
    rms_norm,
    swiglu,
    turn_,
    turned_heads,
)
from hhchat.model.packed import Packed
from hhchat.model.replay import Script
from hhchat.model.roles import Role, Roles
from hhchat.model.rows import Line, Rows, Spread
from hhchat.model.spec import Linear, Rotary, Spec
from hhchat.model.weights import Layer, Weight

Norm = tuple[Tensor | None, Tensor | None]  # weight and bias [H]; None is 1 and 0
Norms = Mapping[str, Norm]


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
        self._packed: dict[torch.dtype, Packed] = {}
        self._turns: dict[int, list[Tensor]] = {}
        # steps of decoders by kind: recorded, or how many have been met
        self.recorded: dict[tuple[object, ...], Script | int] = {}

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

        `context_end` [len(roles), H] has each role's embedding of the end-of-context token, written
        as id -1 in ids.
        The last layer is computed only where it is read. Past a row's `reads` the states are of
        some other place and have no gradient.
        """
        count, batch, device = len(roles), len(rows.ids), rows.ids.device
        groups = rows.alike()
        order = [b for group in groups for b in group]
        parts = [rows.some(group) for group in groups]
        lengths, reads = rows.counts()
        pads = sum(lengths) < rows.ids.numel(), sum(reads) < rows.at.numel()
        line, read_line = (
            Line(n, order, count, p) for n, p in zip((lengths, reads), pads, strict=True)
        )
        pairs = list(zip(groups, parts, strict=True))
        tokens = line.rows([(group, part.ids.shape[1]) for group, part in pairs], device)
        read = read_line.rows([(group, part.at.shape[1]) for group, part in pairs], device)
        where = read.pack([line.places(group, part.at) for group, part in pairs])
        plain = read_line.rows([(range(batch), rows.at.shape[1])], device)
        # block j of the line goes through roles[j]
        ids = tokens.pack([p.ids.repeat(count, 1) for p in parts])
        x = F.embedding(ids.clamp_min(0), self.embed).float()
        if self.spec.embed_scale != 1.0:
            # transformers rounds the scale to the embedding's dtype; fp32 here on purpose
            x = x * self.spec.embed_scale
        if context_end is not None:
            blocks = x.view(count, -1, x.shape[-1])
            ends = (ids == -1).view(count, -1, 1)
            x = torch.where(ends, context_end.to(x.dtype).unsqueeze(1), blocks).flatten(0, 1)
        inner = torch.float32 if device.type == "cpu" else dtype
        sights = [_Sight(self, part, count, inner) for part in parts]
        through, last = Roles(roles, dtype), len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            to = (read, where) if i == last else None
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(
                    self._layer,
                    *(layer, i, x, tokens, to, sights, through, dtype),
                    use_reentrant=False,
                )
            else:
                x = self._layer(layer, i, x, tokens, to, sights, through, dtype)
        return plain.spread(self.normalise(x, self.norm))[0].view(count, batch, -1, x.shape[-1])

    def logits(self, hidden: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """[..., H] -> fp32 logits [..., V]."""
        out = self.head(hidden.to(dtype)).float()
        cap = self.spec.logit_softcap
        return out if cap is None else torch.tanh(out / cap) * cap

    @property
    def folds(self) -> bool:
        """Whether decoders have the weights of norms in the matrices after them: one pass less. A
        GPU has them in the kernel of the norm."""
        return self.device.type == "cpu" and self.spec.norm != "layer"

    def packed_head(self, dtype: torch.dtype) -> Packed:
        """The head laid out for decoding, once for all decoders; see `folds`."""
        if dtype not in self._packed:
            weight, _ = self.norm
            dense = self.head.dense(torch.float32 if self.folds else dtype)
            if self.folds:  # in parts, as a whole copy in fp32 can be gigabytes
                dense = torch.cat([(some * weight).to(dtype) for some in torch.split(dense, 4096)])
            self._packed[dtype] = Packed(dense, None, dtype)
        return self._packed[dtype]

    def logprobs(
        self,
        hidden: Tensor,
        tokens: Tensor,
        blocked: Tensor | None,
        dtype: torch.dtype,
        back: torch.dtype,
    ) -> Tensor:
        """fp32 log-probabilities [M] of tokens [M] from hidden [M, H]; `blocked` have none. The
        head's product is in `dtype`, that of its backward in `back` where logits have no cap."""
        if self.spec.logit_softcap is None:
            return chosen_logprobs(hidden.to(dtype), self.head, tokens, blocked, back)
        logits = self.logits(hidden, dtype)
        if blocked is not None:
            logits = logits.index_fill(-1, blocked, float("-inf"))
        return logits.gather(-1, tokens.unsqueeze(-1)).squeeze(-1) - logits.logsumexp(-1)

    def _layer(
        self,
        layer: Layer,
        index: int,
        x: Tensor,
        tokens: Spread,
        read: tuple[Spread, Tensor] | None,
        sights: Sequence[_Sight],
        roles: Roles,
        dtype: torch.dtype,
    ) -> Tensor:
        """One layer over the line x [M, H]. `read` is the way to what is read, and its places in x:
        then only that is given."""

        def linear(name: Linear, inner: Tensor | Gated) -> Tensor:
            return roles.product(layer.linears[name], name, index, inner)

        normed = self.normalise(x, layer.norms["in"], dtype)
        attended = []
        for qkv, sight in zip(tokens.spread(linear("qkv", normed)), sights, strict=True):
            q, k, v = self.heads_of(layer, qkv, sight.turn(index))
            mask = sight.mask(index)
            if read is not None:
                q, mask = sight.only_read(q, mask)
            out = self.attend(q, k, v, mask, aligned=read is None).transpose(1, 2)
            attended.append(out.to(dtype, memory_format=torch.contiguous_format).flatten(2))
        if read is not None:
            tokens, where = read
            x = x.index_select(0, where)
        return self.finish(layer.norms, linear, x, linear("o", tokens.pack(attended)), dtype)

    def finish(
        self,
        norms: Norms,
        linear: Callable[[Linear, Any], Tensor],
        x: Tensor,
        attention: Tensor,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Residuals and MLP: x [.., H] fp32 residual stream, attention [.., H]. Products are given
        what they are made of in `dtype`."""
        if self.spec.parallel:
            inner = self.normalise(x, norms["mid"], dtype)
            return x + attention.float() + linear("down", self._act(linear("up", inner))).float()
        # sums in place: what a product or a norm has given is nobody else's
        attention = attention.float()
        if "after_attn" in norms:
            attention = self.normalise(attention, norms["after_attn"])
        x = attention.add_(x)
        inner = self.normalise(x, norms["mid"], dtype)
        out = linear("down", self._act(linear("up", inner))).float()
        if "after_mlp" in norms:
            out = self.normalise(out, norms["after_mlp"])
        return out.add_(x)

    def heads_of(self, layer: Layer, qkv: Tensor, turn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[B, T, (N + 2K) D] -> q [B, N, T, D], k and v [B, K, T, D], rotated, as attention wants
        them: in fp32 on a CPU, whose bf16 backward is 4x slower, and which scores as it trains."""
        spec = self.spec
        dtype = torch.float32 if qkv.device.type == "cpu" else qkv.dtype
        if not spec.qk_norm:
            q, k, v = turned_heads(qkv, turn, spec.heads, spec.kv_heads, torch.float32)
            return q.to(dtype), k.to(dtype), v.to(dtype)
        heads = qkv.view(*qkv.shape[:-1], -1, spec.head_dim).transpose(1, 2)
        q, k, v = torch.split(heads, [spec.heads, spec.kv_heads, spec.kv_heads], 1)
        q, k = self.normalise(q, layer.norms["q"]), self.normalise(k, layer.norms["k"])
        return turn_(q, turn).to(dtype), turn_(k, turn).to(dtype), v.to(dtype)

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, aligned: bool = True
    ) -> Tensor:
        """mask is added to the scores; None is causal. `aligned`: query i stands at key i."""
        spec = self.spec
        if spec.attn_softcap is not None:
            groups = spec.heads // spec.kv_heads
            k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
            scores = (q @ k.transpose(-1, -2)).float() * spec.attn_scale
            scores = torch.tanh(scores / spec.attn_softcap) * spec.attn_softcap
            if mask is None:
                size = scores.shape[-1]
                seen = torch.ones(size, size, dtype=torch.bool, device=q.device).tril()
                scores = scores.masked_fill(~seen, float("-inf"))
            else:
                scores = scores + mask.float()
            return scores.softmax(-1).to(v.dtype) @ v
        return attention(q, k, v, mask, spec.attn_scale, aligned)

    def _act(self, up: Tensor) -> Tensor | Gated:
        spec = self.spec
        if spec.gated and spec.act == "silu":
            return swiglu(up)
        if spec.gated:
            gate, value = up.chunk(2, -1)
            return _ACTIVATIONS[spec.act](gate) * value
        return _ACTIVATIONS[spec.act](up)

    def normalise(
        self,
        x: Tensor,
        weights: Norm,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """The norm of x in fp32, given in `dtype`."""
        weight, bias = weights
        if self.spec.norm == "layer":
            return F.layer_norm(x.float(), x.shape[-1:], weight, bias, self.spec.eps).to(dtype)
        return rms_norm(x.float(), weight, self.spec.eps, dtype)

    def turns(self, length: int, device: torch.device) -> list[Tensor]:
        """Rotary tables of each layer, complex [T or more, D_rot / 2]: what a pair of channels is
        multiplied by at each position. Layers of one type share a table."""
        size = max(256, 1 << (length - 1).bit_length())
        if size not in self._turns:
            # outside inference mode, for training saves these tables for its backward
            with torch.inference_mode(False):
                made = {id(r): _turn(r, size, device) for r in self.spec.rotary}
            self._turns[size] = [made[id(r)] for r in self.spec.rotary]
        return self._turns[size]


def _turn(rotary: Rotary, size: int, device: torch.device) -> Tensor:
    freq = torch.tensor(rotary.inv_freq, dtype=torch.float32, device=device)
    angle = torch.arange(size, device=device).float()[:, None] * freq
    return torch.complex(angle.cos() * rotary.scaling, angle.sin() * rotary.scaling)


class _Sight:
    """Where the tokens of some rows stand and what they see, for each of `copies` roles: rotary
    tables and masks, which layers of one kind share."""

    def __init__(self, trunk: Trunk, rows: Rows, copies: int, dtype: torch.dtype) -> None:
        """dtype is that of attention's scores."""
        self.spec, self.rows, self.copies, self.dtype = trunk.spec, rows, copies, dtype
        self.length = rows.ids.shape[1]
        positions = rows.positions
        longest = self.length if positions is None else int(positions.max()) + 1
        self._tables = trunk.turns(longest, rows.ids.device)
        self._turns: dict[int, Tensor] = {}
        self._masks: dict[int | None, Tensor | None] = {}
        self._at = rows.at.repeat(copies, 1)

    def turn(self, index: int) -> Tensor:
        """Rotary table [T or copies B, T, D_rot / 2] of a layer."""
        table = self._tables[index]
        if id(table) not in self._turns:
            where = self.rows.positions
            made = table[: self.length] if where is None else table[where]
            self._turns[id(table)] = made if where is None else made.repeat(self.copies, 1, 1)
        return self._turns[id(table)]

    def mask(self, index: int) -> Tensor | None:
        """[copies B or 1, 1, T, T], 0 where seen and -inf where not; None is plain causal. Added
        once here, for attention turns a boolean one at every layer."""
        window = self.spec.windows[index]
        if window is not None and self.length <= window:
            window = None
        if window not in self._masks:
            seen = self._seen(window)
            made = None if seen is None else additive(seen, self.dtype).unsqueeze(1)
            if made is not None and made.shape[0] > 1:
                made = made.repeat(self.copies, 1, 1, 1)
            self._masks[window] = made
        return self._masks[window]

    def _seen(self, window: int | None) -> Tensor | None:
        rows = self.rows
        order = torch.arange(self.length, device=rows.ids.device)
        causal = (order[:, None] >= order[None, :])[None]
        seen: Tensor | None = None
        if rows.branch is not None:
            mine, theirs = rows.branch[:, :, None], rows.branch[:, None, :]
            # a pad sees itself, so that no row of the softmax is empty
            seen = causal & ((theirs == 0) | (theirs == mine))
        if window is None:
            return seen
        where = order[None] if rows.positions is None else rows.positions
        near = where[:, :, None] - where[:, None, :] < window
        return near & (causal if seen is None else seen)

    def only_read(self, q: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Of queries [copies B, N, T, D] and their mask only what is read, R for T."""
        at = self._at
        places = at[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3])
        if mask is None:
            order = torch.arange(self.length, device=q.device)
            seen = order[None, None, :] <= at[:, :, None]
            return q.gather(2, places), additive(seen, q.dtype).unsqueeze(1)
        whole = mask.expand(len(at), 1, self.length, self.length)
        which = at[:, None, :, None].expand(-1, 1, -1, self.length)
        return q.gather(2, places), whole.gather(2, which)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}
