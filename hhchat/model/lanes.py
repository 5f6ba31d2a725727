"""Passes that do not wait for each other, side by side on a CPU.

A second thread waits at each of the hundreds of small products of a pass. Two passes at a time,
with half of the threads each, wait for each other but once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

import torch

T = TypeVar("T")

LANES = 2
WORTH = 768  # tokens: a pass over few is mostly calls, which Python makes one at a time
_mine = threading.local()  # `taken` inside of a lane: what it calls stays in it


def lanes(device: torch.device, tokens: int) -> int:
    """How many passes a device is to make of so many tokens, at the least, to do them side by side:
    1 where they are few or torch has one thread, and on a GPU."""
    return LANES if tokens >= WORTH and _free(device) else 1


def _free(device: torch.device) -> bool:
    taken = getattr(_mine, "taken", False)
    return device.type == "cpu" and torch.get_num_threads() >= LANES and not taken


def side_by_side(works: Sequence[Callable[[], T]], device: torch.device) -> list[T]:
    """What the works give, in their order, each done by the lane that is free next.

    A work is to set the grad mode that it needs, for that is a thread's own. What one raises is
    raised here, when the other lane has ended what it was at and left the rest."""
    if len(works) < 2 or not _free(device):
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

    other = _other().submit(lane)
    try:
        lane()
    finally:
        other.cancel()  # where it has not begun, this one has done it all
        wait([other])
        torch.set_num_threads(threads)
    if not other.cancelled():
        other.result()
    return [made[i] for i in range(len(works))]


@cache
def _other() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(LANES - 1, thread_name_prefix="lane")
