from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from glot.corpus.examples import Split
from glot.corpus.tables import Table, read_split, read_training
from glot.errors import UsageError
from glot.registry.tasks import Columns
from glot.store.task_spec import TaskSpec

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
    spec, split = read_training("made", Table(path, COLUMNS))
    return spec, [example.label for example in split.examples]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_every_format_gives_the_same_examples(suffix: str, tmp_path: Path) -> None:
    spec, split = read_training("a", Table(write_table(tmp_path / f"a.{suffix}", ROWS), PAIR))
    assert (spec.name, spec.num_texts, spec.target, spec.classes) == ("a", 2, "classes", ("neg", "pos"))
    assert [example[:4] for example in split.examples] == [
        (0, 'He said, "no"', "line\nbreak", 0),
        (1, "", "b\x85\u2028c", 1),
    ]


def test_a_field_may_be_longer_than_the_csv_module_allows(tmp_path: Path) -> None:
    (row,) = Table(write_table(tmp_path / "a.csv", [{"text": "x" * 200_000, "label": 1}]), COLUMNS)
    assert len(row.text) == 200_000


@pytest.mark.parametrize(
    ("labels", "suffix", "classes", "expected"),
    [
        (["b", "a", "b"], "jsonl", ("a", "b"), [1, 0, 1]),
        ([10, 2, 10], "jsonl", ("2", "10"), [1, 0, 1]),
        (["10", "2", "02"], "csv", ("02", "2", "10"), [2, 1, 0]),
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
    for path, expected in [(bare, [None]), (part, [None, 1])]:
        split = read_split("test", spec, Table(path, COLUMNS, label_needed=False))
        assert [example.label for example in split.examples] == expected


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.csv", 'text,label\n"a, b",1\n"x, y"z,1\n', "a.csv line 3: text follows the quote that closes a cell: mind"),
        ("a.csv", "text,label\nx,1\ny\n", "a.csv line 3: 1 columns where the header has 2"),
        ("a.csv", "text,label,text\nx,1,2\n", "a.csv: 2 columns are called 'text': give each a name of its own"),
        ("a.csv", "texts,label\nx,1\n", "a.csv: no column 'text'; the columns are: texts, label"),
        ("a.csv", "text,labels\nx,1\n", "a.csv: no column 'label'; the columns are: text, labels"),
        ("a.csv", "text,label\nx, \n", "a.csv line 2: no label in column 'label'"),
        ("a.csv", 'text,label\nx,""\n', "a.csv line 2: no label in column 'label'"),
        ("a.csv", "text,label\n", "a.csv has no rows"),
        ("a.csv", "", "a.csv has no rows"),
        ("a.txt", "text", "a.txt: unknown kind of table '.txt': the suffix must be one of .csv, .tsv, "),
        ("a.jsonl", '{"text": "x", "label": 1}\n\n{"text"\n', "a.jsonl line 3: Expecting ':' delimiter"),
        ("a.csv", "text,label\nx, \n", "fill it in; --on-bad-row skip leaves such rows out"),
        ("a.jsonl", '[{"text": "x", "label": 1}]\n', "a.jsonl line 1: a list where one JSON object a line is expected"),
        ("a.json", '[{"text": "x", "label": 1},\n{"text"]', "a.json line 2: Expecting ':' delimiter: one array of obj"),
        ("a.json", '[{"text": "x", "label": 1}, 2]', "a.json row 2: a int where an object is expected"),
        ("a.json", "[]", "a.json has no rows"),
        ("a.csv.gz", "x", "a.csv.gz is compressed: unpack it"),
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
        list(Table(tmp_path / file, COLUMNS))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("indent", [None, 2])
def test_one_array_of_objects_is_what_its_lines_are(indent: int | None, tmp_path: Path) -> None:
    lines = write_table(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "a.json").write_text("\n" + json.dumps(ROWS, indent=indent), "utf-8-sig")
    array, by_line = Table(tmp_path / "a.json", PAIR), Table(lines, PAIR)
    assert [row[2:] for row in array] == [row[2:] for row in by_line]
    assert [row.where for row in array] == ["a.json row 1", "a.json row 2"]
    assert (array.described, array.column_types()) == ("JSON, UTF-8", by_line.column_types())


def test_a_missing_file_other_encodings_and_a_missing_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"no file .*b\.csv: pass a CSV, TSV, JSON lines or Parquet file"):
        list(Table(tmp_path / "b.csv", COLUMNS))
    (tmp_path / "f.csv").mkdir()
    with pytest.raises(UsageError, match=r"f\.csv is a folder without texts: name a file, or a folder of"):
        list(Table(tmp_path / "f.csv", COLUMNS))
    (tmp_path / "l.csv").write_bytes("text,label\nna\xefve,1\n".encode("latin-1"))
    with pytest.raises(UsageError, match=r"l\.csv is not UTF-8 text .*: save it as UTF-8, .*--encoding latin-1"):
        list(Table(tmp_path / "l.csv", COLUMNS))
    (tmp_path / "p.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UsageError, match=r"pip install 'glot-pipeline\[parquet\]'"):
        list(Table(tmp_path / "p.parquet", COLUMNS))


def test_parquet_names_the_row_and_all_columns(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.parquet", [{"text": "x", "y": 1}, {"text": None, "y": 1}])
    with pytest.raises(UsageError, match=r"a\.parquet row 1: no column 'label'; the columns are: text, y"):
        list(Table(path, COLUMNS))
    with pytest.raises(UsageError, match=r"a\.parquet row 2: column 'text' holds null"):
        list(Table(path, Columns("text", None, "y")))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5, [1.5, 2.5]], "made.jsonl line 2: label [1.5, 2.5] is a list, and an example has one label"),
        (["a", "a"], "every label is 'a': training needs at least two classes"),
        ([0.5, 0.7, "n/a"], "made.jsonl line 3: label 'n/a' is not a finite number, but the labels are scores"),
        ([0.5, float("inf")], "made.jsonl line 2: label inf is not a finite number"),
        ([["a"], "b"], "made.jsonl line 1: label ['a'] is a list, and an example has one label"),
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
    table = Table(write_table(tmp_path / "e.jsonl", [{"text": "x", "label": label}]), COLUMNS)
    with pytest.raises(UsageError) as raised:
        read_split("validation", spec, table)
    assert message in str(raised.value)


@pytest.mark.parametrize(("labels", "suffix"), [([1.0, 0.0, 4.0], "parquet"), (["1.0", "0.0", "4.0"], "csv")])
def test_whole_numbers_written_as_decimals_are_scores(labels: list, suffix: str, tmp_path: Path) -> None:
    spec, got = labelled(tmp_path, labels, suffix)
    assert (spec.target, spec.score_range, got) == ("score", (0.0, 4.0), [1.0, 0.0, 4.0])


TASK = TaskSpec("t", 1, "classes", ("0", "1"), metrics=("accuracy", "f1"))


def skipping(path: Path, spec: TaskSpec | None = None, columns: Columns = COLUMNS) -> tuple[TaskSpec, Split]:
    table = Table(path, columns, bad_rows="skip")
    return read_training("t", table) if spec is None else (spec, read_split("train", spec, table))


@pytest.mark.parametrize(
    ("file", "content", "kept", "skipped", "first"),
    [
        (
            "a.csv",
            "text,label\na,1\nb\n\nc,0\nd,0,0\ne,\nf,1\n",
            [(0, "a", 1), (2, "c", 0), (5, "f", 1)],
            3,
            "a.csv line 3: 1 columns where the header has 2",
        ),
        (
            "a.jsonl",
            '{"text": null, "label": 1}\n{"text": "a", "label": 1}\n{"text": "b", "la\n\n[1]\n{"text": "c"}\n'
            '{"label": 0}\n{"text": "d", "label": null}\n{"text": "e", "label": [0]}\n{"text": "f", "label": 0}\n'
            + "[" * 100_000
            + "\n",
            [(1, "a", 1), (8, "f", 0)],
            8,
            "a.jsonl line 1: column 'text' holds null where a text belongs",
        ),
    ],
    ids=["csv", "jsonl"],
)
def test_unfit_rows_are_left_out_on_demand(
    file: str, content: str, kept: list, skipped: int, first: str, tmp_path: Path
) -> None:
    (tmp_path / file).write_text(content, "utf-8")
    spec, split = skipping(tmp_path / file)
    assert spec.classes == ("0", "1")
    assert [(example.index, example.text, example.label) for example in split.examples] == kept
    assert (split.skipped, split.first_skipped) == (skipped, first)


def test_unfit_parquet_rows_are_left_out_on_demand(tmp_path: Path) -> None:
    rows = [{"text": text, "label": label} for text, label in [("a", 1), (None, 0), ("b", None), ("c", 0)]]
    _, split = skipping(write_table(tmp_path / "a.parquet", rows))
    assert [example[:4] for example in split.examples] == [(0, "a", None, 1), (3, "c", None, 0)]
    assert (split.skipped, split.first_skipped) == (
        2,
        "a.parquet row 2: column 'text' holds null where a text belongs",
    )


def test_labels_that_are_no_scores_are_left_out_on_demand(tmp_path: Path) -> None:
    labels = ["n/a", 2, 0.5, "1e999", [1.0], "1.5"]
    path = write_table(tmp_path / "a.jsonl", [{"text": f"t{i}", "label": label} for i, label in enumerate(labels)])
    spec, split = skipping(path)
    assert spec.score_range == (0.5, 2.0)
    assert [(example.index, example.label) for example in split.examples] == [(1, 2.0), (2, 0.5), (5, 1.5)]
    assert split.skipped == 3
    assert split.first_skipped.startswith("a.jsonl line 1: label 'n/a' is not a finite number")
    assert skipping(path, spec)[1].examples == split.examples


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.csv", "texts,label\nx,1\n", "a.csv: no column 'text'"),
        ("a.csv", "text,label,text\nx,1,2\n", "a.csv: 2 columns are called 'text'"),
        ("a.csv", "text,label\n", "a.csv has no rows"),
        ("a.csv", "text,label\nx\ny\n", "a.csv: none of its 2 rows is fit; the first: a.csv line 2: 1 columns"),
        ("a.csv", "text,label\nx,\xff\n", "a.csv is not UTF-8 text"),
        ("a.csv", "text,label\nx,1\ny,2\n", "a.csv line 3: label '2' is not among the training labels: 0, 1"),
        ("a.jsonl", '{"texts": "x", "label": 1}\n', "none of its 1 rows is fit; the first: a.jsonl line 1: no column"),
        ("a.jsonl", '{"text": "x", "label": [1]}\n', "none of its 1 rows is fit; the first: a.jsonl line 1: label [1]"),
        ("a.parquet", "no parquet", "a.parquet is no readable Parquet file ("),
    ],
)
def test_what_breaks_a_whole_table_stops_all_the_same(file: str, content: str, message: str, tmp_path: Path) -> None:
    if file.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    (tmp_path / file).write_text(content, "latin-1")
    with pytest.raises(UsageError) as raised:
        skipping(tmp_path / file, TASK)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_column_missing_in_the_header_stops_at_the_first_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("texts,label\nx,1\ny,0\n")
    with pytest.raises(UsageError, match=r"^a\.csv: no column 'text'; the columns are: texts, label$"):
        skipping(tmp_path / "a.csv", TASK)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[1], {"a": 1}], "a.jsonl line 1: label [1] is a list, and an example has one label"),
        ([float("inf")] * 2, "a.jsonl line 1: label inf is not a finite number"),
        ([{"a": 1}, [1]], "a.jsonl line 1: label {'a': 1} is neither a text, a number nor a boolean"),
    ],
)
def test_training_labels_all_unfit(labels: list, message: str, tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.jsonl", [{"text": "x", "label": label} for label in labels])
    with pytest.raises(UsageError) as raised:
        skipping(path)
    assert message in str(raised.value)


def test_an_error_in_a_later_row_comes_before_one_in_the_labels(tmp_path: Path) -> None:
    path = write_table(tmp_path / "a.jsonl", [{"text": "x", "label": [1]}, {"text": None, "label": 1}])
    with pytest.raises(UsageError, match=r"a\.jsonl line 2: column 'text' holds null"):
        read_training("a", Table(path, COLUMNS))


def test_a_damaged_parquet_file_stops_after_its_good_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    texts = [f"{i} " * 50 for i in range(20_000)]
    options = {"row_group_size": 5000, "compression": "gzip", "use_dictionary": False}
    parquet.write_table(pyarrow.table({"text": texts, "label": [i % 2 for i in range(20_000)]}), path, **options)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    rows = iter(Table(path, COLUMNS))
    path.write_bytes(data)
    assert next(rows).text == texts[0]
    with pytest.raises(UsageError, match=r"a\.parquet is no readable Parquet file"):
        list(rows)
