"""Texts to vectors and answers as ONNX: the run's numbers, from a folder that needs neither torch nor this package."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="onnx is not installed (extra: onnx)")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra: onnx)")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra: onnx)")

import onnxruntime
from tokenizers import Tokenizer

from glot import GlotModel
from glot.errors import FaultError, UsageError
from glot.export import onnx_folder
from glot.export.onnx_folder import export_text
from glot.export.onnx_graph import make_graph
from glot.export.onnx_text import TextGraph
from glot.export.pooling import load_pooling
from glot.export.runtimes import RUNTIMES
from glot.extract.planning import added_tokens
from glot.store.task_spec import TaskSpec
from tests.export.conftest import TEXTS as ALL_TEXTS

TEXTS = [text for text in ALL_TEXTS if "\ud83d" not in text]  # half a pair is no text for others
SECOND = TEXTS[::-1]
CLASSES = TaskSpec("made", 1, "classes", ("no", "yés"))
SCORE = TaskSpec("made", 1, "score", score_range=(1.0, 5.0))
PAIRS = TaskSpec("made", 2, "classes", ("no", "yes"))
COSINES = TaskSpec("made", 2, "score", score_range=(0.0, 5.0))
PROMPT = {"template": "Is this dull? {text} Answer:"}
CASES = {
    "bert, classes": ("bert", CLASSES, {}),
    "bert, content tokens": ("bert", CLASSES, {"tokens": "content"}),
    "bert, mixed layers": ("bert", SCORE, {"mixed_layers": 2}),
    "llama, prompt": ("llama", SCORE, {**PROMPT, "pooler": "adapool"}),
    "no added token": ("bare", CLASSES, {"layer": 1, "pooler": "cls"}),
    "roberta, pairs": ("roberta", PAIRS, {"pair_features": "full"}),
    "bert, scored pairs": ("bert", COSINES, {"pooler": "mean"}),
    "both texts in a prompt": ("llama", CLASSES, {"template": "A {text} B {text_b} C", "pooler": "mean"}),
}

# What a user without torch does: the README's own code, then more texts by its functions.
PROGRAM = """\
import json, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "transformers", "glot", "onnx"):
            raise ImportError(name)

sys.meta_path.insert(0, Absent())
scope = {}
exec(sys.argv[1], scope)
found = scope["run"](*json.loads(sys.argv[2]))
if "head" in scope:
    again = scope["run"](json.loads(sys.argv[3]))
    pair = {"vectors_a": found["vectors"], "vectors_b": again["vectors"]}
    head = scope["head"]
    (found["answers"],) = head.run(None, pair) if hasattr(head, "run") else head(pair).values()
print(json.dumps({name: values.tolist() for name, values in found.items()}))
"""


def given_to(settings: dict) -> tuple[list[str], ...]:
    """The texts, or where one prompt holds both of a pair some that are not cut, for the ends are cut otherwise."""
    if "text_b" in settings.get("template", ""):
        return ["rain", "", "a"], ["", "a dog", "rain"]
    return (TEXTS,)


def graph_of(run: Path, backbone: Path) -> tuple[GlotModel, TextGraph]:
    model = GlotModel.load(run, str(backbone), "cpu")
    pooling = load_pooling(run, model.config, added_tokens(model.backbone.tokenizer))
    return model, TextGraph(model.backbone, pooling, model.config.layers).eval()


@pytest.mark.parametrize("case", CASES)
def test_the_graph_computes_what_the_run_does(
    case: str, make_run: Callable[..., Path], backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    """In torch, from the ids of the tokenizer that is exported: padded to the longest, one text without a token."""
    family, task, settings = CASES[case]
    model, graph = graph_of(make_run(family, task=task, **settings), backbone_folders[family])
    texts = given_to(settings)
    onnx_folder._tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    filled = [model.config.states.template.replace("{text}", text) for text in texts[0]]
    if len(texts) == 2:
        filled = [one.replace("{text_b}", second) for one, second in zip(filled, texts[1], strict=True)]
    tokens = tokenizer.encode_batch(filled)
    ids, mask = (torch.tensor([getattr(text, name) for text in tokens]) for name in ("ids", "attention_mask"))
    assert ids.shape[1] <= 24  # the run's limit
    with torch.inference_mode():
        found = graph(ids, mask)
    np.testing.assert_allclose(found[0], model.encode(*texts), rtol=1e-4, atol=1e-4)
    if task.num_texts == 1:
        expected = model.predict_proba(*texts) if task.classes else model.predict(*texts)
        np.testing.assert_allclose(found[1], expected, rtol=1e-4, atol=1e-4)


def test_the_head_of_pairs_takes_both_vectors(
    make_run: Callable[..., Path], backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    model, graph = graph_of(make_run("bert", task=PAIRS, pooler="mean"), backbone_folders["bert"])
    program = onnx_folder._make_pair_graph(graph.pooling, ("probabilities",), {"made_by": "a test"})
    program.save(tmp_path / "head.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "head.onnx")
    assert session.get_modelmeta().custom_metadata_map["made_by"] == "a test"
    vectors, seconds = model.encode(TEXTS), model.encode(SECOND)
    (found,) = session.run(None, {"vectors_a": vectors, "vectors_b": seconds})
    np.testing.assert_allclose(found, model.predict_proba(TEXTS, SECOND), rtol=1e-4, atol=1e-4)
    (found,) = session.run(None, {"vectors_a": vectors[:1], "vectors_b": seconds[:1]})
    assert found.shape == (1, 2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "kind"),
    [(case, "onnx") for case in CASES if case not in ("bert, classes", "bert, scored pairs")]
    + [("bert, mixed layers", "openvino"), ("roberta, pairs", "openvino"), ("both texts in a prompt", "openvino")],
)
def test_a_process_without_torch(
    case: str, kind: str, make_run: Callable[..., Path], backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    runtime, (family, task, settings) = RUNTIMES[kind], CASES[case]
    if kind == "openvino":
        pytest.importorskip("openvino", reason="openvino is not installed (extra: openvino)")
    run, out = make_run(family, task=task, **settings), tmp_path / "made"
    made = export_text(run, out, str(backbone_folders[family]), runtime=runtime)
    name = "probabilities" if task.classes else "scores"
    assert made.outputs == (("vectors", name) if task.num_texts == 1 else ("vectors",))
    assert made.pair_outputs == ((name,) if task.num_texts == 2 else ())
    assert made.difference < 1e-3  # of scores up to 5
    assert {"README.md", "glot.json", f"model{runtime.suffix}", "tokenizer.json"} <= set(made.files)
    assert {path.name for path in out.iterdir()} == set(made.files)
    facts = json.loads((out / "glot.json").read_text(encoding="utf-8"))
    assert (facts["classes"], facts["max_tokens"], facts["width"]) == (list(task.classes), 24, made.width)
    written = (out / f"model{runtime.suffix}").read_bytes()  # no place of this machine
    assert b"site-packages" not in written
    assert str(Path(onnx_folder.__file__).parent).encode() not in written

    code = re.search(r"```python\n(.*?)```", (out / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    given = given_to(settings)
    words = [sys.executable, "-c", PROGRAM, code, json.dumps(given), json.dumps(SECOND)]
    environment = {"PATH": os.environ["PATH"], "PYTHONWARNINGS": "error"}
    done = subprocess.run(words, capture_output=True, text=True, cwd=out, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    model = GlotModel.load(run, str(backbone_folders[family]), "cpu")
    np.testing.assert_allclose(found["vectors"], model.encode(*given), rtol=1e-4, atol=1e-4)
    pairs = (TEXTS, SECOND) if task.num_texts == 2 else given
    expected = model.predict_proba(*pairs) if task.classes else model.predict(*pairs)
    np.testing.assert_allclose(found["answers" if task.num_texts == 2 else name], expected, rtol=1e-4, atol=1e-4)
    if len(given) == 1:  # a batch in which no text has a token, where the tokenizer adds none
        words[4] = json.dumps([["", ""]])
        done = subprocess.run(words, capture_output=True, text=True, cwd=out, env=environment, timeout=300)
        assert done.returncode == 0 or "head" in code, done.stderr


class Wrong(torch.nn.Module):
    """Lengths for vectors."""

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        vectors = (ids * mask).sum(dim=1, keepdim=True).float() * torch.ones(32)
        return vectors, vectors[:, :2]


@pytest.mark.slow
def test_nothing_stays_of_files_that_are_wrong(
    make_run: Callable[..., Path],
    backbone_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = make_run("bert", pooler="mean")
    monkeypatch.setattr(onnx_folder, "make_graph", lambda text, *others: make_graph(Wrong(), *others))
    with pytest.raises(FaultError, match="vectors of the exported files differ from the run's by"):
        export_text(run, tmp_path / "made", str(backbone_folders["bert"]))
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


@pytest.mark.slow
def test_a_backbone_in_16_bits_is_written_in_32(
    make_run: Callable[..., Path],
    backbone_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from transformers import AutoModel

    shutil.copytree(backbone_folders["llama"], tmp_path / "half")
    AutoModel.from_pretrained(backbone_folders["llama"], dtype=torch.bfloat16).save_pretrained(tmp_path / "half")
    monkeypatch.setitem(backbone_folders, "half", tmp_path / "half")
    made = export_text(make_run("half", pooler="mean"), tmp_path / "made", str(tmp_path / "half"))
    assert (made.compute_dtype, made.difference < 1e-4, made.rounding > 1e-4) == ("bfloat16", True, True)
    assert "The run computed in bfloat16" in (tmp_path / "made" / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_large_weights_lie_in_a_file_of_their_own(
    make_run: Callable[..., Path],
    backbone_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 1000)
    made = export_text(make_run("bert", pooler="mean"), tmp_path / "made", str(backbone_folders["bert"]))
    assert "model.onnx.data" in made.files
    session = onnxruntime.InferenceSession(tmp_path / "made" / "model.onnx")
    assert [output.name for output in session.get_outputs()] == ["vectors", "probabilities"]


def test_wrong_uses(
    make_run: Callable[..., Path],
    backbone_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, backbone = make_run("bert"), str(backbone_folders["bert"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    with pytest.raises(UsageError, match="there already"):
        export_text(run, tmp_path / "mine", backbone)
    with monkeypatch.context() as patch:
        load = GlotModel.load.__func__

        def without_padding(cls: type, *arguments: object, **options: object) -> GlotModel:
            model = load(cls, *arguments, **options)
            model.backbone.pads = False
            return model

        patch.setattr(GlotModel, "load", classmethod(without_padding))
        with pytest.raises(UsageError, match="padding changes the states of tiny-bert"):
            export_text(run, tmp_path / "made", backbone)
    with monkeypatch.context() as patch:
        patch.setattr(onnx_folder, "make_graph", lambda *_: 1 / 0)
        with pytest.raises(UsageError, match=r"torch cannot write tiny-bert \(a bert model\) as ONNX \(division"):
            export_text(run, tmp_path / "made", backbone)
    with monkeypatch.context() as patch:
        patch.setattr("glot.export.runtimes.openvino_version", lambda: None)
        with pytest.raises(UsageError, match=r"needs openvino: pip install 'glot-pipeline\[onnx,openvino\]'"):
            export_text(run, tmp_path / "made", backbone, runtime=RUNTIMES["openvino"])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"needs onnxruntime: pip install 'glot-pipeline\[onnx\]'"):
        export_text(run, tmp_path / "made", backbone)
    assert {path.name for path in tmp_path.iterdir()} == {"run", "mine"}
