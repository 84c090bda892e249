"""Tables through the `glot` command: what was understood is said, labels keep their names, no row is lost."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from glot.store.reader import Cache

Glot = Callable[..., tuple[int, str, str]]
WORDS = {"01": "dog", "1": "river", "1E2": "rain", "nan": "books"}


@pytest.fixture
def base(backbone_folders: dict[str, Path]) -> list[object]:
    return ["--model", backbone_folders["bert"], "--max-tokens", 24, "--device", "cpu"]


def test_names_of_classes_from_the_table_to_the_predictions(glot: Glot, base: list) -> None:
    names = list(WORDS)
    lines = [f"{names[i % 4]}\tthe {WORDS[names[i % 4]]} {i}" for i in range(40)]
    Path("codes.tsv").write_text("\n".join(["label\ttext", *lines, ""]))
    code, out, err = glot("extract", *base, "--data", "codes.tsv")
    assert code == 0, err
    assert "codes.tsv: tab-separated, UTF-8, 40 rows\n" in out
    assert "label: 4 classes (01 10, 1 10, 1E2 10, nan 10)\n" in out
    assert "label: '01', '1' are 2 classes, for they are written differently" in err
    code, _, err = glot("fit", "--cache", "cache/codes", "--pooler", "mean", "--epochs", 1, "--out", "run")
    assert code == 0, err
    assert json.loads(Path("run/config.json").read_text())["task"]["classes"] == ["01", "1", "1E2", "nan"]
    Path("new.tsv").write_text('text\n"the dog\nthe river"\n', encoding="utf-8-sig")
    code, out, err = glot("predict", "--run", "run", "--input", "new.tsv")
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == 2  # a quote is text there: a line is a row
    assert {row["label"] for row in rows} <= set(names)
    assert "new.tsv: tab-separated, quotes are text, UTF-8" in err
    assert glot("predict", "--run", "run", "--input", "new.tsv", "--quoting", "csv")[1].count("\n") == 1


def test_what_was_understood_is_kept(glot: Glot, base: list) -> None:
    lines = [f'"a dog, {i}\nbarks",{i % 2 / 2}' for i in range(4)] + [
        "the river,2",
        "rain,",
        "the old,1.5",
        "in autumn,5",
    ]
    Path("scores.csv").write_text("\n".join(["text,label", *lines, ""]))
    code, _, err = glot("extract", *base, "--data", "scores.csv")
    assert (code, "line 11: no label in column 'label'" in err) == (2, True)
    words = ["--data", "scores.csv", "--on-bad-row", "skip", "--split", "0.3"]
    code, out, err = glot("extract", *base, *words)
    assert code == 0, err
    facts = "comma-separated, CSV quotes, UTF-8, 8 rows, 1 of them skipped, 4 over several lines"
    assert f"scores.csv: {facts}\nlabel: scores 0 to 5\n" in out
    code, out, err = glot("inspect", "cache/scores", "--json")
    sets = json.loads(out)["examples"]
    assert all(entry["source"].endswith(facts) for entry in sets.values())
    assert all(entry["label"].startswith("scores ") for entry in sets.values())
    assert glot("inspect", "cache/scores")[1].count("scores ") >= 2
    code, out, err = glot("extract", *base, *words, "--target", "classes", "--out", "named", "--json")
    assert code == 0, err
    assert json.loads(out)["understood"][1] == "label: 5 classes (0.0 2, 0.5 2, 1.5 1, 2 1, 5 1)"
    assert Cache("named").manifest.examples["train"].task.target == "classes"


def test_messages_without_a_header_line(glot: Glot, base: list) -> None:
    rows = ['ham\t"ok lar', "spam\twin a dog", 'ham\tsaid "so"', 'ham\tso"', "spam\tthe river"] * 4
    Path("sms.tsv").write_bytes("\n".join(rows).encode())
    code, out, err = glot("extract", *base, "--data", "sms.tsv")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "sms.tsv seems to have no header line" in err
    assert "ok lar" not in err
    options = ["--no-header", "--label", 1, "--text", 2]
    code, out, err = glot("extract", *base, "--data", "sms.tsv", *options)
    assert code == 0, err
    assert "sms.tsv: tab-separated, quotes are text, UTF-8, 20 rows\n" in out
    assert "label: 2 classes (ham 12, spam 8)\n" in out
    cache = Cache("cache/sms")
    assert sum(len(cache.examples(name)) for name in cache.manifest.examples) == 20


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "sst2", "--no-header"], "--no-header does not go with the known task sst2"),
        (["--task", "stress", "--target", "score"], "--target does not go with the made task stress"),
        (["--data", "hub:news", "--encoding", "latin-1"], "--encoding does not go with hub:news"),
        (["--pairs", "p.jsonl", "--quoting", "none"], "--quoting does not go with --pairs"),
        (["--data", "l.csv"], "l.csv is not UTF-8 text (byte 0xef, invalid continuation byte): save it as UTF-8, or"),
        (["--data", "l.csv", "--target", "number"], "unknown --target 'number': choose classes or score"),
        (["--data", "l.csv", "--encoding", "latin-2000"], "unknown --encoding latin-2000"),
    ],
)
def test_wrong_uses_are_one_line(glot: Glot, base: list, words: list[str], message: str) -> None:
    Path("l.csv").write_bytes("text,label\nna\xefve,1\nb,2\n".encode("latin-1"))
    code, out, err = glot("extract", *base, *words)
    assert (code, len(err.splitlines()), out) == (2, 1, "")
    assert message in err
    assert not Path("cache").exists()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_standard_input_is_read_as_a_file_is(glot: Glot, monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    seen = []

    class Model:
        width, folder = 4, Path("run")
        config = SimpleNamespace(states=SimpleNamespace(template="{text}"))

        def encode(self, texts: list[str], texts_b: list[str] | None) -> np.ndarray:
            assert texts_b is None
            seen.append(texts)
            return np.zeros((len(texts), 4), np.float32)

    monkeypatch.setattr("glot.inference.model.GlotModel.load", lambda *_: Model())
    monkeypatch.setattr("glot.inference.run_checks.check_new_texts", lambda *_: Model)
    monkeypatch.setattr("glot.commands.encode.note_unfinished", lambda *_: None)
    data = "the dog\r\n\r\na river\rin autumn\u2028so\nnaïve".encode(encoding)
    Path("texts.txt").write_bytes(data)
    for where in ("texts.txt", "-"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        code, _, err = glot("encode", "--run", "run", "--input", where, "--output", "a.npy")
        assert code == 0, err
    assert seen == [["the dog", "", "a river\rin autumn\u2028so", "naïve"]] * 2
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("naïve".encode("latin-1"))))
    code, _, err = glot("encode", "--run", "run", "--input", "-", "--output", "b.npy")
    assert (code, "standard input is not UTF-8 text" in err) == (2, True)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("naïve".encode("latin-1"))))
    code, _, err = glot("encode", "--run", "run", "--input", "-", "--output", "b.npy", "--encoding", "latin-1")
    assert (code, seen[-1]) == (0, ["naïve"])
    code, _, err = glot("encode", "--run", "run", "--input", "-", "--output", "b.npy", "--quoting", "csv")
    assert (code, "--quoting is for a table, and - has a text a line" in err) == (2, True)


def test_pairs_without_scores_are_skipped_where_they_are_scored(glot: Glot, extracted: Path) -> None:
    pytest.importorskip("mteb", reason="mteb is not installed")
    code, _, err = glot("fit", "--cache", extracted, "--pooler", "mean", "--epochs", 1, "--out", "run")
    assert code == 0, err
    lines = [
        "the cat\tthe dog\t1",
        '"the mat\tthe mat\t5',
        "a dog\ta dog barks\t",
        'rain"\tin autumn\t0.5',
        "a\tb\tn/a",
    ]
    Path("sts.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *lines, ""]))
    command = ["evaluate", "--run", "run", "--mteb-local", "sts:sts.tsv", "--device", "cpu"]
    code, _, err = glot(*command)
    assert (code, "sts.tsv line 4: no label in column 'score'" in err) == (2, True)
    code, out, err = glot(*command, "--on-bad-row", "skip")
    assert code == 0, err
    said = "sts.tsv: tab-separated, quotes are text, UTF-8, 5 rows, 2 of them skipped, the first: sts.tsv line 4"
    assert said in out
    assert said in Path("run/mteb/scores.md").read_text()
    Path("bare.txt").write_text("\n".join(["the cat|the dog|1", "the mat|the mat|5", "rain|rain|3", ""]))
    command[4] = "sts:bare.txt:1,2,3"
    code, _, err = glot(*command, "--no-header", "--delimiter", "pipe")
    assert code == 0, err
    code, _, err = glot("evaluate", "--run", "run", "--cache", extracted, "--on-bad-row", "skip")
    assert (code, "--on-bad-row does not go with --cache" in err) == (2, True)
