"""Labels are what is written: classes under those names, or scores."""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glot.corpus.examples import UnfitRow
from glot.corpus.labels import class_name, classes_spec, remarks, score
from glot.corpus.load import load_table
from glot.corpus.rows import Row, Rows, plain_label
from glot.corpus.tables import Table, read_split, read_training
from glot.corpus.training_labels import LabelTally
from glot.errors import UsageError
from glot.registry.tasks import Columns
from glot.store.task_spec import TaskSpec, describe_labels

COLUMNS = Columns("text", None, "label")
SEVERAL = Columns("text", None, "label", ";")
LONG = "7" * 5000
DECIMAL = Decimal("1.5")


def written(path: Path, labels: list) -> Path:
    """A file of texts with these labels, as its suffix has it."""
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(pyarrow.table({"text": ["t"] * len(labels), "label": labels}), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": "t", "label": label}) + "\n" for label in labels))
    else:
        path.write_text("".join(f"{cell}\n" for cell in ["text,label", *(f"t,{label}" for label in labels)]))
    return path


def labels_of(path: Path, target: str | None = None, bad_rows: str = "stop") -> tuple[TaskSpec, list]:
    """The task of a file, and its labels: names of classes or scores."""
    spec, split = read_training("t", Table(path, COLUMNS, bad_rows=bad_rows), target)
    found = [example.label for example in split.examples]
    return spec, found if spec.target == "score" else [spec.classes[label] for label in found]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(
    "labels",
    [
        ["01", "1", "1.", "001"],  # codes
        ["1A0", "1B2", "1E2", "2C7"],
        ["1E2", "2E3", "1.5"],  # an exponent is no plain decimal
        ["nan", "NaN", "NA", "null", "None", "deu"],  # languages and initials
        ["pos", "pos ", " pos", "Pos"],
        ["0.5", "n/a", "1.5"],
        ["01.5", "2.5"],
        ["1_0", "2.5"],
        ["0.5", "1·5"],
        ["1", "2", LONG],
        ["٣.٥", "1.5"],  # digits, but not these
        ["inf", "-inf", "0.5"],
    ],
)
def test_names_of_classes_are_what_is_written(suffix: str, labels: list[str], tmp_path: Path) -> None:
    spec, found = labels_of(written(tmp_path / f"t{suffix}", labels))
    assert (spec.target, found, len(spec.classes)) == ("classes", labels, len(labels))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(
    ("labels", "scores"),
    [
        (["1.0", "2", "-0.5", "+3", ".25", "4."], [1, 2, -0.5, 3, 0.25, 4]),
        (["1.10", "1.1", "2"], [1.1, 1.1, 2]),
        (["0.5", LONG[:300] + ".5"], [0.5, float(LONG[:300])]),
    ],
)
def test_plain_decimals_are_scores(suffix: str, labels: list[str], scores: list[float], tmp_path: Path) -> None:
    spec, found = labels_of(written(tmp_path / f"t{suffix}", labels))
    assert (spec.target, spec.score_range, found) == ("score", (min(scores), max(scores)), scores)


def test_blanks_around_a_number_are_no_part_of_it(tmp_path: Path) -> None:
    assert labels_of(written(tmp_path / "t.csv", [" 0.5", "1 "]))[1] == [0.5, 1]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([1, 2, 10], ["1", "2", "10"]),
        ([1, "1", "01"], ["1", "1", "01"]),  # a name is a name, whatever its type
        ([1, "x"], ["1", "x"]),
        ([True, False, "true"], ["true", "false", "true"]),
        ([10**30, 2], [str(10**30), "2"]),
        ([1.0, 2, "3.5"], [1.0, 2.0, 3.5]),  # a typed float makes scores of numbers
        ([1, "2.5"], [1.0, 2.5]),
    ],
)
def test_types_of_json_lines(labels: list, expected: list, tmp_path: Path) -> None:
    assert labels_of(written(tmp_path / "t.jsonl", labels))[1] == expected


def test_a_whole_number_of_thousands_of_digits_in_json(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text(f'{{"text": "a", "label": {LONG}}}\n{{"text": "b", "label": 12}}\n')
    assert labels_of(path)[1] == [LONG, "12"]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([Decimal("1.00"), Decimal("2.50")], [1.0, 2.5]),
        ([Decimal("1"), Decimal("20")], ["1", "20"]),  # a decimal without a fraction is a database's whole number
        ([datetime.date(2020, 1, 2), datetime.date(2021, 1, 2)], ["2020-01-02", "2021-01-02"]),
        ([True, False], ["true", "false"]),
        (np.array([1, 2], dtype=np.int8), ["1", "2"]),
        (np.array([1, 2], dtype=np.float16), [1.0, 2.0]),
        (np.array([1, 2], dtype=np.float32), [1.0, 2.0]),
        (np.array([1, 2**64 - 1], dtype=np.uint64), ["1", str(2**64 - 1)]),
    ],
)
def test_types_of_parquet(labels: Any, expected: list, tmp_path: Path) -> None:
    assert labels_of(written(tmp_path / "t.parquet", labels))[1] == expected


@pytest.mark.parametrize(
    ("label", "name"),
    [(np.int64(3), "3"), (np.bool_(True), "true"), (np.str_("a"), "a"), (datetime.time(1, 2), "01:02:00")],
)
def test_names_of_numbers_of_numpy(label: Any, name: str) -> None:
    assert class_name(Row(0, "here", "", None, plain_label(label))) == name


@pytest.mark.parametrize("missing", [None, float("nan"), "", "  "])
def test_what_is_missing(missing: object, tmp_path: Path) -> None:
    path = written(tmp_path / "t.jsonl", ["a", missing, "b"])
    with pytest.raises(UsageError, match=r"t\.jsonl line 2: no label in column 'label'"):
        labels_of(path)
    assert labels_of(path, bad_rows="skip")[1] == ["a", "b"]


def test_a_target_that_is_asked_for(tmp_path: Path) -> None:
    path = written(tmp_path / "t.csv", ["1.0", "2.0", "1.00"])
    assert labels_of(path, "classes")[1] == ["1.0", "2.0", "1.00"]
    path = written(tmp_path / "u.csv", ["1", "2E0", "03", "n/a"])
    with pytest.raises(UsageError, match=r"u\.csv line 5: label 'n/a' is not a finite number, but the labels are sc"):
        labels_of(path, "score")
    assert labels_of(path, "score", "skip")[1] == [1, 2, 3]
    path = written(tmp_path / "v.jsonl", [1.0, 2.5])
    assert labels_of(path, "classes")[1] == ["1.0", "2.5"]
    with pytest.raises(UsageError, match="unknown --target 'contrastive': choose classes or score"):
        load_table(path, target="contrastive")


def test_labels_of_evaluation_are_those_of_training_by_their_names(tmp_path: Path) -> None:
    spec, _ = labels_of(written(tmp_path / "train.jsonl", [1, 2]))
    for name, label in [("a.csv", "1"), ("a.jsonl", 1), ("b.jsonl", "1")]:
        split = read_split("validation", spec, Table(written(tmp_path / name, [label]), COLUMNS))
        assert [example.label for example in split.examples] == [0]
    for name, label in [("c.csv", "01"), ("c.jsonl", 1.0), ("d.csv", "1.0"), ("e.csv", "1 ")]:
        with pytest.raises(UsageError, match="is not among the training labels: 1, 2"):
            read_split("validation", spec, Table(written(tmp_path / name, [label]), COLUMNS))


def test_the_error_about_many_or_long_classes_is_short(tmp_path: Path) -> None:
    spec, _ = labels_of(written(tmp_path / "train.csv", [f"c{i}" for i in range(500)] + [LONG]))
    with pytest.raises(UsageError) as raised:
        read_split("validation", spec, Table(written(tmp_path / "e.csv", ["8" + LONG]), COLUMNS))
    assert len(str(raised.value)) < 400
    assert "and 481 more" in str(raised.value)


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (("pos", "pos ", "neg"), ["label: 'pos', 'pos ' are 2 classes, for they are written differently: make them"]),
        (("Pos", "pos", "neg"), ["label: 'Pos', 'pos' are 2 classes"]),
        (("01", "1", "2"), ["label: '01', '1' are 2 classes"]),
        (("0.5", "1.5", "n/a"), ["label: classes, for 'n/a' is no plain decimal, but 2 others are: if these are sc"]),
        (("1E2", "100", "a", "b"), []),
        (("pos", "neg"), []),
    ],
)
def test_remarks(classes: tuple, expected: list) -> None:
    found = remarks(TaskSpec("t", 1, "classes", classes))
    assert [line[: len(start)] for line, start in zip(found, expected, strict=True)] == expected


def test_few_whole_scores_are_perhaps_classes(tmp_path: Path) -> None:
    """pandas writes 1.0 for a class 1 in a column with an empty cell."""
    (line,) = load_table(written(tmp_path / "t.csv", ["1.0", "0.0", "1.0"] * 10)).remarks
    assert line.startswith("label: scores, for they are written as decimals, but there are only 0, 1: if these are cl")
    for labels in (["1.5", "0.0"], [f"{i}.0" for i in range(6)]):
        assert load_table(written(tmp_path / "t.csv", labels * 10)).remarks == []
    assert load_table(written(tmp_path / "t.csv", ["1.0", "0.0"] * 10), target="score").remarks == []


def test_two_spellings_are_remarked_where_a_table_is_loaded(tmp_path: Path) -> None:
    corpus = load_table(written(tmp_path / "t.csv", ["pos", "pos ", "neg"] * 10))
    assert [line.partition(",")[0] for line in corpus.remarks] == ["label: 'pos'"]
    assert corpus.understood() == [
        "t.csv: comma-separated, UTF-8, 30 rows",
        "label: 3 classes (neg 10, pos 10, 'pos ' 10)",
    ]


def test_labels_in_words() -> None:
    spec = TaskSpec("t", 1, "classes", tuple("abcdefgh"))
    assert describe_labels(spec, np.array([0, 1, 1, 2])) == "8 classes (b 2, a 1, c 1, d 0, e 0, f 0, …)"
    assert describe_labels(spec, np.array([0, np.nan])) == "8 classes (a 1, b 0, c 0, d 0, e 0, f 0, …), 1 without"
    assert describe_labels(spec, None) == "none"
    assert describe_labels(TaskSpec("t", 1, "score"), np.array([0, 2.5, 5])) == "scores 0 to 5"


def test_scores_are_not_all_kept() -> None:
    labels = LabelTally()
    for i in range(100):
        labels.add(Row(i, "here", "", None, str(i + 0.5)))
    assert (labels.low, labels.high, labels.names, labels.look_again) == (0.5, 99.5, [], False)


MIXED = st.sampled_from(
    ["a", "b", "1", "01", "+1", " 2", "2.5", "1e3", "4.", 1, 2, 0.5, 3.0, True, False, 10**400, [1], {}, DECIMAL]
)


@settings(deadline=None)
@given(st.lists(MIXED, min_size=1, max_size=8))
def test_training_rows_that_are_read_once_are_as_those_of_a_list(labels: list) -> None:
    rows = [Row(i, f"line {i + 1}", str(i), None, label) for i, label in enumerate(labels)]
    assert outcome(infer_from_list, rows) == outcome(lambda given: read_training("t", RowList(given))[0], rows)


@settings(deadline=None)
@given(st.lists(st.one_of(MIXED, st.none()), min_size=1, max_size=8), st.sampled_from([None, "classes", "score"]))
def test_training_rows_are_those_of_a_split_of_their_task(labels: list, target: str | None) -> None:
    """Also which of them are left out, and what is said of the first."""
    rows = RowList([Row(i, f"line {i + 1}", str(i), None, label) for i, label in enumerate(labels)], "skip")
    try:
        spec, split = read_training("t", rows, target)
    except UsageError:
        return
    again = read_split("train", spec, rows)
    assert list(split.examples) == list(again.examples)
    assert (split.skipped, split.first_skipped) == (again.skipped, again.first_skipped)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["", "a", "b;a", "a; b", "c;c", "c;b;a", None]), min_size=2, max_size=8))
def test_training_rows_of_several_labels_are_those_of_a_split_of_their_task(cells: list) -> None:
    rows = RowList([Row(i, f"line {i + 1}", str(i), None, cell) for i, cell in enumerate(cells)], "skip", SEVERAL)
    try:
        spec, split = read_training("t", rows)
    except UsageError:
        assert len({name for cell in cells for name in (cell or "").replace(" ", "").split(";") if name}) < 2
        return
    again = read_split("train", spec, rows)
    assert (list(split.examples), split.skipped) == (list(again.examples), again.skipped)
    names = [{spec.classes[place] for place in range(3) if int(one.label or 0) >> place & 1} for one in split.examples]
    assert names == [{name.strip() for name in (cell or "").split(";")} - {""} for cell in cells]


def test_rows_are_read_once_but_where_scores_are_classes_after_all() -> None:
    for labels, times in ((["a", "b"], 1), ([1, 2.5], 1), (["1.5", "2.5"], 1), (["1.5", "2.5", "n/a"], 2)):
        rows = RowList([Row(i, f"line {i + 1}", str(i), None, label) for i, label in enumerate(labels)])
        read_training("t", rows)
        assert rows.times == times


class RowList(Rows):
    """Rows in place of a table; one without a label is unfit."""

    source, label_needed, same_columns = "t", True, True

    def __init__(self, rows: list[Row], bad_rows: str = "stop", columns: Columns = COLUMNS) -> None:
        self.given, self.bad_rows, self.columns, self.times = rows, bad_rows, columns, 0

    def cells(self) -> Iterator[tuple[str, dict[str, Any]]]:
        self.times += 1
        for row in self.given:
            yield row.where, {"text": row.text, "label": row.label}


def outcome(infer: Any, rows: list[Row]) -> tuple | str:
    try:
        spec = infer(rows)
    except UsageError as error:
        return str(error)
    return spec.target, spec.classes, spec.score_range


def infer_from_list(rows: list[Row]) -> TaskSpec:
    """The rule as it is told: look at all labels as often as one likes."""
    plain = ("1", "+1", " 2", "2.5", "4.")
    is_float = any(type(row.label) is float or row.label is DECIMAL for row in rows)
    has_word = any(isinstance(row.label, str | bool) and row.label not in plain for row in rows)
    has_fraction = any(row.label == "2.5" and isinstance(row.label, str) for row in rows)
    if is_float or (has_fraction and not has_word):
        scores = [score(row) for row in rows]
        if min(scores) == max(scores):
            raise UsageError(f"t: every score is {scores[0]:g}: there is nothing to learn")
        return TaskSpec("t", 1, "score", score_range=(min(scores), max(scores)))
    names = {class_name(row) for row in rows}
    if all(name.removeprefix("+").isdigit() for name in names):
        classes = tuple(sorted(names, key=lambda name: (int(name), name)))
    else:
        classes = tuple(sorted(names))
    return classes_spec("t", classes, 1)


def test_an_unfit_label_is_an_unfit_row() -> None:
    with pytest.raises(UnfitRow, match=r"here: label b'a' is neither a text, a number nor a boolean"):
        class_name(Row(0, "here", "", None, b"a"))
