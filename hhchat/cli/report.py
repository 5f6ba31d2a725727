"""`hhchat report`: a run as one HTML page."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import click

from hhchat.cli._common import emit, json_option, open_store, say
from hhchat.types import BadInput, StoreError

ELSEWHERE = "--output FILE: elsewhere"


@click.command("report")
@click.argument("run_id", metavar="[RUN]", required=False)
@click.option("--output", metavar="FILE", help="Write here, not into the run's folder.")
@click.option("open_it", "--open", is_flag=True, help="Show it in the browser.")
@json_option
def command(run_id: str | None, output: str | None, open_it: bool, as_json: bool) -> None:
    """Write one run's page: plots, what the gate saw, replies before and after.

    RUN is a run's id or its start; without it the latest run.
    """
    from hhchat import paths
    from hhchat.evidence import gather
    from hhchat.preflight import as_it_is
    from hhchat.report import page
    from hhchat.runfolder import RunFolder

    with open_store(reading=True) as store:
        if run_id is None:
            latest = store.runs(1)
            if not latest:
                raise BadInput("no runs yet: `hhchat train` makes one")
            run = latest[0]
        else:
            run = store.run(run_id)
        run = as_it_is(run)
        text = page(gather(store, run))
    if output is None:
        target = RunFolder(run.id).root / "report.html"
        try:
            if not target.parent.exists():
                paths.ensure(paths.runs())
                paths.ensure(target.parent)
        except StoreError as error:
            raise StoreError(f"{error} ({ELSEWHERE})") from None
    else:
        target = Path(output).absolute()
    _write(target, text)
    if as_json:
        emit({"run": run.id, "path": str(target)})
    else:
        say(str(target))
    if open_it and not _browse(target):
        say("no browser could be started: open the file yourself", err=True)


def _write(target: Path, text: str) -> None:
    """The file appears when whole, readable by its owner only: it holds what was said."""
    if target.is_dir():
        raise BadInput(f"cannot write {target}: it is a folder")
    aside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(
            aside, "w", encoding="utf-8", opener=lambda p, flags: os.open(p, flags, 0o600)
        ) as file:
            file.write(text)
        aside.replace(target)
    except OSError as error:
        why = error.strerror or error
        raise BadInput(f"cannot write {target}: {why} ({ELSEWHERE})") from None
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def _browse(target: Path) -> bool:
    import webbrowser

    try:
        return webbrowser.open(target.as_uri())
    except (webbrowser.Error, OSError):
        return False
