"""Recorded steps: the same replies as steps that are run as written.

A CPU's recordings (TorchScript) are tested as they are. Steps of one shape, which CUDA replays as a
graph, run as written here; that a recorded one says the same needs a GPU (the last test).
"""

from __future__ import annotations

import gc
import weakref
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import hhchat.model.replay as replay_module
from hhchat.model import Adapter, LocalEngine, Model, kernels, load_model
from hhchat.model.decode import Batch, Row
from hhchat.model.decoder import Cache, Decoder
from hhchat.model.kernels import CHUNK
from hhchat.model.replay import Replay, Script


def rows(count: int = 6, longest: int = 24) -> list[Row]:
    """Prompts of many lengths, some alike; mixed sampling; replies of different limits."""
    generator = torch.Generator().manual_seed(4)
    made = []
    for i in range(count):
        size = 3 + 5 * (i % 4)
        ids = torch.randint(20, 300, (size,), generator=generator).tolist()
        heat, nucleus = (0.0, 1.0, 1.7)[i % 3], (1.0, 0.8)[i % 2]
        made.append(Row(ids, 100 + i, longest - 3 * i, heat, nucleus))
    return made


def said(model: Model, decoder: Decoder, some: list[Row]) -> list[list[int]]:
    LocalEngine(model).run(decoder, some)
    return [row.tokens for row in some]


@pytest.mark.parametrize("merged", [True, False])
def test_a_graph_s_steps_say_what_plain_steps_say(make_tiny, family, merged):
    model = make_tiny(family).load()
    role = Adapter(model.spec, 2, seed=3)
    with torch.no_grad():
        for b in role.b.values():
            b.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(1))
    plain = Decoder(model.trunk, role, merged=merged)
    want = said(model, plain, rows())
    assert max(map(len, want)) > 12  # windows were left behind, rows were let go
    assert said(model, replace(plain, fixed=True), rows()) == want


def test_a_recorded_step_says_what_a_plain_step_says_with_as_many_rows_as_there_are(
    make_tiny, family, monkeypatch
):
    some = [rows(6), rows(20, 66), rows(1), rows(3), rows(1), rows(1, 66)]
    recorded = make_tiny(family).load()
    role = Adapter(recorded.spec, 2, seed=3)
    with torch.no_grad():
        for b in role.b.values():
            b.normal_(0.0, 0.1, generator=torch.Generator().manual_seed(1))
    got = [said(recorded, Decoder(recorded.trunk, role), few) for few in some]
    made = recorded.trunk.recorded.values()
    assert len(made) == 2  # of padded rows and of others
    assert all(isinstance(step, Script) and not step.failed for step in made)

    def none(*_args, **_options):
        raise RuntimeError("not here")

    monkeypatch.setattr(torch.jit, "trace", none)  # where nothing can be recorded
    plain = make_tiny(family).load()
    some = [rows(6), rows(20, 66), rows(1), rows(3), rows(1), rows(1, 66)]
    assert [said(plain, Decoder(plain.trunk, role), few) for few in some] == got


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_run_that_is_resumed_meets_the_bits_it_would_have_met_recorded(make_tiny, dtype):
    # one that goes on begins with steps as written, where the other had recorded ones
    model = load_model(str(make_tiny("llama").folder), dtype=dtype)
    decoder = Decoder(model.trunk, Adapter(model.spec, 2, seed=3), model.fast)
    for count in (3, 1, 20):
        start = torch.arange(count) % 3
        caches = [Cache.make(model.spec, count, 40, torch.float32, model.device) for _ in range(2)]
        with torch.inference_mode():
            for column in range(4, 30):
                tokens = torch.full((count,), 20 + column)
                got = decoder.step(tokens, column, start, caches[0])
                recorded, model.trunk.recorded = model.trunk.recorded, {}
                want = decoder.step(tokens, column, start, caches[1])  # the first of its kind
                model.trunk.recorded = recorded
                assert torch.equal(got, want)
    assert any(isinstance(step, Script) for step in model.trunk.recorded.values())


def test_a_recording_holds_neither_the_role_it_was_made_of_nor_the_base_s_embedding(make_tiny):
    model = make_tiny("llama").load()
    decoder = Decoder(model.trunk, Adapter(model.spec, 2, seed=3))
    said(model, decoder, rows())
    assert any(isinstance(step, Script) for step in model.trunk.recorded.values())
    gone, embedding = weakref.ref(decoder), weakref.ref(model.trunk.embed)
    del decoder
    gc.collect()
    assert gone() is None
    del model
    gc.collect()
    assert embedding() is None


def test_a_product_takes_as_many_rows_recorded_as_it_does_otherwise():
    for count in range(1, CHUNK + 1):
        assert torch.jit.script(kernels.few_recurring)(count) == kernels.recurring(count)
        assert kernels.recurring(count) >= count
    assert len({kernels.recurring(n) for n in range(1, 4097)}) <= 40


def test_a_batch_whose_steps_can_not_be_recorded_goes_on_with_growing_ones(llama, monkeypatch):
    monkeypatch.setattr(Replay, "failed", True)
    plain = Decoder(llama.trunk, None)
    fixed = replace(plain, fixed=True)
    assert said(llama, fixed, rows()) == said(llama, plain, rows())
    assert not fixed.fixed


def test_a_chat_goes_on_from_the_cache_that_a_graph_filled(llama):
    fixed = replace(Decoder(llama.trunk, None), fixed=True)
    prompts = rows(1)
    first = Batch(fixed, prompts, llama.render.end_ids)
    while not first.done:
        first.advance()
    longer = [*prompts[0].prompt, *prompts[0].tokens, 40, 41]
    assert first.column < len(longer)
    again = Row(longer, 9, 8)
    from hhchat.model.decode import Prefix

    kept = Prefix()
    kept.keep(first)
    second = Batch(fixed, [again], llama.render.end_ids, None, kept)
    while not second.done:
        second.advance()
    assert [again.tokens] == said(llama, Decoder(llama.trunk, None), [Row(longer, 9, 8)])


def test_a_step_of_fixed_shape_makes_no_tensor_whose_size_depends_on_the_column(llama):
    fixed = replace(Decoder(llama.trunk, None), fixed=True)
    shapes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            told = [
                tuple(t.shape) for t in torch.utils._pytree.tree_leaves(out) if hasattr(t, "shape")
            ]
            shapes[-1].append((str(func), told))
            return out

    batch = Batch(fixed, rows(3), llama.render.end_ids)
    batch.advance()
    batch.advance()  # its buffers are there from here on
    for _ in range(3):
        shapes.append([])
        with Watch():
            batch.advance()
    assert len(shapes[0]) > 50
    assert shapes[0] == shapes[1] == shapes[2]
    synced = [name for name, _ in shapes[0] if "_local_scalar_dense" in name or "nonzero" in name]
    assert len(synced) <= 3  # what tolist reads; nothing inside the step waits for the device


def test_work_that_can_not_be_recorded_is_run_as_written(llama):
    turns = []
    replay = Replay(lambda: torch.tensor(turns.append(0) or len(turns)), torch.device("cpu"))
    assert [int(replay()) for _ in range(3)] == [1, 2, 3]


class FakeCuda:
    """torch.cuda as far as a recording goes: whose device and stream a turn is run on."""

    def __init__(self, fails: bool) -> None:
        self.fails, self.devices, self.streams, self.made = fails, [0], ["main"], 0

    def Stream(self, device):
        self.made += 1
        owner = self

        class Stream(str):
            def wait_stream(self, other):
                assert owner.devices[-1] == device.index

        return Stream(f"side{self.made}")

    @contextmanager
    def device(self, device):
        self.devices.append(device.index)
        yield
        self.devices.pop()

    @contextmanager
    def stream(self, stream):
        self.streams.append(stream)
        yield
        self.streams.pop()

    @contextmanager
    def graph(self, graph, stream, capture_error_mode):
        self.streams.append(stream)
        yield
        if self.fails:  # as torch does: the stream is left as it was while recording
            raise RuntimeError("operation failed due to a previous error during capture")
        self.streams.pop()

    def current_stream(self):
        found = self.streams[-1]
        return found if found != "main" else SimpleNamespace(wait_stream=lambda other: None)

    def set_stream(self, stream):
        del self.streams[1:]

    def CUDAGraph(self):
        return SimpleNamespace(replay=lambda: None)


@pytest.mark.parametrize("fails", [False, True])
def test_recordings_share_a_stream_of_their_own_device_and_leave_it(monkeypatch, fails):
    fake = FakeCuda(fails)
    for name in ("Stream", "device", "stream", "graph", "current_stream", "set_stream"):
        monkeypatch.setattr(torch.cuda, name, getattr(fake, name))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", fake.CUDAGraph)
    replay_module._side.cache_clear()
    where = []
    for _ in range(2):
        replay = Replay(
            lambda: where.append((fake.devices[-1], fake.streams[-1])) or torch.zeros(1),
            torch.device("cuda:1"),
        )
        for _ in range(3):
            replay()
            assert fake.streams == ["main"]
            assert fake.devices == [0]
    replay_module._side.cache_clear()
    turns = [(1, "side1"), (1, "side1")] + [(0, "main")] * (2 if fails else 0)
    assert where == turns * 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("quantization", ["none", "int8"])
def test_a_recorded_step_says_what_it_says_unrecorded(make_tiny, quantization):
    from hhchat.model import load_model
    from hhchat.model.engine import make_decoder

    model = load_model(str(make_tiny("llama").folder), quantization=quantization, device="cuda")
    graphs = make_decoder(model, None, model.fast)
    assert graphs.fixed
    want = said(model, replace(graphs, fixed=False), rows())
    got = said(model, graphs, rows())
    same = sum(a == b for a, b in zip(got, want, strict=True))
    assert same >= len(want) - 1  # bf16 attention over more keys may round otherwise
