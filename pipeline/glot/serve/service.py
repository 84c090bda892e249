"""What a loaded run answers to rows of texts, and what it asks of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glot.errors import UsageError
from glot.serve.batcher import Call, Row
from glot.store.label_sets import to_names
from glot.store.template import takes_pair
from glot.version import __version__

if TYPE_CHECKING:
    from glot.inference.model import GlotModel

Answer = dict[str, Any]


@dataclass(frozen=True)
class Offer:
    """One thing that a run is asked for.

    Attributes:
        call: gives an answer a row.
        texts_each: 1, or 2 where a row is a pair.
        refusal: why this run has none; "" where it has.
    """

    call: Call
    texts_each: int
    refusal: str

    def rows(self, texts: Sequence[str], texts_b: Sequence[str] | None) -> list[Row]:
        """The rows of texts; raises UsageError where this run does not answer them, or not them."""
        if self.refusal:
            raise UsageError(self.refusal)
        if self.texts_each == 2 and texts_b is None:
            raise UsageError("this takes pairs: pass the second texts as texts_b")
        if self.texts_each == 1 and texts_b is not None:
            raise UsageError("this takes one text at a time: leave out texts_b")
        if texts_b is not None and len(texts) != len(texts_b):
            raise UsageError(f"{len(texts)} texts and {len(texts_b)} texts_b make no pairs")
        return list(zip(texts, strict=True)) if texts_b is None else list(zip(texts, texts_b, strict=True))


@dataclass(frozen=True)
class Facts:
    """What a server says of itself.

    Attributes:
        ready: True: it listens when the model is loaded.
        run, backbone: their folder and name. task: its name.
        width: D of a vector; None where there is none. classes: their names; None where the task is a score.
        texts_each: 2 where `texts_b` is asked for by /predict. version: of glot.
    """

    ready: bool
    run: str
    backbone: str
    task: str
    width: int | None
    classes: list[str] | None
    texts_each: int
    version: str


class Service:
    """A loaded run: labels or scores, vectors, and facts.

    Attributes:
        predict, encode: what it is asked for. facts: see there.
    """

    def __init__(self, model: GlotModel, run: Path) -> None:
        self.model, config = model, model.config
        self.predict = Offer(self._predict, config.texts_each, _refusal(lambda: config.check_predicts("this run")))
        no_vectors = _refusal(lambda: model.width)
        self.encode = Offer(self._encode, 2 if takes_pair(config.states.template) else 1, no_vectors)
        self.facts = Facts(
            ready=True,
            run=str(run),
            backbone=model.backbone.name,
            task=config.task.name,
            width=None if no_vectors else model.width,
            classes=list(config.task.classes) or None,
            texts_each=config.texts_each,
            version=__version__,
        )

    def _predict(self, rows: Sequence[Row]) -> list[Answer]:
        """As `glot predict` has it: a label, or the labels, and each probability; or the score."""
        columns, task = list(map(list, zip(*rows, strict=True))), self.model.config.task
        if not task.classes:
            return [{"score": round(float(score), 6)} for score in self.model.predict(*columns)]
        answers: list[Answer] = []
        found = self.model.predict_proba(*columns)
        for shares, answer in zip(found, self.model.answers(found).tolist(), strict=True):
            several = task.target == "labels"
            said = {"labels": list(to_names(answer, task.classes))} if several else {"label": task.classes[answer]}
            each = {name: round(float(share), 6) for name, share in zip(task.classes, shares, strict=True)}
            answers.append({**said, "probabilities": each})
        return answers

    def _encode(self, rows: Sequence[Row]) -> list[list[float]]:
        """The vector of each row, D numbers."""
        return self.model.encode(*map(list, zip(*rows, strict=True))).tolist()


def _refusal(ask: Callable[[], object]) -> str:
    """The line that a run refuses something with; "" where it does not."""
    try:
        ask()
    except UsageError as error:
        return str(error)
    return ""
