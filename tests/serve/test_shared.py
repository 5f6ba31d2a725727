"""One engine for several apps: what each is told, and that none waits for ever."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from fake_engine import FakeEngine
from hypothesis import given
from hypothesis import strategies as st
from serving import until

from hhchat.protocols import Asking
from hhchat.serving import wire
from hhchat.serving.host import AT_ONCE, EngineHost
from hhchat.serving.process import listen, private_folder
from hhchat.serving.shared import SharedEngine, fits
from hhchat.types import (
    BadInput,
    Comparison,
    Delta,
    Draw,
    Generation,
    HhchatError,
    Message,
    ModelError,
    Sampling,
    TooLong,
)

HELLO = (Message("user", "Hello!"),)
PAIR = (Draw(HELLO, 1), Draw(HELLO, 2))


@contextmanager
def hosted(load: Callable[[str], Any], say: Callable[[str], str] = str) -> Iterator[Path]:
    """A host in a thread of this process; its socket."""
    with private_folder() as folder:
        listener = listen(folder / "model")
        loop = asyncio.new_event_loop()
        serving = loop.create_task(EngineHost(load, say).serve(listener))

        def run() -> None:
            with suppress(asyncio.CancelledError):
                loop.run_until_complete(serving)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield folder / "model"
        finally:
            loop.call_soon_threadsafe(serving.cancel)
            thread.join(timeout=10)
            listener.close()
            assert not thread.is_alive()
            loop.close()


def texts(engine: Any, draws: Any = PAIR) -> dict[int, str]:
    return {d.row: d.generation.text for d in engine.sample(draws) if d.generation is not None}


def test_an_app_gets_the_replies_of_the_engine_itself() -> None:
    sampling = Sampling(0.5, 0.9, 64, 1)
    draws = (Draw((Message("system", "Be brief."), *HELLO), 7, sampling, "base"), Draw(HELLO, 8))
    with hosted(lambda name: FakeEngine()) as path:
        shared = SharedEngine(path, "any")
        assert shared.base == FakeEngine.base
        assert list(shared.sample(draws)) == list(FakeEngine().sample(draws))
        assert [g.seed for g in shared.generate(PAIR * 40)] == [1, 2] * 40
        assert fits(path, "tiny") == "tiny"


def test_text_that_is_no_text_arrives_as_it_was() -> None:
    """A lone surrogate, escapes, a separator of lines."""
    odd = "a\ud800b \x1b]0;t\x07 \u2028 \x00 \x85 \U0001f44d end"
    with hosted(lambda name: FakeEngine([odd], chunk=1)) as path:
        assert texts(SharedEngine(path, "any")) == {0: odd, 1: odd}


def test_several_tabs_that_ask_at_once_all_grow_and_all_end() -> None:
    """The first is not finished before the others begin, as far as a few go side by side."""
    ended: list[int] = []
    begun: dict[int, int] = {}
    grown = [0] * (AT_ONCE + 3)

    with hosted(lambda name: FakeEngine(["word " * 400], chunk=5, pause=0.0005)) as path:
        shared = SharedEngine(path, "any")

        def tab(number: int) -> None:
            for _ in shared.sample(PAIR):
                begun.setdefault(number, len(ended))
                grown[number] += 1
            ended.append(number)

        tabs = [threading.Thread(target=tab, args=(n,)) for n in range(len(grown))]
        for one in tabs:
            one.start()
        for one in tabs:
            one.join(timeout=60)
    assert sorted(ended) == list(range(len(grown)))
    assert min(grown) == max(grown) == 800
    assert sum(before == 0 for before in begun.values()) >= AT_ONCE


def test_a_pair_that_is_stopped_ends_at_once_with_what_there_is() -> None:
    with hosted(lambda name: FakeEngine(["word " * 4000], chunk=5, pause=0.001)) as path:
        shared = SharedEngine(path, "any")
        seen: list[Delta] = []
        for delta in shared.sample(PAIR, lambda: len(seen) > 6):
            seen.append(delta)
        last = [d.generation for d in seen if d.generation is not None]
    assert len(last) == 2
    assert all(g.text.startswith("word ") for g in last)
    assert not any(g.finished for g in last)


def test_what_waits_its_turn_can_be_stopped_without_it(gate: threading.Event) -> None:
    engine = FakeEngine(gate=gate)
    with hosted(lambda name: engine) as path:
        shared = SharedEngine(path, "any")
        blockers = [
            threading.Thread(target=lambda: list(shared.sample(PAIR)), daemon=True)
            for _ in range(AT_ONCE)
        ]
        for one in blockers:
            one.start()
        until(lambda: engine.draws)
        start = time.monotonic()
        assert list(shared.sample([Draw(HELLO, 99)], lambda: True)) == []
        assert time.monotonic() - start < 5
        gate.set()
        for one in blockers:
            one.join(timeout=20)
        assert texts(shared, [Draw(HELLO, 5)])
    assert 99 not in {draw.seed for draw in engine.draws}, "it was never begun"


def test_a_tab_that_is_closed_stops_its_pair(gate: threading.Event) -> None:
    """Its process is gone: nobody says so, the connection just ends."""
    engine = FakeEngine(gate=gate)
    with hosted(lambda name: engine) as path:
        shared = SharedEngine(path, "any")
        with socket.socket(socket.AF_UNIX) as dead:
            dead.connect(str(path))
            dead.sendall(wire.encode({"do": "sample", "draws": wire.draws_out(PAIR)}))
            until(lambda: engine.draws)
        until(lambda: engine.stopped == 2, what="the end of the pair")
        gate.set()
        assert texts(shared)


def test_a_generator_nobody_drains_stops_its_pair() -> None:
    engine = FakeEngine(["word " * 4000], chunk=5, pause=0.001)
    with hosted(lambda name: engine) as path:
        replies = SharedEngine(path, "any").sample(PAIR)
        next(replies)
        replies.close()  # type: ignore[attr-defined]
        until(lambda: engine.stopped, what="the end of the pair")


@pytest.mark.parametrize("kind", [TooLong, ModelError, BadInput, HhchatError])
def test_an_error_is_the_same_error_in_the_app(kind: type[HhchatError]) -> None:
    sick = FakeEngine(fail="the message is 9 tokens", error=kind)
    with hosted(lambda name: sick) as path, pytest.raises(HhchatError) as failed:
        texts(SharedEngine(path, "any"))
    assert type(failed.value) is kind
    assert str(failed.value) == "the message is 9 tokens"


def test_an_error_nobody_expected_is_a_line_and_the_next_pair_works() -> None:
    class Sick(FakeEngine):
        sick = True

        def sample(self, draws: Any, cancelled: Any = lambda: False) -> Iterator[Delta]:
            if self.sick:
                self.sick = False
                raise RuntimeError("out of \x1b[31mmemory\nsorry")
            return super().sample(draws, cancelled)

    with hosted(lambda name: Sick()) as path:
        shared = SharedEngine(path, "any")
        with pytest.raises(ModelError, match=r"^RuntimeError: out of \\x1b\[31mmemory sorry$"):
            texts(shared)
        assert texts(shared)


def test_a_model_that_cannot_be_loaded_is_tried_again_by_the_next_tab() -> None:
    names: list[str] = []

    def load(name: str) -> FakeEngine:
        names.append(name)
        if len(names) == 1:
            raise ModelError("no such folder")
        return FakeEngine()

    with hosted(load) as path:
        with pytest.raises(ModelError, match="no such folder"):
            SharedEngine(path, "mine")
        assert texts(SharedEngine(path, "mine"))
        assert texts(SharedEngine(path, "mine"))
    assert names == ["mine", "mine"], "loaded once for both"


def test_another_model_than_the_one_held_is_refused_by_name() -> None:
    with hosted(lambda name: FakeEngine()) as path:
        SharedEngine(path, "mine")
        with pytest.raises(BadInput, match="holds mine, not other: start it again"):
            SharedEngine(path, "other")


class Asker:
    """Prefers the pair of the longest replies, and remembers what it was taught."""

    def __init__(self) -> None:
        self.latest = ""
        self.learnt: list[Comparison] = []

    def learn(self, comparisons: Sequence[Comparison]) -> None:
        self.learnt += comparisons
        self.latest = comparisons[-1].id

    def choose(self, messages: Any, replies: Sequence[Generation]) -> tuple[int, int] | None:
        if len(messages) > 1:
            return None
        order = sorted(range(len(replies)), key=lambda i: -len(replies[i].text))
        return order[0], order[1]


def test_an_engine_that_chooses_what_to_ask_does_so_for_every_tab() -> None:
    class Asks(FakeEngine):
        asker = Asker()

    written = (Generation("mine", source="human"), Generation("its", (1, 2), snapshot="base"))
    taught = [
        Comparison(HELLO, written, preferred=0, strength=s, id=f"{i:03}")
        for i, s in enumerate([None, 1, 4] * 30)
    ]
    with hosted(lambda name: Asks()) as path:
        one, two = SharedEngine(path, "any"), SharedEngine(path, "any")
        assert isinstance(one, Asking)
        assert isinstance(two, Asking)
        assert one.asker.latest == ""
        one.asker.learn(taught)
        assert two.asker.latest == "089"
        assert Asks.asker.learnt == taught
        replies = [Generation("a"), Generation("b" * 9), Generation("c" * 5)]
        assert two.asker.choose(HELLO, replies) == (1, 2)
        assert two.asker.choose(HELLO * 2, replies) is None
    with hosted(lambda name: FakeEngine()) as path:
        assert not isinstance(SharedEngine(path, "any"), Asking)


def test_without_a_host_there_is_a_line_that_says_what_to_do(tmp_path: Path) -> None:
    with hosted(lambda name: FakeEngine()) as path:
        shared = SharedEngine(path, "any")
    for act in (lambda: texts(shared), lambda: shared.generate(PAIR), lambda: fits(path, "x")):
        with pytest.raises(ModelError, match="start `hhchat serve` again"):
            act()
    with pytest.raises(ModelError, match="start `hhchat serve` again"):
        SharedEngine(tmp_path / "none", "any")


BAD_LINES = (
    b"\n",
    b"nonsense\n",
    b"[]\n",
    b"{}\n",
    b'{"do": "hello"}\n',
    b'{"do": "sample"}\n',
    b'{"do": "sample", "draws": []}\n',
    b'{"do": "sample", "draws": [{}]}\n',
    b'{"do": "sample", "draws": [{"messages": [["root", "x"]], "seed": 1}]}\n',
    b'{"do": "__import__"}\n',
    b'{"do": "learn", "comparisons": [{}]}\n',
    b'{"do": "choose"}\n',
    b"[" * 100_000 + b"\n",
    b'{"do": NaN}\n',
)


@pytest.mark.parametrize("line", BAD_LINES, ids=[line[:40].decode() for line in BAD_LINES])
def test_nonsense_gets_a_line_and_hurts_nobody(line: bytes) -> None:
    with hosted(lambda name: FakeEngine()) as path:
        with socket.socket(socket.AF_UNIX) as odd:
            odd.connect(str(path))
            odd.sendall(line)
            told = json.loads(odd.makefile("rb").readline())
        assert told["error"]["text"]
        assert texts(SharedEngine(path, "any"))


def test_only_the_owner_reaches_the_socket() -> None:
    with private_folder() as folder:
        listen(folder / "model").close()
        assert folder.stat().st_mode & 0o777 == 0o700
        assert (folder / "model").stat().st_mode & 0o777 == 0o600
        kept = folder
    assert not kept.exists()


# The wire ----------------------------------------------------------------------------------------

text = st.text(st.characters(exclude_categories=()), max_size=30)
samplings = st.builds(
    Sampling,
    st.floats(0, 5),
    st.floats(0, 1),
    st.integers(1, wire.MOST_TOKENS),
    st.integers(1, wire.DRAWS),
)
roles = st.sampled_from(["system", "user", "assistant"])
messages = st.lists(st.builds(Message, roles, text), max_size=4).map(tuple)
draws = st.builds(Draw, messages, st.integers(0, wire.SEEDS), samplings, text)
generations = st.builds(
    Generation,
    text=text,
    token_ids=st.lists(st.integers(-1, 1 << 20), max_size=5).map(tuple),
    finished=st.booleans(),
    source=st.sampled_from(["model", "human", "edited", "imported", "simulated"]),
    snapshot=st.none() | text,
    base=st.none() | text,
    sampling=st.none() | samplings,
    seed=st.none() | st.integers(0, wire.SEEDS),
)


@given(st.lists(draws, min_size=1, max_size=3))
def test_what_is_asked_is_what_was_meant(asked: list[Draw]) -> None:
    line = wire.encode({"draws": wire.draws_out(asked)})
    assert line.isascii()
    assert line.count(b"\n") == 1
    assert wire.draws_in(wire.decode(line)["draws"]) == asked


@given(st.integers(0, 63), text, st.none() | generations)
def test_what_is_answered_is_what_was_made(row: int, piece: str, made: Generation | None) -> None:
    delta = Delta(row, piece, made)
    assert wire.delta_in(wire.decode(wire.encode(wire.delta_out(delta))), 64) == delta


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(
        ["do", "draws", "messages", "seed", "sampling", "snapshot", "row", "text", "generation"]
    ), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(json_values)
def test_any_other_json_is_refused_in_words(value: Any) -> None:
    line = json.dumps(value).encode()
    for read in (
        lambda: wire.draws_in(wire.decode(line).get("draws")),
        lambda: wire.delta_in(wire.decode(line), 2),
        lambda: wire.comparisons_in(wire.decode(line).get("draws")),
        lambda: wire.error_in(wire.decode(line)),
    ):
        with suppress(wire.WireError):  # any other error fails this test
            read()


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()
