from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pipeline.corpus import hub
from pipeline.corpus.examples import Example, Split
from pipeline.corpus.load import load_stress, load_table, load_task
from pipeline.corpus.tasks import Task, find_task
from pipeline.errors import UsageError


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

    def read_split(task: Task, split: str, limit: int | None = None) -> Split:
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
    assert held.source == "mine.jsonl, a tenth held out, stratified by label"
    assert load_table(train) == corpus


def test_a_tenth_is_held_out_over_the_range_of_scores(tmp_path: Path) -> None:
    train = write_rows(tmp_path / "mine.jsonl", [i + 0.5 for i in range(100)])
    held = load_table(train).splits["validation"].examples
    assert [int(example.label // 10) for example in held] == list(range(10))


def test_a_table_too_small_to_hold_out(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="mine validation has no rows"):
        load_table(write_rows(tmp_path / "mine.jsonl", ["a", "b"]))


def test_a_table_is_sampled_under_a_limit(tmp_path: Path) -> None:
    train = write_rows(tmp_path / "mine.jsonl", ["a"] * 100 + ["b"] * 100)
    examples = load_table(train, train, limit=30).splits["train"].examples
    assert len(examples) == 30
    assert {example.label for example in examples} == {0, 1}


def test_stress() -> None:
    corpus = load_stress("balanced", 0.2, train=200, validation=100)
    assert corpus.spec.name == "stress-balanced-0.2"
    assert corpus.spec.recipe == find_task("stress").spec.recipe
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
        "import sys; sys.path[:0] = sys.argv[1:]; import pipeline.corpus.load\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *sys.path], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
