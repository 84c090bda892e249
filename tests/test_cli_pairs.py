"""Pairs without labels from end to end through the `glot` command, with a tiny backbone."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from glot.inference.model import GlotModel

THINGS = ["dog", "river", "rain", "books", "market", "window", "bill", "summer"]
WORDS = ["the", "old", "town", "softly", "over", "in", "about", "reads"]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Triplets whose query and positive name the same two things, in two files: one gzipped, one not."""
    rng = np.random.default_rng(0)

    def text(things: list[str]) -> str:
        return " ".join(rng.permutation([*things, *rng.choice(WORDS, 2)]))

    for name, count in (("train", 120), ("dev", 24)):
        lines = []
        for row in range(count):
            things = rng.permutation(THINGS)
            line = {"query": text(things[:2]), "pos": [text(things[:2])], "neg": [text(things[2:4])] * (row % 3)}
            lines.append(json.dumps(line) + "\n")
        data = "".join(lines).encode()
        (tmp_path / f"{name}.jsonl").write_bytes(data)
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress((tmp_path / "train.jsonl").read_bytes()))
    return tmp_path / "train.jsonl.gz"


def test_from_triplets_to_vectors(glot: Callable[..., tuple], pairs: Path, backbone_folders: dict[str, Path]) -> None:
    extract = ["extract", "--model", backbone_folders["bert"], "--pairs", pairs, "--eval-data", "dev.jsonl"]
    extract += ["--max-tokens", 24]
    code, out, err = glot(*extract)
    assert code == 0, err
    assert "train 120, validation 24" in out
    cache = Path("cache/train/tiny-bert")
    code, out, _ = glot(*extract)
    assert (code, "forwarded 0 texts" in out) == (0, True)
    assert glot("inspect", cache, "--verify")[0] == 0
    code, out, _ = glot("inspect", cache)
    assert (code, "train.jsonl.gz" in out) == (0, True)

    options = ["--objective", "contrastive", "--pooler", "glot", "--hidden", 16, "--layers", 2, "--lr", 0.003]
    options += ["--proj-dim", 12, "--matryoshka", "4,8", "--batch-size", 60, "--chunk-size", 25, "--epochs", 8]
    code, out, err = glot("fit", "--cache", "cache/train", *options, "--out", "runs/a")
    assert code == 0, err
    assert "mrr@10" in out
    assert "validation loss at the best epoch" in out
    epochs = json.loads(Path("runs/a/metrics.json").read_text())["epochs"]
    assert epochs[-1]["loss"] < epochs[0]["loss"]

    model = GlotModel.load("runs/a", str(backbone_folders["bert"]), "cpu")
    texts = ["the dog in the market", "rain over the old river", ""]
    vectors = model.encode(texts)
    assert (vectors.shape, vectors.dtype, model.width) == ((3, 12), np.float32, 12)
    for command in (
        ["evaluate", "--run", "runs/a", "--cache", cache],
        ["predict", "--run", "runs/a", "--cache", cache],
    ):
        code, _, err = glot(*command, "--split", "validation")
        assert (code, err.count("\n"), "use `glot encode`" in " ".join(err.split())) == (2, 1, True), err
    code, out, err = glot("explain", "--run", "runs/a", "--cache", cache, "--index", 3, "--split", "validation")
    assert code == 0, err


def test_a_run_on_pairs_is_exported(
    glot: Callable[..., tuple], pairs: Path, backbone_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    from sentence_transformers import SentenceTransformer

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(Path("modules").resolve()))
    extract = ["extract", "--model", backbone_folders["bert"], "--pairs", pairs, "--max-tokens", 24]
    assert glot(*extract)[0] == 0
    options = ["--similarity", "dot", "--proj-dim", 12, "--hidden", 16, "--epochs", 1]
    assert glot("fit", "--cache", "cache/train", *options, "--out", "run")[0] == 0
    code, _, err = glot("export", "--run", "run", "--to", "sentence-transformers", "made")
    assert code == 0, err
    model = SentenceTransformer("made", trust_remote_code=True, device="cpu")
    texts = ["the dog in the market", "rain"]
    vectors = model.encode(texts)
    assert vectors.shape == (2, 12)
    np.testing.assert_allclose(vectors, GlotModel.load("run").encode(texts), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(model.similarity(vectors, vectors), vectors @ vectors.T, rtol=1e-5)


def test_without_validation_pairs_some_are_held_out(
    glot: Callable[..., tuple], pairs: Path, backbone_folders: dict[str, Path]
) -> None:
    options = ["--model", backbone_folders["llama"], "--pairs", "train.jsonl", "--negatives", 0, "--max-tokens", 24]
    code, out, err = glot("extract", *options)
    assert code == 0, err
    assert "train 109, validation 11" in out  # one query is there twice
    code, _, err = glot("fit", "--cache", "cache/train", "--pooler", "mean")
    assert (code, "pass --proj-dim" in err) == (2, True)
    code, out, err = glot("fit", "--cache", "cache/train", "--pooler", "mean", "--proj-dim", 8, "--seeds", "0,1")
    assert code == 0, err
    assert "over 2 seeds" in out


def test_wrong_use_is_one_line(
    glot: Callable[..., tuple], pairs: Path, extracted: Path, backbone_folders: dict[str, Path]
) -> None:
    model = ["extract", "--model", backbone_folders["bert"], "--max-tokens", 24]
    code, _, err = glot(*model, "--pairs", "dev.jsonl", "--out", "cache/pairs")
    assert code == 0, err
    table = ["--data", "train.csv", "--text", "sentence", "--label", "kind"]
    for arguments, expected in [
        ([*model, "--pairs", "absent.jsonl"], "no file absent.jsonl"),
        ([*model, "--pairs", pairs, "--label", "x"], "--label does not go with --pairs"),
        ([*model, "--pairs", pairs, "--examples", "x.csv"], "pass one of them"),
        ([*model, *table, "--out", "cache/pairs"], "examples of another task (no labels; 2 text(s) each)"),
        (["fit", "--cache", extracted, "--temperature", 0.1], "holds labelled examples"),
        (["fit", "--cache", extracted, "--objective", "contrastive"], "glot extract --pairs"),
        (["fit", "--cache", extracted, "--matryoshka", "x"], "--matryoshka"),
    ]:
        code, _, err = glot(*arguments)
        assert (code, expected in " ".join(err.split()), err.count("\n")) == (2, True, 1), err
