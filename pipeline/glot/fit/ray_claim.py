"""The claim of a command whose heads are trained by Ray's workers, which may outlive it for as long as their lease."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep

from glot.cluster.assign import lease_seconds
from glot.store.claims import Claims

CLAIM = "ray"


@contextmanager
def held_for_ray(folder: Path) -> Iterator[None]:
    """A folder's heads for the workers of this command alone; raises FaultError where those of another train them."""
    wait_for_orphans(folder)
    with Claims(folder) as claims:
        claims.require(CLAIM, f"has Ray's workers at {folder}")
        yield


def wait_for_orphans(folder: Path) -> None:
    """Where a command that had Ray's workers was killed, wait until all of them have ended."""
    with Claims(folder) as claims:
        if claims.owner(CLAIM) is not None and claims.acquire(CLAIM):  # else it lives
            sleep(lease_seconds())
