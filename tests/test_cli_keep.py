"""`glot predict` keeps the columns of its input beside what it says, whatever both files are."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from glot.inference.model import GlotModel
from tests.work import make_work

Glot = Callable[..., tuple[int, str, str]]
TEXTS = ["rain falls", 'old, "quoted" town', "naïve 文"]


@pytest.fixture(scope="module")
def made(backbone_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_work(tmp_path_factory.mktemp("work"), backbone_folders["bert"])


@pytest.fixture
def predict(made: Path, glot: Glot) -> Callable[..., tuple[int, str, str]]:
    """Runs `glot predict` with the made run over a file of the current folder."""
    return lambda *words: glot("predict", "--run", made / "run", "--model", made / "model", *words)


def read(path: str) -> list[dict[str, object]]:
    pandas = pytest.importorskip("pandas")
    readers = {"csv": pandas.read_csv, "tsv": lambda p, **o: pandas.read_csv(p, sep="\t", **o)}
    form = path.rpartition(".")[2]
    if form == "jsonl":
        return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
    if form == "parquet":
        return pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    return readers[form](path, dtype={"id": str}, keep_default_na=False).to_dict("records")


def write_csv(path: str = "new.csv") -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"id": ["01", "02", "03"], "text": TEXTS, "note": ["a,b", "", 'say "so"\nagain']})
    frame.to_csv(path, index=False)


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet"])
def test_rows_come_back_with_the_answers_beside_them(predict: Glot, made: Path, form: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    write_csv()
    code, _, err = predict("--input", "new.csv", "--output", f"out.{form}")
    assert code == 0, err
    rows = read(f"out.{form}")
    assert [list(row) for row in rows] == [
        ["index", "id", "text", "note", "label", "probability", "probability_no", "probability_yes"]
    ] * 3
    assert [row["id"] for row in rows] == ["01", "02", "03"]
    assert [row["text"] for row in rows] == TEXTS
    assert [row["note"] or "" for row in rows] == ["a,b", "", 'say "so"\nagain']
    model = GlotModel.load(made / "run", made / "model")
    for row, expected in zip(rows, model.predict_proba(TEXTS), strict=True):
        assert [row["probability_no"], row["probability_yes"]] == pytest.approx(expected.tolist(), abs=2e-6)
        assert row["probability"] == max(row["probability_no"], row["probability_yes"])
        assert row["label"] == ("no", "yes")[row["probability_yes"] > row["probability_no"]]


def test_some_columns_or_none(predict: Glot) -> None:
    write_csv()
    for keep, expected in (("none", []), ("note, id", ["note", "id"])):
        code, out, err = predict("--input", "new.csv", "--keep", keep)
        assert code == 0, err
        assert [name for name in json.loads(out.splitlines()[0]) if "probab" not in name] == [
            "index",
            *expected,
            "label",
        ]
    code, out, err = predict("--input", "new.csv", "--keep", "id,ident")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert "--keep id,ident: new.csv has no column 'ident': pass all, none, or some of id, text, note" in err


def test_a_column_of_the_same_name_stays(predict: Glot) -> None:
    rows = [{"text": text, "label": "known", "predicted_label": "old", "index": 10 + i} for i, text in enumerate(TEXTS)]
    Path("new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = predict("--input", "new.jsonl")
    assert code == 0, err
    for row, line in zip(rows, map(json.loads, out.splitlines()), strict=True):
        assert line | row == line
        assert line["predicted_predicted_label"] in ("no", "yes")


def test_lines_go_with_their_texts(predict: Glot) -> None:
    Path("new.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    code, out, err = predict("--input", "new.txt")
    assert code == 0, err
    assert [json.loads(line)["text"] for line in out.splitlines()] == TEXTS
    assert "text" not in json.loads(predict("--input", "new.txt", "--keep", "none")[1].splitlines()[0])


def test_values_of_any_kind(predict: Glot) -> None:
    rows: list[dict[str, object]] = [
        {"text": "a", "n": 1, "x": 1, "is": True, "any": [1, {"b": None}], "big": 2**80},
        {"text": "b", "n": -2, "x": 0.5, "is": False, "any": "文", "late": "x"},
        {"text": "c", "n": None, "x": None, "is": None},
    ]
    Path("new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for form in ("jsonl", "csv", "parquet"):
        if form == "parquet":
            pytest.importorskip("pyarrow")
        code, _, err = predict("--input", "new.jsonl", "--output", f"out.{form}")
        assert code == 0, err
    names = ["text", "n", "x", "is", "any", "big", "late"]
    assert [{name: line[name] for name in names} for line in read("out.jsonl")] == [
        {name: row.get(name) for name in names} for row in rows
    ]
    shown = [[line[name] for name in names] for line in read("out.csv")]
    big = str(2**80)
    assert [[str(value) for value in row] for row in shown] == [
        ["a", "1", "1", "true", '[1, {"b": null}]', big, ""],
        ["b", "-2", "0.5", "false", "文", "", "x"],
        ["c", "", "", "", "", "", ""],
    ]
    first, second, third = read("out.parquet")
    assert [first[name] for name in names] == ["a", 1, 1.0, True, '[1, {"b": null}]', big, None]
    assert [second[name] for name in names] == ["b", -2, 0.5, False, "文", None, "x"]
    assert [third[name] for name in names] == ["c", *[None] * 6]


def test_the_types_of_parquet_stay(predict: Glot) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {
        "text": pyarrow.array(TEXTS),
        "day": pyarrow.array([datetime.date(2020, 12, 31)] * 3),
        "price": pyarrow.array([Decimal("1.50")] * 3),
        "tags": pyarrow.array([["a", "b"], [], None]),
        "raw": pyarrow.array([b"\x00a"] * 3),
    }
    table = pyarrow.table(columns)
    parquet.write_table(table, "new.parquet")
    for form in ("parquet", "csv", "jsonl"):
        code, _, err = predict("--input", "new.parquet", "--output", f"out.{form}")
        assert code == 0, err
    assert parquet.read_table("out.parquet").select(list(columns)).equals(table)
    line, cells = read("out.jsonl")[0], read("out.csv")[0]
    assert [line[name] for name in columns] == [TEXTS[0], "2020-12-31", "1.50", ["a", "b"], "\x00a"]
    assert [cells[name] for name in ("day", "tags")] == ["2020-12-31", '["a", "b"]']


def test_a_cache_has_no_columns(glot: Glot, made: Path) -> None:
    code, _, err = glot("predict", "--run", made / "run", "--cache", made / "cache", "--keep", "all")
    assert (code, len(err.splitlines())) == (2, 1)
    assert "--keep does not go with --cache" in err


def test_an_obvious_column_of_texts_need_not_be_named(glot: Glot, made: Path, predict: Glot) -> None:
    Path("new.csv").write_text("id,words\n1,rain falls on town\n2,the river is wide\n")
    code, out, err = predict("--input", "new.csv")
    assert code == 0, err
    assert "new.csv: text in 'words'\n" in err
    assert out == predict("--input", "new.csv", "--text", "words")[1]
    for name, column in (("a", ()), ("b", ("--text", "words"))):
        words = ["encode", "--run", made / "run", "--input", "new.csv", "--output", f"{name}.npy", *column]
        code, _, err = glot(*words)
        assert (code, "new.csv: text in 'words'\n" in err) == (0, not column), err
    assert Path("a.npy").read_bytes() == Path("b.npy").read_bytes()
    Path("new.csv").write_text("id,words,more\n1,rain falls on town,and on the river\n")
    code, out, err = predict("--input", "new.csv")
    assert (code, out) == (2, "")
    assert "new.csv: which column is the text? 'words' or 'more'? Name it with --text; the columns are: id, wor" in err
