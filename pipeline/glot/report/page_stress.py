"""The page's sections on the stress test, the paper's and what lies beyond it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from glot.report.beyond import EXPLANATION as BEYOND_EXPLANATION
from glot.report.beyond import Sweep
from glot.report.cells import Cell, Section, kind_of, method_name, methods_of, score_bounds, sections
from glot.report.page_tables import cells_table, figure, headed, prose
from glot.report.published import PAPER_NAMES, load_stress
from glot.report.stress import EXPLANATION as STRESS_EXPLANATION
from glot.report.stress import generators_of, place_of
from glot.report.styles import PAPER, Style, styles_for
from glot.report.svg import Line, line_plot, spread, swatch

CHANCE = 50.0  # percent, of the stress test
BOUNDS = score_bounds("accuracy")


def stress_html(cells: Sequence[Cell], out: Path | None) -> str:
    """Curves and a table a generator for each backbone and setting."""
    if not cells:
        return ""
    return prose(STRESS_EXPLANATION) + "".join(_stress_section(found, out) for found in sections(cells))


def _stress_section(section: Section, out: Path | None) -> str:
    generators, methods = generators_of(section.cells), methods_of(section.cells)
    styles, paper_line = styles_for(methods), _paper_line(section)
    paper_points = paper_line.points if paper_line else []
    y_range = _y_range([*((cell.mean, cell.std) for cell in section.cells), *((y, None) for _, y, _ in paper_points)])
    plots = []
    for generator in generators:
        cells = [cell for cell in section.cells if place_of(cell)[0] == generator]
        lines = [_line(method, cells, styles[method]) for method in methods_of(cells)]
        lines += [paper_line] if paper_line and generator == "published" else []
        plots.append(
            line_plot(f"generator {generator}", "distractors (%)", "accuracy (%)", lines, y_range, guide=CHANCE)
        )
    caption = "Accuracy over the share of distractor words; bands: ± std over seeds; chance is 50."
    curves = figure(plots, caption, _legend(styles, section.kind, paper_line))
    return headed(section) + curves + "".join(_stress_table(section, generator, out) for generator in generators)


def _line(method: str, cells: Sequence[Cell], style: Style) -> Line:
    points = sorted((100 * place_of(cell)[1], cell.mean, cell.std) for cell in cells if cell.method == method)
    return Line(method_name(method, kind_of(cells)), style, points, BOUNDS)


def _paper_line(section: Section) -> Line | None:
    paper_model = section.cells[0].paper_model
    if paper_model is None or "published" not in generators_of(section.cells):
        return None
    ratios = {place_of(cell)[1] for cell in section.cells}
    published = load_stress().items()
    points = [(100 * ratio, y, None) for (*key, ratio), y in published if key == [paper_model, "glot"]]
    inside = sorted(point for point in points if point[0] / 100 in ratios)
    return Line(f"the paper’s GLOT ({PAPER_NAMES[paper_model]})", PAPER, inside) if inside else None


def _stress_table(section: Section, generator: str, out: Path | None) -> str:
    found = {(place_of(c)[1], c.method): c for c in section.cells if place_of(c)[0] == generator}
    methods = methods_of(found.values())
    rows = [
        (f"{100 * ratio:g} %", [found.get((ratio, method)) for method in methods])
        for ratio in sorted({ratio for ratio, _ in found})
    ]
    names = [method_name(method, section.kind) for method in methods]
    caption = f"Generator {generator}: {section.title}"
    return cells_table(caption, "distractors", names, rows, out, with_paper=generator == "published")


def beyond_html(sweeps: Sequence[Sweep], out: Path | None) -> str:
    """For each backbone and generator a curve an axis, and their tables."""
    if not sweeps:
        return ""
    parts = [prose(BEYOND_EXPLANATION)]
    for model, generator in dict.fromkeys((sweep.model, sweep.generator) for sweep in sweeps):
        ours = [sweep for sweep in sweeps if (sweep.model, sweep.generator) == (model, generator)]
        methods = methods_of(cell for sweep in ours for cell in sweep.cells.values())
        styles = styles_for(methods)
        y_range = _y_range((cell.mean, cell.std) for sweep in ours for cell in sweep.cells.values())
        plots = [
            line_plot(
                sweep.held,
                sweep.axis,
                "accuracy (%)",
                [Line(method_name(m, sweep.kind), styles[m], sweep.points(m), BOUNDS) for m in sweep.methods],
                y_range,
                guide=CHANCE,
            )
            for sweep in ours
        ]
        caption = "Accuracy; bands: ± std over seeds, where there are several; chance is 50."
        parts += [f"<h3>{escape(f'{model}, generator {generator}')}</h3>"]
        parts += [
            figure(plots, caption, _legend(styles, ours[0].kind)),
            *(_beyond_table(sweep, out) for sweep in ours),
        ]
    return "".join(parts)


def _beyond_table(sweep: Sweep, out: Path | None) -> str:
    rows = [(sweep.row_name(value), [sweep.cells.get((value, m)) for m in sweep.methods]) for value in sweep.values]
    return cells_table(sweep.title, sweep.axis, [method_name(m, sweep.kind) for m in sweep.methods], rows, out)


def _legend(styles: dict[str, Style], kind: str | None, paper_line: Line | None = None) -> str:
    entries = [(method_name(method, kind), style) for method, style in styles.items()]
    entries += [(paper_line.label, PAPER)] if paper_line else []
    items = "".join(f"<li>{swatch(style)} {escape(name)}</li>" for name, style in entries)
    return f'<ul class="legend">{items}</ul>'


def _y_range(scores: Iterable[tuple[float, float | None]]) -> tuple[float, float]:
    """What shows all scores (mean, std), chance and 100 %."""
    reach = [end for value, std in scores for end in spread(value, std, BOUNDS)]
    return min(5 * (min(reach) // 5), CHANCE - 5), BOUNDS[1]
