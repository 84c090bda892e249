"""New texts through a run: the same vectors and labels as over the cache, in files of each kind, and wrong uses."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from glot import Cache, GlotModel
from glot.errors import UsageError
from glot.fit.ensemble import Ensemble
from glot.fit.head_model import pool_texts
from glot.fit.run_folder import RunConfig
from glot.fit.states import StreamedStates


@pytest.fixture
def run(glot: Callable[..., tuple], extracted: Path) -> Path:
    options = ["--epochs", 8, "--hidden", 16, "--lr", "1e-2", "--device", "cpu"]
    code, _, err = glot("fit", "--cache", extracted, *options, "--out", "runs/a")
    assert code == 0, err
    return Path("runs/a")


def read_texts(table: Path) -> tuple[list[str], list[str]]:
    with open(table.with_name("dev.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["sentence"] for row in rows], [row["kind"] for row in rows]


@pytest.mark.parametrize("pooler", ["glot", "adapool", "mean", "max", "cls", "mlp"])
@pytest.mark.parametrize("family", ["bert", "bare"])
def test_vectors_are_those_over_the_cache(
    glot: Callable[..., tuple],
    table: Path,
    backbone_folders: dict[str, Path],
    pooler: str,
    family: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = ["--data", table, "--text", "sentence", "--label", "kind", "--max-tokens", 6, "--dtype", "float32"]
    code, _, err = glot("extract", "--model", backbone_folders[family], *data, "--layers", "1,2", "--out", "made")
    assert code == 0, err
    options = ["--pooler", pooler, "--layer", 1, "--tokens", "content", "--epochs", 1, "--device", "cpu"]
    code, _, err = glot("fit", "--cache", "made", *options, "--out", "run")
    assert code == 0, err
    cache, model = Cache("made"), GlotModel.load("run")
    monkeypatch.setattr("glot.inference.model.WINDOW", 7)
    texts = cache.plan.texts(0, len(cache.plan))[:30]
    states = StreamedStates(cache, (1,), model.device, "content")
    expected = pool_texts(model.model.pooler, states, np.arange(len(texts))).numpy()
    vectors = model.encode([*texts, texts[0]])
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors[:-1], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(vectors[0].round(4), vectors[-1].round(4))
    assert model.encode([]).shape == (0, model.width)
    # Whatever stands beside it, a text's vector stays.
    np.testing.assert_allclose(model.encode([texts[3]])[0], expected[3], rtol=1e-4, atol=1e-5)


def test_labels_and_probabilities(run: Path, table: Path) -> None:
    texts, truth = read_texts(table)
    model = GlotModel.load(run)
    labels, probabilities = model.predict(texts), model.predict_proba(texts)
    assert probabilities.shape == (40, 2)
    assert repr(model) == f"<GlotModel: glot over layer 2 of {model.backbone.name}, 2 classes, on {model.device}>"
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    assert labels.tolist() == [model.config.task.classes[i] for i in probabilities.argmax(axis=1)]
    best = json.loads((run / "metrics.json").read_text())["best"]["validation"]["accuracy"]
    undecided = (probabilities.max(axis=1) < 0.52).sum()  # the cache's float16 may turn these over
    assert abs((labels == np.asarray(truth)).sum() - 40 * best) <= undecided + 1e-6
    assert best > 0.75  # of twenty seeds the worst has 0.92
    assert model.predict([]).tolist() == []


def test_pairs_with_a_score(glot: Callable[..., tuple], tmp_path: Path, backbone_folders: dict[str, Path]) -> None:
    rows = [[f"the dog {i}", f"a cat {i % 3}", f"{i % 5}.5"] for i in range(40)]
    with open(tmp_path / "pairs.csv", "w", newline="") as file:
        csv.writer(file).writerows([["a", "b", "label"], *rows])
    data = ["--data", "pairs.csv", "--text", "a", "--text-b", "b"]
    assert glot("extract", "--model", backbone_folders["bert"], *data, "--max-tokens", 24, "--out", "made")[0] == 0
    assert glot("fit", "--cache", "made", "--epochs", 1, "--device", "cpu", "--out", "run")[0] == 0
    model = GlotModel.load("run")
    scores = model.predict([row[0] for row in rows], [row[1] for row in rows])
    assert (scores.dtype, scores.shape) == (np.float32, (40,))
    code, out, err = glot("predict", "--run", "run", "--input", "pairs.csv", "--text", "a", "--text-b", "b")
    assert code == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    np.testing.assert_allclose([line["score"] for line in lines], scores, atol=1e-4)
    with pytest.raises(UsageError, match="no classes"):
        model.predict_proba(["a"], ["b"])
    with pytest.raises(UsageError, match=r"trained on 2 text\(s\)"):
        model.predict(["a"])
    with pytest.raises(UsageError, match="make no pairs"):
        model.predict(["a", "b"], ["c"])
    code, _, err = glot("predict", "--run", "run", "--input", "pairs.csv", "--text", "a")
    assert (code, "trained on 2 text(s)" in err) == (2, True)


def test_encode_writes_each_kind_of_file(
    glot: Callable[..., tuple], run: Path, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, _ = read_texts(table)
    expected = GlotModel.load(run).encode(texts)
    monkeypatch.setattr("glot.inference.model.WINDOW", 16)
    Path("texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    for output in ("v/a.npy", "a.jsonl"):
        code, out, err = glot("encode", "--run", run, "--input", "texts.txt", "--output", output)
        assert code == 0, err
        assert out.strip() == f"{output}: 40 vectors of {expected.shape[1]} numbers"
    np.testing.assert_allclose(np.load("v/a.npy", allow_pickle=False), expected, rtol=1e-4, atol=1e-5)
    lines = [json.loads(line) for line in Path("a.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(40))
    np.testing.assert_allclose([line["vector"] for line in lines], expected, rtol=1e-4, atol=1e-5)
    code, _, err = glot(
        "encode", "--run", run, "--input", table.with_name("dev.csv"), "--text", "sentence", "--output", "b.npy"
    )
    assert code == 0, err
    np.testing.assert_allclose(np.load("b.npy"), expected, rtol=1e-4, atol=1e-5)


def test_encode_writes_parquet(glot: Callable[..., tuple], run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed (extra: parquet)")
    texts = ["a dog in the rain", "the old river", "books"]
    expected = GlotModel.load(run).encode(texts)
    monkeypatch.setattr("glot.inference.model.WINDOW", 2)
    Path("texts.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    code, _, err = glot("encode", "--run", run, "--input", "texts.txt", "--output", "a.parquet")
    assert code == 0, err
    column = parquet.read_table("a.parquet")["vector"].to_pylist()
    np.testing.assert_allclose(np.asarray(column, dtype=np.float32), expected, rtol=1e-4, atol=1e-5)


def test_parquet_without_pyarrow_is_one_line(
    glot: Callable[..., tuple], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("texts.txt").write_text("a dog\n", encoding="utf-8")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = glot("encode", "--run", run, "--input", "texts.txt", "--output", "a.parquet")
    assert (code, len(err.strip().splitlines()), "pip install 'glot-pipeline[parquet]'" in err) == (2, 1, True), err
    assert not Path("a.parquet").exists()


def test_stdin_to_stdout(glot: Callable[..., tuple], run: Path, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, _ = read_texts(table)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(texts).encode())))
    code, out, err = glot("predict", "--run", run, "--input", "-")
    assert code == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["index"] for line in lines] == list(range(40))
    assert [line["label"] for line in lines] == GlotModel.load(run).predict(texts).tolist()
    assert all(0.5 <= line["probability"] <= 1 for line in lines)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["encode", "--input", "none.txt", "--output", "a.npy"], "no file none.txt"),
        (["encode", "--input", "texts.txt", "--output", "a.csv"], "suffix must be one of .npy"),
        (["encode", "--input", "bad.txt", "--output", "a.npy"], "not UTF-8"),
        (["encode", "--input", "dev.csv", "--text", "body", "--output", "a.npy"], "no column 'body'"),
        (["encode", "--input", "texts.txt", "--output", "folder.npy"], "is a folder"),
        (["encode", "--input", "texts.txt", "--output", "a.npy", "--model", "nothing"], "unknown model"),
        (["predict"], "--input"),
        (["predict", "--input", "texts.txt", "--cache", "cache/train"], "--input"),
        (["predict", "--input", "texts.txt", "--format", "glue"], "--format glue"),
        (["predict", "--input", "texts.txt", "--text-b", "b"], "pairs come in a table"),
    ],
)
def test_wrong_uses(glot: Callable[..., tuple], run: Path, words: list[str], expected: str) -> None:
    Path("texts.txt").write_text("a dog\n")
    Path("bad.txt").write_bytes(b"\xff\xfe\n")
    Path("folder.npy").mkdir()
    code, _, err = glot(words[0], "--run", run, *words[1:])
    assert code == 2, err
    assert expected in err
    assert len(err.strip().splitlines()) == 1
    assert not Path("a.npy").exists()
    assert not list(Path().glob("*.tmp-*"))


def test_another_backbone_is_refused(run: Path, backbone_folders: dict[str, Path]) -> None:
    assert RunConfig.load(run).states.source == str(backbone_folders["bert"].resolve())
    with pytest.raises(UsageError, match="weights_sha256 differs"):
        GlotModel.load(run, str(backbone_folders["roberta"]))
    model = GlotModel.load(run)
    for texts, message in [([None], "NoneType"), ([3], "int")]:
        for call in (model.encode, model.predict):
            with pytest.raises(UsageError, match=message):
                call(texts)
    with pytest.raises(UsageError, match="not one text"):
        next(model.encode_stream("one text"))
    with pytest.raises(UsageError, match="one text beside a list"):
        model.predict("one text", ["another"])


@pytest.mark.slow
def test_the_heads_of_an_ensemble_share_one_forward(
    glot: Callable[..., tuple], table: Path, backbone_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads over different layers, tokens and mixes: each sees what it would see alone, in one pass of the backbone."""
    data = ["--data", table, "--text", "sentence", "--label", "kind", "--max-tokens", 24, "--layers", "0,1,2"]
    code, _, err = glot("extract", "--model", backbone_folders["bert"], *data, "--out", "made")
    assert code == 0, err
    heads: list[list] = [["--backbone-layer", 2], ["--mix"], ["--backbone-layer", 1, "--tokens", "content"]]
    for name, options in zip("123", heads, strict=True):
        fit = ["fit", "--cache", "made", "--preset", "published", "--epochs", 1, "--hidden", 8, "--device", "cpu"]
        code, _, err = glot(*fit, *options, "--out", f"both/{name}")
        assert code == 0, err
    Ensemble.of([RunConfig.load(Path("both") / name) for name in "123"]).save(Path("both"))
    texts, _ = read_texts(table)
    alone = [GlotModel.load(f"both/{name}").predict_proba(texts) for name in "123"]
    assert abs(alone[0] - alone[2]).max() > 1e-4

    model, asked = GlotModel.load("both"), []
    forward = model.backbone.hidden_states

    def hidden_states(ids: torch.Tensor, mask: torch.Tensor, layers: tuple[int, ...]) -> list[torch.Tensor]:
        asked.append((len(ids), layers))
        return forward(ids, mask, layers)

    monkeypatch.setattr(model.backbone, "hidden_states", hidden_states)
    np.testing.assert_allclose(model.predict_proba(texts), np.mean(alone, axis=0), atol=1e-6)
    assert {layers for _, layers in asked} == {(0, 1, 2)}
    assert sum(count for count, _ in asked) == len(set(texts))
    classes = np.asarray(model.config.task.classes)
    np.testing.assert_array_equal(model.predict(texts), classes[np.mean(alone, axis=0).argmax(axis=1)])
    assert model.predict([]).tolist() == []
    with pytest.raises(UsageError, match="an ensemble of 3 heads gives labels and scores, and no vector"):
        model.encode(texts)
