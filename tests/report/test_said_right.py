"""What a report says of runs is what was recorded of them: kinds of backbones, hours, example sets; its pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from glot.report.figures import Curves, Dot, Dots, Line, Picture, draw_picture
from glot.report.methods import METHODS, looks_of
from glot.report.results import collect
from glot.reproduce.report import write_own_report, write_report
from glot.reproduce.stress import stress_cells, stress_section
from glot.store.files import read_json, write_json

Make = Callable[..., Path]
RATIOS = (0.2, 0.5, 0.8, 0.9)


@pytest.mark.parametrize(("kind", "name"), [("encoder", "CLS"), ("decoder", "EOS")])
@pytest.mark.parametrize("model", ["mine", "smollm2-of-mine", "mistral-7b"])
def test_a_decoder_is_what_was_recorded_as_one(
    tmp_path: Path, make_run: Make, make_baseline: Make, model: str, kind: str, name: str
) -> None:
    for task, metric in (("cola", "mcc"), ("stress-paired-0.9", "accuracy"), ("mine", "accuracy")):
        config = make_run(task, model, "cls", {"validation": {metric: 0.6}}) / "config.json"
        _set_kind(config, kind)
    config = make_run("cola", model, "cls", {"validation": {"mcc": 0.6}}, setting="ablation-x") / "config.json"
    _set_kind(config, kind)
    make_baseline("cola", model, "logreg-cls", {"validation": {"mcc": 0.5}})  # which does not say it
    write_report(tmp_path / "runs", tmp_path / "out")
    other = "EOS" if name == "CLS" else "CLS"
    for page in ("table1.md", "stress.md", "other.md", "ablations.md", "README.md"):
        text = (tmp_path / "out" / page).read_text()
        assert f"| {name} |" in text, page
        assert other not in text, page
    assert f"logistic regression on {name}" in (tmp_path / "out/table1.md").read_text()
    html = re.sub(r"<style>.*?</style>", "", (tmp_path / "out/index.html").read_text(), flags=re.DOTALL)
    assert name in html
    assert other not in html
    runs = json.loads((tmp_path / "out/results.json").read_text())["runs"]
    assert {run["kind"] for run in runs} == {kind}


def _set_kind(config: Path, kind: str) -> None:
    data = read_json(config)
    write_json(config, {**data, "states": {**data["states"], "kind": kind}})


@pytest.mark.parametrize("table", ["train", "validation", "holdout", "test"])
def test_a_heading_says_which_examples_were_scored(tmp_path: Path, make_run: Make, table: str) -> None:
    """A task has the name of its table, which may be that of another example set."""
    make_run(table, "minilm", "glot", {"validation": {"accuracy": 0.6, "macro_f1": 0.5}})
    write_own_report([tmp_path / "runs"], tmp_path / "out")
    for page in ("other.md", "index.html"):
        text = (tmp_path / "out" / page).read_text()
        assert f"{table}: validation accuracy" in text, page
        assert f"{table}: validation macro_f1" in text, page
        assert f"{table}: accuracy" not in text, page


def test_every_method_has_a_colour_of_its_own() -> None:
    assert len({look.colour for look in METHODS.values()}) == len(METHODS)
    looks = looks_of(["mean", "glot", "glot, tau=0.3", "glot, tau=0.9", "mine"])
    assert looks["mean"] == METHODS["mean"]
    assert len({look.colour for look in looks.values()}) == len(looks)


@pytest.mark.parametrize(
    ("mean", "std", "bounds", "ends"),
    [
        (93.0, 10.4, (0.0, 100.0), (82.6, 100.0)),
        (2.0, 5.0, (0.0, 100.0), (0.0, 7.0)),
        (-1.0, 3.0, (-100.0, 100.0), (-4.0, 2.0)),
        (100.0, None, (0.0, 100.0), (100.0, 100.0)),
    ],
)
def test_no_whisker_leaves_what_a_score_can_be(
    mean: float, std: float | None, bounds: tuple[float, float], ends: tuple[float, float]
) -> None:
    look = METHODS["glot"]
    dot = Dot("GLOT", look, mean, std, "", None, bounds)
    assert dot.ends == pytest.approx(ends)
    line = Line("GLOT", look, [(0, mean, std), (1, mean, std)], bounds)
    panels = [Curves("", "x", "y", [line], (-200, 200), guide=0), Dots("", "x", [dot])]
    figure, _ = draw_picture(Picture("", panels))
    curves, dots = figure.axes
    drawn = [path.vertices[:, 1] for band in curves.collections for path in band.get_paths()]
    drawn += [whisker.get_segments()[0][:, 0] for whisker in dots.collections if whisker.get_linestyle()[0][1] is None]
    assert len(drawn) == (2 if std else 0)
    for reach in drawn:
        assert (reach.min(), reach.max()) == pytest.approx(ends)


def test_ticks_have_room() -> None:
    look = METHODS["glot"]
    for xs in ([20, 90, 95, 99], [0, 5, 20, 50], [128, 256, 448], [90, 95, 99], [50]):
        line = Line("", look, [(x, 60.0, None) for x in xs])
        figure, _ = draw_picture(Picture("", [Curves("", "x", "y", [line], (40, 100), guide=50)]))
        figure.draw_without_rendering()
        (axes,) = figure.axes
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes)), xs


def stress_figures(make_run: Make, tmp_path: Path) -> list[Any]:
    """The figures of stress.png, one a backbone, as matplotlib has them."""
    for ratio in RATIOS:
        for generator in ("published", "balanced", "paired"):
            for seed, score in enumerate((1.0, 0.7, 1.0)):
                make_run(
                    f"stress-{generator}-{ratio}", "minilm", "glot", {"validation": {"accuracy": score}}, seed=seed
                )
            make_run(f"stress-{generator}-{ratio}", "minilm", "cls", {"validation": {"accuracy": 0.5}})
    for generator in ("published", "paired"):
        for method in ("cls", "glot", "mean"):
            make_run(f"stress-{generator}-0.9", "smollm2-135m", method, {"validation": {"accuracy": 0.6}})
    section = stress_section(stress_cells(collect(tmp_path / "runs")))
    return [draw_picture(picture)[0] for picture in section.pictures]


def test_no_panel_of_the_stress_test_is_empty(make_run: Make, tmp_path: Path) -> None:
    panels = [panel for figure in stress_figures(make_run, tmp_path) for panel in figure.axes if panel.axison]
    assert len(panels) == 3 + 2
    assert all(len(panel.get_lines()) > 1 for panel in panels)  # the line of chance is one
    assert all(panel.get_xlabel() for panel in panels)


def test_the_picture_of_the_stress_test(make_run: Make, tmp_path: Path) -> None:
    figure, other = stress_figures(make_run, tmp_path)
    for panel in figure.axes:
        for band in panel.collections:
            for path in band.get_paths():
                assert 0 <= path.vertices[:, 1].min() <= path.vertices[:, 1].max() <= 100
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["CLS", "GLOT", "the paper's GLOT (BERT)"]  # one method, one colour, one entry
    assert len({handle.get_color() for handle in legend.legend_handles}) == len(labels)
    assert "EOS" in [text.get_text() for panel in other.axes for text in panel.texts]
