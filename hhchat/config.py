"""One TOML file, typed: defaults, then the file, then the environment, then flags.

Every setting is a field of a frozen dataclass with a sentence about it; the file, the
environment (`HHCHAT_<SECTION>_<KEY>`), the command line and `hhchat config` are all derived
from that one declaration. An unknown key or section is refused with the nearest name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from hhchat.gate import GateRules
from hhchat.settings import (
    Text,
    build,
    check_key,
    choices_of,
    convert,
    option_fields,
    setting,
    type_name,
)
from hhchat.types import BadInput, nearest

if TYPE_CHECKING:
    from hhchat.protocols import Trainer

Origin = Literal["default", "file", "environment", "flag"]

# Variables of ours that are not settings.
RESERVED = ("HHCHAT_HOME", "HHCHAT_CONFIG", "HHCHAT_DEBUG", "HHCHAT_LOAD_PLUGINS")


@dataclass(frozen=True)
class ModelConfig:
    path: str = setting(
        "starter", "The base model: starter (bundled), a folder, or a Hugging Face hub id."
    )
    quantization: str = setting(
        "auto",
        "How the frozen base is held; auto is int8 on CUDA and none elsewhere.",
        choices=("auto", "int8", "nf4", "none"),
    )
    device: str = setting("auto", "auto, cpu, cuda, or cuda:N; auto takes a GPU when there is one.")


@dataclass(frozen=True)
class ChatConfig:
    mode: str = setting(
        "helpful", "Mode of new conversations: helpful, redteam-best or redteam-worst."
    )
    question: str = setting(
        "",
        "Name of the objective whose question heads the chat; empty: an installed plugin's, "
        "else the mode's own.",
    )
    system: str = setting("", "System prompt of new conversations; empty for none.")
    temperature: float = setting(1.0, "Sampling temperature; 0 is greedy.", low=0.0, high=10.0)
    top_p: float = setting(
        1.0, "Nucleus: sample from the likeliest tokens of this total mass.", low=0.01, high=1.0
    )
    max_new_tokens: int = setting(256, "Longest reply, in tokens.", low=1, high=32768)
    best_of: int = setting(
        1, "Draw this many per reply and keep the preference model's favourite.", low=1, high=64
    )
    candidates: int = setting(
        2,
        "Sample this many replies and show the two whose comparison teaches most. More than 2 "
        "need a preference model or a prior, and replies then come whole instead of growing.",
        low=2,
        high=16,
    )
    plain: float = setting(
        0.25,
        "Share of pairs that stay a plain draw when there are more candidates than 2: they, and "
        "held-out conversations, test what was learnt.",
        low=0.0,
        high=1.0,
    )
    replay: float = setting(
        0.03,
        "Share of messages before which a pair from an earlier day is shown again, sides "
        "swapped, to measure your own consistency.",
        low=0.0,
        high=1.0,
    )
    theme: str = setting(
        "hhchat-dark", "Colours of the app, as its palette (ctrl+p, Theme) names and keeps them."
    )


@dataclass(frozen=True)
class TrainConfig:
    stages: tuple[str, ...] = setting(
        ("pm", "ppo"), "Training stages, in order; each names a trainer."
    )
    seed: int = setting(0, "Seed of every random choice in a run.", low=0)
    min_comparisons: int = setting(
        20, "A run refuses to start with fewer usable training comparisons than this.", low=1
    )
    min_ppo: int = setting(
        30,
        "With fewer usable training comparisons PPO steps aside: the preference model's favourite "
        "of several replies is served, behind the same gate. 0: never.",
        low=0,
    )
    warm_start: bool = setting(
        False,
        "Continue from the current policy instead of the base: a deviation from the paper.",
    )
    eval_prompts: int = setting(
        160, "Held-out prompts the gate samples, for each of candidate and incumbent.", low=4
    )
    shown_prompts: int = setting(
        4,
        "Held-out prompts of which the run's page shows the median of 17 replies, before and "
        "after; 0: none.",
        low=0,
    )


@dataclass(frozen=True)
class RemoteConfig:
    url: str = setting(
        "",
        "An OpenAI-compatible server to ask instead of the local model, such as "
        "http://127.0.0.1:8080/v1; empty: the local model.",
    )
    model: str = setting("", "The server's model; empty: the only one that it has.")
    api_key_env: str = setting(
        "", "Name of the environment variable that holds the server's key; empty: no key is sent."
    )
    timeout: float = setting(
        120.0, "Seconds of silence after which a reply is given up.", low=0.1, high=86400.0
    )


SECTIONS: Mapping[str, type[Any]] = {
    "model": ModelConfig,
    "chat": ChatConfig,
    "train": TrainConfig,
    "gate": GateRules,
    "remote": RemoteConfig,
}
# Sections whose keys are names, not settings: their values are weights.
WEIGHT_SECTIONS: Mapping[str, str] = {
    "pool": "Which snapshots the two replies come from (current, previous, start or an id; "
    "best-of-K keeps the best of K), by weight.",
    "weights": "Weight of each plugin objective's term in the reward; 0 leaves it out.",
}


@dataclass(frozen=True)
class Config:
    """The effective settings. `tables` keeps each trainer's own table as it was written."""

    model: ModelConfig = ModelConfig()
    chat: ChatConfig = ChatConfig()
    train: TrainConfig = TrainConfig()
    gate: GateRules = field(default_factory=GateRules)
    remote: RemoteConfig = RemoteConfig()
    pool: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({"current": 1.0}))
    weights: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: MappingProxyType({}))
    origins: Mapping[str, Origin] = field(default_factory=lambda: MappingProxyType({}))
    path: Path | None = None  # the file, whether or not it exists

    def table(self, name: str) -> Mapping[str, Any]:
        """The `[name]` table of a trainer; empty when the file has none."""
        return self.tables.get(name, {})


def config_path(env: Mapping[str, str] | None = None) -> Path:
    """HHCHAT_CONFIG, else config.toml in the data folder."""
    env = os.environ if env is None else env
    named = env.get("HHCHAT_CONFIG")
    if named:
        return Path(named).expanduser()
    from hhchat.paths import config_file

    return config_file()


def load_config(
    path: Path | None = None,
    *,
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """Defaults, then the file, then the environment, then `flags` ({"model.path": ...}).

    A flag that is None was not given. A file named by HHCHAT_CONFIG or `path` must exist.
    """
    env = os.environ if env is None else env
    explicit = path is not None or bool(env.get("HHCHAT_CONFIG"))
    path = config_path(env) if path is None else path
    document = read_file(path, must_exist=explicit)
    return from_document(document, path=path, env=env, flags=flags or {})


def read_file(path: Path, *, must_exist: bool = False) -> dict[str, Any]:
    """The file's tables; BadInput names the file and what is wrong with it."""
    import tomllib

    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        if must_exist:
            raise BadInput(f"config file {path} does not exist") from None
        return {}
    except OSError as error:
        raise BadInput(f"config file {path}: {error.strerror or error}") from None
    try:
        return tomllib.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise BadInput(f"config file {path} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"config file {path}: {error}") from None


def from_document(
    document: Mapping[str, Any],
    *,
    path: Path | None = None,
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Config:
    """The settings of a parsed file, overridden by `env`, then by `flags`."""
    env, flags = env or {}, flags or {}
    where = f"{path}: " if path is not None else ""
    sections: dict[str, dict[str, Any]] = {}
    origins: dict[str, Origin] = {}
    known = (*SECTIONS, *WEIGHT_SECTIONS)

    trainers = _trainer_tables(document, env)
    for name, table in document.items():
        if name not in known and name not in trainers:
            what = "section" if isinstance(table, dict) else "key"
            owners = [s for s, f in all_fields() if f.name == name and not isinstance(table, dict)]
            hint = f"write it below [{owners[0]}]" if owners else nearest(name, [*known, *trainers])
            raise BadInput(f"{where}unknown {what} [{name}]: {hint}")
        if not isinstance(table, dict):
            raise BadInput(f"{where}{name} is a section: write [{name}] and its keys below it")
        sections[name] = dict(table)
        for key in table:
            if name in SECTIONS:
                check_key(SECTIONS[name], key, f"{where}[{name}]")
            origins[f"{name}.{key}"] = "file"

    for section, key, text in _environment(env, trainers):
        variable = f"HHCHAT_{section}_{key}".upper()
        value: Any = Text(text)
        if section in SECTIONS:
            check_key(SECTIONS[section], key, f"{variable}: [{section}]")
            value = convert(SECTIONS[section], key, value, variable)
        elif section in WEIGHT_SECTIONS:
            value = _weight(_number(text, variable), variable)
        sections.setdefault(section, {})[key] = value
        origins[f"{section}.{key}"] = "environment"

    for dotted, value in flags.items():
        if value is None:
            continue
        section, _, key = dotted.partition(".")
        if section in SECTIONS and key in {f.name for f in option_fields(SECTIONS[section])}:
            value = convert(SECTIONS[section], key, value, _option(key))
        sections.setdefault(section, {})[key] = value
        origins[dotted] = "flag"

    built = {
        name: build(cls, sections.get(name, {}), f"{where}[{name}]")
        for name, cls in SECTIONS.items()
    }
    pool = _weights(sections.get("pool", {"current": 1.0}), f"{where}[pool]")
    if min(pool.values(), default=0.0) < 0 or not any(pool.values()):
        raise BadInput(f"{where}[pool]: weights are at least 0, and one must be above 0")
    tables = {name: table for name, table in sections.items() if name not in known}
    return Config(
        **built,
        pool=MappingProxyType(pool),
        weights=MappingProxyType(_weights(sections.get("weights", {}), f"{where}[weights]")),
        tables=MappingProxyType({name: MappingProxyType(t) for name, t in tables.items()}),
        origins=MappingProxyType(origins),
        path=path,
    )


def _option(key: str) -> str:
    """The command-line option that sets `key`."""
    return "--" + {"path": "model", "url": "server"}.get(key, key).replace("_", "-")


def _trainer_tables(document: Mapping[str, Any], env: Mapping[str, str]) -> tuple[str, ...]:
    """Names that may head a trainer's table: the stages asked for, and every installed trainer.

    Installed trainers are read from entry-point metadata, without importing any of them, and
    only when there is a section or a variable that is not ours.
    """
    train = document.get("train")
    stages = train.get("stages", ()) if isinstance(train, dict) else ()
    named = {s for s in stages if isinstance(s, str)} if isinstance(stages, list) else set()
    named |= {s.strip() for s in env.get("HHCHAT_TRAIN_STAGES", "").split(",") if s.strip()}
    named |= {"pm", "ppo", "best-of"}  # the default stages, and what stands in on few picks
    variables = (v for v in env if v.startswith("HHCHAT_") and v not in RESERVED)
    heads = {*document, *(v.lower().split("_")[1] for v in variables)}
    if heads - SECTIONS.keys() - WEIGHT_SECTIONS.keys():
        named |= installed_trainers()
    return tuple(sorted(named))


def installed_trainers() -> set[str]:
    """Names of the trainers there are, from metadata: none is imported."""
    from importlib.metadata import entry_points

    return {entry.name for entry in entry_points(group="hhchat.trainers")}


def _environment(env: Mapping[str, str], trainers: Sequence[str]) -> list[tuple[str, str, str]]:
    """(section, key, text) of every HHCHAT_<SECTION>_<KEY> that is set."""
    found = []
    sections = (*SECTIONS, *WEIGHT_SECTIONS, *trainers)
    for variable in sorted(env):
        if not variable.startswith("HHCHAT_") or variable in RESERVED:
            continue
        rest = variable.removeprefix("HHCHAT_").lower()
        owners = [s for s in sections if rest.startswith(f"{s.replace('-', '_')}_")]
        if owners:
            section = max(owners, key=len)
            key = rest[len(section) + 1 :]
            if section in WEIGHT_SECTIONS:
                key = key.replace("_", "-")  # names of objectives and snapshots use dashes
            found.append((section, key, env[variable]))
            continue
        # A plugin may have variables of its own; only what looks like a slip is refused.
        known = [*RESERVED, *(f"HHCHAT_{s}_{f.name}".upper() for s, f in all_fields())]
        if get_close_matches(variable, known, n=1, cutoff=0.85):
            raise BadInput(f"unknown variable {variable}: {nearest(variable, known)}")
    return found


def all_fields() -> list[tuple[str, Any]]:
    """(section, dataclass field) of every typed setting."""
    return [(name, f) for name, cls in SECTIONS.items() for f in option_fields(cls)]


def describe(config: Config, trainers: Sequence[Trainer] = ()) -> list[dict[str, Any]]:
    """One record a setting: what it is, where it came from, and its sentence.

    All of those of `trainers`; of others what is set, which says no more than their files do."""
    rows: list[dict[str, Any]] = []

    def add(section: str, name: str, value: Any, kind: str, choices: list[Any], doc: str) -> None:
        key = f"{section}.{name}"
        rows.append(
            {
                "key": key,
                "value": value,
                "origin": config.origins.get(key, "default"),
                "variable": f"HHCHAT_{section}_{name}".upper().replace("-", "_"),
                "type": kind,
                "choices": choices,
                "doc": doc,
            }
        )

    typed = {name: getattr(config, name) for name in SECTIONS} | {t.name: t for t in trainers}
    for section, settings in typed.items():
        for f in option_fields(type(settings)):
            kind = type_name(type(settings), f.name)
            value = getattr(settings, f.name)
            add(section, f.name, value, kind, list(choices_of(f)), f.metadata.get("doc", ""))
    for section, values in {"pool": config.pool, "weights": config.weights}.items():
        for name, value in values.items():
            add(section, name, value, "float", [], WEIGHT_SECTIONS[section])
    for section, values in config.tables.items():
        for name, value in values.items() if section not in typed else ():
            add(section, name, value, "", [], f"Read by the {section} trainer.")
    return rows


def _weights(values: Mapping[str, Any], where: str) -> dict[str, float]:
    return {name: _weight(value, f"{where} {name}") for name, value in values.items()}


def _weight(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadInput(f"{where} must be a number, not {value!r}")
    if not isfinite(value):
        raise BadInput(f"{where} must be a finite number, not {value!r}")
    return float(value)


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadInput(f"{where} must be a number, not {text!r}") from None
