"""Anybody's dataset on the hub: the real `datasets` over local folders, and failures that only a stand-in can make."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from glot.corpus import hub
from glot.corpus.examples import Corpus
from glot.corpus.load import load_corpus, load_hub
from glot.corpus.request import CorpusRequest, HubDataset, corpus_name, parse_data, request_digest
from glot.errors import UsageError

NAMES = ["World", "Sports", "Business", "Sci/Tech"]


class Stream:
    """A streamed split: rows, and among them exceptions that are raised in their place."""

    def __init__(self, rows: list, features: dict | None = None) -> None:
        self.rows, self.features, self.read = rows, features, 0

    def __iter__(self) -> Iterator[dict]:
        self.read += 1
        for row in self.rows:
            if isinstance(row, Exception):
                raise row
            yield row


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list]:
    """`serve({"train": Stream(...)})`, or an exception: what the hub answers; gives the list of calls."""

    def set_up(answer: dict | Exception) -> list:
        calls = []

        def load_dataset(*args: object, **kwargs: object) -> dict:
            calls.append((args, kwargs))
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
        monkeypatch.setattr(hub, "_check_reachable", lambda: None)
        return calls

    return set_up


def rows(*labels: Any, text: str = "text", label: str = "label") -> list[dict]:
    return [{text: f"t{i}", label: value} for i, value in enumerate(labels)]


def class_label(*names: str) -> dict:
    return {"text": SimpleNamespace(dtype="string"), "label": SimpleNamespace(names=list(names))}


def load(**options: Any) -> Corpus:
    return load_corpus(CorpusRequest(data=HubDataset("owner/news"), **options))


@pytest.mark.parametrize(
    ("given", "dataset", "name"),
    [
        ("hub:ag_news", HubDataset("ag_news"), "ag_news"),
        ("hub:fancyzhx/ag_news", HubDataset("fancyzhx/ag_news"), "ag_news"),
        ("hub:mteb/x.y:en-DE", HubDataset("mteb/x.y", "en-DE"), "x.y-en-DE"),
        ("hub:a/b:my config", HubDataset("a/b", "my config"), "b-my-config"),
        ("news.csv", Path("news.csv"), "news"),
    ],
)
def test_names(given: str, dataset: HubDataset | Path, name: str) -> None:
    request = CorpusRequest(data=parse_data(given))
    assert request.data == dataset
    assert str(request.data) == given
    assert corpus_name(request) == name
    assert request_digest(request) != request_digest(CorpusRequest(data=parse_data(given + "x")))


@pytest.mark.parametrize("given", ["hub:", "hub:a/b/c", "hub:a b", "hub:a:", "hub:/a", "hub:a:b:c"])
def test_what_names_no_dataset(given: str) -> None:
    with pytest.raises(UsageError, match="names no dataset: write hub:name, hub:owner/name or hub:owner/name:config"):
        parse_data(given)


def test_classes_are_those_that_the_dataset_names(serve: Callable) -> None:
    features = class_label(*NAMES)
    calls = serve({"train": Stream(rows(*[0, 1, 3] * 20), features), "test": Stream(rows(2, -1, None), features)})
    corpus = load_corpus(CorpusRequest(data=parse_data("hub:owner/news:en")))
    assert calls == [(("owner/news", "en"), {"streaming": True})]
    assert (corpus.spec.name, corpus.spec.classes) == ("news-en", tuple(NAMES))  # Business does not occur in train
    assert corpus.spec.metrics == ("accuracy", "macro_f1")
    assert {name: len(split.examples) for name, split in corpus.splits.items()} == {
        "train": 54,
        "validation": 6,
        "test": 3,
    }
    assert [example.label for example in corpus.splits["test"].examples] == [2, None, None]
    assert corpus.splits["test"].source == "hub:owner/news:en test"
    assert corpus.splits["validation"].source == "hub:owner/news:en train, 0.1 held out (seed 0, stratified by label)"


@pytest.mark.parametrize("name", ["validation", "valid", "val", "dev"])
def test_splits_are_found_by_name(serve: Callable, name: str) -> None:
    train = Stream(rows("a", "b", "a"))
    serve({name: Stream(rows("b")), "train": train, "unsupervised": Stream([ValueError("not to be read")])})
    corpus = load()
    assert {split: len(part.examples) for split, part in corpus.splits.items()} == {"train": 3, "validation": 1}
    assert corpus.splits["validation"].source == f"hub:owner/news {name}"
    assert corpus.spec.classes == ("a", "b")
    assert train.read == 1  # although its labels had to be looked at first
    with pytest.raises(UsageError, match=rf"--split 0\.2: hub:owner/news {name} is the validation: leave --split out"):
        load(splits="0.2")


def test_a_share_where_there_is_no_validation(serve: Callable) -> None:
    serve({"train": Stream(rows(*["a", "b"] * 20))})
    assert len(load(splits="0.25").splits["validation"].examples) == 10


@pytest.mark.parametrize(
    ("labels", "classes", "expected"),
    [
        ([-1, 0, 1, -1], ("-1", "0", "1"), [0, 1, 2, 0]),  # without names -1 is a label like any other
        ([True, False, True], ("false", "true"), [1, 0, 1]),
        ([0.5, 2.0, 0.25], (), [0.5, 2.0, 0.25]),
    ],
)
def test_labels_without_names_are_as_in_a_table(serve: Callable, labels: list, classes: tuple, expected: list) -> None:
    serve({"train": Stream(rows(*labels)), "validation": Stream(rows(labels[1]))})
    corpus = load()
    assert corpus.spec.classes == classes
    assert [example.label for example in corpus.splits["train"].examples] == expected


def test_pairs_and_other_columns(serve: Callable) -> None:
    row = {"a": "x", "b": "y", "kind": "p", "idx": 0}
    serve({"train": Stream([row, {**row, "kind": "q"}]), "dev": Stream([row])})
    corpus = load(text="a", text_b="b", label="kind", task="mine")
    assert (corpus.spec.name, corpus.spec.num_texts) == ("mine", 2)
    assert [example[:4] for example in corpus.splits["validation"].examples] == [(0, "x", "y", 0)]


@pytest.mark.parametrize("names", [(), ("no", "yes")])
def test_unfit_rows_stop_or_are_left_out(serve: Callable, names: tuple) -> None:
    bad = {"text": None, "label": 1}
    features = class_label(*names) if names else None
    serve({"train": Stream([bad, *rows(0, 1, 0), bad], features), "validation": Stream(rows(0, 7), features)})
    with pytest.raises(UsageError, match="hub:owner/news train row 1: column 'text' holds null where a text belongs"):
        load()
    if names:
        corpus = load(bad_rows="skip")
        assert corpus.splits["validation"].first_skipped == (
            "hub:owner/news validation row 2: label 7 is no class from 0 to 1"
        )
        assert [example.index for example in corpus.splits["train"].examples] == [1, 2, 3]
        assert (corpus.splits["train"].skipped, corpus.splits["validation"].skipped) == (2, 1)
    else:
        with pytest.raises(UsageError, match="validation row 2: label '7' is not among the training labels: 0, 1"):
            load(bad_rows="skip")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            ConnectionError("no route\nto host"),
            "cannot read hub:owner/news from the hub (ConnectionError: no route): check the name, or pass a file of "
            "your own with --data",
        ),
        (
            ValueError("Config name is missing.\nPlease pick one among the available configs: ['a', 'b']\nExample: x"),
            "(ValueError: Config name is missing. Please pick one among the available configs: ['a', 'b']): check",
        ),
        ({"test": Stream(rows("a"))}, "hub:owner/news has no split train (its splits: test): pass a file"),
        (
            {"train": Stream([*rows("a", "b"), TimeoutError("gone")])},
            "after 2 rows: cannot read hub:owner/news train from the hub (TimeoutError: gone): check the name",
        ),
        ({"train": Stream([])}, "hub:owner/news train has no rows"),
        (
            {"train": Stream(rows("a", "b", text="body"))},
            "hub:owner/news train row 1: no column 'text'; the columns are: body, label",
        ),
        (
            {"train": Stream(rows("a", ["a", "b"]))},
            "train row 2: label ['a', 'b'] is a list, and an example has one label: for several labels a text pass",
        ),
        (
            {"train": Stream(rows([0]), {"label": SimpleNamespace(feature="int64")})},
            "hub:owner/news train: column 'label' holds lists, and an example has one label: for several labels",
        ),
        ({"train": Stream(rows(0, 0), class_label("only"))}, "news: every label is 'only': training needs at least"),
        ({"train": Stream(rows(*[0] * 20), class_label("a", "b"))}, "news train has only one class in its 18 rows"),
    ],
)
def test_failures_are_one_line(serve: Callable, answer: dict | Exception, message: str) -> None:
    serve(answer)
    with pytest.raises(UsageError) as raised:
        load()
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_data": Path("x.csv")}, "--eval-data does not go with hub:owner/news, whose splits are found by name"),
        ({"test_data": Path("x.csv")}, "--test-data does not go with hub:owner/news"),
        ({"splits": "train,test"}, "--split train,test does not go with your own --data"),
        ({"splits": "2"}, "--split 2: the share of train to keep as validation lies between 0 and 1"),
        ({"limit": 0}, "a limit of 0 rows leaves nothing"),
        ({"task": "../x"}, "task name '../x': use letters"),
    ],
)
def test_wrong_uses_do_not_ask_the_hub(serve: Callable, options: dict, message: str) -> None:
    calls = serve(AssertionError("the hub was asked"))
    with pytest.raises(UsageError) as raised:
        load(**options)
    assert message in str(raised.value)
    assert calls == []


def test_without_datasets_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match=r"reading hub:owner/news from the hub needs datasets: pip install"):
        load()


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that `datasets` finds by the bare name "news", as it would find a dataset on the hub."""
    pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "news").mkdir()
    return tmp_path / "news"


def write_parquet(path: Path, columns: dict, features: dict) -> None:
    import datasets

    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(path)


def test_the_real_datasets_names_the_classes(local: Path) -> None:
    import datasets

    features = {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=NAMES)}
    columns = {"text": [f"t{i}" for i in range(40)], "label": [i % 4 for i in range(40)]}
    write_parquet(local / "train-00000-of-00001.parquet", columns, features)
    write_parquet(local / "test-00000-of-00001.parquet", {"text": ["a", "b"], "label": [3, -1]}, features)
    corpus = load_hub(HubDataset("news"), share=0.25)
    assert corpus.spec.classes == tuple(NAMES)
    assert len(corpus.splits["validation"].examples) == 10
    assert [example[:4] for example in corpus.splits["test"].examples] == [(0, "a", None, 3), (1, "b", None, None)]
    assert {example.text: example.label for example in corpus.splits["train"].examples}.items() <= dict(
        zip(columns["text"], columns["label"], strict=True)
    ).items()


def test_the_real_datasets_has_a_list_of_labels(local: Path) -> None:
    import datasets

    feature = datasets.Sequence(datasets.ClassLabel(names=["x", "y"]))
    features = {"text": datasets.Value("string"), "label": feature}
    write_parquet(local / "train-00000-of-00001.parquet", {"text": ["a"], "label": [[0, 1]]}, features)
    with pytest.raises(UsageError, match="hub:news train: column 'label' holds lists, and an example has one label"):
        load_hub(HubDataset("news"))


def test_the_real_datasets_reads_csv_and_configurations(local: Path) -> None:
    for config, labels in [("a", "xy"), ("b", "pq")]:
        (local / config).mkdir()
        lines = [f"t{i},{labels[i % 2]}" for i in range(20)]
        (local / config / "train.csv").write_text("\n".join(["text,label", *lines, ""]))
    sources = "".join(f"- config_name: {name}\n  data_files: {name}/train.csv\n" for name in "ab")
    (local / "README.md").write_text(f"---\nconfigs:\n{sources}---\n")
    assert load_hub(HubDataset("news", "b")).spec.classes == ("p", "q")
    with pytest.raises(UsageError, match=r"Please pick one among the available configs: \['a', 'b'\]"):
        load_hub(HubDataset("news"))
