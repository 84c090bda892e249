"""Reading states: `Cache.read_texts` against plain reads of one flat file of the same bytes, in one process.

    python -m benchmarks.reading

Texts come in batches of 32, in the order of a training epoch and at random; from the page cache and from the disk; in
the first pass over a cache, in which checksums are compared, and in the next. Then: what of a training epoch goes into
checksums, and how long a cache of many shards takes to open.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from unittest import mock

import h5py
import numpy as np
import xxhash

from benchmarks.made import LAYER, files_of, forget, load, make_cache, spread_lengths
from benchmarks.ratios import Ratio, describe_machine, interleaved, seconds_of, speed_ratio, verdict
from glot.fit.run import FitOptions, make_configs
from glot.fit.states import epoch_order
from glot.fit.train import fit_head
from glot.store.layout import shard_file
from glot.store.reader import Cache

BATCH, WINDOW = 32, 4
TURN, SHORT_TURN = 20, 5  # batches that each of the two ways reads before the other's turn
SHAPES = ((384, 27), (576, 110))  # width and mean length: short sentences under MiniLM, documents under SmolLM2
READ_TARGET, CHECK_TARGET, OPEN_TARGET = 0.9, 0.03, 1.0


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        cache_bytes, shard_bytes: of each made cache. repeats: of each pair of passes.
        fit_bytes: of the cache that is trained on. fit_repeats: of each pair of epochs.
        shards: of the cache that is opened.
    """

    cache_bytes: int = 5 * 10**8
    shard_bytes: int = 32 * 2**20
    repeats: int = 3
    fit_bytes: int = 5 * 10**7
    fit_repeats: int = 3
    shards: int = 1000


TINY = Sizes(10**6, 2**18, 2, 10**5, 1, 5)


class FlatFile:
    """The peer: all states in one file, a list of where each text lies, one buffer that is filled again and again."""

    def __init__(self, cache: Cache, path: Path) -> None:
        row_bytes = 2 * cache.manifest.states.width
        start = cache.plan.token_start * row_bytes
        self.offset, self.size = start[:-1].tolist(), np.diff(start).tolist()
        self.path = path
        self._write(cache)
        self.descriptor = os.open(path, os.O_RDONLY)
        self.buffer = np.empty(BATCH * max(self.size), dtype=np.uint8)
        self.view = memoryview(self.buffer)

    def _write(self, cache: Cache) -> None:
        with open(self.path, "wb") as file:
            for ids in np.array_split(np.arange(len(cache.plan)), max(1, cache.plan.tokens // 10_000)):
                file.write(cache.read_texts(LAYER, ids).values.tobytes())

    def read(self, text_ids: np.ndarray) -> memoryview:
        """The bytes of some texts, one after the other."""
        place = 0
        for text_id in text_ids.tolist():
            size = self.size[text_id]
            os.preadv(self.descriptor, [self.view[place : place + size]], self.offset[text_id])
            place += size
        return self.view[:place]

    def read_checked(self, text_ids: np.ndarray) -> list[int]:
        """The same, and the XXH3-64 of each text: what a reader that compares checksums cannot do without."""
        place, found, view = 0, [], self.read(text_ids)
        for text_id in text_ids.tolist():
            found.append(xxhash.xxh3_64_intdigest(view[place : place + self.size[text_id]]))
            place += self.size[text_id]
        return found

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)


def orders(cache: Cache) -> dict[str, list[np.ndarray]]:
    """The batches of a pass: those of a streamed training epoch, and random ones."""
    ids = np.arange(len(cache.plan))
    trained = epoch_order(cache.plan.shard_of(ids), 0, 1, WINDOW)
    shuffled = np.random.default_rng(0).permutation(len(ids))
    cut = range(BATCH, len(ids), BATCH)
    return {"training order": np.split(trained, cut), "random batches": np.split(shuffled, cut)}


def read_all(read: Callable[[np.ndarray], object], batches: list[np.ndarray]) -> None:
    """Read some batches and let each go, as training does."""
    for batch in batches:
        read(batch)


def compare_passes(folder: Path, flat: FlatFile, batches: list[np.ndarray], repeats: int) -> dict[str, Ratio]:
    """The ratio of bytes/s, ours over the flat file's, of first and second passes, from page cache and disk."""
    paths = [*files_of(folder), flat.path]
    pieces = [batches[start : start + TURN] for start in range(0, len(batches), TURN)]
    found: dict[str, list[float]] = {}
    for place, prepare in {"page-cached": lambda paths: None, "from the disk": forget}.items():
        load(paths)
        for _ in range(repeats):
            cache = Cache(folder)
            cache.plan  # noqa: B018 - opened before the clock runs, as the flat file's list of places is
            for name in ("first pass, checksums compared", "second pass"):
                prepare(paths)
                ratio = interleaved(
                    lambda piece, cache=cache: read_all(partial(cache.read_texts, LAYER), piece),
                    lambda piece: read_all(flat.read, piece),
                    pieces,
                )
                found.setdefault(f"{place}, {name}", []).append(ratio)
            cache.close()
    return {name: Ratio(tuple(values)) for name, values in found.items()}


def fastest(folder: Path, flat: FlatFile, batches: list[np.ndarray], repeats: int) -> dict[str, float]:
    """Microseconds a batch from the page cache, piece by piece the fastest of all repeats: an otherwise idle machine's.

    Each way goes through all pieces at a time, which are more than the processor's caches hold.
    """
    pieces = [batches[start : start + SHORT_TURN] for start in range(0, min(len(batches), 200), SHORT_TURN)]
    seconds: dict[str, list[list[float]]] = {}
    load([*files_of(folder), flat.path])
    for _ in range(repeats):
        cache = Cache(folder)
        cache.plan  # noqa: B018 - see above
        read = partial(cache.read_texts, LAYER)
        ways = {"flat file": flat.read, "flat file, XXH3 of each text": flat.read_checked}
        ways |= {"ours, first pass": read, "ours, second pass": read}  # the second reads what the first has checked
        for name, way in ways.items():
            row = [seconds_of(partial(read_all, way, piece)) for piece in pieces]
            seconds.setdefault(name, []).append(row)
        cache.close()
    count = sum(map(len, pieces))
    return {name: 1e6 * float(np.min(values, axis=0).sum()) / count for name, values in seconds.items()}


def check_same_bytes(cache: Cache, flat: FlatFile, batches: list[np.ndarray]) -> None:
    """Raise where the two ways do not read the same."""
    for batch in batches[:20]:
        if cache.read_texts(LAYER, batch).values.tobytes() != bytes(flat.read(batch)):
            raise RuntimeError("the flat file does not hold the cache's bytes")


def reading(folder: Path, sizes: Sizes) -> None:
    """Print the ratios of both shapes."""
    for width, mean in SHAPES:
        tokens = sizes.cache_bytes // (2 * width)
        place = folder / f"reading-{width}"
        make_cache(place, width, spread_lengths(tokens, mean), max(1, sizes.shard_bytes // (2 * width)))
        cache = Cache(place)
        flat = FlatFile(cache, folder / f"flat-{width}.bin")
        print(
            f"d = {width}, mean {cache.plan.tokens / len(cache.plan):.0f} tokens, {len(cache.plan):,} texts, "
            f"{cache.plan.num_shards} shards, {sizes.cache_bytes / 1e9:.3g} GB: bytes/s over a flat file's"
        )
        for name, batches in orders(cache).items():
            check_same_bytes(cache, flat, batches)
            for case, ratio in compare_passes(place, flat, batches, sizes.repeats).items():
                print(f"  {name}, {case}: {ratio}; {verdict(ratio.median, READ_TARGET)}", flush=True)
        times = fastest(place, flat, orders(cache)["training order"], 4 * sizes.repeats)
        print("  fastest, in µs a batch: " + ", ".join(f"{name} {value:.0f}" for name, value in times.items()))
        cache.close()
        flat.close()
        flat.path.unlink()
        shutil.rmtree(place)


@contextmanager
def timed_checks() -> Iterator[list[float]]:
    """Collects the processor seconds of each comparison of checksums."""
    seconds: list[float] = []
    compare = Cache._compare

    def timed(*args: object) -> None:
        started = time.thread_time()
        compare(*args)
        seconds.append(time.thread_time() - started)

    with mock.patch.object(Cache, "_compare", timed):
        yield seconds


def checksum_share(folder: Path, sizes: Sizes) -> tuple[Ratio, Ratio]:
    """What checksums take of a streamed GLOT epoch, in processor time, for the clock also sees other jobs.

    Returns:
        The seconds inside the comparison over all others of the same epoch; and whole epochs over such without any
        comparison, which are apart in time and so less sure.
    """
    width, mean = SHAPES[0]
    tokens = sizes.fit_bytes // (2 * width)
    place = folder / "checksums"
    make_cache(place, width, spread_lengths(tokens, mean), max(1, tokens // 8))

    def fit() -> float:
        started = time.process_time()
        cache = Cache(place)
        [config] = make_configs(cache, FitOptions(epochs=1, max_memory=0, device="cpu"))
        with tempfile.TemporaryDirectory(dir=folder) as run:
            fit_head(cache, config, Path(run))
        cache.close()
        return time.process_time() - started

    shares, ratios = [], []
    for repeat in range(sizes.fit_repeats):
        seconds = {}
        for checked in (True, False) if repeat % 2 else (False, True):
            if checked:
                with timed_checks() as inside:
                    seconds[checked] = fit()
                shares.append(sum(inside) / (seconds[checked] - sum(inside)))
            else:
                with mock.patch.object(Cache, "_compare", return_value=None):
                    seconds[checked] = fit()
        ratios.append(seconds[True] / seconds[False])
    shutil.rmtree(place)
    return Ratio(tuple(shares)), Ratio(tuple(ratios))


def opening(folder: Path, shards: int) -> tuple[float, Ratio]:
    """Seconds to open a cache of many shards and its plan, and how many times as long h5py takes for its files."""
    place = make_cache(folder / "many", 8, np.full(4 * shards, 4, dtype=np.uint32), 16)
    names = [place / shard_file(number) for number in range(shards)]

    def open_ours() -> None:
        with mock.patch.object(h5py, "File", side_effect=AssertionError("an HDF5 file was opened")):
            cache = Cache(place)
            assert cache.plan.num_shards == shards
            cache.close()

    def open_hdf5() -> None:
        for name in names:
            h5py.File(name, "r").close()

    seconds = min(seconds_of(open_ours) for _ in range(3))
    ratio = speed_ratio(open_ours, open_hdf5, 5)
    shutil.rmtree(place)
    return seconds, ratio


def run_all(folder: Path, sizes: Sizes) -> None:
    """All of it, in a folder of its own that is removed afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        print(f"reading: {describe_machine()}")
        reading(Path(made), sizes)
        share, epochs = checksum_share(Path(made), sizes)
        print(f"checksums over the rest of a streamed epoch: {share}; {verdict(share.median, CHECK_TARGET, True)}")
        print(f"  a whole epoch with them over one without: {epochs}", flush=True)
        seconds, ratio = opening(Path(made), sizes.shards)
        print(
            f"opening {sizes.shards:,} shards: {seconds:.3f} s, {ratio.median:.1f} times as fast as opening each with "
            f"h5py; {verdict(seconds, OPEN_TARGET, at_most=True)}"
        )


def main() -> None:
    """Parse the arguments and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path("cache/bench"), help="where caches are made and removed")
    parser.add_argument("--gb", type=float, default=Sizes.cache_bytes / 1e9, help="size of each made cache")
    parser.add_argument("--repeats", type=int, default=Sizes.repeats)
    given = parser.parse_args()
    run_all(given.folder, replace(Sizes(), cache_bytes=int(given.gb * 1e9), repeats=given.repeats))


if __name__ == "__main__":
    main()
