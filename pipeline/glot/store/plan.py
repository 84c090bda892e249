"""The plan: every distinct text of a cache, its tokens, and where its states lie. On disk; read in pieces."""

from __future__ import annotations

import hashlib
import itertools
from array import array
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from glot.store.column_reader import ColumnReader
from glot.store.columns import CHUNK_BYTES, STRINGS, ColumnFile, ColumnWriter, strings_columns
from glot.store.files import nameless_file, write_error
from glot.store.layout import PlanEntry, StatesIdentity
from glot.store.places import Place

CONTENT, SPECIAL, TEMPLATE = 0, 1, 2  # values of `token_kind`
PIECE = 2**16  # texts copied at a time
BUCKETS = 16  # texts are compared a bucket of their hashes at a time


def text_hash(text: str) -> bytes:
    """128 bits that stand for a text: BLAKE2b of its UTF-8 bytes."""
    return encoded_hash(text.encode("utf-8"))


def encoded_hash(encoded: bytes) -> bytes:
    """`text_hash` of a text in UTF-8."""
    return hashlib.blake2b(encoded, digest_size=16).digest()


def number_by_first_use(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number equal keys alike, in the order in which they first come.

    Args:
        keys: (m, 16) uint8.

    Returns:
        (m,) bool, whether no earlier key is equal, and the (m,) numbers, uint32 or int64.
    """
    first = np.empty(len(keys), dtype=np.uint32 if len(keys) < 2**32 else np.int64)
    bucket = keys[:, 0] % BUCKETS
    for number in range(BUCKETS):
        rows = np.flatnonzero(bucket == number)
        halves = np.ascontiguousarray(keys[rows]).view("<u8")  # (b, 2)
        order = np.lexsort((halves[:, 1], halves[:, 0]))  # stable: of equal keys the first comes first
        ordered = halves[order]
        starts = np.ones(len(order), dtype=bool)
        starts[1:] = (ordered[1:] != ordered[:-1]).any(axis=1)
        group = np.cumsum(starts) - 1
        first[rows[order]] = rows[order[np.flatnonzero(starts)]][group] if len(order) else 0
    is_new = first == np.arange(len(keys), dtype=first.dtype)
    return is_new, (np.cumsum(is_new, dtype=first.dtype) - 1)[first]


# The columns of a plan, and the dtypes that each may have.
KINDS: dict[str, tuple[str, ...]] = {"hash": ("|u1",), "length": ("<u4",), "truncated": ("|u1",)}
KINDS |= {"shard_start": ("<u8",)}
KINDS |= {"token_ids": ("<u2", "<u4"), "token_kind": ("|u1",), "vocabulary/ids": ("<u4",)}
KINDS |= {f"{group}/{name}": (dtype,) for group in ("texts", "vocabulary") for name, dtype in STRINGS.items()}


class Plan:
    """A plan that is opened for reading. Lengths are held in memory, everything else is read when asked for.

    Texts are numbered from 0; a shard holds a range of consecutive texts, so a cache that grows only appends.

    Attributes:
        length: (n,) uint32, tokens of each text, at least 1.
        shard_start: (shards + 1,) int64, shard s holds the texts [shard_start[s], shard_start[s + 1]).

    Raises FaultError where the file is missing, damaged, or its columns do not fit together; `remedy` says what to do.
    """

    def __init__(self, folder: Place, entry: ColumnFile, remedy: str = "") -> None:
        self.file = ColumnReader(folder, entry, remedy or f"run the same `glot extract` into {folder} again")
        for name, column in entry.columns.items():
            if column.dtype not in KINDS.get(name, ()) or len(column.shape) != (2 if name == "hash" else 1):
                raise self.file.damage(f"is damaged: its column {name} is none of a plan's")
        self.length = self.file.read("length")
        self.shard_start = self.file.read("shard_start").astype(np.int64)
        self._check()
        self._checked: set[str] = set()

    def __len__(self) -> int:
        return len(self.length)

    @cached_property
    def token_start(self) -> np.ndarray:
        """(n + 1,) int64: text i's tokens are [token_start[i], token_start[i + 1]) of all tokens."""
        start = np.zeros(len(self) + 1, dtype=np.int64)
        np.cumsum(self.length, out=start[1:])
        return start

    @property
    def tokens(self) -> int:
        """T, the tokens of all texts."""
        return int(self.token_start[-1])

    @property
    def num_shards(self) -> int:
        """How many shards the plan asks for."""
        return len(self.shard_start) - 1

    def shard_of(self, text_ids: np.ndarray) -> np.ndarray:
        """(k,) int64 numbers of the shards that hold some texts."""
        return np.searchsorted(self.shard_start, text_ids, side="right") - 1

    def shard_range(self, number: int) -> tuple[int, int]:
        """The texts [first, stop) of a shard."""
        return int(self.shard_start[number]), int(self.shard_start[number + 1])

    def shard_tokens(self, number: int) -> int:
        """The tokens of a shard."""
        first, stop = self.shard_range(number)
        return int(self.token_start[stop] - self.token_start[first])

    def shard_offsets(self, number: int) -> np.ndarray:
        """(texts + 1,) int64: where each text's rows begin in a shard."""
        first, stop = self.shard_range(number)
        return self.token_start[first : stop + 1] - self.token_start[first]

    def shard_digest(self, number: int) -> str:
        """Ties a shard file to its texts and their order: SHA-256 over the hashes and lengths of its texts."""
        first, stop = self.shard_range(number)
        digest = hashlib.sha256(self.hashes(first, stop).tobytes())
        digest.update(self.length[first:stop].astype("<u4").tobytes())
        return digest.hexdigest()

    def hashes(self, first: int = 0, stop: int | None = None) -> np.ndarray:
        """(stop - first, 16) uint8, `text_hash` of some texts."""
        return self._rows("hash", first, len(self) if stop is None else stop)

    def truncated(self, first: int, stop: int) -> np.ndarray:
        """(stop - first,) uint8, 1 where the text was cut at `max_tokens`."""
        return self._rows("truncated", first, stop)

    def token_ids(self, first: int, stop: int) -> np.ndarray:
        """The token ids of the texts [first, stop), one text after the other."""
        return self._rows("token_ids", *self.token_start[[first, stop]].tolist())

    def token_kinds(self, first: int, stop: int) -> np.ndarray:
        """CONTENT, SPECIAL or TEMPLATE for each of those tokens."""
        return self._rows("token_kind", *self.token_start[[first, stop]].tolist())

    @property
    def has_texts(self) -> bool:
        """Whether the texts themselves are kept."""
        return "texts/offsets" in self.file

    def texts(self, first: int, stop: int) -> list[str]:
        """The texts [first, stop); raises FaultError where they are not kept, or are no UTF-8."""
        return self._strings("texts", first, stop)

    @cached_property
    def vocabulary(self) -> dict[int, str]:
        """The string of each token id that occurs."""
        ids = self.file.read("vocabulary/ids").tolist()
        return dict(zip(ids, self._strings("vocabulary", 0, len(ids)), strict=True))

    def name_text(self, text_id: int) -> str:
        """The text's id and beginning, for messages."""
        if not self.has_texts:
            return f"text {text_id} (hash {self.hashes(text_id, text_id + 1).tobytes().hex()})"
        return f"text {text_id} ({self.texts(text_id, text_id + 1)[0][:60]!r})"

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _rows(self, name: str, first: int, stop: int) -> np.ndarray:
        # A column is checked as a whole, once, before its first rows are given out.
        if name not in self._checked:
            self.file.check(name)
            self._checked.add(name)
        return self.file.read(name, first, stop)

    def _strings(self, group: str, first: int, stop: int) -> list[str]:
        offsets = self._rows(f"{group}/offsets", first, stop + 1).astype(np.int64)
        size = self.file.shape(f"{group}/bytes")[0]
        if len(offsets) and not (offsets[0] >= 0 and offsets[-1] <= size and (np.diff(offsets) >= 0).all()):
            raise self.file.damage(f"is damaged: {group} out of order")
        data = self._rows(f"{group}/bytes", int(offsets[0]), int(offsets[-1])).tobytes()
        try:
            return [data[a:b].decode("utf-8") for a, b in itertools.pairwise((offsets - offsets[0]).tolist())]
        except UnicodeDecodeError:
            raise self.file.damage(f"is damaged: {group} are no UTF-8") from None

    def _check(self) -> None:
        count, tokens = len(self), int(self.length.sum(dtype=np.uint64))
        shapes = {"hash": (count, 16), "length": (count,), "truncated": (count,), "token_ids": (tokens,)}
        shapes |= {"token_kind": (tokens,)}
        if self.has_texts:
            shapes |= {"texts/offsets": (count + 1,)}
        if any(self.file.shape(name) != shape for name, shape in shapes.items()) or not (self.length > 0).all():
            raise self.file.damage("is damaged: its columns do not fit together")
        start = self.shard_start
        if not len(start) or start[0] != 0 or start[-1] != count or (np.diff(start) < 1).any():
            raise self.file.damage("is damaged: its shards are out of order")


class PlanWriter:
    """Builds a plan of any size in bounded memory: texts are added one by one, `finish` writes the file.

    Args:
        folder: where the plan will be; what is collected lies there in unnamed temporary files meanwhile.
        keep_texts: False leaves the texts themselves out.
    """

    def __init__(self, folder: Path, keep_texts: bool) -> None:
        self.folder, self.keep_texts = folder, keep_texts
        self.length = array("I")
        self.truncated = array("B")
        self.shard_start = [0]
        self.vocabulary: dict[int, str] = {}
        self._used = np.zeros(2**16, dtype=bool)
        names = ("hash", "token_ids", "token_kind", "texts/bytes", "texts/offsets")
        self._spools = {name: nameless_file(folder) for name in names}
        self._text_bytes = 0
        self._spool("texts/offsets", bytes(8))

    def __len__(self) -> int:
        return len(self.length)

    @property
    def tokens(self) -> int:
        """The tokens of all texts so far."""
        return int(np.frombuffer(self.length, dtype=np.uint32).sum(dtype=np.int64))

    def copy(self, plan: Plan) -> None:
        """Take over a whole plan, with its shards; nothing but such may have been added before."""
        start = len(self)
        for first in range(0, len(plan), PIECE):
            self.copy_texts(plan, first, min(first + PIECE, len(plan)))
        self.take_vocabulary(plan)
        self.shard_start += (start + plan.shard_start[1:]).tolist()

    def copy_texts(self, plan: Plan, first: int, stop: int) -> None:
        """Take over the texts [first, stop) of another plan."""
        texts = [text.encode("utf-8") for text in plan.texts(first, stop)] if self.keep_texts else []
        self.add(
            plan.length[first:stop],
            plan.hashes(first, stop).tobytes(),
            plan.token_ids(first, stop),
            plan.token_kinds(first, stop),
            plan.truncated(first, stop),
            texts,
        )

    def take_vocabulary(self, plan: Plan) -> None:
        """Take over the strings of those tokens that occur and have none yet."""
        for number in self.missing_vocabulary():
            if number in plan.vocabulary:
                self.vocabulary[number] = plan.vocabulary[number]

    def add(
        self,
        length: np.ndarray,
        hashes: bytes,
        token_ids: np.ndarray,
        token_kind: np.ndarray,
        truncated: np.ndarray,
        texts: list[bytes],
    ) -> None:
        """Add some texts: (k,) lengths, 16 bytes of hash a text, their tokens, and UTF-8 (none where not kept)."""
        self.length.frombytes(np.ascontiguousarray(length, dtype=np.uint32).tobytes())
        self.truncated.frombytes(np.ascontiguousarray(truncated, dtype=np.uint8).tobytes())
        ids = np.ascontiguousarray(token_ids, dtype="<u4")
        if len(ids) and int(ids.max()) >= len(self._used):
            self._used = np.concatenate([self._used, np.zeros(int(ids.max()) + 1 - len(self._used), dtype=bool)])
        self._used[ids] = True
        self._spool("hash", hashes)
        self._spool("token_ids", ids.tobytes())
        self._spool("token_kind", np.ascontiguousarray(token_kind, dtype=np.uint8).tobytes())
        if self.keep_texts:
            ends = self._text_bytes + np.cumsum([len(text) for text in texts], dtype="<u8")
            self._spool("texts/bytes", b"".join(texts))
            self._spool("texts/offsets", ends.astype("<u8").tobytes())
            self._text_bytes = int(ends[-1]) if len(ends) else self._text_bytes

    def missing_vocabulary(self) -> list[int]:
        """Token ids that occur and have no string yet."""
        return [number for number in np.flatnonzero(self._used).tolist() if number not in self.vocabulary]

    def finish(self, path: Path, shard_tokens: int, about: dict[str, Any] | None = None) -> ColumnFile:
        """Assign the new texts to shards of at most `shard_tokens` (a longer text has its own) and write the plan.

        `about` is kept in its head.
        """
        length = np.frombuffer(self.length, dtype=np.uint32)
        self.shard_start += _fill_shards(length[self.shard_start[-1] :], shard_tokens, self.shard_start[-1])
        tokens = self.tokens
        id_dtype = "<u2" if len(np.flatnonzero(self._used[2**16 :])) == 0 else "<u4"
        columns = {
            "hash": ((len(self), 16), "|u1"),
            "length": ((len(self),), "<u4"),
            "truncated": ((len(self),), "|u1"),
            "shard_start": ((len(self.shard_start),), "<u8"),
            "token_ids": ((tokens,), id_dtype),
            "token_kind": ((tokens,), "|u1"),
        }
        if self.keep_texts:
            columns |= {"texts/bytes": ((self._text_bytes,), "|u1"), "texts/offsets": ((len(self) + 1,), "<u8")}
        ids = sorted(self.vocabulary)
        small = {"shard_start": np.asarray(self.shard_start, dtype="<u8"), "vocabulary/ids": np.asarray(ids, "<u4")}
        small |= strings_columns([self.vocabulary[number].encode("utf-8", "replace") for number in ids], "vocabulary")
        small |= {"length": length, "truncated": np.frombuffer(self.truncated, dtype=np.uint8)}
        columns |= {name: (values.shape, values.dtype.str) for name, values in small.items() if name not in columns}
        with ColumnWriter(path, columns, {"kind": "plan", **(about or {})}) as writer:
            for name in columns:
                start = 0
                for piece in [small[name]] if name in small else self._pieces(name, columns[name][1]):
                    piece = piece.reshape(-1, *columns[name][0][1:])
                    writer.append(name, start, piece)
                    start += len(piece)
            return writer.finish()

    def save(
        self, path: Path, states: StatesIdentity, shard_bytes: int, empty: int, order_seed: int, request: str = ""
    ) -> PlanEntry:
        """Write the plan as `finish` does, with shards of at most `shard_bytes`; returns what the manifest says of it.

        The file says so too, for the day when the manifest is lost.
        """
        counts = {"truncated": sum(self.truncated), "empty": empty, "order_seed": order_seed}
        shard_tokens = max(1, shard_bytes // states.bytes_per_token)
        data = self.finish(path, shard_tokens, {"states": asdict(states), "plan": counts})
        shards = len(self.shard_start) - 1
        return PlanEntry(len(self), self.tokens, shards=shards, request=request, data=data, **counts)

    def close(self) -> None:
        """Drop what was collected."""
        for spool in self._spools.values():
            spool.close()

    def _spool(self, name: str, data: bytes) -> None:
        try:
            self._spools[name].write(data)
        except OSError as error:
            raise write_error(self.folder, error) from None

    def _pieces(self, name: str, dtype: str) -> Iterator[np.ndarray]:
        spooled = {"token_ids": "<u4"}.get(name, dtype)
        self._spools[name].seek(0)
        while data := self._spools[name].read(CHUNK_BYTES):
            yield np.frombuffer(data, dtype=spooled).astype(dtype, copy=False)


def _fill_shards(length: np.ndarray, shard_tokens: int, first: int) -> list[int]:
    """The ends of the shards of some texts, filling one after the other up to `shard_tokens`."""
    ends, start = [], 0
    total = np.cumsum(length, dtype=np.int64)
    while start < len(length):
        before = int(total[start - 1]) if start else 0
        start = max(start + 1, int(np.searchsorted(total, before + shard_tokens, side="right")))
        ends.append(first + start)
    return ends
