"""Snapshot folders: what is in one, and how a name ("current", "base", an id) finds it.

A snapshot is a folder of safetensors and JSON that never changes once it is published.
`snapshot.json` says which of its folders holds the policy and which the preference model.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hhchat import paths
from hhchat.sealing import read_json
from hhchat.types import HhchatError, ModelError, Snapshot

if TYPE_CHECKING:
    from hhchat.store import Store

MANIFEST = "snapshot.json"
BASE = "base"
CURRENT = "current"
MOST = 64  # replies that a best-of draws


def folder_of(snapshot: Snapshot) -> Path:
    """Where a snapshot's files are."""
    return paths.snapshots() / snapshot.path


def manifest(folder: Path) -> dict[str, Any]:
    """What a snapshot folder says about itself; HhchatError when it is missing or half there."""
    if not folder.is_dir():
        raise HhchatError(
            f"snapshot {folder.name} is missing: {folder} does not exist. "
            "`hhchat snapshots rollback` returns to the one before, `use` to any other"
        )
    told = read_json(folder / MANIFEST)
    if not isinstance(told, dict):
        raise HhchatError(f"snapshot {folder.name} is damaged: {MANIFEST} is not an object")
    return told


def part(folder: Path, role: str) -> Path | None:
    """The folder of a snapshot's `policy` or `preference`; None when it has none."""
    name = manifest(folder).get(role)
    if name is None:
        return None
    inside = folder / str(name)
    if not inside.resolve().is_relative_to(folder.resolve()):
        raise HhchatError(f"snapshot {folder.name} is damaged: its {role} lies outside of it")
    if not inside.is_dir():
        raise HhchatError(f"snapshot {folder.name} is damaged: its {role} ({name}) is missing")
    return inside


def whole(snapshot: Snapshot) -> None:
    """Raises HhchatError when what the snapshot's manifest names is missing or cut short."""
    from safetensors import SafetensorError, safe_open

    for role in ("policy", "preference"):
        inside = part(folder_of(snapshot), role)
        if inside is None:
            continue
        files = {*inside.glob("*.safetensors")}
        if (inside / "adapter_config.json").is_file():
            files.add(inside / "adapter_model.safetensors")
        try:
            for file in sorted(files):
                with safe_open(str(file), framework="numpy"):  # its header and its length
                    pass
        except (SafetensorError, OSError) as error:
            raise HhchatError(
                f"snapshot {snapshot.id} is damaged: {file.name} of its {role}: {error}. "
                "`hhchat snapshots rollback` returns to the one before, `use` to any other"
            ) from None


def best_of(folder: Path | None) -> int:
    """How many replies a snapshot draws to say its favourite; 1 for the bare base (None)."""
    k = 1 if folder is None else manifest(folder).get("best_of", 1)
    if not isinstance(k, int) or not 1 <= k <= MOST:
        raise HhchatError(f"snapshot {folder and folder.name} is damaged: its best_of is {k!r}")
    return k


def find(store: Store, name: str) -> Snapshot | None:
    """The snapshot called `name`; None is the bare base. Unknown names are refused."""
    if name == BASE:
        return None
    if name == CURRENT:
        return store.current()
    return store.snapshot(name)


def preference_of(store: Store, name: str = CURRENT) -> Path | None:
    """The folder of the preference model that goes with a snapshot; None when there is none."""
    snapshot = find(store, name)
    return None if snapshot is None else part(folder_of(snapshot), "preference")


@dataclass
class Resolver:
    """What the engine asks: a name -> the id to record and the policy adapter's folder.

    `extra` names folders that are not in the store yet (a candidate before the gate). Answers
    about ids are kept, because a snapshot never changes; "current" is asked each time. With
    `base`, adapters of another base model are refused, and "current" is that base itself when
    the promoted snapshot belongs to another one.

    The engine asks from a worker thread, and a store belongs to the thread that made it: other
    threads read through a connection of their own.
    """

    store: Store
    extra: Mapping[str, Path] = field(default_factory=dict)
    base: str | None = None
    _known: dict[str, Path] = field(default_factory=dict)
    _parts: dict[tuple[str, str], Path | None] = field(default_factory=dict)
    _best: dict[str, int] = field(default_factory=dict)
    _owner: int = field(default_factory=threading.get_ident)
    _local: threading.local = field(default_factory=threading.local)

    def __call__(self, name: str) -> tuple[str, Path | None]:
        snapshot_id = self._id(name)
        return snapshot_id, self._part(snapshot_id, "policy")

    def preference(self, name: str) -> Path | None:
        """The preference model that goes with a snapshot; None when it has none."""
        return self._part(self._id(name), "preference")

    def best_of(self, name: str) -> int:
        """How many replies the assistant of that name draws to say its favourite; 1: it says what
        comes. A snapshot of few picks is the base with a preference model that chooses."""
        snapshot_id = self._id(name)
        if snapshot_id not in self._best:
            folder = None if snapshot_id == BASE else self._known[snapshot_id]
            self._best[snapshot_id] = best_of(folder)
        return self._best[snapshot_id]

    def folder(self, name: str) -> Path | None:
        """The snapshot's own folder; None for the bare base."""
        snapshot_id = self._id(name)
        return None if snapshot_id == BASE else self._known[snapshot_id]

    def _id(self, name: str) -> str:
        if name == BASE or name in self._known:
            return name
        if name in self.extra:
            self._known[name] = self.extra[name]
            return name
        snapshot = find(self._store(), name)
        if snapshot is None:
            return BASE
        if self.base is not None and snapshot.base != self.base:
            if name == CURRENT:
                return BASE
            raise ModelError(
                f"snapshot {snapshot.id} was trained on {snapshot.base}, and this is {self.base}"
            )
        self._known[snapshot.id] = folder_of(snapshot)
        return snapshot.id

    def _part(self, snapshot_id: str, role: str) -> Path | None:
        if snapshot_id == BASE:
            return None
        key = (snapshot_id, role)
        if key not in self._parts:
            self._parts[key] = part(self._known[snapshot_id], role)
        return self._parts[key]

    def _store(self) -> Store:
        if threading.get_ident() == self._owner:
            return self.store
        own: Store | None = getattr(self._local, "store", None)
        if own is None:
            own = self._local.store = type(self.store)(self.store.path, read_only=True)
        return own
