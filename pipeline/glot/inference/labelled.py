"""What is asked of an evaluation of labelled rows, and what speaks against it, told before torch is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from glot.corpus.dialect import FIND_OUT, TableFormat
from glot.corpus.examples import Split
from glot.corpus.guess import Guess, NamedColumns, guess_labelled
from glot.corpus.labels import check_columns
from glot.corpus.tables import Table, read_split
from glot.errors import UsageError
from glot.fit.ensemble import find_labelling
from glot.fit.run_folder import RunConfig
from glot.inference.run_checks import check_new_labels, other_texts
from glot.registry.tasks import Columns
from glot.store.task_spec import TaskSpec

NONE_NAMED = NamedColumns()


@dataclass(frozen=True)
class LabelledFile:
    """A table (CSV, TSV, JSON lines, Parquet) of texts and labels.

    Attributes:
        path: the file. columns: those that are named; `trained`: those of the table that the run was trained on, if
            they are known, which stand in for the others (see `guess_labelled`).
        form: what is known of how it is written. bad_rows: "stop" at a row that is unfit on its own, or "skip" it.
    """

    path: Path
    columns: NamedColumns = NONE_NAMED
    form: TableFormat = FIND_OUT
    bad_rows: str = "stop"
    trained: Columns | None = None

    def find_columns(self, config: RunConfig, run: Path) -> Guess:
        """The columns, and which of them nobody named.

        Raises UsageError where the file or a column is missing, several could be the one, or the run takes another
        number of texts an example, or of labels.
        """
        text, text_b, _, _ = self.columns
        if (text_b is not None and config.texts_each == 1) or (text and not text_b and config.texts_each == 2):
            raise other_texts(run, config, bool(text_b))
        found = guess_labelled(self.path, self.columns, config.texts_each, self.form, self.trained)
        _check_kind(config.task, found.columns, run)
        return found

    def read(self, config: RunConfig, found: Guess) -> Split:
        """The rows as examples of a run's task, the file's name for the split's; all are labelled.

        Raises UsageError where a column or a label is missing, or a label is none of the run's classes (the line or row
        is named).
        """
        table = Table(self.path, found.columns, bad_rows=self.bad_rows, form=found.form)
        table.check()
        return read_split(self.path.name, config.task, table)


def _check_kind(task: TaskSpec, columns: Columns, run: Path) -> None:
    """Raise UsageError where a run gives several labels a text and the columns hold one, and reversed."""
    check_columns(columns)
    several = task.target == "labels"
    if several and not columns.has_several:
        raise UsageError(
            f"{run} was trained for several labels a text: name a column for each with --label "
            f"{','.join(task.classes)}, or what stands between them in one with --label-separator"
        )
    if columns.has_several and not several:
        raise UsageError(f"{run} was trained for one label a text: name one column, and leave --label-separator out")
    if columns.separator is None and several and sorted(columns.labels) != sorted(task.classes):
        raise UsageError(f"{run} was trained for the labels {','.join(task.classes)}: name the column of each")


@dataclass(frozen=True)
class EvaluateOptions:
    """How the backbone of a run is found and run, see `GlotModel.load`.

    Attributes:
        yardsticks: compare with the regression on the mean, where the run's own cache is still there.
    """

    model: str | None = None
    device: str | None = None
    trust_remote_code: bool = False
    engine: str = "auto"
    backend: str = "auto"
    yardsticks: bool = True


def check_labelled(
    folders: Sequence[Path], labelled: LabelledFile, model: str | None = None
) -> tuple[list[Path], Split, str]:
    """The runs and ensembles in some folders, each by itself, and the rows that they are to be scored on.

    The last tells people which columns were found that nobody named: "" where there is nothing to say.

    Raises UsageError where there is none, their backbone (or `model`) is missing, they do not go together, or the rows
    cannot be read as examples of their task.
    """
    found = [one for folder in folders for one in find_labelling(folder)]
    runs = [check_new_labels(folder, model) for folder in found]
    first = runs[0]
    for run in runs[1:]:
        first.config.check_states(run.config.states, str(run.folder))
        asked = [(one.config.task.target, one.config.task.classes, one.config.texts_each) for one in (first, run)]
        if asked[0] != asked[1]:
            raise UsageError(f"{first.folder} and {run.folder} do not go together: they were trained for other labels")
    columns = labelled.find_columns(first.config, first.folder)
    said = columns.found and f"{labelled.path.name}: {columns.found}"
    return found, labelled.read(first.config, columns), said
