"""The real app in a real terminal, from the first screen to the second visit."""

from __future__ import annotations

import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks import newcomer


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")
def test_a_newcomers_first_minutes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert newcomer.main(["--smoke", "--shots", str(tmp_path)]) == 0, capsys.readouterr().err
    shots = sorted(path.name for path in tmp_path.iterdir())
    assert len(shots) == 5
    for shot in shots:
        ET.parse(tmp_path / shot)


def test_a_picture_keeps_every_word_in_its_column(tmp_path: Path) -> None:
    path = tmp_path / "x.svg"
    newcomer.picture("a \x1b[1;38;2;255;0;0m<b>\x1b[0m  日本 c", path)
    words = ET.parse(path).iter("{http://www.w3.org/2000/svg}text")
    wide = newcomer.CELL[0]
    at = {word.text: int(word.attrib["x"]) // wide for word in words}
    assert at == {"a": 0, "<b>": 2, "日本": 7, "c": 12}
    assert "#ff0000;font-weight:bold" in path.read_text()
