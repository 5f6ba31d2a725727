"""Settings: one declaration; unknown names refused with the nearest; env, then flags, override."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from hhchat.config import Config, all_fields, describe, from_document, load_config
from hhchat.config_file import edit, set_value, toml_value
from hhchat.settings import Text, build, setting
from hhchat.types import BadInput

Run = Callable[..., Any]


def test_defaults_need_no_file(home: Path) -> None:
    config = load_config()
    assert config == Config(path=home / "config.toml")
    assert config.model.path == "starter"
    assert config.train.stages == ("pm", "ppo")
    assert dict(config.pool) == {"current": 1.0}


def test_every_setting_has_a_sentence() -> None:
    for section, field in all_fields():
        doc = field.metadata.get("doc", "")
        assert doc.strip().endswith("."), f"{section}.{field.name}"


def test_file_then_environment_then_flags(home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text(
        "[chat]\ntemperature = 0.5\ntop_p = 0.5\nmax_new_tokens = 5\n[ppo]\nupdates = 3\n"
    )
    env = {
        "HHCHAT_CHAT_TOP_P": "0.6",
        "HHCHAT_CHAT_MAX_NEW_TOKENS": "6",
        "HHCHAT_TRAIN_STAGES": "pm, ppo",
        "HHCHAT_TRAIN_WARM_START": "yes",
        "HHCHAT_PPO_LEARNING_RATE": "1e-4",
        "HHCHAT_HOME": str(home),
    }
    config = load_config(env=env, flags={"chat.max_new_tokens": 7, "model.path": None})
    assert config.chat.temperature == 0.5
    assert config.chat.top_p == 0.6
    assert config.chat.max_new_tokens == 7
    assert config.train.warm_start is True
    assert config.train.stages == ("pm", "ppo")
    assert config.table("ppo") == {"updates": 3, "learning_rate": "1e-4"}
    origins = {row["key"]: row["origin"] for row in describe(config)}
    assert origins["chat.temperature"] == "file"
    assert origins["chat.top_p"] == "environment"
    assert origins["chat.max_new_tokens"] == "flag"
    assert origins["model.path"] == "default"
    assert origins["ppo.updates"] == "file"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"chat.temperature": -1.0}, "--temperature must be at least 0, not -1.0"),
        ({"chat.max_new_tokens": 0}, "--max-new-tokens must be at least 1, not 0"),
        ({"model.quantization": "int9"}, "--quantization cannot be 'int9': did you mean 'int8'?"),
    ],
)
def test_a_bad_option_is_named_not_the_file(home: Path, flags: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as caught:
        load_config(env={}, flags=flags)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"modle": {}}, "unknown section [modle]: did you mean 'model'?"),
        ({"modle": 3}, "unknown key [modle]: did you mean 'model'?"),
        ({"temperature": 3}, "unknown key [temperature]: write it below [chat]"),
        ({"model": 3}, "model is a section"),
        ({"model": {"pth": "x"}}, "[model] has no setting 'pth': did you mean 'path'?"),
        ({"model": {"path": 1}}, "[model] path must be text, not 1"),
        ({"model": {"quantization": "int4"}}, "cannot be 'int4': did you mean 'int8'?"),
        ({"chat": {"temperature": "hot"}}, "[chat] temperature must be a number, not 'hot'"),
        ({"chat": {"temperature": True}}, "[chat] temperature must be a number"),
        ({"chat": {"temperature": -1}}, "[chat] temperature must be at least 0, not -1.0"),
        ({"chat": {"temperature": float("nan")}}, "[chat] temperature must be a"),
        ({"chat": {"max_new_tokens": 1.5}}, "[chat] max_new_tokens must be an integer, not 1.5"),
        ({"train": {"stages": "pm"}}, "[train] stages must be a list of text, not 'pm'"),
        ({"gate": {"max_kll": 3}}, "[gate] has no setting 'max_kll': did you mean 'max_kl'?"),
        ({"pool": {"current": -1}}, "weights are at least 0"),
        ({"pool": {"current": 0}}, "one must be above 0"),
        ({"weights": {"warmth": "big"}}, "[weights] warmth must be a number, not 'big'"),
    ],
)
def test_what_is_wrong_is_named(document: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as error:
        from_document(document, path=Path("config.toml"))
    assert said in str(error.value)
    assert str(error.value).startswith("config.toml: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"HHCHAT_MODEL_PAHT": "x"}, "HHCHAT_MODEL_PAHT: [model] has no setting 'paht'"),
        ({"HHCHAT_MODLE_PATH": "x"}, "did you mean 'HHCHAT_MODEL_PATH'?"),
        ({"HHCHAT_CHAT_TEMPERATURE": "hot"}, "HHCHAT_CHAT_TEMPERATURE must be a number"),
        ({"HHCHAT_TRAIN_WARM_START": "maybe"}, "must be true or false, not 'maybe'"),
        ({"HHCHAT_WEIGHTS_WARMTH": "big"}, "HHCHAT_WEIGHTS_WARMTH must be a number"),
    ],
)
def test_what_is_wrong_in_the_environment_is_named(env: dict[str, str], said: str) -> None:
    with pytest.raises(BadInput) as error:
        from_document({}, env=env)
    assert said in str(error.value)


def test_a_plugins_own_variable_is_left_alone() -> None:
    from_document({}, env={"HHCHAT_WEATHER_API_KEY": "x", "HHCHAT_DEBUG": "1"})


def test_a_table_of_a_named_stage_or_an_installed_trainer_is_kept() -> None:
    config = from_document({"train": {"stages": ["mine"]}, "mine": {"a": 1}, "pm": {"b": 2}})
    assert config.table("mine") == {"a": 1}
    assert config.table("pm") == {"b": 2}
    assert config.table("ppo") == {}


@dataclass(frozen=True)
class Toy:
    name: ClassVar[str] = "toy"
    rate: float = setting(0.1, "A rate.", low=0.0)
    steps: int = 3
    cap: int | None = None
    kind: Literal["k1", "k2"] = "k1"
    layers: tuple[str, ...] = ("q",)


def test_a_trainer_is_built_from_its_table_and_text_is_read() -> None:
    toy = build(
        Toy,
        {"rate": Text("1e-3"), "cap": Text("none"), "layers": ["q", "v"], "kind": "k2"},
        "[toy]",
    )
    assert toy == Toy(rate=0.001, cap=None, layers=("q", "v"), kind="k2")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"stpes": 3}, "[toy] has no setting 'stpes': did you mean 'steps'?"),
        ({"name": "x"}, "[toy] has no setting 'name'"),
        ({"steps": "3"}, "[toy] steps must be an integer, not '3'"),
        ({"steps": Text("three")}, "[toy] steps must be an integer, not 'three'"),
        ({"rate": -1.0}, "[toy] rate must be at least 0"),
        ({"kind": "k3"}, "[toy] kind cannot be 'k3': did you mean 'k"),
        ({"layers": [1]}, "[toy] layers must be text, not 1"),
        ({"cap": "x"}, "[toy] cap must be an integer, not 'x'"),
    ],
)
def test_a_trainers_table_is_checked(table: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput) as error:
        build(Toy, table, "[toy]")
    assert said in str(error.value)


# --- the command -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[chat]\ntemprature = 1\n", "[chat] has no setting 'temprature': did you mean"),
        (b"[chat\n", "config.toml: "),
        (b"\xff\xfe\x00", "is not UTF-8 text"),
    ],
)
def test_a_bad_file_is_one_line_for_every_command(
    run: Run, home: Path, content: bytes, said: str
) -> None:
    home.mkdir()
    (home / "config.toml").write_bytes(content)
    ran = run("config")
    assert ran.code == 2
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_named_file_must_exist(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HHCHAT_CONFIG", str(tmp_path / "mine.toml"))
    ran = run("config")
    assert ran.code == 2
    assert "mine.toml does not exist" in ran.err


def test_show(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HHCHAT_CHAT_TOP_P", "0.9")
    rows = {row["key"]: row for row in run("config", "--json").ok().lines}
    assert rows["chat.top_p"]["value"] == 0.9
    assert rows["chat.top_p"]["origin"] == "environment"
    assert rows["model.quantization"]["choices"] == ["auto", "int8", "nf4", "none"]
    assert set(rows["model.path"]) == {
        "key", "value", "origin", "variable", "type", "choices", "doc",
    }  # fmt: skip
    text = run("config", "show", "chat").ok().out
    assert "top_p = 0.9  (from the environment)" in text
    assert "[model]" not in text
    assert "did you mean 'chat.top_p'?" in run("config", "show", "chat.topp").err


def test_a_trainers_settings_are_shown_with_what_they_do_before_one_is_set(run: Run) -> None:
    rows = {row["key"]: row for row in run("config", "show", "ppo", "--json").ok().lines}
    assert rows["ppo.epochs"]["origin"] == "default"
    assert all(key.startswith("ppo.") and row["doc"] for key, row in rows.items())
    run("config", "set", "ppo.clip", "0.1").ok()
    text = run("config", "show", "ppo.clip", "best-of-k").ok().out
    assert "clip = 0.1  (from the file)" in text
    assert "[best-of-k]" in text
    assert "epochs" not in run("config", "show", "chat", "ppo.clip").ok().out
    assert "did you mean 'ppo.epochs'?" in run("config", "show", "ppo.epoch").err
    for wrong, meant in (("PPO", "ppo"), ("pp", "ppo"), ("chats.top_p", "chat")):
        ran = run("config", "show", wrong)
        assert (ran.code, f"did you mean {meant!r}?" in ran.err) == (2, True)


def test_a_setting_goes_back_to_none_by_command_and_by_variable(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("config", "set", "ppo.epochs", "3").ok()
    run("config", "set", "ppo.epochs", "none").ok()
    assert "epochs = none  (from the file)" in run("config", "show", "ppo.epochs").ok().out
    assert "must be an integer" in run("config", "set", "ppo.epochs", "no").err
    monkeypatch.setenv("HHCHAT_PPO_EPOCHS", "2")
    assert "epochs = 2  (from the environment)" in run("config", "show", "ppo.epochs").ok().out
    monkeypatch.setenv("HHCHAT_BEST_OF_K_UPDATES", "5")
    assert "updates = 5  (from the env" in run("config", "show", "best-of-k.updates").ok().out


def test_set_keeps_the_users_lines(run: Run, home: Path) -> None:
    home.mkdir()
    path = home / "config.toml"
    path.write_text('# mine\n[chat]\ntop_p = 0.5 # half\n\n[train]\nstages = [\n  "pm",\n]\n')
    run("config", "set", "chat.temperature", "0.7").ok()
    run("config", "set", "train.stages", "pm,ppo").ok()
    run("config", "set", "model.path", 'a "b"\\c').ok()
    run("config", "set", "weights.brevity", "-0.5").ok()
    assert path.read_text() == (
        "# mine\n[chat]\ntop_p = 0.5 # half\ntemperature = 0.7\n\n[train]\n"
        'stages = ["pm", "ppo"]\n\n[model]\npath = "a \\"b\\"\\\\c"\n\n[weights]\nbrevity = -0.5\n'
    )
    config = load_config()
    assert config.model.path == 'a "b"\\c'
    assert config.weights["brevity"] == -0.5


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("chat.temprature", "1", "did you mean 'temperature'?"),
        ("chat.temperature", "hot", "must be a number"),
        ("temperature", "1", "section.key"),
        ("nowhere.key", "1", "unknown section [nowhere]"),
        ("weights.warmth", "big", "must be a number"),
    ],
)
def test_set_refuses_what_would_not_be_read(
    run: Run, home: Path, key: str, value: str, said: str
) -> None:
    ran = run("config", "set", key, value)
    assert ran.code == 2
    assert said in ran.err
    assert not (home / "config.toml").exists()


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("ppo.updates", "x", "[ppo] updates must be an integer, not 'x'"),
        ("ppo.updates", "0", "[ppo] updates must be at least 1, not 0"),
        ("ppo.updats", "3", "[ppo] has no setting 'updats': did you mean 'updates'?"),
        ("pm.warmup", "nan", "[pm] warmup must be a number, not nan"),
        ("ppo.smoothing", "5", "[ppo] smoothing must be at most 1, not 5"),
        ("pm.prior", "/nowhere/at-all", "/nowhere/at-all"),
        ("train.stages", "pm,pp", "no trainer is called 'pp': did you mean 'ppo'?"),
        ("pool.foo", "1", "[pool] has no version 'foo'"),
        ("weights.warmht", "1", "[weights] names no objective 'warmht'"),
        ("remote.url", "ftp://x", "must begin with http:// or https://"),
        ("remote.api_key_env", "sk-12 34", "is the name of a variable, not the key itself"),
        ("chat.mode", "helpfull", "there is no mode 'helpfull': did you mean 'helpful'?"),
        ("chat.theme", "hhchat-lite", "cannot be 'hhchat-lite': did you mean 'hhchat-light'?"),
        ("chat.question", "nobodys", "there is no objective 'nobodys'"),
    ],
)
def test_a_slip_in_a_setting_is_said_at_once_and_not_by_the_next_command_that_refuses_to_start(
    run: Run, home: Path, key: str, value: str, said: str
) -> None:
    home.mkdir()
    (home / "config.toml").write_text("# mine\n")
    ran = run("config", "set", key, value)
    assert ran.code == 2
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1
    assert (home / "config.toml").read_text() == "# mine\n"


def test_what_a_trainer_the_pool_and_a_server_accept_can_be_set(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)  # it may be set later
    good = {
        "ppo.updates": "3", "ppo.learning_rate": "1e-4", "pool.previous best-of-4": "0.5",
        "remote.url": "http://127.0.0.1:8080/v1", "remote.api_key_env": "MY_KEY",
    }  # fmt: skip
    for key, value in good.items():
        run("config", "set", key, value).ok()
    config = load_config()
    assert config.table("ppo") == {"updates": 3, "learning_rate": 1e-4}
    assert config.pool == {"previous best-of-4": 0.5}
    run("config", "set", "remote.url", "").ok()


def test_path(run: Run, home: Path) -> None:
    assert run("config", "path").ok().out.strip() == str(home / "config.toml")
    assert run("config", "path", "--json").ok().lines == [
        {"path": str(home / "config.toml"), "exists": False}
    ]


@pytest.mark.parametrize("value", ["a\x7fb\x1b\n\"'\\", True, 3, 0.5, ["a", "b"], "\u2603"])
def test_toml_values_are_read_back(value: Any) -> None:
    import tomllib

    assert tomllib.loads(edit("", "s", "k", toml_value(value))) == {"s": {"k": value}}


def test_a_file_set_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    assert set_value("chat.best_of", "4", path) == 4
    assert load_config(path, env={}).chat.best_of == 4
