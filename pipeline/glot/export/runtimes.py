"""What runs an exported graph outside of torch, onnxruntime or OpenVINO: its files, and the Python that uses them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from glot.errors import UsageError
from glot.extract.openvino import import_openvino, openvino_version

Graph = Callable[[dict[str, np.ndarray]], list[np.ndarray]]  # inputs by name to outputs in their order


class Runtime:
    """One of them.

    Attributes:
        kind: its word behind --to. package: what its users install and import. suffix: of a graph's file.
        opening, calling: Python for the page in the folder: a graph from {path}; the outputs of a {graph}, in their
            order, for a dict {given}. OpenVINO's own names of outputs are not always those of the ONNX file.
    """

    kind: str
    package: str
    suffix: str
    opening: str
    calling: str

    def check(self) -> None:
        """Raise UsageError where its package is missing, unless what writes ONNX asks for it too."""

    def keep(self, path: Path) -> None:
        """Leave in place of a graph's ONNX file `path` what it reads itself, if that is another."""

    def open(self, path: Path) -> Graph:
        """The graph in a file of its own suffix."""
        raise NotImplementedError


class OnnxRuntime(Runtime):
    """onnxruntime, which reads ONNX as torch writes it."""

    kind, package, suffix = "onnx", "onnxruntime", ".onnx"
    opening = "onnxruntime.InferenceSession({path})"
    calling = "{graph}.run(None, {given})"

    def open(self, path: Path) -> Graph:
        """See `Runtime`."""
        import onnxruntime

        session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda given: session.run(None, given)


class OpenVino(Runtime):
    """OpenVINO, whose own format (IR) is an XML file of operations beside a binary file of weights."""

    kind, package, suffix = "openvino", "openvino", ".xml"
    opening = 'openvino.Core().compile_model({path}, "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})'
    calling = "{graph}({given}).values()"

    def check(self) -> None:
        """See `Runtime`."""
        if openvino_version() is None:
            raise UsageError("--to openvino needs openvino: pip install 'glot-pipeline[onnx,openvino]'")

    def keep(self, path: Path) -> None:
        """See `Runtime`; the ONNX file goes, and with it the file of its weights."""
        ov: Any = import_openvino()
        model = ov.convert_model(path)
        ov.save_model(model, path.with_suffix(self.suffix), compress_to_fp16=False)
        del model  # it maps the weights' file
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()

    def open(self, path: Path) -> Graph:
        """See `Runtime`."""
        ov: Any = import_openvino()
        model = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return lambda given: list(model(given).values())


RUNTIMES: dict[str, Runtime] = {runtime.kind: runtime for runtime in (OnnxRuntime(), OpenVino())}
