"""The pooling of a run, and its head where that is of single texts, as an ONNX file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from glot.errors import FaultError, UsageError
from glot.export.onnx_graph import check_packages, make_graph
from glot.export.pooling import load_pooling
from glot.fit.run_folder import RunConfig, find_one_run
from glot.store.files import atomic_path, make_folder

if TYPE_CHECKING:
    from glot.export.pooling_module import GlotPooling

INPUTS = ("states", "mask")
TOLERANCE = 1e-4
CHECKED = ((1, 1), (3, 17), (2, 40))  # batches and lengths that are compared after an export


@dataclass(frozen=True)
class ExportedOnnx:
    """What an export made: the file, its size, its outputs, and how far they are from torch's at most."""

    path: Path
    bytes: int
    outputs: tuple[str, ...]
    difference: float


class OnnxHead(nn.Module):
    """What the file computes.

    From states (B, L, d) float32 and mask (B, L) int64, 1 at tokens: vectors (B, D); for a head of one text also its
    logits (B, C), or its scores (B,) in the task's units. A head that mixes n layers takes theirs side by side,
    (B, L, n d).

    Attributes:
        width: of the states, d or n d.
    """

    def __init__(self, pooling: GlotPooling) -> None:
        super().__init__()
        self.pooling = pooling
        config = pooling.config
        self.width = config.width * max(1, len(config.mixed_layers))
        self.has_answer = pooling.head is not None and config.num_texts == 1
        self.outputs = ("vectors", *((("logits" if config.classes else "scores"),) if self.has_answer else ()))

    def forward(self, states: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        """The outputs by the names in `outputs`."""
        vectors = self.pooling.pool(states, mask.bool())
        if not self.has_answer:
            return (vectors,)
        raw = self.pooling.raw(vectors)
        return vectors, raw if self.pooling.config.classes else self.pooling.scores(raw)


def export_onnx(run: Path, out: Path) -> ExportedOnnx:
    """Write the head of a run to an ONNX file with any batch and any length, and compare it with torch.

    Raises UsageError where a package is missing, the run cannot be exported or `out` is there already, FaultError
    where the disk is full or the outputs differ by more than `TOLERANCE` of their largest number.
    """
    run = find_one_run(Path(run))
    if out.exists():
        raise UsageError(f"{out} is there already: choose another place")
    check_packages()
    config = RunConfig.load(run)
    pooling = load_pooling(run, config)
    head = OnnxHead(pooling).eval()
    facts = _facts(config, pooling.config.thresholds)
    make_folder(out.parent)
    with atomic_path(out) as temporary:
        make_graph(head, _example(2, 5, head.width), INPUTS, head.outputs, facts).save(temporary)
        difference = _compare(head, temporary)
    return ExportedOnnx(out, out.stat().st_size, head.outputs, difference)


def _facts(config: RunConfig, thresholds: list[float] | None) -> dict[str, str]:
    """What a user of the file must know of its inputs and outputs, for its metadata."""
    states, task = config.states, config.task
    several = {} if thresholds is None else {"thresholds": json.dumps(thresholds)}  # of sigmoids, not of a softmax
    return {
        **several,
        "backbone": states.backbone,
        "backbone_weights_sha256": states.weights_sha256,
        "layer": ", ".join(map(str, config.layers)),
        "template": states.template,
        "max_tokens": str(states.max_tokens),
        "mask": "content tokens alone" if config.pooler.tokens == "content" else "all tokens",
        "classes": json.dumps(list(task.classes), ensure_ascii=False),
    }


@torch.inference_mode()
def _compare(head: OnnxHead, path: Path) -> float:
    """The largest difference to torch on some batches; FaultError for a large one."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for batch, tokens in CHECKED:
        states, mask = _example(batch, tokens, head.width)
        made = session.run(None, {"states": states.numpy(), "mask": mask.numpy()})
        for name, value, expected in zip(head.outputs, made, head(states, mask), strict=True):
            difference = float(np.abs(value - expected.numpy()).max())
            if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):  # NaN too
                raise FaultError(f"{name} of the ONNX file differ from torch's by {difference:.1e}: nothing is written")
            worst = max(worst, difference)
    return worst


def _example(batch: int, tokens: int, width: int) -> tuple[Tensor, Tensor]:
    """States (B, L, d) with a common direction, so that the graph has edges and gaps, and a mask of falling lengths."""
    states = torch.randn(batch, tokens, width, generator=torch.Generator().manual_seed(batch)) + 1
    lengths = tokens - torch.arange(batch) % tokens
    return states, (torch.arange(tokens) < lengths[:, None]).long()
