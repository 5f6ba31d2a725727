"""The engine: draws in, text out, over the model and whichever snapshot each draw names."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from hhchat.model.base import Model
from hhchat.model.decode import Batch, Prefix, Row
from hhchat.model.decoder import Decoder
from hhchat.model.fitting import until_it_fits
from hhchat.model.lora import load_adapter
from hhchat.protocols import Asker
from hhchat.types import (
    Delta,
    Draw,
    Exchange,
    Generation,
    Message,
    ModelError,
    TooLong,
    drop_oldest_turn,
)

Resolve = Callable[[str], tuple[str, Path | None]]
ROWS = 64  # rows decoded together by `generate`


def _base_only(name: str) -> tuple[str, Path | None]:
    if name in ("current", "base"):
        return "base", None
    raise ModelError(f"snapshot {name!r} is not known here")


class LocalEngine:
    """Samples from the local model. Thread rule: one step at a time (a lock sees to it)."""

    def __init__(
        self,
        model: Model,
        resolve: Resolve = _base_only,
        *,
        judge: Callable[[str], object] | None = None,
        asker: Asker | None = None,
        best_of: Callable[[str], int] | None = None,
        dtype: torch.dtype | None = None,
        rows: int = ROWS,
    ) -> None:
        self.model = model
        self.base = model.identity
        self.rows = rows
        self._resolve = resolve
        self._judge = judge
        self._best_of = best_of
        if asker is not None:  # without one, the engine is none that can choose what to ask
            self.asker = asker
        self._dtype = dtype or model.fast
        self._decoders: OrderedDict[str, tuple[Decoder, Prefix]] = OrderedDict()
        self._lock = threading.Lock()
        blocked = model.render.blocked
        self._blocked = torch.tensor(blocked, device=model.device) if blocked else None

    # -- the Engine protocol

    def sample(
        self, draws: Sequence[Draw], cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[Delta]:
        """Rows grow in lockstep, a token each; the last delta of a row carries its generation."""
        draws = self._served(draws)
        if any(d.sampling.best_of > 1 for d in draws):
            yield from self._whole(draws)
            return
        with self._lock:  # no inference mode here: it would leak to the caller at each yield
            names = [self._resolve(d.snapshot)[0] for d in draws]
            rows = [self._row(d) for d in draws]
            batches: list[tuple[list[int], Batch, Prefix]] = []
            for name in dict.fromkeys(names):
                mine = [i for i, n in enumerate(names) if n == name]
                decoder, prefix = self._decoder(name)
                batches.append(
                    (mine, self._batch(decoder, [rows[i] for i in mine], prefix), prefix)
                )
        shown = [""] * len(draws)
        told = [False] * len(draws)
        while not all(told):
            stop = cancelled()
            for mine, batch, prefix in batches:
                if not stop and not batch.done:
                    # Finished rows of a chat batch run along, so that its cache stays whole.
                    with self._lock:  # a step at a time: two samplings take turns
                        self._advance(batch)
                for j, i in enumerate(mine):
                    row = batch.rows[j]
                    if told[i]:
                        continue
                    if row.done or stop:
                        told[i] = True
                        made = self._generation(draws[i], row, names[i])
                        rest = made.text.removeprefix(shown[i])
                        yield Delta(i, rest, made)
                        continue
                    text = self.model.render.partial(row.tokens)
                    if text.startswith(shown[i]) and text != shown[i]:
                        yield Delta(i, text[len(shown[i]) :])
                        shown[i] = text
                if all(told[i] for i in mine):
                    with self._lock:
                        prefix.keep(batch)

    def generate(self, draws: Sequence[Draw]) -> list[Generation]:
        """All replies, in the order of `draws`; decoded in batches of like prompt lengths."""
        draws = self._served(draws)
        if any(d.sampling.best_of > 1 for d in draws):
            return self._best(draws)
        return self._plain(draws)

    def _plain(self, draws: Sequence[Draw]) -> list[Generation]:
        """One reply a draw, whatever its snapshot serves."""
        with self._lock, torch.inference_mode():
            done: list[Generation | None] = [None] * len(draws)
            names = [self._resolve(d.snapshot)[0] for d in draws]
            rows = [self._row(d) for d in draws]
            for name in dict.fromkeys(names):
                mine = [i for i, n in enumerate(names) if n == name]
                mine.sort(key=lambda i: (len(rows[i].prompt), rows[i].prompt))
                decoder, _ = self._decoder(name)
                for i, row in zip(
                    mine, self._decoded(decoder, [rows[i] for i in mine]), strict=True
                ):
                    done[i] = self._generation(draws[i], row, name)
            return [g for g in done if g is not None]

    def _decoded(self, decoder: Decoder, rows: Sequence[Row]) -> list[Row]:
        """The rows at their ends: decoded as many together as memory has room for."""
        done: list[Row] = []

        def some() -> list[Row]:
            # copies: a try for which memory ran out has moved them on
            group = [replace(row, tokens=[]) for row in rows[len(done) : len(done) + self.rows]]
            self.run(decoder, group)
            return group

        while len(done) < len(rows):
            done += until_it_fits(some, self.halve)
        return done

    def halve(self) -> None:
        """Decode half as many rows together. Raises ModelError where it is one already."""
        if self.rows == 1:
            raise ModelError("out of memory even one reply at a time")
        self.rows //= 2

    # -- for trainers

    def run(self, decoder: Decoder, rows: Sequence[Row]) -> None:
        """Decode rows to their ends, in place."""
        with torch.inference_mode():
            batch = self._batch(decoder, rows, None)
            while not batch.done:
                self._advance(batch)
                batch.compact()

    # -- inside

    @torch.inference_mode()
    def _batch(self, decoder: Decoder, rows: Sequence[Row], prefix: Prefix | None) -> Batch:
        return Batch(decoder, rows, self.model.render.end_ids, self._blocked, prefix)

    def _advance(self, batch: Batch) -> None:
        for i in batch.advance():
            row = batch.rows[i]
            if not row.done and self.model.render.stopped(row.tokens):
                row.ended = True

    def _row(self, draw: Draw) -> Row:
        sampling = draw.sampling
        prompt, room = self.fit(draw.messages, sampling.max_new_tokens)
        return Row(prompt, draw.seed, room, sampling.temperature, sampling.top_p)

    def fit(self, messages: Sequence[Message], max_new: int) -> tuple[list[int], int]:
        """(prompt ids, tokens left for the reply): the oldest whole turns go when it is too long.

        Raises TooLong when the last message alone is too long for the model."""
        limit = self.model.spec.max_positions
        room = min(max_new, max(16, limit // 4))
        kept = list(messages)
        prompt = self.model.render.prompt(kept)
        while len(prompt) + room > limit:
            kept = drop_oldest_turn(kept)
            if not kept:
                raise TooLong(
                    f"the message is {len(prompt)} tokens; this model reads at most {limit - room}"
                )
            prompt = self.model.render.prompt(kept)
        return prompt, min(max_new, limit - len(prompt))

    def _decoder(self, name: str) -> tuple[Decoder, Prefix]:
        if name in self._decoders:
            self._decoders.move_to_end(name)
            return self._decoders[name]
        folder = self._resolve(name)[1]
        role = None if folder is None else load_adapter(self.model.spec, folder)
        if role is not None:
            role.to(self.model.device)
        made = (make_decoder(self.model, role, self._dtype), Prefix())
        self._decoders[name] = made
        while len(self._decoders) > 3:
            self._decoders.popitem(last=False)
        return made

    def _generation(self, draw: Draw, row: Row, name: str) -> Generation:
        return Generation(
            text=self.model.render.decode(row.tokens),
            token_ids=tuple(row.tokens),
            finished=row.ended,
            source="model",
            snapshot=name,
            base=self.base,
            sampling=draw.sampling,
            seed=draw.seed,
        )

    def _served(self, draws: Sequence[Draw]) -> Sequence[Draw]:
        """Draws as their snapshots serve them: some say their favourite of k."""
        if self._best_of is None:
            return draws
        served = []
        for draw in draws:
            k = self._best_of(draw.snapshot) if draw.sampling.best_of == 1 else 1
            if k > 1:
                draw = replace(draw, sampling=replace(draw.sampling, best_of=k))
            served.append(draw)
        return served

    def _whole(self, draws: Sequence[Draw]) -> Iterator[Delta]:
        # A best-of-k reply cannot stream: all rows are shown at once (paper B.5).
        for i, made in enumerate(self.generate(draws)):
            yield Delta(i, made.text, made)

    def _best(self, draws: Sequence[Draw]) -> list[Generation]:
        """Best of k by the snapshot's preference model; each draw's candidates are its own."""
        spread: list[Draw] = []
        owner: list[int] = []
        for i, draw in enumerate(draws):
            k = max(1, draw.sampling.best_of)
            plain = replace(draw.sampling, best_of=1)
            for j in range(k):
                seed = draw.seed if j == 0 else draw.seed + j * 0x9E3779B97F4A7C15 % (1 << 62)
                spread.append(replace(draw, seed=seed % (1 << 63), sampling=plain))
                owner.append(i)
        made = self._plain(spread)
        best: list[Generation] = []
        for i, draw in enumerate(draws):
            mine = [g for g, o in zip(made, owner, strict=True) if o == i]
            if len(mine) > 1:
                scorer = None if self._judge is None else self._judge(draw.snapshot)
                if scorer is None:
                    raise ModelError("best-of needs a preference model: run `hhchat train` first")
                scores = scorer.score([Exchange(draw.messages, g.text) for g in mine])  # type: ignore[attr-defined]
                mine = [mine[max(range(len(mine)), key=scores.__getitem__)]]
            best.append(replace(mine[0], sampling=draw.sampling, seed=draw.seed))
        return best


def make_decoder(
    model: Model, role: object, dtype: torch.dtype, *, head: torch.dtype | None = None
) -> Decoder:
    """A decoder of `role` (an Adapter or None): merged into a dense copy when memory allows.

    `head` is what its logits are made in, `dtype` where nothing is said. In bf16 a head takes half
    the time and memory, with a large vocabulary a third of all, and moves the starter's
    distribution of the next token by 1e-4 nats (KL)."""
    from hhchat.model.base import free_memory
    from hhchat.model.lora import Adapter
    from hhchat.model.spec import LINEARS

    assert role is None or isinstance(role, Adapter)
    weights = [layer.linears[name] for layer in model.trunk.layers for name in LINEARS]
    count = sum(w.shape[0] * w.shape[1] for w in weights)
    need = count * torch.empty((), dtype=dtype).element_size()
    merged = need <= free_memory(model.device) // 4
    cuda = model.device.type == "cuda"
    if head is None:
        head = dtype if cuda or merged else torch.float32
    return Decoder(model.trunk, role, dtype, merged=merged, head_dtype=head, fixed=cuda)
