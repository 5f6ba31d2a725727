"""Where a model is: the starter, a folder, or a hub id; and what it needs, before loading."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from hhchat.model.spec import Spec, read_spec
from hhchat.types import BadInput, ModelError

STARTER = Path(__file__).resolve().parent.parent / "starter" / "model"


def locate(name: str) -> Path:
    """Folder of `starter`, a local path, or a hub id (downloaded once, safetensors only).

    Raises BadInput when there is no such model, ModelError when it is not one."""
    if name == "starter":
        return STARTER
    if not name.strip():
        raise BadInput("the model's name is empty: give 'starter', a folder, or a hub id")
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{name} is not a model folder: it has no config.json")
        return path
    if path.exists():
        raise ModelError(f"{name} is a file, not a model folder in transformers format")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith((".", "/")):
        raise BadInput(f"no model at {name}: give 'starter', a folder, or a hub id like org/name")
    return _from_hub(name)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    patterns = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # the hub client raises many kinds; the user needs one line
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"cannot get {name} from the hub: {first[:160]}") from None


def read_config(folder: Path) -> Spec:
    """The model's spec. Raises ModelError when config.json is not one."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{folder.name} is not a model: {error}") from None
    except ValueError as error:
        raise ModelError(f"{folder.name} is not a model: its config.json: {error}") from None
    if not isinstance(config, dict):
        raise ModelError(f"config.json of {folder.name} is not a JSON object")
    if not config.get("model_type"):
        raise ModelError(f"{folder.name} is not a model: its config.json has no 'model_type'")
    return read_spec(config)


def identity(name: str, folder: Path) -> str:
    """A name that changes when config, tokenizer or weights change: `starter@1a2b3c4d`."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.json")):
        digest.update(file.name.encode())
        digest.update(file.read_bytes())
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        with file.open("rb") as opened:
            digest.update(f"{file.name} {size}".encode())
            digest.update(opened.read(1 << 16))
            opened.seek(max(0, size - (1 << 16)))
            digest.update(opened.read())
    label = name if name == "starter" else Path(name).name if Path(name).is_dir() else name
    return f"{label}@{digest.hexdigest()[:8]}"


def same_base(one: str, other: str) -> bool:
    """Two identities of the same weights, by whatever name they were loaded."""
    return one.rpartition("@")[2] == other.rpartition("@")[2]


@dataclass(frozen=True)
class Memory:
    """Bytes that a run needs, by part."""

    weights: int
    adapters: int
    activations: int
    sealing: int  # copies on their way to the disk, between updates

    @property
    def total(self) -> int:
        return self.weights + self.adapters + max(self.activations, self.sealing)


def estimate(
    spec: Spec,
    quantization: str,
    *,
    rank: int = 16,
    pm_rank: int = 16,
    tokens: int = 2048,
    bf16: bool = False,
) -> Memory:
    """Memory for PPO on one base: a policy of `rank`; the preference model, its two halves and the
    value of `pm_rank`; Adam for policy and value.
    `bf16`: matrices that are not quantised are kept in it, where the device multiplies it.

    Activations: what a checkpoint-free backward of policy and value keeps for a micro-batch of
    `tokens` (Model.micro; on a GPU unverified), a quarter more for what passes, and logits."""
    body = spec.parameters - spec.vocab * spec.hidden * (1 if spec.tied else 2)
    per_weight = {"int8": 1.0, "nf4": 0.53, "none": 2.0 if bf16 else 4.0}[quantization]
    other = (
        spec.vocab * spec.hidden * (1 if spec.tied else 2) * (4 if quantization == "none" else 2)
    )
    lora = 4 * (  # bytes of an adapter of rank 1, in fp32
        spec.layers
        * (
            4 * spec.hidden
            + 2 * spec.heads * spec.head_dim
            + 2 * spec.kv_heads * spec.head_dim
            + spec.inter * (3 if spec.gated else 2)
        )
    )
    # in fp32 the residual stream, queries, keys, values and what they gave; in products' dtype what
    # is multiplied, and of a gate 4 I numbers on a CPU (2 I on a GPU: kernels.Gated)
    attended, shared = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    wide = 2 * (spec.hidden + attended + shared)
    narrow = 2 * spec.hidden + attended + spec.inter * (4 if spec.gated else 2)
    kept_per_token = spec.layers * (4 * wide + (2 if bf16 else 4) * narrow)
    inside = spec.layers * (7 if spec.gated else 6) * (2 if bf16 else 4)  # of the adapters, a rank
    return Memory(
        weights=int(body * per_weight + other),
        # policy and value with gradient and two moments; the policy as it sampled and at its best
        adapters=lora * (6 * rank + (3 + 4) * pm_rank),
        activations=tokens
        * (2 * kept_per_token * 5 // 4 + 4 * spec.vocab + inside * (rank + pm_rank)),
        sealing=2 * lora * (4 * rank + 3 * pm_rank),  # as bytes, and the file they make
    )
