"""What commands leave and print: a suffix decides how a file is written, `--json` is one object, lines that name."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from glot import doctor
from glot.store.rows import rows_file
from tests.work import make_work

Glot = Callable[..., tuple[int, str, str]]
TEXTS = ["rain falls", 'old, "quoted" town', "books\tabout ships", "naïve 文"]


@pytest.fixture(scope="module")
def made(backbone_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_work(tmp_path_factory.mktemp("work"), backbone_folders["bert"])


@pytest.fixture
def work(made: Path, glot: Glot, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The made folder as the current one."""
    monkeypatch.chdir(made)
    with open(made / "new.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text"], *([text] for text in TEXTS)])
    return made


def read_rows(path: Path) -> list[dict[str, object]]:
    """The rows of a file by its suffix, through the libraries that users read it with."""
    if path.suffix in (".jsonl", ".ndjson"):
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if path.suffix == ".parquet":
        return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    numbers = {"index": int}
    return [
        {
            name: numbers.get(name, float if name.startswith("probability") else str)(value)
            for name, value in row.items()
        }
        for row in rows
    ]


@pytest.mark.parametrize(
    "source", [["--input", "new.csv"], ["--cache", "cache", "--split", "validation"]], ids=" ".join
)
def test_the_suffix_says_how_predictions_are_written(source: list[str], work: Path, glot: Glot) -> None:
    expected = None
    for name in ("p.jsonl", "p.ndjson", "p.csv", "p.tsv", "P.CSV", "p.parquet"):
        if name == "p.parquet":
            pytest.importorskip("pyarrow", reason="Parquet files need pyarrow")
        code, out, err = glot("predict", "--run", "run", *source, "--output", f"made/{name}")
        assert (code, f"made/{name}: " in out) == (0, True), err
        rows = read_rows(work / "made" / name)
        expected = expected or rows
        assert rows == expected
    assert {row["label"] for row in expected} <= {"no", "yes"}
    assert ("probability" in expected[0]) == (source[0] == "--input")


def test_labels_of_any_kind_survive_a_csv(tmp_path: Path) -> None:
    rows = [{"index": place, "label": text} for place, text in enumerate([*TEXTS, "two\nlines", ""])]
    for name in ("a.csv", "a.tsv", "a.jsonl"):
        with rows_file(tmp_path / name, {"index": int, "label": str}) as write:
            write(rows[:2])
            write(rows[2:])
        assert read_rows(tmp_path / name) == rows


def test_a_file_that_was_not_finished_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), rows_file(tmp_path / "a.csv", {"index": int}) as write:
        write([{"index": 1 // 0}])
    assert list(tmp_path.iterdir()) == []


def test_vectors_take_the_suffix_in_any_case(work: Path, glot: Glot) -> None:
    for name in ("v.NPY", "v.npy", "v.ndjson"):
        code, _, err = glot("encode", "--run", "run", "--input", "new.csv", "--output", name)
        assert code == 0, err
    arrays = np.load("v.NPY"), np.load("v.npy")
    np.testing.assert_array_equal(*arrays)
    vectors = [json.loads(line)["vector"] for line in Path("v.ndjson").read_text().splitlines()]
    np.testing.assert_allclose(vectors, arrays[0], rtol=1e-6)


def test_predictions_under_json_are_one_object(work: Path, glot: Glot) -> None:
    code, plain, _ = glot("predict", "--run", "run", "--input", "new.csv")
    lines = [json.loads(line) for line in plain.splitlines()]
    assert (code, len(lines)) == (0, len(TEXTS))
    code, out, err = glot("predict", "--run", "run", "--input", "new.csv", "--json")
    assert (code, len(out.splitlines())) == (0, 1), err
    assert json.loads(out) == {"run": "run", "predictions": len(TEXTS), "rows": lines}


@pytest.mark.parametrize("group", ["cache", "bench"])
def test_a_group_alone_shows_its_help(group: str, glot: Glot) -> None:
    code, out, err = glot(group)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) > 8
    assert out == glot(group, "--help")[1]


def test_several_runs_are_named(work: Path, glot: Glot) -> None:
    shutil.copytree("sweep", "runs/swept", dirs_exist_ok=True)
    shutil.copytree("seeds", "runs/seeded", dirs_exist_ok=True)
    given = {
        "sweep": ("sweep holds 2 runs (tau=0.3/seed-0, tau=0.6/seed-0)", "sweep/tau=0.3/seed-0"),
        "seeds": ("seeds holds 2 runs (seed-0, seed-1)", "seeds/seed-0"),
        "runs": (
            "runs holds 4 runs (seeded/seed-0, seeded/seed-1, swept/tau=0.3/seed-0, swept/tau=0.6/seed-0)",
            "runs/seeded/seed-0",
        ),
    }
    for folder, (line, example) in given.items():
        for command in (
            ["predict", "--input", "new.csv"],
            ["predict", "--cache", "cache"],
            ["encode", "--input", "new.csv", "--output", "v.npy"],
            ["explain", "--input-text", "rain"],
            ["export", "out", "--to", "onnx"],
            *([] if folder == "seeds" else [["evaluate", "--cache", "cache"]]),  # which scores all seeds
        ):
            code, out, err = glot(*command, "--run", folder)
            assert (code, out, len(err.splitlines())) == (2, "", 1), command
            assert line in err
            assert f"name one, as in --run {example}" in err


def test_a_sweep_of_one_setting_lacks_no_picture(work: Path, glot: Glot) -> None:
    code, out, err = glot("sweep", "--cache", "cache", "--epochs", 1, "--hidden", 8, "--out", "one")
    assert (code, err) == (0, ""), err
    assert "written: sweep.md, sweep.csv" in out


def test_matplotlib_is_named_where_it_is_what_lacks(work: Path, glot: Glot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = glot("sweep", "--cache", "cache", "--tau", "0.3,0.6", "--epochs", 1, "--hidden", 8, "--out", "two")
    assert (code, "no pictures without matplotlib" in err) == (0, True)


def test_nested_caches_are_named_and_the_only_one_is_found(work: Path, glot: Glot) -> None:
    shutil.copytree("cache", "caches/cola/minilm")
    code, out, err = glot("inspect", "caches", "--json")
    assert (code, json.loads(out)["folder"]) == (0, "caches/cola/minilm"), err
    shutil.copytree("cache", "caches/flat")
    shutil.copytree("cache", "caches/lab/sst2/minilm")
    for command in (
        ["fit", "--cache", "caches"],
        ["inspect", "caches"],
        ["evaluate", "--run", "run", "--cache", "caches"],
    ):
        code, _, err = glot(*command)
        assert (code, len(err.splitlines())) == (2, 1)
        assert "caches holds several caches (cola/minilm, flat, lab/sst2/minilm): name one" in err
        assert "as in caches/cola/minilm" in err


def test_a_plan_ends_with_what_to_do_next(work: Path, glot: Glot) -> None:
    data = ["--model", "model", "--data", "data.csv", "--max-tokens", 32, "--out", "planned"]
    code, out, err = glot("extract", *data, "--plan")
    assert code == 0, err
    last = out.splitlines()[-1]
    assert "run the same command without --plan" in last
    assert "without --part" not in last
    assert glot("extract", *data)[0] == 0
    code, out, err = glot("extract", *data[:-1], "parts", "--part", "2/2")
    assert (code, "run the other parts of 2, or the same command without --part" in out) == (0, True), err


def test_the_columns_of_doctor_never_run_together(glot: Glot, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["sentence-transformers", "x" * 40, "git"]
    found = [doctor.Finding("extras", name, "present", "do something") for name in names]
    found += [doctor.Finding("hub", "token", "none")]
    monkeypatch.setattr(doctor, "examine", lambda: iter(found))
    code, out, _ = glot("doctor")
    lines = out.splitlines()
    assert code == 0
    values = [line for line in lines if line.endswith("present")]
    assert len({line.index("present") for line in values}) == 1
    for name, line in zip(names, values, strict=True):
        assert line.split() == ["!", name, "present"]
    assert {line.index("->") for line in lines if "->" in line} == {values[0].index("present")}


def test_help_goes_by_every_name(glot: Glot) -> None:
    code, out, err = glot("fit", "--help")
    assert (code, err, "--tau" in out) == (0, "", True)
    assert glot("fit", "-h") == glot("help", "fit") == (0, out, "")
    assert glot("help", "cache", "copy") == glot("cache", "copy", "--help")
    assert glot("help") == glot("-h") == glot()
    code, _, err = glot("help", "ift")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "ift" in err


def test_what_is_made_goes_where_either_name_says(work: Path, glot: Glot) -> None:
    for option in ("--out", "--output"):
        for words in (
            ["encode", "--run", "run", "--input", "new.csv", option, f"v{option}.npy"],
            ["explain", "--run", "run", "--input-text", "rain", option, f"e{option}.html"],
        ):
            code, _, err = glot(*words)
            assert code == 0, err
            assert Path(words[-1]).is_file()
