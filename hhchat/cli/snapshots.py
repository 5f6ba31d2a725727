"""`hhchat snapshots`: the assistant's versions. Promotions are rows that are only ever added."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hhchat.cli._common import DefaultGroup, emit, json_option, load_plugins, open_store, say, table
from hhchat.types import Snapshot

if TYPE_CHECKING:
    from hhchat.store import Store


@click.group("snapshots", cls=DefaultGroup)
def command() -> None:
    """List the assistant's versions, switch or roll back."""


@command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """All snapshots, oldest first, and which is current."""
    with open_store(reading=True) as store:
        rows = [record(store, s) for s in store.snapshots()]
        current = store.current()
    if as_json:
        for row in rows:
            emit(row)
        return
    now = current.id if current else "base"
    say(f"the assistant is {now}" + ("" if rows else ": nothing has been trained yet"))
    table(
        ("snapshot", "state", "created", "run", "parent", "base"),
        [(r["id"], r["state"], r["created"], r["run"], r["parent"], r["base"]) for r in rows],
    )


@command.command("show")
@click.argument("snapshot_id", metavar="ID")
@json_option
def show(snapshot_id: str, as_json: bool) -> None:
    """One snapshot, what was measured of it, and the promotions it had."""
    from hhchat.snapshots import folder_of

    with open_store(reading=True) as store:
        snapshot = store.snapshot(snapshot_id)
        row = {**record(store, snapshot), "folder": str(folder_of(snapshot))}
    row["info"] = dict(snapshot.info)
    if as_json:
        emit(row)
        return
    for key in ("id", "state", "created", "run", "parent", "base", "folder"):
        say(f"{key:<10} {row[key] if row[key] not in (None, '') else '-'}")
    info = row["info"]
    for reason in info.get("reasons", ()):
        say(f"gate       {reason}")
    measurements = info.get("measurements") or {}
    if measurements:
        say()
    table(
        ("measured", "value", "from", "to", "n"),
        [(n, m.get("value"), m.get("low"), m.get("high"), m.get("n")) for n, m in
         measurements.items()],
    )  # fmt: skip


@command.command("use")
@click.argument("snapshot_id", metavar="ID")
@json_option
def use(snapshot_id: str, as_json: bool) -> None:
    """Make ID (or `base`) the assistant; `rollback` takes it back."""
    from hhchat.snapshots import folder_of, part

    with open_store() as store:
        if snapshot_id == "base":
            store.promote("base", reason="chosen by hand")
        else:
            snapshot = store.snapshot(snapshot_id)
            part(folder_of(snapshot), "policy")  # a missing or damaged folder is refused here
            store.promote(snapshot.id, reason="chosen by hand")
        _tell(store, as_json)


@command.command("rollback")
@json_option
def rollback(as_json: bool) -> None:
    """Return to the assistant before this one."""
    from hhchat.snapshots import whole

    with open_store() as store:
        store.rollback(whole)
        _tell(store, as_json)


def _tell(store: Store, as_json: bool) -> None:
    """Say which one it is now, to the user and to the plugins."""
    current = store.current()
    if current is not None:
        load_plugins().snapshot_promoted(current)
    if as_json:
        emit({"current": current.id if current else "base"})
    else:
        say(f"the assistant is now {current.id if current else 'the base'}")


def record(store: Store, snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot as `--json` prints it. Promoted is what was ever the assistant, also by hand."""
    current = store.current()
    promoted = any(promotion.snapshot == snapshot.id for promotion in store.promotions())
    is_current = current is not None and current.id == snapshot.id
    return {
        "id": snapshot.id,
        "current": is_current,
        "state": "current" if is_current else "promoted" if promoted else "refused",
        "created": snapshot.created,
        "run": snapshot.run,
        "parent": snapshot.parent,
        "base": snapshot.base,
    }
