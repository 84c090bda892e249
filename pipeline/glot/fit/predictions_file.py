"""What a run answered to an example set, as it keeps that: `predictions-SET.npy` and, beside it, `labels-SET.npy`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from glot.errors import FaultError
from glot.store.files import no_access

PATTERNS = ("predictions-*.npy", "labels-*.npy")


def read_predictions(runs: Sequence[Path], set_name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """(s, m) predictions of s runs for a set, and its (m,) labels; None where a run kept none, or there is none.

    Raises FaultError where a file is damaged.
    """
    labels = read_numbers(runs[0] / f"labels-{set_name}.npy")
    if labels is None or not len(labels):
        return None
    predictions = [read_numbers(run / f"predictions-{set_name}.npy", len(labels)) for run in runs]
    there = [found for found in predictions if found is not None]
    return (np.stack(there), labels) if len(there) == len(runs) else None


def read_numbers(path: Path, count: int | None = None) -> np.ndarray | None:
    """(m,) numbers, one an example; None where there is no such file.

    Raises FaultError where the file is damaged, or m is not the `count` that is known.
    """
    try:
        values = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise no_access(error, path) from None
    except (OSError, ValueError, EOFError) as error:
        raise FaultError(f"{path} is damaged: {error}; remove it, or predict again") from None
    if not isinstance(values, np.ndarray) or values.ndim != 1 or values.dtype.kind not in "iuf":
        raise FaultError(f"{path} does not hold one number an example; remove it, or predict again")
    if not np.isfinite(values).all():
        raise FaultError(f"{path} holds NaN or infinity; remove it, or predict again")
    if count is not None and len(values) != count:
        raise FaultError(f"{path} holds {len(values):,} numbers for {count:,} examples; remove it, or predict again")
    return values
