"""What a run's stages made: sealed as one snapshot, and measured beside an assistant.

The folders become a snapshot by one rename, so that at any instant they are in exactly one
place. What is measured is for the gate, which promotes or refuses by it (`hhchat.gate`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hhchat import evaluate, paths
from hhchat.backend import Backend
from hhchat.dataset import Dataset
from hhchat.events import Event
from hhchat.gate import INCUMBENT
from hhchat.protocols import Objective, Scorer
from hhchat.runfolder import Results, RunFolder
from hhchat.sealing import seal, write_json
from hhchat.snapshots import BASE, MANIFEST, Resolver, part
from hhchat.types import Measurement, Report, Run, Snapshot

if TYPE_CHECKING:
    from hhchat.model import Model
    from hhchat.plugins import Plugins
    from hhchat.store import Store

GATE = "gate"  # the stage name under which the evaluation's numbers are logged


@dataclass(frozen=True)
class Candidate:
    """What may become the assistant, and all that it takes to say how good it is."""

    run: Run
    results: Results
    folder: RunFolder
    data: Dataset
    model: Model
    backend: Backend
    store: Store
    plugins: Plugins
    terms: Sequence[tuple[Objective, float]]
    on_event: Callable[[Event], None]

    def seal(self) -> Snapshot:
        """Publish the stage folders as one snapshot, by one rename."""
        run, results = self.run, self.results
        parent = str(run.data["incumbent"]) if run.data["warm_start"] else BASE
        name = self.folder.snapshot_id
        snapshot = Snapshot(
            id=name, path=name, run=run.id, parent=parent, base=run.base, created=run.created
        )
        if self.folder.sealed.exists():  # by this run, before it was killed
            return snapshot
        told = {
            "id": name,
            "run": run.id,
            "base": run.base,
            "parent": parent,
            "seed": run.seed,
            "stages": list(run.stages),
            "policy": results.policy or self._adopted(results.inherited),
            "preference": results.preference,
            "best_of": results.best_of,
            "gauges": results.gauges,
            "created": run.created,
            "measurements": [asdict(m) for m in results.measurements],
        }
        write_json(self.folder.build / MANIFEST, told)
        paths.ensure(paths.snapshots())
        seal(self.folder.build, self.folder.sealed)
        return snapshot

    def _adopted(self, folder: Path | None) -> str | None:
        """The incumbent's policy, copied: a snapshot never needs a second."""
        return self.folder.adopt(folder, "inherited") if folder is not None else None

    def beside(self, assistant: str | None) -> tuple[Report, evaluate.Judged]:
        """The stages' own measurements, and the sealed candidate's beside `assistant`, a
        snapshot's id; None where the two say the same."""
        found = {m.name: m for m in self.results.measurements}
        if self.results.best_of > 1:
            drift = evaluate.drift_of_choosing(self.results.best_of)
            found[drift.name] = drift
        where = part(self.folder.sealed, "preference")
        scorer = self.backend.preference(self.model, where) if where else None
        tested = self.results.tested
        if scorer is not None and ("pm_accuracy" not in found or not tested):
            gaps = evaluate.gaps(scorer, self.data.heldout)
            tested = tested or {"heldout": gaps}
            accuracy = evaluate.accuracy(gaps)
            if accuracy is not None:
                found.setdefault(accuracy.name, accuracy)
        judged = evaluate.Judged()
        if assistant is not None and scorer is not None:
            judged, asked = self._compared(scorer, assistant)
            found.update({m.name: m for m in (*judged.measurements, *asked)})
        pairs = evaluate.pair_rows(tested, (*self.data.comparisons, *self.data.heldout))
        judged = replace(judged, pairs=pairs, replies=self.results.replies)
        incumbent = assistant or str(self.run.data["incumbent"])
        return Report(self.folder.snapshot_id, incumbent, found), judged

    def _compared(
        self, scorer: Scorer, assistant: str
    ) -> tuple[evaluate.Judged, list[Measurement]]:
        """Both on the same held-out prompts, and what the plugins measure of either."""
        told = self.run.data
        wanted = int(told["eval_prompts"])  # the rest may be missing: begun by an older version
        prompts = evaluate.choose(self.data.heldout_prompts, wanted, self.run.seed)
        if not prompts:
            return evaluate.Judged(), []
        if assistant != told["incumbent"]:
            self._say(f"compared with {assistant}, in use since this run began")
        name, sealed = self.folder.snapshot_id, self.folder.sealed
        engine = self.backend.engine(self.model, Resolver(self.store, {name: sealed}))
        judged = evaluate.compare(
            engine,
            scorer,
            prompts,
            candidate=name,
            incumbent=assistant,
            seed=self.run.seed,
            max_new_tokens=int(told.get("max_new_tokens", 256)),
            terms=self.terms,
            gauges={
                gauge: self.backend.preference(self.model, sealed / where)
                for gauge, where in self.results.gauges.items()
            },
            shown=int(told.get("shown_prompts", 0)),
            report=self._say,
            progress=lambda done, total: self.on_event(
                Event("evaluate", GATE, done=done, total=total)
            ),
        )
        # A name of the gate's own is not for a plugin: hence the prefix.
        asked = [
            replace(m, name=f"eval_{m.name}{suffix}")
            for side, suffix in ((name, ""), (assistant, INCUMBENT))
            for m in self.plugins.measurements(engine, side, prompts, scorer)
        ]
        return judged, asked

    def _say(self, text: str) -> None:
        self.on_event(Event("line", GATE, text=text))
