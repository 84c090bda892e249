"""The page of an evaluation, of made answers: what it says first, what it leaves out, what it escapes."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import classification_report, confusion_matrix, log_loss

pytest.importorskip("matplotlib", reason="pages need the extra report")

from matplotlib.figure import Figure

from glot.errors import UsageError
from glot.fit.doubts import Doubt, Doubts, Duplicate
from glot.fit.evaluation import Scored, TokenWeights, evaluate
from glot.fit.yardsticks import Yardstick
from glot.report.evaluation_figures import Residuals, Scatter
from glot.report.evaluation_page import MOST_CLASSES, Page, shaded, write_page
from glot.store.task_spec import TaskSpec
from tests.report.test_page import Page as Parsed


def made(classes: int, right: float, rival: float) -> Page:
    """Answers to 400 examples, of which shares of the head and of the regression are right."""
    random = np.random.default_rng(0)
    names = tuple(f"<b>class {number}</b>" for number in range(classes))
    task = TaskSpec("made", 1, "classes", names, metrics=("accuracy", "macro_f1"))
    labels = random.integers(0, classes, 400)
    answers, theirs = (
        np.where(np.arange(400) < 400 * share, labels, (labels + 1) % classes) for share in (right, rival)
    )
    shares = np.full((400, classes), 0.2 / classes) + 0.8 * np.eye(classes)[answers]
    scored = Scored("held.csv", task, labels, shares, None, [("a & b <script>",)] * 400)
    return Page(evaluate(scored, [Yardstick("logistic regression on the mean", {"held.csv": theirs}, 9, 9, 1)]), "made")


@pytest.mark.parametrize(
    ("right", "rival", "said"), [(0.8, 0.5, "Clearly better"), (0.5, 0.8, "Clearly worse"), (0.8, 0.8, "Not clearly")]
)
def test_the_answer_comes_first(tmp_path: Path, right: float, rival: float, said: str) -> None:
    write_page(tmp_path / "page.html", made(3, right, rival))
    text = Parsed(tmp_path / "page.html").text
    body = text[text.index("Skip to the parts") :]
    assert body.index(f"{100 * right:.1f} %") < body.index(said) < body.index("Scores")
    assert f"{said} better than the logistic regression" in body or f"{said} than the logistic regression" in body
    assert f"which has {100 * rival:.1f} %" in body


def rows_of(page: Path, part: str) -> dict[str, list[str]]:
    """The tables of a part of the page: the heading of each row -> its cells, shares of a row left out."""
    html = page.read_text(encoding="utf-8")
    (section,) = re.findall(rf'<section id="{part}".*?</section>', html, re.DOTALL)
    section = re.sub(r"<small>.*?</small>", "", section)
    found: dict[str, list[str]] = {}
    for name, cells in re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', section, re.DOTALL):
        found.setdefault(name, []).extend(re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<td.*?</td>", cells))
    return found


def test_of_two_regressions_the_better_one_is_the_rival(tmp_path: Path) -> None:
    """Which need not be the one that stands last."""
    scored = made(3, 0.8, 0.5).evaluation.scored
    theirs = {
        name: np.where(np.arange(400) < 400 * share, scored.labels, (scored.labels + 1) % 3)
        for name, share in (("on the mean", 0.75), ("on the mean of layer 4", 0.7))
    }
    yardsticks = [Yardstick("majority", {"held.csv": np.zeros(400, dtype=np.int64)}, 9, 9, None)]
    yardsticks += [Yardstick(f"logistic regression {name}", {"held.csv": its}, 9, 9, 1) for name, its in theirs.items()]
    write_page(tmp_path / "page.html", Page(evaluate(scored, yardsticks), "made"))
    shown = rows_of(tmp_path / "page.html", "scores")
    assert shown["this head minus the better regression"][0].startswith("+5.0")
    text = Parsed(tmp_path / "page.html").text
    assert "Clearly better than the logistic regression on the mean, which has 75.0" in text
    assert "Its layer is the one that cross-validation" in text


def test_the_tables_are_scikit_learn_s(tmp_path: Path) -> None:
    """Of each class precision, recall, F1 and support, then its row of the confusion matrix; and calibration."""
    page = made(3, 0.8, 0.5)
    scored, classes = page.evaluation.scored, list("abc")
    scored = replace(scored, task=TaskSpec("made", 1, "classes", tuple(classes), metrics=("accuracy",)))
    labels, answers = scored.labels, scored.estimates.argmax(axis=1)
    turned = np.where(np.arange(400) % 4 == 0, (labels + 1) % 3, labels)
    aside = replace(scored, source="validation", labels=turned)  # on which the head is too sure of itself
    found = evaluate(scored, held_out=aside)
    write_page(tmp_path / "page.html", Page(found))
    report = classification_report(labels, answers, target_names=classes, output_dict=True)
    matrix = confusion_matrix(labels, answers)
    shown = rows_of(tmp_path / "page.html", "classes")
    for place, name in enumerate(classes):
        shares = [f"{100 * report[name][part]:.1f}" for part in ("precision", "recall", "f1-score")]
        expected = [*shares, f"{report[name]['support']:.0f}", *map(str, matrix[place])]
        assert shown[name][:7] == expected
    shown = rows_of(tmp_path / "page.html", "calibration")
    assert found.scaling is not None
    raised = scored.estimates ** (1 / found.scaling.temperature)
    scaled = raised / raised.sum(axis=1, keepdims=True)
    for name, shares in (
        ("as they are", scored.estimates),
        (f"at temperature {found.scaling.temperature:.2f}", scaled),
    ):
        assert shown[name][1] == f"{log_loss(labels, shares):.3f}"
    assert shown["as they are"] != shown[f"at temperature {found.scaling.temperature:.2f}"]
    text = Parsed(tmp_path / "page.html").text
    assert re.search(r"Calibration: as it is, .* points; at temperature \d\.\d\d, .* points", text)  # of the picture


def test_scores_have_a_scatter_and_residuals(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    labels = random.uniform(0, 5, 60)
    answers = labels + random.normal(0.2, 0.3, 60)
    task = TaskSpec("made", 1, "score", score_range=(0.0, 5.0), metrics=("spearman",))
    write_page(tmp_path / "page.html", Page(evaluate(Scored("held.csv", task, labels, answers))))
    text = Parsed(tmp_path / "page.html").text
    assert "Answers over labels: 60 examples" in text
    assert f"the median {np.median(answers - labels):.2f}" in text
    assert f"mean error {(answers - labels).mean():+.4g}" in text
    scatter, residuals = Figure().subplots(1, 2)
    Scatter("", labels, answers).draw(scatter, {})
    points = np.asarray(scatter.collections[0].get_offsets())
    np.testing.assert_allclose(points[points[:, 0].argsort()], np.stack([labels, answers], axis=1)[labels.argsort()])
    Residuals("", answers - labels).draw(residuals, {})
    bars = residuals.patches
    assert sum(bar.get_height() for bar in bars) == 60
    expected = np.histogram(answers - labels, [bar.get_x() for bar in bars] + [bars[-1].get_x() + bars[-1].get_width()])
    assert [bar.get_height() for bar in bars] == expected[0].tolist()


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", made(2, 0.9, 0.5))
    page = Parsed(tmp_path / "page.html")
    for title in ("Training labels", "Rows that train has too", "Is more data", "The data", "Settings", "Environment"):
        assert title not in page.text
    assert "script" not in page.tags
    assert "a & b <script>" in page.text  # as text, and nothing else
    anchors = [value for tag, name, value in page.attributes if (tag, name) == ("a", "href")]
    ids = {value for _, name, value in page.attributes if name == "id"}
    assert {anchor.removeprefix("#") for anchor in anchors} <= ids


def test_of_which_class_the_f1_is(tmp_path: Path) -> None:
    task = TaskSpec("made", 1, "classes", ("ham", "spam"), metrics=("f1", "accuracy"))
    labels = np.arange(40) % 2
    write_page(tmp_path / "page.html", Page(evaluate(Scored("held.csv", task, labels, np.eye(2)[labels]))))
    assert "F1 of spam on 40 rows of held.csv" in Parsed(tmp_path / "page.html").text


def test_many_classes_have_no_matrix(tmp_path: Path) -> None:
    for classes in (MOST_CLASSES, MOST_CLASSES + 1):
        write_page(tmp_path / "page.html", made(classes, 0.8, 0.5))
        text = Parsed(tmp_path / "page.html").text
        assert ("Confusion matrix" in text) == (classes == MOST_CLASSES)
        assert "The commonest confusions" in text


def test_doubts_and_duplicates(tmp_path: Path) -> None:
    page = made(2, 0.9, 0.5)
    doubts = Doubts(40, (Doubt(7, ("an odd text",), "no", "yes", 0.1, 0.9),), 0.625)
    doubled = (Duplicate(1, 2, ("a doubled text",), "no", "yes"),)
    write_page(tmp_path / "page.html", Page(page.evaluation, duplicates=doubled, doubts=doubts))
    text = Parsed(tmp_path / "page.html").text
    assert "1 of 40 training labels is in doubt" in text
    assert "It is right on 62.5 % of all" in text.replace("\xa0", " ")
    assert "the regression says yes 90.0 % training row 7 an odd text" in text
    assert "one of which stands in the training data too" in text
    assert "row 1, training row 2 a doubled text" in text


def test_doubts_of_several_labels_take_a_line_each(tmp_path: Path) -> None:
    task = TaskSpec("made", 1, "labels", ("bug", "docs"), metrics=("micro_f1",))
    shares = np.random.default_rng(0).random((40, 2))
    scored = Scored("held.csv", task, np.arange(40) % 4, shares, None, [("a text",)] * 40, np.full(2, 0.5))
    missing = Doubt(7, ("an odd text",), "docs", "bug, docs", 0.1, 0.9, "bug", True)
    wrong = Doubt(7, ("an odd text",), "docs", "none", 0.2, 0.8, "docs", False)
    for found, said in (
        ((missing, wrong), "2 labels of 40 training texts are"),
        ((wrong,), "1 label of 40 training texts is"),
    ):
        write_page(tmp_path / "page.html", Page(evaluate(scored), doubts=Doubts(40, found)))
        text = Parsed(tmp_path / "page.html").text
        assert f"{said} in doubt" in text
        assert ("bug is missing? labels: docs the regression gives it 90.0 % training row 7" in text) == (
            len(found) == 2
        )
        assert "docs is wrong? labels: docs the regression gives it 20.0 % training row 7 an odd text" in text
    write_page(tmp_path / "page.html", Page(evaluate(scored), doubts=Doubts(40, ())))
    assert "None of the labels of 40 training texts is in doubt" in Parsed(tmp_path / "page.html").text


def test_words_are_shaded_by_what_they_weigh() -> None:
    found = TokenWeights(("[CLS]", "un", "##do", "it"), (True, False, False, False), (0.6, 0.2, 0.1, 0.1))
    assert shaded(found) == [("un", 1.0, False), ("do", 0.5, True), ("it", 0.5, False)]


def test_a_page_is_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder: name a file"):
        write_page(tmp_path, made(2, 0.9, 0.5))
