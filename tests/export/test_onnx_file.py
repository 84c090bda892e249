"""The head as an ONNX file, run by onnxruntime: torch's numbers for any batch and any length."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnx", reason="onnx is not installed (extra: onnx)")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra: onnx)")
pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra: onnx)")

import onnx
import onnxruntime

from glot.errors import FaultError, UsageError
from glot.export import onnx_file
from glot.export.onnx_file import export_onnx
from glot.fit.head_model import load_head
from glot.fit.run_folder import RunConfig
from glot.nn.tokens import TokenBatch
from glot.store.task_spec import TaskSpec

CLASSES = TaskSpec("made", 1, "classes", ("no", "yés"))
SCORE = TaskSpec("made", 1, "score", score_range=(1.0, 5.0))
PAIRS = TaskSpec("made", 2, "classes", ("no", "yes"))
QUICK = [(CLASSES, {"gnn": "gat", "tokens": "content"}, ("vectors", "logits"))]
SLOW = [
    (SCORE, {"mixed_layers": 2}, ("vectors", "scores")),
    (SCORE, {"gnn": "gine", "jk": "max", "readout": "mean"}, ("vectors", "scores")),
    (PAIRS, {"gnn": "gcn", "jk": "mean"}, ("vectors",)),
    (CLASSES, {"gnn": "gin", "tau": 1.0}, ("vectors", "logits")),
    *((CLASSES, {"pooler": name}, ("vectors", "logits")) for name in ("mean", "max", "adapool", "mlp")),
    *((CLASSES, {"pooler": "cls", "token_position": where}, ("vectors", "logits")) for where in ("first", "last")),
]


@pytest.mark.parametrize(
    ("task", "settings", "outputs"), [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)
def test_torch_and_onnxruntime_agree(
    task: TaskSpec, settings: dict, outputs: tuple[str, ...], make_run: Callable[..., Path], tmp_path: Path
) -> None:
    run = make_run("bert", task=task, **settings)
    made = export_onnx(run, tmp_path / "head.onnx")
    assert (made.outputs, made.difference < 1e-4) == (outputs, True)
    model = onnx.load(made.path)
    onnx.checker.check_model(model, full_check=True)
    facts = {item.key: item.value for item in model.metadata_props}
    assert json.loads(facts["classes"]) == list(task.classes)
    assert facts["mask"] == ("content tokens alone" if settings.get("tokens") == "content" else "all tokens")
    written = made.path.read_bytes()  # no place of this machine
    assert b"site-packages" not in written
    assert str(Path(onnx_file.__file__).parent).encode() not in written
    head = load_head(run, RunConfig.load(run), "dense", torch.device("cpu"))
    session = onnxruntime.InferenceSession(made.path)
    width = 32 * settings.get("mixed_layers", 1)
    for lengths in ([1], [4, 9, 1], [30, 2, 30, 7, 5]):
        generator = torch.Generator().manual_seed(len(lengths))
        packed = torch.randn(sum(lengths), width, generator=generator) + 0.8
        mask = torch.arange(max(lengths) + 1) < torch.tensor(lengths)[:, None]
        states = torch.full((*mask.shape, width), 7.0)
        states[mask] = packed
        found = session.run(None, {"states": states.numpy(), "mask": mask.long().numpy()})
        with torch.inference_mode():
            vectors = head.vectors(TokenBatch(packed, torch.tensor(lengths)))
            expected = [vectors, head.head(vectors)] if task.num_texts == 1 else [vectors]
            if task.target == "score":
                expected[1] = head.head.predict(expected[1])
        for values, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(values, wanted.numpy(), rtol=1e-4, atol=1e-4)


def test_nothing_stays_of_a_file_that_is_wrong(
    make_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("bert", pooler="mean")
    monkeypatch.setattr(onnx_file, "TOLERANCE", -1.0)
    with pytest.raises(FaultError, match="differ from torch's"):
        export_onnx(run, tmp_path / "head.onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_wrong_uses(make_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run("bert")
    (tmp_path / "mine.onnx").write_text("mine")
    with pytest.raises(UsageError, match="there already"):
        export_onnx(run, tmp_path / "mine.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UsageError, match=r"needs onnxruntime: pip install 'glot-pipeline\[onnx\]'"):
        export_onnx(run, tmp_path / "head.onnx")
