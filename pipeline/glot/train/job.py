"""What `glot train` is asked for, and what speaks against it: before torch or a model is loaded. Start at `prepare`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from glot.corpus.dialect import FIND_OUT, TableFormat
from glot.corpus.examples import Corpus, Split, labels_or_nan
from glot.corpus.formats import A_TABLE
from glot.corpus.guess import guess_columns
from glot.corpus.lines import check_file
from glot.corpus.load import load_table
from glot.corpus.request import OWN_MAX_TOKENS, check_name, table_name
from glot.corpus.text_folder import content_sha256
from glot.errors import UsageError
from glot.extract.folders import check_source
from glot.extract.options import ExtractOptions, check_engine
from glot.extract.source import ModelSource, resolve_model
from glot.fit.study import FEWEST
from glot.registry.tasks import Columns
from glot.store.files import check_parent, holds_something, is_unfinished, read_versioned, write_json
from glot.train.result import RESULT_FILE, Trained

VERSION = 1
JOB_FILE, CACHE_FOLDER, STUDY_FOLDER = "train.json", "cache", "tune"
CLAIM = "train"  # of the process that works in a folder
KEPT_ASIDE = 0.2  # of the rows, where no file holds others: the more they are, the surer the score
_SHOWN = 5  # classes in a remark
TEST = "test"  # the set that nothing is trained on or chosen by


@dataclass(frozen=True)
class TrainRequest:
    """What a user asks for; None means not given.

    Attributes:
        data: the table (see `load_table`). model: see `resolve_model`.
        text, text_b, label: columns; those that are not named must be the obvious ones (see `guess_columns`).
        test: a table of other rows, with labels, to score on; None keeps a fifth of `data` aside.
        minutes: of search for the settings; None trains the preset "strong".
        out: the folder of everything; None: runs/NAME-MODEL.
        target: "classes" or "score", whatever the labels look like.
        max_tokens: where texts are cut. bad_rows: "stop" or "skip". form: how the tables are written.
        label_separator: between the labels in the column `label`, where a text may have several.
        device, engine, trust_remote_code: of the backbone, see `ExtractOptions`.
    """

    data: Path
    model: str
    text: str | None = None
    text_b: str | None = None
    label: str | None = None
    test: Path | None = None
    minutes: float | None = None
    out: Path | None = None
    target: str | None = None
    max_tokens: int | None = None
    bad_rows: str = "stop"
    form: TableFormat = FIND_OUT
    device: str | None = None
    engine: str = "auto"
    trust_remote_code: bool = False
    label_separator: str | None = None


@dataclass(frozen=True)
class Job:
    """A request that nothing speaks against.

    Attributes:
        source: where the backbone is. columns: of the table; `found` says which of them nobody named.
        folder: of everything. asked: what is kept of the request, so that only the same command goes on in the folder.
        corpus: the rows as "train" and "test"; None where the folder holds the result already.
        done: that result.
    """

    request: TrainRequest
    source: ModelSource
    columns: Columns
    found: str
    folder: Path
    asked: dict[str, Any]
    corpus: Corpus | None
    done: Trained | None

    @property
    def options(self) -> ExtractOptions:
        """How states are made: of all layers, for the head mixes them."""
        request = self.request
        return ExtractOptions(
            max_tokens=request.max_tokens,
            usual_tokens=OWN_MAX_TOKENS,
            layers=None,
            device=request.device,
            engine=request.engine,
            trust_remote_code=request.trust_remote_code,
        )

    @property
    def untouched(self) -> str:
        """Which rows nothing is trained on or chosen by, for people."""
        if self.request.test is not None:
            return f"the rows of {self.request.test.name}"
        return f"a fifth of the rows of {self.request.data.name}, each label in proportion, kept aside before all else"

    @property
    def scored_file(self) -> str:
        """The file of these rows, for people."""
        return self.request.test.name if self.request.test is not None else f"{self.request.data.name} kept aside"

    def split(self, name: str) -> Split:
        """The rows of a set."""
        assert self.corpus is not None  # of a job that is not done
        return self.corpus.splits[name]

    @property
    def unscored(self) -> str:
        """The classes of which no row is scored, in words; "" where there is none."""
        assert self.corpus is not None  # of a job that is not done
        task = self.corpus.spec
        if task.target != "classes":
            return ""
        trained, scored = (
            np.bincount(labels_or_nan(self.corpus.splits[name].examples).astype(int), minlength=len(task.classes))
            for name in ("train", TEST)
        )
        lacking = [f"{task.classes[at]!r} ({trained[at]:,} to train on)" for at in np.flatnonzero(scored == 0)]
        if not lacking:
            return ""
        more = [f"and {len(lacking) - _SHOWN:,} more"] if len(lacking) > _SHOWN else []
        shown = ", ".join([*lacking[:_SHOWN], *more])
        return f"no row is scored of {shown}: how good the answers are there stays unknown"

    def begin(self) -> None:
        """Make the folder this job's, where nothing was made in it yet."""
        if _is_bare(self.folder):
            write_json(self.folder / JOB_FILE, {"version": VERSION, "asked": self.asked})


def prepare(request: TrainRequest) -> Job:
    """Look at everything that a request names, and read its rows.

    Raises UsageError where a file, a column, a label or the model is missing or wrong, the folder holds something else,
    or what the search needs is not installed.
    """
    source = resolve_model(request.model)
    check_source(source, request.trust_remote_code)
    check_engine(request.engine)
    if request.minutes is not None and find_spec("optuna") is None:
        raise UsageError("--minutes searches with Optuna: pip install 'glot-pipeline[tune]', or leave --minutes out")
    guess = guess_columns(
        request.data, request.text, request.text_b, request.label, request.form, request.label_separator
    )
    name = check_name(table_name(request.data, None))
    folder = request.out or Path("runs") / f"{name}-{source.name}"
    asked = _asked(request, source, guess.columns)  # before how it is written was found: naming columns changes nothing
    request = replace(request, form=guess.form)
    done = _check_folder(folder, asked)
    corpus = None if done is not None else _read(request, guess.columns)
    return Job(request, source, guess.columns, guess.found, folder, asked, corpus, done)


def _read(request: TrainRequest, columns: Columns) -> Corpus:
    corpus = load_table(
        request.data,
        None,
        columns.text,
        columns.text_b,
        columns.label,
        request.test,
        bad_rows=request.bad_rows,
        share=KEPT_ASIDE,
        form=request.form,
        target=request.target,
        held=TEST,
        separator=columns.separator,
    )
    count = len(corpus.splits["train"].examples)
    if request.minutes is not None and count < FEWEST:
        raise UsageError(
            f"{count} rows to train on are too few for a search, which needs {FEWEST}: leave --minutes out"
        )
    return corpus


def _asked(request: TrainRequest, source: ModelSource, columns: Columns) -> dict[str, Any]:
    """What a folder is made of, as JSON: files by their content, so that one that changed is another."""
    files = {"data": request.data, "test": request.test}
    told = {name: path and [path.name, _digest(path)] for name, path in files.items()}
    names = ("minutes", "target", "max_tokens", "bad_rows")
    return {
        **told,
        "model": source.spec,
        "columns": [value for name, value in asdict(columns).items() if name != "separator" or value is not None],
        **{name: getattr(request, name) for name in names},
        "format": list(asdict(request.form).values()),
    }


def _digest(path: Path) -> str:
    if not path.is_dir():
        check_file(path, A_TABLE)
    return content_sha256(path)


def _check_folder(folder: Path, asked: dict[str, Any]) -> Trained | None:
    """The result that lies in a folder, None where it is still to be made.

    Raises UsageError where the folder holds something else, or what another request made.
    """
    path = folder / JOB_FILE
    if not path.exists():
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"{folder} is a file: choose another place with --out")
        if folder.exists() and holds_something(folder):
            raise UsageError(f"{folder} is not empty, and not made by `glot train`: choose another folder with --out")
        check_parent(folder)
        return None
    there = read_versioned(path, VERSION, lambda data: data.get("asked", {}))
    if _is_bare(folder):
        return None  # that request was refused, or stopped, before it made anything
    for name, value in asked.items():
        if there.get(name) != value:
            raise UsageError(
                f"{folder} was made with other {name} ({_shown(there.get(name))} there, {_shown(value)} here): choose "
                "another folder with --out"
            )
    return Trained.load(folder) if (folder / RESULT_FILE).exists() else None


def _is_bare(folder: Path) -> bool:
    """Whether a folder of a job holds nothing that was made for it: the request at most, and who is at it."""
    return {path.name for path in folder.iterdir() if not is_unfinished(path)} <= {JOB_FILE, f"{CLAIM}.claim"}


def _shown(value: Any) -> str:
    """A setting for people: of a file its name and the beginning of its digest, of several what is given of them."""
    if isinstance(value, list) and len(value) == 2 and len(str(value[1])) == 64:
        return f"{value[0]} {value[1][:8]}"
    if isinstance(value, list):
        return ", ".join(str(one) for one in value if one is not None)
    return "none" if value is None else str(value)
