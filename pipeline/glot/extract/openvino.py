"""A backbone's forward pass by OpenVINO: converted once, kept on disk, compiled for this processor at each start."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from glot.errors import reason_of
from glot.extract.agreement import Unfit
from glot.extract.forward import Backbone
from glot.process import quiet

INSTALL = "pip install 'glot-pipeline[openvino]'"
HINTS = {"float32": "f32", "bfloat16": "bf16"}  # OpenVINO's names of what it computes in
# Tokens of the two texts that the tracer sees, one padded. It may only learn from them what does not hang on lengths:
# `take_engine` compares the result at others.
TRACED = (7, 5)


def openvino_version() -> str | None:
    """The version that is installed, or None; nothing is imported."""
    try:
        return version("openvino")
    except PackageNotFoundError:
        return None


def import_openvino() -> ModuleType:
    """The package, without its telemetry: importing it would start a process that calls google-analytics.com.

    It takes a stub instead where its telemetry cannot be imported. Raises ImportError where it is not installed, or
    does not run here.
    """
    absent = object()
    before = sys.modules.get("openvino_telemetry", absent)
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # makes its import fail
    try:
        import openvino
    finally:
        if before is absent:
            del sys.modules["openvino_telemetry"]
        else:
            sys.modules["openvino_telemetry"] = before  # type: ignore[assignment]
    return openvino


def check_openvino() -> None:
    """Raise Unfit where OpenVINO is not installed, or does not run here."""
    if openvino_version() is None:
        raise Unfit(f"OpenVINO, which is faster, is not installed ({INSTALL})")
    try:
        import_openvino()
    except Exception as error:  # built for another Python, processor or system
        raise Unfit(f"OpenVINO cannot be loaded ({reason_of(error)})") from None


def sure_layers(backbone: Backbone) -> tuple[int, ...]:
    """The layers whose numbers are sure: what a converted model gives."""
    return tuple(layer for layer, width in enumerate(backbone.layer_widths) if width is not None)


class _Layers(torch.nn.Module):
    """What is traced: (B, L) ids and mask to the (B, L, d) float32 states of each sure layer."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        # As `model` OpenVINO would look into its config, and take a dequantized GGUF file for quantized still.
        self.weights, self.backbone, self.layers = backbone.model, backbone, sure_layers(backbone)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # In float32, for NumPy would take bfloat16's bits for those of float16.
        return tuple(states.float() for states in self.backbone.hidden_states(ids, mask, self.layers))


def convert(backbone: Backbone) -> Any:
    """OpenVINO's model of a backbone, one output a sure layer; raises whatever the tracer or OpenVINO raise."""
    ov: Any = import_openvino()
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    longest = backbone.max_positions or TRACED[0]
    lengths = [min(length, longest) for length in (TRACED if backbone.pads else (TRACED[0],) * 2)]
    example = backbone.pad([[number % backbone.vocabulary_size for number in range(5, 5 + some)] for some in lengths])
    # There are warnings of branches that depend on shapes, and of transformers, each of whose properties is read.
    with torch.inference_mode(), quiet("transformers"):
        # Unchecked: the check would trace a second time, and the result is compared with torch's in any case.
        decoder = TorchScriptPythonDecoder(
            _Layers(backbone).eval(), example_input=example, trace_kwargs={"check_trace": False}
        )
        model = ov.convert_model(decoder, example_input=example)
    _attend_to_something(model, ov)
    return model


def _attend_to_something(model: Any, ov: Any) -> None:
    """Let a token that may attend to none attend to all, as padding does beyond a sliding window.

    torch makes zeros of such a row and OpenVINO NaN, which reaches the real tokens a layer later: 0 · NaN is NaN.
    """
    from openvino import opset16

    joined: dict[tuple[str, int], Any] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() != "ScaledDotProductAttention" or node.get_input_size() < 4:
            continue
        mask = node.input(3).get_source_output()
        if mask.get_element_type() != ov.Type.boolean:
            continue
        key = (mask.get_node().get_friendly_name(), mask.get_index())
        if key not in joined:
            none = opset16.logical_not(opset16.reduce_logical_or(mask, np.array([-1], np.int64), keep_dims=True))
            joined[key] = opset16.logical_or(mask, none).output(0)
        node.input(3).replace_source_output(joined[key])
    model.validate_nodes_and_infer_types()


def save(model: Any, folder: Path) -> None:
    """Write `model.xml` and `model.bin`, every weight in its own dtype; raises RuntimeError where the disk is full."""
    import_openvino().save_model(model, folder / "model.xml", compress_to_fp16=False)


def read(folder: Path) -> Any:
    """A model that `save` wrote, its weights mapped from the file; raises RuntimeError where it is damaged."""
    ov: Any = import_openvino()
    return ov.Core().read_model(folder / "model.xml")


def computes_bfloat16() -> bool:
    """Whether this processor has units for it; without them OpenVINO drops the wish without a word."""
    ov: Any = import_openvino()
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoEngine:
    """A compiled model.

    Attributes:
        name: with version and precision, as shards record it.
        layers: those that it gives.
    """

    def __init__(self, model: Any, given: tuple[int, ...], layers: tuple[int, ...], precision: str) -> None:
        """Compile the outputs of `layers` of a model that gives the layers `given`."""
        ov: Any = import_openvino()
        options = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "ENABLE_CPU_PINNING": False,  # several workers on a machine would be pinned to the same cores
            "EXECUTION_MODE_HINT": "ACCURACY",
            "INFERENCE_PRECISION_HINT": HINTS[precision],
        }
        outputs = [model.output(given.index(layer)) for layer in layers]
        chosen = ov.Model(outputs, model.get_parameters())
        self._request = ov.Core().compile_model(chosen, "CPU", options).create_infer_request()
        self.layers, self.name = layers, f"openvino {openvino_version()} {precision}"

    def hidden_states(self, ids: torch.Tensor, mask: torch.Tensor, layers: tuple[int, ...]) -> list[torch.Tensor]:
        """One (B, L, d) float32 tensor a layer, on the CPU; one thread at a time may call it."""
        result = self._request.infer([ids.numpy(), mask.numpy()], share_inputs=True)
        return [torch.from_numpy(result[self.layers.index(layer)]) for layer in layers]
