"""The page of `glot explain`: safe whatever the tokens are, and right in a real browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from glot.corpus.stress import GENERATORS, make_examples, signal_roles
from glot.errors import UsageError
from glot.inference.attribution import Explanation, explain
from glot.inference.run_checks import open_runs
from glot.report.explain import page_data, render_page, roles, write_page
from glot.report.pieces import readable_pieces
from tests.report.browser import look

WORDS = ["[CLS]", "in", "the", "box", "are", "never", "one", "two", "three", "four", "files", "not", "[SEP]"]
HOSTILE = [
    "[CLS]",
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "<!--<script>",
    "{{data}}",
    "{{title}}",
    "&lt;b&gt;",
    "\u2028\"'\\",
    "\ud800",
    "",
    "\x00\x1b[31m",
    "[SEP]",
]


@pytest.fixture
def explained(make_head_run: Callable, make_example: Callable) -> Callable[..., Explanation]:
    """`explained(tokens, ..., tau=0.3, more=())` explains made states of some tokens by a GLOT run and others."""

    def make(*texts: list[str], tau: float = 0.3, more: tuple[str, ...] = (), **pooler: object) -> Explanation:
        runs = [make_head_run("glot", num_texts=len(texts), tau=tau, **pooler)]
        runs += [make_head_run(name, num_texts=len(texts), pooler=name) for name in more]
        return explain(make_example(*texts, task="stress-made"), open_runs(runs))

    return make


class Tags(HTMLParser):
    """The elements of a page, with the text inside each script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.inside: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        if self.lasttag in ("script", "title"):
            self.inside.append(data)


def test_the_page_is_one_file_that_asks_for_nothing(explained: Callable) -> None:
    page = render_page([explained(WORDS)])
    tags = Tags(page)
    assert not [value for name, value in tags.attributes if name in ("src", "href", "srcset")]
    assert not {"link", "img", "iframe", "object"} & set(tags.names)
    assert set(re.findall(r"https?://[^\s\"']+", page)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert "default-src 'none'" in page


def test_hostile_tokens_stay_data(explained: Callable, tmp_path: Path) -> None:
    found = explained(HOSTILE, HOSTILE)
    write_page([found], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    tags = Tags(page)
    assert tags.names.count("script") == 2
    assert "img" not in tags.names
    data = json.loads(next(text for text in tags.inside if text.startswith("{")))
    spelled = [token.replace("\ud800", "?") for token in HOSTILE]
    first, second = data["examples"][0]["texts"]
    assert [token["raw"] for token in second["tokens"]] == spelled
    assert all(token["shown"].isprintable() and token["shown"] for token in first["tokens"])
    with pytest.raises(UsageError, match="is a folder"):
        write_page([found], tmp_path)


def test_the_data_are_the_explanation_s(explained: Callable) -> None:
    found = explained(WORDS, more=("adapool",))
    data = json.loads(json.dumps(page_data([found])))
    text, picture = data["examples"][0]["texts"][0], found.pictures[0]
    upper = picture.cosines[np.triu_indices(len(WORDS), k=1)]
    np.testing.assert_array_equal(np.asarray(text["cosines"], dtype=np.float32), upper)  # to the last bit
    for column, weighing in zip(text["weights"], found.weighings, strict=True):
        np.testing.assert_allclose(column, weighing.by_text[0], rtol=1e-5)
    assert [pooler["name"] for pooler in data["poolers"]] == ["GLOT", "AdaPool", "mean", "CLS (first token)", "max"]
    for column, prediction in zip(text["effects"], found.predictions, strict=True):
        np.testing.assert_allclose(column, prediction.effects[0], rtol=1e-5)
    example = data["examples"][0]
    assert (example["label"], example["answers"][0]["answer"]) == ("yes", found.predictions[0].answer)
    marks = ["", *["context"] * 4, "negation", *["filler"] * 4, "noun", "stray", ""]
    assert [token["role"] for token in text["tokens"]] == marks


@pytest.mark.parametrize("generator", GENERATORS)
def test_the_signal_of_a_made_text_is_found(generator: str) -> None:
    for example in make_examples(generator, 0.5, 60, np.random.default_rng(0)):
        found = signal_roles(example.text.split())
        inside = [role for role in found if role not in ("", "stray")]
        first = found.index("context")
        assert found[first : first + len(inside)] == inside  # one phrase
        assert inside.count("noun") == 1
        assert ("negation" in inside) == (example.label == 0)
        assert inside.count("filler") == (0 if example.label and generator != "paired" else 10)
        if generator == "paired":
            assert found.count("stray") == example.label
    assert not any(signal_roles(["a", "text", "without", "any", "of", "it,", "not", "even", "a", "box"]))


def test_tokens_are_shown_as_words() -> None:
    def shown(*tokens: str) -> list[tuple[str, bool]]:
        special = [token.startswith(("[", "<s")) for token in tokens]
        return [(piece.shown, piece.glued) for piece in readable_pieces(tokens, special)]

    assert shown("[CLS]", "fold", "##er", "##s", "[SEP]") == [
        *(("[CLS]", False), ("fold", False), ("er", True), ("s", True), ("[SEP]", False))
    ]
    assert shown("<s>", "The", "Ġfold", "er", "ĠcafÃ©", "Ċ", "Ã") == [
        *(("<s>", False), ("The", False), ("fold", False), ("er", True), ("café", False), ("⏎", True), ("\\xc3", True))
    ]
    assert shown("<s>", "▁the", "▁fold", "er", "▁") == [
        *(("<s>", False), ("the", False), ("fold", False), ("er", True), ("␣", False))
    ]
    pieces = readable_pieces(["in", "the", "bo", "##x", "are", "key", "##s"], [False] * 7)
    assert roles(pieces) == ["context"] * 5 + ["noun"] * 2


def test_the_picture_shows_everything(explained: Callable, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib (extra: report)")
    from glot.report.explain import draw_explanation

    draw_explanation(explained(WORDS, HOSTILE, more=("adapool",)), tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes()[:4] == b"\x89PNG"


ALL_EDGES = "const all = document.getElementById('all'); if (!all.checked) all.click();"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture
def browse(tmp_path: Path) -> Callable[..., str]:
    """`browse(explanations, hash="", script="", width=1280)`: the page's elements after its scripts and then ours."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is installed")

    def dump(
        explanation: Explanation | list[Explanation], fragment: str = "", script: str = "", width: int = 1280
    ) -> str:
        page = tmp_path / "page.html"
        html = render_page(explanation if isinstance(explanation, list) else [explanation])
        page.write_text(html.replace("</body>", f"<script>{script}</script></body>"), "utf-8", "replace")
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'browser'}",
            f"--window-size={width},900",
        ]
        command = [browser, *flags, "--virtual-time-budget=5000", "--dump-dom", f"file://{page}{fragment}"]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout

    return dump


def drawn_edges(dom: str) -> list[int]:
    """Edges drawn in each text's graph: each is one move-to in the paths of its strength."""
    graphs = re.findall(r'<svg aria-hidden="true".*?</svg>', dom, flags=re.DOTALL)
    paths = [re.findall(r'class="edge" d="([^"]*)"', graph) for graph in graphs]
    return [sum(path.count("M") for path in some) for some in paths]


@pytest.mark.slow
def test_a_browser_draws_nodes_and_edges_by_tau(explained: Callable, browse: Callable) -> None:
    found = explained(WORDS, [*WORDS[1:], "end"], more=("adapool",))
    counts = []
    for tau in (0.3, 0.5, 0.7, 1.0, -1.0):
        dom = browse(found, "" if tau == 0.3 else f"#tau={tau}", ALL_EDGES)
        counts.append(drawn_edges(dom))
        expected = [picture.edges(tau)[0] for picture in found.pictures]
        assert counts[-1] == expected
        assert [int(number) for number in re.findall(r'data-edges="(\d+)"', dom)] == expected
    assert counts[0][0] > counts[1][0] > counts[2][0] > counts[3][0] == 0
    assert counts[4] == [78, 66 + 12]
    assert len(re.findall(r'<button type="button" class="token', dom)) == 2 * len(WORDS)
    assert len(re.findall(r"<figure>", dom)) == 2 * len(found.weighings)
    assert dom.count('class="heat"') == 2
    assert "First text" in dom


def test_keys_go_from_token_to_token(explained: Callable, browse: Callable) -> None:
    found = explained(WORDS, tau=-1.0)
    press = (
        "const all = document.querySelectorAll('.token'); all[0].focus(); all[0].dispatchEvent("
        "new KeyboardEvent('keydown', {key: 'ArrowRight', bubbles: true})); all[1].click();"
    )
    dom = browse(found, script=press + "document.title = String([...all].indexOf(document.activeElement));")
    assert "<title>1</title>" in dom
    chosen = re.search(r'<button type="button" class="token[^"]* on"[^>]*aria-description="([^"]*)".*?>in<', dom)
    assert chosen.group(1).startswith("token 2 of 13")
    detail = re.search(r'<p class="detail"[^>]*>(.*?)</p>', dom).group(1)
    nearest = np.argsort(-found.pictures[0].cosines[1])[1]
    assert "12 neighbours: “" + WORDS[nearest] in detail
    assert f"{found.pictures[0].cosines[1, nearest]:.2f}" in detail
    assert re.search(r'<p class="detail"[^>]*>(.*?)</p>', browse(found, "#token=1.2")).group(1) == detail
    freed = browse(
        found,
        "#token=1.2",
        "document.querySelectorAll('.token')[1].dispatchEvent(new KeyboardEvent("
        "'keydown', {key: 'Escape', bubbles: true}));",
    )
    assert "Point at a token" in freed


def test_a_narrow_page_does_not_scroll_sideways(explained: Callable, browse: Callable) -> None:
    found = explained([*WORDS * 4, *HOSTILE], ["x" * 300, "y"], more=("adapool",))
    measure = (
        "document.querySelectorAll('details').forEach((one) => { one.open = true; }); window.onload = () => {"
        "const page = document.documentElement; document.title = `beyond: ${page.scrollWidth - page.clientWidth}`; };"
    )
    dom = browse([found, found], script=measure, width=500)  # Chromium's narrowest
    assert "<title>beyond: 0</title>" in dom
    assert [dom.count(f'id="example-{number}"') for number in (1, 2, 3)] == [1, 1, 0]


LEGIBLE = """
const places = (name) => [...document.querySelectorAll(name)].map((one) => one.getBoundingClientRect());
const style = (name) => getComputedStyle(document.querySelector(name));
const hot = () => document.querySelector(".edge.hot").getAttribute("d");
const drawn = [hot()];
document.querySelectorAll(".token")[40].dispatchEvent(new PointerEvent("pointerenter", {pointerType: "mouse"}));
drawn.push(hot());
document.querySelector(".tokens").dispatchEvent(new PointerEvent("pointerleave", {pointerType: "mouse"}));
drawn.push(hot());
document.getElementById("all").click();
tell({arcs: [...document.querySelectorAll(".edge")].map((one) => one.getAttribute("d")).join(""),
  tokens: places(".token").map((one) => [one.left, one.right, one.top]), drawn,
  words: places(".token .word").map((one) => one.top), letters: parseFloat(style(".token .word").fontSize),
  numbers: parseFloat(style(".token .value").fontSize), behind: [style(".token .value"), style("body")].map(
  (one) => one.backgroundColor)});
"""


def test_128_tokens_are_legible_on_a_phone(explained: Callable, tmp_path: Path) -> None:
    """Lines of tokens in the window, arcs in the room above a line, numbers on a ground that covers the edges."""
    write_page([explained(WORDS * 9 + WORDS[:11], tau=-1.0)], tmp_path / "page.html")
    found = look(tmp_path / "page.html", tmp_path, LEGIBLE, width=390)
    left, right, top = np.array(found["tokens"]).T
    assert len(left) == 128
    assert left.min() >= 0
    assert right.max() <= 390
    assert len(set(top.round())) > 10
    assert found["letters"] >= 14
    assert found["numbers"] >= 11
    assert found["behind"][0] == found["behind"][1]
    assert [path.count("M") for path in found["drawn"]] == [0, 12, 0]  # while the mouse is on a token
    room = (np.array(found["words"]) - top).min()
    arcs = [list(map(float, re.findall(r"-?[\d.]+", arc))) for arc in found["arcs"].split("M")[1:]]
    assert len(arcs) == 120
    heights = [0.75 * (arc[1] - arc[3]) for arc in arcs if arc[1] == arc[-1]]  # of those that stay in a line
    assert 0 < max(heights) <= room


def test_a_token_with_many_neighbours_shows_the_strongest(explained: Callable, browse: Callable) -> None:
    found = explained(WORDS * 2, tau=-1.0)
    dom = browse(found, "#token=1.1")
    assert drawn_edges(dom) == [0]  # all edges only when asked for
    assert len(re.findall(r'class="token[^"]* near', dom)) == 12
    hot = re.search(r'class="edge hot" d="([^"]*)"', dom).group(1)
    assert hot.count("M") == 12
    assert "25 neighbours" in dom
    assert "and 13 weaker" in dom


def test_the_heat_map_answers_to_keys(explained: Callable, browse: Callable) -> None:
    found = explained(WORDS)
    keys = "map.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}));" * 2
    press = (
        "const closed = document.querySelector('details:has(.heat)'); closed.open = true; closed.ontoggle = () => {"
        f"const map = document.querySelector('.heat svg'); map.dispatchEvent(new Event('focus')); {keys} }};"
    )
    readout = re.search(r'class="readout">(.*?)</p>', browse(found, script=press)).group(1)
    assert f"“[CLS]” (1) and “box” (4): cosine {found.pictures[0].cosines[0, 3]:.4f}".replace("-", "−") in readout


def test_a_browser_shows_hostile_tokens_as_text(explained: Callable, browse: Callable) -> None:
    dom = browse(explained(HOSTILE))
    assert "<title>owned" not in dom
    assert "&lt;img src=x onerror=" in dom


def test_tokens_are_shaded_by_the_drawn_run_s_weights_or_by_their_effect(
    make_head_run: Callable, make_example: Callable, browse: Callable
) -> None:
    runs = open_runs([make_head_run("ada", pooler="adapool"), make_head_run("graph")])
    found = explain(make_example(WORDS), runs)
    dom = browse(found, script="document.title = document.getElementById('shades').selectedOptions[0].textContent;")
    assert re.search(r"<title>weight · GLOT · \S*/graph</title>", dom)
    weights = found.weighings[1].by_text[0]
    np.testing.assert_allclose(strengths(dom), 62 * np.sqrt(np.minimum(1, weights * len(WORDS) / 8)), atol=0.06)
    last = (
        "const by = document.getElementById('shades'); by.value = by.length - 1; by.dispatchEvent(new Event('change'));"
    )
    effects = found.predictions[1].effects[0]
    np.testing.assert_allclose(
        strengths(browse(found, script=last)), 62 * np.abs(effects) / abs(effects).max(), atol=0.06
    )


def test_a_run_of_scores_stands_beside_one_of_classes(
    make_head_run: Callable, make_example: Callable, browse: Callable
) -> None:
    found = explain(make_example(WORDS), open_runs([make_head_run("classes"), make_head_run("scores", scores=True)]))
    answers = re.findall(r'<section aria-label="Answer">(.*?)</section>', browse(found), flags=re.DOTALL)
    assert ["%" in answer for answer in answers] == [True, False]
    assert ["Towards " in answer for answer in answers] == [True, False]
    assert f"<strong>{found.predictions[1].answer}</strong>" in answers[1]
    best = int(found.predictions[1].effects[0].argmax())
    assert re.search(rf"Up: <span class=\"one\">“{re.escape(WORDS[best])}” <b>\+", answers[1])


def strengths(dom: str) -> list[float]:
    """How strongly each token of the graphs is shaded, in percent."""
    tokens = re.findall(r'<button type="button" class="token.*?</button>', dom, flags=re.DOTALL)
    return [float(re.search(r"--strength: ?([\d.]+)%", token).group(1)) for token in tokens]


def test_the_run_s_own_graph_can_be_left_for_the_cosines(explained: Callable, browse: Callable) -> None:
    found = explained(WORDS, graph="chain", tokens="content")
    dom = browse(found)
    assert drawn_edges(dom) == [10]
    assert "the run's own graph (chain)" in dom
    unticked = (
        "const box = document.getElementById('own'); box.checked = false; box.dispatchEvent(new Event('change'));"
    )
    assert drawn_edges(browse(found, script=ALL_EDGES + unticked)) == [found.pictures[0].edges(found.tau)[0]]
