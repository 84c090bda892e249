from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pipeline.corpus.tables import infer_spec, read_rows, to_examples
from pipeline.corpus.tasks import Columns
from pipeline.errors import UsageError

COLUMNS = Columns("text", None, "label")
PAIR = Columns("text", "other", "label")
ROWS = [
    {"text": 'He said, "no"', "other": "line\nbreak", "label": "neg"},
    {"text": "", "other": "b\x85\u2028c", "label": "pos"},
]


def write_table(path: Path, rows: list[dict]) -> Path:
    """Write rows in the format of the suffix, CSV by hand so that the reader meets a foreign writer."""
    names = list(rows[0])
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    else:
        mark = "," if path.suffix == ".csv" else "\t"
        lines = [names, *([str(row[name]) for name in names] for row in rows)]
        quoted = (mark.join('"' + cell.replace('"', '""') + '"' for cell in line) + "\r\n" for line in lines)
        path.write_bytes(("\ufeff" + "".join(quoted)).encode())
    return path


def labelled(tmp_path: Path, labels: list, suffix: str = "jsonl") -> tuple:
    path = write_table(
        tmp_path / f"made.{suffix}", [{"text": f"t{i}", "label": label} for i, label in enumerate(labels)]
    )
    rows = read_rows(path, COLUMNS)
    spec = infer_spec("made", rows, 1)
    return spec, [example.label for example in to_examples(spec, rows)]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_examples(suffix: str, tmp_path: Path) -> None:
    rows = read_rows(write_table(tmp_path / f"a.{suffix}", ROWS), PAIR)
    spec = infer_spec("a", rows, 2)
    assert (spec.name, spec.num_texts, spec.target, spec.classes) == ("a", 2, "classes", ("neg", "pos"))
    assert [tuple(example) for example in to_examples(spec, rows)] == [
        (0, 'He said, "no"', "line\nbreak", 0),
        (1, "", "b\x85\u2028c", 1),
    ]


def test_a_field_may_be_longer_than_the_csv_module_allows(tmp_path: Path) -> None:
    rows = read_rows(write_table(tmp_path / "a.csv", [{"text": "x" * 200_000, "label": 1}]), COLUMNS)
    assert len(rows[0].text) == 200_000


@pytest.mark.parametrize(
    ("labels", "suffix", "classes", "expected"),
    [
        (["b", "a", "b"], "jsonl", ("a", "b"), [1, 0, 1]),
        ([10, 2, 10], "jsonl", ("2", "10"), [1, 0, 1]),
        (["10", "2", "02"], "csv", ("2", "10"), [1, 0, 0]),
        ([True, False, True], "jsonl", ("false", "true"), [1, 0, 1]),
        ([1, "x", 1], "jsonl", ("1", "x"), [0, 1, 0]),
        (["1_0", "2", "3"], "csv", ("1_0", "2", "3"), [0, 1, 2]),
    ],
)
def test_classes(labels: list, suffix: str, classes: tuple, expected: list, tmp_path: Path) -> None:
    spec, got = labelled(tmp_path, labels, suffix)
    assert (spec.target, spec.classes, spec.score_range) == ("classes", classes, None)
    assert got == expected
    assert spec.metrics == (("accuracy", "f1") if len(classes) == 2 else ("accuracy", "macro_f1"))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_scores(suffix: str, tmp_path: Path) -> None:
    spec, got = labelled(tmp_path, [0.5, 2.0, -1.25], suffix)
    assert (spec.target, spec.classes, spec.score_range) == ("score", (), (-1.25, 2.0))
    assert spec.metrics == ("spearman", "pearson")
    assert got == [0.5, 2.0, -1.25]
    assert {type(score) for score in got} == {float}


def test_a_test_file_may_lack_labels(tmp_path: Path) -> None:
    spec, _ = labelled(tmp_path, ["a", "b"])
    bare = write_table(tmp_path / "bare.csv", [{"text": "x"}])
    part = write_table(tmp_path / "part.csv", [{"text": "x", "label": ""}, {"text": "y", "label": "b"}])
    assert [e.label for e in to_examples(spec, read_rows(bare, COLUMNS, label_needed=False))] == [None]
    assert [e.label for e in to_examples(spec, read_rows(part, COLUMNS, label_needed=False))] == [None, 1]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.csv", 'text,label\nx,1\n"y,0\n', "a.csv line 3: unexpected end of data: mind the quotes"),
        ("a.csv", 'text,label\n"x"y,1\n', "a.csv line 2: ',' expected after '\"': mind the quotes"),
        ("a.csv", "text,label\nx,1\ny\n", "a.csv line 3: 1 columns where the header has 2"),
        ("a.csv", "text,label,text\nx,1,2\n", "a.csv: a column name occurs twice in the header: text, label, text"),
        ("a.csv", "texts,label\nx,1\n", "a.csv line 2: no column 'text'; the columns are: texts, label"),
        ("a.csv", "text,labels\nx,1\n", "a.csv line 2: no column 'label'; the columns are: text, labels"),
        ("a.csv", "text,label\nx, \n", "a.csv line 2: no label in column 'label'"),
        ("a.csv", "text,label\nx,NaN\n", "a.csv line 2: no label in column 'label'"),
        ("a.csv", "text,label\n", "a.csv has no rows"),
        ("a.csv", "", "a.csv has no rows"),
        ("a.txt", "text", "a.txt: unknown kind of table '.txt': the suffix must be one of .csv, .tsv, "),
        ("a.jsonl", '{"text": "x", "label": 1}\n\n{"text"\n', "a.jsonl line 3: Expecting ':' delimiter"),
        ("a.json", '[{"text": "x", "label": 1}]\n', "a.json line 1: a list where one JSON object a line is expected"),
        ("a.jsonl", '{"text": null, "label": 1}\n', "a.jsonl line 1: column 'text' holds null where a text belongs"),
        ("a.jsonl", '{"text": 5, "label": 1}\n', "a.jsonl line 1: column 'text' holds int where a text belongs"),
        ("a.jsonl", '{"text": "x", "label": NaN}\n', "a.jsonl line 1: no label in column 'label'"),
        ("a.jsonl", '{"text": "x", "label": null}\n', "a.jsonl line 1: no label in column 'label'"),
        ("a.jsonl", '{"text": "x"}\n', "a.jsonl line 1: no column 'label'; the columns are: text"),
        ("a.parquet", "no parquet", "a.parquet is no readable Parquet file ("),
    ],
)
def test_what_cannot_be_read_is_named(file: str, content: str, message: str, tmp_path: Path) -> None:
    if file.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    (tmp_path / file).write_text(content, "utf-8")
    with pytest.raises(UsageError) as raised:
        read_rows(tmp_path / file, COLUMNS)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_missing_file_other_encodings_and_a_missing_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"no file .*b\.csv: pass a CSV, TSV, JSON lines or Parquet file"):
        read_rows(tmp_path / "b.csv", COLUMNS)
    (tmp_path / "l.csv").write_bytes("text,label\nna\xefve,1\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"l\.csv is not UTF-8 text .*: save it as UTF-8"):
        read_rows(tmp_path / "l.csv", COLUMNS)
    (tmp_path / "p.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"pip install 'glot-pipeline\[parquet\]'"):
        read_rows(tmp_path / "p.parquet", COLUMNS)


def test_parquet_names_the_row_and_all_columns(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", [{"text": "x", "y": 1}, {"text": None, "y": 1}])
    with pytest.raises(UsageError, match=r"a\.parquet row 1: no column 'label'; the columns are: text, y"):
        read_rows(path, COLUMNS)
    with pytest.raises(UsageError, match=r"a\.parquet row 2: column 'text' holds null"):
        read_rows(path, Columns("text", None, "y"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["a", "a"], "every label is 'a': training needs at least two classes"),
        ([0.5, 0.7, "n/a"], "made.jsonl line 3: label 'n/a' is not a finite number, but the labels are scores"),
        ([0.5, float("inf")], "made.jsonl line 2: label inf is not a finite number"),
        ([["a"], "b"], "made.jsonl line 1: label ['a'] is neither a text, a number nor a boolean"),
    ],
)
def test_training_labels_that_make_no_task(labels: list, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        labelled(tmp_path, labels)
    assert message in str(raised.value)


@pytest.mark.parametrize(
    ("train", "label", "message"),
    [
        (["a", "b"], "c", "e.jsonl line 1: label 'c' is not among the training labels: a, b"),
        ([0, 1], 2, "e.jsonl line 1: label '2' is not among the training labels: 0, 1"),
        ([0, 1], "x", "e.jsonl line 1: label 'x' is not among the training labels: 0, 1"),
        ([0.5, 1], "x", "e.jsonl line 1: label 'x' is not a finite number"),
    ],
)
def test_evaluation_labels_that_training_does_not_know(
    train: list, label: object, message: str, tmp_path: Path
) -> None:
    spec, _ = labelled(tmp_path, train)
    rows = read_rows(write_table(tmp_path / "e.jsonl", [{"text": "x", "label": label}]), COLUMNS)
    with pytest.raises(UsageError) as raised:
        to_examples(spec, rows)
    assert message in str(raised.value)


@pytest.mark.parametrize(("labels", "suffix"), [([1.0, 0.0, 4.0], "parquet"), (["1.0", "0.0", "4.0"], "csv")])
def test_whole_numbers_written_as_decimals_are_scores(labels: list, suffix: str, tmp_path: Path) -> None:
    spec, got = labelled(tmp_path, labels, suffix)
    assert (spec.target, spec.score_range, got) == ("score", (0.0, 4.0), [1.0, 0.0, 4.0])
