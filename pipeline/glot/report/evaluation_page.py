"""The page of one head on labelled rows: the answer first, then what it rests on. One file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glot.errors import UsageError
from glot.fit.curve import LearningCurve
from glot.fit.doubts import Doubts, Duplicate
from glot.fit.evaluation import Evaluation, TokenWeights
from glot.fit.statistics import Interval
from glot.fit.yardsticks import Judgement, describe_interval
from glot.report.environment import Environment
from glot.report.evaluation_figures import Growth, Ranges, Reliability, Residuals, Scatter
from glot.report.figures import Panel, Picture, check_extra, render
from glot.report.pieces import readable_pieces
from glot.report.write import environment_facts, load_templates, read_style
from glot.store.files import make_folder, write_text
from glot.store.task_spec import metric_in_words
from glot.version import __version__

if TYPE_CHECKING:
    from markupsafe import Markup

PLOT_WIDTH = 3.6  # inches: beside another on a screen, and as wide as a phone
MOST_CLASSES = 15  # of a confusion matrix; of more the commonest confusions stand for it
MOST_CONFUSIONS = 10
MOST_DOUBTS = 100
NAMES = {"accuracy": "accuracy", "f1": "F1", "macro_f1": "macro F1", "mcc": "Matthews correlation"}
NAMES |= {"micro_f1": "micro F1", "macro_label_f1": "macro F1 of the labels", "exact_match": "exact matches"}
NAMES |= {"spearman": "Spearman correlation", "pearson": "Pearson correlation"}


@dataclass(frozen=True)
class Page:
    """What a page shows; all but the evaluation may be None, and is left out then.

    Attributes:
        evaluation: of the head on the scored rows.
        name: of the run, for the title.
        duplicates: scored rows that train has too; () where somebody looked and there are none.
        doubts: training labels that are likely wrong.
        curve: scores over the number of training examples.
        counts: name of a set -> its examples by class, in the classes' order; of scores the number alone.
        settings: (name, value) of the run.
        environment: what the page was made with.
        answers_file: the name of the file beside the page that has every answer; "" where there is none.
    """

    evaluation: Evaluation
    name: str = ""
    duplicates: Sequence[Duplicate] | None = None
    doubts: Doubts | None = None
    curve: LearningCurve | None = None
    counts: Mapping[str, Sequence[int]] | None = None
    settings: Sequence[tuple[str, str]] | None = None
    environment: Environment | None = None
    answers_file: str = ""


def write_page(path: Path, page: Page) -> None:
    """Write the page; it is there whole or not at all.

    Raises UsageError where `path` is a folder or a package of the extra `report` is missing, FaultError where it cannot
    be written.
    """
    check_extra()
    if path.is_dir():
        raise UsageError(f"{path} is a folder: name a file")
    make_folder(path.parent)
    write_text(path, render_page(page))


def render_page(page: Page) -> str:
    """The page's HTML. Names and texts of the data are escaped."""
    from markupsafe import Markup

    evaluation, number = page.evaluation, iter(range(100))

    def plot(panel: Panel) -> Markup:
        drawn = render(Picture(panel.title, [panel], width=PLOT_WIDTH, titled=False), next(number))
        return Markup(drawn.svg)

    templates = load_templates(Path(), {})
    classes = evaluation.scored.task.classes
    names = {metric: metric_in_words(metric, classes, name) for metric, name in NAMES.items()}
    facts: dict[str, Any] = {
        "page": page,
        "found": evaluation,
        "task": evaluation.scored.task,
        "first": evaluation.judgements[0],
        "style": Markup(read_style("report.css") + read_style("evaluation.css")),
        "version": __version__,
        "names": names,
        "ranges": plot(_ranges(evaluation.judgements[0])),
        "plots": [plot(panel) for panel in _score_panels(evaluation)],
        "reliability": None if evaluation.calibration is None else plot(_reliability(evaluation)),
        "growth": None
        if page.curve is None or not page.curve.points
        else plot(Growth("Score over training examples", page.curve)),
        "confusions": _confusions(evaluation),
        "most_classes": MOST_CLASSES,
        "most_doubts": MOST_DOUBTS,
        "environment": [] if page.environment is None else environment_facts(page.environment),
    }
    filters: dict[str, Any] = {
        "percent": lambda value: f"{100 * value:.1f}",
        "signed": lambda value: f"{round(100 * value, 1) + 0.0:+.1f}".replace("-", "−"),
        "shaded": shaded,
        "count": lambda value: f"{value:,}",
    }
    templates.filters |= filters
    return templates.get_template("evaluation.html.jinja").render(**facts)


def shaded(found: TokenWeights) -> list[tuple[str, float, bool]]:
    """The pieces of a text for people, its weight over the largest of them in steps of 0.05, whether it is glued.

    The tokenizer's own tokens are left out.
    """
    pieces = readable_pieces(found.tokens, found.special)
    shown = [place for place, special in enumerate(found.special) if not special]
    most = max((found.weights[place] for place in shown), default=0.0) or 1.0
    return [(pieces[place].shown, round(20 * found.weights[place] / most) / 20, pieces[place].glued) for place in shown]


def _ranges(judgement: Judgement) -> Ranges:
    rows = [("this head", 100 * judgement.score.value, _ends(judgement.score), describe_interval(judgement.score))]
    rows += [(name, 100 * value, None, f"{100 * value:.1f}") for name, value in judgement.yardsticks.items()]
    return Ranges("This head beside methods of no effort", f"{NAMES[judgement.metric]}, %", rows)


def _ends(score: Interval) -> tuple[float, float] | None:
    return None if score.low is None or score.high is None else (100 * score.low, 100 * score.high)


def _score_panels(evaluation: Evaluation) -> list[Panel]:
    if evaluation.residuals is None:
        return []
    labels, answers = evaluation.scored.labels, evaluation.scored.answers
    return [Scatter("Answers over labels", labels, answers), Residuals("How far off", answers - labels)]


def _reliability(evaluation: Evaluation) -> Reliability:
    assert evaluation.calibration is not None
    series = [("as it is", evaluation.calibration)]
    if evaluation.scaling is not None:
        series.append((f"at temperature {evaluation.scaling.temperature:.2f}", evaluation.scaling.after))
    return Reliability("Calibration", series)


def _confusions(evaluation: Evaluation) -> list[tuple[str, str, int]]:
    """The commonest (label, answer) that are not the same, and how often."""
    names = evaluation.scored.task.classes
    found = [
        (names[row], names[column], count)
        for row, counts in enumerate(evaluation.confusion)
        for column, count in enumerate(counts)
        if count and row != column
    ]
    return sorted(found, key=lambda one: -one[2])[:MOST_CONFUSIONS]
