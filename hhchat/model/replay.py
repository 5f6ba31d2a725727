"""Steps that are recorded once and then run without Python between their kernels.

Decoding a small model is bound by what calls its kernels: a step of 22 layers is hundreds of them,
of a few microseconds each. CUDA records a step whose tensors stay in place as a graph, which is
launched in one call; on a CPU TorchScript runs what has been recorded.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor

from hhchat.model.packed import recording

_TURN = threading.Lock()  # a process records one graph at a time


@cache
def _side(device: torch.device) -> torch.cuda.Stream:
    """The one stream on which a device warms up and records: torch keeps memory and a workspace of
    tens of MiB for each stream that it has met."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class Replay:
    """`work()` again and again. It reads and writes tensors that stay where they are, changes what
    it needs for its next turn itself, and gives the same tensor each time.

    Run as written on a CPU. On CUDA its first turn is run as written too (libraries set up their
    workspaces then), its second is recorded, and from there on it is replayed. What can not be
    recorded is run as written for good, and `failed` says so.
    """

    failed = False

    def __init__(self, work: Callable[[], Tensor], device: torch.device) -> None:
        self._work, self._device = work, device
        self._records = device.type == "cuda"
        self._warm = False
        self._graph: torch.cuda.CUDAGraph | None = None
        self._out: Tensor | None = None

    def __call__(self) -> Tensor:
        if self._records and self._graph is None:
            # on another device than the current one, kernels would pass a recording by
            with _TURN, torch.cuda.device(self._device):
                if not self._warm:
                    self._warm = True
                    return self._aside()
                self._record()
        if self._graph is None:
            return self._work()
        assert self._out is not None
        self._graph.replay()
        return self._out

    def _aside(self) -> Tensor:
        """A turn on a stream of its own, as recording wants it."""
        stream = _side(self._device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            made = self._work()
        torch.cuda.current_stream().wait_stream(stream)
        return made

    def _record(self) -> None:
        """Record a turn without running it, unless something in it can not be recorded."""
        graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # other threads may use the device meanwhile
            with torch.cuda.graph(
                graph, stream=_side(self._device), capture_error_mode="thread_local"
            ):
                out = self._work()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            self._records, self.failed = False, True
            return
        finally:
            torch.cuda.set_stream(before)  # torch stays on the other one when recording fails
        self._graph, self._out = graph, out


class Script:
    """`work`, recorded at `given` (tensors, and tuples of them): what it did with them it does with
    others from then on, Python's own choices and numbers as they were. It is run twice here.
    `failed` says that it can not be recorded."""

    def __init__(self, work: Callable[..., Tensor], given: tuple[Any, ...]) -> None:
        self._made: Callable[..., Tensor] | None = None
        # what torch says of its own TorchScript changes, and so may the errors: without a recording
        # nothing is lost but time
        with suppress(Exception), _TURN, warnings.catch_warnings():
            # torch would have us record for a compiler, which few people's machines have
            warnings.simplefilter("ignore")
            recording.on = True
            try:
                made = torch.jit.trace(work, given, check_trace=False)  # type: ignore[no-untyped-call]
            finally:
                recording.on = False
            made._torchdynamo_inline = None  # it would hold `work`, and a decoder with it
            # each number is recorded anew where it is met: most of what a recording holds
            torch._C._jit_pass_constant_pooling(made.graph)  # type: ignore[attr-defined]
            self._run(made, given)
            self._made = made

    @property
    def failed(self) -> bool:
        return self._made is None

    def __call__(self, *given: Any) -> Tensor:
        assert self._made is not None
        return self._run(self._made, given)

    @staticmethod
    def _run(made: Callable[..., Tensor], given: tuple[Any, ...]) -> Tensor:
        # torch's passes over a recording gain nothing here, and hold 12 MiB
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            return made(*given)
