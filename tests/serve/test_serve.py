"""The served app: tabs that share one model, and what is left when something dies."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from serving import Served, Tab, until

from hhchat.cli.serve import listen, names
from hhchat.types import Snapshot

Visit = Callable[[Served], Any]
Serve = Callable[..., Served]
STARTER = ("--model", "starter")
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def mapped(process: int, library: str) -> bool:
    return library in Path(f"/proc/{process}/maps").read_text()


def gone(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@linux
async def test_two_tabs_chat_and_pick_at_once_on_one_model(serve: Serve, visit: Visit) -> None:
    """Neither app has torch in its memory; the one process that has is neither of them."""
    served = serve(*STARTER)
    async with visit(served) as visitor, visitor.tab() as one, visitor.tab() as two:
        for tab in (one, two):
            await tab.until(b"ready")
            await tab.type("How do I make tea?\r")
        for tab in (one, two):
            await tab.until(b"your pick")
        for tab in (one, two):
            await tab.pick()
        apps, [model] = served.children("_tab"), served.children("_engine")
        assert len(apps) == 2
        assert mapped(model, "libtorch")
        assert not any(mapped(app, "libtorch") for app in apps)
    with served.store() as store:
        kept = list(store.comparisons())
    assert len(kept) == 2
    assert len({c.conversation for c in kept}) == 2, "the second tab has a conversation of its own"
    assert all(r.base and r.base.startswith("starter") for c in kept for r in c.replies)


@linux
async def test_a_reload_opens_the_conversation_again_and_a_closed_tab_leaves_no_app(
    serve: Serve, visit: Visit
) -> None:
    served = serve(*STARTER)
    async with visit(served) as visitor:
        async with visitor.tab() as tab:
            await tab.until(b"ready")
            await tab.pair("How do I make tea?")
            [app] = served.children("_tab")
        async with visitor.tab() as again:
            await again.until(b"your pick")
            assert b"How do I make tea?" in again.written
            await again.pick()
            until(lambda: gone(app), what="the end of the closed tab's app")
        until(lambda: not served.children("_tab"), what="the end of the apps")
    assert served.picks() == 1
    assert served.stop() == 0
    assert "Traceback" not in served.errors


@linux
async def test_a_model_that_dies_is_said_in_a_line_and_comes_back(
    serve: Serve, visit: Visit
) -> None:
    served = serve(*STARTER)
    async with visit(served) as visitor, visitor.tab() as tab:
        await tab.until(b"ready")
        [first] = served.children("_engine")
        os.kill(first, signal.SIGKILL)
        await tab.pair("How do I make tea?")
        await tab.pick()
        [second] = served.children("_engine")
        assert second != first
        assert b"Traceback" not in tab.written
    assert served.picks() == 1
    assert "has ended (signal 9); starting it again" in served.errors
    assert "Traceback" not in served.errors


@linux
async def test_a_model_that_keeps_dying_ends_the_server_with_a_reason(serve: Serve) -> None:
    served = serve(*STARTER)
    for _ in range(4):
        [model] = until(lambda: served.children("_engine"), what="the model's process")
        os.kill(model, signal.SIGKILL)
        until(lambda model=model: model not in served.children("_engine"))
    assert served.process.wait(timeout=20) == 1
    assert served.errors.splitlines()[-1].startswith("hhchat: error: the process that holds the")
    assert "Traceback" not in served.errors


@linux
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
async def test_nothing_is_left_behind_when_the_server_ends(
    serve: Serve, visit: Visit, number: signal.Signals
) -> None:
    served = serve(*STARTER)
    async with visit(served) as visitor, visitor.tab() as tab:
        await tab.until(b"ready")
        children = [*served.children("_tab"), *served.children("_engine")]
        assert len(children) == 2
        assert served.stop(number) == (-9 if number is signal.SIGKILL else 0)
        for child in children:
            until(lambda child=child: gone(child), what=f"the end of process {child}")


async def test_a_newcomer_chooses_the_model_in_the_first_tab(serve: Serve, visit: Visit) -> None:
    """Nothing is loaded before; what fits is found out without torch in the app."""
    served = serve()
    async with visit(served) as visitor, visitor.tab() as tab:
        await tab.until(b"Welcome to hhchat")
        assert "the model is loaded" not in served.errors
        await tab.press("\r", b"Which model?")
        await tab.press("\x1b[B\r", b"folder or hub id, then")  # down: a model of one's own
        await tab.type("starter")
        await tab.until(b"starter")
        await tab.press("\r", b"It fits")
        await tab.press("\r", b"ready")
        await tab.pair("How do I make tea?")
        await tab.pick()
        if sys.platform == "linux":
            [app] = served.children("_tab")
            assert not mapped(app, "libtorch")
    assert served.picks() == 1


async def test_pairs_that_teach_most_are_asked_in_a_tab_as_well(
    serve: Serve, visit: Visit, tmp_path: Path
) -> None:
    (tmp_path / "home1").mkdir()
    (tmp_path / "home1" / "config.toml").write_text("[chat]\ncandidates = 4\nplain = 0.0\n")
    served = serve()
    async with visit(served) as visitor, visitor.tab() as tab:
        await tab.until(b"ready")
        for said in ("How do I make tea?", "And coffee?"):  # the second has a pick to learn from
            await tab.pair(said)
            await tab.pick()
    with served.store() as store:
        assert [c.purpose for c in store.comparisons()] == ["active", "active"]


async def test_a_promotion_counts_in_a_tab_that_is_open(serve: Serve, visit: Visit) -> None:
    served = serve(*STARTER)
    async with visit(served) as visitor, visitor.tab() as tab:
        await tab.until(b"ready")
        await tab.pair("How do I make tea?")
        await tab.pick()
        with served.store() as store:
            base = next(store.comparisons()).replies[0].base
            assert base is not None
            (served.home / "snapshots" / "better").mkdir(parents=True)
            (served.home / "snapshots" / "better" / "snapshot.json").write_text("{}")
            store.add_snapshot(Snapshot("better", "better", None, "base", base))
            store.promote("better")
        await tab.pair("And coffee?")
        await tab.pick()
    with served.store() as store:
        used = [{r.snapshot for r in c.replies} for c in store.comparisons()]
    assert used == [{"base"}, {"better"}]


async def test_a_hostile_reply_reaches_the_browser_as_text(
    serve: Serve, visit: Visit, hostile: int
) -> None:
    """No title, clipboard, link or device sequence, whatever the replies hold."""
    served = serve("--server", f"http://127.0.0.1:{hostile}/v1", "--model", "any")
    assert not served.children("_engine"), "a server's model needs no process of ours"
    async with visit(served) as visitor, visitor.tab() as tab:
        await tab.until(b"ready")
        for _ in range(3):
            await tab.pair("go on")
            await tab.pick()
        assert b"ZXZpbA==" in tab.written, "the text of it is shown"
        assert tab.texts == [] or all(t.startswith('["pong"') for t in tab.texts)
        written = bytes(tab.written).decode()
        # Textual itself sets the pointer's shape (OSC 22), and ends that with a bell or ST.
        written = re.sub("\x1b]22;[a-z-]*(\x07|\x1b\\\\)", "", bytes(tab.written).decode())
        assert not re.findall("\x1b[]P_^X].{0,9}", written)
        assert not re.findall("[\x07\x80-\x9f\u200b\u202a-\u202e\U000e0000-\U000e007f]", written)


async def test_an_app_that_cannot_start_says_why_in_the_page(serve: Serve, visit: Visit) -> None:
    served = serve(*STARTER)
    async with visit(served) as visitor:
        until(lambda: "the model is loaded" in served.errors)
        (served.home / "config.toml").write_text("[chat]\nmod = 'x'\n")
        async with visitor.tab() as tab:
            await tab.ended
            assert b"hhchat: error: " in tab.written
            assert b"did you mean 'mode'?" in tab.written
            assert b"Traceback" not in tab.written


async def test_the_app_ends_and_the_socket_with_it(serve: Serve, visit: Visit) -> None:
    served = serve(*STARTER)
    async with visit(served) as visitor, visitor.tab() as tab:
        await tab.until(b"Say something")
        await tab.type("\x11")  # ctrl+q
        await tab.ended
        assert b"error" not in tab.written


async def test_no_more_tabs_than_the_machine_bears(serve: Serve, visit: Visit) -> None:
    from aiohttp import WSServerHandshakeError

    served = serve("--server", "http://127.0.0.1:9/v1", "--model", "none")
    async with visit(served) as visitor:
        where = f"{served.origin}{visitor.place}ws"
        open_tabs: list[Tab] = []
        for _ in range(16):
            open_tabs.append(Tab(await visitor.session.ws_connect(where, origin=served.origin)))
        with pytest.raises(WSServerHandshakeError) as failed:
            await visitor.session.ws_connect(where, origin=served.origin)
        assert failed.value.status == 503
        for tab in open_tabs:
            await tab.socket.close()


# Before it serves --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--model", "no/such"], "no/such"),
        (["--host", "no.such.host.invalid"], "no such host"),
        (["--host", ""], "--host is empty"),
        (["--port", "99999"], "99999"),
        (["--server", "nonsense"], "nonsense"),
    ],
    ids=["model", "host", "empty", "port", "server"],
)
def test_what_cannot_be_served_is_refused_in_a_line(
    shell: Callable[..., Any], args: list[str], words: str
) -> None:
    ran = shell("serve", "--port", "0", *args)
    assert ran.code in (1, 2), ran.err
    last = ran.err.splitlines()[-1]
    assert last.startswith("hhchat: error: ")
    assert words in last
    assert "Traceback" not in ran.err


def test_a_port_that_is_taken_is_named(shell: Callable[..., Any]) -> None:
    [held], _ = listen("127.0.0.1", 0)
    with held:
        port = held.getsockname()[1]
        ran = shell("serve", "--port", str(port))
    assert ran.code == 2
    assert f"port {port}" in ran.err
    assert "--port 0" in ran.err


def test_without_textual_serve_it_says_how_to_get_it(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "textual_serve", None)
    ran = run("serve")
    assert ran.code == 2
    assert "pip install 'hhchat[serve]'" in ran.err


@pytest.mark.parametrize(
    ("host", "outside"), [("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)]
)
def test_only_a_host_that_others_reach_is_outside(host: str, outside: bool) -> None:
    bound, told = listen(host, 0)
    assert len({one.getsockname()[1] for one in bound}) == 1
    for one in bound:
        one.close()
    assert told is outside
    assert "localhost" in names(host)
    assert "0.0.0.0" not in names(host)


def test_serving_others_is_warned_about_once(serve: Serve) -> None:
    served = serve("--host", "0.0.0.0", "--server", "http://127.0.0.1:9/v1", "--model", "none")
    assert served.errors.count("warning") == 1
    assert "not encrypted" in served.errors
    assert served.stop() == 0


def test_the_browser_is_opened_without_the_token_on_its_command_line(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All users of a machine can read command lines; the file it is given is ours alone."""
    script, told = tmp_path / "browser", tmp_path / "told"
    script.write_text(
        f'#!/bin/sh\nway=${{1#file://}}\n(echo "$1"; ls -l "$way"; cat "$way") > {told}.part\n'
        f"mv {told}.part {told}\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(script))
    served = serve("--open", "--server", "http://127.0.0.1:9/v1", "--model", "none")
    until(told.exists, what="the browser")
    address, rights, way = told.read_text().split("\n", 2)
    assert address.startswith("file://")
    assert served.told["token"] not in address
    assert rights.startswith("-rw------- ")
    assert f"url={served.told['url']}" in way


def test_a_damaged_database_is_refused_before_anything_is_served(
    shell: Callable[..., Any], home: Path
) -> None:
    home.mkdir()
    (home / "hhchat.db").write_bytes(b"rubbish" * 1000)
    ran = shell("serve", "--port", "0")
    assert ran.code == 1
    assert ran.out == ""
    assert ran.err.startswith("hhchat: error: ")
