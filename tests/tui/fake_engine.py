"""A scripted engine: a real object with the Engine protocol, whose replies the test chooses."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from hhchat.types import Delta, Draw, Generation, HhchatError

Script = Callable[[Draw, int], str]


def numbered(draw: Draw, call: int) -> str:
    """Replies that differ, and that say which draw they are."""
    words = (
        "apples",
        "bridges",
        "candles",
        "dolphins",
        "engines",
        "forests",
        "gardens",
        "harbours",
    )
    return f"Reply {call} is about {words[call % 8]} and {words[(draw.seed // 7) % 8]}."


class FakeEngine:
    """Streams `script(draw, call)` a few characters a step, both rows in turn.

    `gate`, when given, is waited for before each step: a test can hold the stream open.
    """

    base = "fake-base"

    def __init__(
        self,
        script: Script | Sequence[str] = numbered,
        *,
        chunk: int = 12,
        gate: threading.Event | None = None,
        pause: float = 0.0,
        fail: str = "",
        error: type[HhchatError] = HhchatError,
    ) -> None:
        self._script = script
        self._chunk = chunk
        self.gate, self.pause, self.fail, self.error = gate, pause, fail, error
        self.calls = 0
        self.draws: list[Draw] = []
        self.stopped = 0

    def _text(self, draw: Draw) -> str:
        call = self.calls
        self.calls += 1
        if callable(self._script):
            return self._script(draw, call)
        return self._script[call % len(self._script)]

    def sample(
        self, draws: Sequence[Draw], cancelled: Callable[[], bool] = lambda: False
    ) -> Iterator[Delta]:
        self.draws.extend(draws)
        texts = [self._text(draw) for draw in draws]
        at = [0] * len(draws)
        ended = [False] * len(draws)
        while not all(ended):
            if self.gate is not None:
                while not self.gate.wait(0.01):
                    if cancelled():
                        break
            elif self.pause:
                threading.Event().wait(self.pause)
            if self.fail:
                raise self.error(self.fail)
            for row, draw in enumerate(draws):
                if ended[row]:
                    continue
                stop = cancelled()
                piece = "" if stop else texts[row][at[row] : at[row] + self._chunk]
                at[row] += len(piece)
                done = at[row] >= len(texts[row])
                ended[row] = stop or done
                self.stopped += stop
                generation = None
                if ended[row]:
                    generation = Generation(
                        text=texts[row][: at[row]],
                        token_ids=tuple(range(at[row])),
                        finished=done,
                        snapshot=draw.snapshot if draw.snapshot != "current" else "base",
                        base=self.base,
                        sampling=draw.sampling,
                        seed=draw.seed,
                    )
                yield Delta(row, piece, generation)

    def generate(self, draws: Sequence[Draw]) -> list[Generation]:
        found: dict[int, Generation] = {}
        for delta in self.sample(draws):
            if delta.generation is not None:
                found[delta.row] = delta.generation
        return [found[row] for row in range(len(draws))]
