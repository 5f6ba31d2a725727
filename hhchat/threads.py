"""Told to OpenMP before torch loads it.

A thread that waits for the others spins, and on a busy machine it spins against the very thread
it waits for: on 2 cores with one of them taken, a training step took 20 times its time. A short
spin keeps an idle machine as fast and a busy one usable. A value that the user has set stands.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "2000")
