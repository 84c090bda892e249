"""What a report says of runs is what was recorded of them: kinds of backbones, hours, example sets; its pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from glot.report.cells import METHODS
from glot.report.figures import whiskers
from glot.report.results import collect
from glot.report.stress import stress_cells, write_stress
from glot.report.styles import STYLES, styles_for
from glot.report.svg import Dot, Line, dot_plot, line_plot
from glot.report.write import write_own_report, write_report
from glot.store.files import read_json, write_json

Make = Callable[..., Path]
RATIOS = (0.2, 0.5, 0.8, 0.9)


@pytest.mark.parametrize(("kind", "name"), [("encoder", "CLS"), ("decoder", "EOS")])
@pytest.mark.parametrize("model", ["mine", "smollm2-of-mine", "mistral-7b"])
def test_a_decoder_is_what_was_recorded_as_one(
    tmp_path: Path, make_run: Make, make_yardstick: Make, model: str, kind: str, name: str
) -> None:
    for task, metric in (("cola", "mcc"), ("stress-paired-0.9", "accuracy"), ("mine", "accuracy")):
        config = make_run(task, model, "cls", {"validation": {metric: 0.6}}) / "config.json"
        write_json(config, {**read_json(config), "states": {"backbone": model, "kind": kind}})
    config = make_run("cola", model, "cls", {"validation": {"mcc": 0.6}}, setting="ablation-x") / "config.json"
    write_json(config, {**read_json(config), "states": {"backbone": model, "kind": kind}})
    make_yardstick("cola", model, "logreg-cls", {"validation": {"mcc": 0.5}})  # which does not say it
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
    assert set(STYLES) == set(METHODS)
    assert len({style.colour for style in STYLES.values()}) == len(STYLES)
    styles = styles_for(["mean", "glot", "glot, tau=0.3", "glot, tau=0.9", "mine"])
    assert styles["mean"] == STYLES["mean"]
    assert len({style.colour for style in styles.values()}) == len(styles)


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
    (below,), (above,) = whiskers([(1.0, mean, std)], bounds)
    assert (mean - below, mean + above) == pytest.approx(ends)
    style = STYLES["glot"]
    assert Dot("GLOT", style, mean, std, "", None, bounds).ends == pytest.approx(ends)
    band = line_plot("", "", "", [Line("", style, [(0, mean, std), (1, mean, std)], bounds)], (-200, 200), guide=0)
    heights = [float(y) for y in re.findall(r" (-?[\d.]+)[Lz]", (re.findall(r'band" d="([^"]*)"', band) or [""])[0])]
    if std:
        expected = [208 + (end + 200) / 400 * (30 - 208) for end in ends]
        assert (max(heights), min(heights)) == pytest.approx(expected, abs=0.06)
    assert dot_plot("", "", [Dot("GLOT", style, mean, std, "", None, bounds)])


def test_ticks_have_room() -> None:
    style = STYLES["glot"]
    for xs in ([20, 90, 95, 99], [0, 5, 20, 50], [128, 256, 448], [90, 95, 99], [50]):
        svg = line_plot("", "", "", [Line("", style, [(x, 60.0, None) for x in xs])], (40, 100), guide=50)
        labels = re.findall(r'<text x="([\d.]+)" y="225.0" text-anchor="middle">(\d+)</text>', svg)
        places = [(float(x) - 4 * len(text), float(x) + 4 * len(text)) for x, text in labels]
        assert all(left[1] < right[0] for left, right in pairwise(places)), labels
        assert {str(xs[0]), str(xs[-1])} <= {text for _, text in labels}
        assert svg.count('class="axis" d="M') == len(xs) + 1


def stress_panels(make_run: Make, tmp_path: Path) -> list:
    """The panels of stress.png, as matplotlib has them."""
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    from unittest import mock

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
    drawn = []
    with mock.patch("glot.report.stress.save_picture", lambda path, size, draw: drawn.append(draw) or True):
        write_stress(stress_cells(collect(tmp_path / "runs")), tmp_path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    drawn[0](figure)
    return [figure, [panel for panel in figure.axes if panel.axison]]


def test_no_panel_of_the_stress_test_is_empty(make_run: Make, tmp_path: Path) -> None:
    _, panels = stress_panels(make_run, tmp_path)
    assert len(panels) == 3 + 2
    assert all(len(panel.get_lines()) > 1 for panel in panels)  # the line of chance is one
    assert all(panel.get_xlabel() for panel in panels)


def test_the_picture_of_the_stress_test(make_run: Make, tmp_path: Path) -> None:
    figure, panels = stress_panels(make_run, tmp_path)
    for panel in panels:
        for bar in panel.collections:
            for segment in bar.get_segments():
                assert 0 <= segment[:, 1].min() <= segment[:, 1].max() <= 100
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert len(set(labels)) == len(labels)
    assert "CLS / EOS" in labels  # one method, one colour, one entry
    colours = [handle.get_children()[0].get_color() for handle in legend.legend_handles if hasattr(handle, "children")]
    assert len(set(colours)) == len(colours)
