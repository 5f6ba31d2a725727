"""The peers as contestants: TRL's PPO (1.12, its last) and reward trainer, transformers' generate.

Each is driven through its public trainer with nothing of it replaced; only clocks are put around
the functions whose names say which phase they are.
"""

# mypy: disable-error-code="import-not-found,unused-ignore"

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import Clock, cache, clock, now
from benchmarks.inputs import Work
from benchmarks.ours import speed_of

LAST_PPO = "trl_1_12_0"


def peer_paths() -> list[Path]:
    """Folders of peers installed beside the environment, where there are any."""
    # dill, which datasets hashes with, takes only a folder of this name for installed code
    beside = cache() / "peers" / "site-packages"
    return [beside] if beside.is_dir() else []


def last_ppo() -> Path | None:
    """The folder that TRL 1.12 was installed into, the last release with PPO; None without it."""
    folder = cache() / LAST_PPO
    return folder if (folder / "trl").is_dir() else None


def has(module: str) -> bool:
    """Whether a peer can be imported, from the environment or from the folder beside it."""
    if importlib.util.find_spec(module) is not None:
        return True
    return any((folder / module).is_dir() for folder in peer_paths())


class TRLPPO:
    """One PPO step of TRL 1.12: `train()` of exactly one batch, four full models, own value."""

    # Which seconds phases are told in: CPU time, or wall time where a GPU works.
    seconds = "cpu"

    @staticmethod
    def imports() -> None:
        import trl.experimental.ppo.ppo_trainer  # noqa: F401

    def __init__(self, settings: Mapping[str, Any]) -> None:
        import torch
        import trl.experimental.ppo.ppo_trainer as module
        from datasets import Dataset
        from transformers import PreTrainedTokenizerFast, TrainerCallback
        from trl.experimental.ppo import PPOConfig, PPOTrainer

        logging.disable(logging.WARNING)
        work = Work.read(settings["work"])
        folder, batch = work.folder, settings["batch"]
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        tokenizer.padding_side = "left"
        ids = work.prompts[:batch]
        data = Dataset.from_dict({"input_ids": ids})
        torch.manual_seed(3)
        wanted: dict[str, Any] = {
            "output_dir": str(cache() / "trl_out"),
            # One device batch of the whole: then a minibatch is batch / minibatches, and every
            # minibatch really steps the optimiser (under accumulation TRL swallows most steps).
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": 1,
            "num_mini_batches": settings["minibatches"],
            "num_ppo_epochs": settings["epochs"],
            "total_episodes": batch,
            "local_rollout_forward_batch_size": batch,
            "response_length": settings["reply"],
            "stop_token": "eos",
            "missing_eos_penalty": 1.0,
            "temperature": 1.0,
            "kl_coef": 0.05,
            "learning_rate": 1e-5,
            "lr_scheduler_type": "constant",
            "num_sample_generations": 0,
            "gradient_checkpointing": False,
            "bf16": settings["dtype"] == "bf16",
            "use_cpu": True,
            "report_to": [],
            "save_strategy": "no",
            "eval_strategy": "no",
            "disable_tqdm": True,
            "logging_steps": 10**6,
            "seed": 1,
        }
        config = PPOConfig(**{**wanted, **self.changes(settings)})
        self.spent: dict[str, float] = {}
        self.marks: dict[str, tuple[float, float]] = {}
        self.steps_taken = 0
        outer = self

        class Ended(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, *arguments: Any, **named: Any) -> None:
                outer.marks["end"] = now()

        self.trainer = PPOTrainer(
            args=config,
            processing_class=tokenizer,
            train_dataset=data,
            eval_dataset=data.select(range(min(2, batch))),
            callbacks=[Ended()],
            **self.models(folder, settings),
        )
        # train() is called once a step, which its scheduler was not made for
        self.trainer.lr_scheduler.step = lambda *a, **k: None
        self.trainer.log = lambda *a, **k: None

        def phase(name: Callable[[], str], run: Callable[..., Any]) -> Callable[..., Any]:
            def clocked(*arguments: Any, **named: Any) -> Any:
                label = name()
                if label == "rollout":
                    outer.marks["start"] = now()
                if label == "forward":
                    outer.marks.setdefault("update", now())
                with clock() as read:
                    made = run(*arguments, **named)
                outer.spent[label] = outer.spent.get(label, 0.0) + getattr(read, outer.seconds)
                return made

            return clocked

        module.batch_generation = phase(lambda: "rollout", module.batch_generation)
        module.forward = phase(
            lambda: "forward" if torch.is_grad_enabled() else "score", module.forward
        )
        module.get_reward = phase(lambda: "score", module.get_reward)
        stepper = self.trainer.optimizer.optimizer
        inner = stepper.step

        def counted(*arguments: Any, **named: Any) -> Any:
            outer.steps_taken += 1
            return inner(*arguments, **named)

        stepper.step = counted

    def changes(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """What of PPOConfig is otherwise than in the comparison on a CPU."""
        return {}

    def models(self, folder: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        """The trainer's models: a whole one each."""
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        kinds = {
            "model": AutoModelForCausalLM,
            "ref_model": AutoModelForCausalLM,
            "reward_model": AutoModelForSequenceClassification,
            "value_model": AutoModelForSequenceClassification,
        }
        labels = {AutoModelForCausalLM: {}, AutoModelForSequenceClassification: {"num_labels": 1}}
        return {name: kind.from_pretrained(folder, **labels[kind]) for name, kind in kinds.items()}

    def step(self) -> dict[str, float]:
        self.spent.clear()
        self.marks.clear()
        before = self.steps_taken
        self.trainer.train()
        start, update, end = (self.marks[k] for k in ("start", "update", "end"))
        return {
            "cpu": end[0] - start[0],
            "wall": end[1] - start[1],
            "rollout": self.spent["rollout"],
            "score": self.spent["score"],
            "update": (end[0] - update[0]) if self.seconds == "cpu" else (end[1] - update[1]),
            "optimiser_steps": float(self.steps_taken - before),
        }


class TRLReward:
    """One pass over the pairs by TRL's RewardTrainer; full training, or LoRA with `peft`."""

    @staticmethod
    def imports() -> None:
        import trl
        from trl import RewardTrainer  # noqa: F401

        assert trl.__version__

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from datasets import Dataset
        from transformers import (
            AutoModelForSequenceClassification,
            PreTrainedTokenizerFast,
            TrainerCallback,
        )
        from trl import RewardConfig, RewardTrainer

        logging.disable(logging.WARNING)
        work = Work.read(settings["work"])
        outer = self

        class Marks(TrainerCallback):  # type: ignore[misc]
            def on_step_begin(self, args: Any, state: Any, *a: Any, **k: Any) -> None:
                if state.global_step == 0:
                    outer.start = now()

            def on_step_end(self, *a: Any, **k: Any) -> None:
                outer.end = now()
                outer.updates += 1

        data = Dataset.from_dict(
            {
                "chosen_ids": [p + c for p, c, _ in work.pairs],
                "rejected_ids": [p + r for p, _, r in work.pairs],
            }
        )
        config = RewardConfig(
            output_dir=str(cache() / "trl_out"),
            per_device_train_batch_size=settings["batch"],
            gradient_accumulation_steps=1,
            num_train_epochs=1,
            max_length=None,
            learning_rate=1e-5,
            lr_scheduler_type="constant",
            bf16=settings["dtype"] == "bf16",
            gradient_checkpointing=False,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            eval_strategy="no",
            disable_tqdm=True,
            logging_steps=10**6,
            seed=1,
        )
        extra: dict[str, Any] = {}
        if settings.get("peft"):
            from peft import LoraConfig

            extra["peft_config"] = LoraConfig(
                r=settings["rank"],
                lora_alpha=2 * settings["rank"],
                lora_dropout=0.0,
                target_modules="all-linear",
                modules_to_save=["score"],
                task_type="SEQ_CLS",
            )
        model = AutoModelForSequenceClassification.from_pretrained(work.folder, num_labels=1)
        self.pairs = len(work.pairs)
        self.start = self.end = (0.0, 0.0)
        self.updates = 0
        self.trainer = RewardTrainer(
            model=model,
            args=config,
            train_dataset=data,
            processing_class=PreTrainedTokenizerFast.from_pretrained(work.folder),
            callbacks=[Marks()],
            **extra,
        )

    def step(self) -> dict[str, float]:
        self.updates = 0
        self.trainer.train()
        cpu = self.end[0] - self.start[0]
        return {
            "cpu": cpu,
            "wall": self.end[1] - self.start[1],
            "pairs_per_s": self.pairs / cpu,
            "updates": float(self.updates),
        }


class Generate:
    """transformers' generate: `chat` asks prompt by prompt for two replies, else one batch.

    Its own stopping at the end token is on; a batch runs until its last reply has ended. With
    `quantization` int8 the model is bitsandbytes' (threshold 0).
    """

    @staticmethod
    def imports() -> None:
        from transformers import AutoModelForCausalLM

        assert AutoModelForCausalLM

    def __init__(self, settings: Mapping[str, Any]) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        logging.disable(logging.WARNING)
        self.work = Work.read(settings["work"])
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[settings["dtype"]]
        extra: dict[str, Any] = {}
        if settings.get("quantization") == "int8":
            from transformers import BitsAndBytesConfig

            extra["quantization_config"] = BitsAndBytesConfig(
                load_in_8bit=True, llm_int8_threshold=0.0
            )
        model = AutoModelForCausalLM.from_pretrained(self.work.folder, dtype=dtype, **extra)
        self.model, self.settings = model.eval(), settings

    def step(self) -> dict[str, float]:
        import torch

        s, work = self.settings, self.work
        prompts = work.prompts[: s["batch"]]
        groups = [[p] for p in prompts] if s["chat"] else [prompts]
        copies = 2 if s["chat"] else 1
        tokens = 0
        with clock() as read, torch.no_grad():
            for group in groups:
                width = max(map(len, group))
                pads = [width - len(p) for p in group]
                ids = [[work.pad_id] * n + p for n, p in zip(pads, group, strict=True)]
                mask = [[0] * n + [1] * len(p) for n, p in zip(pads, group, strict=True)]
                out = self.model.generate(
                    input_ids=torch.tensor(ids, device=self.model.device),
                    attention_mask=torch.tensor(mask, device=self.model.device),
                    max_new_tokens=s["reply"],
                    do_sample=True,
                    temperature=1.0,
                    top_p=s["top_p"],
                    top_k=0,
                    num_return_sequences=copies,
                    pad_token_id=work.pad_id,
                    eos_token_id=work.end_id,
                )
                tokens += real_tokens(out[:, width:].tolist(), work.end_id)
        return speed_of(read, tokens, copies * len(prompts))


def real_tokens(rows: list[list[int]], end_id: int) -> int:
    """Tokens of the replies themselves, the end token included, pads after it not."""
    return sum(row.index(end_id) + 1 if end_id in row else len(row) for row in rows)


KINDS: dict[str, Any] = {"trl-ppo": TRLPPO, "trl-reward": TRLReward, "generate": Generate}
__all__ = ["KINDS", "Clock", "has", "last_ppo", "peer_paths"]
