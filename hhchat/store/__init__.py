"""The record: what was said, sampled, picked, trained and promoted. The only SQL in the house."""

from hhchat.store.conversations import TIP
from hhchat.store.runs import Runs

__all__ = ["TIP", "Store"]


class Store(Runs):
    """Nouns in, nouns out; see `Connection` for opening, threads and transactions.

    A context manager. One Store a thread. Every method raises StoreError, in one line for the
    user, when the file cannot be read or written, and BadInput for an id that does not exist.
    """
