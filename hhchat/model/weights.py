"""Frozen matrices: plain, int8 or nf4, as bitsandbytes has them, and the checkpoint they come from.

Quantised products are weight-only: y = x W^T with W dequantised to the dtype of x. Activations are
never rounded, so there are no outlier columns to pick and a row can not depend on its batch
(the effect of `llm_int8_threshold=0`, paper.md trap 15), and no straight-through error in training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from hhchat.model.kernels import multiply, product
from hhchat.model.spec import LINEARS, Linear, Part, Spec
from hhchat.types import ModelError

Quantization = Literal["none", "int8", "nf4"]


class Weight:
    """One frozen matrix [out, in] with an optional bias [out]. Never trained, never saved."""

    def __init__(self, dense: Tensor, bias: Tensor | None, quantization: Quantization) -> None:
        self.shape = (dense.shape[0], dense.shape[1])
        self.bias = bias
        self.quantization = quantization
        self._copies: dict[torch.dtype, Tensor] = {}
        self._dense: Tensor | None = None
        if quantization == "none":
            self._dense = dense
        elif quantization == "int8":
            # Row-wise absmax, so that rows of fused matrices keep the scales they have alone. The
            # arithmetic is bitsandbytes', whose import loads torch's compiler: 3 seconds of every
            # start, and 116 MiB.
            self._int8 = torch.empty_like(dense, dtype=torch.int8)
            self._scale = dense.abs().amax(1).float()
            step = 127.0 / self._scale.clamp_min(1e-30)[:, None]
            parts = (torch.split(t, 1024) for t in (dense, step, self._int8))
            for some, by, to in zip(*parts, strict=True):  # whole in fp32 it is four times as much
                to.copy_((some.float() * by).round_())
        else:
            bnb = _bitsandbytes()
            # it quantises fp16 on CUDA and any float on the CPU
            narrow = dense.to(torch.float16 if dense.is_cuda else torch.float32)
            self._nf4, self._state = bnb.quantize_4bit(
                narrow, quant_type="nf4", compress_statistics=True
            )

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The matrix [out, in] in `dtype`; a kept copy when there is one, else made anew."""
        kept = self._copies.get(dtype)
        if kept is not None:
            return kept
        if self._dense is not None:
            return self._dense.to(dtype)
        if self.quantization == "int8":
            wide: Tensor = self._int8.to(torch.float32) * (self._scale[:, None] / 127.0)
            return wide.to(dtype)
        made: Tensor = _bitsandbytes().dequantize_4bit(self._nf4, self._state).to(dtype)
        return made

    def keep(self, dtype: torch.dtype) -> None:
        """Keep a copy in `dtype`: memory for speed, where memory is to be had."""
        self._copies[dtype] = self.dense(dtype).contiguous()

    def release(self) -> None:
        self._copies.clear()

    def product(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out] in the dtype of x, outside of autograd."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return multiply(x, self.dense(x.dtype), bias)

    def back(self, grad: Tensor) -> Tensor:
        """grad [..., out] -> [..., in]. A quantised matrix is dequantised again, not kept."""
        return multiply(grad, self.dense(grad.dtype).t())

    def __call__(self, x: Tensor) -> Tensor:
        """x [..., in] -> [..., out] in the dtype of x; differentiable in x only."""
        return product(x, self)

    @property
    def nbytes(self) -> int:
        """Bytes held by the matrix itself, copies included."""
        held = [*self._copies.values()]
        if self._dense is not None:
            held.append(self._dense)
        elif self.quantization == "int8":
            held += [self._int8, self._scale]
        else:
            held.append(self._nf4)
        return sum(t.numel() * t.element_size() for t in held)


def _bitsandbytes() -> Any:
    """bitsandbytes.functional, for 4 bits, quietly: it logs an error for each optional kernel that
    it lacks."""
    import logging

    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)
    try:
        import bitsandbytes.functional as functional
    except ImportError:
        raise ModelError("nf4 needs bitsandbytes: pip install bitsandbytes") from None
    return functional


class Checkpoint:
    """Reads tensors by name from a folder of safetensors. Pickled weights are refused."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = _tensor_files(folder)
        self._where: dict[str, Path] = {}
        from safetensors import SafetensorError, safe_open

        for file in self._files:
            try:
                with safe_open(str(file), framework="pt") as opened:
                    for name in opened.keys():  # noqa: SIM118 (not a dict)
                        self._where[name] = file
            except (SafetensorError, OSError) as error:
                raise ModelError(
                    f"{file.name} of {folder.name} is not readable safetensors: {error}"
                ) from None

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def get(self, name: str, shape: tuple[int, int] | None = None) -> Tensor:
        """The tensor `name`. Raises ModelError naming it when it is missing or of another shape."""
        if name not in self._where:
            raise ModelError(f"weights of {self.folder.name} lack {name}")
        from safetensors import safe_open

        with safe_open(str(self._where[name]), framework="pt") as opened:
            tensor: Tensor = opened.get_tensor(name)
        if shape is not None and tensor.shape != shape:
            raise ModelError(f"{name} is {tuple(tensor.shape)}, but config.json says {shape}")
        return tensor

    def find(self, *names: str) -> Tensor | None:
        for name in names:
            if name in self._where:
                return self.get(name)
        return None


def _tensor_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError):
            raise ModelError(f"{index.name} in {folder.name} is not a weight index") from None
        missing = [n for n in names if not (folder / n).is_file()]
        if missing:
            raise ModelError(f"{folder.name} is half there: {missing[0]} is missing")
        return [folder / n for n in names]
    files = sorted(folder.glob("*.safetensors"))
    if (folder / "model.safetensors").exists():
        return [folder / "model.safetensors"]
    if files:
        return files
    if any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth")):
        raise ModelError(
            f"{folder.name} holds pickled weights only, which are refused; convert to safetensors"
        )
    raise ModelError(f"{folder.name} holds no .safetensors weights")


def unfold_heads(rows: Tensor, heads: int) -> Tensor:
    """GPT-NeoX q|k|v per head -> all q, all k, all v. rows [3*heads*D, ...]."""
    head_dim = rows.shape[0] // (3 * heads)
    return rows.view(heads, 3, head_dim, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)


def fold_heads(rows: Tensor, heads: int) -> Tensor:
    """The inverse of `unfold_heads`."""
    head_dim = rows.shape[0] // (3 * heads)
    return rows.view(3, heads, head_dim, *rows.shape[1:]).transpose(0, 1).reshape(rows.shape)


def channels(spec: Spec, layer: int) -> Tensor:
    """Where each of the (N + 2K) D rows of a fused qkv stands in a checkpoint's q | k | v.

    The two channels of a query or key that rotary turns as a pair lie side by side here, a complex
    number; there they are half of the turned channels apart. Queries meet nothing but keys, so no
    product knows."""
    turned, count = spec.heads + spec.kv_heads, spec.heads + 2 * spec.kv_heads
    whole = torch.arange(count * spec.head_dim).view(count, spec.head_dim)
    whole[:turned] = whole[:turned, pairs(spec, layer)]
    return whole.flatten()


def pairs(spec: Spec, layer: int) -> Tensor:
    """The same within a head: [D]."""
    half = len(spec.rotary[layer].inv_freq)
    turned = torch.arange(2 * half).view(2, half).t().flatten()
    return torch.cat((turned, torch.arange(2 * half, spec.head_dim)))


def split_parts(
    spec: Spec, linear: Linear, layer: int, rows: Tensor
) -> Iterator[tuple[Part, Tensor]]:
    """Cut a fused [out, ...] back into the checkpoint's own matrices."""
    if linear == "qkv":
        rows = rows[channels(spec, layer).argsort()]
    start = 0
    for part in spec.parts_of(linear):
        piece = rows[start : start + part.rows]
        yield part, fold_heads(piece, part.heads) if part.heads else piece
        start += part.rows


class Layer:
    """The weights of one layer: four fused linears and the norms."""

    def __init__(self, linears: dict[str, Weight], norms: dict[str, tuple[Tensor, Tensor | None]]):
        self.linears = linears
        self.norms = norms


def load_layer(
    spec: Spec,
    checkpoint: Checkpoint,
    index: int,
    place: Callable[[Tensor], Tensor],
    quantization: Quantization,
    dtype: torch.dtype = torch.float32,
) -> Layer:
    """Read layer `index`, fuse its matrices and quantise them one by one (peak: one matrix). Those
    that are not quantised are kept in `dtype`."""
    base = f"{spec.prefix}layers.{index}."
    linears: dict[str, Weight] = {}
    for linear in LINEARS:
        rows, biases = [], []
        columns = {"o": spec.heads * spec.head_dim, "down": spec.inter}.get(linear, spec.hidden)
        for part in spec.parts_of(linear):
            weight = place(checkpoint.get(f"{base}{part.name}.weight", (part.rows, columns)))
            bias = checkpoint.find(f"{base}{part.name}.bias")
            bias = None if bias is None else place(bias)
            if part.heads:
                weight = unfold_heads(weight, part.heads)
                bias = None if bias is None else unfold_heads(bias, part.heads)
            rows.append(weight)
            biases.append(bias)
        fused_bias = None
        if any(b is not None for b in biases):
            fused_bias = torch.cat(
                [
                    b if b is not None else torch.zeros(len(w), device=w.device)
                    for b, w in zip(biases, rows, strict=True)
                ]
            ).float()
        fused = torch.cat(rows) if len(rows) > 1 else rows[0]
        if linear == "qkv":
            order = channels(spec, index).to(fused.device)
            fused, fused_bias = fused[order], None if fused_bias is None else fused_bias[order]
        if quantization == "none":
            fused = fused.to(dtype)
        linears[linear] = Weight(fused, fused_bias, quantization)
    names = {"in": "input_layernorm", "mid": "post_attention_layernorm"}
    if spec.post_norms:
        names = {
            "in": "input_layernorm",
            "after_attn": "post_attention_layernorm",
            "mid": "pre_feedforward_layernorm",
            "after_mlp": "post_feedforward_layernorm",
        }
    if spec.qk_norm:
        names |= {"q": "self_attn.q_norm", "k": "self_attn.k_norm"}
    norms: dict[str, tuple[Tensor, Tensor | None]] = {}
    for key, name in names.items():
        bias = checkpoint.find(f"{base}{name}.bias")
        scale = norm_weight(spec, place(checkpoint.get(f"{base}{name}.weight")))
        if key in ("q", "k"):
            scale = scale[pairs(spec, index).to(scale.device)]
        norms[key] = scale, None if bias is None else place(bias).float()
    return Layer(linears, norms)


def norm_weight(spec: Spec, weight: Tensor) -> Tensor:
    """Norm weights are fp32; Gemma stores them as an offset from one."""
    return weight.float() + 1.0 if spec.norm == "rms+1" else weight.float()
