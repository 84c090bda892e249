"""What forwards a backbone: torch, or on a CPU OpenVINO, where it is installed and shown to give the same states."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from glot.errors import GlotError, UsageError, reason_of
from glot.extract.agreement import AGREES, Unfit, check_agreement, expect
from glot.extract.forward import CPU_FLOPS, Backbone
from glot.extract.options import check_engine
from glot.extract.ready import keep_start
from glot.process import available_memory

WORTH_SECONDS = 20.0  # of torch's time, from which on "auto" looks for something faster
MEMORY = 2.0  # times the weights' bytes must be free to convert and compile: about 1.9 were taken by two models


def take_engine(
    backbone: Backbone,
    layers: tuple[int, ...],
    engine: str = "auto",
    tokens: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Set what forwards a backbone from now on, where these layers are wanted.

    "auto" takes OpenVINO on a CPU where it can, and says in one line why not; for few `tokens` (None: nobody knows how
    many) it stays with torch, for a model takes seconds to convert and to compile. On a GPU torch is taken, and for a
    model that somebody holds, whose weights may change.

    Raises UsageError where "openvino" is asked for and cannot be taken.
    """
    asked = check_engine(engine)
    if asked != "torch" and backbone.engine is not None and set(layers) <= set(backbone.engine.layers):
        return
    backbone.engine = None
    if asked == "auto" and backbone.held:
        return
    is_little = tokens is not None and forward_seconds(backbone, tokens) < WORTH_SECONDS
    if asked == "torch" or (asked == "auto" and (is_little or backbone.device.type != "cpu")):
        return
    try:
        backbone.engine = _compile(backbone, layers)
    except Unfit as error:
        if asked == "openvino":
            raise UsageError(
                f"--engine openvino cannot forward {backbone.name}: {error}; pass --engine torch"
            ) from None
        say(f"torch forwards {backbone.name}: {error}")


def forward_seconds(backbone: Backbone, tokens: int) -> float:
    """About how long torch takes on a slow CPU."""
    return 2 * backbone.parameters * tokens / CPU_FLOPS


def _compile(backbone: Backbone, layers: tuple[int, ...]) -> Any:
    """OpenVINO's engine for a backbone, compared with torch; raises Unfit."""
    from glot.extract import openvino

    _check_there(backbone)
    if backbone.compute_dtype == "bfloat16" and not openvino.computes_bfloat16():
        raise Unfit("OpenVINO computes in bfloat16 only on processors that have units for it")
    needed = MEMORY * sum(weights.nbytes for weights in backbone.model.parameters())
    if needed > available_memory():
        raise Unfit(f"OpenVINO would need {needed / 2**30:.1f} GiB of memory, and fewer are free")
    model = _converted(backbone)
    try:
        engine = openvino.OpenVinoEngine(model, openvino.sure_layers(backbone), layers, backbone.compute_dtype)
    except RuntimeError as error:
        raise Unfit(f"OpenVINO cannot compile it ({reason_of(error)})") from None
    expected = expect(backbone, layers)
    check_agreement(backbone, engine, expected)
    keep_start(backbone, expected)
    return engine


def _check_there(backbone: Backbone) -> None:
    """Raise Unfit for what is known without loading OpenVINO, or where it cannot be loaded."""
    from glot.extract import openvino

    if backbone.device.type != "cpu":
        raise Unfit(f"OpenVINO is used on the CPU only, and it lies on {backbone.device}")
    if any(weights.device.type != "cpu" for weights in backbone.model.parameters()):
        raise Unfit("OpenVINO needs all of its weights in memory, and --device-map has spread them")
    if backbone.compute_dtype not in AGREES:
        raise Unfit(f"OpenVINO computes in {' or '.join(AGREES)}, not in {backbone.compute_dtype}")
    openvino.check_openvino()


def _converted(backbone: Backbone) -> Any:
    """OpenVINO's model of a backbone, from disk where it is kept; raises Unfit where there is none."""
    from glot.extract import converted, openvino

    kept = converted.find_model(backbone)
    if kept is not None and kept.folder is None:
        raise Unfit(kept.reason)
    if kept is not None and kept.folder is not None:
        return openvino.read(kept.folder)
    try:
        model = openvino.convert(backbone)
    except Exception as error:  # the tracer and OpenVINO have their own for what they do not know
        reason = f"OpenVINO cannot convert a {backbone.model.config.model_type} model ({reason_of(error)})"
        if not isinstance(error, MemoryError | OSError) and "alloc" not in str(
            error
        ):  # which may be otherwise tomorrow
            converted.keep_reason(backbone, reason)
        raise Unfit(reason) from None
    try:
        return openvino.read(converted.keep_model(backbone, partial(openvino.save, model)))
    except (GlotError, RuntimeError, OSError):  # no room, or no leave to write: this start alone has it
        return model
