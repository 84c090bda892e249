"""`glot export`: a trained run for other tools."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from glot.commands.console import BackboneOption, RunOption, answer, note_unfinished, refuse_given, tell
from glot.commands.machine_options import DeviceOption, TrustOption
from glot.errors import UsageError

GRAPHS = ("onnx", "openvino")
KINDS = ("sentence-transformers", *GRAPHS)


def export(
    run: RunOption,
    to: Annotated[
        str,
        typer.Option(help="sentence-transformers; or onnx or openvino: texts to vectors and labels without torch."),
    ],
    place: Annotated[
        Path | None, typer.Argument(metavar="folder", help="The folder to make; with --head-only the file.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The same, where you would rather name it.")] = None,
    head_only: Annotated[
        bool, typer.Option("--head-only", help="With onnx: the head alone as one file, from token states to vectors.")
    ] = False,
    model: BackboneOption = None,
    trust_remote_code: TrustOption = False,
    push: Annotated[
        str | None, typer.Option(help="Also upload the folder to the Hub, to user/name; needs a token there.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="For the model card, as the Hub names it: apache-2.0, mit, ...")
    ] = None,
    device: DeviceOption = None,
) -> None:
    """Export a run for use without this program, with its backbone: for sentence-transformers, ONNX, OpenVINO."""
    if to not in KINDS:
        raise UsageError(f"--to must be one of {', '.join(KINDS)}; got {to!r}")
    if head_only and to != "onnx":
        raise UsageError(f"--head-only does not go with --to {to}: leave it out, or pass --to onnx")
    if to in GRAPHS:
        refuse_given({"--push": push, "--license": licence, "--device": device}, f"--to {to}")
    if head_only:
        given = {"--model": model, "--trust-remote-code": trust_remote_code}
        refuse_given(given, "--head-only, which needs no backbone")
    if (place is None) == (out is None):
        raise UsageError("name the folder to make, once: `glot export --run RUN --to onnx FOLDER`, or with --out")
    made = place or out
    assert made is not None
    _check(run, made, to, head_only, model)
    if head_only:
        _to_head(run, made)
    elif to in GRAPHS:
        _to_graphs(run, made, to, model, trust_remote_code)
    else:
        _to_folder(run, made, model, device, licence, push, trust_remote_code)


def _check(run: Path, out: Path, to: str, head_only: bool, model: str | None) -> None:
    """Refuse what cannot be exported, or an `out` that cannot be made, before torch is imported."""
    from glot.inference.run_checks import check_backbone, trained_run
    from glot.store.files import check_output, check_parent

    trained = trained_run(run)
    if head_only:
        check_output(out, (".onnx",), "the file")
    elif to == "onnx" and out.suffix.lower() == ".onnx":
        raise UsageError(
            f"{out} is a file's name, and --to onnx makes a folder: pass {out.with_suffix('')}, "
            "or --head-only for a file of the head alone"
        )
    if out.exists() and (head_only or not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} is there already: choose another place")
    if not head_only:
        check_parent(out)
        check_backbone(trained, model)


def _to_folder(
    run: Path,
    out: Path,
    model: str | None,
    device: str | None,
    licence: str | None,
    push: str | None,
    trust_remote_code: bool,
) -> None:
    from glot.export.folder import export_folder
    from glot.inference.push import check_push, push_folder
    from glot.store.template import TEXT, TEXT_B
    from glot.train.card import evaluation_of

    if push is not None:
        check_push(push)
    made = export_folder(run, out, model, device, licence, push, trust_remote_code, evaluation_of(run))
    tell(
        f"{out}: {made.bytes / 1e6:,.1f} MB, vectors of {made.width} numbers, checked: they differ from the run's by "
        f"{made.difference:.0e} at most"
    )
    tell(f'SentenceTransformer("{out}", trust_remote_code=True) loads it')
    if made.prompt:
        tell(f"it takes pairs as one text, filled in by you: {made.prompt!r} with {TEXT} and {TEXT_B} replaced")
    address = push_folder(out, push) if push is not None else None
    if address is not None:
        tell(address)
    answer({"address": address, **asdict(made)})


def _to_graphs(run: Path, out: Path, to: str, model: str | None, trust_remote_code: bool) -> None:
    from glot.export.onnx_folder import export_text
    from glot.export.runtimes import RUNTIMES

    runtime = RUNTIMES[to]
    made = export_text(run, out, model, trust_remote_code, runtime)
    names = " and ".join([*made.outputs, *made.pair_outputs])
    tell(
        f"{out}: {made.bytes / 1e6:,.1f} MB, texts to {names}, vectors of {made.width} numbers, checked with "
        f"{runtime.package}: they differ from the run's by {made.difference:.0e} at most"
    )
    if made.compute_dtype != "float32":
        tell(
            f"the files compute in float32: glot encode, in {made.compute_dtype}, gives vectors that differ by "
            f"{made.rounding:.0e}"
        )
    tell(f"{out / 'README.md'} has the lines of Python that use it, without torch")
    answer(made)


def _to_head(run: Path, out: Path) -> None:
    from glot.export.onnx_file import INPUTS, export_onnx

    made = export_onnx(run, out)
    note_unfinished(run)
    tell(
        f"{out}: {made.bytes / 1e6:,.1f} MB, {' and '.join(INPUTS)} to {' and '.join(made.outputs)}, checked with "
        f"onnxruntime: they differ from torch's by {made.difference:.0e} at most"
    )
    answer(made)
