"""Finding, loading and calling plugins: the only hook calls in hhchat, behind typed methods.

There is no global manager: whoever needs plugins is passed a `Plugins`. A plugin that fails to
import, misspells a hook, registers something unusable or raises in a hook is reported once by
name, and everything else goes on.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from hhchat import hookspecs
from hhchat.settings import build
from hhchat.types import (
    BadInput,
    Comparison,
    HhchatError,
    Measurement,
    Prompt,
    Report,
    Snapshot,
    nearest,
)

if TYPE_CHECKING:
    import click

    from hhchat.protocols import Engine, Evaluation, Objective, Panel, Scorer, Trainer

APP, TRAINERS = "hhchat", "hhchat.trainers"  # entry-point groups
GROUPS = (APP, TRAINERS)
HOME = "hhchat"  # our own distribution: its plugins always load

T = TypeVar("T")
# The preference model's own part of the reward is reported under this name.
TAKEN = ("preference",)


@dataclass(frozen=True)
class Available:
    """An installed entry point, read from metadata: nothing has been imported."""

    name: str
    group: str
    module: str
    distribution: str
    version: str

    @property
    def ours(self) -> bool:
        return self.distribution == HOME


@dataclass(frozen=True)
class Failure:
    """What a plugin did wrong, in one line."""

    plugin: str
    where: str  # "import", or the hook
    error: str

    def __str__(self) -> str:
        return f"plugin {self.plugin!r}: {self.where}: {self.error}"


def available(groups: Sequence[str] = GROUPS) -> list[Available]:
    """Every installed plugin, ours first, without importing any."""
    found = [_available(entry) for group in groups for entry in entry_points(group=group)]
    return sorted(found, key=lambda a: (not a.ours, groups.index(a.group)))


def wanted(plugin: Available, env: Mapping[str, str] | None = None) -> bool:
    """Whether HHCHAT_LOAD_PLUGINS lets it load: unset all, '' none, else the names listed.

    A name is an entry point's or a distribution's. What ships with hhchat always loads.
    """
    listed = (os.environ if env is None else env).get("HHCHAT_LOAD_PLUGINS")
    if listed is None or plugin.ours:
        return True
    names = {name.strip() for name in listed.split(",")}
    return plugin.name in names or plugin.distribution in names


@dataclass
class Plugins:
    """Loaded plugins. Build one with `Plugins.load()`, or register modules by hand in a test."""

    report: Callable[[str], None] = field(default=lambda text: print(text, file=sys.stderr))
    failures: list[Failure] = field(default_factory=list)
    owners: dict[tuple[str, str], str] = field(default_factory=dict)  # (kind, name) -> plugin

    def __post_init__(self) -> None:
        self.manager = pluggy.PluginManager("hhchat")
        self.manager.add_hookspecs(hookspecs)
        self.loaded: dict[Available, str] = {}  # the name that its module is registered under
        self._seen: set[tuple[str, str, str]] = set()
        self._cache: dict[str, list[Any]] = {}

    # --- loading ---------------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        groups: Sequence[str] = (APP,),
        *,
        report: Callable[[str], None] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Plugins:
        """Load what is installed and wanted. Group `hhchat.trainers` may import torch."""
        plugins = cls() if report is None else cls(report=report)
        plugins.load_groups(groups, env=env)
        return plugins

    def load_groups(self, groups: Sequence[str], *, env: Mapping[str, str] | None = None) -> None:
        """Load the groups that are not loaded yet, one entry point at a time."""
        for group in groups:
            entries = sorted(entry_points(group=group), key=lambda e: not _available(e).ours)
            for entry in entries:
                plugin = _available(entry)
                if plugin not in self.loaded and wanted(plugin, env):
                    self._load(entry, plugin)

    def _load(self, entry: EntryPoint, plugin: Available) -> None:
        try:
            module = entry.load()
        except (Exception, SystemExit) as error:
            self.failed(plugin.name, "import", error)
            return
        self.register(module, plugin.name, plugin)

    def register(self, plugin: object, name: str, source: Available | None = None) -> None:
        """Add a module or object with hook implementations, under a name of its own.

        One that is there already, as a module that two entry points name, stays as it is."""
        if self.manager.is_registered(plugin):
            if source is not None:
                self.loaded[source] = self.manager.get_name(plugin) or name
            return
        try:
            if self.manager.has_plugin(name) and source is not None:
                name = f"{source.distribution}:{name}"
            self.manager.register(plugin, name)
            found = [(attribute, getattr(plugin, attribute, None)) for attribute in dir(plugin)]
        except Exception as error:
            with suppress(Exception):  # a half-registered plugin is worse than none
                self.manager.unregister(plugin)
            self.failed(name, "register", error)
            return
        self._cache.clear()
        if source is not None:
            self.loaded[source] = name
        # A misspelt hook is silent in pluggy until it is asked about.
        for attribute, implementation in found:
            marked = getattr(implementation, "hhchat_impl", None)
            if marked is None:
                continue
            hook = marked.get("specname") or attribute
            if hook not in HOOKS:
                self.failed(name, hook, f"there is no such hook: {nearest(hook, HOOKS)}")

    def failed(self, plugin: str, where: str, error: object) -> None:
        """Keep a failure, and report it the first time it is seen."""
        failure = Failure(plugin, where, one_line(error))
        key = (failure.plugin, failure.where, failure.error)
        if key in self._seen:
            return
        self._seen.add(key)
        self.failures.append(failure)
        from hhchat.text import printable

        self.report(f"hhchat: warning: {printable(str(failure))}")

    def hooks_of(self, name: str) -> list[str]:
        """The hooks a loaded plugin implements."""
        plugin = self.manager.get_plugin(name)
        if plugin is None:
            return []
        return sorted(c.name for c in self.manager.get_hookcallers(plugin) or ())

    def owner(self, kind: str, name: str) -> str:
        """Name of the plugin that registered a `kind` (objective, trainer, ...)."""
        return self.owners.get((kind, name), "")

    # --- what plugins give -------------------------------------------------------------------

    def objectives(self) -> list[Objective]:
        """Questions for the user with their reward terms, in order of registration."""
        return self._gather(
            "register_objectives", "objective", ("name", "question", "score"), taken=TAKEN
        )

    def objective(self, name: str) -> Objective:
        """The objective of that name; BadInput names the nearest."""
        return _named(self.objectives(), name, "objective")

    def question(self, mode: str, name: str = "") -> str:
        """What to ask the user: the named objective's question, else an installed plugin's
        (in mode helpful, so that installing one is enough), else the mode's own."""
        if name:
            return self.objective(name).question
        objectives = self.objectives()
        if mode == "helpful":
            for objective in objectives:
                if not self._ours("objective", objective.name):
                    return objective.question
        for objective in objectives:
            if objective.name == mode:
                return objective.question
        return "Which reply do you prefer?"

    def terms(self, weights: Mapping[str, float]) -> list[tuple[Objective, float]]:
        """Objectives that count in the reward, with their weights.

        The weight is `[weights]`'s, else the objective's own `weight`, else 1.
        """
        objectives = self.objectives()
        names = [objective.name for objective in objectives]
        for name in weights:
            if name not in names:
                raise BadInput(f"[weights] names no objective {name!r}: {nearest(name, names)}")
        pairs = [(o, float(weights.get(o.name, getattr(o, "weight", 1.0)))) for o in objectives]
        return [(objective, weight) for objective, weight in pairs if weight]

    def trainers(self) -> dict[str, type[Trainer]]:
        """Training stages by name. Loads the trainers' group, which may import torch."""
        self.load_groups((TRAINERS,))
        found: list[type[Trainer]] = self._gather("register_trainers", "trainer", ("name", "train"))
        named = {plugin.name for plugin in self.loaded if plugin.group == TRAINERS}
        for trainer in found:
            owner = self.owner("trainer", trainer.name)
            strange = owner in self.loaded.values() and not self._ours("trainer", trainer.name)
            if strange and trainer.name not in named:
                # config.toml is read without importing a trainer: entry points are what it knows
                self.failed(
                    owner,
                    f"trainer {trainer.name!r}",
                    f"no entry point in {TRAINERS} has its name, so config.toml cannot set it",
                )
        return {trainer.name: trainer for trainer in found}

    def trainer(self, name: str, table: Mapping[str, Any]) -> Trainer:
        """The stage `name` with the hyperparameters of its config table."""
        trainers = self.trainers()
        if name not in trainers:
            raise BadInput(f"no trainer is called {name!r}: {nearest(name, list(trainers))}")
        return build_trainer(trainers[name], table)

    def evaluations(self) -> list[Evaluation]:
        return self._gather("register_evaluations", "evaluation", ("name", "measure"))

    def measurements(
        self, engine: Engine, snapshot: str, prompts: Sequence[Prompt], scorer: Scorer | None
    ) -> list[Measurement]:
        """What installed evaluations say of a snapshot; of one that fails, nothing."""
        found: list[Measurement] = []
        for evaluation in self.evaluations():
            try:
                made = list(evaluation.measure(engine, snapshot, prompts, scorer))
                if not all(isinstance(m, Measurement) for m in made):
                    raise HhchatError("it did not give measurements")
            except Exception as error:
                owner = self.owner("evaluation", evaluation.name)
                self.failed(owner, f"evaluation {evaluation.name}", error)
            else:
                found += made
        return found

    def panels(self) -> list[Panel]:
        return self._gather("register_panels", "panel", ("name", "title", "lines"))

    def commands(self, cli: click.Group) -> None:
        """Let plugins add commands. A command that exists is refused: first wins."""
        for plugin, call in self._each("register_commands"):
            before = dict(cli.commands)
            known = set(before) | set(cli.list_commands(_context(cli)))
            try:
                call(cli=cli)
            except Exception as error:
                cli.commands = before
                self.failed(plugin, "register_commands", error)
                continue
            for name, command in list(cli.commands.items()):
                if name in before and command is not before[name]:
                    cli.commands[name] = before[name]
                elif name in known and name not in before:
                    del cli.commands[name]
                elif name not in before:
                    self.owners["command", name] = plugin
                    continue
                else:
                    continue
                self.failed(plugin, "register_commands", f"command {name!r} is already taken")

    # --- what plugins are told ---------------------------------------------------------------

    def comparison_recorded(self, comparison: Comparison) -> None:
        """Tell every plugin that a comparison is committed."""
        self._call_all("comparison_recorded", comparison=comparison)

    def veto_promotion(self, report: Report) -> list[str]:
        """Reasons against a promotion, each with its plugin's name; none: no veto."""
        answers = self._call_all("veto_promotion", report=report)
        return [f"{plugin}: {one_line(reason)}" for plugin, reason in answers if reason]

    def snapshot_promoted(self, snapshot: Snapshot) -> None:
        """Tell every plugin that a promotion is committed."""
        self._call_all("snapshot_promoted", snapshot=snapshot)

    # --- calling one at a time ---------------------------------------------------------------

    def _each(self, hook: str) -> Iterator[tuple[str, Callable[..., Any]]]:
        """(plugin, call) of each implementation, first registered first.

        A notification through pluggy stops at the first plugin that raises, so each is called
        by itself, as pluggy would: with the arguments it names.
        """
        order = [name for name, _ in self.manager.list_name_plugin()]
        implementations = getattr(self.manager.hook, hook).get_hookimpls()
        for implementation in sorted(implementations, key=lambda i: order.index(i.plugin_name)):
            function, names = implementation.function, implementation.argnames
            if implementation.hookwrapper or implementation.wrapper:
                self.failed(implementation.plugin_name, hook, "wrappers are not supported")
                continue

            def call(*, _f: Any = function, _n: Sequence[str] = names, **values: Any) -> Any:
                return _f(*(values[name] for name in _n))

            yield implementation.plugin_name, call

    def _call_all(self, hook: str, **values: Any) -> list[tuple[str, Any]]:
        answers = []
        for plugin, call in self._each(hook):
            try:
                answers.append((plugin, call(**values)))
            except Exception as error:
                self.failed(plugin, hook, error)
        return answers

    def _gather(
        self, hook: str, kind: str, needs: Sequence[str], taken: Iterable[str] = ()
    ) -> list[Any]:
        """What a register hook gives: named, complete, and no name twice (first wins)."""
        if hook in self._cache:
            return list(self._cache[hook])
        found: dict[str, Any] = {}
        for plugin, call in self._each(hook):
            given: list[Any] = []
            try:
                call(register=given.append)
            except Exception as error:  # what it gave before it raised is half a plugin
                self.failed(plugin, hook, error)
                continue
            for item in given:
                missing = [name for name in needs if not hasattr(item, name)]
                name = getattr(item, "name", None)
                if missing:
                    self.failed(plugin, hook, f"its {kind} has no {' and no '.join(missing)}")
                elif not isinstance(name, str) or not name.strip():
                    self.failed(plugin, hook, f"its {kind} has no usable name: {name!r}")
                elif name in found or name in taken:
                    owner = self.owner(kind, name) or HOME
                    self.failed(plugin, hook, f"{kind} {name!r} is already taken by {owner!r}")
                else:
                    found[name] = item
                    self.owners[kind, name] = plugin
        self._cache[hook] = list(found.values())
        return list(found.values())

    def _ours(self, kind: str, name: str) -> bool:
        owner = self.owner(kind, name)
        return any(name == owner and plugin.ours for plugin, name in self.loaded.items())


def build_trainer(cls: type[Trainer], table: Mapping[str, Any]) -> Trainer:
    """A trainer from its config table; an unknown key is refused with the nearest name."""
    return build(cls, table, f"[{cls.name}]")


def one_line(error: object, limit: int = 300) -> str:
    """An exception or a text in one line, with the exception's type when it adds something."""
    text = " ".join(str(error).split())
    if isinstance(error, BaseException):
        name = type(error).__name__
        text = f"{name}: {text}" if text else name
    return text if len(text) <= limit else text[: limit - 1] + "…"


HOOKS = tuple(name for name, value in vars(hookspecs).items() if hasattr(value, "hhchat_spec"))


def _available(entry: EntryPoint) -> Available:
    distribution = entry.dist
    return Available(
        name=entry.name,
        group=entry.group,
        module=entry.value,
        distribution=distribution.name if distribution is not None else "",
        version=distribution.version if distribution is not None else "",
    )


def _named(items: Sequence[T], name: str, kind: str) -> T:
    for item in items:
        if getattr(item, "name", None) == name:
            return item
    names = [str(getattr(item, "name", "")) for item in items]
    raise BadInput(f"there is no {kind} {name!r}: {nearest(name, names)}")


def _context(cli: click.Group) -> click.Context:
    import click

    return click.Context(cli)
