"""Runs, their metrics, snapshots, and the list of promotions whose last row is the assistant."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from hhchat.store import rows
from hhchat.store.comparisons import Comparisons
from hhchat.store.conversations import find
from hhchat.store.ids import new_id, now
from hhchat.types import BadInput, Comparison, Metric, Promotion, Run, Snapshot

State = Literal["running", "promoted", "refused", "failed", "interrupted"]


class Runs(Comparisons):
    def start_run(
        self,
        stages: Sequence[str],
        seed: int,
        base: str,
        data: Mapping[str, Any] | None = None,
    ) -> Run:
        """Open a run's row, state "running". `data` is JSON: comparison ids, config, versions."""
        run = Run(
            id=new_id(),
            state="running",
            stages=tuple(stages),
            seed=seed,
            base=base,
            created=now(),
            data=dict(data or {}),
        )
        with self.writing() as conn:
            conn.execute(
                "INSERT INTO run (id, state, stages, seed, base, created, data)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    run.id,
                    run.state,
                    rows.pack(list(stages)),
                    str(seed),
                    base,
                    run.created,
                    rows.pack(run.data),
                ],
            )
        return run

    def finish_run(
        self, id: str, state: State, reason: str | None = None, snapshot: str | None = None
    ) -> Run:
        """Say how a run ended; "running" opens it again, for --resume."""
        with self.writing() as conn:
            id = find(conn, "run", id)["id"]
            conn.execute(
                "UPDATE run SET state = ?, reason = ?, finished = ?,"
                " snapshot = coalesce(?, snapshot) WHERE id = ?",
                [
                    state,
                    None if reason is None else rows.clean(reason),
                    None if state == "running" else now(),
                    snapshot,
                    id,
                ],
            )
            return rows.to_run(find(conn, "run", id))

    def run(self, id: str) -> Run:
        """The run of this id or unique start of one. Raises BadInput."""
        with self.reading() as conn:
            return rows.to_run(find(conn, "run", id))

    def runs(self, limit: int | None = None) -> list[Run]:
        """The latest first."""
        with self.reading() as conn:
            found = conn.execute(
                "SELECT * FROM run ORDER BY id DESC LIMIT ?", [-1 if limit is None else limit]
            )
            return [rows.to_run(row) for row in found]

    def add_metrics(self, run_id: str, metrics: Iterable[Metric]) -> None:
        """Append readings, in one transaction."""
        with self.writing() as conn:
            conn.executemany(
                "INSERT INTO metric (run, stage, step, name, value) VALUES (?, ?, ?, ?, ?)",
                [(run_id, m.stage, m.step, m.name, float(m.value)) for m in metrics],
            )

    def metrics(
        self, run: str | None = None, stage: str | None = None, name: str | None = None
    ) -> list[Metric]:
        """Readings in the order they were taken; by default those of the latest run."""
        with self.reading() as conn:
            if run is None:
                (run,) = conn.execute("SELECT max(id) FROM run").fetchone()
            equal = {"run": run, "stage": stage, "name": name}
            equal = {k: v for k, v in equal.items() if v is not None or k == "run"}
            where = " AND ".join(f"{k} = :{k}" for k in equal)
            found = conn.execute(f"SELECT * FROM metric WHERE {where} ORDER BY n", equal)
            return [rows.to_metric(row) for row in found]

    # -- snapshots and promotions ------------------------------------------------------------

    def add_snapshot(self, snapshot: Snapshot) -> Snapshot:
        """Register a sealed snapshot folder. Raises BadInput when the id is taken."""
        snapshot = replace(snapshot, created=snapshot.created or now())
        if not snapshot.id or snapshot.id in ("base", "current"):
            raise BadInput(f"{snapshot.id!r} cannot name a snapshot")
        with self.writing() as conn:
            try:
                conn.execute(
                    "INSERT INTO snapshot (id, path, run, parent, base, created, info)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    [
                        snapshot.id,
                        snapshot.path,
                        snapshot.run,
                        snapshot.parent,
                        snapshot.base,
                        snapshot.created,
                        rows.pack(dict(snapshot.info)),
                    ],
                )
            except sqlite3.IntegrityError as error:
                raise BadInput(f"cannot register snapshot {snapshot.id!r}: {error}") from error
        return snapshot

    def snapshot(self, id: str) -> Snapshot:
        """The snapshot of this id or unique start of one. Raises BadInput."""
        with self.reading() as conn:
            return rows.to_snapshot(find(conn, "snapshot", id))

    def snapshots(self) -> list[Snapshot]:
        """The oldest first."""
        with self.reading() as conn:
            found = conn.execute("SELECT * FROM snapshot ORDER BY rowid")
            return [rows.to_snapshot(row) for row in found]

    def games(self) -> list[tuple[Comparison, int]]:
        """Usable comparisons by who wrote the two replies, in which mode, and which one won; with
        how often. The comparisons are bare: no messages, no texts, no ids.

        Pairs that were chosen to teach are left out: they are chosen to be hard.
        """
        writer = ", ".join(
            f"{side}.{name} AS {side}_{name}"
            for side in "ab"
            for name in ("source", "snapshot", "base", "sampling")
        )
        with self.reading() as conn:
            found = conn.execute(
                f"SELECT c.source, c.mode, c.preferred, {writer}, count(*) AS n"
                " FROM usable_comparisons c JOIN generation a ON a.id = c.first"
                " JOIN generation b ON b.id = c.second WHERE c.purpose <> 'active'"
                " GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11"
            )
            return [(rows.to_game(row), row["n"]) for row in found]

    def promote(self, snapshot_id: str, run: str | None = None, reason: str = "") -> Promotion:
        """Make a snapshot (or "base") the current assistant, by one appended row."""
        with self.writing() as conn:
            id = None if snapshot_id == "base" else find(conn, "snapshot", snapshot_id)["id"]
            return self._append(conn, id, run, reason, rollback=False)

    def rollback(self, check: Callable[[Snapshot], None] | None = None) -> Snapshot | None:
        """Return to the assistant before the current one (None: the bare base), by one more row.

        Rolling back twice goes back two promotions. Raises BadInput when none is left. `check` is
        given the snapshot to return to, and keeps things as they are by raising.
        """
        with self.writing() as conn:
            before = _lineage(self._promotions(conn))
            if len(before) == 1:
                raise BadInput("nothing to roll back: no promotion is left before this one")
            if check is not None and before[-2] is not None:
                check(self.snapshot(before[-2]))
            self._append(conn, before[-2], None, "rollback", rollback=True)
        return self.current()

    def current(self) -> Snapshot | None:
        """The promoted snapshot; None: the bare base."""
        with self.reading() as conn:
            row = conn.execute(
                "SELECT s.* FROM promotion p JOIN snapshot s ON s.id = p.snapshot"
                " WHERE p.id = (SELECT max(id) FROM promotion)"
            ).fetchone()
        return None if row is None else rows.to_snapshot(row)

    def promotions(self) -> list[Promotion]:
        """Every promotion and rollback, oldest first."""
        with self.reading() as conn:
            return self._promotions(conn)

    def _promotions(self, conn: sqlite3.Connection) -> list[Promotion]:
        return [
            Promotion(
                id=row["id"],
                snapshot=row["snapshot"],
                run=row["run"],
                reason=row["reason"],
                rollback=bool(row["rollback"]),
                created=row["created"],
            )
            for row in conn.execute("SELECT * FROM promotion ORDER BY id")
        ]

    def _append(
        self,
        conn: sqlite3.Connection,
        snapshot: str | None,
        run: str | None,
        reason: str,
        rollback: bool,
    ) -> Promotion:
        created = now()
        cursor = conn.execute(
            "INSERT INTO promotion (snapshot, run, reason, rollback, created)"
            " VALUES (?, ?, ?, ?, ?)",
            [snapshot, run, reason, int(rollback), created],
        )
        assert cursor.lastrowid is not None
        return Promotion(cursor.lastrowid, snapshot, run, reason, rollback, created)


def _lineage(promotions: Iterable[Promotion]) -> list[str | None]:
    """The assistants one could roll back through, the current one last; None is the base."""
    line: list[str | None] = [None]
    for promotion in promotions:
        if promotion.rollback:
            line.pop()
        elif promotion.snapshot != line[-1]:
            line.append(promotion.snapshot)
    return line
