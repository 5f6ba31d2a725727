"""Several processes as one run: which rows are whose, and how they agree on what follows.

`accelerate launch --multi_gpu --num_processes N -m hhchat train` (torchrun too) starts N equal
processes. Each holds the base and the adapters, and runs its share of every batch: replies, scores
and gradients. All that is small is then gathered, so each computes the same advantages, KL and
verdicts from the same numbers, takes the same step, and ends with the same bits. The main process
(rank 0) alone reads the database, writes files and speaks; `hhchat.crew` tells the others what to
do. One process is `ALONE`, whose methods give back what they are given; torch.distributed is loaded
only where several were launched.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from hhchat.types import BadInput, HhchatError

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")


class Lost(HhchatError):
    """Another process of the run is gone: nothing can be agreed with it any more."""


class World:
    """The processes of one run, seen from one of them. This class: the one process of a run."""

    rank, size, local = 0, 1, 0

    @property
    def main(self) -> bool:
        """Whether this process writes, speaks and decides."""
        return self.rank == 0

    def everyone(self, value: T) -> list[T]:
        """What each process gives, in the order of their ranks. All must call it."""
        return [value]

    def from_main(self, make: Callable[[], T]) -> T:
        """What the main process makes, on every process; the others do not call `make`."""
        return make()

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Each tensor becomes its sum over the processes, in fp32 and to the same bits on all."""

    def share(self, sizes: Sequence[float]) -> list[int]:
        """This process's rows of a batch, ascending: dealt out in order of size, so that each has
        its part of the long ones, and so that no timing has a say."""
        order = sorted(range(len(sizes)), key=lambda i: (sizes[i], i))
        return sorted(order[self.rank :: self.size])

    def spread(
        self, rows: Sequence[R], sizes: Sequence[float], work: Callable[[Sequence[R]], list[T]]
    ) -> list[T]:
        """`work(rows)`, one value a row, with each process doing its share of the rows."""
        if self.size == 1:
            return work(rows)
        mine = self.share(sizes)
        made = work([rows[i] for i in mine]) if mine else []
        found = {
            i: value
            for indices, values in self.everyone((mine, made))
            for i, value in zip(indices, values, strict=True)
        }
        return [found[i] for i in range(len(rows))]

    def any(self, flag: bool) -> bool:
        return any(self.everyone(flag))

    def agree(self, tensors: Iterable[Tensor]) -> None:
        """Raise HhchatError unless every process holds the same bits."""
        if self.size == 1:
            return
        digest = hashlib.sha256()
        for tensor in tensors:
            digest.update(tensor.detach().cpu().reshape(-1).numpy().tobytes())
        if len(set(self.everyone(digest.digest()))) > 1:
            raise HhchatError(
                "the processes of this run no longer hold the same weights; "
                "are their devices and library versions alike?"
            )

    def device(self, wanted: str) -> str:
        """The device of this process where `wanted` is what the settings ask for."""
        return wanted


ALONE = World()


class Several(World):
    """One of several processes, through torch.distributed."""

    def __init__(self, *, cuda: bool, local: int) -> None:
        import torch.distributed as dist

        self.rank, self.size, self.local = dist.get_rank(), dist.get_world_size(), local
        self._cuda = cuda

    def everyone(self, value: T) -> list[T]:
        import torch.distributed as dist

        out: list[Any] = [None] * self.size
        with _together():
            dist.all_gather_object(out, value)
        return out

    def from_main(self, make: Callable[[], T]) -> T:
        import torch.distributed as dist

        told: list[Any] = [None, None]
        failed: Exception | None = None
        if self.main:
            try:
                told[0] = make()
            except Exception as error:  # the others would wait for an answer for ever
                failed, told[1] = error, str(error) or type(error).__name__
        with _together():
            dist.broadcast_object_list(told, src=0)
        if failed is not None:
            raise failed
        if told[1] is not None:
            raise HhchatError(told[1])
        value: T = told[0]
        return value

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        import torch
        import torch.distributed as dist

        tensors = list(tensors)
        if not tensors:
            return
        flat = torch.cat([t.detach().reshape(-1).float() for t in tensors])
        with _together():
            dist.all_reduce(flat)
        with torch.no_grad():
            parts = torch.split(flat, [t.numel() for t in tensors])
            for tensor, part in zip(tensors, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def device(self, wanted: str) -> str:
        if not self._cuda:
            return "cpu" if wanted == "auto" else wanted
        return f"cuda:{self.local}" if wanted in ("auto", "cuda") else wanted


@contextlib.contextmanager
def _together() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo and NCCL raise its subclasses when a connection breaks
        raise Lost(f"another process of this run is gone ({str(error).splitlines()[0]})") from None


def launched() -> int:
    """How many processes a launcher has started for this run: 1 without one."""
    try:
        return max(1, int(os.environ.get("WORLD_SIZE", "1"))) if "RANK" in os.environ else 1
    except ValueError:
        return 1


def launched_in_vain() -> str | None:
    """A line for whoever asked accelerate for several processes and got one."""
    asked = "MASTER_ADDR" in os.environ and "ACCELERATE_MIXED_PRECISION" in os.environ
    if not asked or launched() > 1:
        return None
    return (
        "accelerate started one process: with --cpu it needs mpirun for more; "
        "leave --cpu out and say --multi_gpu --num_processes N, also on a CPU"
    )


@contextlib.contextmanager
def joined() -> Iterator[World]:
    """The processes that a launcher has started, met; ALONE without one. Raises BadInput when the
    launcher has not said where they meet."""
    if launched() == 1:
        yield ALONE
        return
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    local = int(os.environ.get("LOCAL_RANK", "0"))
    told_cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    cuda = torch.cuda.is_available() and not told_cpu
    if cuda:
        if local >= torch.cuda.device_count():
            raise BadInput(
                f"process {local + 1} has no GPU of its own: this machine has "
                f"{torch.cuda.device_count()}; use --num_processes {torch.cuda.device_count()}"
            )
        torch.cuda.set_device(local)
    try:
        # A process that dies breaks its connections at once; only a slow one may take its time.
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo", timeout=timedelta(hours=12)
        )
    except (RuntimeError, ValueError) as error:
        raise BadInput(
            f"the processes cannot meet ({str(error).splitlines()[0]}); start them with: "
            "accelerate launch --multi_gpu --num_processes N -m hhchat train"
        ) from None
    try:
        yield Several(cuda=cuda, local=local)
    finally:
        leave()


def leave() -> None:
    """Close this process's connections to the others: whoever waits for it is told at once."""
    import torch.distributed as dist

    with contextlib.suppress(Exception):
        dist.destroy_process_group()
