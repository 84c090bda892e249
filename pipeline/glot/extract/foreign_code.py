"""Code that a model's folder brings along: it runs where somebody asked for it, and is hashed then; else never."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from glot.errors import UsageError

_READ = {"config.json": ("AutoConfig", "AutoModel"), "tokenizer_config.json": ("AutoTokenizer",)}


def declared_code(folder: Path) -> list[str]:
    """What a folder says is its own code for what we load: "module.Class", or "repository--module.Class" of the hub."""
    found: list[Any] = []
    for name, kinds in _READ.items():
        try:
            named = json.loads((folder / name).read_text(encoding="utf-8")).get("auto_map")
        except (OSError, ValueError, AttributeError):  # the loader says what is wrong with it
            continue
        named = {"AutoTokenizer": named} if isinstance(named, list) else named if isinstance(named, dict) else {}
        for kind in kinds:
            references = named.get(kind)
            found += references if isinstance(references, list) else [references]
    return [reference for reference in found if isinstance(reference, str)]


def check_code(folder: Path, name: str, trust_remote_code: bool) -> None:
    """Raise UsageError where a folder needs code of its own that nobody trusts: for a class that transformers lacks."""
    references = [] if trust_remote_code else declared_code(folder)
    if not references:
        return
    import transformers

    known = {name.removesuffix("Fast") for name in dir(transformers)}
    for reference in references:
        if reference.rpartition(".")[2].removesuffix("Fast") not in known:
            raise UsageError(
                f"{name} needs code of its own, which could do anything here ({reference}): read it, then pass "
                "--trust-remote-code (in Python trust_remote_code=True) to run it"
            )


def code_files(folders: Iterable[Path], loaded: Iterable[object]) -> dict[str, Path]:
    """The files of the code that trusted folders run, by name: their own, and what they name in other repositories.

    Args:
        loaded: what was made by it: the modules of these objects' classes lie where transformers put them.
    """
    files: dict[str, Path] = {}
    references: list[str] = []
    for number, folder in enumerate(dict.fromkeys(folders)):
        named = declared_code(folder)
        found = folder.rglob("*.py") if named else ()
        files |= {f"{number}/{path.relative_to(folder).as_posix()}": path for path in found}
        references += named
    if any("--" in reference for reference in references):
        kinds = [type(item) for item in loaded if type(item).__module__.startswith("transformers_modules.")]
        for home in {Path(inspect.getfile(kind)).parent for kind in kinds}:
            files |= {f"--/{path.name}": path for path in home.glob("*.py")}
    return files
