"""Reading objects of a store: byte ranges through the local block cache, fetched ahead by threads, or whole."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from glot.errors import FaultError
from glot.store.blocks import blocks
from glot.store.files import nameless_file
from glot.store.places import RemoteFolder
from glot.store.positions import read_into_at

BLOCK_BYTES = 4 * 2**20  # of a request and of a file in the block cache: large for a store, small beside a shard
THREADS = 8  # requests under way
AHEAD = 8  # blocks that are fetched ahead of one who reads on and on
REMEDY = "push the cache there again, with `glot cache push`"


Item = TypeVar("Item")
Result = TypeVar("Result")


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(THREADS, "glot-fetch")


def at_once(do: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """What `do` gives of each item, several under way; raises what it raises."""
    return list(_threads().map(do, items))


def _give_up() -> None:
    """Drop all requests that wait for their turn: one has failed, and the end of the program would wait for them."""
    _threads().shutdown(wait=False, cancel_futures=True)
    _threads.cache_clear()


def fetch(place: RemoteFolder, start: int, stop: int) -> bytes:
    """The bytes [start, stop) of an object; what comes too short is asked for once more, and then a FaultError."""
    for _ in range(2):
        data = place.read(start, stop)
        if len(data) == stop - start:
            return data
    raise FaultError(f"{place} ends too soon: it gave {len(data)} bytes of {start} to {stop}: {REMEDY}")


def fetch_all(place: RemoteFolder, size: int) -> Iterator[bytes]:
    """An object of `size` bytes in pieces, one after the other, the next ones under way."""
    waiting: deque[Future[bytes]] = deque()
    try:
        for start in range(0, size, BLOCK_BYTES):
            waiting.append(_threads().submit(fetch, place, start, min(start + BLOCK_BYTES, size)))
            if len(waiting) == THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except Exception:
        _give_up()
        raise


def open_whole(place: RemoteFolder, size: int, key: str) -> int:
    """A descriptor of a local file with all of an object of `size` bytes; the caller closes it.

    It is kept in the block cache under the key; of a fresh place nothing is kept, and nothing that was is read.
    """
    if place.is_fresh:
        with nameless_file(blocks().folder, size) as file:
            file.writelines(fetch_all(place, size))
            file.seek(0)
            return os.dup(file.fileno())
    kept = blocks().open(key, size)
    return blocks().put_file(key, fetch_all(place, size)) if kept is None else kept


class RemoteFile:
    """Byte ranges of an object, in blocks that are kept in the local block cache.

    Args:
        size: its bytes, as it has them.
        key: what it is kept by: changes with its content, for a cache's files do not change.

    Whoever reads must compare what is read with a checksum, and call `forget` where it does not fit: what came over
    the network or lies in the block cache may be damaged.
    """

    def __init__(self, place: RemoteFolder, size: int, key: str) -> None:
        self.place, self.size, self.key = place, size, key
        self.blocks = blocks()
        self._fetching: dict[int, Future[bytes]] = {}
        self._lock = threading.Lock()
        self._last = -2  # the last block that was asked for; no block follows on that

    def prepare(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Begin to fetch what is missing of some ranges (offset, bytes), and of what follows one who reads on."""
        wanted = sorted({number for offset, size in ranges for number in self._numbers(offset, size)})
        if not wanted:
            return
        reads_on, self._last = wanted[0] in (self._last, self._last + 1), wanted[-1]
        if reads_on:
            wanted += range(self._last + 1, min(self._last + 1 + AHEAD, -(-self.size // BLOCK_BYTES)))
        for number in wanted:
            if not self.blocks.holds(self._key(number)):
                self._fetch(number)

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill `view` with the bytes from `offset` on; raises what `fetch` raises."""
        while view:
            number, start = divmod(offset, BLOCK_BYTES)
            count = min(len(view), BLOCK_BYTES - start)
            self._copy(number, start, view[:count])
            view, offset = view[count:], offset + count

    def forget(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Drop what the block cache holds of some ranges, so that it is fetched again."""
        for number in {number for offset, size in ranges for number in self._numbers(offset, size)}:
            self.blocks.forget(self._key(number))

    def _copy(self, number: int, start: int, view: memoryview) -> None:
        descriptor = self.blocks.open(self._key(number), self._bytes(number))
        if descriptor is None:
            view[:] = self._wait(number)[start : start + len(view)]
            return
        try:
            if read_into_at(descriptor, view, start) != len(view):
                raise FaultError(f"the block cache in {self.blocks.folder} cannot be read: run again")
        finally:
            os.close(descriptor)

    def _wait(self, number: int) -> bytes:
        while True:
            try:
                return self._fetch(number).result()
            except CancelledError:  # for another reader's fault
                continue
            except Exception:
                _give_up()
                raise

    def _fetch(self, number: int) -> Future[bytes]:
        """The block, under way; one request of each at a time."""
        with self._lock:
            if number not in self._fetching or self._fetching[number].cancelled():
                self._fetching[number] = _threads().submit(self._load, number)
            return self._fetching[number]

    def _load(self, number: int) -> bytes:
        try:
            came = self.blocks.open(self._key(number), self._bytes(number))  # since somebody looked for it in vain
            if came is not None:
                with open(came, "rb") as file:
                    data = file.read()
                if len(data) == self._bytes(number):
                    return data
            start = number * BLOCK_BYTES
            data = fetch(self.place, start, start + self._bytes(number))
            self.blocks.put(self._key(number), data)
            return data
        finally:
            with self._lock:
                del self._fetching[number]

    def _numbers(self, offset: int, size: int) -> range:
        return range(offset // BLOCK_BYTES, -(-(offset + size) // BLOCK_BYTES))

    def _bytes(self, number: int) -> int:
        return min(BLOCK_BYTES, self.size - number * BLOCK_BYTES)

    def _key(self, number: int) -> str:
        return f"{self.key}\n{BLOCK_BYTES}\n{number}"
