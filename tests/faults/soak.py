"""Hours of bad luck in minutes: `python -m tests.faults.soak --minutes 10 --seed 1` (or `make soak`).

Round after round something happens to a cache at random (kills, two runs at once, damage, growth, torn files), and it
must come out byte for byte as if nothing had. Stops at the first time that it does not, and says how to do it again.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.faults import runs
from tests.faults.runs import Zygote

SMALL, LARGE = 36, 60  # rows before and after a growth
PROGRESS_SECONDS = 5.0


class Soak:
    """One run of the soak: what an unbroken extraction leaves, and the random things that can happen to another."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.random = folder, np.random.default_rng(seed)
        self.counts: Counter[str] = Counter()
        self.backbone = _save_backbone(folder)
        self.zygote = Zygote()
        self.expected: dict[tuple[int, ...], dict[str, bytes]] = {}
        self.seconds = 0.3
        for history in ((SMALL,), (LARGE,), (SMALL, LARGE)):
            out = folder / "unbroken"
            shutil.rmtree(out, ignore_errors=True)
            for rows in history:
                started = time.monotonic()
                self.finish(out, rows)
                self.seconds = time.monotonic() - started
            self.expected[history] = runs.contents(out)

    def round(self) -> None:
        """One cache from nothing to its end, with a few mishaps on the way."""
        out = self.folder / "cache"
        shutil.rmtree(out, ignore_errors=True)
        history = [(SMALL,), (LARGE,), (SMALL, LARGE)][int(self.random.integers(3))]
        for place, rows in enumerate(history):
            for _ in range(int(self.random.integers(0, 4))):
                self.mishap(out, rows)
            self.finish(out, rows)
            self.check(out, history[: place + 1])
        if self.random.random() < 0.3:
            self.damage(out, history[-1])
            self.check(out, history, repaired=True)

    def mishap(self, out: Path, rows: int) -> None:
        """Something that must do no lasting harm."""
        happenings: list[Callable[[Path, int], None]] = [self.kill, self.kill, self.two, self.two]
        happenings += [self.tear, self.litter]
        before = runs.published(out)
        happening = happenings[int(self.random.integers(len(happenings)))]
        happening(out, rows)
        after = runs.published(out)
        _require({name: after.get(name) for name in before} == before, f"{happening.__name__}: a shard was touched")
        self.counts[happening.__name__] += 1

    def finish(self, out: Path, rows: int) -> None:
        """A run without a mishap; it must keep every shard that is there."""
        before = runs.published(out)
        self.zygote.finish(self.start(out, rows))
        after = runs.published(out)
        _require({name: after.get(name) for name in before} == before, "a finished shard was made again")
        self.counts["runs"] += 1

    def start(self, out: Path, rows: int) -> int:
        return self.zygote.extract(self.backbone, out, rows=rows)

    def moment(self) -> float:
        return float(self.random.uniform(0, 1.2 * self.seconds))

    def check(self, out: Path, history: tuple[int, ...], repaired: bool = False) -> None:
        """The folder is what an unbroken run leaves."""
        _require(not runs.leftovers(out), f"left over: {runs.leftovers(out)}")
        wrong = runs.differences(out, self.expected[history])
        # A text that is forwarded again, in another batch, may differ in its last bits.
        wrong = [name for name in wrong if not repaired or not name.startswith(("shard-", "manifest"))]
        _require(not wrong, f"differ from an unbroken run: {wrong}")
        self.counts["checks"] += 1

    # What can happen

    def kill(self, out: Path, rows: int) -> None:
        """A run is killed at a random moment."""
        self.counts["killed"] += self.zygote.kill_after(self.start(out, rows), self.moment())

    def two(self, out: Path, rows: int) -> None:
        """Two runs at once; often one is killed, sometimes both."""
        pids = [self.start(out, rows), self.start(out, rows)]
        dying = [pid for pid in pids if self.random.random() < 0.4]
        for pid in dying:
            self.counts["killed"] += self.zygote.kill_after(pid, self.moment() / 2)
        for pid in pids:
            if pid not in dying:
                self.zygote.finish(pid)

    def tear(self, out: Path, rows: int) -> None:
        """The manifest or a sidecar is torn, as by a power cut."""
        there = [path for path in (out / "manifest.json", *out.glob("shard-*.json")) if path.exists()]
        if there:
            path = there[int(self.random.integers(len(there)))]
            data = path.read_bytes()
            end = int(self.random.integers(len(data)))
            path.write_bytes(data[:end] + bytes(len(data) - end) * int(self.random.integers(2)))

    def litter(self, out: Path, rows: int) -> None:
        """Temporary files of the dead."""
        if out.exists():
            names = [
                "shard-00001.h5",
                "shard-00002.json",
                "plan.h5",
                "manifest.json",
                "plan.claim",
                "shard-00001.claim",
            ]
            name = f"{names[int(self.random.integers(len(names)))]}.tmp-gone-1"
            (out / name).write_bytes(self.random.bytes(100))

    def damage(self, out: Path, rows: int) -> None:
        """Bytes of some shards change: they are named, never read, and made again."""
        from glot.errors import FaultError
        from glot.extract.repair import repair_cache
        from glot.store.reader import Cache
        from glot.store.verify import verify_cache

        cache = Cache(out)
        numbers = self.random.permutation(len(cache.manifest.shards))[: int(self.random.integers(1, 4))]
        texts = set()
        for number in numbers.tolist():
            entry = cache.manifest.shards[number].data
            column = entry.columns["hidden/2"]
            row = int(self.random.integers(column.shape[0]))
            runs.flip(out / entry.file, column.offset + row * column.row_bytes, int(self.random.integers(1, 256)))
            tokens = row + int(cache.plan.token_start[cache.plan.shard_start[number]])
            texts.add(int(np.searchsorted(cache.plan.token_start, tokens, side="right")) - 1)
        others = set(range(len(cache.plan))) - texts
        kept = {text: cache.read_texts(2, np.asarray([text])).values.tobytes() for text in others}
        for text in texts:
            try:
                Cache(out).read_texts(2, np.asarray([text]))
                _require(False, f"damaged text {text} was read")
            except FaultError:
                pass
        damages = verify_cache(Cache(out))
        _require({text for item in damages for text in item.texts} == texts, f"{damages} instead of {texts}")
        cache = Cache(out)
        _require(repair_cache(cache, damages, str(self.backbone), "cpu") == len(texts), "forwarded others")
        _require(not verify_cache(Cache(out)), "still damaged after the repair")
        cache = Cache(out)
        for text, states in kept.items():
            _require(cache.read_texts(2, np.asarray([text])).values.tobytes() == states, f"text {text} changed")
        self.counts["damage"] += 1


class Violation(Exception):
    """Something came out that must not."""


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise Violation(what)


def _save_backbone(folder: Path) -> Path:
    from tests.conftest import _save_model, _save_tokenizer

    path = folder / "tiny-bert"
    path.mkdir()
    _save_tokenizer("bert", path)
    _save_model("bert", path)
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = int(time.time()) % 10**6 if options.seed is None else options.seed
    print(f"soak: seed {seed}, {options.minutes:g} minutes", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="glot-soak-"))
    soak, rounds, told = Soak(folder, seed), 0, time.monotonic()
    deadline = time.monotonic() + 60 * options.minutes
    try:
        while time.monotonic() < deadline:
            rounds += 1
            soak.round()
            if time.monotonic() - told > PROGRESS_SECONDS:
                told = time.monotonic()
                print(f"round {rounds}: {_said(soak.counts)}", flush=True)
    except Exception:
        traceback.print_exc()
        print(f"soak: round {rounds} of seed {seed} went wrong; its cache is {folder / 'cache'}", flush=True)
        print(f"again: python -m tests.faults.soak --seed {seed}", flush=True)
        return 1
    soak.zygote.close()
    shutil.rmtree(folder)
    print(f"soak: {rounds} rounds, nothing went wrong: {_said(soak.counts)}", flush=True)
    return 0


def _said(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))


if __name__ == "__main__":
    sys.exit(main())
