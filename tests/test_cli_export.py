"""`glot export` from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from glot import GlotModel
from tests.hub_server import HubServer, files_of

TEXTS = ["rain falls over the old dog", "the river in autumn", "books"]


@pytest.fixture
def fitted(glot: Callable[..., tuple], extracted: Path) -> Path:
    options = ["--epochs", 2, "--hidden", 16, "--device", "cpu", "--out", "run"]
    code, _, err = glot("fit", "--cache", extracted, *options)
    assert code == 0, err
    return Path("run")


def test_from_texts_to_a_folder(glot: Callable[..., tuple], fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    from sentence_transformers import SentenceTransformer

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(Path("modules").resolve()))
    code, out, err = glot("export", "--run", fitted, "--to", "sentence-transformers", "made", "--license", "mit")
    assert (code, err) == (0, "")  # no bar of any library
    assert "checked" in out
    model = SentenceTransformer("made", trust_remote_code=True, device="cpu")
    vectors, run = model.encode(TEXTS), GlotModel.load(fitted, device="cpu")
    np.testing.assert_allclose(vectors, run.encode(TEXTS), rtol=1e-5, atol=1e-5)
    assert model[1].predict(vectors) == run.predict(TEXTS).tolist()
    np.testing.assert_allclose(model[1].predict_proba(vectors), run.predict_proba(TEXTS), rtol=1e-5, atol=1e-6)
    card = Path("made/README.md").read_text(encoding="utf-8")
    assert "license: mit" in card
    found: dict = {}
    exec(card.split("```python\n")[1].split("```")[0], found)  # the card's own example of use
    assert found["vectors"].shape == (1, vectors.shape[1])
    code, _, err = glot("export", "--run", fitted, "--to", "sentence-transformers", "made")
    assert (code, "there already" in err) == (2, True)


@pytest.mark.slow
def test_the_head_as_onnx(glot: Callable[..., tuple], fitted: Path) -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(name, reason=f"{name} is not installed (extra: onnx)")
    code, out, err = glot("export", "--run", fitted, "--to", "onnx", "--head-only", "heads/a.onnx", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["path"], found["outputs"], found["difference"] < 1e-4) == (
        "heads/a.onnx",
        ["vectors", "logits"],
        True,
    )
    assert [path.name for path in Path("heads").iterdir()] == ["a.onnx"]
    code, _, err = glot("export", "--run", fitted, "--to", "onnx", "--head-only", "heads/b.onnx", "--license", "mit")
    assert (code, "--license does not go with --to onnx" in err) == (2, True)


def test_a_folder_goes_to_the_hub(
    glot: Callable[..., tuple], fitted: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    from sentence_transformers import SentenceTransformer

    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(Path("modules").resolve()))
    words = ["--to", "sentence-transformers", "made", "--push", "somebody/mine"]
    code, out, err = glot("export", "--run", fitted, *words)
    assert code == 0, err
    assert f"{hub.address}/somebody/mine" in out
    made = files_of(Path("made"))
    assert files_of(hub.folder / "somebody/mine") == made
    assert b'SentenceTransformer("somebody/mine", trust_remote_code=True)' in made["README.md"]
    theirs = SentenceTransformer("somebody/mine", trust_remote_code=True, device="cpu")
    run = GlotModel.load(fitted, device="cpu")
    np.testing.assert_allclose(theirs.encode(TEXTS), run.encode(TEXTS), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_texts_to_labels_as_a_graph(to: str, glot: Callable[..., tuple], fitted: Path) -> None:
    for name in ("onnx", "onnxruntime", "onnxscript", *(["openvino"] if to == "openvino" else [])):
        pytest.importorskip(name, reason=f"{name} is not installed (extra: onnx)")
    code, out, err = glot("export", "--run", fitted, "--to", to, "--out", "made", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["path"], found["outputs"], found["difference"] < 1e-4) == ("made", ["vectors", "probabilities"], True)
    assert {path.name for path in Path("made").iterdir()} == set(found["files"])
    assert {"onnx": "model.onnx", "openvino": "model.xml"}[to] in found["files"]
    code, _, err = glot("export", "--run", fitted, "--to", to, "made")
    assert (code, "made is there already" in err) == (2, True)


def test_wrong_uses(glot: Callable[..., tuple], fitted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to = ["--to", "sentence-transformers", "made"]
    for arguments, message in [
        (["--run", fitted, "--to", "keras", "made"], "--to must be one of"),
        (["--run", "nowhere", *to], "there is no folder nowhere"),
        (["--run", fitted, *to, "--push", "mine"], "user/name"),
    ]:
        code, _, err = glot("export", *arguments)
        assert (code, message in err) == (2, True), err
    (fitted / "metrics.json").rename("metrics.json")
    code, _, err = glot("export", "--run", fitted, *to)
    assert (code, "is not finished: go on with `glot fit --resume" in err) == (2, True), err
    monkeypatch.delitem(sys.modules, "glot.export.pooling_module", raising=False)
    monkeypatch.setitem(sys.modules, "sentence_transformers.base.modules", None)
    Path("metrics.json").rename(fitted / "metrics.json")
    code, _, err = glot("export", "--run", fitted, *to)
    assert (code, "pip install 'glot-pipeline[sentence-transformers]'" in err) == (2, True), err
    assert not Path("made").exists()
