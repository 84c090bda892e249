"""One epoch of a head over a cache in an S3 server on this machine, against one over the same cache on disk.

    python -m benchmarks.remote

Reading is timed with the epoch. `memory` reads all states first, `streamed` as the epoch needs them; `first` begins
with an empty block cache, `again` with all blocks in it. The server (moto's, in a process of its own) takes its share
of the same cores, so a store elsewhere is slower by its network and faster by these.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
from pathlib import Path

from benchmarks.made import files_of, forget, make_cache, spread_lengths
from benchmarks.ratios import Ratio, describe_machine, seconds_of, verdict
from glot.fit.run import FitOptions, make_configs
from glot.fit.train import fit_head
from glot.store.places import file_system
from glot.store.reader import Cache
from glot.store.transfer import pull_cache, push_cache
from tests.s3 import S3Server

URL = "s3://made/cache"
WIDTH, MEAN, SHARDS = 384, 27, 8
TARGET = 0.7
STREAM = 1  # byte of memory for states: they are streamed


def train(place: Path | str, streamed: bool) -> None:
    """Open a cache, and train a head on it for an epoch."""
    cache = Cache(place)
    options = FitOptions(epochs=1, device="cpu", **({"max_memory": STREAM} if streamed else {}))
    [config] = make_configs(cache, options)
    with tempfile.TemporaryDirectory() as run:
        fit_head(cache, config, Path(run))
    cache.close()


def measure(folder: Path, blocks: Path, streamed: bool, repeats: int) -> dict[str, Ratio]:
    """Seconds from disk over those from the store, with an empty block cache and with a full one."""
    found: dict[str, list[float]] = {"first": [], "again": []}
    train(folder, streamed)  # what is imported and compiled once is not timed
    for _ in range(repeats):
        forget(files_of(folder))
        disk = seconds_of(lambda: train(folder, streamed))
        shutil.rmtree(blocks / "pieces", ignore_errors=True)
        (blocks / "pieces").mkdir(parents=True)
        for name, values in found.items():
            values.append(disk / seconds_of(lambda: train(URL, streamed)))
            print(f"  {name}: disk {disk:.2f} s, store {disk / values[-1]:.2f} s", flush=True)
    return {name: Ratio(tuple(values)) for name, values in found.items()}


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mb", type=int, default=64, help="size of the cache, MiB")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    tokens = given.mb * 2**20 // (2 * WIDTH)
    server = S3Server()
    with tempfile.TemporaryDirectory() as name:
        blocks = Path(name) / "blocks"
        os.environ |= {"AWS_ENDPOINT_URL": server.address, "GLOT_CACHE_DIR": str(blocks / "pieces")}
        os.environ |= {"AWS_ACCESS_KEY_ID": "made", "AWS_SECRET_ACCESS_KEY": "made", "AWS_DEFAULT_REGION": "us-east-1"}
        try:
            folder = make_cache(Path(name) / "cache", WIDTH, spread_lengths(tokens, MEAN), tokens // SHARDS)
            file_system("s3").mkdir("made")
            seconds = seconds_of(lambda: push_cache(Cache(folder), URL))
            print(f"remote: {describe_machine()}; {given.mb} MiB in {SHARDS} shards")
            print(f"put at {given.mb / seconds:.0f} MiB/s")
            seconds = seconds_of(lambda: pull_cache(URL, Path(name) / "back"))
            print(f"got at {given.mb / seconds:.0f} MiB/s")
            for kind, streamed in (("memory", False), ("streamed", True)):
                for state, ratio in measure(folder, blocks, streamed, given.repeats).items():
                    print(f"{kind}, {state}: {ratio}; {verdict(ratio.median, TARGET)}")
        finally:
            server.kill()


if __name__ == "__main__":
    main()
