"""Who starts the workers of a command, as a user says it: nobody but this command, or Ray."""

from __future__ import annotations

import importlib.util
import os
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

from glot.errors import FaultError, UsageError

LAUNCHERS = ("ray",)
ADDRESS_VARIABLE = "RAY_ADDRESS"  # Ray's own, of the environment
CONNECT_SECONDS = 5.0


@dataclass(frozen=True)
class RayOptions:
    """Where Ray is and what workers it starts.

    Attributes:
        address: host:port of a cluster's head, "auto" for the cluster that this machine belongs to, or "local" for a
            Ray of this command's own.
        workers: how many; None: one a GPU, or without one, one a node.
        gpus: of each worker; None: 1 where the cluster has any, else 0.
    """

    address: str = "local"
    workers: int | None = None
    gpus: float | None = None


def parse_launcher(
    launcher: str | None,
    address: str | None,
    workers: int | None,
    gpus: float | None,
    beside: dict[str, bool] | None = None,
) -> RayOptions | None:
    """What `--launcher` and its options say; None where this command works itself.

    `beside`: why something else that was asked for does not go with Ray, and whether it was.

    Raises UsageError for an unknown launcher, options that do not go with it, and where Ray is not installed.
    """
    if launcher is None:
        for option, value in (("--ray-address", address), ("--workers", workers), ("--gpus-per-worker", gpus)):
            if value is not None:
                raise UsageError(f"{option} goes with --launcher ray: pass both, or neither")
        return None
    if launcher not in LAUNCHERS:
        raise UsageError(f"unknown --launcher {launcher!r}: choose {' or '.join(LAUNCHERS)}")
    for why, is_given in (beside or {}).items():
        if is_given:
            raise UsageError(why)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "--launcher ray starts the workers itself: run the command alone, not by accelerate or torchrun"
        )
    found = RayOptions(_address(address), workers, gpus)
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--launcher ray needs Ray, here and on its nodes: pip install 'glot-pipeline[ray]'")
    return found


def _address(given: str | None) -> str:
    """The address given, or else that of the environment; raises UsageError for what is none."""
    where = os.environ.get(ADDRESS_VARIABLE) if given in (None, "auto") else given
    if not where or where in ("auto", "local"):
        return where or given or "local"
    option = f"--ray-address {where!r}" if where == given else f"{ADDRESS_VARIABLE}={where}"
    if where.startswith("ray://"):
        raise UsageError(
            f"{option}: the command runs on a node of the cluster, which sees the cache's folder: pass auto, or the "
            "head's host:port"
        )
    host, _, port = where.rpartition(":")
    if not (host and port.isdigit() and 0 < int(port) < 2**16):
        raise UsageError(f"{option}: pass auto, or the head's host:port, as in 10.0.0.1:6379")
    return where


def check_address(ray: RayOptions) -> None:
    """Raise FaultError where nobody answers at the address: Ray itself would try for minutes."""
    address = _last_started() if ray.address == "auto" else ray.address
    host, _, port = address.rpartition(":")
    if not (host and port.isdigit()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise FaultError(
            f"no Ray answers at {address} ({error.strerror or error}): start it there with `ray start --head`, or pass "
            "another --ray-address"
        ) from None


def _last_started() -> str:
    """The address of the cluster that this machine belonged to last, as Ray notes it; empty where it was stopped."""
    try:
        folder = Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir())
        return (folder / "ray" / "ray_current_cluster").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""
