"""LoRA adapters: the roles that share one frozen base.

An adapter adds scale * (x A) B to each fused linear. Parameters are fp32 always: on a quantised
base, bf16 adapters lose small Adam updates to rounding. Files are in peft's layout
(adapter_config.json, adapter_model.safetensors), so peft can load what hhchat trains and the other
way round: q, k and v of a fused linear share A, which peft sees as three equal A matrices.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from hhchat.model.spec import LINEARS, Linear, Spec
from hhchat.model.weights import channels, split_parts, unfold_heads
from hhchat.types import ModelError


class Adapter(nn.Module):
    """One role: A [in, r] and B [r, out] for each (layer, linear), with a scale alpha / r."""

    def __init__(
        self, spec: Spec, rank: int = 16, alpha: float | None = None, *, seed: int = 0
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ModelError(f"LoRA rank must be at least 1, not {rank}")
        self.spec = spec
        self.rank = rank
        self.alpha = float(2 * rank if alpha is None else alpha)
        generator = torch.Generator().manual_seed(seed)
        self.a = nn.ParameterDict()
        self.b = nn.ParameterDict()
        for layer in range(spec.layers):
            for linear in LINEARS:
                fan_in, fan_out = shape_of(spec, linear)
                bound = 1.0 / math.sqrt(fan_in)  # kaiming uniform with a = sqrt(5), as peft
                a = (torch.rand(fan_in, rank, generator=generator) * 2 - 1) * bound
                self.a[f"{linear}{layer}"] = nn.Parameter(a)
                self.b[f"{linear}{layer}"] = nn.Parameter(torch.zeros(rank, fan_out))

    @property
    def scale(self) -> float:
        return self.alpha / self.rank

    def pair(self, linear: Linear, layer: int) -> tuple[Tensor, Tensor]:
        """(A [in, r], B [r, out]) of one linear."""
        key = f"{linear}{layer}"
        return self.a[key], self.b[key]

    def delta(self, linear: Linear, layer: int) -> Tensor:
        """The merged update [out, in] in fp32, detached."""
        a, b = self.pair(linear, layer)
        return (a.detach() @ b.detach()).t() * self.scale

    def copy_from(self, other: Adapter) -> None:
        """Take the other's parameters (same rank). Raises ModelError when the ranks differ."""
        if other.rank != self.rank:
            raise ModelError(f"adapter of rank {other.rank} cannot fill one of rank {self.rank}")
        self.alpha = other.alpha
        with torch.no_grad():
            for mine, theirs in zip(self.parameters(), other.parameters(), strict=True):
                mine.copy_(theirs)


def shape_of(spec: Spec, linear: Linear) -> tuple[int, int]:
    """(in, out) features of a fused linear."""
    attention = spec.heads * spec.head_dim
    shapes: dict[Linear, tuple[int, int]] = {
        "qkv": (spec.hidden, (spec.heads + 2 * spec.kv_heads) * spec.head_dim),
        "o": (attention, spec.hidden),
        "up": (spec.hidden, spec.inter * (2 if spec.gated else 1)),
        "down": (spec.inter, spec.hidden),
    }
    return shapes[linear]


def peft_tensors(adapter: Adapter) -> dict[str, Tensor]:
    """The adapter under peft's names: lora_A [r, in], lora_B [out, r]."""
    spec = adapter.spec
    tensors: dict[str, Tensor] = {}
    for layer in range(spec.layers):
        for linear in LINEARS:
            a, b = adapter.pair(linear, layer)
            rows = b.detach().t()
            for part, piece in split_parts(spec, linear, layer, rows):
                base = f"base_model.model.{spec.prefix}layers.{layer}.{part.name}"
                for side, part_of in (("A", a.detach().t()), ("B", piece)):
                    # always a copy: of rank 1 a transpose is contiguous, and q, k and v share an A
                    own = part_of.clone(memory_format=torch.contiguous_format)
                    tensors[f"{base}.lora_{side}.weight"] = own.cpu()
    return tensors


def save_adapter(
    adapter: Adapter, folder: Path, base: str = "", dtype: torch.dtype = torch.float32
) -> None:
    """Write peft's two files into `folder`."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    modules = sorted({p.name.split(".")[-1] for n in LINEARS for p in adapter.spec.parts_of(n)})
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": modules,
    }
    tensors = {name: t.to(dtype) for name, t in peft_tensors(adapter).items()}
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1))


def load_adapter(spec: Spec, folder: Path) -> Adapter:
    """Read an adapter in peft's layout. Raises ModelError when it is not whole or does not fit."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        tensors = load_file(str(folder / "adapter_model.safetensors"))
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        where = f"adapter {folder.name} of {folder.parent.name}"
        raise ModelError(f"{where} is missing or half written: {error}") from None
    other = [
        k for k in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern") if config.get(k)
    ]
    if config.get("peft_type", "LORA") != "LORA":
        other.append("peft_type")
    if other:
        raise ModelError(f"adapter {folder.name} is not plain LoRA: it sets {', '.join(other)}")
    return _from_peft(spec, tensors, rank, alpha, folder.name)


def _from_peft(
    spec: Spec, tensors: dict[str, Tensor], rank: int, alpha: float, name: str
) -> Adapter:
    pieces: dict[tuple[Linear, int], list[tuple[Tensor | None, Tensor | None, int]]] = {}
    shared = True
    left = set(tensors)
    for layer in range(spec.layers):
        for linear in LINEARS:
            found: list[tuple[Tensor | None, Tensor | None, int]] = []
            for part in spec.parts_of(linear):
                base = f"base_model.model.{spec.prefix}layers.{layer}.{part.name}"
                a = tensors.get(f"{base}.lora_A.weight")
                b = tensors.get(f"{base}.lora_B.weight")
                left -= {f"{base}.lora_A.weight", f"{base}.lora_B.weight"}
                if b is not None and part.heads:
                    b = unfold_heads(b, part.heads)
                found.append((a, b, part.rows))
            first = found[0][0]
            shared &= all(
                a is not None and first is not None and a.equal(first) for a, _, _ in found
            )
            pieces[linear, layer] = found
    if left:
        raise ModelError(
            f"adapter {name} was trained on another base model, or on parts of it that hhchat does"
            f" not adapt: {min(left)}"
        )
    # A foreign adapter trains each matrix's own A: lay them side by side, B block-diagonal.
    widest = 1 if shared else max(len(found) for found in pieces.values())
    adapter = Adapter(spec, rank * widest, alpha * widest)
    with torch.no_grad():
        for (linear, layer), found in pieces.items():
            a, b = adapter.pair(linear, layer)
            a.zero_()
            start = 0
            for index, (part_a, part_b, rows) in enumerate(found):
                if part_a is not None and part_b is not None:
                    slot = 0 if shared else index * rank
                    fits = part_a.shape == (rank, a.shape[0]) and part_b.shape == (rows, rank)
                    if not fits:
                        raise ModelError(f"adapter {name} was trained on another base model")
                    a[:, slot : slot + rank] = part_a.t()
                    b[slot : slot + rank, start : start + rows] = part_b.t()
                start += rows
            if linear == "qkv":
                b.copy_(b[:, channels(spec, layer)])
    return adapter


__all__ = ["Adapter", "load_adapter", "peft_tensors", "save_adapter", "shape_of"]
