"""The plugin room: isolation, first wins, the environment's choice. Hooks on plain objects."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import click
import pytest

import hhchat
from hhchat import hookspecs
from hhchat.plugins import HOOKS, Available, Plugins, available, wanted
from hhchat.types import BadInput, Comparison, Exchange, Message, Report, Snapshot

DOC = Path(__file__).resolve().parents[2] / "docs" / "plugins.md"
SNAPSHOT = Snapshot("s", "s", None, "base", "starter")
REPORT = Report("s", "base", {})


class Objective:
    def __init__(self, name: str, question: str = "Which?", weight: float | None = None) -> None:
        self.name, self.question = name, question
        if weight is not None:
            self.weight = weight

    def score(self, exchanges: Sequence[Exchange]) -> list[float]:
        return [0.0] * len(exchanges)


def plugin(**hooks: Callable[..., Any]) -> types.SimpleNamespace:
    """An object whose attributes are hook implementations."""
    return types.SimpleNamespace(**{k: hhchat.hookimpl(f) for k, f in hooks.items()})


def gives(kind: str, *items: Any) -> types.SimpleNamespace:
    def register(register: Callable[[Any], None]) -> None:
        for item in items:
            register(item)

    register.__name__ = f"register_{kind}"
    return plugin(**{f"register_{kind}": register})


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def plugins(said: list[str]) -> Plugins:
    return Plugins(report=said.append)


# --- one test a hook -------------------------------------------------------------------------


def test_hook_register_objectives(plugins: Plugins) -> None:
    warm = Objective("warm", "Which is warmer?")
    plugins.register(gives("objectives", warm), "mine")
    assert plugins.objectives() == [warm]
    assert plugins.owner("objective", "warm") == "mine"
    assert plugins.objective("warm") is warm
    with pytest.raises(BadInput, match="did you mean 'warm'"):
        plugins.objective("wram")


def test_hook_register_trainers(plugins: Plugins) -> None:
    class Toy:
        name: ClassVar[str] = "toy"

        def train(self, context: Any) -> Any: ...

    plugins.load_groups = lambda *a, **k: None  # type: ignore[method-assign]
    plugins.register(gives("trainers", Toy), "mine")
    assert plugins.trainers() == {"toy": Toy}
    with pytest.raises(BadInput, match="no trainer is called 'tyo': did you mean 'toy'"):
        plugins.trainer("tyo", {})
    assert isinstance(plugins.trainer("toy", {}), Toy)  # no dataclass: it has no settings
    with pytest.raises(BadInput, match=r"\[toy\] has no setting 'rate': it has none at all"):
        plugins.trainer("toy", {"rate": 1})


def test_hook_register_evaluations(plugins: Plugins) -> None:
    class Count:
        name = "count"

        def measure(self, *args: Any) -> list[Any]:
            return []

    count = Count()
    plugins.register(gives("evaluations", count), "mine")
    assert plugins.evaluations() == [count]


def test_hook_register_panels(plugins: Plugins) -> None:
    panel = types.SimpleNamespace(name="p", title="P", lines=lambda data: ["x"])
    plugins.register(gives("panels", panel), "mine")
    assert plugins.panels() == [panel]


def test_hook_register_commands(plugins: Plugins, said: list[str]) -> None:
    cli = click.Group("cli")
    own = click.Command("own")
    cli.add_command(own)

    def add(cli: click.Group) -> None:
        cli.add_command(click.Command("greet"))
        cli.add_command(click.Command("own"))

    def halfway(cli: click.Group) -> None:
        cli.add_command(click.Command("half"))
        raise ValueError("oh")

    plugins.register(plugin(register_commands=add), "adder")
    plugins.register(plugin(register_commands=halfway), "breaker")
    plugins.commands(cli)
    assert set(cli.commands) == {"own", "greet"}
    assert cli.commands["own"] is own
    assert "plugin 'adder': register_commands: command 'own' is already taken" in said[0]
    assert "plugin 'breaker': register_commands: ValueError: oh" in said[1]


def test_hook_comparison_recorded(plugins: Plugins) -> None:
    seen: list[Comparison] = []
    comparison = Comparison((Message("user", "x"),), (hhchat.Generation("a"),) * 2)

    def comparison_recorded(comparison: Comparison) -> None:
        seen.append(comparison)

    plugins.register(plugin(comparison_recorded=comparison_recorded), "mine")
    plugins.comparison_recorded(comparison)
    assert seen == [comparison]


def test_hook_veto_promotion(plugins: Plugins) -> None:
    plugins.register(plugin(veto_promotion=lambda report: f"not {report.candidate}\n!"), "strict")
    plugins.register(plugin(veto_promotion=lambda: None), "mild")
    assert plugins.veto_promotion(REPORT) == ["strict: not s !"]


def test_hook_snapshot_promoted(plugins: Plugins) -> None:
    seen: list[Snapshot] = []
    plugins.register(plugin(snapshot_promoted=lambda snapshot: seen.append(snapshot)), "mine")
    plugins.snapshot_promoted(SNAPSHOT)
    assert seen == [SNAPSHOT]


def test_every_hook_has_a_test_and_its_signature_in_the_docs() -> None:
    text = DOC.read_text()
    for hook in HOOKS:
        assert f"test_hook_{hook}" in globals(), hook
        signature = inspect.signature(getattr(hookspecs, hook))
        written = f"`{hook}({', '.join(signature.parameters)})`"
        assert written in text, written
    assert set(re.findall(r"^\| `(\w+)\(", text, re.MULTILINE)) == set(HOOKS)


# --- what goes wrong -------------------------------------------------------------------------


def test_a_plugin_that_raises_is_named_once_and_the_rest_go_on(
    plugins: Plugins, said: list[str]
) -> None:
    seen: list[str] = []

    def explode(snapshot: Snapshot) -> None:
        raise RuntimeError("boom\nsecond line \x1b[31m[/red]")

    plugins.register(plugin(snapshot_promoted=lambda: seen.append("before")), "before")
    plugins.register(plugin(snapshot_promoted=explode), "bomb")
    plugins.register(plugin(snapshot_promoted=lambda: seen.append("after")), "after")
    plugins.snapshot_promoted(SNAPSHOT)
    plugins.snapshot_promoted(SNAPSHOT)
    assert seen == ["before", "after"] * 2
    assert said == [
        "hhchat: warning: plugin 'bomb': snapshot_promoted: RuntimeError: boom second line "
        "\\x1b[31m[/red]"
    ]
    assert [f.plugin for f in plugins.failures] == ["bomb"]


def test_what_half_a_plugin_registered_is_taken_back(plugins: Plugins, said: list[str]) -> None:
    def half(register: Callable[[Any], None]) -> None:
        register(Objective("half"))
        raise ValueError("oh")

    plugins.register(plugin(register_objectives=half), "half")
    plugins.register(gives("objectives", Objective("whole")), "whole")
    assert [o.name for o in plugins.objectives()] == ["whole"]
    assert len(said) == 1


def test_the_first_of_a_name_wins(plugins: Plugins, said: list[str]) -> None:
    first, second = Objective("warm"), Objective("warm")
    plugins.register(gives("objectives", first), "one")
    plugins.register(gives("objectives", second, Objective("preference")), "two")
    assert plugins.objectives() == [first]
    assert (
        "plugin 'two': register_objectives: objective 'warm' is already taken by 'one'" in said[0]
    )
    assert "'preference' is already taken by 'hhchat'" in said[1]


def test_a_module_that_two_groups_name_keeps_all_that_it_gave(
    plugins: Plugins, said: list[str]
) -> None:
    warm = Objective("warm")
    both = gives("objectives", warm)
    for group in ("hhchat", "hhchat.trainers"):
        plugins.register(both, "mine", Available("mine", group, "mine", "mine", "1"))
    assert plugins.objectives() == [warm]
    assert set(plugins.loaded.values()) == {"mine"}
    assert len(plugins.loaded) == 2
    assert not said


def test_a_second_entry_point_of_one_module_shows_what_the_module_does(
    plugins: Plugins, said: list[str]
) -> None:
    both = gives("trainers")
    for name in ("mine", "yours"):
        plugins.register(both, name, Available(name, "hhchat.trainers", "mine", "mine", "1"))
    assert [plugins.hooks_of(key) for key in plugins.loaded.values()] == [["register_trainers"]] * 2
    assert not said


def test_a_trainer_that_settings_could_not_name_is_told(plugins: Plugins, said: list[str]) -> None:
    class Mine:
        name: ClassVar[str] = "mine"

        def train(self, context: Any) -> Any: ...

    class Other(Mine):
        name: ClassVar[str] = "other"

    plugins.load_groups = lambda *a, **k: None  # type: ignore[method-assign]
    both = gives("trainers", Mine, Other)
    plugins.register(both, "mine", Available("mine", "hhchat.trainers", "m", "d", "1"))
    assert sorted(plugins.trainers()) == ["mine", "other"]
    [line] = said
    assert "trainer 'other'" in line
    assert "no entry point in hhchat.trainers has its name" in line


@pytest.mark.parametrize("item", [3, None, Objective(""), Objective("  "), object()])
def test_what_cannot_be_used_is_named(plugins: Plugins, said: list[str], item: Any) -> None:
    plugins.register(gives("objectives", item), "odd")
    assert plugins.objectives() == []
    assert "plugin 'odd': register_objectives: its objective has no " in said[0]


def test_a_misspelt_hook_names_the_nearest(plugins: Plugins, said: list[str]) -> None:
    def comparison_recoded(comparison: Comparison) -> None: ...

    plugins.register(plugin(comparison_recoded=comparison_recoded), "typo")
    assert "there is no such hook: did you mean 'comparison_recorded'?" in said[0]


def test_a_hook_with_an_argument_that_is_not_given(plugins: Plugins, said: list[str]) -> None:
    def veto_promotion(reprot: Report) -> None: ...

    plugins.register(plugin(veto_promotion=veto_promotion), "typo")
    assert "reprot" in said[0]
    assert plugins.veto_promotion(REPORT) == []


# --- questions and terms ---------------------------------------------------------------------


def test_the_question_of_the_chat(plugins: Plugins) -> None:
    ours = Available("objectives", "hhchat", "m", "hhchat", "1")
    theirs = Available("warmth", "hhchat", "m", "hhchat-warmth", "1")
    plugins.register(
        gives("objectives", Objective("helpful", "Better?"), Objective("redteam-worst", "Worse?")),
        "objectives",
        ours,
    )
    assert plugins.question("helpful") == "Better?"
    plugins.register(gives("objectives", Objective("warmth", "Warmer?")), "warmth", theirs)
    assert plugins.question("helpful") == "Warmer?"
    assert plugins.question("redteam-worst") == "Worse?"
    assert plugins.question("warmth") == "Warmer?"
    assert plugins.question("helpful", "helpful") == "Better?"
    assert plugins.question("unheard-of") == "Which reply do you prefer?"
    with pytest.raises(BadInput, match="did you mean 'warmth'"):
        plugins.question("helpful", "wramth")


def test_terms_and_their_weights(plugins: Plugins) -> None:
    a, b, c = Objective("a"), Objective("b", weight=0.0), Objective("c", weight=0.5)
    plugins.register(gives("objectives", a, b, c), "mine")
    assert plugins.terms({}) == [(a, 1.0), (c, 0.5)]
    assert plugins.terms({"a": 0, "b": -2.0}) == [(b, -2.0), (c, 0.5)]
    with pytest.raises(BadInput, match=r"\[weights\] names no objective 'aa'"):
        plugins.terms({"aa": 1.0})


# --- what ships, and what is chosen ----------------------------------------------------------


def test_what_ships_is_found_through_entry_points() -> None:
    ours = {(p.name, p.group) for p in available() if p.ours}
    assert {("objectives", "hhchat"), ("pm", "hhchat.trainers"), ("ppo", "hhchat.trainers")} <= ours
    plugins = Plugins.load()
    assert plugins.failures == []
    assert {"helpful", "redteam-best", "redteam-worst", "brevity"} <= {
        o.name for o in plugins.objectives()
    }
    assert plugins.terms({}) == []
    [(brevity, weight)] = plugins.terms({"brevity": 0.5})
    assert weight == 0.5
    short, long = brevity.score([Exchange((), "yes"), Exchange((), "yes indeed it is")])
    assert short > long
    assert plugins.trainers().keys() >= {"pm", "ppo"}


@pytest.mark.parametrize(
    ("value", "loads"),
    [(None, True), ("", False), ("warmth", True), ("hhchat-warmth, x", True), ("x", False)],
)
def test_the_environment_chooses(value: str | None, loads: bool) -> None:
    env = {} if value is None else {"HHCHAT_LOAD_PLUGINS": value}
    assert wanted(Available("warmth", "hhchat", "m", "hhchat-warmth", "1"), env) is loads
    assert wanted(Available("pm", "hhchat.trainers", "m", "hhchat", "1"), env)
