"""The cache's format, version 1: names, and the dataclasses that `manifest.json` holds.

`docs/cache-format.md` says the same in prose, for readers in other languages.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_origin, get_type_hints

from pipeline.errors import FaultError, UsageError
from pipeline.store.files import read_json, write_json
from pipeline.store.task_spec import TaskSpec

FORMAT = "glot-cache"
VERSION = 1
MANIFEST_FILE = "manifest.json"
PLAN_FILE = "plan.h5"
EXAMPLES_FOLDER = "examples"
BLOCK_BYTES = 4 * 2**20  # a checksum covers one block of a shard file
ALIGNMENT = 4096  # states start on a page, so that they can be read directly

# How each dtype lies in the file. NumPy and HDF5 have no bfloat16: its 16 bits are kept as uint16.
STORED_AS = {"float16": "<f2", "bfloat16": "<u2", "float32": "<f4"}


def shard_file(number: int) -> str:
    """The file name of a shard: `shard-00042.h5`."""
    return f"shard-{number:05d}.h5"


def next_name(file: str) -> str:
    """The name of a file's next version: plan.h5, plan-2.h5, plan-3.h5.

    A new version never overwrites the one that the manifest names, so a crash between the two leaves the old cache.
    """
    stem, number = re.fullmatch(r"(.+?)(?:-(\d+))?\.h5", file).groups()
    return f"{stem}-{int(number or 1) + 1}.h5"


@dataclass(frozen=True)
class StatesIdentity:
    """All that the token states depend on. Two caches with equal identities hold equal states of a text.

    Attributes:
        backbone: alias, hub id or folder name, for people.
        revision: the hub's commit, "" for local files.
        weights_sha256: hash of the weight files.
        tokenizer_sha256: hash of the tokenizer's serialised form.
        kind: "encoder" or "decoder"; decides what the `cls` pooler takes.
        width: d.
        num_layers: n; layers count from 0 (embeddings) to n (after the final norm).
        template: what stands around each text; "{text}" is the text alone.
        max_tokens: longer texts are cut here, special tokens included.
        layers: the layers kept, ascending.
        dtype: how states are stored: float16, bfloat16 or float32.
        compute_dtype: the backbone's own arithmetic.
    """

    backbone: str
    revision: str
    weights_sha256: str
    tokenizer_sha256: str
    kind: str
    width: int
    num_layers: int
    template: str
    max_tokens: int
    layers: tuple[int, ...]
    dtype: str
    compute_dtype: str

    def difference(self, other: StatesIdentity) -> str | None:
        """The first field in which `other` differs, as "field: old -> new"; None where they are equal.

        The backbone's name is for people: the same weights under another name are the same states.
        """
        for item in fields(self):
            old, new = getattr(self, item.name), getattr(other, item.name)
            if item.name != "backbone" and old != new:
                return f"{item.name}: {old} -> {new}"
        return None

    def digest(self) -> str:
        """Ties a shard file to its settings: SHA-256 over all fields but the backbone's name."""
        values = {key: value for key, value in asdict(self).items() if key != "backbone"}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token's states, over all kept layers."""
        return len(self.layers) * self.width * int(STORED_AS[self.dtype][2])


@dataclass(frozen=True)
class HiddenEntry:
    """Where one layer's states lie in a shard file: byte offset, shape (T, d) and stored dtype."""

    offset: int
    shape: tuple[int, int]
    dtype: str


@dataclass(frozen=True)
class ShardEntry:
    """A finished shard: its file, size in bytes, contents, and a CRC-32 a 4 MiB block of the file."""

    file: str
    size: int
    texts: int
    tokens: int
    hidden: dict[str, HiddenEntry]
    crc32: list[int]


@dataclass(frozen=True)
class PlanEntry:
    """The plan's file and totals. `tokens` counts distinct texts once; `truncated` and `empty` count texts."""

    file: str
    sha256: str
    texts: int
    tokens: int
    truncated: int
    empty: int
    shards: int
    order_seed: int


@dataclass(frozen=True)
class ExamplesEntry:
    """An example set: its file and the file's hash, its size, and the task that its labels belong to."""

    file: str
    sha256: str
    fingerprint: str
    examples: int
    labelled: bool
    source: str
    task: TaskSpec


@dataclass
class Manifest:
    """`manifest.json`: the one page that says what a cache holds. Written last, so that it never promises too much."""

    created_by: str
    states: StatesIdentity
    plan: PlanEntry
    examples: dict[str, ExamplesEntry] = field(default_factory=dict)
    shards: dict[int, ShardEntry] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether every planned shard is there."""
        return len(self.shards) == self.plan.shards

    def save(self, folder: Path) -> None:
        """Write `manifest.json` atomically."""
        data = {"format": FORMAT, "version": VERSION, **asdict(self)}
        data["shards"] = [{"number": number, **asdict(entry)} for number, entry in sorted(self.shards.items())]
        write_json(folder / MANIFEST_FILE, data)

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read `manifest.json`; raises UsageError (missing, other version) or FaultError (damaged)."""
        path = folder / MANIFEST_FILE
        data = read_json(path)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise UsageError(f"{path} is not the manifest of a glot cache")
        if data.get("version") != VERSION:
            raise UsageError(
                f"{path} has format version {data.get('version')}, this program reads version {VERSION}; "
                "extract again, or use the version of glot that wrote it"
            )
        try:
            return cls._from_json(data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FaultError(f"{path} is damaged: {error!r}; remove {folder} and extract again") from None

    @classmethod
    def _from_json(cls, data: dict) -> Manifest:
        states = _checked(StatesIdentity, {**data["states"], "layers": tuple(data["states"]["layers"])})
        if states.dtype not in STORED_AS:
            raise ValueError(f"unknown dtype {states.dtype}")
        examples = {
            name: _checked(ExamplesEntry, {**entry, "task": TaskSpec.from_json(entry["task"])})
            for name, entry in data["examples"].items()
        }
        plan = _checked(PlanEntry, data["plan"])
        # Names are checked, so that a hostile manifest cannot point outside its folder.
        if not re.fullmatch(r"plan(-\d+)?\.h5", plan.file):
            raise ValueError(f"the plan is in {plan.file!r}")
        for name, entry in examples.items():
            if not re.fullmatch(rf"{EXAMPLES_FOLDER}/[\w.-]+\.h5", entry.file):
                raise ValueError(f"examples {name} are in {entry.file!r}")
        shards = {}
        for entry in data["shards"]:
            number = int(entry["number"])
            if entry["file"] != shard_file(number):
                raise ValueError(f"shard {number} names the file {entry['file']!r}")
            hidden = {
                layer: _checked(HiddenEntry, {**item, "shape": tuple(item["shape"])})
                for layer, item in entry["hidden"].items()
            }
            values = {key: value for key, value in entry.items() if key != "number"}
            shards[number] = _checked(ShardEntry, {**values, "hidden": hidden})
        return cls(data["created_by"], states, plan, examples, shards)


Entry = TypeVar("Entry")


def _checked(kind: type[Entry], values: dict[str, Any]) -> Entry:
    """A dataclass of values read from JSON: its words, flags and counts must be such, so that no reader trips later."""
    hints = get_type_hints(kind)
    for name, value in values.items():
        wanted = get_origin(hints.get(name)) or hints.get(name)
        counts = value if wanted in (tuple, list) else [value] if wanted is int else []
        is_sort = isinstance(value, wanted) if wanted in (str, bool, tuple, list) else True
        if not is_sort or not all(type(count) is int and count >= 0 for count in counts):
            raise ValueError(f"{name} is {value!r}")
    return kind(**values)
