"""Pictures as readers see them: nothing is cut off."""

from __future__ import annotations

import pytest

pytest.importorskip("matplotlib", reason="the extra `report` is not installed")

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg

from glot.report.figures import RC, Bars, Picture, draw_picture


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
