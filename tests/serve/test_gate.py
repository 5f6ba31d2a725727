"""Who gets in: page, files and socket alike are shut to whoever lacks the token or comes from
elsewhere, and nothing is started for them."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Any

import pytest
from aiohttp import WSServerHandshakeError
from serving import Served, Visitor

Visit = Callable[[Served], Any]
THINGS = ("", "page.js", "static/js/textual.js", "static/css/xterm.css", "ws")


async def refused(visitor: Visitor, path: str, **headers: str) -> None:
    """The answer is an empty 403, and no app is started for it."""
    served = visitor.served
    before = set(served.children("_tab"))
    async with visitor.session.get(f"{served.origin}{path}", headers=headers) as answer:
        assert (answer.status, await answer.read()) == (403, b""), path
        assert "Set-Cookie" not in answer.headers
    assert set(served.children("_tab")) <= before


async def no_socket(visitor: Visitor, path: str = "", **headers: str) -> None:
    served = visitor.served
    before = set(served.children("_tab"))
    with pytest.raises(WSServerHandshakeError) as failed:
        async with visitor.session.ws_connect(
            f"{served.origin}{path or f'{visitor.place}ws'}", headers=headers
        ):
            pass
    assert failed.value.status == 403
    assert set(served.children("_tab")) <= before


async def test_without_the_token_there_is_no_page_no_file_and_no_socket(
    served: Served, visit: Visit
) -> None:
    async with visit(served) as visitor:
        visitor.session.cookie_jar.clear()
        token = served.told["token"]
        wrong = ("", "x", token[:-1], token + "x", token.swapcase(), "%00", "%ff", "é")
        for path in (
            "/",
            "/ws",
            "/static/js/textual.js",
            "/download/x",
            *(f"/?token={w}" for w in wrong),
        ):
            await refused(visitor, path)
        for thing in THINGS:
            await refused(visitor, visitor.place + thing)
            # The token lets in by the front door alone.
            await refused(visitor, f"{visitor.place}{thing}?token={token}")
            await refused(visitor, visitor.place + thing, Cookie=f"hhchat={token}")
        await no_socket(visitor, Origin=served.origin)
        await no_socket(visitor, f"/ws?token={token}", Origin=served.origin)


async def test_with_the_token_all_of_it_is_there(served: Served, visit: Visit) -> None:
    async with visit(served) as visitor:
        for thing in THINGS[:-1]:
            async with visitor.session.get(f"{served.origin}{visitor.place}{thing}") as answer:
                assert answer.status == 200, thing
                assert await answer.read()


async def test_no_page_leaves_a_browser_to_ask_for_an_icon_that_is_refused(
    served: Served, visit: Visit
) -> None:
    async with visit(served) as visitor:
        for address in (served.told["url"], f"{served.origin}{visitor.place}"):
            async with visitor.session.get(address) as answer:
                assert '<link rel="icon" href="data:,">' in await answer.text()


@pytest.mark.parametrize("missing", ["static/", "static/js/", "static/../ws", "static/x", "x"])
async def test_nothing_else_is_served_not_even_a_list_of_the_files(
    served: Served, visit: Visit, missing: str
) -> None:
    async with visit(served) as visitor:
        where = f"{served.origin}{visitor.place}{missing}"
        answer = await visitor.session.get(where)
        assert answer.status in (403, 404)
        assert b"textual.js" not in await answer.read()


HOSTS = (
    "attacker.example",
    "attacker.example:{port}",
    "127.0.0.1",
    "127.0.0.1:1",
    "127.0.0.1:{port}0",
    "127.0.0.1:{port}.attacker.example",
    "127.0.0.1.attacker.example:{port}",
    "localhost.attacker.example:{port}",
    "127.0.0.2:{port}",
    "[::1]:{port}",
    "0.0.0.0:{port}",
    "user@127.0.0.1:{port}",
    "[127.0.0.1]x:{port}",
    ":{port}",
)


@pytest.mark.parametrize("host", HOSTS)
async def test_a_page_that_gives_this_machine_a_name_of_its_own_gets_nothing(
    served: Served, visit: Visit, host: str
) -> None:
    """DNS rebinding: the right token and cookie under a Host that is none of ours."""
    async with visit(served) as visitor:
        host = host.format(port=served.port)
        await refused(visitor, f"/?token={served.told['token']}", Host=host)
        await refused(visitor, visitor.place, Host=host)
        await no_socket(visitor, Host=host, Origin=f"http://{host}")


def test_two_hosts_in_one_request_get_nothing(served: Served) -> None:
    ask = (
        f"GET /?token={served.told['token']} HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n"
        "Host: attacker.example\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as plain:
        plain.sendall(ask.encode())
        answer = b"".join(iter(lambda: plain.recv(4096), b""))
    assert answer.split()[1] in (b"400", b"403")
    assert b"Set-Cookie" not in answer


ORIGINS = (
    "null",
    "http://attacker.example",
    "https://127.0.0.1:{port}",
    "http://127.0.0.1",
    "http://127.0.0.1:1",
    "http://localhost:{port}",
    "http://127.0.0.1:{port}.attacker.example",
    "http://127.0.0.1:{port}/",
    "",
)


@pytest.mark.parametrize("origin", ORIGINS)
async def test_a_socket_opened_by_another_page_gets_nothing(
    served: Served, visit: Visit, origin: str
) -> None:
    """With the cookie, as a browser would send it: the user has the chat open in another tab."""
    async with visit(served) as visitor:
        origin = origin.format(port=served.port)
        await no_socket(visitor, Origin=origin)
        await refused(visitor, visitor.place, Origin=origin)
        await refused(visitor, f"/?token={served.told['token']}", Origin=origin)


async def test_a_socket_that_does_not_say_where_from_gets_nothing(
    served: Served, visit: Visit
) -> None:
    async with visit(served) as visitor:
        await no_socket(visitor)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
async def test_another_port_of_this_machine_cannot_load_our_files(
    served: Served, visit: Visit, site: str
) -> None:
    async with visit(served) as visitor:
        for thing in THINGS:
            await refused(visitor, visitor.place + thing, **{"Sec-Fetch-Site": site})


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
async def test_only_reading_is_answered(served: Served, visit: Visit, method: str) -> None:
    async with visit(served) as visitor:
        for path in ("/", f"/?token={served.told['token']}", visitor.place):
            where = f"{served.origin}{path}"
            async with visitor.session.request(method, where) as answer:
                assert (answer.status, await answer.read()) == (403, b"")


async def test_the_name_localhost_is_ours_too(served: Served, visit: Visit) -> None:
    async with visit(served) as visitor:
        host = f"localhost:{served.port}"
        where = f"{served.origin}/?token={served.told['token']}"
        async with visitor.session.get(where, headers={"Host": host}) as answer:
            assert answer.status == 200
        async with visitor.session.get(
            f"{served.origin}{visitor.place}", headers={"Host": host}
        ) as answer:
            assert f'"ws://{host}{visitor.place}ws"' in await answer.text()


async def test_what_is_given_away_opens_nothing_elsewhere(served: Served, visit: Visit) -> None:
    """The cookie is for one path that nobody can guess; pages name no other host and no token."""
    async with visit(served) as visitor:
        token = served.told["token"]
        async with visitor.session.get(served.told["url"]) as answer:
            cookie = answer.headers["Set-Cookie"]
        assert {"HttpOnly", "SameSite=Strict", f"Path={visitor.place}"} <= set(cookie.split("; "))
        assert token not in cookie
        async with visitor.session.get(f"{served.origin}{visitor.place}") as answer:
            text, headers = await answer.text(), answer.headers
        assert token not in text
        assert cookie.split(";")[0].partition("=")[2] not in text
        assert set(re.findall(r"\w+://[^/\"]+", text)) == {f"ws://127.0.0.1:{served.port}"}
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert f"connect-src ws://127.0.0.1:{served.port};" in policy
        assert token not in served.errors


async def test_each_start_has_a_token_of_its_own(
    served: Served, serve: Callable[..., Served]
) -> None:
    other = serve("--server", "http://127.0.0.1:9/v1", "--model", "none")
    assert len(served.told["token"]) >= 43
    assert other.told["token"] != served.told["token"]
    assert other.stop() == 0


NONSENSE = {
    "text": "nonsense",
    "object": "{}",
    "empty": "[]",
    "short": '["stdin"]',
    "number": '["stdin", 7]',
    "size": '["resize", {"width": "1"}]',
    "nested": "[" * 9999,
}


@pytest.mark.parametrize("said", NONSENSE.values(), ids=NONSENSE)
async def test_nonsense_on_the_socket_ends_that_tab_alone(
    served: Served, visit: Visit, said: str
) -> None:
    async with visit(served) as visitor, visitor.tab() as tab:
        await tab.socket.send_str(said)
        await tab.ended
        assert tab.socket.close_code == 1003
        assert "Traceback" not in served.errors
