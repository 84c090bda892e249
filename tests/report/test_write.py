from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from matplotlib.image import imread

from glot.errors import UsageError
from glot.report.figures import check_extra
from glot.report.results import collect
from glot.report.write import write_sections
from glot.reproduce.report import write_report

Make = Callable[..., Path]
FIRST = ["README.md", "index.html", "results.json"]


def fill(make_run: Make, make_baseline: Make) -> None:
    for method, score in (("mean", 0.5), ("glot", 0.7)):
        make_run("cola", "minilm", method, {"validation": {"mcc": score}})
        make_run("stress-published-0.9", "minilm", method, {"validation": {"accuracy": score}})
        make_run("stress-published-0.9", "minilm", method, {"validation": {"accuracy": score}}, "converged", epochs=9)
    make_baseline("stress-published-0.9", "minilm", "bag-of-words", {"validation": {"accuracy": 0.87}})


def test_report(tmp_path: Path, make_run: Make, make_baseline: Make) -> None:
    fill(make_run, make_baseline)
    out = tmp_path / "deep" / "report"
    paths = write_report(tmp_path / "runs", out, [("mistral-7b", "no GPU")], "two cores")
    names = [*FIRST, "table1.md", "table1.csv", "table1.png", "stress.md", "stress.csv", "stress.png"]
    names.append("choices.md")
    assert [path.name for path in paths] == names
    assert {path.name for path in out.iterdir()} == set(names)
    index = paths[0].read_text()
    for expected in (
        "Machine: two cores",
        "- **mistral-7b**: no GPU",
        "| converged | 2 | 1 | minilm | 0 | 9 | – | 0.03 |",
        "| published | 4 | 2 | minilm | 0 | 3 | – | 0.07 |",
        "| yardstick | 1 | 1 | minilm | 0 | – | – | 0.00 |",
        "\n## Table 1: GLUE\n",
        "\n### minilm, converged (9 epochs)\n",
        "![Table 1: GLUE](table1.png)",
        "![Stress test: a needle in a haystack](stress.png)",
    ):
        assert expected in index


def test_pictures_hold_something(tmp_path: Path, make_run: Make, make_baseline: Make) -> None:
    fill(make_run, make_baseline)
    pictures = [path for path in write_report(tmp_path / "runs", tmp_path / "out") if path.suffix == ".png"]
    assert len(pictures) == 2
    for path in pictures:
        pixels = imread(path)  # (height, width, 4) in [0, 1]
        assert min(pixels.shape[:2]) > 200
        colours = {tuple(pixel) for pixel in pixels[::3, ::3, :3].reshape(-1, 3).round(1)}
        assert len(colours) > 10


def test_only_tables_with_results_are_written(tmp_path: Path, make_run: Make) -> None:
    make_run("cola", "minilm", "mean", {"validation": {"mcc": 0.5}})
    paths = write_report(tmp_path / "runs", tmp_path / "out")
    assert [path.name for path in paths] == [*FIRST, "table1.md", "table1.csv", "table1.png", "choices.md"]
    assert "Nothing was skipped." in paths[0].read_text()


def test_no_results_are_said_out_loud(tmp_path: Path) -> None:
    index, page, _ = write_report(tmp_path / "nowhere", tmp_path / "out", [("all", "no data")])
    assert f"No finished run was found in `{tmp_path / 'nowhere'}`." in index.read_text()
    assert "- **all**: no data" in index.read_text()
    assert "No finished run was found" in page.read_text()
    assert "no data" in page.read_text()


@pytest.mark.parametrize("package", ["jinja2", "matplotlib", "pandas"])
def test_what_is_missing_is_told_with_the_extra_that_brings_it(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=rf"{package}, not installed here: pip install 'glot-pipeline\[report\]'"):
        check_extra()


def test_anybodys_results_need_nothing_of_the_paper(tmp_path: Path, make_run: Make) -> None:
    make_run("cola", "minilm", "glot", {"validation": {"mcc": 0.5}})
    names = [path.name for path in write_sections(collect(tmp_path / "runs"), [], tmp_path / "out")]
    assert names == [*FIRST, "other.md", "other.csv"]
    assert "cola: validation mcc" in (tmp_path / "out/index.html").read_text()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot make the folder"):
        write_report(tmp_path / "runs", tmp_path / "file" / "out")
