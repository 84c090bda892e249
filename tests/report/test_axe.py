"""The pages in a browser under axe-core, npm's checker: no serious finding, on phones and in the dark."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from glot.reproduce.report import write_report
from tests import pages
from tests.report.browser import find_browser, look
from tests.report.conftest import MakeRun

LOOKS = [(width, dark) for width in (390, 1280) for dark in (False, True)]
ASK = """
axe.run({resultTypes: ["violations"]}).then(found => tell(
  found.violations.map(one => [one.impact, one.id, one.nodes.map(n => n.html)])));
"""

TEMPLATES = pages.ROOT / "pipeline/glot/report/templates"
PAIRS = {  # what is written on what
    "report.css": [("text", "page"), ("soft", "page"), ("soft", "panel"), ("link", "page"), ("text", "panel")]
    + [("shaded", shade) for shade in ("even", "worse-1", "worse-2", "worse-3", "better-1", "better-2", "better-3")],
    "explain.html": [("ink", "paper"), ("grey", "paper"), ("ink", "field"), ("grey", "field"), ("join", "paper")],
}


def luminance(colour: str) -> float:
    """Relative, as WCAG 2 defines it, of #rgb or #rrggbb."""
    digits = colour.lstrip("#")
    digits = digits if len(digits) == 6 else "".join(2 * digit for digit in digits)
    parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("name", PAIRS)
def test_letters_stand_out_from_what_they_stand_on(name: str) -> None:
    """By 4.5 to 1, in the light and in the dark; what runs where no browser is."""
    css = (TEMPLATES / name).read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"--([\w-]+):\s*(#\w+)", block)) for block in re.findall(r":root\s*{(.*?)}", css, re.DOTALL)[:2]
    )
    for scheme in (light, {**light, **dark}):
        for ink, ground in PAIRS[name]:
            above, below = sorted((luminance(scheme[ink]), luminance(scheme[ground])), reverse=True)
            assert (above + 0.05) / (below + 0.05) >= 4.5, (ink, ground, scheme[ink], scheme[ground])


@pytest.fixture
def check(tmp_path: Path) -> Callable[[Path], list]:
    """`check(page)` gives the serious findings: (width, dark, impact, rule, elements)."""
    axe = Path(os.environ.get("AXE_JS") or pages.ROOT / "node_modules/axe-core/axe.min.js")
    find_browser()
    if not axe.is_file():
        lacks = f"{axe} (npm install --no-save axe-core, or set AXE_JS)"
        pytest.skip(f"the pages are not checked by axe-core, for there is no {lacks}")
    script = axe.read_text(encoding="utf-8").replace("</script", "<\\/script") + ASK

    def run(page: Path) -> list:
        found = [(width, dark, *one) for width, dark in LOOKS for one in look(page, tmp_path, script, width, dark)]
        return [one for one in found if one[2] in ("serious", "critical")]

    return run


@pytest.mark.slow
def test_the_check_sees_what_is_wrong(tmp_path: Path, check: Callable[[Path], list]) -> None:
    words = '<title>x</title></head><body><main><h1>x</h1><p style="color:#ddd">pale</p></main></body></html>'
    (tmp_path / "pale.html").write_text(f'<!DOCTYPE html><html lang="en"><head>{words}', encoding="utf-8")
    found = check(tmp_path / "pale.html")
    assert [(width, dark) for width, dark, *_ in found] == LOOKS
    assert {rule for *_, rule, _ in found} == {"color-contrast"}


@pytest.mark.slow
def test_the_page_of_results(make_run: MakeRun, tmp_path: Path, check: Callable[[Path], list]) -> None:
    for model in ("bert", "minilm"):
        for place, method in enumerate(("cls", "mean", "glot")):
            make_run("cola", model, method, {"validation": {"mcc": 0.2 + 0.2 * place}})
            make_run("stress-paired-0.9", model, method, {"validation": {"accuracy": 0.5 + 0.1 * place}})
    write_report(tmp_path / "runs", tmp_path / "results", [("mistral-7b", "no GPU here")], "two cores")
    assert check(tmp_path / "results" / "index.html") == []


@pytest.mark.slow
def test_the_pages_of_a_training_and_of_an_explanation(
    glot: Callable[..., tuple],
    table: Path,
    backbone_folders: dict[str, Path],
    check: Callable[[Path], list],
) -> None:
    asked = ["--model", backbone_folders["bert"], "--text", "sentence", "--label", "kind", "--out", "made"]
    code, _, err = glot("train", table, *asked)
    assert code == 0, err
    assert check(Path("made/report.html")) == []
    code, _, err = glot("explain", "--run", "made", "--input-text", "a dog in the rain", "--out", "why.html")
    assert code == 0, err
    assert check(Path("why.html")) == []
