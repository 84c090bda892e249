"""Rebuilding a lost manifest: every file of a cache says of itself what the manifest said of it."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from glot.errors import FaultError
from glot.store.column_reader import describe_file
from glot.store.example_set import ExampleSet
from glot.store.layout import EXAMPLES_FOLDER, Manifest
from glot.store.plan import Plan


def recover_manifest(folder: Path, created_by: str) -> Manifest | None:
    """The manifest of the newest whole plan and of the example sets that fit it, without shards; None without a plan.

    Shards are taken up one by one, after a look at each (see `adopt_shard`).
    """
    for path in _newest_first(folder.glob("plan*.h5"), r"plan(?:-(\d+))?\.h5"):
        try:
            data, about = describe_file(folder, path.name)
            plan = Plan(folder, data)
            entry = {**about["plan"], "texts": len(plan), "tokens": plan.tokens, "shards": plan.num_shards}
            values = {"states": about["states"], "plan": {**entry, "request": "", "data": asdict(data)}}
            examples = _recover_examples(folder, plan)
            return Manifest.from_values({"created_by": created_by, "examples": examples, "shards": [], **values})
        except (ValueError, KeyError, TypeError, AttributeError, FaultError):
            continue
    return None


def _recover_examples(folder: Path, plan: Plan) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in _newest_first((folder / EXAMPLES_FOLDER).glob("*.h5"), r".+?(?:-(\d+))?\.h5"):
        try:
            data, about = describe_file(folder, f"{EXAMPLES_FOLDER}/{path.name}")
            if about.pop("kind") != "examples":
                continue
            name = about.pop("name")
            examples = ExampleSet.load(folder, data, len(plan))
            if name not in found and examples.fingerprint(plan.hashes()) == about["fingerprint"]:
                found[name] = {**about, "data": asdict(data)}
        except (ValueError, KeyError, TypeError, AttributeError, FaultError):
            continue
    return found


def _newest_first(paths: Any, pattern: str) -> list[Path]:
    numbered = [(int(match.group(1) or 1), path) for path in paths if (match := re.fullmatch(pattern, path.name))]
    return [path for _, path in sorted(numbered, key=lambda item: (-item[0], item[1].name))]
