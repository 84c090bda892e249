"""From a torch module to an ONNX file with any batch and any length, by torch's own exporter."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from glot.errors import UsageError
from glot.process import quiet


def check_packages(kind: str = "onnx") -> None:
    """Raise UsageError where a package that writes, checks or runs ONNX is missing; `kind` is the word behind --to."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UsageError(f"--to {kind} needs {error.name}: pip install 'glot-pipeline[onnx]'") from None


def make_graph(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    facts: dict[str, str],
    free: tuple[str, ...] = ("batch", "tokens"),
) -> Any:
    """torch's ONNX program of a module; raises whatever the exporter raises.

    Its `save` writes what is over 1.5 GiB with the weights in a second file, `<name>.data`.

    Args:
        example: one tensor an input, two or more long in each dimension that is free.
        facts: what the file says of itself.
        free: the names of each input's first dimensions, which may be of any size.
    """
    sizes = {place: torch.export.Dim(name, min=1) for place, name in enumerate(free)}
    # The exporter's remarks are on what it does itself, and transformers' on what it is asked for meanwhile.
    with torch.inference_mode(False), torch.no_grad(), quiet("torch.onnx", "transformers"):
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=tuple(sizes for _ in inputs),
            verbose=False,
        )
    assert program is not None  # as it is with dynamo=True
    _forget_places(program.model)
    program.model.metadata_props.update(facts)
    return program


def _forget_places(model: Any) -> None:
    """Leave out where on this machine each line of code lies."""
    graph = model.graph
    nodes = [*graph.all_nodes(), *(node for function in model.functions.values() for node in function.all_nodes())]
    weights = [*graph.initializers.values()]
    values = [*graph.inputs, *graph.outputs, *weights, *(value for node in nodes for value in node.outputs)]
    for part in (*nodes, *values, *(weight.const_value for weight in weights if weight.const_value is not None)):
        part.metadata_props.clear()
