from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glot.corpus import hub
from glot.corpus.examples import Example, ExampleTable, Split
from glot.corpus.load import (
    CorpusRequest,
    _hold_out,
    _sample,
    _spread,
    load_corpus,
    load_stress,
    load_table,
    load_task,
)
from glot.errors import UsageError
from glot.registry.tasks import Task, find_task, head_defaults
from glot.store.task_spec import TaskSpec


@pytest.fixture
def sst2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GLUE folder with SST-2 alone; whoever asks the hub fails the test."""
    monkeypatch.delenv("GLUE_DIR", raising=False)
    monkeypatch.setattr(hub, "read_split", lambda *_: pytest.fail("the hub was asked"))
    folder = tmp_path / "SST-2"
    folder.mkdir()
    (folder / "train.tsv").write_text("sentence\tlabel\n" + "".join(f"t{i}\t{i // 4}\n" for i in range(8)))
    (folder / "dev.tsv").write_text("sentence\tlabel\nv0\t1\nv1\t0\n")
    (folder / "test.tsv").write_text("index\tsentence\n0\te0\n")
    return tmp_path


@pytest.fixture
def hub_rows(monkeypatch: pytest.MonkeyPatch) -> list:
    """The hub serves 100 rows a split, sorted by label; the limits it was asked for are recorded."""
    asked = []

    def read_split(task: Task, split: str, limit: int | None = None, bad_rows: str = "stop") -> Split:
        asked.append((task.spec.name, split, limit))
        return Split(split, [Example(i, f"t{i}", None, i // 50) for i in range(100)][:limit], "hub")

    monkeypatch.delenv("GLUE_DIR", raising=False)
    monkeypatch.setattr(hub, "read_split", read_split)
    return asked


def write_rows(path: Path, labels: list) -> Path:
    path.write_text("".join(json.dumps({"text": f"t{i}", "label": label}) + "\n" for i, label in enumerate(labels)))
    return path


def test_default_splits_come_from_the_folder(sst2: Path) -> None:
    corpus = load_task("sst2", data_dir=sst2)
    assert corpus.spec is find_task("sst2").spec
    assert {name: len(split.examples) for name, split in corpus.splits.items()} == {"train": 8, "validation": 2}


def test_glue_dir_is_the_default_folder(sst2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLUE_DIR", str(sst2))
    assert load_task("sst2", splits=["test"]).splits["test"].examples == [Example(0, "e0", None, None)]


def test_a_limit_takes_the_first_rows_of_each_split(sst2: Path) -> None:
    corpus = load_task("sst2", data_dir=sst2, limit=5)
    assert [example.text for example in corpus.splits["train"].examples] == ["t0", "t1", "t2", "t3", "t4"]
    assert len(corpus.splits["validation"].examples) == 2


def test_rows_of_one_class_only(sst2: Path) -> None:
    with pytest.raises(UsageError, match=r"sst2 train has only one class in its 4 rows \(SST-2/train.tsv\): raise"):
        load_task("sst2", data_dir=sst2, limit=4)
    assert len(load_task("sst2", ["validation"], sst2, limit=1).splits["validation"].examples) == 1


def test_an_empty_split(sst2: Path) -> None:
    (sst2 / "SST-2/dev.tsv").write_text("sentence\tlabel\n")
    with pytest.raises(UsageError, match=r"sst2 validation has no rows \(SST-2/dev.tsv\)"):
        load_task("sst2", data_dir=sst2)


def test_large_tasks_are_capped_in_training_only(hub_rows: list) -> None:
    load_task("qnli")
    load_task("qnli", limit=60)
    assert hub_rows == [
        ("qnli", "train", 20_000),
        ("qnli", "validation", None),
        ("qnli", "train", 60),
        ("qnli", "validation", 60),
    ]


def test_imdb_is_sampled_because_it_is_sorted(hub_rows: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLUE_DIR", "nowhere")  # IMDB is not in it, so this must not matter
    small, large = (load_task("imdb", ["train"], limit=n).splits["train"].examples for n in (20, 40))
    assert hub_rows == [("imdb", "train", None)] * 2
    assert len(small) == 20
    assert {example.label for example in small} == {0, 1}
    assert set(small) < set(large)
    assert [example.index for example in large] == sorted(example.index for example in large)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "sst2", "splits": ["dev"]}, "sst2 has no split 'dev': choose from train, validation, test"),
        ({"name": "sst2", "limit": 0}, "a limit of 0 rows leaves nothing"),
        ({"name": "imdb", "data_dir": "x"}, "imdb is no GLUE task: leave --data-dir out"),
        ({"name": "stress"}, "task 'stress' is made, not read: run `glot stress`"),
        ({"name": "stsbb"}, "did you mean 'stsb'?"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        load_task(**arguments)
    assert message in str(raised.value)


def test_a_table_with_its_own_evaluation_and_test_files(tmp_path: Path) -> None:
    train = write_rows(tmp_path / "mine.jsonl", ["a", "b", "a"])
    other = write_rows(tmp_path / "dev.jsonl", ["b"])
    test = tmp_path / "test.csv"
    test.write_text("text\nhello\n")
    corpus = load_table(train, other, test_data=test)
    assert (corpus.spec.name, corpus.spec.num_texts, corpus.spec.classes) == ("mine", 1, ("a", "b"))
    assert {name: split.source for name, split in corpus.splits.items()} == {
        "train": "mine.jsonl",
        "validation": "dev.jsonl",
        "test": "test.csv",
    }
    assert [example.label for example in corpus.splits["train"].examples] == [0, 1, 0]
    assert corpus.splits["validation"].examples == [Example(0, "t0", None, 1)]
    assert corpus.splits["test"].examples == [Example(0, "hello", None, None)]


def test_a_tenth_is_held_out_by_class(tmp_path: Path) -> None:
    train = write_rows(tmp_path / "mine.jsonl", ["a"] * 150 + ["b"] * 50 + ["rare"])
    corpus = load_table(train)
    kept, held = (corpus.splits[name] for name in ("train", "validation"))
    assert Counter(example.label for example in held.examples) == {0: 15, 1: 5}
    assert Counter(example.label for example in kept.examples) == {0: 135, 1: 45, 2: 1}
    assert sorted(example.index for example in kept.examples + held.examples) == list(range(201))
    assert held.source == "mine.jsonl, 0.1 held out (seed 0, stratified by label)"
    assert load_table(train) == corpus


@pytest.mark.parametrize("share", [0.2, 0.25, 1 / 3, 0.5, 0.9])
def test_another_share_is_held_out_by_class(share: float, tmp_path: Path) -> None:
    train = write_rows(tmp_path / "mine.jsonl", ["a"] * 180 + ["b"] * 60 + ["rare"])
    corpus = load_corpus(CorpusRequest(data=train, splits=str(share)))
    kept, held = (corpus.splits[name] for name in ("train", "validation"))
    counts = Counter(example.label for example in held.examples)
    assert counts == {0: pytest.approx(180 * share, abs=1), 1: pytest.approx(60 * share, abs=1)}
    assert sorted(example.index for example in kept.examples + held.examples) == list(range(241))
    assert f"{share:g} held out (seed 0" in held.source
    assert load_table(train, share=share) == corpus


@given(st.integers(0, 300), st.fractions(0, 1, max_denominator=1000).filter(lambda share: 0 < share < 1))
def test_a_share_is_spread_evenly(count: int, share: Fraction) -> None:
    places = _spread(count, float(share)).tolist()
    assert places == sorted(set(places))
    assert not count or 0 <= places[0] <= places[-1] < count
    assert abs(len(places) - count * share) <= 1
    gaps = np.diff(places)
    assert len(places) < 3 or gaps[1:].max() - gaps[1:].min() <= 1


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"data": "TRAIN", "splits": "train,test"}, "--split train,test does not go with your own --data: there it is"),
        ({"data": "TRAIN", "splits": "train,0.1"}, "--split train,0.1 does not go with your own --data"),
        ({"data": "TRAIN", "splits": "0.1,0.2"}, "--split 0.1,0.2 does not go with your own --data"),
        ({"data": "TRAIN", "splits": "0"}, "--split 0: the share of train to keep as validation lies between 0 and 1"),
        ({"data": "TRAIN", "splits": "1.5"}, "--split 1.5: the share"),
        ({"data": "TRAIN", "splits": "nan"}, "--split nan: the share"),
        ({"data": "TRAIN", "splits": "0.1", "eval_data": "TRAIN"}, "--split 0.1 does not go with --eval-data"),
        ({"task": "sst2", "splits": "0.1"}, "--split 0.1: a share is for your own --data; sst2 has train,validation,"),
        ({"task": "sst2", "splits": "train,0.1"}, "--split train,0.1: a share is for your own --data"),
        ({"task": "stress", "splits": "0.1"}, "--split does not go with the made task stress"),
        ({"data": "TRAIN", "data_dir": Path("x")}, "--data-dir does not go with your own --data"),
    ],
)
def test_shares_and_splits_are_not_mixed(request_: dict, message: str, tmp_path: Path) -> None:
    train = write_rows(tmp_path / "mine.jsonl", ["a", "b"] * 20)
    given = {name: train if value == "TRAIN" else value for name, value in request_.items()}
    with pytest.raises(UsageError) as raised:
        load_corpus(CorpusRequest(**given))
    assert message in str(raised.value)


def test_a_tenth_is_held_out_over_the_range_of_scores(tmp_path: Path) -> None:
    train = write_rows(tmp_path / "mine.jsonl", [i + 0.5 for i in range(100)])
    held = load_table(train).splits["validation"].examples
    assert [int(example.label // 10) for example in held] == list(range(10))


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_the_hold_out_is_that_of_a_plain_list(data: st.DataObject) -> None:
    target = data.draw(st.sampled_from(["classes", "score"]))
    label = st.integers(0, 6) if target == "classes" else st.sampled_from([-1.5, -0.0, 0.0, 2.0, 2.5, 1e300])
    labels = data.draw(st.lists(label, max_size=120))
    gaps = data.draw(st.integers(0, 3))  # rows left out by the reader leave gaps in the indices
    rows = [Example(i * (1 + gaps), f"t{i}", None, label) for i, label in enumerate(labels)]
    kind = {"classes": tuple("abcdefg")} if target == "classes" else {"score_range": (-2.0, 1e300)}
    spec = TaskSpec("t", 1, target, **kind)
    expected = hold_out_of_list(target, rows)
    for examples in (rows, ExampleTable(rows)):
        train, held = _hold_out(spec, Split("train", examples, "t.csv"))
        assert (train.examples, held.examples) == expected


def hold_out_of_list(target: str, rows: list[Example]) -> tuple[list[Example], list[Example]]:
    counts = Counter(row.label for row in rows)
    order = np.random.default_rng(0).permutation(len(rows)).tolist()
    order = [i for i in order if target == "score" or counts[rows[i].label] > 1]
    order.sort(key=lambda i: rows[i].label)
    held = set(order[min(5, len(order) // 2) :: 10])
    return [row for i, row in enumerate(rows) if i not in held], [row for i, row in enumerate(rows) if i in held]


@settings(deadline=None)
@given(st.integers(0, 50), st.none() | st.integers(1, 60))
def test_a_sample_is_that_of_a_plain_list(count: int, limit: int | None) -> None:
    rows = [Example(i, f"t{i}", None, i % 3) for i in range(count)]
    chosen = sorted(np.random.default_rng(0).permutation(count)[:limit].tolist())
    expected = [rows[i] for i in chosen]
    assert _sample(rows, limit) == _sample(ExampleTable(rows), limit) == expected
    assert _sample(ExampleTable(rows).take(np.arange(count)), limit) == expected


def test_a_table_too_small_to_hold_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="each of its 2 labels stands in one row only, and none can be held out"):
        load_table(write_rows(tmp_path / "mine.jsonl", ["a", "b"]))


def test_a_spreadsheet_is_to_be_saved_as_csv(tmp_path: Path) -> None:
    (tmp_path / "mine.xlsx").write_bytes(b"PK")
    with pytest.raises(UsageError, match=r"mine\.xlsx is a spreadsheet: save it as CSV"):
        load_table(tmp_path / "mine.xlsx")


def test_a_table_is_sampled_under_a_limit(tmp_path: Path) -> None:
    train = write_rows(tmp_path / "mine.jsonl", ["a"] * 100 + ["b"] * 100)
    examples = load_table(train, train, limit=30).splits["train"].examples
    assert len(examples) == 30
    assert {example.label for example in examples} == {0, 1}


def test_unfit_rows_are_left_out_on_demand(tmp_path: Path, sst2: Path) -> None:
    train = write_rows(tmp_path / "mine.jsonl", [None, *["a", "b"] * 20, None])
    test = write_rows(tmp_path / "test.jsonl", [None, ["x"], "a"])
    with pytest.raises(UsageError, match=r"mine\.jsonl line 1: no label in column 'label'"):
        load_corpus(CorpusRequest(data=train))
    corpus = load_corpus(CorpusRequest(data=train, test_data=test, bad_rows="skip", limit=30))
    assert {name: (len(split.examples), split.skipped) for name, split in corpus.splits.items()} == {
        "train": (30, 2),
        "validation": (4, 0),
        "test": (2, 1),
    }
    assert corpus.splits["train"].first_skipped.startswith("mine.jsonl line 1: no label")
    assert corpus.splits["test"].first_skipped.startswith("test.jsonl line 2: label ['x'] is a list")
    both = [example.index for name in ("train", "validation") for example in corpus.splits[name].examples]
    assert len(set(both)) == 34
    assert set(both) <= set(range(1, 41))
    with (sst2 / "SST-2/dev.tsv").open("a") as file:
        file.write("broken\n")
    with pytest.raises(UsageError, match=r"dev\.tsv line 4: 1 columns"):
        load_corpus(CorpusRequest("sst2", data_dir=sst2))
    corpus = load_corpus(CorpusRequest("sst2", data_dir=sst2, bad_rows="skip"))
    assert {name: split.skipped for name, split in corpus.splits.items()} == {"train": 0, "validation": 1}


def test_a_split_of_which_nothing_is_fit(sst2: Path) -> None:
    (sst2 / "SST-2/dev.tsv").write_text("sentence\tlabel\nv0\nv1\n")
    with pytest.raises(
        UsageError, match=r"sst2 validation has no rows \(all 2 left out, the first: SST-2/dev.tsv line 2"
    ):
        load_task("sst2", data_dir=sst2, bad_rows="skip")


@pytest.mark.parametrize("request_", [{"task": "sst2"}, {"data": Path("nowhere.csv")}, {"task": "stress"}])
def test_an_unknown_choice_for_bad_rows(request_: dict) -> None:
    with pytest.raises(UsageError, match=r"bad rows 'warn': choose --on-bad-row stop\|skip"):
        load_corpus(CorpusRequest(**request_, bad_rows="warn"))


def test_training_rows_without_labels_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLUE_DIR", raising=False)
    for labels, fails in [((None, None), True), ((None, 1), False)]:
        rows = ExampleTable(Example(i, "t", None, label) for i, label in enumerate(labels))
        monkeypatch.setattr(hub, "read_split", lambda *_, rows=rows: Split("train", rows, "hub"))
        if fails:
            with pytest.raises(UsageError, match="sst2 train has only one class in its 2 rows"):
                load_task("sst2", ["train"])
        else:
            assert load_task("sst2", ["train"]).splits["train"].examples == rows


def test_stress() -> None:
    corpus = load_stress("balanced", 0.2, train=200, validation=100)
    assert corpus.spec.name == "stress-balanced-0.2"
    assert head_defaults(corpus.spec) == find_task("stress").head
    train, validation = (corpus.splits[name] for name in ("train", "validation"))
    assert (len(train.examples), len(validation.examples)) == (200, 100)
    assert train.source == "made: balanced, r = 0.2, seed 0"
    assert not {example.text for example in train.examples} & {example.text for example in validation.examples}
    assert load_stress("balanced", 0.2, 200, 100) == corpus
    assert load_stress("balanced", 0.2, 200, 100, seed=1).splits != corpus.splits


def test_stress_has_the_published_sizes() -> None:
    splits = load_stress().splits
    assert {name: len(split.examples) for name, split in splits.items()} == {"train": 2000, "validation": 500}


def test_stress_refuses_what_makes_no_task() -> None:
    with pytest.raises(UsageError, match="seed -1 is negative"):
        load_stress(seed=-1)
    with pytest.raises(UsageError, match=r"stress-paired-0\.9 train has only one class in its 1 rows"):
        load_stress(train=1)


def test_the_import_is_light() -> None:
    code = (
        "import sys; sys.path[:0] = sys.argv[1:]; import glot.corpus.load\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *sys.path], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
