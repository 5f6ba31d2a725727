"""`hhchat serve`: the app in a browser."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from hhchat.cli._common import (
    emit,
    json_option,
    model_options,
    open_store,
    say,
    server_option,
    settings,
)
from hhchat.types import BadInput

PORT = 8765
ANY = ("0.0.0.0", "::")


@click.command("serve")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="NAME_OR_ADDRESS",
    help="Where to listen; anything but this machine has to be named.",
)
@click.option(
    "--port",
    default=PORT,
    show_default=True,
    type=click.IntRange(0, 65535),
    metavar="N",
    help="0 takes a free one.",
)
@click.option("--open/--no-open", "browse", default=False, help="Open the page in the browser.")
@model_options
@server_option
@json_option
def command(
    host: str,
    port: int,
    browse: bool,
    model: str | None,
    quantization: str | None,
    device: str | None,
    server: str | None,
    as_json: bool,
) -> None:
    """Serve the chat to a browser on this machine.

    Prints the address to open, with a token that is new each time; ends with Ctrl-C. All tabs
    share one model.
    """
    if find_spec("textual_serve") is None or find_spec("aiohttp") is None:
        raise BadInput(
            "the browser needs textual-serve: pip install 'hhchat[serve]', or textual-serve alone"
        )
    if not hasattr(socket, "AF_UNIX"):
        raise BadInput("`hhchat serve` needs Unix sockets, which this system does not have")
    from hhchat.cli.chat import check_mode, check_question, is_first, with_server
    from hhchat.plugins import Plugins
    from hhchat.remote import is_remote

    config = settings(model=model, quantization=quantization, device=device, server=server)
    with_server(config)
    plugins = Plugins.load(report=lambda line: say(line, err=True))
    check_mode(config.chat.mode, plugins)
    check_question(config.chat.question, plugins)
    open_store().close()  # made, brought up to date and found to be in order before it is needed

    listeners, outside = listen(host, port)
    if outside:
        say(
            f"hhchat: warning: whoever can reach {host} and learns the address printed here can "
            "chat as you and read your record, and the connection is not encrypted",
            err=True,
        )
    flags = {"quantization": quantization, "device": device, "server": server}
    spec = None
    if not is_remote(config):
        # A newcomer chooses the model in the first tab; it is loaded then.
        spec = {"flags": flags, "preload": None if is_first(config) else config.model.path}
    asyncio.run(
        serve(host, listeners, {"model": model, **flags}, spec, browse=browse, as_json=as_json)
    )


def listen(host: str, port: int) -> tuple[list[socket.socket], bool]:
    """(the sockets bound, whether others than this machine can reach one of them)."""
    import ipaddress

    if not host:
        raise BadInput("--host is empty: 127.0.0.1 is this machine alone, 0.0.0.0 all networks")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise BadInput(
            f"--host {host}: no such host; 127.0.0.1 is this machine alone, 0.0.0.0 all networks"
        ) from None
    bound: list[socket.socket] = []
    failed: OSError | None = None
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            one = socket.socket(family, kind, protocol)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # One port for all of a name's addresses, also when any will do.
            taken = bound[0].getsockname()[1] if bound else port
            one.bind((address[0], taken, *address[2:]))
            one.listen(128)
            one.setblocking(False)
            bound.append(one)
        except OSError as error:
            one.close()
            failed = failed or error
    if not bound:
        assert failed is not None
        raise BadInput(
            f"cannot listen on {host} port {port}: {failed.strerror or failed}; "
            "--port 0 takes a free one"
        )
    addresses = [str(one.getsockname()[0]).partition("%")[0] for one in bound]
    return bound, not all(ipaddress.ip_address(a).is_loopback for a in addresses)


async def serve(
    host: str,
    listeners: list[socket.socket],
    flags: dict[str, Any],
    spec: dict[str, Any] | None,
    *,
    browse: bool,
    as_json: bool,
) -> None:
    """Until a signal, or until the model's process fails for good (HhchatError).

    `flags` are the options of each tab's app, `spec` what the model's process is told; None when
    a server writes the replies.
    """
    from aiohttp import web

    from hhchat.serving.process import SOCKET, ModelProcess, private_folder
    from hhchat.serving.process import listen as listen_private
    from hhchat.serving.web import Gate, Web

    port = listeners[0].getsockname()[1]
    gate = Gate(names(host), port)
    with private_folder() as folder, contextlib.ExitStack() as stack:
        private = None if spec is None else folder / SOCKET
        server = Web(gate, lambda another: app_command(flags, private, another), _complain)
        runner = server.runner(await server.application())
        work = [asyncio.create_task(_stopped())]
        if spec is not None:
            assert private is not None
            listener = stack.enter_context(contextlib.closing(listen_private(private)))
            work.append(asyncio.create_task(ModelProcess(listener, spec, _complain).run()))
        try:
            await runner.setup()
            for one in listeners:
                await web.SockSite(runner, one).start()
            _announce(gate.token, host, port, as_json)
            if browse:
                await asyncio.to_thread(_browse, folder, address(host, port), gate.token)
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await server.shut()
            await runner.cleanup()
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
    for task in done:
        task.result()


def app_command(flags: dict[str, Any], private: Path | None, another: bool) -> list[str]:
    """The words that start a tab's app; `another` tab is open, and its conversation with it."""
    told = {
        **flags,
        "resume": "new" if another else None,
        "shared": None if private is None else str(private),
    }
    return [sys.executable, "-P", "-m", "hhchat.cli._tab", json.dumps(told)]


def names(host: str) -> frozenset[str]:
    """What the page may be called by, apart from the address a connection was made to."""
    known = {host.lower(), "localhost"}
    if host in ANY:
        known.add(socket.gethostname().lower())
    return frozenset(known - {"", *ANY})


def address(host: str, port: int) -> str:
    shown = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    if ":" in shown:
        shown = f"[{shown}]"
    return f"http://{shown}:{port}/"


def _announce(token: str, host: str, port: int, as_json: bool) -> None:
    url = f"{address(host, port)}?token={token}"
    if as_json:
        emit({"url": url, "host": host, "port": port, "token": token})
    else:
        say(f"Open {url}")
        say("Ctrl-C ends it; everything is saved as you go.")
    sys.stdout.flush()


def _browse(folder: Path, url: str, token: str) -> None:
    """By way of a private file: a browser's command line is there for all users to read."""
    import os
    import webbrowser

    from hhchat.serving import page

    way = folder / "open.html"
    with open(way, "w", encoding="utf-8", opener=lambda p, f: os.open(p, f, 0o600)) as file:
        file.write(page.entry(f"{url}?token={token}"))
    try:
        opened = webbrowser.open(way.as_uri())
    except (webbrowser.Error, OSError):
        opened = False
    if not opened:
        _complain("no browser could be started: open the address yourself")


async def _stopped() -> None:
    """Ctrl-C, or what else asks a server to end."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, asked.set)
    await asked.wait()


def _complain(line: str) -> None:
    say(f"hhchat: {line}", err=True)
