"""`glot train`: one command from a table to a scored head, in one folder, that goes on where it was stopped."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from glot.fit.run_folder import RunConfig
from glot.inference.model import GlotModel
from glot.store.reader import Cache
from tests.report.test_page import Page

Glot = Callable[..., tuple[int, str, str]]


@pytest.fixture
def train(glot: Glot, backbone_folders: dict[str, Path]) -> Glot:
    """`glot train` with a tiny model on the CPU, into the folder `made`."""
    return lambda *words: glot(
        "train", *words, "--model", backbone_folders["bert"], "--device", "cpu", "--out", "made", "--max-tokens", 24
    )


def rows_of(path: Path | str) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_from_a_table_to_a_decision(
    train: Glot, glot: Glot, table: Path, backbone_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = train(table)
    assert code == 0, err
    assert "train.csv: text in 'sentence', label in 'kind'\n" in out
    assert "label: 2 classes (animal 120, water 120)\n" in out
    assert "192 rows to train on, 48 to score on: a fifth of the rows of train.csv" in out
    told = re.search(
        r"^240 texts, (\d+) distinct, ([\d,]+) tokens: 0.00 GB of states in made/cache, ", out, re.MULTILINE
    )
    assert told, out
    assert re.search(r"made/cache, (seconds|about \d+ s on cpu) to make$", out, re.MULTILINE), out
    source, answers, cache = rows_of(table), rows_of("made/predictions.csv"), Cache("made/cache")
    # The rows that are scored: a fifth of each class, none of which was trained on.
    held = [int(row["index"]) for row in answers]
    assert sorted([*held, *cache.examples("train").index.tolist()]) == list(range(240))
    assert [row["sentence"] for row in answers] == [source[place]["sentence"] for place in held]
    assert (
        [row["kind"] for row in answers]
        == [source[place]["kind"] for place in held]
        == ["animal"] * 24 + ["water"] * 24
    )
    right = np.mean([row["kind"] == row["label"] for row in answers])
    assert f"{100 * right:.1f} % accuracy [" in out
    assert [row["is_right"] for row in answers] == [str(int(row["kind"] == row["label"])) for row in answers]
    assert "Warning" not in err
    assert "on 48 untouched rows; majority 50.0; logistic regression on the mean " in out
    for row in answers:
        assert float(row["probability"]) == float(row[f"probability_{row['label']}"])
    # How many tokens there are to come is what the tokenizer of the model counts.
    tokenizer, texts = AutoTokenizer.from_pretrained(backbone_folders["bert"]), {row["sentence"] for row in source}
    assert int(told[1]) == len(texts)
    lengths = [len(tokenizer(text, truncation=True, max_length=24)["input_ids"]) for text in texts]
    assert int(told[2].replace(",", "")) == sum(lengths) == cache.plan.length.sum()
    config = RunConfig.load(Path("made"))  # of the preset strong
    assert (config.train.start, config.layers) == ("regression", (0, 1, 2))
    page = Page(Path("made/report.html")).text
    assert f"{100 * right:.1f} % [" in page.replace("\xa0", " ")
    for part in ("logistic regression", "By class, percent", "Confusion matrix", "Calibration in numbers"):
        assert part in page
    for part in ("Training labels that are likely", "Rows that train has", "Is more data", "Settings", "Environment"):
        assert part in page
    code, scored, err = glot("evaluate", "--run", "made", "--cache", "made/cache", "--device", "cpu")
    assert code == 0, err
    assert scored.startswith("made on test: accuracy ")  # there is no validation set
    code, _, err = glot("explain", "--run", "made", "--cache", "made/cache", "--index", held[0])
    assert code == 0, err
    # The folder is a run, and the card and the lines at the end say how to use it.
    model = GlotModel.load("made", backbone_folders["bert"])
    close = model.predict_proba([row["sentence"] for row in answers])[:, 0]  # the cache keeps its states in 8 bits
    np.testing.assert_allclose(close, [float(row["probability_animal"]) for row in answers], atol=0.05)
    card = Path("made/README.md").read_text(encoding="utf-8")
    assert f"{100 * right:.1f} % accuracy" in card
    for name in ("new.csv", "labelled.csv"):
        table.with_name("dev.csv").rename(name) if name == "new.csv" else Path(name).write_bytes(
            Path("new.csv").read_bytes()
        )
    lines = [line.partition(": ")[2] for line in out.splitlines() if line.startswith("to ") and ": glot " in line]
    assert [line.split()[1] for line in lines] == ["predict", "serve", "export", "evaluate"]
    assert all(f"    {line}\n" in card for line in lines)
    if find_spec("fastapi") is not None:
        monkeypatch.setattr("glot.serve.server.serve_until_stopped", lambda *_: None)  # else it would go on
    needs = {"export": "sentence_transformers", "serve": "fastapi"}
    for line in lines:
        if find_spec(needs.get(line.split()[1], "glot")) is None:
            continue
        code, _, err = glot(*shlex.split(line)[1:])
        assert code == 0, f"{line}: {err}"
    assert len(rows_of("answers.csv")) == 40
    if find_spec("sentence_transformers") is not None:  # the card of what goes to others says what was found
        given = Path("made/exported/README.md").read_text(encoding="utf-8")
        assert "; logistic regression on the mean " in given
        for words in (f"accuracy {100 * right:.1f} [", "a fifth of the rows of train.csv", "192 rows", "## Limits"):
            assert words in given


def test_the_same_command_again_does_nothing_twice(train: Glot, table: Path, forwarded: list) -> None:
    code, first, err = train(table)
    assert code == 0, err
    assert forwarded
    before = {path: path.stat().st_mtime_ns for path in Path("made").rglob("*") if path.is_file()}
    forwarded.clear()
    code, again, err = train(table)
    assert (code, forwarded) == (0, []), err
    assert "made is finished already" in again
    assert {path: path.stat().st_mtime_ns for path in Path("made").rglob("*") if path.is_file()} == before
    answer = next(line for line in first.splitlines() if "% accuracy" in line)
    assert answer in again
    code, out, err = train(table, "--json")
    found = json.loads(out)
    assert (code, err, len(out.splitlines())) == (0, "", 1)
    assert found["rows"] == {"train": 192, "test": 48}
    assert f"{100 * found['scores'][0]['score']['value']:.1f} % accuracy" in answer


@pytest.mark.parametrize(
    "where",
    [
        "finish_runs",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("extract_states", "evaluate_untouched", "write_card")
        ),
    ],
)
def test_stopped_it_goes_on_where_it_was(
    where: str, train: Glot, table: Path, forwarded: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"glot.train.run.{where}", stop)
        code, _, err = train(table)
    assert (code, "stopped; the same command goes on where it was" in err) == (130, True)
    first = len(forwarded)
    code, out, err = train(table)
    assert code == 0, err
    assert "% accuracy" in out
    assert len(forwarded) == max(first, len(forwarded) if where == "extract_states" else 0)


def test_columns_that_are_named_are_the_request_that_found_them(train: Glot) -> None:
    rows = [
        f"{place % 5}.{place % 7};the old {word} {place};{word}" for place in range(12) for word in ("dog", "river")
    ]
    Path("t.csv").write_text("\n".join(["length;body text;class", *rows, "1;the old bus;bus"]), encoding="utf-8")
    code, _, err = train("t.csv")
    assert code == 0, err
    assert "no row is scored of 'bus' (1 to train on)" in err
    code, again, err = train("t.csv", "--text", "body text", "--label", "class")
    assert (code, "made is finished already" in again) == (0, True), err
    code, _, err = train("t.csv", "--delimiter", "semicolon")
    assert (code, "other format (auto, True there, ;, auto, True here)" in err) == (2, True), err


def test_another_request_is_refused_in_the_same_folder(train: Glot, table: Path) -> None:
    assert train(table)[0] == 0
    before = {path: path.read_bytes() for path in Path("made").rglob("*") if path.is_file()}
    lines = table.read_text().splitlines()
    for words, told in (
        ([table, "--test", "dev.csv"], "made was made with other test (none there, dev.csv "),
        ([table, "--minutes", 1], "other minutes (none there, 1.0 here)"),
        ([table, "--text", "kind", "--label", "sentence"], "other columns"),
        (["less.csv"], "other data (train.csv "),
    ):
        Path("less.csv").write_text("\n".join(lines[:-1]))
        code, out, err = train(*words)
        assert (code, out, len(err.splitlines())) == (2, "", 1), words
        assert told in err
        assert "choose another folder with --out" in err
    assert {path: path.read_bytes() for path in Path("made").rglob("*") if path.is_file()} == before


def test_a_request_that_is_refused_keeps_no_folder_for_itself(
    train: Glot, glot: Glot, table: Path, backbone_folders: dict[str, Path]
) -> None:
    long = ["train", table, "--model", backbone_folders["bert"], "--device", "cpu", "--out", "made"]
    code, _, err = glot(*long, "--max-tokens", 100_000)
    assert (code, "100000" in err) == (2, True), err
    code, _, err = train(table)  # cut shorter
    assert code == 0, err
    code, _, err = glot(*long)
    assert (code, "made was made with other max_tokens (24 there, none here)" in err) == (2, True), err


def test_a_file_of_other_rows_is_what_is_scored(train: Glot, table: Path) -> None:
    with table.with_name("dev.csv").open("a", encoding="utf-8") as file:  # a row that is trained on
        file.write(table.read_text(encoding="utf-8").splitlines(keepends=True)[1])
    code, out, err = train(table, "--test", table.with_name("dev.csv"))
    assert code == 0, err
    assert "240 rows to train on, 41 to score on: the rows of dev.csv" in out
    assert re.search(r"^\d+ of the scored rows stand in the training rows too", err, re.MULTILINE), err
    assert [row["sentence"] for row in rows_of("made/predictions.csv")] == [
        row["sentence"] for row in rows_of(table.with_name("dev.csv"))
    ]


def test_texts_that_are_cut_are_told(train: Glot) -> None:
    rows = [f"{'cat ' * (30 if row < 3 else 2)}{row},{'ab'[row % 2]}" for row in range(40)]
    Path("long.csv").write_text("\n".join(["text,label", *rows]))
    code, _, err = train("long.csv")
    assert code == 0, err
    assert "3 of 40 texts are longer than 24 tokens and were cut there: --max-tokens 48 reads more of them" in err


@pytest.mark.slow
def test_pairs_with_scores(train: Glot) -> None:
    rng = np.random.default_rng(0)
    words = ["rain", "town", "old", "dog", "river", "books"]
    rows = [
        [" ".join(rng.choice(words, 3)), " ".join(rng.choice(words, 3)), f"{rng.uniform(0, 5):.2f}"] for _ in range(60)
    ]
    with open("sts.tsv", "w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([["sentence1", "sentence2", "score"], *rows])
    code, out, err = train("sts.tsv")
    assert code == 0, err
    assert "sts.tsv: texts in 'sentence1' and 'sentence2', label in 'score'" in out
    assert re.search(r"^spearman [-0-9.]+ (\[.*\] )?on 12 untouched rows; ridge regression", out, re.MULTILINE), out
    answers = rows_of("made/predictions.csv")
    assert len(answers) == 12
    for row in answers:
        assert [row["sentence1"], row["sentence2"]] == rows[int(row["index"])][:2]
        assert float(row["score"]) == float(rows[int(row["index"])][2])
        assert 0 <= float(row["predicted_score"]) <= 5
    assert "--text sentence1 --text-b sentence2" in out


@pytest.mark.slow
def test_minutes_search(train: Glot, table: Path, forwarded: list) -> None:
    pytest.importorskip("optuna", reason="glot tune needs Optuna")
    code, out, err = train(table, "--minutes", 0)
    assert code == 0, err
    assert "4 candidates" in out
    assert "Chosen among 4 candidates" in Path("made/README.md").read_text()
    best = json.loads(Path("made/tune/best/config.json").read_text())
    assert json.loads(Path("made/config.json").read_text()) == best
    count = len(forwarded)
    Path("made/result.json").unlink()
    code, again, err = train(table, "--minutes", 0)
    assert (code, len(forwarded)) == (0, count), err
    assert [line for line in again.splitlines() if "% accuracy" in line] == [
        line for line in out.splitlines() if "% accuracy" in line
    ]
