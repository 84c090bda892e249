"""Files on this machine as tasks of mteb: similarity of pairs, classification and retrieval, scored by mteb's own code.

What mteb wants to know of a task's data and is not known of a file (language, licence, origin) is left open.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict
from mteb.abstasks import AbsTask, AbsTaskClassification, AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata

from pipeline.corpus.glue_folder import read_rows
from pipeline.corpus.tables import Row, Table
from pipeline.corpus.tasks import Columns
from pipeline.errors import UsageError
from pipeline.store.files import file_sha256

GRAMMAR = "sts:FILE[:TEXT,TEXT,SCORE], classification:FILE[+TESTFILE][:TEXT,LABEL] or retrieval:FOLDER"
_TEST_SHARE = 5  # one in five rows of a class is for the test, where there is no file for it
_SPLIT_SEED = 0
_TABS = (".tsv", ".tab")


def local_task(where: str) -> AbsTask:
    """The task that "sts:file.tsv" or another word of `GRAMMAR` names, its data loaded.

    Similarity: two texts and a number a row, in the columns sentence1, sentence2, score unless named. Classification: a
    text and a label a row, in text, label unless named; one file is split by class, a fifth for the test. Retrieval: a
    folder in BEIR's layout, queries.jsonl, corpus.jsonl and qrels.tsv or qrels/test.tsv; or the qrels file itself.
    In a TSV a quote character is text, as in GLUE's files; a CSV obeys its quotes; JSON lines and Parquet do, too.

    Raises UsageError where the word is not of the grammar, or a file or a column is missing, damaged, or unfit.
    """
    kind, _, rest = where.partition(":")
    if kind not in _KINDS or not rest:
        raise UsageError(f"--mteb-local {where!r}: write {GRAMMAR}")
    return _KINDS[kind](_Place.parse(where, rest))


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


class LocalSTS(AbsTaskSTS):
    """Pairs of texts with a score each."""

    def __init__(self, metadata: TaskMetadata, pairs: Dataset) -> None:
        self.metadata = metadata
        super().__init__()
        self.min_score, self.max_score = min(pairs["score"]), max(pairs["score"])
        self.dataset, self.data_loaded = {"default": DatasetDict(test=pairs)}, True


class LocalClassification(AbsTaskClassification):
    """Texts with a class each, in a train and a test part."""

    def __init__(self, metadata: TaskMetadata, train: Dataset, test: Dataset) -> None:
        self.metadata = metadata
        super().__init__()
        self.dataset, self.data_loaded = {"default": DatasetDict(train=train, test=test)}, True


class LocalRetrieval(AbsTaskRetrieval):
    """Queries, documents, and which document answers which query."""

    def __init__(self, metadata: TaskMetadata, data: RetrievalSplitData) -> None:
        self.metadata = metadata
        super().__init__()
        self.dataset, self.data_loaded = {"default": {"test": data}}, True


def _sts(place: _Place) -> AbsTask:
    text, text_b, score = place.named("sentence1", "sentence2", "score")
    path = place.one()
    rows = list(_rows(path, Columns(text, text_b, score)))
    scores = [_score(row) for row in rows]
    if len(set(scores)) < 2:
        raise UsageError(f"{path}: every score is {scores[0]:g}: there is nothing to correlate with")
    pairs = {"sentence1": [row.text for row in rows], "sentence2": [row.text_b for row in rows], "score": scores}
    metadata = _metadata("STS", path.stem, "Pairs of texts with a score", "t2t", "cosine_spearman", path)
    return LocalSTS(metadata, Dataset.from_dict(pairs))


def _score(row: Row) -> float:
    try:
        score = float(row.label)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise UsageError(f"{row.where}: score {row.label!r} is not a finite number")
    return score


def _classification(place: _Place) -> AbsTask:
    if len(place.paths) > 2:
        raise UsageError(f"--mteb-local {place.option!r}: write {GRAMMAR}")
    text, label = place.named("text", "label")
    parts = [list(_rows(path, Columns(text, None, label))) for path in place.paths]
    train, test = parts if len(parts) == 2 else _split(parts[0], place.paths[0])
    classes = sorted({str(row.label) for row in train})
    if len(classes) < 2:
        raise UsageError(f"{place.paths[0]}: every label is {classes[0]!r}: there is nothing to tell apart")
    for row in test:
        if str(row.label) not in classes:
            raise UsageError(f"{row.where}: label {str(row.label)!r} is not among the training labels")
    metadata = _metadata("Classification", place.paths[0].stem, "Texts with a class", "t2c", "accuracy", *place.paths)
    return LocalClassification(metadata, *(_labelled(rows, classes) for rows in (train, test)))


def _split(rows: list[Row], path: Path) -> tuple[list[Row], list[Row]]:
    """Train and test part: of each class a fifth of the rows, at least one, goes to the test."""
    counts = Counter(str(row.label) for row in rows)
    rare = [name for name, count in counts.items() if count < 2]
    if rare:
        raise UsageError(
            f"{path}: label {rare[0]!r} occurs once, too few to split; name a test file, as in {path}+test{path.suffix}"
        )
    left = {name: max(1, count // _TEST_SHARE) for name, count in counts.items()}
    is_test = np.zeros(len(rows), dtype=bool)
    for place in np.random.default_rng(_SPLIT_SEED).permutation(len(rows)).tolist():
        name = str(rows[place].label)
        is_test[place] = left[name] > 0
        left[name] -= 1
    return tuple([row for row, here in zip(rows, is_test, strict=True) if here == wanted] for wanted in (False, True))


def _labelled(rows: list[Row], classes: list[str]) -> Dataset:
    labels = [classes.index(str(row.label)) for row in rows]
    return Dataset.from_dict({"text": [row.text for row in rows], "label": labels})


def _rows(path: Path, columns: Columns) -> Iterator[Row]:
    """The rows of a table, all fit; raises UsageError where there are none, or one is not."""
    if path.suffix.lower() not in _TABS:
        yield from Table(path, columns)
        return
    if not path.is_file():
        raise UsageError(f"no file {path}: name one with --mteb-local")
    names, wanted = [], [name for name in (columns.text, columns.text_b, columns.label) if name]
    index = -1
    try:
        names, lines = read_rows(path, has_header=True)
        for name in wanted:
            if name not in names:
                raise UsageError(f"{path}: no column {name!r}; the columns are: {', '.join(names)}")
        for index, (number, cells) in enumerate(lines):
            where = f"{path.name} line {number}"
            if len(cells) != len(names):
                raise UsageError(f"{where}: {len(cells)} columns where the first line has {len(names)}")
            row = dict(zip(names, cells, strict=True))
            text_b = row[columns.text_b] if columns.text_b else None
            yield Row(index, where, row[columns.text], text_b, row[columns.label])
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8") from error
    if index < 0:
        raise UsageError(f"{path} has no rows: pass a file that has some")


def _retrieval(place: _Place) -> AbsTask:
    place.named()
    qrels = _qrels_file(place.one())
    folder = qrels.parent if (qrels.parent / "queries.jsonl").is_file() else qrels.parent.parent
    queries = _documents(folder / "queries.jsonl", with_title=False)
    corpus = _documents(folder / "corpus.jsonl", with_title=True)
    relevant = _relevant(qrels, set(queries["id"]))
    there = set(corpus["id"])
    if not any(document in there for documents in relevant.values() for document in documents):
        raise UsageError(f"{qrels} names none of the documents in {folder / 'corpus.jsonl'}")
    asked = queries.select([row for row, name in enumerate(queries["id"]) if name in relevant])
    data = RetrievalSplitData(corpus=corpus, queries=asked, relevant_docs=relevant, top_ranked=None)
    name = folder.resolve().name + ("" if qrels.stem in ("qrels", "test") else f"-{qrels.stem}")
    files = (folder / "queries.jsonl", folder / "corpus.jsonl", qrels)
    return LocalRetrieval(_metadata("Retrieval", name, "Queries and documents", "t2t", "ndcg_at_10", *files), data)


def _qrels_file(path: Path) -> Path:
    candidates = (path,) if path.is_file() else (path / "qrels.tsv", path / "qrels" / "test.tsv")
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UsageError(f"no {candidates[0]}: name a folder with queries.jsonl, corpus.jsonl and qrels.tsv")


def _documents(path: Path, with_title: bool) -> Dataset:
    """`id` and `text` (and `title`) of BEIR's JSON lines."""
    if not path.is_file():
        raise UsageError(f"no file {path}: name a folder with queries.jsonl, corpus.jsonl and qrels.tsv")
    rows: dict[str, dict[str, str]] = {}
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
            if line.strip():
                row = _document(line, f"{path.name} line {number}", with_title)
                rows[row["id"]] = row
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text ({error.reason}): save it as UTF-8") from error
    if not rows:
        raise UsageError(f"{path} has no rows: pass a file that has some")
    return Dataset.from_list(list(rows.values()))


def _document(line: str, where: str, with_title: bool) -> dict[str, str]:
    try:
        cells = json.loads(line)
        row = {"id": str(cells["_id"]), "text": cells["text"]}
        if with_title:
            row["title"] = cells.get("title") or ""
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f'{where}: a JSON object with "_id" and "text" is expected ({error!r})') from None
    if not all(isinstance(value, str) for value in row.values()):
        raise UsageError(f"{where}: text and title must be texts")
    return row


def _relevant(path: Path, queries: set[str]) -> dict[str, dict[str, int]]:
    """Query -> document -> how relevant it is, of BEIR's qrels with their header line."""
    relevant: dict[str, dict[str, int]] = {}
    for row in _rows(path, Columns("query-id", "corpus-id", "score")):
        if row.text not in queries:
            raise UsageError(f"{row.where}: no query {row.text!r} in queries.jsonl")
        score = _score(row)
        if not score.is_integer():
            raise UsageError(f"{row.where}: score {row.label!r} is no whole number")
        relevant.setdefault(row.text, {})[row.text_b or ""] = int(score)
    return relevant


def _metadata(kind: str, named: str, what: str, category: str, main_score: str, *files: Path) -> TaskMetadata:
    paths = ", ".join(map(str, files))
    return TaskMetadata(
        name=f"Local{kind}-" + re.sub(r"[^\w.-]+", "-", named),
        description=f"{what}, of files on the machine that evaluated: {paths}",
        dataset={"path": paths, "revision": file_sha256(*files)},
        type=kind,
        category=category,
        eval_splits=["test"],
        eval_langs=["und"],  # undetermined
        main_score=main_score,
        license="not specified",
        is_public=False,
    )


_KINDS = {"sts": _sts, "classification": _classification, "retrieval": _retrieval}
