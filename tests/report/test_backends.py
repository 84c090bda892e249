"""DGL beside plain torch, as the page shows it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from glot.errors import FaultError
from glot.reproduce.report import write_report
from glot.store.files import write_json

Make = Callable[..., Path]


@pytest.fixture
def pair(make_run: Make) -> list[Path]:
    """Two heads: that of plain torch has 10.00 and 9.90, that of DGL 12.50 twice."""
    folders = []
    for trained, dense, dgl in (("dense", 0.1, 0.099), ("dgl", 0.125, 0.125)):
        scores = {"validation": {"mcc": dense}}
        folder = make_run("cola", "minilm", f"glot,backend={trained}", scores, setting="backends")
        both = {"dense": {"validation": {"mcc": dense}}, "dgl": {"validation": {"mcc": dgl}}}
        write_json(folder / "by-backend.json", {"version": 1, "trained": trained, "scores": both})
        folders.append(folder)
    return folders


def test_all_three_pages_show_both_and_the_largest_difference(pair: list[Path], tmp_path: Path) -> None:
    write_report(tmp_path / "runs", tmp_path / "out")
    index, page = (tmp_path / "out" / name for name in ("README.md", "index.html"))
    words = "Largest difference of the same head's scores by the two: 0.10 points. "
    words += "Between the two trainings, each judged with its own: 2.50 points."
    for path in (index, tmp_path / "out/backends.md"):
        text = path.read_text()
        assert "| plain torch | validation | mcc | 10.00 | 9.90 | −0.1 |" in text, path
        assert "| DGL | validation | mcc | 12.50 | 12.50 | 0.0 |" in text, path
        assert words in text, path
    html = page.read_text()
    assert 'id="dgl-and-plain-torch"' in html
    assert words.replace("'", "&#x27;") in html or words in html
    found = json.loads((tmp_path / "out/results.json").read_text())["backends"]
    assert [(both["trained"], round(both["largest"], 6)) for both in found] == [("dense", 0.1), ("dgl", 0.0)]
    assert not (tmp_path / "out/ablations.md").exists()  # no part of GLOT is in question


def test_what_is_not_there_is_not_spoken_of(make_run: Make, tmp_path: Path) -> None:
    make_run("cola", "minilm", "glot", {"validation": {"mcc": 0.1}})
    make_run("cola", "minilm", "glot,backend=dgl", {"validation": {"mcc": 0.1}}, setting="backends")
    write_report(tmp_path / "runs", tmp_path / "out")
    assert not (tmp_path / "out/backends.md").exists()
    assert "plain torch" not in (tmp_path / "out/index.html").read_text()


def test_a_damaged_file_is_named(pair: list[Path], tmp_path: Path) -> None:
    write_json(pair[0] / "by-backend.json", {"version": 1, "trained": "dense", "scores": {"dense": {}}})
    with pytest.raises(FaultError, match=r"by-backend\.json is damaged"):
        write_report(tmp_path / "runs", tmp_path / "out")
