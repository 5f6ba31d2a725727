"""The contestants of `benchmarks.gpu`: whole PPO steps on a quantised base, in wall time.

On a GPU where there is one, else on the CPU, where only `--smoke` is of use. Replies of all
contestants run to the limit. Unverified on a GPU.
"""

# mypy: disable-error-code="import-not-found,unused-ignore"

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from benchmarks.common import clock
from benchmarks.inputs import Work
from benchmarks.ours import PPOStep
from benchmarks.peers import TRLPPO


def on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def limit(gib: float | None) -> None:
    """Hold this process to `gib` GiB of the GPU, so that it does as on a card of that size."""
    if gib is None:
        return
    import torch

    from hhchat.model import base

    if on_gpu():
        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib * 2**30 / total))
        return
    # A CPU knows no such limit. What a small card changes is that no dense copy fits: see to that.
    base.free_memory = lambda device: 0


def memory() -> dict[str, float]:
    """GiB of the GPU: the peak of what tensors held, and of what torch took from the card for it.

    Empty on a CPU. CUDA's own context comes on top: some hundred MiB.
    """
    import torch

    if not on_gpu():
        return {}
    return {
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "reserved_gib": torch.cuda.max_memory_reserved() / 2**30,
    }


class LargePPO(PPOStep):
    """hhchat's own update: one base for policy, reference, value and preference model.

    Scoring is policy, reference and value in one pass, and the preference model; the two half
    models that training reads as gauges are left out, as TRL has none.
    """

    seconds = "wall"

    def load(self, settings: Mapping[str, Any], work: Work) -> Any:
        from hhchat.model import load_model

        limit(settings.get("memory"))
        model = load_model(work.folder, quantization=settings["quantization"])
        model.trunk.checkpointing = settings["checkpointing"]
        model.render.end_ids = frozenset()  # the end token can then not be sampled either
        return model

    def step(self) -> dict[str, float]:
        read = self.update()
        # both are halved where memory runs out
        read["micro_tokens"] = float(self.learner.budget.tokens)
        read["rows_together"] = float(self.learner.engine.rows)
        return {**read, **memory()}


class LargeTRL(TRLPPO):
    """TRL 1.12 at its leanest: policy (also the reference, with its adapter off), value, reward.

    Three backbones, int8 at threshold 0 or bf16, LoRA on policy and value. TRL's `peft_config`
    reaches the policy only: an int8 value model without LoRA would train its embeddings, norms and
    head alone.
    """

    seconds = "wall"

    def changes(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        # `bf16` alone is not heeded: accelerate's setting is what casts
        cast = {"bf16": bool(settings.get("accelerate"))}
        return {**cast, "use_cpu": not on_gpu(), "stop_token": None, "missing_eos_penalty": None}

    def models(self, folder: str, settings: Mapping[str, Any]) -> dict[str, Any]:
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

        def one(kind: Any, **labels: Any) -> Any:
            return kind.from_pretrained(folder, **labels, **loading(settings))

        def lora(task: str) -> Any:
            return LoraConfig(
                r=settings["rank"],
                lora_alpha=2 * settings["rank"],
                lora_dropout=0.0,
                target_modules="all-linear",
                task_type=task,
            )

        policy = one(AutoModelForCausalLM)
        value = one(AutoModelForSequenceClassification, num_labels=1)
        # without peft's wrapper, for TRL looks for the backbone and `score` on the model itself;
        # of the task type follows that `score` is trained too
        value = get_peft_model(value, lora("SEQ_CLS")).base_model.model
        if settings["checkpointing"]:  # TRL would do so for the policy alone
            for model in (policy, value):
                model.gradient_checkpointing_enable()
                model.enable_input_require_grads()
        return {
            "model": policy,
            "ref_model": None,
            "reward_model": one(AutoModelForSequenceClassification, num_labels=1),
            "value_model": value,
            "peft_config": lora("CAUSAL_LM"),
        }

    def step(self) -> dict[str, float]:
        return {**super().step(), **memory()}


class LargeGenerate:
    """transformers' generate on bitsandbytes int8 at threshold 0: rollouts alone."""

    @staticmethod
    def imports() -> None:
        from transformers import AutoModelForCausalLM

        assert AutoModelForCausalLM

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from transformers import AutoModelForCausalLM

        logging.disable(logging.WARNING)
        self.work, self.settings = Work.read(settings["work"]), settings
        model = AutoModelForCausalLM.from_pretrained(self.work.folder, **loading(settings))
        self.model = model.eval()

    def step(self) -> dict[str, float]:
        import torch

        ids = torch.tensor(self.work.prompts[: self.settings["batch"]], device=self.model.device)
        length = self.settings["reply"]
        with clock() as read, torch.no_grad():
            self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=length,
                min_new_tokens=length,
                do_sample=True,
                top_k=0,
                pad_token_id=self.work.pad_id,
            )
        return {"cpu": read.cpu, "wall": read.wall, "rollout": read.wall, **memory()}


def loading(settings: Mapping[str, Any]) -> dict[str, Any]:
    """How transformers loads a backbone: bf16, its linears in int8 where that is asked for."""
    import torch
    from transformers import BitsAndBytesConfig

    how: dict[str, Any] = {"dtype": torch.bfloat16, "device_map": {"": 0 if on_gpu() else "cpu"}}
    if settings["quantization"] == "int8":
        how["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
    return how


KINDS: dict[str, Any] = {
    "large-ppo": LargePPO,
    "large-trl": LargeTRL,
    "large-generate": LargeGenerate,
}
