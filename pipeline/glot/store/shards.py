"""Shards: the files that hold the states. Written under a temporary name, published once, listed when whole."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import xxhash

from glot.errors import FaultError, UsageError
from glot.store.column_reader import ColumnReader, describe_file
from glot.store.columns import CHUNK_BYTES, ColumnWriter
from glot.store.files import find_unfinished, read_json, write_json
from glot.store.layout import STORED_AS, TORCH, Manifest, ShardEntry, StatesIdentity, shard_file, sidecar_file
from glot.store.places import Place, RemoteFolder
from glot.store.plan import Plan

DAMAGED_SHARD = "find its texts with `glot inspect --verify` and make them again with `glot inspect --repair`"
TextStates = dict[int, tuple[np.ndarray, np.ndarray | None]]  # layer -> (L, d) states, and (L,) scales of int8
Columns = dict[str, tuple[tuple[int, ...], str]]


def shard_columns(identity: StatesIdentity, texts: int, tokens: int, dtype: str) -> Columns:
    """The columns of a shard: states, their scales (int8 only) and checksums of every layer, and offsets.

    `check/<layer>` holds the XXH3-64 of each text's bytes in `hidden/<layer>`, followed by those in `scale/<layer>`.
    """
    columns: Columns = {}
    for layer in identity.layers:
        columns[f"hidden/{layer}"] = ((tokens, identity.width), STORED_AS[dtype])
        if dtype == "int8":
            columns[f"scale/{layer}"] = ((tokens,), "<f4")
        columns[f"check/{layer}"] = ((texts,), "<u8")
    return columns | {"offsets": ((texts + 1,), "<u8")}


class ShardWriter:
    """Writes one shard; `finish` makes it appear, leaving the block removes it.

    Texts may come in any order: each goes to its own rows of the preallocated states. The checksums tell which are
    there: after `note`, or `keep`, another writer can take them over from the file, whatever ended this one.

    Args:
        dtype: how its states are stored; None is the cache's own.
        engine: what forwards its texts, see `ShardEntry`.
        replaces: whether it may take the place of a shard that is there.

    Raises FaultError naming the file where the disk is full or a write fails.
    """

    def __init__(
        self,
        folder: Path,
        number: int,
        plan: Plan,
        identity: StatesIdentity,
        dtype: str | None = None,
        engine: str = TORCH,
        replaces: bool = False,
    ) -> None:
        self.identity, self.dtype, self.engine = identity, dtype or identity.dtype, engine
        self.first, self.stop = plan.shard_range(number)
        self.start = plan.shard_offsets(number)
        texts, self.tokens = self.stop - self.first, int(self.start[-1])
        self.checks = {layer: np.zeros(texts, dtype="<u8") for layer in identity.layers}
        self.written = np.zeros((texts, len(identity.layers)), dtype=bool)
        about = {
            "kind": "shard",
            "texts_sha256": plan.shard_digest(number),
            "states_sha256": identity.digest(),
            "first_text": self.first,
            "dtype": self.dtype,
            **({} if engine == TORCH else {"engine": engine}),
        }
        columns = shard_columns(identity, texts, self.tokens, self.dtype)
        marks = {f"hidden/{layer}": {"dtype": self.dtype} for layer in identity.layers}
        self.file = ColumnWriter(folder / shard_file(number), columns, about, marks, exclusive=not replaces)

    def write(self, layer: int, text_id: int, states: np.ndarray, scale: np.ndarray | None = None) -> None:
        """Write one text's states, shape (L, d), in the stored dtype, to its own rows; for int8 also (L,) scales."""
        row = text_id - self.first
        start, stop = self.start[row : row + 2].tolist()
        if states.shape != (stop - start, self.identity.width) or (scale is None) != (self.dtype != "int8"):
            raise ValueError(f"text {text_id}: states of shape {states.shape} do not fit")
        states = np.ascontiguousarray(states)
        self.file.write(f"hidden/{layer}", start, states)
        if scale is not None:
            self.file.write(f"scale/{layer}", start, scale)
        self.checks[layer][row] = text_check(states, scale)
        self.written[row, self.identity.layers.index(layer)] = True

    def note(self) -> None:
        """Write the checksums of the texts so far into the file."""
        for layer, checks in self.checks.items():
            self.file.write(f"check/{layer}", 0, checks)

    def keep(self) -> None:
        """Leave the file unfinished, for `unfinished_shards` to find; nothing is left of one without a text."""
        if not self.written.any():
            self.file.abandon()
            return
        with suppress(FaultError):  # a full disk may have no room for them: what was noted before counts
            self.note()
        self.file.keep()

    def take_over(self, unfinished: ShardReader) -> None:
        """Copy all texts that are whole in an unfinished shard."""
        for row, states in unfinished.whole_texts():
            for layer, (values, scale) in states.items():
                self.write(layer, self.first + row, values, scale)

    @property
    def whole(self) -> np.ndarray:
        """(texts,) whether all layers of a text are written."""
        return np.asarray(self.written.all(axis=1))

    def finish(self) -> ShardEntry:
        """Flush, fsync and publish the shard; returns its entry. Raises FileExistsError where another was first."""
        if not self.written.all():
            missing = int((~self.written).any(axis=1).argmax())
            raise ValueError(f"{self.file.path.name}: text {self.first + missing} was not written")
        for layer, checks in self.checks.items():
            self.file.append(f"check/{layer}", 0, checks)
        self.file.append("offsets", 0, self.start.astype("<u8"))
        states = tuple(name for name in self.file.columns if name.startswith(("hidden/", "scale/")))
        data = self.file.finish(unchecked=states)  # they have a checksum a text
        return ShardEntry(self.stop - self.first, self.tokens, self.dtype, data, self.engine)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.abandon()


def text_check(states: np.ndarray, scale: np.ndarray | None) -> int:
    """A text's checksum: XXH3-64 of its states' bytes, followed by those of its scales."""
    digest = xxhash.xxh3_64(states.data)
    if scale is not None:
        digest.update(np.ascontiguousarray(scale).data)
    return digest.intdigest()


class ShardReader(ColumnReader):
    """One shard opened for reading; raises FaultError where its entry does not fit the plan or the file.

    `folder` is where it lies, `number` its place in the plan, `remedy` what is said where it is damaged.
    """

    def __init__(
        self,
        folder: Place,
        entry: ShardEntry,
        plan: Plan,
        number: int,
        identity: StatesIdentity,
        remedy: str = DAMAGED_SHARD,
    ) -> None:
        super().__init__(folder, entry.data, remedy, streamed=True)
        self.shard, self.plan, self.number = entry, plan, number
        self.dtype, self.engine, self.layers = entry.dtype, entry.engine, identity.layers
        first, stop = plan.shard_range(number)
        texts, tokens = stop - first, plan.shard_tokens(number)
        expected = shard_columns(identity, texts, tokens, entry.dtype)
        there = {name: (column.shape, column.dtype) for name, column in entry.data.columns.items()}
        fits = entry.dtype == identity.dtype or (identity.dtype, entry.dtype) == ("float16", "float32")
        if there != expected or not fits or (entry.texts, entry.tokens) != (texts, tokens):
            self.close()
            raise self.damage("does not hold what the manifest's plan says")

    def damaged_rows(self) -> np.ndarray:
        """(k,) rows of the texts whose bytes are not what their checksums say, in any layer; reads all states."""
        texts = self.entry.columns["offsets"].shape[0] - 1
        whole = np.fromiter((row for row, _ in self.whole_texts()), dtype=np.int64)
        return np.setdiff1d(np.arange(texts), whole)

    def whole_texts(self) -> Iterator[tuple[int, TextStates]]:
        """Each text, by its row, whose bytes are what their checksums say, with its states and scales in each layer."""
        start = self.plan.shard_offsets(self.number)
        checks = np.stack([self.read_unchecked(f"check/{layer}") for layer in self.layers])  # (layers, texts)
        wanted = np.asarray(checks.any(axis=0))  # in an unfinished shard 0 stands for a text that is not there
        rows = max(1, CHUNK_BYTES // self.entry.columns[f"hidden/{self.layers[0]}"].row_bytes)
        first = 0
        while first < len(wanted):
            stop = max(first + 1, int(np.searchsorted(start, start[first] + rows, side="right")) - 1)
            if wanted[first:stop].any():
                read = {layer: self.read_states(layer, int(start[first]), int(start[stop])) for layer in self.layers}
            for row in (first + np.flatnonzero(wanted[first:stop])).tolist():
                part = slice(int(start[row] - start[first]), int(start[row + 1] - start[first]))
                states = {
                    layer: (values[part], None if scale is None else scale[part])
                    for layer, (values, scale) in read.items()
                }
                if [text_check(*some) for some in states.values()] == checks[:, row].tolist():
                    yield row, states
            first = stop

    def states_ranges(self, layer: int, start: int, stop: int) -> list[tuple[int, int]]:
        """Where rows of a layer's states, and their scales, lie in the file: (offset, bytes)."""
        columns = [self.entry.columns.get(f"{kind}/{layer}") for kind in ("hidden", "scale")]
        return [(one.offset + start * one.row_bytes, (stop - start) * one.row_bytes) for one in columns if one]

    def read_states(self, layer: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Rows of a layer's states in this shard's stored dtype, and for int8 their scales; unchecked."""
        scale = self.read(f"scale/{layer}", start, stop) if self.dtype == "int8" else None
        return self.read(f"hidden/{layer}", start, stop), scale


def unfinished_shards(folder: Path, number: int, plan: Plan, identity: StatesIdentity) -> list[ShardReader]:
    """What interrupted and killed workers left of a shard, opened; for the holder of its claim.

    Files that hold nothing of these texts under these settings are removed.
    """
    found = []
    for path in find_unfinished(folder, shard_file(number)):
        try:
            found.append(_open_unlisted(folder, path.name, number, plan, identity, finished=False))
        except (ValueError, KeyError, TypeError, AttributeError, FaultError):
            path.unlink(missing_ok=True)
    return found


def _open_unlisted(
    folder: Path, file: str, number: int, plan: Plan, identity: StatesIdentity, finished: bool
) -> ShardReader:
    """A file by what its own head says: it must be of these texts under these settings; raises what is wrong."""
    data, about = describe_file(folder, file, finished)
    if (about.get("texts_sha256"), about.get("states_sha256")) != (plan.shard_digest(number), identity.digest()):
        raise ValueError("it is of other texts, or of other settings")
    first, stop = plan.shard_range(number)
    engine = str(about.get("engine", TORCH))
    entry = ShardEntry(stop - first, plan.shard_tokens(number), about["dtype"], data, engine)
    return ShardReader(folder, entry, plan, number, identity)


def unfinished_bytes(folder: Path) -> int:
    """What the unfinished shards of a folder take of its disk; it becomes free as they are taken over."""
    return sum(path.stat().st_blocks * 512 for path in find_unfinished(folder, "shard-*.h5"))


def finished_shard(folder: Path, number: int, manifest: Manifest) -> ShardEntry | None:
    """The entry of a finished shard, from its sidecar or the manifest; None where it has none, or its file is short.

    A sidecar is looked for first: it is removed only after the manifest lists the shard.
    """
    entry = read_sidecar(folder, number)
    if entry is None:
        entry = manifest.shards.get(number)
    if entry is None:
        return None
    path = folder / entry.data.file
    has_size = path.is_file() and not path.is_symlink() and path.stat().st_size == entry.data.size
    return entry if has_size else None


def read_sidecar(folder: Path, number: int) -> ShardEntry | None:
    """What a finished shard's sidecar says; None where there is none that can be read."""
    try:
        return ShardEntry.from_json(number, read_json(folder / sidecar_file(number)))
    except (UsageError, FaultError, KeyError, TypeError, ValueError, AttributeError):
        return None


def write_sidecar(folder: Path, number: int, entry: ShardEntry) -> None:
    """Say that a shard is finished. Written after the shard has its name."""
    write_json(folder / sidecar_file(number), entry.to_json())


def load_manifest(folder: Place) -> Manifest:
    """The manifest with all finished shards, also those that only their sidecars list so far (in a folder alone).

    Raises UsageError (missing, other version; linked, at a URL) or FaultError (damaged).
    """
    if isinstance(folder, RemoteFolder):
        manifest = Manifest.load(folder)
        manifest.refuse_linked(folder, "push one made of it with `glot cache subset`")
        return manifest
    found = finished_shards(folder)
    manifest = Manifest.load(folder)  # after the sidecars, which are removed only when it lists their shards
    if not manifest.parts:  # else all its shards are finished, and lie elsewhere
        manifest.shards |= {number: entry for number, entry in found.items() if number < manifest.plan.shards}
    return manifest


def finished_shards(folder: Path, but: Collection[int] = ()) -> dict[int, ShardEntry]:
    """The shards that have a sidecar, but for some: those that are finished and that no manifest lists yet."""
    names = (re.fullmatch(r"shard-(\d{5,})\.json", path.name) for path in folder.glob("shard-*.json"))
    numbers = [int(name[1]) for name in names if name]
    found = {number: read_sidecar(folder, number) for number in numbers if number not in but}
    return {number: entry for number, entry in found.items() if entry}


def list_shards(folder: Path, manifest: Manifest) -> None:
    """Move the sidecars' entries into the saved manifest, once all shards are there; for the holder of the plan."""
    manifest.save(folder)
    for number in manifest.shards:
        (folder / sidecar_file(number)).unlink(missing_ok=True)


def adopt_shard(folder: Path, number: int, plan: Plan, identity: StatesIdentity) -> ShardEntry | None:
    """The entry of a whole shard that nothing lists (its worker was killed, or the manifest is lost), or None.

    The file must say that it holds these texts' states under these settings, and every text must fit its checksum.
    """
    try:
        reader = _open_unlisted(folder, shard_file(number), number, plan, identity, finished=True)
        fits = (reader.read("offsets") == plan.shard_offsets(number)).all() and not len(reader.damaged_rows())
        reader.close()
    except (ValueError, KeyError, TypeError, AttributeError, FaultError):
        return None
    return reader.shard if fits else None
