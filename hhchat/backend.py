"""The one door from the stories to the torch room, opened only when a model is needed.

Everything that imports torch is imported inside these methods, so that planning a run, refusing
one or reading its report costs no start-up time. Another implementation of the same four verbs
may stand in for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hhchat.protocols import Engine, Scorer
from hhchat.snapshots import CURRENT, Resolver

if TYPE_CHECKING:
    from hhchat.config import Config
    from hhchat.model import Model, PreferenceModel

Resolve = Callable[[str], tuple[str, Path | None]]
Settings = Mapping[str, Mapping[str, Any]]  # of each stage, by its name


@dataclass(frozen=True)
class Memory:
    """What a run needs and what there is, in bytes; None where it could not be found out."""

    needed: int | None
    available: int | None
    device: str = ""
    advice: str = ""  # what would fit, when this does not

    @property
    def fits(self) -> bool:
        return self.needed is None or self.available is None or self.needed <= self.available


class Backend(Protocol):
    """What the pipeline needs of a model room."""

    def load(self, config: Config) -> Model: ...

    def engine(self, model: Model, resolve: Resolve) -> Engine: ...

    def preference(self, model: Model, folder: Path) -> Scorer: ...

    def memory(self, config: Config, stages: Settings | None = None) -> Memory: ...


class LocalBackend:
    """The real one: hhchat.model on this machine."""

    def load(self, config: Config) -> Model:
        from hhchat.model import load_model

        chosen = config.model
        return load_model(chosen.path, quantization=chosen.quantization, device=chosen.device)

    def engine(self, model: Model, resolve: Resolve) -> Engine:
        """A sampler; with a `Resolver`, best-of-k asks each snapshot's own preference model."""
        from hhchat.model import LocalEngine
        from hhchat.model.asking import LocalAsker

        if not isinstance(resolve, Resolver):
            return LocalEngine(model, resolve)
        resolve = replace(resolve, base=resolve.base or model.identity)
        judges = _Judges(self, model, resolve)
        asker = LocalAsker(lambda: _describer(model, resolve))
        return LocalEngine(model, resolve, judge=judges, asker=asker, best_of=resolve.best_of)

    def preference(self, model: Model, folder: Path) -> Scorer:
        from hhchat.model import PreferenceModel

        return PreferenceModel.load(model, folder)

    def memory(self, config: Config, stages: Settings | None = None) -> Memory:
        """Weights, adapters with their optimiser, and activations, against what is free.

        Of `stages` the ranks count, and `micro_tokens` where it is small; neither rows nor larger
        micro-batches do, which are halved when memory runs out."""
        from hhchat.model.base import free_memory, has_bf16, pick_device
        from hhchat.model.locate import estimate, locate, read_config

        device = pick_device(config.model.device)
        how = config.model.quantization
        if how == "auto":
            how = "int8" if device.type == "cuda" else "none"
        spec = read_config(locate(config.model.path))
        roles = _roles(stages or {})
        needed = estimate(spec, how, bf16=has_bf16(device), **roles).total
        available = free_memory(device)
        advice = ""
        if needed > available:
            tried = {
                f"[model] quantization = {q!r}": estimate(spec, q, **roles).total
                for q in ("int8", "nf4")
            }
            usual = {name: n for name, n in roles.items() if name == "tokens"}
            tried["adapters of rank 16"] = estimate(spec, how, bf16=has_bf16(device), **usual).total
            advice = _what_fits(available, tried)
        return Memory(needed, available, device.type, advice)


@dataclass
class _Judges:
    """The preference model of each snapshot, loaded when a best-of-k draw first asks for it."""

    backend: LocalBackend
    model: Model
    resolve: Resolver
    _loaded: dict[str, Scorer] = field(default_factory=dict)

    def __call__(self, name: str) -> Scorer | None:
        snapshot = self.resolve(name)[0]  # "current" may be another one by now
        if snapshot not in self._loaded:
            folder = self.resolve.preference(snapshot)
            if folder is None:
                return None
            self._loaded[snapshot] = self.backend.preference(self.model, folder)
        return self._loaded[snapshot]


def _describer(model: Model, resolve: Resolver) -> PreferenceModel | None:
    """The preference model whose features tell replies apart: the prior beside the base, else the
    current snapshot's; None before there is either."""
    from hhchat.model import PreferenceModel

    prior = model.folder / "prior"
    folder = prior if (prior / "pm.json").is_file() else resolve.preference(CURRENT)
    return None if folder is None else PreferenceModel.load(model, folder)


def _roles(stages: Settings) -> dict[str, Any]:
    """What `estimate` asks of the stages' settings, as far as they are set."""
    found: dict[str, int] = {}
    for name, told in stages.items():
        rank, tokens = told.get("rank"), told.get("micro_tokens")
        if isinstance(rank, int):
            role = "pm_rank" if name == "pm" else "rank"
            found[role] = max(rank, found.get(role, 0))
        if isinstance(tokens, int):
            found["tokens"] = min(tokens, found.get("tokens", 2048))
    return found


def _what_fits(available: int, needed: Mapping[str, int]) -> str:
    for how, size in needed.items():
        if size <= available:
            return f"With {how} it takes {size / 2**30:.1f} GiB"
    return "A smaller model would fit"
