"""An exported folder in a virtual environment that holds sentence-transformers and what it requires, nothing else."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")

from glot import GlotModel
from glot.export.folder import export_folder
from tests.environments import make_environment

PROGRAM = """\
import importlib.util, json, sys
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], trust_remote_code=True, device="cpu")
vectors = model.encode(json.loads(sys.argv[2]), batch_size=3)
model.save_pretrained("again")
again = SentenceTransformer("again", trust_remote_code=True, device="cpu").encode(json.loads(sys.argv[2]))
there = [name for name in ("glot", "dgl", "h5py") if importlib.util.find_spec(name)]
print(json.dumps({"vectors": vectors.tolist(), "again": again.tolist(), "there": there}))
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The interpreter of such an environment."""
    return make_environment(tmp_path / "environment", "sentence-transformers")


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "mistral"])
def test_sentence_transformers_alone(
    family: str, make_run: Callable[..., Path], backbone_folders: dict[str, Path], python: Path, tmp_path: Path
) -> None:
    run = make_run(family)
    export_folder(run, tmp_path / "made", str(backbone_folders[family]), "cpu")
    texts = ["rain falls over the old dog", "", "the river in autumn", "books " * 60]
    words = [python, "-I", "-c", PROGRAM, tmp_path / "made", json.dumps(texts)]
    hub = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub"), "PATH": ""}
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, env=hub, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["there"] == []
    expected = GlotModel.load(run, str(backbone_folders[family]), "cpu").encode(texts)
    for name in ("vectors", "again"):
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-5)
