"""The options of commands whose work Ray may spread over machines; see `glot.cluster.launch`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from glot.cluster.launch import RayOptions

LAUNCH_OPTIONS = ("--launcher", "--ray-address", "--workers", "--gpus-per-worker")


@dataclass(frozen=True)
class LaunchOptions:
    """Whether Ray starts the workers, where, and how many."""

    launcher: Annotated[
        str | None,
        typer.Option(help="ray: have a Ray cluster start, watch and restart the workers; default: this process works."),
    ] = None
    ray_address: Annotated[
        str | None,
        typer.Option(
            help="With --launcher ray: the head's host:port, or auto for the cluster of this machine; default: "
            "RAY_ADDRESS, else a Ray of this machine alone."
        ),
    ] = None
    workers: Annotated[
        int | None, typer.Option(min=1, help="With --launcher ray: how many; default: one a GPU, else one a node.")
    ] = None
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(min=0, help="With --launcher ray: GPUs of each worker; default: 1 if there are any, else 0."),
    ] = None

    def cluster(self, beside: dict[str, bool]) -> RayOptions | None:
        """The cluster; None where this command works itself; see `parse_launcher` for the rest."""
        from glot.cluster.launch import parse_launcher

        return parse_launcher(self.launcher, self.ray_address, self.workers, self.gpus_per_worker, beside)
