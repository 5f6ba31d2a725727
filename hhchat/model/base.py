"""One base model, loaded once: frozen, quantised where asked, with its renderer."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hhchat.model.locate import identity, locate, read_config
from hhchat.model.render import Renderer
from hhchat.model.spec import LINEARS, Spec
from hhchat.model.trunk import Trunk
from hhchat.model.weights import Checkpoint, Quantization, load_layer, norm_weight
from hhchat.types import BadInput, ModelError, nearest

QUANTIZATIONS = ("auto", "int8", "nf4", "none")


@dataclass
class Model:
    """The base and what speaks about it. Roles are adapters handed to `trunk`, never kept here."""

    trunk: Trunk
    render: Renderer
    name: str
    identity: str
    folder: Path
    quantization: Quantization
    device: torch.device
    fast: torch.dtype  # of products, in chat and training alike

    @property
    def spec(self) -> Spec:
        return self.trunk.spec

    @property
    def chunk(self) -> int:
        """Tokens of a forward without gradients: on a CPU as many as its caches hold well."""
        return 8192 if self.device.type == "cuda" else 1024

    @property
    def micro(self) -> int:
        """Tokens of a training forward."""
        return 4096 if self.device.type == "cuda" else 2048


def load_model(
    name: str = "starter", *, quantization: str = "auto", device: str = "auto", dtype: str = "auto"
) -> Model:
    """Load a base model: `starter`, a folder in transformers format, or a hub id.

    quantization auto is int8 on CUDA and none on a CPU. dtype is that of training products: auto is
    bf16 where the machine multiplies it in hardware, else fp32. Raises BadInput or ModelError.
    """
    if quantization not in QUANTIZATIONS:
        raise BadInput(
            f"quantization {quantization!r} is unknown; {nearest(quantization, QUANTIZATIONS)}"
        )
    place = pick_device(device)
    folder = locate(name)
    spec = read_config(folder)
    if quantization == "auto":
        quantization = "int8" if place.type == "cuda" else "none"
    render = Renderer(folder, spec.vocab)
    checkpoint = Checkpoint(folder)
    store = torch.bfloat16 if place.type == "cuda" else torch.float32
    fast = pick_dtype(dtype, place)
    kept = fast if place.type == "cpu" else store

    def put(tensor: Tensor) -> Tensor:
        return tensor.to(place, store) if tensor.is_floating_point() else tensor.to(place)

    kind: Quantization = quantization  # type: ignore[assignment]
    with torch.no_grad():
        embed = put(_checked(checkpoint, spec.embed_name, (spec.vocab, spec.hidden)))
        head = (
            None
            if spec.tied or spec.head_name not in checkpoint
            else put(checkpoint.get(spec.head_name))
        )
        layers = [load_layer(spec, checkpoint, i, put, kind, kept) for i in range(spec.layers)]
        bias = checkpoint.find(f"{spec.norm_name}.bias")
        norm = (
            norm_weight(spec, put(checkpoint.get(f"{spec.norm_name}.weight"))),
            None if bias is None else put(bias).float(),
        )
    trunk = Trunk(spec, layers, embed, norm, head)
    model = Model(
        trunk=trunk,
        render=render,
        name=name,
        identity=identity(name, folder),
        folder=folder,
        quantization=kind,
        device=place,
        fast=fast,
    )
    keep_copies(model)
    return model


def _checked(checkpoint: Checkpoint, name: str, shape: tuple[int, int]) -> Tensor:
    tensor = checkpoint.get(name)
    if tensor.shape[1] != shape[1] or tensor.shape[0] < shape[0]:
        raise ModelError(f"{name} is {tuple(tensor.shape)}, but config.json says {shape}")
    return tensor


def pick_device(device: str) -> torch.device:
    """`auto` takes CUDA when there is one. Raises BadInput for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise BadInput(f"device {device!r} is not available here; use device = 'cpu' or 'auto'")
    if device.split(":")[0] not in ("cpu", "cuda"):
        raise BadInput(f"device {device!r} is unknown; {nearest(device, ('auto', 'cpu', 'cuda'))}")
    return torch.device(device)


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """dtype of training products: bf16 where the hardware multiplies it, else fp32."""
    named = {
        "bf16": torch.bfloat16,
        "bfloat16": torch.bfloat16,
        "fp32": torch.float32,
        "float32": torch.float32,
    }
    if dtype != "auto":
        if dtype not in named:
            raise BadInput(f"dtype {dtype!r} is unknown; {nearest(dtype, ('auto', *named))}")
        return named[dtype]
    return torch.bfloat16 if has_bf16(device) else torch.float32


def has_bf16(device: torch.device) -> bool:
    """The device multiplies bf16 in hardware (AVX512-BF16 or AMX on a CPU)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return bool(probe and probe()) or bool(amx and amx())


def keep_copies(model: Model) -> None:
    """Keep dense copies of a quantised base where memory allows: products then cost what dense ones
    cost.

    Never more than a quarter of what is free; one that is large stays quantised only.
    """
    if model.quantization == "none":
        return
    weights = [layer.linears[name] for layer in model.trunk.layers for name in LINEARS]
    count = sum(w.shape[0] * w.shape[1] for w in weights)
    size = torch.empty((), dtype=model.fast).element_size()
    if count * size <= free_memory(model.device) // 4:
        for weight in weights:
            weight.keep(model.fast)


def free_memory(device: torch.device) -> int:
    """Bytes of the device that are free to this process (what a CPU's system calls available).

    On CUDA a limit of the process is heeded, such as that of
    PYTORCH_CUDA_ALLOC_CONF=per_process_memory_fraction:0.2, or the same set through torch.
    """
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        free, total = torch.cuda.mem_get_info(index)
        reserved = torch.cuda.memory_reserved(index)
        limit = int(total * torch.cuda.get_per_process_memory_fraction(index))
        cached = reserved - torch.cuda.memory_allocated(index)  # torch gives it again when asked
        return max(0, min(free, limit - reserved)) + cached
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 4 << 30
