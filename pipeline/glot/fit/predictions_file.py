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
    predictions = [_read(run / f"predictions-{set_name}.npy") for run in runs]
    labels = _read(runs[0] / f"labels-{set_name}.npy")
    there = [found for found in predictions if found is not None]
    if len(there) < len(runs) or labels is None or not len(labels):
        return None
    return np.stack(there), labels


def _read(path: Path) -> np.ndarray | None:
    """(m,) numbers, one an example; None where there is no such file."""
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
    return values
