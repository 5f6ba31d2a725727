"""What the policy says now, beside what it said at the start, for whoever watches the run.

Nothing of the run depends on it: each reply has a seed of its own, no tensor of the run is
written, and when nobody watches nothing is sampled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from hhchat_trainers import state
from hhchat_trainers.rollout import roll_out

from hhchat.model import Adapter, LocalEngine
from hhchat.protocols import TrainingContext
from hhchat.types import ModelError, Prompt, SampleReport

SHARE = 0.02  # of the run's time that may go into looking
PROMPTS = 2
LONGEST = 64  # tokens: the beginning of a reply is enough to see what it has become


class Glimpse:
    """Replies to the same held-out prompts with the same seeds, as often as time allows."""

    def __init__(
        self,
        context: TrainingContext,
        engine: LocalEngine,
        reference: Adapter | None,
        max_new_tokens: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.show, self.engine, self.reference = context.show, engine, reference
        pool = list(context.heldout_prompts or context.prompts)
        order = torch.randperm(len(pool), generator=state.generator_for(0, "a glimpse")).tolist()
        self.prompts: list[Prompt] = [pool[i] for i in order[:PROMPTS]]
        self.seeds = [state.seed_for(0, "glimpse", i) for i in range(len(self.prompts))]
        self.longest = min(max_new_tokens, LONGEST)
        self.before: Sequence[str] | None = None
        self.clock, self.began = clock, clock()
        self.spent = self.last = 0.0

    def look(self, update: int, policy: Adapter) -> None:
        """Show the replies, unless looking has had its share of the time already."""
        now = self.clock()
        if self.show is None or not self.prompts:
            return
        if self.spent + self.last > SHARE * (now - self.began):
            return
        try:
            if self.before is None:
                self.before = self._replies(self.reference)
            after = self._replies(policy)
        except (torch.OutOfMemoryError, ModelError):  # a picture is not worth a run
            self.show = None
            return
        self.last = self.clock() - now
        self.spent += self.last
        self.show(
            update,
            [
                SampleReport(p.messages[-1].content, old, new)
                for p, old, new in zip(self.prompts, self.before, after, strict=True)
            ],
        )

    def _replies(self, role: Adapter | None) -> list[str]:
        replies = roll_out(self.engine, role, self.prompts, self.seeds, self.longest)
        return [r.text if r.ended else f"{r.text} …" for r in replies]
