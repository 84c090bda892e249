"""Files on this machine as tasks of mteb: similarity of pairs, classification and retrieval, scored by mteb's own code.

What mteb wants to know of a task's data and is not known of a file (language, licence, origin) is left open.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTask, AbsTaskClassification, AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskCategory, TaskMetadata, TaskType

from glot.corpus import labels
from glot.corpus.dialect import FIND_OUT, TableFormat
from glot.corpus.examples import BadRows, Reading, UnfitRow
from glot.corpus.formats import read_json_lines
from glot.corpus.lines import readable
from glot.corpus.rows import Row
from glot.corpus.tables import Table
from glot.errors import UsageError
from glot.registry.tasks import Columns
from glot.store.files import file_sha256

GRAMMAR = "sts:FILE[:TEXT,TEXT,SCORE], classification:FILE[+TESTFILE][:TEXT,LABEL] or retrieval:FOLDER"
_TEST_SHARE = 5  # one in five rows of a class is for the test, where there is no file for it
_SPLIT_SEED = 0
Fit = TypeVar("Fit")


@dataclass(frozen=True)
class LocalReader:
    """Reads tables of a task.

    Attributes:
        form: how they are written. bad_rows: what becomes of unfit rows, "stop" or "skip".
        tell: told how each was read.
    """

    form: TableFormat = FIND_OUT
    bad_rows: str = "stop"
    tell: Callable[[str], None] = lambda line: None

    def read(self, path: Path, columns: Columns, fit: Callable[[Row], Fit]) -> list[tuple[Row, Fit]]:
        """The fit rows of a table, each with what `fit` makes of it, which may raise UnfitRow.

        Raises UsageError where there are none, or the file or a column is missing or damaged.
        """
        table, bad = Table(path, columns, bad_rows=self.bad_rows, form=self.form), BadRows(self.bad_rows)
        found = list(bad.fit(table.rows(bad), lambda row: (row, fit(row))))
        first = f", the first: {bad.first}" if bad.count else ""
        if not found:
            raise UsageError(f"{path} has no fit row{first}")
        reading = Reading(table.source, table.described, len(found) + bad.count, bad.count, table.spanning)
        self.tell(f"{reading.source}: {reading.facts}{first}")
        return found

    def revision(self, files: Sequence[Path]) -> str:
        """Stands for the content of files, and for how they were read."""
        how = repr((self.form, self.bad_rows)).encode()
        return hashlib.sha256(file_sha256(*files).encode() + how).hexdigest()


PLAIN_READER = LocalReader()


def local_task(where: str, reader: LocalReader = PLAIN_READER) -> AbsTask:
    """The task that "sts:file.tsv" or another word of `GRAMMAR` names, its data loaded.

    Similarity: two texts and a number a row, in the columns sentence1, sentence2, score unless named. Classification: a
    text and a label a row, in text, label unless named; one file is split by class, a fifth for the test. Retrieval: a
    folder in BEIR's layout, queries.jsonl, corpus.jsonl and qrels.tsv or qrels/test.tsv; or the qrels file itself.
    Tables are read as `--data` is (see `glot.corpus.tables`).

    Raises UsageError where the word is not of the grammar, or a file or a column is missing, damaged, or unfit.
    """
    kind, _, rest = where.partition(":")
    if kind not in _KINDS or not rest:
        raise UsageError(f"--mteb-local {where!r}: write {GRAMMAR}")
    return _KINDS[kind](_Place.parse(where, rest), reader)


@dataclass(frozen=True)
class _Place:
    """What a word of the grammar names: `option` itself for messages, files, and columns where it names some."""

    option: str
    paths: tuple[Path, ...]
    columns: tuple[str, ...]

    @classmethod
    def parse(cls, option: str, rest: str) -> _Place:
        if Path(rest).exists():
            return cls(option, (Path(rest),), ())
        path, colon, columns = rest.rpartition(":")
        if not colon or "/" in columns:
            path, columns = rest, ""
        paths = (path,) if Path(path).exists() else path.split("+")
        return cls(option, tuple(map(Path, paths)), tuple(columns.split(",")) if columns else ())

    def named(self, *default: str) -> tuple[str, ...]:
        """The columns named, or these; UsageError where it is another number of them."""
        if self.columns and len(self.columns) != len(default):
            raise UsageError(
                f"--mteb-local {self.option!r}: name {len(default)} columns, as in :{','.join(default)}; "
                f"{len(self.columns)} are named"
            )
        return self.columns or default

    def one(self) -> Path:
        """The only file; UsageError where there are more."""
        if len(self.paths) > 1:
            raise UsageError(f"--mteb-local {self.option!r}: one file is needed; write {GRAMMAR}")
        return self.paths[0]


class _Local(AbsTask):
    """A task whose data, by the names of its splits, is loaded already."""

    def __init__(self, metadata: TaskMetadata, splits: dict[str, Any]) -> None:
        self.metadata = metadata
        super().__init__()
        self.dataset, self.data_loaded = {"default": splits}, True


class LocalSTS(_Local, AbsTaskSTS):
    """Pairs of texts with a score each."""


class LocalClassification(_Local, AbsTaskClassification):
    """Texts with a class each, in a train and a test part."""


class LocalRetrieval(_Local, AbsTaskRetrieval):
    """Queries, documents, and which document answers which query."""


def _sts(place: _Place, reader: LocalReader) -> AbsTask:
    text, text_b, score = place.named("sentence1", "sentence2", "score")
    path = place.one()
    rows, scores = zip(*reader.read(path, Columns(text, text_b, score), labels.score), strict=True)
    if len(set(scores)) < 2:
        raise UsageError(f"{path}: every score is {scores[0]:g}: there is nothing to correlate with")
    pairs = {"sentence1": [row.text for row in rows], "sentence2": [row.text_b for row in rows], "score": list(scores)}
    metadata = _metadata(reader, "STS", path.stem, "Pairs of texts with a score", "t2t", "cosine_spearman", path)
    task = LocalSTS(metadata, DatasetDict(test=Dataset.from_dict(pairs)))
    task.min_score, task.max_score = min(scores), max(scores)
    return task


def _classification(place: _Place, reader: LocalReader) -> AbsTask:
    if len(place.paths) > 2:
        raise UsageError(f"--mteb-local {place.option!r}: write {GRAMMAR}")
    text, label = place.named("text", "label")
    parts = [reader.read(path, Columns(text, None, label), labels.class_name) for path in place.paths]
    train, test = parts if len(parts) == 2 else _split(parts[0], place.paths[0])
    classes = sorted({name for _, name in train})
    if len(classes) < 2:
        raise UsageError(f"{place.paths[0]}: every label is {classes[0]!r}: there is nothing to tell apart")
    for row, name in test:
        if name not in classes:
            raise UsageError(f"{row.where}: label {name!r} is not among the training labels")
    name = place.paths[0].stem
    metadata = _metadata(reader, "Classification", name, "Texts with a class", "t2c", "accuracy", *place.paths)
    data = DatasetDict(train=_labelled(train, classes), test=_labelled(test, classes))
    return LocalClassification(metadata, data)


Labelled = list[tuple[Row, str]]  # rows with the names of their classes


def _split(rows: Labelled, path: Path) -> tuple[Labelled, Labelled]:
    """Train and test part: of each class a fifth of the rows, at least one, goes to the test."""
    counts = Counter(name for _, name in rows)
    rare = [name for name, count in counts.items() if count < 2]
    if rare:
        raise UsageError(
            f"{path}: label {rare[0]!r} occurs once, too few to split; name a test file, as in {path}+test{path.suffix}"
        )
    left = {name: max(1, count // _TEST_SHARE) for name, count in counts.items()}
    is_test = np.zeros(len(rows), dtype=bool)
    for index in np.random.default_rng(_SPLIT_SEED).permutation(len(rows)).tolist():
        _, name = rows[index]
        is_test[index] = left[name] > 0
        left[name] -= 1
    train, test = ([row for row, here in zip(rows, is_test, strict=True) if here == wanted] for wanted in (False, True))
    return train, test


def _labelled(rows: Labelled, classes: list[str]) -> Dataset:
    indices = [classes.index(name) for _, name in rows]
    return Dataset.from_dict({"text": [row.text for row, _ in rows], "label": indices})


def _retrieval(place: _Place, reader: LocalReader) -> AbsTask:
    place.named()
    qrels = _qrels_file(place.one())
    folder = qrels.parent if (qrels.parent / "queries.jsonl").is_file() else qrels.parent.parent
    queries = _documents(folder / "queries.jsonl", with_title=False, reader=reader)
    corpus = _documents(folder / "corpus.jsonl", with_title=True, reader=reader)
    relevant = _relevant(qrels, set(queries["id"]), reader)
    there = set(corpus["id"])
    if not any(document in there for documents in relevant.values() for document in documents):
        raise UsageError(f"{qrels} names none of the documents in {folder / 'corpus.jsonl'}")
    asked = queries.select([row for row, name in enumerate(queries["id"]) if name in relevant])
    data = RetrievalSplitData(corpus=corpus, queries=asked, relevant_docs=relevant, top_ranked=None)
    name = folder.resolve().name + ("" if qrels.stem in ("qrels", "test") else f"-{qrels.stem}")
    files = (folder / "queries.jsonl", folder / "corpus.jsonl", qrels)
    metadata = _metadata(reader, "Retrieval", name, "Queries and documents", "t2t", "ndcg_at_10", *files)
    return LocalRetrieval(metadata, {"test": data})


def _qrels_file(path: Path) -> Path:
    candidates = (path,) if path.is_file() else (path / "qrels.tsv", path / "qrels" / "test.tsv")
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UsageError(f"no {candidates[0]}: name a folder with queries.jsonl, corpus.jsonl and qrels.tsv")


def _documents(path: Path, with_title: bool, reader: LocalReader) -> Dataset:
    """`id` and `text` (and `title`) of BEIR's JSON lines."""
    if not path.is_file():
        raise UsageError(f"no file {path}: name a folder with queries.jsonl, corpus.jsonl and qrels.tsv")
    bad, encoding = BadRows(reader.bad_rows), reader.form.encoding
    with readable(path, encoding):
        documents = bad.fit(read_json_lines(path, encoding), lambda line: _document(*line, with_title))
        rows = {document["id"]: document for document in documents}
    if not rows:
        raise UsageError(f"{path} has no rows: pass a file that has some")
    if bad.count:
        reader.tell(f"{path.name}: {bad.count:,} rows skipped, the first: {bad.first}")
    return Dataset.from_list(list(rows.values()))


def _document(where: str, cells: dict[str, Any] | UnfitRow, with_title: bool) -> dict[str, str]:
    if isinstance(cells, UnfitRow):
        raise cells
    if not {"_id", "text"} <= set(cells):
        raise UnfitRow(f'{where}: a JSON object with "_id" and "text" is expected; it has {", ".join(cells)}')
    row = {"id": str(cells["_id"]), "text": cells["text"]}
    if with_title:
        row["title"] = cells.get("title") or ""
    if not all(isinstance(value, str) for value in row.values()):
        raise UnfitRow(f"{where}: text and title must be texts")
    return row


def _relevant(path: Path, queries: set[str], reader: LocalReader) -> dict[str, dict[str, int]]:
    """Query -> document -> how relevant it is, of BEIR's qrels; without a header line by the order of their columns."""
    columns = Columns(*(("query-id", "corpus-id", "score") if reader.form.header else ("1", "2", "3")))
    relevant: dict[str, dict[str, int]] = {}
    for row, grade in reader.read(path, columns, _grade):
        if row.text not in queries:
            raise UsageError(f"{row.where}: no query {row.text!r} in queries.jsonl")
        relevant.setdefault(row.text, {})[row.text_b or ""] = grade
    return relevant


def _grade(row: Row) -> int:
    score = labels.score(row)
    if not score.is_integer():
        raise UnfitRow(f"{row.where}: score {row.label!r} is no whole number")
    return int(score)


def _metadata(
    reader: LocalReader, kind: TaskType, named: str, what: str, category: TaskCategory, main_score: str, *files: Path
) -> TaskMetadata:
    paths = ", ".join(map(str, files))
    return TaskMetadata(
        name=f"Local{kind}-" + re.sub(r"[^\w.-]+", "-", named),
        description=f"{what}, of files on the machine that evaluated: {paths}",
        dataset={"path": paths, "revision": reader.revision(files)},
        type=kind,
        category=category,
        eval_splits=["test"],
        eval_langs=["und"],  # undetermined
        main_score=main_score,
        license="not specified",
        is_public=False,
    )


_KINDS = {"sts": _sts, "classification": _classification, "retrieval": _retrieval}
