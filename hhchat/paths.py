"""Every "where": the data folder and what lies in it. Nothing here creates a file."""

from __future__ import annotations

import os
from pathlib import Path

from hhchat.types import StoreError


def home() -> Path:
    """The data folder: HHCHAT_HOME, else the platform's user data folder."""
    chosen = os.environ.get("HHCHAT_HOME")
    if chosen:
        return Path(chosen).expanduser().absolute()
    from platformdirs import user_data_path

    return user_data_path("hhchat", appauthor=False)


def database() -> Path:
    """The SQLite file with conversations, comparisons, runs and promotions."""
    return home() / "hhchat.db"


def snapshots() -> Path:
    """The folder of immutable snapshots, one folder each."""
    return home() / "snapshots"


def runs() -> Path:
    """The folder of training runs: their output and resumable state."""
    return home() / "runs"


def train_lock() -> Path:
    """The file that a training run holds locked for as long as it lives."""
    return home() / "train.lock"


def config_file() -> Path:
    """The one TOML file of settings; it need not exist."""
    return home() / "config.toml"


def ensure(folder: Path) -> Path:
    """Make `folder`, readable by its owner only (0700), and return it.

    A folder that exists keeps its mode: it may be one the user shares on purpose, such as /tmp.
    Raises StoreError when it cannot be made.
    """
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make the folder {folder}: {error.strerror or error}") from error
    return folder
