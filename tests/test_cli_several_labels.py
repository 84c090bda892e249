"""Texts that may have several labels, or none, from a table to answers."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

Glot = Callable[..., tuple[int, str, str]]
NAMES = ("billing", "login", "refund")
FORMS = (("--label", ",".join(NAMES)), ("--label", "tags", "--label-separator", ";"))


def write(path: Path, rows: list[tuple], header: tuple[str, ...]) -> Path:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    """The same 160 texts with a column a label, and with the labels' names in one."""
    rng = np.random.default_rng(0)
    words = ["rain", "falls", "softly", "over", "the", "old", "town", "in", "autumn", "books", "about", "ships"]
    has = rng.random((160, 3)) < (0.5, 0.4, 0.3)
    texts = [" ".join([*rng.choice(words, 5), *np.array(["dog", "river", "moon"])[row]]) for row in has]
    flags = [(text, *map(int, row)) for text, row in zip(texts, has, strict=True)]
    names = [(text, ";".join(np.array(NAMES)[row])) for text, row in zip(texts, has, strict=True)]
    return (
        write(tmp_path / "flags.csv", flags, ("body", *NAMES)),
        write(tmp_path / "names.csv", names, ("body", "tags")),
    )


def codes(cells: list[str]) -> np.ndarray:
    return np.array([[name in cell.split(";") for name in NAMES] for cell in cells])


@pytest.mark.parametrize("form", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_from_a_table_to_answers(
    glot: Glot, tables: tuple[Path, Path], backbone_folders: dict[str, Path], form: int
) -> None:
    given = "--text", "body", *FORMS[form]
    model = "--model", backbone_folders["bert"], "--device", "cpu"
    code, out, err = glot("train", tables[form], *given, *model, "--out", "made")
    assert code == 0, err
    assert "3 labels (billing " in out
    assert "; majority (" in out
    assert "one-vs-rest logistic regression on the mean " in out
    with open("made/predictions.csv", newline="", encoding="utf-8") as file:
        answers = list(csv.DictReader(file))
    real, found = (
        codes([row["labels" if form == 0 else "tags"] for row in answers]),
        codes([row["label"] for row in answers]),
    )
    assert f"{100 * f1_score(real, found, average='micro'):.1f} % micro_f1 [" in out
    assert f"macro_label_f1 {100 * f1_score(real, found, average='macro'):.1f} [" in out
    assert f"exact_match {100 * accuracy_score(real, found):.1f} [" in out
    assert Path("made/report.html").exists()
    code, out, err = glot("evaluate", "--run", "made", "--data", tables[form], *given, "--json", "--device", "cpu")
    assert code == 0, err
    evaluated = json.loads(out)["runs"][0]
    assert [one["name"] for one in evaluated["classes"]] == list(NAMES)
    thresholds = [one["threshold"] for one in evaluated["classes"]]
    assert len(set(thresholds)) == len(NAMES)  # each its own
    shares = np.array([[float(row[f"probability_{name}"]) for name in NAMES] for row in answers])
    np.testing.assert_array_equal(found, shares > thresholds)
    with open(tables[1], newline="", encoding="utf-8") as file:
        counts = codes([row["tags"] for row in csv.DictReader(file)]).sum(axis=0)
    assert [one["support"] for one in evaluated["classes"]] == counts.tolist()
    code, out, err = glot("predict", "--run", "made", "--input", tables[form], "--text", "body", "--output", "new.csv")
    assert code == 0, err


def test_wrong_uses_take_one_line(
    glot: Glot, tables: tuple[Path, Path], backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    def refused(*words: object) -> str:
        code, _, err = glot(*words)
        assert code == 2, err
        return " ".join(err.split())

    flags, names = tables
    train = "train", "--model", backbone_folders["bert"], "--text", "body"
    rows = [("a dog", 1, 2), ("b", 0, 1), ("c", 1, 0)]
    other = write(tmp_path / "other.csv", rows, ("body", "billing", "login"))
    assert "other.csv line 2: login is '2'" in refused(*train, other, "--label", "billing,login")
    blank = write(tmp_path / "blank.csv", [("a dog", 1, ""), ("b", 0, 1)], ("body", "billing", "login"))
    assert "blank.csv line 2: login is empty: a column" in refused(*train, blank, "--label", "billing,login")
    assert "need 2 to 53 different labels, and there are 1" in refused(*train, flags, "--label", "billing,")
    joined = write(tmp_path / "joined.csv", [("a dog", "a;b"), ("b", "c|a;b")], ("body", "tags"))
    asked = refused(*train, joined, "--label", "tags", "--label-separator", "|")
    assert "the label 'a;b' has a ';', which stands between labels" in asked
    rows = [(f"text {row}", row % 2, 0) for row in range(20)]
    none = write(tmp_path / "none.csv", rows, ("body", "billing", "login"))
    assert "no training row has the label 'login'" in refused(*train, none, "--label", "billing,login")
    said = refused(*train, flags, "--label", "billing,login", "--label-separator", ";")
    assert "--label-separator is for one column that names the labels, and --label has 2" in said
    assert "no column 'mood'" in refused(*train, flags, "--label", "billing,mood")
    assert "--target classes does not go with several labels" in refused(
        *train, names, *FORMS[1], "--target", "classes"
    )
    assert "--minutes searches for one label a text" in refused(*train, flags, *FORMS[0], "--minutes", "1")


def test_other_commands(glot: Glot, tables: tuple[Path, Path], backbone_folders: dict[str, Path]) -> None:
    flags, names = tables
    model = "--model", backbone_folders["bert"], "--device", "cpu"
    given = "--text", "body"
    code, _, err = glot("extract", "--data", names, *given, *FORMS[1], *model, "--out", "several")
    assert code == 0, err
    code, _, err = glot("fit", "--cache", "several", "--out", "run", "--device", "cpu", "--preset", "published")
    assert code == 0, err
    code, out, err = glot("evaluate", "--run", "run", "--cache", "several", "--device", "cpu")
    assert code == 0, err
    assert "micro_f1" in out
    code, _, err = glot("predict", "--run", "run", "--cache", "several", "--split", "validation", "--output", "new.csv")
    assert code == 0, err
    with open("new.csv", newline="", encoding="utf-8") as file:
        assert {one for row in csv.DictReader(file) for one in row["label"].split(";")} <= {*NAMES, ""}
    glue = "--split", "validation", "--format", "glue", "--output", "glue.tsv"
    for words, said in (
        (("tune", "--cache", "several", "--minutes", "1"), "holds several labels a text"),
        (("explain", "--run", "run", "--input-text", "a dog"), "gives several labels a text"),
        (("export", "--run", "run", "--to", "onnx", "exported"), "gives several labels a text"),
        (("predict", "--run", "run", "--cache", "several", *glue), "glue is for one label a text"),
        (("evaluate", "--run", "run", "--data", flags, *given, *FORMS[0], *FORMS[1][2:]), "--label has 3"),
        (("fit", "--cache", "several", "--class-weights", "balanced"), "texts of several labels"),
        (("evaluate", "--run", "run", "--data", names, *given, "--label", "tags"), "--label billing,login,refund, or"),
        (("evaluate", "--run", "run", "--data", flags, *given, "--label", "billing,login"), "name the column of each"),
    ):
        code, _, err = glot(*words)
        assert code == 2, err
        assert said in " ".join(err.split())
