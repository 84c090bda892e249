"""The cache's format, versions 3 and 4: names, and the dataclasses that `manifest.json` holds.

`docs/cache-format.md` says the same in prose, for readers in other languages.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from glot.errors import FaultError, UsageError
from glot.process import no_collection
from glot.store.columns import NO_FILE, ColumnFile
from glot.store.example_set import ExampleSet
from glot.store.files import checked, json_sha256, write_json
from glot.store.parts import LINK_AGAIN, Part, first_shards, part_of
from glot.store.places import Place, load_json
from glot.store.task_spec import TARGETS, TaskSpec

FORMAT = "glot-cache"
VERSION = 3
LINKED_VERSION = 4  # of caches whose shards are those of other caches
MANIFEST_FILE = "manifest.json"
PLAN_FILE = "plan.h5"
EXAMPLES_FOLDER = "examples"

# How each dtype lies in the file. NumPy and HDF5 have no bfloat16: its 16 bits are kept as uint16. int8 has a float32
# scale a token beside it.
STORED_AS = {"float16": "<f2", "bfloat16": "<u2", "float32": "<f4", "int8": "|i1"}
SCALE_BYTES = 4
TORCH = "torch"  # the engine of shards that record none


def shard_name(number: int) -> str:
    """What a shard's files are called but for their suffix, and the claim on it: `shard-00042`."""
    return f"shard-{number:05d}"


def shard_file(number: int) -> str:
    """The file name of a shard: `shard-00042.h5`."""
    return f"{shard_name(number)}.h5"


def sidecar_file(number: int) -> str:
    """The file that says a shard is finished, until the manifest does: `shard-00042.json`."""
    return f"{shard_name(number)}.json"


def next_name(file: str) -> str:
    """The name of a file's next version: plan.h5, plan-2.h5, plan-3.h5.

    A new version never overwrites the one that the manifest names, so a crash between the two leaves the old cache.
    """
    stem, _, number = file.removesuffix(".h5").rpartition("-")
    if not (stem and number.isdecimal()):
        stem, number = file.removesuffix(".h5"), "1"
    return f"{stem}-{int(number) + 1}.h5"


IN_MEMORY = "memory:"  # before the hash of weights that lay in memory, and not in files
_NAMES = ("backbone", "source")  # of `StatesIdentity`: for people


class LoadedHashes(Protocol):
    """What has the hashes of a backbone: the backbone itself, or the identity of its states."""

    @property
    def weights_sha256(self) -> str:
        """Of the files of its weights."""

    @property
    def tokenizer_sha256(self) -> str:
        """Of its tokenizer."""

    @property
    def loader_sha256(self) -> str:
        """Of what was read beside them; "" in caches made before it was kept."""


@dataclass(frozen=True)
class StatesIdentity:
    """All that the token states depend on. Two caches with equal identities hold equal states of a text.

    Attributes:
        backbone: alias, hub id or folder name, for people.
        revision: the hub's commit, "" for local files.
        weights_sha256: hash of the weight files, or `IN_MEMORY` and that of the weights themselves.
        tokenizer_sha256: hash of the tokenizer's serialised form.
        kind: "encoder" or "decoder".
        width: d.
        num_layers: n; layers count from 0 (embeddings) to n (after the final norm).
        template: what stands around each text; "{text}" is the text alone, and with "{text_b}" a text is a pair, see
            `glot.store.template`.
        max_tokens: longer texts are cut here, special tokens included.
        layers: the layers kept, ascending.
        dtype: how states are stored: float16, bfloat16, float32, or int8 with a scale a token.
        compute_dtype: the backbone's own arithmetic.
        source: the alias, hub id or path that found the backbone, to find it again; "" in caches of before.
        loader_sha256: hash of what else the loader reads that can change a token or a state; "" in caches of before,
            where it is not known, and compared where both are.
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
    source: str = ""
    loader_sha256: str = ""

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> StatesIdentity:
        """From what `asdict` gave, read back from JSON, which has no tuples."""
        return cls(**{**data, "layers": tuple(data["layers"])})

    @property
    def in_memory(self) -> bool:
        """Whether the backbone was an object in memory, which no name finds again."""
        return self.weights_sha256.startswith(IN_MEMORY)

    @property
    def token_position(self) -> Literal["first", "last"]:
        """Where the one token stands that the `cls` pooler takes of a text."""
        return "first" if self.kind == "encoder" else "last"

    def difference(self, other: StatesIdentity) -> str | None:
        """The first field in which `other` differs, as "field: old -> new"; None where they are equal. Of weights
        under two names it is the names, which say more than two hashes.

        What the backbone is called and where it lies do not count: the same weights make the same states.
        """
        for item in fields(self):
            old, new = getattr(self, item.name), getattr(other, item.name)
            unknown = item.name == "loader_sha256" and not (old and new)
            if item.name not in _NAMES and not unknown and old != new:
                if item.name == "weights_sha256" and self.backbone != other.backbone:
                    return f"backbone: {self.backbone} -> {other.backbone}"
                # Of a template every space counts.
                return f"{item.name}: {old!r} -> {new!r}" if item.name == "template" else f"{item.name}: {old} -> {new}"
        return None

    def digest(self) -> str:
        """Ties a shard file to its settings: SHA-256 over all fields but the backbone's names, and what is unknown."""
        values = {key: value for key, value in asdict(self).items() if key not in _NAMES}
        if not self.loader_sha256:
            del values["loader_sha256"]
        return json_sha256(values)

    def other_backbone(self, theirs: LoadedHashes) -> str | None:
        """The first hash in which another backbone, or its states' identity, differs; None for the same one."""
        for name in ("weights_sha256", "tokenizer_sha256", "loader_sha256"):
            old, new = getattr(self, name), getattr(theirs, name)
            if old != new and (name != "loader_sha256" or (old and new)):
                return name
        return None

    @property
    def bytes_per_token(self) -> int:
        """Bytes of one token's states, over all kept layers."""
        scale = SCALE_BYTES if self.dtype == "int8" else 0
        return len(self.layers) * (self.width * int(STORED_AS[self.dtype][2]) + scale)


@dataclass(frozen=True)
class ShardEntry:
    """A finished shard: its file and what is in it. `dtype` is the cache's own, or float32 where that overflowed.

    `engine` is what forwarded its texts: engines agree to rounding, the identity of the states is the backbone's.
    """

    texts: int
    tokens: int
    dtype: str
    data: ColumnFile
    engine: str = TORCH

    def to_json(self) -> dict[str, Any]:
        """A plain dict, as the manifest and a sidecar have it; the usual engine goes without saying."""
        columns = {name: dict(vars(column)) for name, column in self.data.columns.items()}
        values = {**vars(self), "data": {**vars(self.data), "columns": columns}}  # `asdict` takes ten times as long
        if self.engine == TORCH:
            del values["engine"]
        return values

    @classmethod
    def from_json(cls, number: int, values: dict[str, Any]) -> ShardEntry:
        """Rebuild an entry, its names and counts checked; raises KeyError, TypeError or ValueError.

        `number` is the shard's in the folder where it lies.
        """
        data = ColumnFile.from_json(values["data"])
        if data.file != shard_file(number):
            raise ValueError(f"it names the file {data.file!r}")
        entry = checked(cls, {**values, "data": data})
        if entry.dtype not in STORED_AS:
            raise ValueError(f"unknown dtype {entry.dtype}")
        return entry


@dataclass(frozen=True)
class PlanEntry:
    """The plan's totals and file. `tokens` counts distinct texts once; `truncated` and `empty` count texts.

    `request` stands for the data that was last planned: a worker of the same request need not read it again.
    """

    texts: int
    tokens: int
    truncated: int
    empty: int
    shards: int
    order_seed: int
    request: str
    data: ColumnFile


@dataclass(frozen=True)
class ExamplesEntry:
    """An example set: its size, the task that its labels belong to, and its file. `skipped` rows were unreadable."""

    fingerprint: str
    examples: int
    skipped: int
    labelled: bool
    source: str
    task: TaskSpec
    data: ColumnFile

    @property
    def is_trainable(self) -> bool:
        """Whether a head can be trained or scored on it: it has labels, or its task needs none."""
        return self.labelled or self.task.target == "contrastive"

    @classmethod
    def of(
        cls, examples: ExampleSet, text_hashes: np.ndarray, task: TaskSpec, source: str, skipped: int = 0
    ) -> ExamplesEntry:
        """The entry of a set that lies in no file; `text_hashes` are those of all texts, by their ids."""
        fingerprint, labelled = examples.fingerprint(text_hashes), examples.label is not None
        return cls(fingerprint, len(examples), skipped, labelled, source, task, NO_FILE)

    def save(self, examples: ExampleSet, path: Path, name: str) -> ExamplesEntry:
        """Write the set atomically; returns the entry with its file.

        The file says what the entry says, and the set's name, for the day when the manifest is lost.
        """
        kept = ("fingerprint", "examples", "skipped", "labelled", "source")
        about = {**{key: getattr(self, key) for key in kept}, "name": name, "task": self.task.to_json()}
        return replace(self, data=examples.save(path, about))

    @property
    def texts_each(self) -> int:
        """How many texts an example has, negatives included (the most of them that one has)."""
        negatives = self.data.columns.get("negatives")
        return self.task.num_texts + (negatives.shape[1] if negatives else 0)


@dataclass
class Manifest:
    """`manifest.json`: the one page that says what a cache holds. Written last, so that it never promises too much.

    A linked cache has `parts`, whose shards are its own, one part after the other; `repeated` of its plan's texts are
    texts of an earlier part once more, which no example uses.
    """

    created_by: str
    states: StatesIdentity
    plan: PlanEntry
    examples: dict[str, ExamplesEntry] = field(default_factory=dict)
    shards: dict[int, ShardEntry] = field(default_factory=dict)
    parts: tuple[Part, ...] = ()
    repeated: int = 0

    @property
    def files(self) -> list[ColumnFile]:
        """All files of the cache but the manifest; of a linked one also those of its parts."""
        sets = [entry.data for entry in self.examples.values()]
        return [self.plan.data, *sets, *(entry.data for entry in self.shards.values())]

    @property
    def complete(self) -> bool:
        """Whether every planned shard is there."""
        return len(self.shards) == self.plan.shards

    @property
    def texts(self) -> int:
        """How many distinct texts the cache holds."""
        return self.plan.texts - self.repeated

    def refuse_linked(self, folder: Place, remedy: str) -> None:
        """Raise UsageError, with what to do instead, for what cannot be done with a linked cache."""
        if self.parts:
            names = ", ".join(part.folder for part in self.parts[:3]) + (", ..." if len(self.parts) > 3 else "")
            raise UsageError(f"{folder} is linked to other caches ({names}) and holds no states: {remedy}")

    def save(self, folder: Path) -> None:
        """Write `manifest.json` atomically."""
        version = LINKED_VERSION if self.parts else VERSION
        data = {"format": FORMAT, "version": version, **asdict(replace(self, shards={}))}
        if not self.parts:
            del data["parts"], data["repeated"]
        for name, entry in self.examples.items():
            data["examples"][name]["task"] = entry.task.to_json()
        data["shards"] = [{"number": number, **entry.to_json()} for number, entry in sorted(self.shards.items())]
        write_json(folder / MANIFEST_FILE, data)

    @classmethod
    @no_collection(keeps=True)
    def load(cls, folder: Place) -> Manifest:
        """Read `manifest.json`; raises UsageError (missing, other version) or FaultError (damaged)."""
        path = folder / MANIFEST_FILE
        data = load_json(path)
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise UsageError(f"{path} is not the manifest of a glot cache")
        if data.get("version") not in (VERSION, LINKED_VERSION):
            raise UsageError(
                f"{path} has format version {data.get('version')!r:.20}, this program reads versions {VERSION} and "
                f"{LINKED_VERSION}; extract again, or use the version of glot that wrote it"
            )
        is_linked = data["version"] == LINKED_VERSION
        try:
            return cls.from_values(data, is_linked)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            remedy = LINK_AGAIN if is_linked else "run the same `glot extract` again"
            raise FaultError(f"{path} is damaged ({error!r}): {remedy}") from None

    @classmethod
    def from_values(cls, data: dict[str, Any], is_linked: bool = False) -> Manifest:
        """Rebuild a manifest from JSON's values, checked; raises KeyError, TypeError, ValueError, AttributeError."""
        states = checked(StatesIdentity, {**data["states"], "layers": tuple(data["states"]["layers"])})
        if states.dtype not in STORED_AS or states.width < 1:
            raise ValueError(f"unknown dtype {states.dtype}, or no width")
        if not states.layers or max(states.layers) > states.num_layers or len(set(states.layers)) < len(states.layers):
            raise ValueError(f"it keeps the layers {states.layers} of {states.num_layers}")
        # Names are checked, so that a hostile manifest cannot point outside its folder.
        examples = {
            name: checked(
                ExamplesEntry,
                {
                    **entry,
                    "task": _task(entry["task"]),
                    "data": _column_file(entry["data"], rf"{EXAMPLES_FOLDER}/\w[\w.-]*\.h5"),
                },
            )
            for name, entry in data["examples"].items()
        }
        if not all(re.fullmatch(r"\w[\w.-]*", name) for name in examples):  # they name files
            raise ValueError(f"it names the example sets {', '.join(map(repr, examples))}")
        plan = checked(PlanEntry, {**data["plan"], "data": _column_file(data["plan"]["data"], r"plan(-\d+)?\.h5")})
        parts, repeated = _parts(data, plan) if is_linked else ((), 0)
        firsts, shards = first_shards(parts), {}
        for entry in data["shards"]:
            values = dict(entry)
            number = values.pop("number")
            if type(number) is not int or number not in range(plan.shards):
                raise ValueError(f"it lists a shard {number!r} that is not planned")
            shards[number] = ShardEntry.from_json(number - firsts[part_of(firsts, number)] if parts else number, values)
        return cls(data["created_by"], states, plan, examples, shards, parts, repeated)


def _parts(data: dict[str, Any], plan: PlanEntry) -> tuple[tuple[Part, ...], int]:
    parts, repeated = tuple(map(Part.from_json, data["parts"])), data["repeated"]
    if not parts or sum(part.shards for part in parts) != plan.shards:
        raise ValueError("its parts have not the shards of its plan")
    if type(repeated) is not int or repeated not in range(plan.texts + 1):
        raise ValueError(f"of {plan.texts} texts it repeats {repeated!r:.20}")
    return parts, repeated


def _task(values: dict[str, Any]) -> TaskSpec:
    task = TaskSpec.from_json(values)
    words = [task.name, task.target, *task.classes, *task.metrics]
    numbers = task.score_range or ()
    if not all(type(word) is str for word in words) or task.target not in TARGETS:
        raise ValueError(f"the task is {values!r}")
    if not all(type(number) in (int, float) and math.isfinite(number) for number in numbers):
        raise ValueError(f"the task has the numbers {numbers}")
    unfit_range = task.target == "score" and len(task.score_range or ()) != 2
    if task.num_texts not in (1, 2) or unfit_range or (task.target == "contrastive" and task.num_texts != 2):
        raise ValueError(f"the task is {values!r}")
    return task


def _column_file(values: dict[str, Any], name: str) -> ColumnFile:
    entry = ColumnFile.from_json(values)
    if not re.fullmatch(name, entry.file):
        raise ValueError(f"it names the file {entry.file!r}")
    return entry
