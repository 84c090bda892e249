"""Texts that may have several labels, or none, from a table to answers."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sklearn.metrics import accuracy_score, f1_score

from glot.inference.model import GlotModel

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
    page = "--page", "page.html"
    code, out, err = glot(
        "evaluate", "--run", "made", "--data", tables[form], *given, *page, "--json", "--device", "cpu"
    )
    assert code == 0, err
    doubts = json.loads(out)["doubts"]
    assert doubts["of"] == 128
    assert "128 training texts" in Path("page.html").read_text(encoding="utf-8")
    with open("made/doubts.csv", newline="", encoding="utf-8") as file:
        told = [(int(row["index"]), row["doubt"], row["label"], row["suggested"]) for row in csv.DictReader(file)]
    assert told == [
        (one["row"], f"{one['name']} is {'missing' if one['is_missing'] else 'wrong'}", one["label"], one["other"])
        for one in doubts["found"]
    ]
    evaluated = json.loads(out)["runs"][0]
    assert [one["name"] for one in evaluated["classes"]] == list(NAMES)
    thresholds = [one["threshold"] for one in evaluated["classes"]]
    assert len(set(thresholds)) > 1  # each its own
    shares = np.array([[float(row[f"probability_{name}"]) for name in NAMES] for row in answers])
    np.testing.assert_array_equal(found, shares > thresholds)
    with open(tables[1], newline="", encoding="utf-8") as file:
        counts = codes([row["tags"] for row in csv.DictReader(file)]).sum(axis=0)
    assert [one["support"] for one in evaluated["classes"]] == counts.tolist()
    write(Path("more.csv"), [("no", "the old dog"), ("none", "a river")], ("text", "body"))
    code, out, err = glot("predict", "--run", "made", "--input", "more.csv", "--output", "new.csv")
    assert code == 0, err
    assert "more.csv: text in 'body', as in training" in err
    code, _, err = glot("predict", "--run", "made", "--input", "more.csv", "--text", "body", "--output", "named.csv")
    assert code == 0, err
    assert Path("new.csv").read_bytes() == Path("named.csv").read_bytes()


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


@pytest.mark.slow
def test_out_to_other_tools(
    glot: Glot, tables: tuple[Path, Path], backbone_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    flags, _ = tables
    model = "--model", backbone_folders["bert"], "--device", "cpu"
    code, _, err = glot("extract", "--data", flags, "--text", "body", *FORMS[0], *model, "--out", "several")
    assert code == 0, err
    code, _, err = glot("fit", "--cache", "several", "--out", "run", "--device", "cpu")
    assert code == 0, err
    ours = GlotModel.from_pretrained("run")
    texts = ["old dog town", "rain over the river and a dog", "books about ships"]
    shares, labels = ours.predict_proba(texts), ours.predict(texts).astype(bool)
    names = [[name for name, has in zip(NAMES, row, strict=True) if has] for row in labels.tolist()]

    for place, to in enumerate(("sentence-transformers", "onnx")):
        code, _, err = glot("export", "--run", "run", "--to", to, f"exported{place}")
        assert code == 0, err
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(Path("modules").resolve()))
    theirs = SentenceTransformer("exported0", trust_remote_code=True, device="cpu")
    vectors = theirs.encode(texts)
    np.testing.assert_allclose(theirs[1].predict_proba(vectors), shares, atol=1e-4)
    assert theirs[1].predict(vectors) == names
    assert "the names of each text's labels" in Path("exported0/README.md").read_text(encoding="utf-8")
    page = Path("exported1/README.md").read_text(encoding="utf-8")
    code = page.split("```python\n")[1].split("```")[0].replace('Path(".")', 'Path("exported1")')
    code = code.replace('["a late goal", "the price of bread"]', repr(texts))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == repr(names), done.stderr

    code, out, err = glot("explain", "--run", "run", "--input-text", texts[1], "--json")
    assert code == 0, err
    (told,) = json.loads(out)["examples"]
    assert told["prediction"] == (", ".join(names[1]) or "none")
    (run,) = told["runs"]
    np.testing.assert_allclose(list(run["probabilities"].values()), shares[1], atol=1e-3)
    assert run["of"] == NAMES[shares[1].argmax()]
    code, out, err = glot("explain", "--run", "run", "--input-text", texts[1], "--of", "refund", "--json")
    assert code == 0, err
    (of_refund,) = json.loads(out)["examples"][0]["runs"]
    assert of_refund["of"] == "refund"
    assert of_refund["effects"] != run["effects"]


def test_other_commands(glot: Glot, tables: tuple[Path, Path], backbone_folders: dict[str, Path]) -> None:
    flags, names = tables
    model = "--model", backbone_folders["bert"], "--device", "cpu"
    given = "--text", "body"
    code, _, err = glot("extract", "--data", names, *given, *FORMS[1], *model, "--out", "several")
    assert code == 0, err
    settings = "--preset", "published", "--class-weights", "balanced"
    code, _, err = glot("fit", "--cache", "several", "--out", "run", "--device", "cpu", *settings)
    assert code == 0, err
    assert json.loads(Path("run/config.json").read_text())["train"]["class_weights"] == "balanced"
    code, out, err = glot("evaluate", "--run", "run", "--cache", "several", "--device", "cpu")
    assert code == 0, err
    assert "micro_f1" in out
    code, _, err = glot("predict", "--run", "run", "--cache", "several", "--split", "validation", "--output", "new.csv")
    assert code == 0, err
    with open("new.csv", newline="", encoding="utf-8") as file:
        assert {one for row in csv.DictReader(file) for one in row["label"].split(";")} <= {*NAMES, ""}
    glue = "--split", "validation", "--format", "glue", "--output", "glue.tsv"
    for words, said in (
        (("explain", "--run", "run", "--input-text", "a dog", "--of", "moon"), "--of moon: run has billing, login, re"),
        (("predict", "--run", "run", "--cache", "several", *glue), "glue is for one label a text"),
        (("evaluate", "--run", "run", "--data", flags, *given, *FORMS[0], *FORMS[1][2:]), "--label has 3"),
        (("evaluate", "--run", "run", "--data", names, *given, "--label", "tags"), "--label billing,login,refund, or"),
        (("evaluate", "--run", "run", "--data", flags, *given, "--label", "billing,login"), "name the column of each"),
    ):
        code, _, err = glot(*words)
        assert code == 2, err
        assert said in " ".join(err.split())


@pytest.mark.slow
def test_a_search_and_an_ensemble(glot: Glot, tables: tuple[Path, Path], backbone_folders: dict[str, Path]) -> None:
    flags, _ = tables
    given = "--text", "body", *FORMS[0]
    code, _, err = glot("extract", "--data", flags, *given, "--model", backbone_folders["bert"], "--out", "several")
    assert code == 0, err
    code, out, err = glot("tune", "--cache", "several", "--minutes", 0, "--ensemble", 2, "--out", "tuned")
    assert code == 0, err
    assert "micro_f1" in out
    code, out, err = glot("evaluate", "--run", "tuned/ensemble", "--data", flags, *given, "--json")
    assert code == 0, err
    told = json.loads(out)["runs"][0]["classes"]
    each = [GlotModel.from_pretrained(f"tuned/ensemble/{member}").thresholds for member in (1, 2)]
    np.testing.assert_allclose([one["threshold"] for one in told], np.mean(each, axis=0), rtol=1e-6)
    model = GlotModel.from_pretrained("tuned/ensemble")
    texts = ["old dog town", "rain over the river and a dog", "books about ships"]
    np.testing.assert_array_equal(model.predict(texts), model.predict_proba(texts) > np.mean(each, axis=0))
