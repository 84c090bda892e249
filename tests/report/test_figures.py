"""Pictures as readers see them: nothing is cut off."""

from __future__ import annotations

import pytest

pytest.importorskip("matplotlib", reason="the extra `report` is not installed")

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg

from glot.report.figures import RC, Bars, Picture, draw_picture, render


@pytest.mark.parametrize("title", ["short", "a title with many more words than one narrow picture has room for, " * 2])
def test_a_title_lies_inside_its_picture(title: str) -> None:
    with matplotlib.rc_context(RC):
        figure, _ = draw_picture(Picture(title, [Bars("panel", "x", [("one", 1.0, "1", "#0072B2")])]))
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
    written = next(text for text in figure.texts if text.get_text().startswith(title[:5]))
    box, page = written.get_window_extent(canvas.get_renderer()), figure.bbox
    assert page.x0 <= box.x0
    assert box.x1 <= page.x1
    assert box.y1 <= page.y1
    assert written.get_text().replace("\n", " ").strip() == title.strip()


@pytest.mark.parametrize(
    ("panels", "columns", "shape"), [(3, 4, (1, 3)), (5, 4, (2, 3)), (8, 4, (2, 4)), (9, 4, (3, 3))]
)
def test_rows_of_panels_are_even(panels: int, columns: int, shape: tuple[int, int]) -> None:
    bars = [Bars("panel", "x", [("one", 1.0, "1", "#0072B2")])] * panels
    figure, _ = draw_picture(Picture("", bars, columns=columns))
    assert figure.axes[0].get_gridspec().get_geometry() == shape


def test_a_page_has_its_own_heading_over_a_picture() -> None:
    picture = Picture("the title", [Bars("panel", "x", [("one", 1.0, "1", "#0072B2")])])
    svg = render(picture, 0).svg
    assert "<title>the title</title>" in svg
    assert ">the title</text>" not in svg
    assert ">panel</text>" in svg
