"""The options that say where and with what a model runs, for every command that runs one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glot.commands.console import note

if TYPE_CHECKING:
    from glot.inference.model import GlotModel

PANEL = "Machine"  # in the help
DeviceOption = Annotated[
    str | None,
    typer.Option("--device", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one.", rich_help_panel=PANEL),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code",
        help="Run the code that a model's folder brings along, if any; else it never runs.",
        rich_help_panel=PANEL,
    ),
]
BackendOption = Annotated[
    str,
    typer.Option("--backend", help="Passes messages: dense (plain torch), dgl, or auto: dense.", rich_help_panel=PANEL),
]


@dataclass(frozen=True)
class MachineOptions:
    """Where a backbone runs, what forwards it, and whether code from its folder may run."""

    device: DeviceOption = None
    engine: Annotated[
        str,
        typer.Option(
            help="What forwards the model on a CPU: torch, openvino, or auto: openvino where it is installed, agrees "
            "with torch, and there is much to do or the model was converted before.",
            rich_help_panel=PANEL,
        ),
    ] = "auto"
    trust_remote_code: TrustOption = False

    def load(self, run: Path, backbone: str | None, tokens: int | None = None) -> GlotModel:
        """A run or an ensemble with its backbone, see `GlotModel.load`."""
        from glot.inference.model import GlotModel

        return GlotModel.load(run, backbone, self.device, self.trust_remote_code, self.engine, tokens, note)
