"""A step whose tensors stay in place: CUDA records its kernels once and launches them as one graph.

Decoding a small model is bound by launches: a step of 22 layers is hundreds of kernels of a few
microseconds each. A graph launches them in one call.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Replay:
    """`work()` again and again. It reads and writes tensors that stay where they are, changes what
    it needs for its next turn itself, and gives the same tensor each time.

    Run as written on a CPU. On CUDA its first turn is run as written too (libraries set up their
    workspaces then), its second is recorded, and from there on it is replayed. What can not be
    recorded is run as written for good.
    """

    def __init__(self, work: Callable[[], Tensor], device: torch.device) -> None:
        self._work = work
        self._records = device.type == "cuda"
        self._warm = False
        self._graph: torch.cuda.CUDAGraph | None = None
        self._out: Tensor | None = None

    def __call__(self) -> Tensor:
        if not self._records:
            return self._work()
        if not self._warm:
            self._warm = True
            return self._aside()
        if self._graph is None and not self._record():
            return self._work()
        assert self._graph is not None
        assert self._out is not None
        self._graph.replay()
        return self._out

    def _aside(self) -> Tensor:
        """A turn on a stream of its own, as recording wants it."""
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            made = self._work()
        torch.cuda.current_stream().wait_stream(stream)
        return made

    def _record(self) -> bool:
        """Record a turn without running it; False where something in it can not be recorded."""
        graph = torch.cuda.CUDAGraph()
        try:
            # other threads may use the device meanwhile
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                out = self._work()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            self._records = False
            return False
        self._graph, self._out = graph, out
        return True
