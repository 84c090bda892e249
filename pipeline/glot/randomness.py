"""The process's generators of random numbers: a library's user has seeded them, and they are not ours to move."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def kept_randomness(seed: int | None = None) -> Iterator[None]:
    """Give the generators of Python, NumPy and torch, on every device in use, back as they were.

    With a `seed`, torch's generator of the CPU begins from it inside, and no other is touched.
    """
    python, arrays, tensors = random.getstate(), np.random.get_state(), torch.get_rng_state()
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        torch.set_rng_state(tensors)
        if gpus:
            torch.cuda.set_rng_state_all(gpus)
