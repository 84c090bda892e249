"""What `glot train` ends with, and how it lies in the folder: for those who go on, and for those who run it again."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from glot.errors import FaultError, UsageError
from glot.fit.statistics import Difference, Interval
from glot.registry.tasks import Columns
from glot.store.files import read_versioned, write_json
from glot.store.task_spec import TaskSpec

VERSION = 1
RESULT_FILE, PREDICTIONS_FILE, PAGE_FILE, CARD_FILE = "result.json", "predictions.csv", "report.html", "README.md"
DOUBTS_FILE = "doubts.csv"


@dataclass(frozen=True)
class Score:
    """A score on untouched rows, by one metric, beside what it is measured by; all are fractions.

    Attributes:
        score: with its 95 % interval. yardsticks: name -> score.
        rival: the regression that scores best on these rows; difference: the score less the rival's.
        line, verdict: both for people.
    """

    metric: str
    score: Interval
    yardsticks: dict[str, float]
    rival: str | None
    difference: Difference | None
    line: str
    verdict: str | None


@dataclass(frozen=True)
class ByClass:
    """One class, or label, of the untouched rows: how good its answers are, as fractions, and how many rows have it.

    `threshold` is the probability above which a row gets it, where one may have several.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    threshold: float | None = None


@dataclass(frozen=True)
class Trained:
    """A folder that `glot train` has finished.

    Attributes:
        folder: the run itself (for `--run`), with the cache, the predictions, the page and the card in it.
        model: what the backbone goes by. task, columns: of the table.
        rows: set -> how many. labels: set -> what they are, for people. untouched: which rows were scored.
        scores: on those, a metric each; the first is the one that counts. classes: each by itself; none of scores.
        settings: of the head, for people. searched: how many candidates the search tried; 0 without one.
        seconds: what was done -> how long it took, in the end.
        files: what lies in the folder for people, by name.
    """

    folder: Path
    model: str
    task: TaskSpec
    columns: Columns
    rows: dict[str, int]
    labels: dict[str, str]
    untouched: str
    scores: tuple[Score, ...]
    classes: tuple[ByClass, ...]
    settings: str
    searched: int
    seconds: dict[str, float]
    files: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A plain dict, as `result.json` has it."""
        return {"version": VERSION, **asdict(self), "folder": str(self.folder), "task": self.task.to_json()}

    def save(self) -> None:
        """Write `result.json` atomically."""
        write_json(self.folder / RESULT_FILE, self.to_json())

    @classmethod
    def load(cls, folder: Path) -> Trained | None:
        """Read it; None where a file that it names is gone. Raises FaultError where it is damaged."""
        found = cls._read(folder)
        return found if all((folder / name).exists() for name in found.files) else None

    @classmethod
    def columns_of(cls, folder: Path) -> Columns | None:
        """The columns of the table that a run was trained on, where `glot train` recorded them; else None."""
        try:
            return cls._read(folder).columns
        except (UsageError, FaultError):  # not made by it, or damaged: the head is whole
            return None

    @classmethod
    def _read(cls, folder: Path) -> Trained:
        def build(data: dict[str, Any]) -> Trained:
            values = {name: value for name, value in data.items() if name != "version"}
            values |= {
                "folder": folder,
                "task": TaskSpec.from_json(data["task"]),
                "columns": Columns(**data["columns"]),
            }
            values |= {"files": tuple(data["files"]), "scores": tuple(map(_score, data["scores"]))}
            values["classes"] = tuple(ByClass(**one) for one in data["classes"])
            return cls(**values)

        return read_versioned(folder / RESULT_FILE, VERSION, build, "; remove it and run `glot train` again")


def _score(data: dict[str, Any]) -> Score:
    difference = data["difference"] and Difference(**data["difference"])
    return Score(**{**data, "score": Interval(**data["score"]), "difference": difference})
