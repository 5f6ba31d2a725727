"""Which server, which model, which key: what the settings say and what is wrong with them."""

from __future__ import annotations

from typing import Any

import pytest

from hhchat.config import Config, RemoteConfig, load_config
from hhchat.openai_wire import Server, parse_url
from hhchat.remote import is_remote, label, open_remote, server_of
from hhchat.types import BadInput, HhchatError, ModelError

KEY = "sk-secret-0123456789"


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("http://127.0.0.1:8080/v1", ("http", "127.0.0.1", 8080, "/v1")),
        (" http://127.0.0.1:8080/v1/ ", ("http", "127.0.0.1", 8080, "/v1")),
        ("http://127.0.0.1:8080", ("http", "127.0.0.1", 8080, "/v1")),
        ("http://127.0.0.1:8080/v1/chat/completions", ("http", "127.0.0.1", 8080, "/v1")),
        ("https://api.example/openai/v1", ("https", "api.example", 443, "/openai/v1")),
        ("http://[::1]:8080", ("http", "::1", 8080, "/v1")),
        ("8080", ("http", "127.0.0.1", 8080, "/v1")),
        ("localhost:11434", ("http", "localhost", 11434, "/v1")),
        ("127.0.0.1:1/v1", ("http", "127.0.0.1", 1, "/v1")),
    ],
)
def test_addresses(written: str, read: tuple[Any, ...]) -> None:
    assert parse_url(written) == read


@pytest.mark.parametrize(
    "written",
    [
        "example.com:8080",  # which scheme? not ours to guess off this machine
        "ftp://127.0.0.1/v1",
        "file:///etc/passwd",
        "unix:///run/x.sock",
        "http://",
        "http:///v1",
        "http://127.0.0.1:99999",
        "http://127.0.0.1:0",
        "99999",
        "http://127.0.0.1:port",
        "http://[::1",
        "http://a b/v1",
        "http://host\r\nX-Evil: 1/v1",
        "http://127.0.0.1/v1?key=1",
        "http://127.0.0.1/v1#x",
        "http://127.0.0.1/v 1",
        "",
    ],
)
def test_what_is_no_address(written: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_url(written)
    assert "http" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_password_in_the_address_is_refused_and_not_repeated() -> None:
    with pytest.raises(BadInput, match="api_key_env") as caught:
        parse_url(f"https://me:{KEY}@api.example/v1")
    assert KEY not in str(caught.value)


def test_this_machine() -> None:
    for host in ("localhost", "127.0.0.1", "127.8.8.8", "::1", "a.localhost"):
        assert Server("http", host, 1, "/v1").loopback, host
    for host in ("10.0.0.1", "example.com", "localhost.example.com", "0.0.0.0"):
        assert not Server("http", host, 1, "/v1").loopback, host


def test_the_key_comes_from_the_variable() -> None:
    remote = RemoteConfig(url="https://api.example/v1", api_key_env="MY_KEY")
    assert server_of(remote, {"MY_KEY": f" {KEY}\n"}).key == KEY
    assert server_of(RemoteConfig(url="8080"), {"OPENAI_API_KEY": KEY}).key == ""
    for env in ({}, {"MY_KEY": " "}):
        with pytest.raises(BadInput, match=r"MY_KEY.* is not set"):
            server_of(remote, env)
    for bad in (f"{KEY}\r\nX: 1", f"{KEY} x", f"{KEY}é"):
        with pytest.raises(BadInput, match="MY_KEY") as caught:
            server_of(remote, {"MY_KEY": bad})
        assert KEY not in str(caught.value)


def test_the_key_itself_in_place_of_the_name_is_not_repeated() -> None:
    with pytest.raises(BadInput, match="the name of a variable") as caught:
        server_of(RemoteConfig(url="8080", api_key_env=KEY), {})
    assert KEY not in str(caught.value)


def test_a_key_does_not_travel_unencrypted() -> None:
    env = {"MY_KEY": KEY}
    for url in ("8080", "https://api.example/v1"):
        assert server_of(RemoteConfig(url=url, api_key_env="MY_KEY"), env).key == KEY
    with pytest.raises(BadInput, match="use https"):
        server_of(RemoteConfig(url="http://10.0.0.1/v1", api_key_env="MY_KEY"), env)


def test_settings_name_a_server_or_none() -> None:
    assert not is_remote(Config())
    assert not is_remote(load_config(flags={"remote.url": "local"}))
    config = load_config(env={"HHCHAT_REMOTE_URL": "8080", "HHCHAT_REMOTE_TIMEOUT": "3"})
    assert is_remote(config)
    assert label(config) == "server:127.0.0.1:8080"
    server = server_of(config.remote)
    assert (server.timeout, server.connect) == (3.0, 3.0)


def of(server: Any, **flags: str) -> Config:
    return load_config(flags={"remote.url": server.url, **flags})


def test_the_only_model_needs_no_name(server: Any, crowded: Any) -> None:
    assert open_remote(of(server)).model == "normal"
    with pytest.raises(BadInput, match=r"which model.* llama, qwen"):
        open_remote(of(crowded))
    assert open_remote(of(crowded, **{"remote.model": "qwen"})).model == "qwen"
    both = {"remote.model": "qwen", "model.path": "llama"}
    assert open_remote(of(crowded, **both)).model == "llama"  # --model, on the command line
    with pytest.raises(ModelError, match="no model loaded"):
        open_remote(load_config(flags={"remote.url": server.url.replace("/v1", "/empty")}))
    for path in ("/odd", "/nothing"):
        with pytest.raises(HhchatError, match="server at"):
            open_remote(load_config(flags={"remote.url": server.url.replace("/v1", path)}))


def test_the_app_does_not_take_a_server_for_the_bundled_model() -> None:
    from hhchat.cli.chat import with_server

    assert with_server(Config()).model.path == "starter"
    assert with_server(load_config(flags={"remote.url": "8080"})).model.path.startswith("server:")
    with pytest.raises(BadInput):
        with_server(load_config(flags={"remote.url": "gopher://x"}))
