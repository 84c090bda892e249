from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest

from glot.errors import FaultError
from glot.report.cells import Cell
from glot.report.comparison import headline
from glot.report.environment import collect_environment
from glot.report.methods import looks_of
from glot.report.results import collect
from glot.report.sections import Section, shade
from glot.reproduce.report import write_report
from glot.reproduce.stress import stress_cells
from glot.reproduce.table1 import table1_cells
from tests.report.conftest import MakeRun, baseline_maker, run_maker

Make = Callable[..., Path]
VOID = {"meta", "br", "hr", "img", "link", "input"}
METHODS = ("cls", "mean", "max", "adapool", "glot", "glot-loops")


class Page(HTMLParser):
    """Checks that elements are closed in their order, and keeps what they say and point at."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open, self.tags, self.attributes, self.words = [], [], [], []
        self.feed(path.read_text())
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        """What the page says, with single spaces."""
        return " ".join(" ".join(self.words).split())

    @property
    def links(self) -> list[str]:
        """Where the page points, but for its own sections."""
        return [v for tag, name, v in self.attributes if (tag, name) == ("a", "href") and not v.startswith("#")]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report's folder, of runs on every task and generator with two models and several seeds."""
    tmp_path = tmp_path_factory.mktemp("full")
    make_run, make_baseline = run_maker(tmp_path), baseline_maker(tmp_path)
    glue = {"cola": "mcc", "sst2": "accuracy", "stsb": "spearman", "mrpc": "f1", "qqp": "f1"}
    glue |= dict.fromkeys(("mnli", "qnli", "rte", "wnli"), "accuracy")
    stress = [
        f"stress-{generator}-{ratio}" for generator in ("published", "balanced", "paired") for ratio in (0.2, 0.9)
    ]
    for model in ("minilm", "smollm2-135m"):
        for task, metric in [*glue.items(), *((task, "accuracy") for task in stress)]:
            for place, method in enumerate(METHODS):
                for seed in range(3):
                    scores = {"validation": {metric: 0.5 + 0.05 * place + 0.01 * seed}}
                    if task == "mnli":
                        scores["validation_mismatched"] = {"accuracy": 0.5}
                    make_run(task, model, method, scores, seed=seed)
        for task in stress:
            make_baseline(task, model, "length", {"validation": {"accuracy": 1.0}})
            make_baseline(task, model, "bag-of-words", {"validation": {"accuracy": 0.9}})
    write_report(tmp_path / "runs", tmp_path / "results", [("mistral-7b", "no GPU here")], "two cores")
    return tmp_path / "results"


def test_the_page_says_what_was_found(full: Path) -> None:
    page = Page(full / "index.html")
    for words in (
        "71.0 ± 1.0 [82.6, −11.6]",  # GLOT on MRPC beside BERT
        "Generator paired: minilm, published settings (3 epochs)",
        "GLOT, self-loops only",
        "length alone",
        "no GPU here",
        "two cores",
        "The threshold τ.",
        "Python",
    ):
        assert words in page.text
    assert page.tags.count("caption") == page.tags.count("table") > 8
    scopes = [value for tag, name, value in page.attributes if (tag, name) == ("th", "scope")]
    assert len(scopes) == page.tags.count("th")
    assert set(scopes) == {"col", "row"}
    assert "GLOT against the best baseline" not in page.text  # no run kept its predictions


def test_the_best_of_each_column_is_marked(full: Path) -> None:
    html = (full / "index.html").read_text()
    table = re.search(r"<table>\n<caption class=\"unseen\"><span>minilm, published.*?</table>", html, re.DOTALL)[0]
    marked = re.findall(r'<span class="ours best">(.*?)</span>', table)
    assert marked == ["76.0 ± 1.0"] * 9  # one a column, but MNLI-mm, where all are alike
    assert "**" in (full / "table1.md").read_text()
    assert "[–]" not in html


def test_the_best_of_a_row_is_marked_where_methods_are_the_columns(
    tmp_path: Path, make_run: MakeRun, make_baseline: Make
) -> None:
    for method, score in (("mean", 0.7004), ("glot", 0.7), ("glot-loops", 0.69)):  # 70.0 is as good as 70.0
        make_run("stress-paired-0.9", "minilm", method, {"validation": {"accuracy": score}})
        make_run("stress-balanced-0.9", "minilm", method, {"validation": {"accuracy": score}})
        make_run("cola", "minilm", f"{method},tau=0.1", {"validation": {"mcc": score}}, setting="ablation-tau")
    make_baseline("stress-balanced-0.9", "minilm", "length", {"validation": {"accuracy": 0.8}})
    write_report(tmp_path / "runs", tmp_path / "out")
    marked = re.findall(r'<span class="ours best">(.*?)</span>', (tmp_path / "out/index.html").read_text())
    assert marked == ["80.0", "70.0", "70.0", "70.0", "70.0"]


def test_the_headline_counts_the_intervals() -> None:
    spans = [{"low": low, "high": high} for low, high in ((1, 2), (0.1, 3), (-1, 1), (-2, -1))]
    said = headline([Section("", [], data={"comparisons": spans}), Section("", [], data={"graph": spans[2:]})])
    assert "than the best baseline in 2 of 4 comparisons, clearly worse in 1; in 1 the examples do not tell" in said
    assert "than itself without edges in 0 of 2 comparisons, clearly worse in 1; in 1 the examples" in said
    assert headline([]) == ""


def test_nothing_is_said_twice(full: Path) -> None:
    html = (full / "index.html").read_text()
    headings = re.findall(r"<h3>(.*?)</h3>", html)
    shown = re.findall(r"<caption><span>(.*?)</span>", html) + re.findall(r"<text [^>]*>([^<]*)</text>", html)
    assert "minilm, published settings (3 epochs)" in headings
    assert "CoLA (MCC)" in shown
    assert not set(headings) & set(shown)


def test_a_shade_is_of_the_papers_own_backbones_and_has_its_sign_too(
    full: Path, tmp_path: Path, make_run: MakeRun
) -> None:
    assert 'class="paper worse' not in (full / "index.html").read_text()  # minilm is none of the paper's
    for method, score in (("cls", 0.1), ("mean", 0.2), ("max", 0.6), ("glot", 0.47)):
        make_run("cola", "bert", method, {"validation": {"mcc": score}})
    write_report(tmp_path / "runs", tmp_path / "results", [], "two cores")
    html = (tmp_path / "results" / "index.html").read_text()
    shaded = re.findall(r'<span class="paper (even|better-\d|worse-\d)">(.*?)</span>', html)
    assert {kind[:5] for kind, _ in shaded} == {"even", "bette", "worse"}
    for kind, text in shaded:
        (difference,) = re.findall(r", ([+−]?\d+\.\d)\]", text)
        assert kind == "even" or (difference[0] == "+") == kind.startswith("better")
    assert [shade(points) for points in (-20, -6, -1, 0.9, 1, 14, 15)] == [
        *("worse-3", "worse-2", "worse-1", "even", "better-1", "better-2", "better-3")
    ]


def test_links_lead_to_the_runs(full: Path) -> None:
    found = [(full / unquote(link)).resolve() for link in Page(full / "index.html").links]
    assert all(path.exists() for path in found)
    runs = full.parent.resolve() / "runs"
    assert runs / "cola-minilm/published/glot" in found
    assert runs / "stress-paired-0.9-smollm2-135m/yardstick/length.json" in found
    assert {full.resolve() / "results.json", full.resolve() / "table1.csv"} < set(found)


def test_a_page_that_goes_where_the_runs_do_not_links_its_own_files_alone(tmp_path: Path, make_run: Make) -> None:
    make_run("rte", "minilm", "glot", {"validation": {"accuracy": 0.6}})
    make_run("cola", "minilm", "glot,tau=0.1", {"validation": {"mcc": 0.6}}, setting="ablation-tau")
    make_run("stress-paired-0.9", "minilm", "glot", {"validation": {"accuracy": 0.6}})
    out = tmp_path / "out"
    write_report(tmp_path / "runs", out, links=False)
    page = Page(out / "index.html")
    assert page.links
    assert all((out / unquote(link)).resolve().parent == out.resolve() for link in page.links)
    assert "60.0" in page.text
    assert "It is a link" not in page.text


@pytest.fixture
def beyond(tmp_path: Path, make_run: Make, make_baseline: Make) -> Path:
    """The report's folder, of runs along the three axes, some of them in the stress test's own tables."""
    settings = {"stress-paired-0.9": "converged", "stress-paired-0.5": "published"}
    beyond = ("0.95", "0.99", "0.9-w256-g10", "0.9-w448-g10", "0.5-w128-g0", "0.5-w128-g50", "0.7-w64-g3")
    settings |= {f"stress-paired-{place}": "stress-beyond" for place in beyond}
    for number, (task, setting) in enumerate(settings.items()):
        make_run(task, "minilm", "glot", {"validation": {"accuracy": 0.9 - 0.01 * number}}, setting=setting)
        make_baseline(task, "minilm", "length", {"validation": {"accuracy": 0.5}})
    write_report(tmp_path / "runs", tmp_path / "results")
    return tmp_path / "results"


def test_beyond_the_paper_there_is_a_curve_an_axis_with_its_dumb_baseline(beyond: Path) -> None:
    page, html = Page(beyond / "index.html"), (beyond / "index.html").read_text()
    for axis in ("distractor ratio (%)", "limit of words", "words between negation and noun"):
        assert f"accuracy (%) over {axis}: GLOT, length alone" in html
    for tip in ("GLOT, 90: 90.0", "GLOT, 95: 88.0", "GLOT, 128: 90.0", "GLOT, 448: 85.0", "GLOT, 50: 83.0"):
        assert tip in html
    assert "length alone, 10: 50.0" not in html  # of a place where nothing was trained there is no point
    assert "ratio 90 %, distance 10" in page.text
    rows = {
        tuple(cell["task"].split("-")[2:]): (cell["distractors"], cell["words"], cell["gap"])
        for cell in json.loads((beyond / "results.json").read_text())["cells"]["beyond"]
    }
    assert rows[("0.99",)] == (99, 128, 10)
    assert rows[("0.5", "w128", "g50")] == (50, 128, 50)


def test_beyond_the_paper_nothing_is_shown_twice_or_lost(beyond: Path) -> None:
    cells = json.loads((beyond / "results.json").read_text())["cells"]
    shown = {name: {(c["task"], c["method"]) for c in found} for name, found in cells.items()}
    assert ("stress-paired-0.7-w64-g3", "glot") in shown["ablations"]  # on no axis with another
    assert ("stress-paired-0.9", "glot") in shown["stress"] - shown["beyond"]
    assert not shown["beyond"] & shown["stress"]
    table = (beyond / "stress-beyond.md").read_text()
    assert "| limit of words | GLOT | length alone |" in table
    assert "| 448 (390 words, 374 of noise) | **85.0** | 50.0 |" in table


def test_curves_have_bands_and_each_method_its_own_line(full: Path) -> None:
    html = (full / "index.html").read_text()
    assert html.count('class="series band"') >= 2 * 3 * len(METHODS)
    for label in ("distractors (%)", "accuracy (%)", "generator balanced", "length alone, 20: 100.0"):
        assert label in html
    methods = [*METHODS, "length", "bag-of-words", *(f"glot, tau={number}" for number in range(20))]
    looks = looks_of(methods)
    assert len({(look.colour, look.dash, look.marker) for look in looks.values()}) == len(methods)
    assert len({(look.dash, look.marker) for name, look in looks.items() if "=" not in name}) == 8


def test_hostile_names_stay_words(tmp_path: Path, make_run: Make) -> None:
    evil = "<script>alert(1)<%2fscript>&\"'"
    make_run("rte", evil, evil, {"validation": {"accuracy": 0.6}})
    make_run("stress-paired-0.5", evil, evil, {"validation": {"accuracy": 0.6}})
    make_run(evil, "minilm", "glot", {evil: {evil: 0.6}})
    write_report(tmp_path / "runs", tmp_path / "out", [(evil, evil)], evil)
    page = Page(tmp_path / "out/index.html")
    assert "script" not in page.tags
    assert not [value for _, name, value in page.attributes if name.startswith("on")]
    assert evil in page.text
    assert all((tmp_path / "out" / unquote(link)).exists() for link in page.links)


def test_json_says_the_same(full: Path) -> None:
    data = json.loads((full / "results.json").read_text())
    results = collect(full.parent / "runs")
    expected = {"table1": table1_cells(results), "stress": stress_cells(results), "other": []}
    assert (data["format"], data["version"]) == ("glot-results", 1)
    for name, cells in expected.items():
        found = data["cells"][name]
        for cell in found:
            cell["runs"] = tuple((full / run).resolve() for run in cell["runs"])
        differences = [cell.pop("difference") for cell in found]
        places = [(cell.pop("generator"), cell.pop("ratio")) for cell in found if "generator" in cell]
        assert [Cell(**cell) for cell in found] == cells
        assert differences == [cell.difference for cell in cells]
        assert len(places) == (len(cells) if name == "stress" else 0)
    assert len(data["runs"]) == len(results) == 2 * (15 * 6 * 3 + 6 * 2)
    assert (full / data["runs"][0]["path"] / "metrics.json").exists()
    assert data["skipped"] == [{"step": "mistral-7b", "reason": "no GPU here"}]
    environment = data["environment"]
    assert environment["machine"] == "two cores"
    assert environment["first_run"] <= environment["last_run"] <= environment["written"]
    assert environment["python"].startswith("3.")
    assert environment["torch"]


def test_the_environment_is_that_of_the_runs(tmp_path: Path, make_run: Make) -> None:
    for seed, device in enumerate(("cuda:0", "cpu")):
        run = make_run("rte", "bert", "glot", {"validation": {"accuracy": 0.6}}, seed=seed)
        config = json.loads((run / "config.json").read_text())
        config["train"]["device"], config["created_by"] = device, f"glot 0.{seed}"
        (run / "config.json").write_text(json.dumps(config))
    found = collect_environment(collect(tmp_path / "runs"))
    assert (found.devices, found.created_by) == (("cpu", "cuda:0"), ("glot 0.0", "glot 0.1"))


def keep_predictions(run: Path, share: float, labels: np.ndarray, seed: int) -> None:
    right = np.random.default_rng(seed).random(len(labels)) < share
    np.save(run / "predictions-validation.npy", np.where(right, labels, 1 - labels))
    np.save(run / "labels-validation.npy", labels)


def test_glot_is_compared_with_the_best_baseline(tmp_path: Path, make_run: Make) -> None:
    labels = np.random.default_rng(0).integers(0, 2, 500)
    for place, (method, share) in enumerate((("mean", 0.6), ("adapool", 0.7), ("glot", 0.9), ("glot-loops", 0.99))):
        for seed in range(2):
            run = make_run("rte", "minilm", method, {"validation": {"accuracy": share}}, seed=seed)
            keep_predictions(run, share, labels, 10 * place + seed)
    make_run("cola", "minilm", "glot", {"validation": {"mcc": 0.5}})
    make_run("cola", "minilm", "mean", {"validation": {"mcc": 0.4}})
    write_report(tmp_path / "runs", tmp_path / "out")
    text = Page(tmp_path / "out/index.html").text
    assert "GLOT against the best baseline" in text
    said = "GLOT is clearly better than the best baseline in 1 of 1 comparisons"
    assert 0 < text.index(said) < text.index("GLOT against the best baseline")  # the finding comes before the tables
    (found,) = json.loads((tmp_path / "out/results.json").read_text())["comparisons"]
    assert (found["task"], found["baseline"], found["seeds"], found["examples"]) == ("rte", "adapool", [2, 2], 500)
    assert 10 < found["low"] < found["difference"] < found["high"] < 30
    assert found["above"] == 1.0


def test_predictions_on_other_examples_are_refused(tmp_path: Path, make_run: Make) -> None:
    labels = np.arange(50) % 2
    for method, truth in (("glot", labels), ("mean", 1 - labels)):
        keep_predictions(make_run("rte", "minilm", method, {"validation": {"accuracy": 0.6}}), 0.6, truth, 0)
    with pytest.raises(FaultError, match="was judged on other validation examples than"):
        write_report(tmp_path / "runs", tmp_path / "out")
    (tmp_path / "runs/rte-minilm/published/mean/seed-0/labels-validation.npy").write_bytes(b"?")
    with pytest.raises(FaultError, match=r"labels-validation\.npy is damaged"):
        write_report(tmp_path / "runs", tmp_path / "out")


@pytest.fixture
def browser(tmp_path: Path) -> Callable[..., str]:
    """`browser(page, width)` gives the page's elements after it was laid out."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium is installed, so the page cannot be laid out")

    def dump(page: Path, width: int) -> str:
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
        command += [f"--window-size={width},844", "--dump-dom", page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    return dump


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(full: Path, browser: Callable[..., str], width: int) -> None:
    html = re.sub(r"<meta http-equiv=[^>]*>", "", (full / "index.html").read_text())
    # Headless windows have a least width; a frame has exactly the one it is given.
    measure = "[d.scrollWidth,d.clientWidth,f.contentWindow.innerWidth,d.querySelectorAll('table').length].join()"
    frame = f'<iframe id="f" style="width:{width}px;height:844px;border:0" srcdoc="{{}}"></iframe>'
    quoted = html.replace("&", "&amp;").replace('"', "&quot;")
    names = "f=document.getElementById('f'),d=f.contentDocument.documentElement"
    script = f"<script>onload=()=>{{const {names};document.title={measure}}}</script>"
    (full / "frame.html").write_text(f"<!DOCTYPE html><title>x</title>{frame.format(quoted)}{script}")
    title = re.search(r"<title>(\d+),(\d+),(\d+),(\d+)</title>", browser(full / "frame.html", 1400))
    assert title is not None
    scrolled, shown, inside, tables = map(int, title.groups())
    assert (scrolled, inside) == (shown, width)
    assert tables > 8


def test_nothing_is_loaded_from_anywhere(full: Path) -> None:
    page, html = Page(full / "index.html"), (full / "index.html").read_text()
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not [value for _, name, value in page.attributes if name in ("src", "srcset", "xlink:href")]
    assert not re.search(r"url\(|@import|https?:", html)
    assert "default-src 'none'" in html


def test_pictures_are_named_described_and_take_the_colours_of_the_page(full: Path) -> None:
    html = (full / "index.html").read_text()
    pictures = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(pictures) == 2 * 2  # of Table 1 and the stress test, for each backbone
    for picture in pictures:
        assert re.match(r'<svg class="plot" role="img" [^>]*><title>[^<]+</title><desc>[^<]+</desc>', picture)
        assert "currentColor" in picture
        assert "#000000" not in picture
    names = re.findall(r' id="([^"]+)"', html)
    assert len(set(names)) == len(names)
    assert set(re.findall(r'href="#([^"]+)"', html)) <= set(names)
    assert '<a class="skip" href="#results">' in html
