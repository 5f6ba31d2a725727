"""`hhchat doctor`: what this machine has, what fits, and whether the record is sound."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hhchat.cli._common import emit, json_option, open_store, quiet_libraries, say
from hhchat.types import HhchatError

if TYPE_CHECKING:
    import torch

PACKAGES = (
    "hhchat",
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "accelerate",
    "tokenizers",
    "safetensors",
    "textual",
    "sqlite-utils",
    "pluggy",
    "click",
    "rich",
)
# Sizes people know, as Llama-style shapes: hidden, layers, heads, key-value heads, inner, words.
SIZES = {
    "0.5B": (896, 24, 14, 2, 4864, 151936),
    "1.5B": (1536, 28, 12, 2, 8960, 151936),
    "3B": (2048, 36, 16, 2, 11008, 151936),
    "8B": (4096, 32, 32, 8, 14336, 128256),
    "14B": (5120, 48, 40, 8, 13824, 152064),
    "32B": (5120, 64, 40, 8, 27648, 152064),
    "70B": (8192, 80, 64, 8, 28672, 128256),
}
SPARE = 512 << 20  # Python, torch and a key-value cache


@dataclass(frozen=True)
class Check:
    """One finding. `ok` is None where there is nothing to be wrong."""

    name: str
    ok: bool | None
    text: str
    data: Any = None


@click.command("doctor")
@json_option
def command(as_json: bool) -> int:
    """Check versions, device, memory, data folder and database.

    Exits with 1 when something that hhchat needs does not work.
    """
    failed = False
    for check in checks():
        failed = failed or check.ok is False
        if as_json:
            emit({"check": check.name, "ok": check.ok, "text": check.text, "data": check.data})
        else:
            mark = {True: "ok  ", False: "FAIL", None: "    "}[check.ok]
            say(f"{mark}  {check.name:<10}  {check.text}")
    return 1 if failed else 0


def checks() -> Iterator[Check]:
    """Every finding, the cheap ones first."""
    yield Check(
        "python",
        sys.version_info >= (3, 11),
        f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        {"version": platform.python_version(), "system": platform.system()},
    )
    versions = {name: _version(name) for name in PACKAGES}
    missing = [name for name, found in versions.items() if found is None]
    listed = ", ".join(f"{name} {found}" for name, found in versions.items() if found)
    if missing:
        listed = f"missing: {', '.join(missing)}; {listed}"
    yield Check("packages", not missing, listed, versions)
    yield from _guard("settings", _settings)
    yield from _guard("data", _data)
    yield from _guard("database", _database)
    yield from _guard("assistant", _assistant)
    yield from _guard("model", _model)
    yield from _guard("device", _device)


def _guard(name: str, probe: Callable[[], Iterator[Check]]) -> Iterator[Check]:
    """A probe that fails is a finding, and the next ones still run."""
    from hhchat.plugins import one_line

    try:
        yield from probe()
    except HhchatError as error:
        yield Check(name, False, str(error))
    except Exception as error:
        yield Check(name, False, one_line(error))


def _settings() -> Iterator[Check]:
    from hhchat.config import load_config

    config = load_config()
    there = config.path is not None and config.path.exists()
    text = f"{config.path}" + ("" if there else " (no file: defaults)")
    yield Check("settings", True, text, {"path": str(config.path), "exists": there})


def _data() -> Iterator[Check]:
    import os
    import shutil

    from hhchat import paths

    home = paths.home()
    nearest = next(p for p in (home, *home.parents) if p.exists())
    free = shutil.disk_usage(nearest).free
    writable = os.access(nearest, os.W_OK)
    text = f"{home}, {_size(free)} free" + ("" if writable else ", read-only")
    data = {"home": str(home), "free_bytes": free, "writable": writable}
    yield Check("data", writable and free > 100 << 20, text, data)


def _database() -> Iterator[Check]:
    from hhchat import paths

    path = paths.database()
    import sqlite3  # its version only: the store is the one that speaks SQL

    if not path.exists():
        yield Check("database", None, f"{path} is made by the first chat", {"path": str(path)})
        return
    with open_store(reading=True) as store:
        answer = store.check()
        stats = store.stats()
    data = {"path": str(path), "check": answer, "sqlite": sqlite3.sqlite_version, "stats": stats}
    text = f"{path}: {answer}, {_size(path.stat().st_size)}, SQLite {sqlite3.sqlite_version}"
    yield Check("database", answer == "ok", text, data)


def _assistant() -> Iterator[Check]:
    """Whether the promoted snapshot's files are all there."""
    from hhchat import paths
    from hhchat.snapshots import whole

    if not paths.database().exists():
        return
    with open_store(reading=True) as store:
        current = store.current()
    if current is not None:
        whole(current)
    name = current.id if current else "the base"
    yield Check("assistant", True, name, {"snapshot": current.id if current else "base"})


def _model() -> Iterator[Check]:
    from hhchat.config import load_config
    from hhchat.model.locate import locate, read_config

    name = load_config().model.path
    if name != "starter" and "/" in name and not Path(name).expanduser().exists():
        yield Check("model", None, f"{name}, from the Hugging Face hub when first used")
        return
    spec = read_config(locate(name))
    text = f"{name}: {spec.model_type}, {_count(spec.parameters)} parameters"
    yield Check("model", True, text, {"path": name, "parameters": spec.parameters})


def _device() -> Iterator[Check]:
    quiet_libraries()
    import torch

    from hhchat.config import load_config
    from hhchat.model.base import free_memory, has_bf16, pick_device

    device = pick_device(load_config().model.device)
    free = free_memory(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    text = f"{device} ({name}), {_size(free)} free, {torch.get_num_threads()} threads"
    data = {"device": str(device), "name": name, "free_bytes": free}
    yield Check("device", True, text, data)
    yield from _guard("8-bit", lambda: _eight_bit(device))
    yield from _guard("fits", lambda: _fits(free, has_bf16(device)))


def _eight_bit(device: torch.device) -> Iterator[Check]:
    """Quantise a small layer for real, and compare what it answers with the exact one."""
    import torch

    from hhchat.model.weights import Weight

    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(128, 256, generator=generator).to(device)
    x = torch.randn(16, 256, generator=generator).to(device)
    exact = x @ dense.T
    with torch.no_grad():
        answer = Weight(dense, None, "int8")(x)
    error = float((answer - exact).norm() / exact.norm())
    text = f"int8 works on {device}: relative error {error:.4f}"
    if not error < 0.05:
        text = f"int8 gives wrong answers on {device}: relative error {error:.4f}"
    yield Check("8-bit", error < 0.05, text, {"relative_error": error})


def _fits(free: int, bf16: bool) -> Iterator[Check]:
    text, sizes = fitting_sizes(free, bf16)
    yield Check("fits", None, text, sizes)


def fitting_sizes(free: int, bf16: bool) -> tuple[str, dict[str, dict[str, Any]]]:
    """Which sizes could be trained in `free` bytes: base, adapters, optimiser and activations
    together, on a device that multiplies bf16 or does not. In words, and in figures."""
    from hhchat.model.locate import estimate
    from hhchat.model.spec import read_spec

    sizes: dict[str, dict[str, Any]] = {}
    for name, (hidden, layers, heads, kv_heads, inner, words) in SIZES.items():
        spec = read_spec(
            {
                "model_type": "llama",
                "hidden_size": hidden,
                "num_hidden_layers": layers,
                "num_attention_heads": heads,
                "num_key_value_heads": kv_heads,
                "intermediate_size": inner,
                "vocab_size": words,
                "max_position_embeddings": 4096,
                "rms_norm_eps": 1e-6,
                "hidden_act": "silu",
                "tie_word_embeddings": hidden < 4096,
            }
        )
        sizes[name] = {"needs_bytes": {}, "fits": {"chat": [], "train": []}}
        for how in ("none", "int8", "nf4"):
            memory = estimate(spec, how, bf16=bf16)
            # Chatting needs the weights and room for two replies; training the rest as well.
            needs = {"chat": memory.weights + SPARE, "train": memory.total + SPARE}
            sizes[name]["needs_bytes"][how] = needs
            for what, needed in needs.items():
                if needed <= free:
                    sizes[name]["fits"][what].append(how)
    parts = []
    for what in ("chat", "train"):
        fitting = {}
        for how, label in (("none", "unquantised"), ("int8", "int8"), ("nf4", "nf4")):
            names = [name for name, size in sizes.items() if how in size["fits"][what]]
            if names:
                fitting[label] = names[-1]
        best = ", ".join(f"{name} ({label})" for label, name in fitting.items())
        parts.append(f"{what} up to {best}" if best else f"{what}: none of {', '.join(SIZES)}")
    return f"within {_size(free)}: {'; '.join(parts)}", sizes


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _size(count: float) -> str:
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count / (1 << 20):.1f} MiB"


def _count(count: float) -> str:
    return f"{count / 1e9:.1f} B" if count >= 1e9 else f"{count / 1e6:.1f} M"
