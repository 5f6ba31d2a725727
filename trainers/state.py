"""Resumable state: tensors and numbers in one safetensors file, replaced in one step.

One file, so a kill at any moment leaves the state of the last finished update or the one before,
never a mixture. Random numbers need no state: each update seeds its own generators from the run's
seed and its own number, so a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hhchat.parallel import ALONE, World
from hhchat.types import HhchatError, Outdated

FILE = "state.safetensors"
LAYOUT = 4  # of what is sealed: 3 has the moments of Adam end to end, 4 a checksum
CHECK = 8  # updates between comparisons of what several processes hold


def seed_for(seed: int, *path: object) -> int:
    """A seed for one place of a run: the same on every machine, unrelated for other places."""
    text = ":".join([str(seed), *map(str, path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def generator_for(seed: int, *path: object) -> torch.Generator:
    return torch.Generator().manual_seed(seed_for(seed, *path))


def seal(
    folder: Path, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], world: World = ALONE
) -> None:
    """Write tensors and JSON numbers aside, flush them, and put them in place in one step.

    Of several processes the main one writes; now and then all compare what they hold."""
    from safetensors.torch import save

    if int(numbers.get("update", 0)) % CHECK == 0:
        world.agree(tensors.values())
    if not world.main:
        return
    folder.mkdir(parents=True, exist_ok=True)
    held = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
    told = {**numbers, "layout": LAYOUT, "checksum": checksum(held)}
    # one entry: of several, safetensors writes them in any order
    data = save(held, metadata={"numbers": json.dumps(told)})
    aside = folder / f"{FILE}.new"
    try:
        with aside.open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        aside.replace(folder / FILE)
    except OSError as error:
        raise HhchatError(f"cannot write {folder / FILE}: {error.strerror or error}") from None


def checksum(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 of the bytes of contiguous tensors on the CPU, in the order of their names: a bit that
    a disk turned over would be trained on, and an assistant made of it promoted."""
    total = 0
    for _, tensor in sorted(tensors.items()):
        total = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, total)
    return total


def unseal(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The sealed state, or None when there is none yet.

    Raises HhchatError where it is damaged, Outdated where it is of another layout."""
    from safetensors import SafetensorError, safe_open

    file = folder / FILE
    if not file.exists():
        return None
    try:
        with safe_open(str(file), framework="pt") as opened:
            numbers: dict[str, Any] = json.loads((opened.metadata() or {})["numbers"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise _damaged(file, str(error)) from None
    if numbers.pop("layout", None) != LAYOUT:
        raise Outdated(
            "this run was sealed by another version of hhchat and can not be resumed:"
            " `hhchat train` without --resume starts anew"
        )
    if numbers.pop("checksum", None) != checksum(tensors):
        raise _damaged(file, "its checksum is another")
    return tensors, numbers


def _damaged(file: Path, why: str) -> HhchatError:
    """Set it aside, so that its stage has none the next time: seeds make it the same again."""
    aside = file.with_suffix(".damaged")
    with contextlib.suppress(OSError):
        file.replace(aside)
    return HhchatError(
        f"the sealed state {file} is damaged ({why}) and set aside as {aside.name};"
        " `hhchat train --resume` begins there anew"
    )


def module_tensors(prefix: str, module: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": p.detach() for name, p in module.named_parameters()}


def restore_module(prefix: str, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(tensors[f"{prefix}/{name}"])


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose name begins with `prefix`, by the rest of it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
