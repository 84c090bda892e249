"""What the HTML of every page must have for screen readers and keyboards; what axe-core finds: `test_axe.py`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="pages need the extra report")

from glot.fit.doubts import Doubt, Doubts, Duplicate
from glot.inference.attribution import explain
from glot.inference.run_checks import open_runs
from glot.report import evaluation_page
from glot.report import explain as explain_page
from glot.reproduce.report import write_report
from tests.report.browser import look
from tests.report.test_evaluation_page import made

CONTROLS = ("input", "select", "textarea", "button")
VOID = ("meta", "br", "hr", "img", "link", "input")


def write_results(folder: Path, make_run: Callable, make_baseline: Callable) -> Path:
    for seed, (method, score) in product(range(2), (("cls", 0.2), ("mean", 0.4), ("glot", 0.9))):
        make_run("rte", "bert", method, {"validation": {"accuracy": score + seed / 50}}, seed=seed)
        make_run("stress-published-0.2", "bert", method, {"validation": {"accuracy": score}}, seed=seed)
        make_run("stress-published-0.9", "bert", method, {"validation": {"accuracy": score}}, seed=seed)
    make_baseline("stress-published-0.9", "bert", "length", {"validation": {"accuracy": 1.0}})
    write_report(folder / "runs", folder / "results", [("mistral-7b", "no GPU here")])
    return folder / "results/index.html"


def write_evaluation(path: Path) -> Path:
    doubts = Doubts(40, (Doubt(7, ("an odd text",), "no", "yes", 0.1, 0.9),))
    doubled = (Duplicate(1, 2, ("a doubled text",), "no", "yes"),)
    page = replace(made(3, 0.8, 0.5), doubts=doubts, duplicates=doubled, settings=[("tau", "0.6")])
    evaluation_page.write_page(path, page)
    return path


def write_explanation(path: Path, make_head_run: Callable, make_example: Callable) -> Path:
    words = ["[CLS]", *["the", "box", "never", "one", "two", "files"] * 21, "[SEP]"]  # 128
    runs = [make_head_run("glot", num_texts=1, tau=0.3), make_head_run("adapool", num_texts=1, pooler="adapool")]
    explain_page.write_page([explain(make_example(words, task="stress-made"), open_runs(runs))], path)
    return path


@pytest.fixture(params=["results", "evaluation", "explain"])
def page(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Each page that the package writes."""
    given = request.getfixturevalue
    if request.param == "results":
        return write_results(tmp_path, given("make_run"), given("make_baseline"))
    if request.param == "evaluation":
        return write_evaluation(tmp_path / "report.html")
    return write_explanation(tmp_path / "explain.html", given("make_head_run"), given("make_example"))


class Elements(HTMLParser):
    """The elements of a page in their order: the tag, the attributes, the tags around it, the words inside."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str], tuple[str, ...], list[str]]] = []
        self.open: list[tuple[str, list[str]]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        words: list[str] = []
        around = tuple(name for name, _ in self.open)
        self.found.append((tag, {name: value or "" for name, value in attrs}, around, words))
        if tag not in VOID:
            self.open.append((tag, words))

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        for _, words in self.open:
            words.append(data.strip())

    def of(self, *tags: str) -> list[tuple[dict[str, str], tuple[str, ...], str]]:
        """(attributes, tags around, words) of the elements with these tags."""
        return [(given, around, " ".join(words).strip()) for tag, given, around, words in self.found if tag in tags]

    def values(self, name: str) -> list[str]:
        """Of an attribute, wherever it stands and says something."""
        return [given[name] for _, given, _, _ in self.found if given.get(name)]


def test_a_page_has_a_language_a_title_and_one_first_heading(page: Path) -> None:
    found = Elements(page)
    assert [given["lang"] for given, _, _ in found.of("html")] == ["en"]
    (title,) = [words for _, around, words in found.of("title") if "svg" not in around]
    assert title
    assert len(found.of("h1")) == len(found.of("main")) == 1
    (viewport,) = [given["content"] for given, _, _ in found.of("meta") if given.get("name") == "viewport"]
    assert viewport == "width=device-width, initial-scale=1"  # which nobody is kept from enlarging


def test_what_is_named_is_there_and_once(page: Path) -> None:
    found = Elements(page)
    ids = found.values("id")
    assert sorted(ids) == sorted(set(ids))
    for name in ("aria-labelledby", "aria-describedby", "aria-controls", "for"):
        assert {word for value in found.values(name) for word in value.split()} <= set(ids), name
    regions = [given.get("aria-label") for _, given, _, _ in found.found if given.get("role") == "region"]
    assert all(regions)
    assert len(regions) == len(set(regions))


def test_tables_pictures_and_controls_say_what_they_are(page: Path) -> None:
    found = Elements(page)
    assert all(given.get("scope") in ("col", "row") for given, _, _ in found.of("th"))
    written = [given for given, _, words in found.of("table") if words]  # a script fills the others
    assert len(found.of("caption")) >= len(written)
    assert all(words for *_, words in found.of("caption", "summary"))
    assert all("alt" in given for given, _, _ in found.of("img"))
    labelled = found.values("for")
    for given, around, words in found.of(*CONTROLS):
        is_named = words or given.get("aria-label") or given.get("aria-labelledby") or given.get("title")
        is_filled = "id" in given and f'getElementById("{given["id"]}")' in page.read_text(encoding="utf-8")
        assert is_named or "label" in around or given.get("id") in labelled or is_filled, given


MEASURE = """
const page = document.documentElement, body = getComputedStyle(document.body);
const light = (name) => body[name].match(/\\d+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0);
tell([innerWidth, page.scrollWidth - page.clientWidth, light("color"), light("backgroundColor")]);
"""
WHITE = 3 * 255


@pytest.mark.parametrize(
    ("width", "dark"),
    [(390, True), *(pytest.param(*look, marks=pytest.mark.slow) for look in ((390, False), (1280, True)))],
)
def test_a_page_fits_a_phone_and_has_a_dark_side(page: Path, tmp_path: Path, width: int, dark: bool) -> None:
    given, beyond, ink, ground = look(page, tmp_path, MEASURE, width, dark)
    assert (given, beyond) == (width, 0)
    assert ink > 500 > 200 > ground if dark else ground > 500 > 200 > ink


@pytest.mark.slow
def test_paper_is_white_and_wide_enough(page: Path, tmp_path: Path) -> None:
    """A4 without the page's margins."""
    *_, shape = ["portrait", *re.findall(r"size: A4 (\w+)", page.read_text(encoding="utf-8"))]  # the last rule holds
    width = {"portrait": 688, "landscape": 1031}[shape]
    _, beyond, ink, ground = look(page, tmp_path, MEASURE, width, paper=True)
    assert (beyond, ground) == (0, WHITE)
    assert ink < 200
