"""The decode loop: one prefill, n rows, a column a step, each row with its own seed.

Rows share nothing but the arithmetic: a row's uniforms come from its own seed, drawn up front, and
a token is the inverse of its distribution's CDF at the row's next uniform. So the same seed gives
the same text whatever else is in the batch (in bf16 but for rounding: docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hhchat.model.decoder import Cache, Decoder
from hhchat.model.replay import Replay
from hhchat.model.rows import NEAR_ENOUGH, like_lengths


@dataclass
class Row:
    """One reply being sampled. `tokens` holds what was sampled, the end token included."""

    prompt: list[int]
    seed: int
    max_new: int
    temperature: float = 1.0
    top_p: float = 1.0
    tokens: list[int] = field(default_factory=list)
    ended: bool = False  # by an end token or a stop text
    full: bool = False  # by the length limit

    @property
    def done(self) -> bool:
        return self.ended or self.full


def uniforms(seed: int, count: int) -> Tensor:
    """`count` numbers in [0, 1), the same on every machine and for every batch."""
    generator = torch.Generator().manual_seed(seed % (1 << 63))
    return torch.rand(count, generator=generator)


def choose(
    logits: Tensor, uniform: Tensor, temperature: Tensor | None, top_p: Tensor | None
) -> Tensor:
    """Tokens [B] from fp32 logits [B, V] by inverse CDF at uniform [B].

    temperature [B]: 0 is greedy; None when every row's is 1. top_p [B] or None when no row uses it:
    then the nucleus is walked in order of probability. One uniform a token, so the draw of a row
    never shifts another's."""
    hot = logits
    if temperature is not None:
        hot = logits / temperature.clamp_min(1e-6).unsqueeze(-1)
    probs = torch.softmax(hot, -1)
    token = _invert(probs.cumsum(-1), uniform)
    if top_p is not None:
        ordered, index = torch.sort(probs, dim=-1, descending=True, stable=True)
        cdf = ordered.cumsum(-1)
        # the nucleus is the smallest set whose mass reaches top_p; the first token is always in it
        inside = (cdf - ordered) < top_p.unsqueeze(-1)
        cdf = torch.where(inside, ordered, torch.zeros_like(ordered)).cumsum(-1)
        nucleus = index.gather(-1, _invert(cdf, uniform).unsqueeze(-1)).squeeze(-1)
        token = torch.where(top_p < 1.0, nucleus, token)  # as it would draw without the others
    if temperature is None:
        return token
    return torch.where(temperature <= 0, logits.argmax(-1), token)


def _invert(cdf: Tensor, uniform: Tensor) -> Tensor:
    """The first token whose cdf [B, V] is above uniform [B] times the whole."""
    total = cdf[:, -1:]
    # below the whole, for rounding up to it would point past the last token that has any mass
    below = torch.nextafter(total, torch.zeros_like(total))
    place = torch.minimum(uniform.unsqueeze(-1) * total, below)
    return torch.searchsorted(cdf, place, right=True).squeeze(-1)


class Batch:
    """Rows that decode together through one decoder."""

    def __init__(
        self,
        decoder: Decoder,
        rows: Sequence[Row],
        end_ids: frozenset[int],
        blocked: Tensor | None = None,
        kept: Prefix | None = None,
    ) -> None:
        self.decoder = decoder
        self.rows = list(rows)
        self.live = list(range(len(rows)))
        self.end_ids = end_ids
        self.blocked = blocked
        device = decoder.trunk.device
        self.device = device
        longest = max(len(r.prompt) for r in rows)
        span = max(r.max_new for r in rows)
        self.uniform = torch.stack([_padded(uniforms(r.seed, r.max_new), span) for r in rows]).to(
            device
        )
        self.temperature: Tensor | None = None
        if any(r.temperature != 1.0 for r in rows):
            self.temperature = torch.tensor([r.temperature for r in rows], device=device)
        self.nucleus: Tensor | None = None
        if any(r.top_p < 1.0 for r in rows):
            self.nucleus = torch.tensor([r.top_p for r in rows], device=device)
        self.column = longest
        self.made = 0
        self.logits, self.cache, self.start = self._prefill(longest, span, kept)
        self._fixed: _Fixed | None = None

    def _prefill(
        self, longest: int, span: int, kept: Prefix | None
    ) -> tuple[Tensor, Cache, Tensor | None]:
        """Each distinct prompt once, left-padded to one column, then one cache row a reply."""
        # the rows of a rollout come in this order: their cache is then not copied
        prompts = list(dict.fromkeys(sorted((tuple(r.prompt) for r in self.rows), key=len)))
        dec, trunk = self.decoder, self.decoder.trunk
        ids = torch.zeros(len(prompts), longest, dtype=torch.long)
        start = torch.tensor([longest - len(p) for p in prompts])
        for i, prompt in enumerate(prompts):
            ids[i, longest - len(prompt) :] = torch.tensor(prompt, dtype=torch.long)
        cache = Cache.make(trunk.spec, len(prompts), longest + span, dec.cache_dtype, self.device)
        done = 0
        if kept is not None and len(prompts) == 1:
            done = kept.fill(cache, list(prompts[0]))
        ids, start = ids.to(self.device), start.to(self.device)
        parts = []
        for group in like_lengths([len(p) for p in prompts], self.device, NEAR_ENOUGH):
            rows = slice(group[0], group[-1] + 1)
            low = longest - len(prompts[group[-1]])  # columns before it are pads to all of them
            some = cache.part(rows, low, longest)
            parts.append(dec.prefill(ids[rows, low:], start[rows] - low, some, done))
        logits = torch.cat(parts)
        place = {prompt: i for i, prompt in enumerate(prompts)}
        order = [place[tuple(r.prompt)] for r in self.rows]
        if order != list(range(len(prompts))):
            index = torch.tensor(order, device=self.device)
            logits, cache, start = logits[index], cache.select(index), start[index]
        return logits, cache, start if bool((start > 0).any()) else None

    @torch.inference_mode()
    def advance(self) -> list[int]:
        """Sample one token for each live row that is not done; indices of the live rows."""
        if not self.live:
            return []
        if self.made and self.decoder.fixed:
            self._fixed = self._fixed or _Fixed(self)
            chosen = self._fixed.advance(self.uniform[:, self.made])
            self.column += 1
            if self._fixed.failed:  # what gains nothing by its fixed shape goes on without
                self.decoder.fixed, self._fixed = False, None
        else:
            if self.made:
                self.logits = self.decoder.step(self._last(), self.column, self.start, self.cache)
                self.column += 1
            chosen = self._picker()(self.logits, self.uniform[:, self.made])
        self.made += 1
        grown = list(self.live)
        for i, token in zip(grown, chosen.tolist(), strict=True):
            row = self.rows[i]
            if row.done:  # it runs along until the batch is compacted
                continue
            row.tokens.append(token)
            row.ended = token in self.end_ids
            row.full = not row.ended and len(row.tokens) >= row.max_new
        return grown

    def _picker(self) -> Callable[[Tensor, Tensor], Tensor]:
        """Tokens [B] from logits [B, V] at uniform [B], as the live rows sample."""
        blocked, temperature, nucleus = self.blocked, self.temperature, self.nucleus

        def pick(logits: Tensor, uniform: Tensor) -> Tensor:
            if blocked is not None:
                logits.index_fill_(-1, blocked, float("-inf"))
            return choose(logits, uniform, temperature, nucleus)

        return pick

    def _last(self) -> Tensor:
        """What each live row said last [B]."""
        return torch.tensor([self.rows[i].tokens[-1] for i in self.live], device=self.device)

    def compact(self, *, always: bool = False) -> None:
        """Let finished rows go, the last live ones taking their places: copying those pays once an
        eighth of the rows are done, and recording a graph anew once half are."""
        keep = [j for j, i in enumerate(self.live) if not self.rows[i].done]
        most = 0.5 if self.decoder.fixed else 0.875
        if not always and len(keep) > most * len(self.live) and keep:
            return
        if len(keep) == len(self.live):
            return
        last = [j for j in keep if j >= len(keep)]
        stay = set(keep)
        order = [j if j in stay else last.pop() for j in range(len(keep))]
        self.live = [self.live[j] for j in order]
        if not keep:
            return
        self._fixed = None  # it reads the rows as they were
        self.cache = self.cache.close_up(order, self.column)
        index = torch.tensor(order, dtype=torch.long, device=self.device)
        self.logits = self.logits[index]
        self.uniform = self.uniform[index]
        self.temperature = None if self.temperature is None else self.temperature[index]
        self.nucleus = None if self.nucleus is None else self.nucleus[index]
        self.start = None if self.start is None else self.start[index]

    @property
    def done(self) -> bool:
        return all(self.rows[i].done for i in self.live)


class _Fixed:
    """The rest of a batch in steps of one shape: tokens, column and draws stay on the device."""

    def __init__(self, batch: Batch) -> None:
        # not the batch itself, which holds this: a graph's memory should go when the batch does
        decoder, start, cache, pick = batch.decoder, batch.start, batch.cache, batch._picker()
        tokens, column = batch._last(), torch.tensor([batch.column], device=batch.device)
        draw = torch.empty(len(batch.live), device=batch.device)

        def work() -> Tensor:
            tokens.copy_(pick(decoder.step(tokens, column, start, cache), draw))
            column.add_(1)
            return tokens

        self._draw, self._replay = draw, Replay(work, batch.device)

    def advance(self, uniform: Tensor) -> Tensor:
        """The next token of each row [B] at uniform [B]."""
        self._draw.copy_(uniform)
        return self._replay()

    @property
    def failed(self) -> bool:
        """Whether this decoder's steps can not be recorded."""
        return self._replay.failed


def _padded(values: Tensor, size: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, size - len(values)))


class Prefix:
    """The key-value cache of the last turn, for the next one to start from."""

    def __init__(self) -> None:
        self._ids: list[list[int]] = []
        self._cache: Cache | None = None

    def keep(self, batch: Batch) -> None:
        """Remember an unpadded batch's rows: prompt and reply up to the last token that was run."""
        if batch.start is not None or len(batch.live) != len(batch.rows):
            return
        self._ids = [(r.prompt + r.tokens)[: batch.column] for r in batch.rows]
        self._cache = batch.cache

    def fill(self, cache: Cache, prompt: list[int]) -> int:
        """Copy the longest common prefix into row 0 of `cache`; columns that are there now."""
        if self._cache is None:
            return 0
        best, shared = 0, 0
        for i, ids in enumerate(self._ids):
            n = common(ids, prompt)
            if n > shared:
                best, shared = i, n
        shared = min(shared, len(prompt) - 1)  # the last column is run again for its logits
        if shared <= 0:
            return 0
        cache.copy_row(self._cache, best, shared)
        return shared


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common prefix."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n
