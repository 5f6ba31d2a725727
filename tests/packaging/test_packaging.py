"""What is shipped: a wheel built here has every module and every data file, and works."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
SETUPTOOLS = PYPROJECT["tool"]["setuptools"]
PIP = (sys.executable, "-m", "pip")
OFFLINE = ("--quiet", "--no-deps", "--no-index")
FOLDERS = {"hhchat": "hhchat", "hhchat_trainers": "trainers", "hhchat_plugins": "plugins"}


def sources() -> dict[str, Path]:
    """Installed name -> file, of everything that is to be shipped."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found[f"{package}/{path.relative_to(ROOT / folder).as_posix()}"] = path
    return found


def test_every_package_is_in_the_map() -> None:
    packages = {
        name.rpartition("/")[0].replace("/", ".")
        for name in sources()
        if name.endswith("/__init__.py")
    }
    assert packages == set(SETUPTOOLS["packages"])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what is tracked or would be, so that no build folder is left behind."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (copy / name).write_bytes((ROOT / name).read_bytes())
    for name, path in sources().items():
        package, _, inside = name.partition("/")
        target = copy / FOLDERS[package] / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    out = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [*PIP, "wheel", *OFFLINE, "--no-build-isolation", "--wheel-dir", str(out), str(copy)],
        check=True,
        capture_output=True,
    )
    [built] = out.glob("hhchat-*.whl")
    return built


def test_the_wheel_has_everything_and_no_bare_names(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    missing = set(sources()) - names
    assert not missing
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == set(FOLDERS)


def test_the_wheel_works_where_it_is_installed(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    subprocess.run(
        [*PIP, "install", *OFFLINE, "--target", str(site), str(wheel)],
        check=True,
        capture_output=True,
    )
    script = (
        "import sys, hhchat, hhchat_plugins, hhchat_trainers\n"
        "from hhchat.cli import main\n"
        f"assert all(m.__file__.startswith({str(site)!r}) for m in "
        "(hhchat, hhchat_plugins, hhchat_trainers))\n"
        "sys.exit(main(['plugins', '--json']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
    )
    assert done.returncode == 0, done.stderr
    assert '"state": "loaded"' in done.stdout
    assert (site / "bin" / "hhchat").exists()


def test_what_is_pinned_is_what_is_asked_for() -> None:
    """Each dependency has a pin in constraints.txt that satisfies it."""
    from packaging.requirements import Requirement

    pins = dict(
        re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    )
    extras = PYPROJECT["project"]["optional-dependencies"]
    for line in [*PYPROJECT["project"]["dependencies"], *extras["test"], *extras["dev"]]:
        requirement = Requirement(line)
        if requirement.name == "hhchat":
            continue
        assert requirement.name in pins, requirement.name
        assert requirement.specifier.contains(pins[requirement.name]), line
    assert pins["torch"] == "2.13.0"


def test_no_registry_is_named() -> None:
    for name in ("constraints.txt", "Makefile", ".ci/run", "pyproject.toml"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not re.search(r"--(extra-)?index-url|--find-links|pypi\.|--trusted-host", text), name


def test_every_entry_point_is_there() -> None:
    groups = PYPROJECT["project"]["entry-points"]
    for group in groups.values():
        for target in group.values():
            package, _, module = target.partition(".")
            assert (ROOT / FOLDERS[package] / f"{module}.py").exists(), target


def test_every_module_stands_on_a_floor() -> None:
    """A new module has to be put in the layers of pyproject.toml; the starter is plain data."""
    contracts = PYPROJECT["tool"]["importlinter"]["contracts"]
    [floors] = [c for c in contracts if c["type"] == "layers"]
    named = set(re.findall(r"hhchat\.(\w+)", " ".join(floors["layers"])))
    modules = {path.stem for path in (ROOT / "hhchat").glob("*.py")}
    modules |= {path.parent.name for path in (ROOT / "hhchat").glob("*/__init__.py")}
    assert modules - named == {"__init__", "starter"}


def test_importing_the_floors_holds() -> None:
    """The contracts of pyproject.toml; import-linter is a development tool and may be absent."""
    linter = Path(sys.executable).with_name("lint-imports")
    if not linter.exists():
        pytest.skip("import-linter is not installed")
    done = subprocess.run([str(linter)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
