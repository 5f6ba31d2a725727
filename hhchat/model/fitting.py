"""Work that is made smaller and tried again when memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")

NO_MEMORY = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED")  # a plain RuntimeError says so


def out_of_memory(error: BaseException) -> bool:
    """Whether smaller work could cure this."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and any(sign in str(error) for sign in NO_MEMORY)
    )


def until_it_fits(work: Callable[[], T], shrink: Callable[[], None]) -> T:
    """`work()`, again after each `shrink()` for as long as memory runs out."""
    while True:
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        shrink()  # not in the handler: its traceback holds the tensors of the failed pass
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
