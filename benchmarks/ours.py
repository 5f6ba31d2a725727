"""hhchat's own trainers and engine as contestants: the shipped code, timed and not changed."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import Clock, clock
from benchmarks.inputs import Work


class PPOStep:
    """One update of `hhchat_trainers.ppo`: rollout, scoring and the clipped minibatches.

    Policy and value have an adapter each, the preference model is a third. Sealing the state is
    timed too, but is not part of the step: the peers seal nothing.
    """

    # Which seconds phases are told in: CPU time, or wall time where a GPU works.
    seconds = "cpu"

    @staticmethod
    def imports() -> None:
        import hhchat_trainers.ppo  # noqa: F401

        import hhchat.model  # noqa: F401

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from hhchat_trainers.ppo import PPO, Learner
        from hhchat_trainers.rollout import Response

        from hhchat.model import PreferenceModel
        from hhchat.model.preference import PreferenceRole
        from hhchat.protocols import TrainingContext
        from hhchat.types import Message, Prompt

        work = Work.read(settings["work"])
        model = self.load(settings, work)
        self._folder = tempfile.TemporaryDirectory(prefix="hhchat-bench-")
        folder = Path(self._folder.name)
        PreferenceModel(model, PreferenceRole(model, settings["rank"], seed=1)).save(folder / "pm")
        prompts = [
            Prompt(tuple(Message(r, c) for r, c in t))  # type: ignore[arg-type]
            for t in work.turns[: settings["batch"]]
        ]
        hyper = PPO(
            updates=10**6,
            batch=settings["batch"],
            minibatches=settings["minibatches"],
            epochs=settings["epochs"],
            rank=settings["rank"],
            learning_rate=1e-5,
            max_new_tokens=settings["reply"],
            unfinished_penalty=1.0,
            target_kl=0.0,
        )
        context = TrainingContext(
            model=model,
            comparisons=[],
            heldout=[],
            prompts=prompts,
            heldout_prompts=[],
            out=folder / "out",
            stages={"pm": folder / "pm"},
            state=folder / "state",
            log=lambda metric: None,
        )
        spent: dict[str, Clock] = {}

        class Timed(Learner):
            """The learner with a clock around sampling and around the minibatches."""

            def sample(self, update: int, prompts: Sequence[Prompt]) -> list[Response]:
                with clock() as spent["rollout"]:
                    return super().sample(update, prompts)

            def learn(self, *arguments: Any) -> dict[str, float]:
                with clock() as spent["update"]:
                    return super().learn(*arguments)

        self.spent = spent
        self.learner = Timed(hyper, context)
        self.learner.schedule(10**5)
        self.number = 0

    def load(self, settings: Mapping[str, Any], work: Work) -> Any:
        return load(settings, work)

    def update(self) -> dict[str, float]:
        """One update; scoring is what is neither rollout nor minibatches."""
        with clock() as whole:
            _, responses = self.learner.update(self.number)
        self.number += 1
        rollout, update, all_of_it = (
            getattr(c, self.seconds) for c in (self.spent["rollout"], self.spent["update"], whole)
        )
        return {
            "cpu": whole.cpu,
            "wall": whole.wall,
            "rollout": rollout,
            "update": update,
            "score": all_of_it - rollout - update,
            "length": sum(len(r.tokens) for r in responses) / len(responses),
        }

    def step(self) -> dict[str, float]:
        read = self.update()
        with clock() as sealing:
            self.learner.seal(self.number)
        return {**read, "seal": sealing.cpu}


class PMPass:
    """One pass over the pairs by the shipped PM update, dealt out as it deals them."""

    @staticmethod
    def imports() -> None:
        import hhchat_trainers.pm  # noqa: F401

        import hhchat.model  # noqa: F401

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from hhchat_trainers.adam import Adam, Group
        from hhchat_trainers.descent import Budget, Descent
        from hhchat_trainers.pm import PM, Pair

        from hhchat.model import PreferenceModel
        from hhchat.model.preference import Judged, PreferenceRole

        work = Work.read(settings["work"])
        model = load(settings, work)
        self.trainer = PM(rank=settings["rank"], batch_pairs=settings["batch"])
        self.made = PreferenceModel(model, PreferenceRole(model, settings["rank"]))
        optimiser = Adam([Group(list(self.made.role.parameters()))], 1e-5)
        self.descent = Descent(optimiser, Budget(model.micro))
        self.pairs = [Pair(Judged(p, [c, r]), 1.0) for p, c, r in work.pairs]
        self.lap = 0

    def step(self) -> dict[str, float]:
        import torch

        generator = torch.Generator().manual_seed(self.lap)
        batches = self.trainer.batches(self.pairs, generator)
        self.lap += 1
        with clock() as read:
            for batch in batches:
                self.trainer.update(self.made, self.descent, [self.pairs[i] for i in batch])
        return {
            "cpu": read.cpu,
            "wall": read.wall,
            "pairs_per_s": len(self.pairs) / read.cpu,
            "updates": float(len(batches)),
        }


class Chat:
    """Two streamed replies to each of a few prompts, one prompt after the other, as chat does."""

    @staticmethod
    def imports() -> None:
        import hhchat.model  # noqa: F401

    def __init__(self, settings: Mapping[str, Any]) -> None:
        import torch

        from hhchat.model import LocalEngine

        work = Work.read(settings["work"])
        model = load(settings, work)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[settings["dtype"]]
        self.engine = LocalEngine(model, dtype=dtype)
        self.work, self.settings, self.lap = work, settings, 0

    def step(self) -> dict[str, float]:
        from hhchat.types import Draw, Message, Sampling

        sampling = Sampling(1.0, self.settings["top_p"], self.settings["reply"])
        tokens = 0
        with clock() as read:
            for i, turns in enumerate(self.work.turns[: self.settings["batch"]]):
                messages = tuple(Message(r, c) for r, c in turns)  # type: ignore[arg-type]
                seed = 1000 * self.lap + 2 * i
                draws = [Draw(messages, seed + j, sampling) for j in (0, 1)]
                for delta in self.engine.sample(draws):
                    if delta.generation is not None:
                        tokens += len(delta.generation.token_ids)
        self.lap += 1
        return speed_of(read, tokens, 2 * self.settings["batch"])


class Rollout:
    """One reply to each of a batch of prompts, as an update of PPO samples them."""

    @staticmethod
    def imports() -> None:
        import hhchat_trainers.rollout  # noqa: F401

        import hhchat.model  # noqa: F401

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from hhchat.model import Adapter, LocalEngine
        from hhchat.types import Message, Prompt

        work = Work.read(settings["work"])
        model = load(settings, work)
        self.engine = LocalEngine(model)
        # An untrained adapter adds nothing to a reply but is merged all the same.
        self.role = Adapter(model.spec, settings["rank"])
        self.prompts = [
            Prompt(tuple(Message(r, c) for r, c in t))  # type: ignore[arg-type]
            for t in work.turns[: settings["batch"]]
        ]
        self.limit, self.lap = settings["reply"], 0

    def step(self) -> dict[str, float]:
        from hhchat_trainers.rollout import roll_out

        seeds = [1000 * self.lap + i for i in range(len(self.prompts))]
        with clock() as read:
            made = roll_out(self.engine, self.role, self.prompts, seeds, self.limit)
        self.lap += 1
        return speed_of(read, sum(len(r.tokens) for r in made), len(made))


def load(settings: Mapping[str, Any], work: Work) -> Any:
    from hhchat.model import load_model

    return load_model(
        work.folder,
        quantization=settings.get("quantization", "none"),
        device=settings.get("device", "cpu"),
        dtype=settings["dtype"],
    )


def speed_of(read: Clock, tokens: int, replies: int) -> dict[str, float]:
    return {
        "cpu": read.cpu,
        "wall": read.wall,
        "tokens_per_s": tokens / read.cpu,
        "length": tokens / replies,
    }


KINDS: dict[str, Any] = {"ppo": PPOStep, "pm": PMPass, "chat": Chat, "rollout": Rollout}
