"""GGUF files, which transformers parses three times (config, tokenizer, weights) with readers that know no haste."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np


@contextmanager
def parsed_once() -> Iterator[None]:
    """Parse a GGUF file once inside, however often it is asked for, and the tables of its tensors' names too.

    Without the package gguf nothing is done: transformers says what is missing.
    """
    try:
        import gguf
    except ImportError:
        yield
        return

    class PlainReader(gguf.GGUFReader):
        """Reads from a plain view of the mapped file: each slice of a `numpy.memmap` costs several times as much."""

        @property  # type: ignore[override]  # a field there
        def data(self) -> np.ndarray:
            return self._plain

        @data.setter
        def data(self, mapped: np.ndarray) -> None:
            self._plain = mapped.view(np.ndarray)

    before: dict[str, Any] = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    vars(gguf).update(GGUFReader=cache(PlainReader), get_tensor_name_map=cache(gguf.get_tensor_name_map))
    try:
        yield
    finally:
        vars(gguf).update(before)
