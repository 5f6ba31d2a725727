"""Passes that do not wait for each other, side by side on a CPU.

A second thread waits at each of the hundreds of small products of a pass. Two passes at a time,
with half of the threads each, wait for each other but once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

import torch

T = TypeVar("T")

LANES = 2
WORTH = 768  # tokens: a pass over few is mostly calls, which Python makes one at a time
_mine = threading.local()  # `taken` inside of a lane: what it calls stays in it


def lanes(device: torch.device, sizes: Sequence[int], tokens: int) -> int:
    """How many passes are to be made at a time over rows of these sizes, with room for so many
    tokens in all: 1 where they are few, where one row takes more than its part of the room, where
    torch has one thread, on a GPU, and inside of a lane."""
    worth = sum(sizes) >= WORTH and max(sizes, default=0) * LANES <= tokens
    free = device.type == "cpu" and torch.get_num_threads() >= LANES
    return LANES if worth and free and not getattr(_mine, "taken", False) else 1


def settle() -> None:
    """Have MKL as `side_by_side` leaves it (torch tells it to use as many threads as it is given),
    so that a run that goes on multiplies from its start as the run that was left alone does."""
    torch.set_num_threads(torch.get_num_threads())


def side_by_side(works: Sequence[Callable[[], T]], count: int) -> list[T]:
    """What the works give, in their order. With a `count` of LANES each is done by the lane that is
    free next, with a count of 1 one after the other.

    A work is to set the grad mode that it needs, for that is a thread's own. What one raises is
    raised here, when the other lane has ended what it was at and left the rest."""
    if len(works) < 2 or count == 1:
        return [work() for work in works]
    threads = torch.get_num_threads()
    tasks, made, failed = iter(enumerate(works)), dict[int, T](), threading.Event()

    def lane() -> None:
        torch.set_num_threads(threads // LANES)
        _mine.taken = True
        try:
            while not failed.is_set() and (task := next(tasks, None)) is not None:
                made[task[0]] = task[1]()
        except BaseException:
            failed.set()
            raise
        finally:
            _mine.taken = False

    other: Future[None] | None = None
    try:
        other = _other().submit(lane)
        lane()
    except BaseException:
        failed.set()
        raise
    finally:
        try:
            if other is not None and not other.cancel():
                wait([other])
        finally:
            torch.set_num_threads(threads)
    try:
        if not other.cancelled():  # else it had not begun, and this one has done it all
            other.result()
    finally:
        del other  # its error would hold this frame, which holds it, and what failed in between
    return [made[i] for i in range(len(works))]


@cache
def _other() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(LANES - 1, thread_name_prefix="lane")
