"""Pairs and triplets in the formats of sentence-transformers' data, from files and from a hub that is faked."""

from __future__ import annotations

import gzip
import io
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from glot.corpus import hub, triplets
from glot.corpus.examples import Example, ExampleTable
from glot.corpus.load import load_corpus
from glot.corpus.request import CorpusRequest, corpus_name, default_max_tokens, request_digest
from glot.corpus.spool import Spool
from glot.corpus.triplets import load_pairs
from glot.errors import UsageError
from glot.fit.config import FitOptions, TrainConfig
from glot.nn.config import PoolerConfig
from glot.registry.tasks import head_defaults

ROWS = [
    ({"query": "q", "pos": ["p", "p2"], "neg": ["n", "n2", "n3"]}, [("q", "p", "n"), ("q", "p2", "n")]),
    ({"anchor": "a", "positive": "p", "negative": "n"}, [("a", "p", "n")]),
    ({"query": "b", "positive": "p", "negatives": ["n", "m"]}, [("b", "p", "n")]),
    ({"anchor": "c", "positive": "p", "negative_1": "n1", "negative_2": "n2"}, [("c", "p", "n1")]),
    (["d", "p", "n"], [("d", "p", "n")]),
    (["e", "p"], [("e", "p")]),
    ({"query": "f", "positive": "p", "negative": None, "other": 3}, [("f", "p")]),
    ({"query": "\ud800", "pos": [""], "neg": []}, [("\ud800", "")]),
]


def write(path: Path, rows: list[object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def flat(example: Example) -> tuple[str, ...]:
    return (example.text, example.text_b, *example.negatives)


def test_every_format_is_read(tmp_path: Path) -> None:
    file = write(tmp_path / "all.jsonl", [row for row, _ in ROWS])
    corpus = load_pairs(file, file, "all")
    train = corpus.splits["train"]
    assert [flat(example) for example in train.examples] == [pair for _, pairs in ROWS for pair in pairs]
    assert [example.index for example in train.examples] == [0, 0, 1, 2, 3, 4, 5, 6, 7]
    assert all(example.label is None for example in train.examples)
    assert train.negatives == 1
    spec, head = corpus.spec, head_defaults(corpus.spec)
    pooler, train = (FitOptions().values(config, head) for config in (PoolerConfig, TrainConfig))
    assert (spec.name, spec.num_texts, spec.target, spec.metrics[0]) == ("all", 2, "contrastive", "mrr@10")
    assert (train["lr"], pooler["gnn_layers"], pooler["hidden"], pooler["tau"]) == (2e-5, 4, 256, 0.3)
    assert (train["batch_size"], train["epochs"]) == (32, 3)


def test_as_many_negatives_as_asked_for(tmp_path: Path) -> None:
    file = write(tmp_path / "all.jsonl", [row for row, _ in ROWS])
    for count, first in [(0, ()), (2, ("n", "n2")), (9, ("n", "n2", "n3"))]:
        split = load_pairs(file, file, negatives=count).splits["train"]
        assert (split.examples[0].negatives, split.negatives) == (first, len(first))


@pytest.mark.parametrize("in_memory", [0, 40, 10**6])
def test_a_table_keeps_negatives(in_memory: int) -> None:
    rows = [
        Example(0, "a", None, 1),
        Example(1, "b", "c", None, ("d", "\ud800\n\"'")),
        Example(2, "e", None, None, ("",)),
        Example(3, "f", "", None),
    ]
    table = ExampleTable(rows, Spool(in_memory))
    assert table == rows
    assert list(table.take([2, 1])) == [rows[2], rows[1]]
    assert table[1] == rows[1]


def test_a_gzipped_file_is_the_same(tmp_path: Path) -> None:
    plain = write(tmp_path / "x.jsonl", [row for row, _ in ROWS])
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(Path(plain).read_bytes()))
    zipped = str(tmp_path / "x.jsonl.gz")
    assert load_pairs(zipped, zipped).splits["train"].examples == load_pairs(plain, plain).splits["train"].examples


def test_held_out_queries_take_all_their_positives_along(tmp_path: Path) -> None:
    rows = [[f"query {row % 50}", f"answer {row}"] for row in range(200)]
    file = write(tmp_path / "x.jsonl", rows)
    splits = load_pairs(file).splits
    sets = {name: {example.text for example in split.examples} for name, split in splits.items()}
    assert not sets["train"] & sets["validation"]
    assert (len(sets["validation"]), len(splits["validation"].examples), len(splits["train"].examples)) == (5, 20, 180)
    again = load_pairs(file).splits
    assert all(again[name].examples == split.examples for name, split in splits.items())


def test_a_limit_is_of_rows(tmp_path: Path) -> None:
    file = write(tmp_path / "x.jsonl", [{"query": str(row), "pos": ["a", "b"]} for row in range(9)])
    assert [example.index for example in load_pairs(file, file, limit=2).splits["train"].examples] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"query": "a"}', r"it has the names query; a row is"),
        ("{}", r"it has the names \(none\)"),
        ('{"text": "a", "pos": "b"}', "it has the names text, pos"),
        ('{"query": "a", "pos": []}', "'pos' is an empty list"),
        ('{"query": null, "pos": "b"}', "'query' holds null"),
        ('{"query": ["a"], "pos": "b"}', "'query' holds list"),
        ('{"query": "a", "pos": ["b", 3]}', "'pos' holds int"),
        ('["a"]', "an array of 1"),
        ('["a", null]', "holds null"),
        ('"a"', "a str where an object or an array belongs"),
        ('{"query": "a"', "one JSON value a line"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_an_unfit_row_stops_or_is_skipped_and_counted(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('["a", "b"]\n\n' + line + '\n["c", "d"]\n')
    with pytest.raises(UsageError, match=rf"x\.jsonl line 3: .*{message}"):
        load_pairs(str(path), str(path))
    split = load_pairs(str(path), str(path), bad_rows="skip").splits["train"]
    assert ([example.text for example in split.examples], split.skipped) == (["a", "c"], 1)
    assert "line 3" in split.first_skipped


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    whole = gzip.compress(json.dumps(["a", "b"]).encode() * 2000)
    for name, data, message in [
        ("cut.jsonl.gz", whole[:-20], "cannot read .*cut"),
        ("no.jsonl.gz", b"no gzip", "cannot read .*no"),
        ("latin.jsonl", '["é", "b"]'.encode("latin-1"), "not UTF-8"),
        ("empty.jsonl", b"", "has no rows"),
        ("pairs.csv", b"a,b", "pairs are JSON lines"),
        ("one.jsonl", b'["a", "b"]', "one query only"),
    ]:
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UsageError, match=message):
            load_pairs(str(tmp_path / name))
    (tmp_path / "bad.jsonl").write_text("[]\n[]\n")
    with pytest.raises(UsageError, match=r"has no rows: all 2 were left out, the first: bad\.jsonl line 1"):
        load_pairs(str(tmp_path / "bad.jsonl"), bad_rows="skip")
    with pytest.raises(UsageError, match=r"no file .*absent"):
        load_pairs(str(tmp_path / "absent.jsonl"))


def test_texts_do_not_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triplets, "ExampleTable", lambda: ExampleTable(spool=Spool(in_memory=1 << 16)))
    path = tmp_path / "x.jsonl"
    with path.open("w") as file:
        for row in range(4000):
            file.write(json.dumps([f"{row} " + "q" * 500, "p" * 500, "n" * 500]) + "\n")
    tracemalloc.start()
    corpus = load_pairs(str(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(len(split.examples) for split in corpus.splits.values()) == 4000
    assert peak < path.stat().st_size / 2


@pytest.fixture
def fake_files(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stands in for the hub's files: serves `data`, records what was opened and how many bytes were read."""
    fake = SimpleNamespace(data=b"", opened=[], raw=None)

    class Files:
        def open(self, path: str, mode: str) -> io.BytesIO:
            fake.opened.append((path, mode))
            fake.raw = io.BytesIO(fake.data)
            return fake.raw

    monkeypatch.setattr(huggingface_hub, "HfFileSystem", Files)
    monkeypatch.setattr(hub, "_check_reachable", lambda: None)
    return fake


def test_a_file_of_the_hub_is_streamed(fake_files: SimpleNamespace) -> None:
    lines = b"".join(json.dumps({"query": f"q{row}", "pos": ["p"]}).encode() + b"\n" for row in range(20))
    fake_files.data = gzip.compress(lines)
    source = "hub:sentence-transformers/embedding-training-data/msmarco-triplets.jsonl.gz"
    request = CorpusRequest(pairs=source, limit=5)
    assert (corpus_name(request), default_max_tokens(request)) == ("msmarco-triplets", 128)
    split = load_corpus(request).splits["train"]
    place = "datasets/sentence-transformers/embedding-training-data/msmarco-triplets.jsonl.gz"
    assert fake_files.opened == [(place, "rb")]
    assert (len(split.examples), split.source.partition(",")[0]) == (4, source)
    assert fake_files.raw.closed


def test_rows_of_the_hub_are_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, calls = [], []

    def load_dataset(*args: object, **kwargs: object) -> Iterator[dict]:
        calls.append((args, kwargs))
        for row in range(100):
            drawn.append(row)
            yield {"anchor": f"a{row}", "positive": "p", "negative": "n"}

    monkeypatch.setitem(__import__("sys").modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    monkeypatch.setattr(hub, "_check_reachable", lambda: None)
    corpus = load_corpus(CorpusRequest(pairs="hub:sentence-transformers/all-nli/triplet", limit=10, negatives=0))
    assert (corpus.spec.name, len(drawn), len(corpus.splits["train"].examples)) == ("triplet", 10, 9)
    assert calls == [(("sentence-transformers/all-nli", "triplet"), {"split": "train", "streaming": True})]


def test_no_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable() -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(hub, "_check_reachable", unreachable)
    with pytest.raises(UsageError, match=r"cannot read hub:a/b/c\.jsonl from the hub \(OSError: no route to host\)"):
        load_pairs("hub:a/b/c.jsonl")
    with pytest.raises(UsageError, match="name a data set of the hub as in"):
        load_pairs("hub:a")


def test_options_that_do_not_go_with_pairs(tmp_path: Path) -> None:
    file = write(tmp_path / "x.jsonl.json", [["a", "b"], ["c", "d"]])
    for option, value in [("text", "t"), ("label", "l"), ("splits", "train"), ("ratio", 0.5)]:
        with pytest.raises(UsageError, match="does not go with --pairs"):
            load_corpus(CorpusRequest(pairs=file, **{option: value}))
    with pytest.raises(UsageError, match="--pairs does not go with your own --data"):
        load_corpus(CorpusRequest(pairs=file, data=Path("x.csv")))
    with pytest.raises(UsageError, match="--negatives does not go with data without --pairs"):
        load_corpus(CorpusRequest("cola", negatives=2))
    for wrong in ({"negatives": -1}, {"limit": 0}):
        with pytest.raises(UsageError, match="must be at least"):
            load_corpus(CorpusRequest(pairs=file, **wrong))
    with pytest.raises(UsageError, match=r"task name '\.\./x'"):
        load_corpus(CorpusRequest("../x", pairs=file))


def test_the_digest_knows_the_files_content(tmp_path: Path) -> None:
    request = CorpusRequest(pairs=write(tmp_path / "x.jsonl", [["a", "b"]]))
    first = request_digest(request)
    write(tmp_path / "x.jsonl", [["a", "c"]])
    assert request_digest(request) != first
    names = ("hub:a/x/y.jsonl", "hub:b/x/y.jsonl")
    assert request_digest(CorpusRequest(pairs=names[0])) != request_digest(CorpusRequest(pairs=names[1]))
    others = [CorpusRequest(pairs=names[0], eval_data=Path(f"hub:{owner}/set/dev.jsonl")) for owner in "ab"]
    assert request_digest(others[0]) != request_digest(others[1])
