"""The plan: every distinct text of a cache, its tokens, and where its states lie."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np

from pipeline.errors import FaultError
from pipeline.store.files import one_line, write_hdf5

CONTENT, SPECIAL = 0, 1  # values of `token_kind`


def text_hash(text: str) -> bytes:
    """128 bits that stand for a text: BLAKE2b of its UTF-8 bytes."""
    return hashlib.blake2b(text.encode("utf-8"), digest_size=16).digest()


@dataclass
class Plan:
    """Columns over the n distinct texts (in text-id order) and their T tokens.

    A shard holds a contiguous range of text ids, `row` counting within it, so a cache that grows only appends.

    Attributes:
        hash: (n, 16) uint8, `text_hash` of each text.
        length: (n,) uint32, tokens of each text, at least 1.
        shard: (n,) uint32, and `row`: (n,) uint32, the text's place.
        truncated: (n,) uint8, 1 where the text was cut at `max_tokens`.
        token_ids: (T,) uint32, texts one after the other.
        token_kind: (T,) uint8, CONTENT or SPECIAL.
        texts: the n texts, or None where the cache was made without them.
        vocabulary: the string of each token id that occurs.
    """

    hash: np.ndarray
    length: np.ndarray
    shard: np.ndarray
    row: np.ndarray
    truncated: np.ndarray
    token_ids: np.ndarray
    token_kind: np.ndarray
    texts: list[str] | None
    vocabulary: dict[int, str] = field(default_factory=dict)

    @classmethod
    def empty(cls, keep_texts: bool) -> Plan:
        """A plan of no texts, to be extended."""
        none = np.zeros(0, dtype=np.uint32)
        flags = np.zeros(0, dtype=np.uint8)
        return cls(
            np.zeros((0, 16), dtype=np.uint8), none, none, none, flags, none, flags, [] if keep_texts else None, {}
        )

    def __len__(self) -> int:
        return len(self.length)

    @cached_property
    def token_start(self) -> np.ndarray:
        """(n + 1,) int64: text i's tokens are [token_start[i], token_start[i + 1]) of all tokens."""
        return np.concatenate([[0], np.cumsum(self.length, dtype=np.int64)])

    @property
    def num_shards(self) -> int:
        """How many shards the plan asks for."""
        return int(self.shard[-1]) + 1 if len(self) else 0

    @cached_property
    def shard_start(self) -> np.ndarray:
        """(shards + 1,) int64: shard s holds the text ids [shard_start[s], shard_start[s + 1])."""
        return np.searchsorted(self.shard, np.arange(self.num_shards + 1)).astype(np.int64)

    def shard_range(self, number: int) -> tuple[int, int]:
        """The text ids [first, stop) of a shard."""
        return int(self.shard_start[number]), int(self.shard_start[number + 1])

    def shard_digest(self, number: int) -> str:
        """Ties a shard file to its texts and their order: SHA-256 over the hashes and lengths of its texts."""
        first, stop = self.shard_range(number)
        digest = hashlib.sha256(self.hash[first:stop].tobytes())
        digest.update(self.length[first:stop].astype("<u4").tobytes())
        return digest.hexdigest()

    def tokens_of(self, text_id: int) -> np.ndarray:
        """(L,) token ids of one text."""
        return self.token_ids[self.token_start[text_id] : self.token_start[text_id + 1]]

    def name_text(self, text_id: int) -> str:
        """The text's id and beginning, for messages."""
        if self.texts is None:
            return f"text {text_id} (hash {self.hash[text_id].tobytes().hex()})"
        return f"text {text_id} ({self.texts[text_id][:60]!r})"

    def save(self, path: Path) -> str:
        """Write `plan.h5` atomically; returns the file's SHA-256."""
        return write_hdf5(path, self._fill)

    def _fill(self, file: h5py.File) -> None:
        for name in ("hash", "length", "shard", "row", "truncated", "token_ids", "token_kind"):
            _write_column(file, name, getattr(self, name))
        if self.texts is not None:
            _write_strings(file.create_group("texts"), self.texts)
        group = file.create_group("vocabulary")
        ids = sorted(self.vocabulary)
        _write_column(group, "ids", np.asarray(ids, dtype=np.uint32))
        _write_strings(group, [self.vocabulary[number] for number in ids])

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read `plan.h5` and check that its columns fit together; raises FaultError where they do not."""
        try:
            with h5py.File(path, "r") as file:
                names = ("hash", "length", "shard", "row", "truncated", "token_ids", "token_kind")
                columns = {name: file[name][()] for name in names}
                texts = _read_strings(file["texts"]) if "texts" in file else None
                group = file["vocabulary"]
                vocabulary = dict(zip(group["ids"][()].tolist(), _read_strings(group), strict=True))
        except (OSError, KeyError, ValueError, RuntimeError) as error:
            raise FaultError(f"{path} cannot be read: {one_line(error)}; extract again") from None
        plan = cls(**columns, texts=texts, vocabulary=vocabulary)
        plan._check(path)
        return plan

    def _check(self, path: Path) -> None:
        count, tokens = len(self), int(self.length.sum())
        shapes_fit = self.hash.shape == (count, 16) and all(
            column.shape == (count,) for column in (self.shard, self.row, self.truncated)
        )
        tokens_fit = self.token_ids.shape == self.token_kind.shape == (tokens,)
        texts_fit = self.texts is None or len(self.texts) == count
        if not (shapes_fit and tokens_fit and texts_fit and (self.length > 0).all()):
            raise FaultError(f"{path} is damaged: its columns do not fit together; extract again")
        steps = np.diff(self.shard.astype(np.int64), prepend=0)
        if count and (not np.isin(steps, (0, 1)).all() or self.shard[0] != 0):
            raise FaultError(f"{path} is damaged: its shards are out of order; extract again")
        if (self.row != np.arange(count) - self.shard_start[self.shard]).any():
            raise FaultError(f"{path} is damaged: its rows are out of order; extract again")


def _write_column(group: h5py.Group, name: str, values: np.ndarray) -> None:
    # The plan is read whole, never by random access, so it can be compressed.
    packed = {"compression": "gzip", "compression_opts": 4, "shuffle": True} if values.size else {}
    group.create_dataset(name, data=values, **packed)


def _write_strings(group: h5py.Group, strings: list[str]) -> None:
    encoded = [string.encode("utf-8") for string in strings]
    offsets = np.concatenate([[0], np.cumsum([len(item) for item in encoded], dtype=np.int64)]).astype(np.uint64)
    _write_column(group, "bytes", np.frombuffer(b"".join(encoded), dtype=np.uint8))
    _write_column(group, "offsets", offsets)


def _read_strings(group: h5py.Group) -> list[str]:
    data, offsets = group["bytes"][()].tobytes(), group["offsets"][()].tolist()
    return [data[start:stop].decode("utf-8") for start, stop in itertools.pairwise(offsets)]
