"""Virtual environments that hold some packages and what these require: links to those that are here, or downloaded."""

from __future__ import annotations

import re
import subprocess
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement


def needed(*names: str) -> set[str]:
    """Packages and all that they require, as far as it is installed."""
    found, left = set(), list(names)
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in found:
            continue
        try:
            requires = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # for another platform or Python
        found.add(name)
        left += [re.match(r"[\w.-]+", line)[0] for line in requires if "extra ==" not in line]
    return found


def required(lines: list[str], *extras: str) -> list[str]:
    """The packages that "Requires-Dist" lines name, for this Python and these extras."""
    found = [Requirement(line) for line in lines]
    return [
        one.name
        for one in found
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in ("", *extras))
    ]


def make_environment(folder: Path, *names: str) -> Path:
    """The interpreter of an environment with these packages alone: links to those that are installed here."""
    venv.create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    for name in needed(*names):
        package = distribution(name)
        for top in {path.parts[0] for path in package.files or [] if path.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(package.locate_file(top)))
    return folder / "bin/python"


def download_environment(python: str, folder: Path, *names: str) -> Path:
    """The interpreter of an environment of another Python, with these packages from the package index."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    made = folder / "bin/python"
    subprocess.run([made, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *names], check=True)
    return made
