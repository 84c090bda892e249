"""`glot export`: a trained run for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.commands.console import DeviceOption, say
from pipeline.errors import UsageError

KINDS = ("sentence-transformers",)


def export(
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    run: Annotated[Path, typer.Option("--run", help="A run's folder.")],
    to: Annotated[str, typer.Option("--to", help="sentence-transformers.")],
    model: Annotated[str | None, typer.Option(help="The backbone, where its name in the run does not find it.")] = None,
    push: Annotated[
        str | None, typer.Option(help="Also upload the folder to the Hub, to user/name; needs a token there.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="For the model card, as the Hub names it: apache-2.0, mit, ...")
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Export a run for use without this program: a sentence-transformers folder with its backbone and model card."""
    from pipeline.export.folder import export_folder
    from pipeline.export.push import check_push, push_folder

    if to not in KINDS:
        raise UsageError(f"--to must be one of {', '.join(KINDS)}; got {to!r}")
    if push is not None:
        check_push(push)
    made = export_folder(run, out, model, device, licence, push)
    say(
        f"{out}: {made.bytes / 1e6:,.1f} MB, vectors of {made.width} numbers, checked: they differ from the run's by "
        f"{made.difference:.0e} at most"
    )
    say(f'SentenceTransformer("{out}", trust_remote_code=True) loads it')
    if push is not None:
        say(push_folder(out, push))
