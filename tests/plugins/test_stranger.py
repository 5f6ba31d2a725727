"""A stranger's plugin, README's own example, installed by pip and used by the real program."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hhchat.model.locate import STARTER

Run = Callable[..., Any]
README = Path(__file__).resolve().parents[2] / "README.md"
OFFLINE = ("--quiet", "--no-build-isolation", "--no-deps", "--no-index")
needs_starter = pytest.mark.skipif(
    not (STARTER / "model.safetensors").exists(), reason="the starter model is not built"
)

BROKEN = {
    "import_error": "raise RuntimeError('no \\x1b[31mweather')",
    "exits": "raise SystemExit(3)",
    "hook_error": (
        "import hhchat\n@hhchat.hookimpl\ndef register_objectives(register):\n    1 / 0\n"
    ),
    "typo": "import hhchat\n@hhchat.hookimpl\ndef register_objectivs(register):\n    pass\n",
    "command": (
        "import click, hhchat\n@hhchat.hookimpl\ndef register_commands(cli):\n"
        "    @cli.command('greet', help='Say hello [/red].')\n"
        "    def greet():\n        click.echo('hello')\n"
    ),
}


def install(project: Path, target: Path) -> None:
    """pip install a project into a folder of its own, without a network."""
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *OFFLINE, "--target", str(target), str(project)],
        check=True,
        capture_output=True,
    )


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the plugin of README and some that are broken."""
    target = tmp_path_factory.mktemp("site")
    text = README.read_text(encoding="utf-8")
    files = dict(re.findall(r"^`([\w.]+)`\n\n```\w+\n(.*?)```$", text, re.MULTILINE | re.DOTALL))
    assert set(files) == {"hhchat_warmth.py", "pyproject.toml"}
    assert len(files["hhchat_warmth.py"].strip().splitlines()) <= 36
    warmth = tmp_path_factory.mktemp("warmth")
    for name, content in files.items():
        (warmth / name).write_text(content)
    install(warmth, target)
    broken = tmp_path_factory.mktemp("broken")
    for name, content in BROKEN.items():
        (broken / f"broken_{name}.py").write_text(content)
    entries = "".join(f"{name} = 'broken_{name}'\n" for name in BROKEN)
    modules = ", ".join(f"'broken_{name}'" for name in BROKEN)
    (broken / "pyproject.toml").write_text(
        "[project]\nname = 'hhchat-broken'\nversion = '9'\n"
        f"[project.entry-points.hhchat]\n{entries}\n[tool.setuptools]\npy-modules = [{modules}]\n"
    )
    install(broken, target)
    return target


@pytest.fixture
def stranger(shell: Run, scratch: Path) -> Run:
    """`shell`, with the plugins named in `load` installed."""

    def call(*args: str, load: str, **more: Any) -> Any:
        path = os.pathsep.join([str(scratch), *filter(None, [os.environ.get("PYTHONPATH")])])
        return shell(*args, PYTHONPATH=path, HHCHAT_LOAD_PLUGINS=load, **more)

    return call


def test_it_is_listed(stranger: Run) -> None:
    rows = {row["name"]: row for row in stranger("plugins", "--json", load="warmth").ok().lines}
    assert rows["warmth"]["distribution"] == "hhchat-warmth"
    assert rows["warmth"]["version"] == "0.1"
    assert rows["warmth"]["state"] == "loaded"
    assert rows["warmth"]["hooks"] == ["register_objectives", "register_panels"]
    assert rows["warmth"]["gives"] == ["objective warmth", "panel warmth"]
    assert rows["import_error"]["state"] == "off"
    assert rows["objectives"]["state"] == "loaded"
    assert "hhchat-warmth 0.1" in stranger("plugins", load="warmth").ok().out


def test_nothing_of_it_is_loaded_when_it_is_not_wanted(stranger: Run) -> None:
    rows = {row["name"]: row for row in stranger("plugins", "--json", load="").ok().lines}
    assert rows["warmth"]["state"] == "off"
    assert rows["objectives"]["state"] == "loaded"


def test_broken_ones_are_named_and_everything_else_works(stranger: Run) -> None:
    load = "hhchat-broken,warmth"
    ran = stranger("plugins", "--json", load=load).ok()
    assert ran.err == ""
    rows = {row["name"]: row for row in ran.lines}
    assert rows["import_error"]["errors"] == ["import: RuntimeError: no \x1b[31mweather"]
    assert rows["exits"]["errors"] == ["import: SystemExit: 3"]
    assert rows["hook_error"]["errors"] == [
        "register_objectives: ZeroDivisionError: division by zero"
    ]
    assert "did you mean 'register_objectives'?" in rows["typo"]["errors"][0]
    assert rows["warmth"]["state"] == "loaded"
    text = stranger("plugins", load=load).ok().out
    assert "\x1b" not in text
    assert "import_error: import: RuntimeError: no \\x1b[31mweather" in text


def test_a_command_of_a_plugin(stranger: Run) -> None:
    assert stranger("greet", load="command").ok().out == "hello\n"
    text = stranger("--help", load="command").ok().out
    assert "greet  Say hello [/red]." in text
    ran = stranger("greet", load="")
    assert ran.code == 2
    assert "there is no command 'greet'" in ran.err
    ran = stranger("--help", load="import_error,command").ok()
    assert "greet" in ran.out
    assert ran.err == "hhchat: warning: plugin 'import_error': import: RuntimeError: no " + (
        "\\x1b[31mweather\n"
    )


def test_its_question_heads_the_chat(scratch: Path, home: Path) -> None:
    """The session that the app and the simulated users speak through."""
    script = (
        "from hhchat.plugins import Plugins\n"
        "from hhchat.session import Session\n"
        "from hhchat.store import Store\n"
        "with Store() as store:\n"
        "    session = Session(store, None, plugins=Plugins.load())\n"
        "    print(session.question)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(scratch), "HHCHAT_LOAD_PLUGINS": "warmth"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True
    )
    assert done.stdout == "Which reply is warmer?\n"


@needs_starter
def test_its_term_is_in_a_runs_metrics(stranger: Run, home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text(
        "[train]\neval_prompts = 8\nmin_comparisons = 5\nmin_ppo = 0\n[chat]\nmax_new_tokens = 24\n"
        "[pm]\nhalves = false\nanchors = 8\n"
        "[ppo]\nupdates = 1\nbatch = 8\nepochs = 1\nevaluate = 8\nmax_new_tokens = 24\n"
        "[weights]\nwarmth = 0.5\n"
    )
    stranger("simulate", "--user", "helpful", "--picks", "12", load="warmth").ok()
    [pick] = stranger("prefs", "list", "--n", "1", "--json", load="").ok().lines
    assert pick["question"] == "Which reply is warmer?"
    ran = stranger("train", "--json", load="warmth")
    assert ran.code in (0, 3), ran.err
    metrics = {(e["stage"], e["name"]) for e in ran.lines if e["event"] == "metric"}
    assert ("ppo", "reward_warmth") in metrics
    run = ran.lines[-1]["run"]
    assert ran.lines[-1]["event"] == "end"
    [shown] = stranger("runs", "show", run["id"], "--json", load="").ok().lines
    assert shown["state"] == run["state"]
    assert "reward_warmth" in shown["metrics"]["ppo"]
