"""Preference files into the store and out of it."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from hhchat import formats
from hhchat.jsonlines import BadLine
from hhchat.store import Store
from hhchat.types import BadInput, Comparison, Generation, nearest

BATCH = 50  # pairs a transaction: about 10 ms, so that a chat's pick is not kept waiting
PAUSE = 0.004  # seconds between two, for that pick to get in


@dataclass
class ImportReport:
    """What became of a file's lines."""

    added: int = 0
    duplicates: int = 0  # pairs the store had already
    unusable: int = 0  # of those added: an empty reply, two equal replies, or the weakest strength
    bad: list[tuple[int, str]] = field(default_factory=list)  # line number from 1, and why


def import_pairs(
    store: Store,
    path: Path | IO[bytes],
    format: str = "auto",
    *,
    strict: bool = False,
    mode: str = "helpful",
) -> ImportReport:
    """Add a file's pairs to the store; importing it again adds nothing.

    Good lines are kept and bad ones named. With `strict` a bad line refuses the whole file, and
    otherwise all of it is added in one transaction. `mode` is for pairs that do not state theirs.
    Raises BadInput when the file cannot be read, is in no known format, or is refused.
    """
    name = str(path) if isinstance(path, Path) else getattr(path, "name", "input")
    try:
        with ExitStack() as stack:
            file = stack.enter_context(path.open("rb")) if isinstance(path, Path) else path
            if strict:
                file = _checked(file, format, stack)
            return _add(store, file, format, mode, strict)
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from error
    except OSError as error:
        raise BadInput(f"cannot read {name}: {error.strerror or error}") from error


def _checked(file: IO[bytes], format: str, stack: ExitStack) -> IO[bytes]:
    """The file at its start again, once every line was found good. Raises BadInput."""
    if not file.seekable():  # a pipe is read once, so its lines wait in a temporary file
        copy = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        shutil.copyfileobj(file, copy)
        copy.seek(0)
        file = copy
    start = file.tell()
    bad = [(n, found) for n, found in formats.read(file, format) if not _is_pair(found)]
    if bad:
        named = "; ".join(f"line {number}: {why}" for number, why in bad[:3])
        more = f"; and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise BadInput(
            f"{len(bad)} bad line{'s' * (len(bad) > 1)}, nothing was imported: {named}{more}"
        )
    file.seek(start, os.SEEK_SET)
    return file


def _is_pair(found: formats.Pair | BadLine) -> bool:
    return isinstance(found, formats.Pair)


def _add(store: Store, file: IO[bytes], format: str, mode: str, strict: bool) -> ImportReport:
    report = ImportReport()
    lines = formats.read(file, format)
    if strict:
        with store.writing():
            for number, found in lines:
                _add_line(store, report, number, found, mode)
        return report
    more = True
    while more:
        batch = [line for _, line in zip(range(BATCH), lines, strict=False)]
        more = len(batch) == BATCH
        with store.writing():
            for number, found in batch:
                _add_line(store, report, number, found, mode)
        if more:
            time.sleep(PAUSE)
    return report


def _add_line(
    store: Store,
    report: ImportReport,
    number: int,
    found: formats.Pair | BadLine,
    mode: str,
) -> None:
    if isinstance(found, BadLine):
        report.bad.append((number, str(found)))
        return
    comparison = to_comparison(found, mode)
    if not store.add_imported(comparison, found.original):
        report.duplicates += 1
        return
    report.added += 1
    report.unusable += not store.teaches(comparison)


def to_comparison(pair: formats.Pair, mode: str = "helpful") -> Comparison:
    """An imported pair as a comparison, the chosen reply first.

    A file says which reply the assistant should lean to. In redteam-worst the pick that says so
    is the other one.
    """
    mode = pair.mode or mode
    inverted = mode == "redteam-worst"
    return Comparison(
        messages=pair.messages,
        replies=(
            Generation(pair.chosen, source="imported"),
            Generation(pair.rejected, source="imported"),
        ),
        picked=1 if inverted else 0,
        preferred=0,
        outcome="right" if inverted else "left",
        strength=pair.strength,
        mode=mode,
        turn_index=sum(m.role == "user" for m in pair.messages) - 1,
        source="imported",
        purpose="imported",
    )


def export_pairs(
    store: Store, format: str = "hhchat", *, usable_only: bool = False
) -> Iterator[str]:
    """The lines of an export, oldest pair first, without line ends.

    Usable comparisons, and imported pairs as they came (one with an empty reply teaches nothing,
    and its file is given back whole all the same) unless `usable_only`. Raises BadInput.
    """
    if format not in formats.FORMATS:
        raise BadInput(f"unknown format {format!r}: {nearest(format, formats.FORMATS)}")
    return _export(store, format, usable_only)


def _export(store: Store, format: str, usable_only: bool) -> Iterator[str]:
    for comparison in store.iter_usable() if usable_only else store.exportable():
        imported = format == "hh-rlhf" and comparison.purpose == "imported"
        original = store.original(comparison.id) if imported else None
        yield formats.write(comparison, format, original)
