"""Importing keeps every good line once; exporting gives it back as it was."""

from __future__ import annotations

import gzip
import io
import json
import os
import threading
from pathlib import Path

import pytest

from hhchat.store import Store
from hhchat.transfer import export_pairs, import_pairs
from hhchat.types import BadInput, Message

SHARED = Path(__file__).parents[3] / "shared" / "data"
GOOD = [{"prompt": f"question {i}", "chosen": f"good {i}", "rejected": "bad"} for i in range(500)]


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "hhchat.db") as store:
        yield store


def save(path: Path, *items: object) -> Path:
    path.write_text("".join((i if isinstance(i, str) else json.dumps(i)) + "\n" for i in items))
    return path


# The released data in miniature, with each of its oddities: a follow-up turn, trailing spaces, an
# empty reply, "Assistant:" twice in a reply, twice in the prompt; and two spellings from elsewhere.
RELEASED = [
    ("\n\nHuman: a\n\nAssistant: one ", "\n\nHuman: a\n\nAssistant: two"),
    (
        "\n\nHuman: a\n\nAssistant: b\n\nHuman:  c\n\nAssistant: ",
        "\n\nHuman: a\n\nAssistant: b\n\nHuman:  c\n\nAssistant: d",
    ),
    ("\n\nHuman: a\n\nAssistant: x\n\nAssistant: y", "\n\nHuman: a\n\nAssistant: x"),
    (
        "\n\nHuman: a\n\nAssistant: b\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",
        "\n\nHuman: a\n\nAssistant: b\n\nAssistant: b\n\nHuman: c\n\nAssistant: e",
    ),
    ("\n\nHuman: same\n\nAssistant: same", "\n\nHuman: same\n\nAssistant: same"),
    ("Human:a\n\nAssistant:no space", "Human:a\n\nAssistant: a space"),
    ("\n\nHuman: naïve “quotes” 🙂\n\nAssistant: ok", "\n\nHuman: naïve “quotes” 🙂\n\nAssistant:"),
]


@pytest.mark.parametrize("packed", [False, True])
def test_released_transcripts_come_back_to_the_byte(store, tmp_path, packed):
    rows = [{"chosen": c, "rejected": r} for c, r in RELEASED]
    path = save(tmp_path / "released.jsonl", *rows)
    if packed:
        path.write_bytes(gzip.compress(path.read_bytes()))
    report = import_pairs(store, path)
    assert (report.added, report.duplicates, report.bad, report.unusable) == (7, 0, [], 3)
    assert [json.loads(line) for line in export_pairs(store, "hh-rlhf")] == rows
    assert len(list(export_pairs(store, "hh-rlhf", usable_only=True))) == 4
    again = import_pairs(store, path)
    assert (again.added, again.duplicates) == (0, 7)
    assert store.check() == "ok"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the released data is not here")
def test_the_released_data_imports_whole_and_comes_back(store):
    path = SHARED / "hh-rlhf" / "harmless-base.dev.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    report = import_pairs(store, path)
    assert (report.added, report.duplicates, report.bad) == (len(rows), 0, [])
    assert [json.loads(line) for line in export_pairs(store, "hh-rlhf")] == rows
    assert import_pairs(store, path).added == 0
    assert store.stats()["usable"] == len(rows) - report.unusable
    held = {c.messages[0].content for c in store.usable("heldout")}
    assert not held & {c.messages[0].content for c in store.usable("train")}
    assert 0.05 < len(held) / len(rows) < 0.15


@pytest.mark.skipif(not SHARED.is_dir(), reason="the released data is not here")
def test_the_sharegpt_array_imports_and_comes_back(store):
    path = SHARED / "sharegpt-dpo" / "dpo_en_demo.json"
    rows = {json.dumps(row, sort_keys=True) for row in json.loads(path.read_text("utf-8"))}
    report = import_pairs(store, path)
    assert (report.added, report.bad) == (len(rows), [])
    back = {
        json.dumps(json.loads(line), sort_keys=True) for line in export_pairs(store, "sharegpt")
    }
    assert back == rows


@pytest.mark.parametrize("format", ["hhchat", "hh-rlhf", "dpo", "sharegpt"])
def test_a_pair_is_the_same_pair_in_another_format(store, tmp_path, format):
    import_pairs(store, save(tmp_path / "in.jsonl", *GOOD[:20]))
    path = save(tmp_path / "out.jsonl", *export_pairs(store, format))
    again = import_pairs(store, path)
    assert (again.added, again.duplicates, again.bad) == (0, 20, [])
    with Store(tmp_path / "other.db") as other:
        assert import_pairs(other, path).added == 20
        assert list(export_pairs(other, format)) == list(export_pairs(store, format))


def test_good_lines_are_kept_and_bad_ones_named(store, tmp_path):
    path = save(tmp_path / "x.jsonl", *GOOD[:250], "{broken", {"prompt": 1}, *GOOD[:260])
    report = import_pairs(store, path)
    assert (report.added, report.duplicates) == (260, 250)
    assert [line for line, _ in report.bad] == [251, 252]
    assert len(store.usable()) == 260
    assert [p.messages for p in store.prompts("imported", limit=1)] == [
        (Message("user", "question 0"),)
    ]


def test_strict_refuses_all_of_a_file_with_a_bad_line(store, tmp_path):
    path = save(tmp_path / "x.jsonl", *GOOD, "{broken")
    with pytest.raises(BadInput, match=r"x\.jsonl: 1 bad line, .*line 501: not valid JSON"):
        import_pairs(store, path, strict=True)
    assert store.stats()["comparisons"] == 0
    assert import_pairs(store, save(path, *GOOD), strict=True).added == 500


def test_a_pipe_can_be_imported_strictly(store):
    reading, writing = os.pipe()

    def fill() -> None:
        with os.fdopen(writing, "wb") as out:
            out.write("".join(json.dumps(i) + "\n" for i in GOOD).encode())

    thread = threading.Thread(target=fill)
    thread.start()
    with os.fdopen(reading, "rb") as pipe:
        assert import_pairs(store, pipe, strict=True).added == 500
    thread.join()


def test_the_mode_of_a_file_that_states_none_can_be_given(store, tmp_path):
    import_pairs(store, save(tmp_path / "x.jsonl", GOOD[0]), mode="redteam-worst")
    (pair,) = store.usable()
    assert (pair.mode, pair.picked, pair.chosen.text) == ("redteam-worst", 1, "good 0")


def test_ones_own_picks_are_not_imported_again_as_someone_elses(store, tmp_path):
    import_pairs(store, save(tmp_path / "x.jsonl", {**GOOD[0]}))
    store.undo(store.usable()[0].id)
    assert import_pairs(store, tmp_path / "x.jsonl").added == 0
    assert list(export_pairs(store)) == []


@pytest.mark.parametrize(
    "raw", [b"", b"\x7fELF\0\1\2" * 99, b"\xff\xfe\0\0", b"\x1f\x8b\x08garbage", b"[", b"[[[", b"]"]
)
def test_files_that_hold_nothing_are_named_or_empty(store, tmp_path, raw):
    path = tmp_path / "odd.bin"
    path.write_bytes(raw)
    said = "odd.bin"
    try:
        import_pairs(store, path)
    except BadInput as error:
        said = str(error)
    assert "odd.bin" in said
    assert "\n" not in said
    assert store.stats()["comparisons"] == 0
    with pytest.raises(BadInput, match="cannot read"):
        import_pairs(store, tmp_path)
    with pytest.raises(BadInput, match="cannot read"):
        import_pairs(store, tmp_path / "missing.jsonl")


def test_an_unknown_format_is_refused_before_anything_is_read(store):
    with pytest.raises(BadInput, match="unknown format 'csv'"):
        import_pairs(store, io.BytesIO(b"{}"), "csv")
    with pytest.raises(BadInput, match="unknown format 'csv'"):
        export_pairs(store, "csv")
