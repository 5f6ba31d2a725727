"""Told to OpenMP before torch loads it, and how torch is loaded beside a screen.

A thread that waits for the others spins, and on a busy machine it spins against the very thread
it waits for: on 2 cores with one of them taken, a training step took 20 times its time. A short
spin keeps an idle machine as fast and a busy one usable. A value that the user has set stands.
"""

import os
import sys
import threading
from contextlib import suppress

os.environ.setdefault("GOMP_SPINCOUNT", "2000")
# oneDNN keeps the code it writes for each shape of product: for all that recur in a run
# (kernels.recurring), as writing it again is dear. torch keeps descriptions of its own, a quarter
# of a MiB each: of the products of one step of decoding, which is a twentieth slower without.
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "1024")
os.environ.setdefault("LRU_CACHE_CAPACITY", "16")


def open_libraries() -> None:
    """Have the system load torch's libraries without Python's lock.

    `import torch` opens 400 MB of them with the lock held: a third of a second in which a chat
    that loads its model in a thread answers no key. A function called through ctypes runs without
    the lock, and the import then finds the libraries open. Where that is not possible, torch
    loads as it always does.
    """
    import ctypes
    from importlib.util import find_spec
    from pathlib import Path

    found = find_spec("torch")
    if found is None or found.origin is None or not sys.platform.startswith("linux"):
        return
    library = Path(found.origin).with_name("lib") / "libtorch_python.so"
    if library.is_file():
        dlopen = ctypes.CDLL(None).dlopen
        dlopen.argtypes, dlopen.restype = [ctypes.c_char_p, ctypes.c_int], ctypes.c_void_p
        dlopen(os.fsencode(library), os.RTLD_NOW)


if "torch" not in sys.modules and threading.current_thread() is not threading.main_thread():
    with suppress(Exception):  # only for speed: what is wrong shows when torch is imported
        open_libraries()
