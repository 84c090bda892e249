"""`glot evaluate --data`: the numbers of a cache's example set from the file alone, and the page that shows them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from glot.registry.tasks import Columns
from glot.train.result import Trained
from tests.report.test_page import Page

Glot = Callable[..., tuple[int, str, str]]
FIT = ["fit", "--epochs", 1, "--hidden", 8, "--seeds", "0", "--device", "cpu"]
COLUMNS = ["--text", "sentence", "--label", "kind"]


def write_rows(path: str, rows: list[list[object]]) -> None:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)


def read_rows(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_file_has_the_scores_that_its_cache_has(glot: Glot, extracted: Path) -> None:
    code, out, err = glot(*FIT, "--cache", extracted, "--out", "run", "--json")
    assert code == 0, err
    judgement = json.loads(out)["judgements"][0]
    code, out, err = glot("evaluate", "--run", "run", "--data", "dev.csv", *COLUMNS, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["data"] == "dev.csv"
    (one,) = found["runs"]
    assert (one["run"], one["source"], one["examples"]) == ("run", "dev.csv", 40)
    for part in ("score", "yardsticks", "rival", "difference"):  # of the mean of states in 16 bits and in 32
        assert one["judgements"][0][part] == judgement[part]
    assert one["classes_order"] == ["animal", "water"]
    assert [row["support"] for row in one["classes"]] == [20, 20]
    assert np.trace(one["confusion"]) == round(40 * one["judgements"][0]["score"]["value"])
    assert one["scaling"]["source"] == "validation"

    code, out, err = glot("evaluate", "--run", "run", "--data", "dev.csv", *COLUMNS)
    assert code == 0, err
    assert re.search(r"dev.csv \(40 examples\): accuracy [\d.]+ \[[\d., ]+\]; majority 50.0; logistic regression", out)
    assert "by class, percent" in out
    assert "calibration: expected error" in out
    assert "dev.csv: comma-separated, UTF-8, 40 rows" in err


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl", ".parquet"])
def test_any_table_that_pandas_writes_is_scored(glot: Glot, extracted: Path, suffix: str) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    assert glot(*FIT, "--no-yardsticks", "--cache", extracted, "--out", "run")[0] == 0
    frame, held = pandas.read_csv("dev.csv"), Path("held").with_suffix(suffix)
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="Parquet files need pyarrow")
        frame.to_parquet(held)
    elif suffix == ".jsonl":
        frame.to_json(held, orient="records", lines=True)
    else:
        frame.to_csv(held, sep="\t", index=False)
    words = ["evaluate", "--run", "run", *COLUMNS, "--json", "--data"]
    (expected,), (found,) = (json.loads(glot(*words, path)[1])["runs"] for path in ("dev.csv", held))
    assert found["source"] == held.name
    for part in ("confusion", "classes", "judgements", "calibration"):
        assert json.dumps(found[part]) == json.dumps(expected[part]).replace("dev.csv", held.name)


def test_runs_and_ensembles_share_one_forward(
    glot: Glot, extracted: Path, forwarded: list[tuple[int, ...]], tmp_path: Path
) -> None:
    code, _, err = glot(*FIT[:-4], "--seeds", "0,1", "--device", "cpu", "--cache", extracted, "--out", "runs")
    assert code == 0, err
    from glot.fit.ensemble import Ensemble
    from glot.fit.run_folder import RunConfig

    (tmp_path / "both").mkdir()
    for member, seed in (("1", "0"), ("2", "1")):
        (tmp_path / "runs" / f"seed-{seed}").rename(tmp_path / "both" / member)
    Ensemble.of([RunConfig.load(tmp_path / "both" / member) for member in "12"]).save(tmp_path / "both")
    forwarded.clear()
    runs = ["--run", "both", "--run", "both/1"]
    code, out, err = glot("evaluate", *runs, "--data", "test.csv", *COLUMNS, "--json")
    assert code == 0, err
    both, first = json.loads(out)["runs"]
    assert (both["run"], first["run"]) == ("both", "both/1")
    assert len(forwarded) == len(set(forwarded)) > 5
    code, out, _ = glot("predict", "--run", "both", "--input", "test.csv", "--text", "sentence")
    answers = [json.loads(line)["label"] for line in out.splitlines()]
    right = np.mean([answer == ("animal" if row < 5 else "water") for row, answer in enumerate(answers)])
    assert both["judgements"][0]["score"]["value"] == pytest.approx(right)


def test_without_its_cache_a_run_is_scored_alone(glot: Glot, extracted: Path) -> None:
    assert glot(*FIT, "--cache", extracted, "--out", "run")[0] == 0
    extracted.rename("elsewhere")
    code, out, err = glot("evaluate", "--run", "run", "--data", "dev.csv", *COLUMNS, "--page", "page.html")
    assert code == 0, err
    assert "no yardsticks: run was trained on" in err
    assert "majority" not in out
    assert "by class" in out
    assert "Doubtful labels" not in Page(Path("page.html")).text
    code, out, _ = glot("evaluate", "--run", "run", "--data", "dev.csv", *COLUMNS, "--quiet", "--json")
    assert json.loads(out)["runs"][0]["scaling"]["crosswise"]


def test_columns_that_nobody_names(glot: Glot, extracted: Path) -> None:
    """They are those that `glot train` had, where it made the run; else the obvious ones; a name always holds."""
    assert glot(*FIT, "--cache", extracted, "--out", "run")[0] == 0
    words = ["evaluate", "--run", "run", "--data"]
    code, named, err = glot(*words, "dev.csv", *COLUMNS)
    code, out, err = glot(*words, "dev.csv")
    assert (code, out) == (0, named), err
    assert "dev.csv: text in 'sentence'; label in 'kind'\n" in err
    rows = [[row["sentence"], row["kind"], "x", f"{row['sentence']} and on"] for row in read_rows("dev.csv")]
    write_rows("more.csv", [["was", "what", "text", "sentence"], *rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trained, "columns_of", lambda folder: Columns("was", None, "what"))
        code, out, err = glot(*words, "more.csv")
        assert (code, out.replace("more.csv", "dev.csv")) == (0, named), err
        assert "more.csv: text in 'was', as in training; label in 'what', as in training\n" in err
        code, out, err = glot(*words, "more.csv", "--text", "sentence")
        assert code == 0, err
        assert "more.csv: label in 'what', as in training\n" in err
    write_rows("vague.csv", [["was", "what"], *(["the dog", "the water"] for _ in rows)])
    code, _, err = glot(*words, "vague.csv")
    assert (code, "Name it with --text" in err, len(err.splitlines())) == (2, True, 1), err


def test_rows_that_cannot_be_scored_are_named(glot: Glot, extracted: Path) -> None:
    assert glot(*FIT, "--cache", extracted, "--out", "run")[0] == 0
    write_rows("odd.csv", [["sentence", "kind"], ["the dog", "animal"], ["the river", "watr"], ["rain", ""]])
    words = ["evaluate", "--run", "run", "--data", "odd.csv", *COLUMNS]
    code, out, err = glot(*words)
    assert (code, out) == (2, "")
    assert err.startswith(
        "glot: odd.csv line 3: label 'watr' is not among the training labels: animal, water; train on"
    )
    assert err.count("\n") == 1
    write_rows("odd.csv", [["sentence", "kind"], ["the dog", "animal"], ["rain", ""], ["the river", "water"]])
    code, _, err = glot(*words)
    assert (code, "odd.csv line 3: no label in column 'kind'" in err) == (2, True)
    code, out, err = glot(*words, "--on-bad-row", "skip")
    assert code == 0, err
    assert "odd.csv (2 examples)" in out
    assert "3 rows, 1 of them skipped" in err


@pytest.mark.parametrize(
    "prompt", [[], pytest.param(["--prompt", "{text} or {text_b}"], marks=pytest.mark.slow)], ids=["two", "one"]
)
def test_pairs_with_scores(glot: Glot, backbone_folders: dict[str, Path], tmp_path: Path, prompt: list[str]) -> None:
    random = np.random.default_rng(0)
    words = ["rain", "falls", "softly", "over", "the", "old", "town"]
    for name, count in (("train", 60), ("held", 24)):
        rows: list[list[object]] = [["one", "two", "score"]]
        for _ in range(count):
            texts = [" ".join(random.choice(words, 4)) for _ in range(2)]
            shared = len(set(texts[0].split()) & set(texts[1].split()))
            rows.append([*texts, shared + 0.5])
        write_rows(f"{name}.csv", rows)
    columns = ["--text", "one", "--text-b", "two", "--label", "score"]
    extract = ["extract", "--model", backbone_folders["bert"], "--data", "train.csv", *columns, *prompt]
    assert glot(*extract, "--max-tokens", 30)[0] == 0
    assert glot(*FIT, "--cache", "cache/train", "--out", "run")[0] == 0
    page = ["--page", "page.html"]
    code, out, err = glot("evaluate", "--run", "run", "--data", "held.csv", *columns, *page, "--json")
    assert code == 0, err
    (one,) = json.loads(out)["runs"]
    code, out, err = glot("predict", "--run", "run", "--input", "held.csv", *columns[:4])
    assert code == 0, err
    answers = [json.loads(line)["predicted_score"] for line in out.splitlines()]
    labels = [float(row["score"]) for row in read_rows("held.csv")]
    scores = {row["metric"]: row["score"]["value"] for row in one["judgements"]}
    assert scores["spearman"] == pytest.approx(spearmanr(labels, answers).statistic, abs=1e-4)
    assert one["residuals"]["mae"] == pytest.approx(np.abs(np.subtract(labels, answers)).mean(), abs=1e-4)
    assert one["judgements"][0]["rival"] == "ridge regression on the mean"
    assert len(one["mistakes"][0]["texts"]) == 2
    text = Page(Path("page.html")).text
    assert f"{100 * scores['spearman']:.1f} %" in text
    assert "Where it is farthest off" in text
    code, _, err = glot("evaluate", "--run", "run", "--data", "held.csv", *columns[:2], *columns[4:])
    assert (code, "name the column of the second with --text-b" in err) == (2, True)


def test_the_page_says_it_all_and_asks_nothing_of_the_network(glot: Glot, extracted: Path) -> None:
    assert glot(*FIT, "--cache", extracted, "--out", "run")[0] == 0
    train = [row["sentence"] for row in read_rows("train.csv")]
    rows: list[list[object]] = [["sentence", "kind"], *(list(row.values()) for row in read_rows("dev.csv"))]
    turned = {"animal": "water", "water": "animal"}
    rows += [[train[0].upper(), "animal"]]
    rows += [[f"<script>alert({row})</script> & the dog", turned["animal"]] for row in range(12)]
    write_rows("held.csv", rows)
    doubled = sum(str(text).lower() in train for text, _ in rows[1:])
    code, out, err = glot("evaluate", "--run", "run", "--data", "held.csv", *COLUMNS, "--page", "pages/run.html")
    assert code == 0, err
    assert "pages/run.html: the page" in out
    score = re.search(r"accuracy ([\d.]+) \[([\d.]+), ([\d.]+)\]", out)
    assert score is not None
    page = Page(Path("pages/run.html"))
    answer = f"{score[1]} % [{score[2]}, {score[3]}] accuracy on 53 rows of held.csv"
    assert f"{answer}, {doubled} of which stand in the training data too." in page.text
    for part in ("Which classes", "Is it as sure as it should be?", "The most confident errors", "Is more data worth"):
        assert part in page.text
    assert "script" not in page.tags
    assert not [value for _, name, value in page.attributes if name in ("src", "href") and not value.startswith("#")]
    assert "mark" in page.tags  # what the head weighs
    assert [Path("pages/run.html")] == list(Path("pages").iterdir())


def test_the_page_is_of_one_run(glot: Glot, extracted: Path) -> None:
    assert glot(*FIT, "--cache", extracted, "--out", "run")[0] == 0
    words = ["evaluate", "--run", "run", "--data", "dev.csv", *COLUMNS]
    code, _, err = glot(*words, "--run", "run", "--page", "page.html")
    assert (code, "--page shows one run, and there are 2" in err) == (2, True)
    code, _, err = glot(*words, "--page", "page.pdf")
    assert (code, "one of .html, .htm" in err) == (2, True)
