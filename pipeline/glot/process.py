"""What belongs to the whole process: signal handlers, random numbers, libraries' bars; threads; memory."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress


@contextmanager
def stop_flag() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C (or SIGTERM) into a request to stop at the next step; a second one stops at once."""
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def kept_randomness(seed: int | None = None) -> Iterator[None]:
    """Give the generators of Python, NumPy and torch, on every device in use, back as they were.

    With a `seed`, torch's generator of the CPU begins from it inside, and no other is touched.
    """
    import numpy as np  # here, for commands take `stop_flag` before anything slow is loaded
    import torch

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


@contextmanager
def without_bars() -> Iterator[None]:
    """Without the bars that libraries draw by tqdm, whose own switches do not reach all of them."""
    from tqdm import std

    draw = std.tqdm.__init__

    def draw_nothing(self: std.tqdm, *args: object, **options: object) -> None:
        draw(self, *args, **{**options, "disable": True})

    std.tqdm.__init__ = draw_nothing
    try:
        yield
    finally:
        std.tqdm.__init__ = draw


@contextmanager
def quiet(*loggers: str, level: int = logging.ERROR) -> Iterator[None]:
    """Without any warnings, and without what some libraries log below a level."""
    named = [logging.getLogger(name) for name in loggers]
    before = [logger.level for logger in named]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in named:
                logger.setLevel(level)
            yield
    finally:
        for logger, kept in zip(named, before, strict=True):
            logger.setLevel(kept)


@contextmanager
def no_collection(keeps: bool = False) -> Iterator[None]:
    """Build many objects without looking for cycles among them again and again, which takes longer than they do.

    `keeps`: most of them stay. They are taken for old then, so that what follows is not looked through together with
    them; not for what is done again and again, for so nothing that is young ever grows old enough to be looked at.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if keeps and not gc.get_freeze_count():  # else somebody wants what is frozen to stay so
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def share_processor() -> None:
    """Let threads that wait for one another sleep, not spin; to be called before torch is loaded.

    A training step is hundreds of short products on all cores, after each of which OpenMP's threads wait for the
    slowest, and spin. Beside another busy process on 2 cores, where one is always late, a fit took 16 to 62 s that
    takes 8 to 15 s with threads that sleep. What the user has set stays.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(os.environ):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def available_memory() -> int:
    """Bytes of memory that this machine has free; 4 GiB where nothing tells."""
    try:
        with open("/proc/meminfo") as file:
            fields = dict(line.split(":") for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # no Linux
        with suppress(ImportError, OSError):
            import psutil  # comes with accelerate

            return psutil.virtual_memory().available
        return 4 * 2**30
