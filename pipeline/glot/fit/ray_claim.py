"""The claim of a command whose heads are trained by Ray's workers, which may outlive it for as long as their lease."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from glot.cluster.assign import lease_seconds
from glot.errors import FaultError
from glot.store.claims import Claims

CLAIM = "ray"


@contextmanager
def held_for_ray(folder: Path) -> Iterator[None]:
    """A folder's heads for the workers of this command alone; raises FaultError where those of another train them."""
    wait_for_orphans(folder)
    with Claims(folder) as claims:
        if not claims.acquire(CLAIM):
            raise FaultError(
                f"{claims.owner(CLAIM) or 'another process'} has Ray's workers at {folder}: wait until it ends; one "
                "that was killed on another machine is forgotten after five minutes"
            )
        yield


def wait_for_orphans(folder: Path) -> None:
    """Where a command that had Ray's workers was killed, wait until all of them have ended."""
    with Claims(folder) as claims:
        if claims.owner(CLAIM) is not None and claims.acquire(CLAIM):  # else it lives
            time.sleep(lease_seconds())
