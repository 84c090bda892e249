"""Which library multiplies float32 matrices on the CPU: torch's own choice, or oneDNN where that is faster.

torch takes MKL, which leaves much of a processor of another maker unused. oneDNN takes the products over where torch
lets it round their factors to bfloat16. It does so only on processors that multiply bfloat16 matrices (AMX); on all
others it computes in float32. So both ways are tried, their rate and their error are measured, and the fastest with
the error of float32 is taken. Attention stays torch's own: its kernel multiplies small blocks, and oneDNN's start costs
more than they do (`torch_attention`).
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, get_args

from glot.errors import UsageError

if TYPE_CHECKING:
    import torch

Way = Literal["torch", "onednn"]
WAYS: tuple[Way, ...] = get_args(Way)
VARIABLE = "GLOT_PRODUCTS"
ROWS, INNER, COLUMNS, TRIES = 432, 384, 256, 4  # of the products that are tried: those of a usual step, some 10 ms
CLEARLY_FASTER = 1.15  # than torch's own choice: below that it is not worth other bits
UNITS = 1.3  # times the rate of float32: less is no unit, and not worth what bfloat16 rounds away
ROUNDING = 4.0  # times the error of torch's own choice that still counts as float32; bfloat16's is 100 times as large


@dataclass(frozen=True)
class Measured:
    """One way on this machine: `rate` in floating point operations a second, `error` relative to float64's product."""

    rate: float
    error: float


class _Held:
    """How many are within `fast_products`, in all threads, and what the first of them found and chose."""

    lock = threading.Lock()
    depth = 0
    way: Way = "torch"
    before = ""


@contextmanager
def fast_products(way: Way | None = None) -> Iterator[Way]:
    """Multiply by the fastest way inside; the process's own setting is put back at the end. Gives the way in force.

    `way` is that of a run which goes on, so that its bits repeat: it is taken where it is float32 here. Within another
    `fast_products` the outer one decides, for the setting is the whole process's.

    Raises UsageError where the environment variable GLOT_PRODUCTS is none of "auto", "torch" and "onednn".
    """
    chosen = choose_way(way)
    with _Held.lock:
        if _Held.depth == 0:
            _Held.way, _Held.before = chosen, _precision()
            if chosen == "onednn":
                _set_precision("bf16")
        _Held.depth += 1
    try:
        yield _Held.way
    finally:
        with _Held.lock:
            _Held.depth -= 1
            if _Held.depth == 0:
                _Held.way = "torch"
                _set_precision(_Held.before)


@contextmanager
def torch_attention() -> Iterator[None]:
    """Within `fast_products`, leave torch's fused attention to torch.

    For 32 texts of 32 tokens (12 heads of width 32) it took 11 ms through oneDNN and 1.8 ms through torch, on an AMD
    EPYC with AVX-512. The setting is the whole process's: products of other threads are torch's, too, while it runs.
    """
    if _Held.way != "onednn":
        yield
        return
    from torch.nn.functional import scaled_dot_product_attention
    from torch.overrides import TorchFunctionMode

    class TorchAttention(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, given: Any = (), named: Any = None) -> Any:
            if function is not scaled_dot_product_attention:
                return function(*given, **(named or {}))
            outside = _precision()
            _set_precision(_Held.before)
            try:
                return function(*given, **(named or {}))
            finally:
                _set_precision(outside)

    with TorchAttention():
        yield


def choose_way(recorded: Way | None = None) -> Way:
    """The way that the environment asks for; else a run's own, where it is float32 here; else the fastest such."""
    asked = asked_way()
    if asked != "auto":
        return "onednn" if asked == "onednn" and "onednn" in measure_ways() else "torch"
    if recorded == "torch" or not _is_float32("onednn"):
        return "torch"
    found = measure_ways()
    is_faster = found["onednn"].rate > CLEARLY_FASTER * found["torch"].rate
    return "onednn" if recorded == "onednn" or is_faster else "torch"


def asked_way() -> str:
    """What the environment asks for; raises UsageError where that is none of "auto", "torch" and "onednn"."""
    asked = os.environ.get(VARIABLE, "auto")
    if asked not in ("auto", *WAYS):
        raise UsageError(f"{VARIABLE} is {asked!r}: set it to auto, {' or '.join(WAYS)}")
    return asked


def _is_float32(way: Way) -> bool:
    found = measure_ways()
    return way in found and found[way].error <= ROUNDING * found["torch"].error


@cache
def measure_ways() -> dict[Way, Measured]:
    """Rate and error of each way that this machine has, measured once a process."""
    import torch

    ways: tuple[Way, ...] = WAYS if torch.backends.mkldnn.is_available() and _precision() else ("torch",)
    generator = torch.Generator().manual_seed(0)
    shapes = ((ROWS, INNER), (COLUMNS, INNER), (COLUMNS,))  # as of a linear layer, whose weights oneDNN has to turn
    a, weight, bias = (torch.randn(shape, generator=generator) for shape in shapes)
    exact, before = a.double() @ weight.double().T + bias, _precision()
    seconds = dict.fromkeys(ways, math.inf)
    errors = dict.fromkeys(ways, 0.0)
    try:
        for attempt in range(TRIES + 1):  # by turns; the first of each warms up
            for way in ways:
                _set_precision("bf16" if way == "onednn" else before)
                started = time.perf_counter()
                product = torch.nn.functional.linear(a, weight, bias)
                if attempt:
                    seconds[way] = min(seconds[way], time.perf_counter() - started)
                errors[way] = float((product.double() - exact).norm() / exact.norm())
    finally:
        _set_precision(before)
    return {way: Measured(2 * ROWS * INNER * COLUMNS / seconds[way], errors[way]) for way in ways}


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies bfloat16 matrices by units of their own: a GPU by what it is, a CPU by its rate."""
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu":
        return False
    a, b = torch.ones(ROWS, INNER, dtype=torch.bfloat16), torch.ones(INNER, COLUMNS, dtype=torch.bfloat16)
    seconds = math.inf
    for _ in range(TRIES):
        started = time.perf_counter()
        a @ b
        seconds = min(seconds, time.perf_counter() - started)
    return 2 * ROWS * INNER * COLUMNS / seconds > UNITS * max(way.rate for way in measure_ways().values())


def _precision() -> str:
    """What float32 products may be rounded to within oneDNN; "" where this torch has no such setting."""
    import torch

    return getattr(getattr(torch.backends.mkldnn, "matmul", None), "fp32_precision", "")


def _set_precision(value: str) -> None:
    import torch

    if value:
        torch.backends.mkldnn.matmul.fp32_precision = value  # type: ignore[attr-defined]  # set by the module's class
