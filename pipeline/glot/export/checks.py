"""What speaks against an export, told without torch."""

from __future__ import annotations

from pathlib import Path

from glot.errors import UsageError
from glot.extract.source import find_source
from glot.fit.run_folder import RunConfig, check_trained, find_one_run
from glot.store.files import check_output, check_parent


def check_export(run: Path, out: Path, kind: str, model: str | None = None) -> None:
    """Raise UsageError where the run cannot be exported (to "onnx" or a folder), or `out` cannot be made."""
    folder = find_one_run(run)
    config = RunConfig.load(folder)
    check_trained(folder)
    if kind == "onnx":
        check_output(out, (".onnx",), "the file")
        if out.exists():
            raise UsageError(f"{out} is there already: choose another place")
    else:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise UsageError(f"{out} is there already: choose another place")
        check_parent(out)
        find_source(config.states, f"that {folder} was trained on", model)
