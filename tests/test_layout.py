"""Where the package lies and what imports what: contracts in pyproject.toml, the wheel, names in a user's folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "pipeline"


def run(*command: str, folder: Path, source: bool = True) -> str:
    """The output of a command that must succeed; with the package on the path, or as it is installed."""
    environment = {**os.environ, "COLUMNS": "200"} | ({"PYTHONPATH": str(SOURCE)} if source else {})
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_imports_run_one_way_without_circles(tmp_path: Path) -> None:
    """As pyproject.toml has it; nn and fit know neither corpus nor extract nor transformers."""
    lint = "from importlinter.cli import lint_imports_command as lint; lint()"
    said = run(sys.executable, "-c", lint, "--config", str(ROOT / "pyproject.toml"), "--no-cache", folder=tmp_path)
    assert "3 kept, 0 broken" in said


def test_a_wheel_holds_the_package_alone(tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    shutil.copytree(SOURCE, copy / "pipeline", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__", ".*_cache"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "cli.py"):
        shutil.copy(ROOT / name, copy)
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    name = run(sys.executable, "-c", build, str(tmp_path), folder=copy).split()[-1]
    with zipfile.ZipFile(tmp_path / name) as wheel:
        files = wheel.namelist()
    top = {file.split("/")[0] for file in files}
    assert {name for name in top if not name.endswith(".dist-info")} == {"glot"}
    within = {file.removeprefix("glot/") for file in files if file.startswith("glot/")}
    kept = {str(path.relative_to(SOURCE / "glot")) for path in (SOURCE / "glot").rglob("*") if path.is_file()}
    assert within == {path for path in kept if "__pycache__" not in path}


@pytest.mark.parametrize("start", [["-m", "glot"], ["-c", "from glot.commands.app import main; main()"]])
def test_names_in_a_users_folder_change_nothing(start: list[str], tmp_path: Path) -> None:
    for name in ("pipeline", "cli", "commands", "tasks", "store"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')")
    assert run(sys.executable, *start, "--version", folder=tmp_path).startswith("glot ")
    assert "--cache" in run(sys.executable, *start, "fit", "--help", folder=tmp_path)


def test_the_launcher_of_a_checkout_is_the_command(tmp_path: Path) -> None:
    assert run(sys.executable, str(ROOT / "cli.py"), "--version", folder=tmp_path).startswith("glot ")
