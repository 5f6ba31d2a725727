"""Time to the first token of a later turn against the length of the conversation before it.

The engine keeps the keys and values of the turn before: what has to be read again is the reply
that was picked and the new message. Beside it the same turn on an engine that has just answered
something else, and so reads all of it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import median

if TYPE_CHECKING:
    from hhchat.model import LocalEngine, Model
    from hhchat.types import Message

REPLY = 16  # tokens of each reply
FIRST = 128  # tokens of the shortest history, at most
STEPS = 7  # lengths, from the shortest to what the model can hold
WITH, WITHOUT = "cache of the turn before", "read anew"


def first_token(shape: str, rounds: int) -> dict[int, dict[str, float]]:
    """{tokens of history: {WITH and WITHOUT: CPU milliseconds, median}}, on one thread."""
    import torch

    from benchmarks.inputs import model_folder
    from hhchat.model import LocalEngine, load_model

    torch.set_num_threads(1)
    model = load_model(str(model_folder(shape, 60)), quantization="none", device="cpu")
    room = model.spec.max_positions - 2 * REPLY - 40
    talk = long_talk(model, room)
    found: dict[int, dict[str, list[float]]] = {}
    warm, cold = LocalEngine(model), LocalEngine(model)
    for turn in range(rounds + 1):
        for step in range(STEPS):
            history = cut(model, talk, FIRST + (room - FIRST) * step // (STEPS - 1))
            tokens = len(model.render.prompt(history))
            spent = measured(warm, cold, history, seed=turn)
            if turn:  # the first one allocates
                at = found.setdefault(tokens, {WITH: [], WITHOUT: []})
                for name, seconds in spent.items():
                    at[name].append(1000 * seconds)
    return {n: {name: median(v) for name, v in at.items()} for n, at in found.items()}


def measured(
    warm: LocalEngine, cold: LocalEngine, history: Sequence[Message], seed: int
) -> dict[str, float]:
    from hhchat.types import Draw, Message, Sampling

    sampling = Sampling(max_new_tokens=REPLY)

    def draws(messages: Sequence[Message]) -> list[Draw]:
        return [Draw(tuple(messages), 2 * seed + row, sampling) for row in range(2)]

    replies = [d.generation for d in warm.sample(draws(history)) if d.generation is not None]
    list(cold.sample(draws([Message("user", "hello")])))
    later = [*history, Message("assistant", replies[0].text), Message("user", "and then what?")]
    spent = {}
    for name, engine in ((WITH, warm), (WITHOUT, cold)):
        start = time.process_time()
        stream = engine.sample(draws(later))
        next(stream)
        spent[name] = time.process_time() - start
        stream.close()
    return spent


def long_talk(model: Model, tokens: int) -> list[Message]:
    """Real turns, one after the other, of at least that many tokens; it ends on the user's side."""
    from benchmarks.inputs import talks
    from hhchat.types import Message

    made: list[Message] = []
    for talk in talks()[1]:
        for role, text in talk.messages:
            if role != "system":
                made.append(Message(role, text))  # type: ignore[arg-type]
        made.append(Message("assistant", talk.chosen))
        if len(made) % 20 < 2 and len(model.render.prompt([*made, Message("user", ".")])) > tokens:
            break
    return [*made, Message("user", "what do you think?")]


def cut(model: Model, talk: Sequence[Message], tokens: int) -> list[Message]:
    """The first turns of at most that many tokens, and the last message."""
    kept: list[Message] = []
    for at in range(0, len(talk) - 1, 2):
        longer = [*talk[: at + 2], talk[-1]]
        if len(model.render.prompt(longer)) > tokens:
            break
        kept = longer
    return kept or [talk[-1]]


def text_plot(found: dict[int, dict[str, float]], width: int = 50) -> str:
    """Bars, a pair a length."""
    most = max(v for at in found.values() for v in at.values())
    lines = []
    for tokens, at in sorted(found.items()):
        for name, sign in ((WITH, "█"), (WITHOUT, "░")):
            bar = sign * max(1, round(width * at[name] / most))
            lines.append(f"{tokens if name == WITH else '':>6} {bar} {at[name]:.1f} ms")
    return "\n".join(["```", *lines, f"{'':>6} █ {WITH}   ░ {WITHOUT}", "```"])


def draw(found: dict[int, dict[str, float]], file: Path) -> None:
    """The same as an SVG file that needs nothing else."""
    from hhchat.plots_svg import STYLE, Series, lines

    series = [
        Series(name, [(float(n), at[name]) for n, at in sorted(found.items())], dots=True)
        for name in (WITH, WITHOUT)
    ]
    made: Any = lines(
        "Time to the first token",
        series,
        f"tokens of history (solid: {WITH}; dashed: {WITHOUT})",
        "CPU ms",
        include=(0.0,),
    )
    made = made.partition("</svg>")[0] + "</svg>"
    style = f"<style>:root {{ --muted: #62625d }} {STYLE}</style>"
    head, _, rest = made.partition(">")
    head = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{head}>{style}{rest}\n", encoding="utf-8")
