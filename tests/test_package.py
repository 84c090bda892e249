"""What people install: the wheel and the source archive hold the same whole package, for every Python that is named."""

from __future__ import annotations

import csv
import email
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.message import Message
from pathlib import Path

import numpy as np
import pytest

from glot.errors import UsageError
from glot.extract.source import resolve_model
from glot.version import __version__
from tests.environments import download_environment, make_environment, required
from tests.sst2 import read_sst2, sst2_folder, write_csv

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "pipeline"
BESIDE = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "cli.py")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
ANOTHER = os.environ.get("GLOT_TEST_PYTHON")  # the interpreter that `make test-python` names
ALONE = ("onnxruntime", "tokenizers", "numpy")  # what a graph needs

pytestmark = pytest.mark.slow


def build(kind: str, folder: Path, out: Path) -> Path:
    """The "wheel" or "sdist" of a folder, built by setuptools in a process of its own; no package index is asked."""
    code = f"import sys; from setuptools import build_meta as b; print(b.build_{kind}(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(out)], cwd=folder, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return out / done.stdout.split()[-1]


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive of a copy of the checkout, with tests and what else may lie there."""
    copy = tmp_path_factory.mktemp("checkout")
    shutil.copytree(SOURCE, copy / "pipeline", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__", ".*_cache"))
    for name in BESIDE:
        shutil.copy(ROOT / name, copy)
    (copy / "tests").mkdir()
    shutil.copy(__file__, copy / "tests")
    return build("sdist", copy, copy / "out")


@pytest.fixture(scope="module")
def unpacked(sdist: Path) -> Path:
    with tarfile.open(sdist) as archive:
        archive.extractall(sdist.parent, filter="data")
    return sdist.parent / sdist.name.removesuffix(".tar.gz")


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """Of the same copy as the source archive."""
    return build("wheel", sdist.parents[1], sdist.parent)


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as files:
        (name,) = [name for name in files.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(files.read(name))


def package_files() -> set[str]:
    """What git would carry of the package."""
    files = {path.relative_to(SOURCE) for path in (SOURCE / "glot").rglob("*") if path.is_file()}
    return {str(path) for path in files if "__pycache__" not in path.parts}


def test_importing_it_loads_no_library() -> None:
    """Each room imports what it needs when it is used: a first answer does not wait for what it does not need."""
    code = "import sys, glot; print(sorted({'torch', 'transformers', 'numpy', 'sklearn', 'h5py'} & sys.modules.keys()))"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_archive_holds_the_package_and_no_tests(unpacked: Path) -> None:
    held = {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()}
    own = {name for name in held if ".egg-info" not in name}
    package = {f"pipeline/{name}" for name in package_files()}
    assert own - package == {*BESIDE, "PKG-INFO", "setup.cfg"} - {"cli.py"}
    assert package - own == set()


def test_the_archive_builds_the_same_wheel(wheel: Path, unpacked: Path, tmp_path: Path) -> None:
    def contents(path: Path) -> dict[str, int]:
        with zipfile.ZipFile(path) as files:
            return {entry.filename: entry.CRC for entry in files.infolist()}

    again = build("wheel", shutil.copytree(unpacked, tmp_path / "copy"), tmp_path)
    assert (again.name, contents(again)) == (wheel.name, contents(wheel))
    inside = set(contents(wheel))
    assert {name for name in inside if ".dist-info/" not in name} == package_files()
    for name in ("glot/py.typed", "glot/export/card.md.jinja", "glot/report/templates/report.css"):
        assert name in inside


def test_the_metadata_say_what_the_citation_says(metadata: Message) -> None:
    import yaml

    said = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (metadata["Name"], metadata["Version"]) == ("glot-pipeline", __version__)
    assert metadata["Author"] == said["authors"][0]["name"]
    assert metadata["Keywords"].split(",") == said["keywords"]
    assert (metadata["License-Expression"], metadata["License-File"]) == (said["license"], "LICENSE")
    assert metadata["Requires-Python"] == f">={PYTHONS[0]}"
    named = [line.rpartition(":: ")[2] for line in metadata.get_all("Classifier") if "Python :: 3." in line]
    assert tuple(named) == PYTHONS
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert {"serve", "report", "onnx", "demo"} <= set(metadata.get_all("Provides-Extra"))


def find_python(version: str) -> str | None:
    """A Python of this version: on the path, or among pyenv's."""
    there = [shutil.which(f"python{version}"), *Path.home().glob(f".pyenv/versions/{version}.*/bin/python")]
    for python in map(str, filter(None, there)):
        said = subprocess.run([python, "-V"], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""})
        if said.returncode == 0 and said.stdout.startswith(f"Python {version}."):
            return python
    return None


@pytest.mark.parametrize("version", PYTHONS)
def test_every_module_compiles(version: str, wheel: Path, tmp_path: Path) -> None:
    python = find_python(version)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    with zipfile.ZipFile(wheel) as files:
        files.extractall(tmp_path)
    command = [python, "-W", "error", "-m", "compileall", "-q", str(tmp_path / "glot")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


ASK = """
import csv, importlib.util, json
with open("../new.csv", newline="", encoding="utf-8") as file:
    found = run([row["text"] for row in csv.DictReader(file)])
there = [name for name in ("glot", "torch", "transformers") if importlib.util.find_spec(name)]
print(json.dumps([there, found["probabilities"].tolist()]))
"""


@pytest.mark.real
def test_from_the_wheel_to_answers_without_torch(wheel: Path, metadata: Message, tmp_path: Path) -> None:
    """Install it beside what it requires, train on SST-2, predict, export, and answer where no torch is."""
    sst2_folder()
    for package in ("jinja2", "onnx", "onnxscript", "tokenizers"):
        pytest.importorskip(package, reason=f"{package} is not installed (extras: report, onnx)")
    try:
        resolve_model("minilm")
    except UsageError as error:
        pytest.skip(str(error))
    python = make_environment(tmp_path / "full", *required(metadata.get_all("Requires-Dist"), "demo", "report", "onnx"))
    pip = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True, capture_output=True, timeout=120)
    check_path(python, make_environment(tmp_path / "small", *ALONE), tmp_path)


@pytest.mark.real
@pytest.mark.skipif(ANOTHER is None, reason="no other Python was named (make test-python PY=python3.12)")
def test_with_another_python(wheel: Path, tmp_path: Path) -> None:
    """The same on a Python that has nothing: all that the wheel requires comes from the package index."""
    assert ANOTHER is not None  # see above
    python = download_environment(ANOTHER, tmp_path / "full", f"{wheel}[demo,report,onnx]")
    check_path(python, download_environment(ANOTHER, tmp_path / "small", *ALONE), tmp_path)


def check_path(python: Path, small: Path, tmp_path: Path) -> None:
    """From a table to answers: `python` has the package, `small` what a graph needs alone."""
    folder = sst2_folder()
    write_csv(tmp_path / "train.csv", ["text", "label"], read_sst2(folder / "train.tsv", slice(0, 200)))
    write_csv(tmp_path / "held.csv", ["text", "label"], read_sst2(folder / "dev.tsv", slice(0, 100)))
    write_csv(tmp_path / "new.csv", ["text"], [[text] for text, _ in read_sst2(folder / "dev.tsv", slice(100, 120))])
    bare = {"PATH": "", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def run(*words: object, cwd: Path = tmp_path) -> str:
        done = subprocess.run(list(map(str, words)), cwd=cwd, env=bare, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    glot = python.with_name("glot")
    said = run(glot, "train", "train.csv", "--model", "minilm", "--test", "held.csv", "--out", "made")
    score = re.search(r"^([\d.]+) % accuracy \[.*\] on 100 untouched rows", said, re.MULTILINE)
    assert score, said
    assert score[1] in (tmp_path / "made/report.html").read_text(encoding="utf-8")
    run(glot, "predict", "--run", "made", "--input", "new.csv", "--output", "answers.csv")
    run(glot, "export", "--run", "made", "--to", "onnx", "graph")

    code = re.search(r"```python\n(.*?)```", (tmp_path / "graph/README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    there, found = json.loads(run(small, "-I", "-c", code + ASK, cwd=tmp_path / "graph").splitlines()[-1])
    assert there == []
    with open(tmp_path / "answers.csv", newline="", encoding="utf-8") as file:
        expected = [
            [float(row["probability_negative"]), float(row["probability_positive"])] for row in csv.DictReader(file)
        ]
    np.testing.assert_allclose(found, expected, atol=1e-4)
