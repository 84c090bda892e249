"""Extraction by workers of Ray, on a real cluster of two nodes: whatever is killed, the same bytes."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest

from glot.cluster.launch import RayOptions
from glot.cluster.pool import connected
from glot.cluster.ray_map import map_over_ray
from glot.errors import UsageError
from glot.extract.options import ExtractOptions
from glot.extract.ray_run import prepare_over_ray
from glot.extract.source import ModelSource
from glot.store.layout import Manifest
from tests.faults import runs
from tests.faults.ray_runs import RayRuns

pytestmark = pytest.mark.slow


@dataclass
class Extractions:
    """Extractions on a cluster; `unbroken` is what one process leaves."""

    ray: RayRuns
    words: list[object]
    unbroken: Path

    @cached_property
    def files(self) -> dict[str, bytes]:
        """What an unbroken process leaves."""
        return runs.contents(self.unbroken)

    def start(self, out: Path) -> int:
        """Start the command; gives its process id."""
        return self.ray.start(*self.words, "--out", out)

    def wait_for_shards(self, count: int, out: Path, pid: int) -> None:
        """Wait until so many shards are published."""
        self.ray.wait_for(lambda: out.exists() and len(runs.published(out)) >= count, pid)

    def check_unbroken(self, out: Path, before: dict[str, tuple[int, int]]) -> None:
        """Byte for byte what one process leaves, nothing else, and no shard of `before` was made twice."""
        assert runs.differences(out, self.files) == []
        after = runs.published(out)
        assert {name: after[name] for name in before} == before, "a finished shard was made again"


@pytest.fixture(scope="module")
def extractions(ray_runs: RayRuns, bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Extractions:
    folder = tmp_path_factory.mktemp("ray")
    data = runs.write_csv(folder / "train.csv", 5000)
    # A text a forward, and about twenty shards: long enough for something to be killed in between.
    words = ["extract", "--model", bert, "--data", data, "--shard-mb", 1, "--device", "cpu", "--layers", "0,1,2"]
    words += ["--dtype", "float32", "--max-tokens", 32, "--token-budget", 16]
    ray_runs.zygote.finish(ray_runs.zygote.glot(*words, "--out", folder / "unbroken"))
    return Extractions(ray_runs, words, folder / "unbroken")


def test_ten_faults_at_random_moments(extractions: Extractions, tmp_path: Path) -> None:
    """A worker is killed, a node goes and another comes, the command is killed: each after one more shard is made.

    Where much is made while something else starts, what is left of the faults meets another extraction.
    """
    out, random, ray = tmp_path / "0", np.random.default_rng(0), extractions.ray
    faults = random.permutation(["worker"] * 5 + ["node"] * 2 + ["command"] * 3)
    pid, before = extractions.start(out), {}
    for number, fault in enumerate(faults):
        if len(before) > len(runs.published(extractions.unbroken)) - 5:
            ray.finish(pid)
            extractions.check_unbroken(out, before)
            out = tmp_path / f"{number}"
            pid, before = extractions.start(out), {}
        extractions.wait_for_shards(len(before) + 1, out, pid)
        time.sleep(random.uniform(0, 0.3))
        assert ray.zygote.is_running(pid), "the command ended before all was killed"
        if fault == "worker":
            random.choice(ray.wait_for(lambda: ray.workers("ShardMaker"), pid)).kill()
        elif fault == "node":
            ray.replace_node()
        else:
            ray.zygote.kill_after(pid, 0)
            pid = extractions.start(out)
        before = runs.published(out)
    ray.finish(pid)
    extractions.check_unbroken(out, before)


def test_the_command_is_stopped(extractions: Extractions, tmp_path: Path) -> None:
    """By Ctrl-C: what the workers have is kept, and the same command goes on; no text is forwarded twice."""
    out = tmp_path / "out"
    pid = extractions.start(out)
    extractions.wait_for_shards(2, out, pid)
    kept = re.search(r"kept of this run: ([\d,]+) texts", extractions.ray.stop(pid))
    assert kept is not None
    assert [path.name for path in out.glob("*.tmp-*")] == []
    before = runs.published(out)
    forwarded = re.search(r"forwarded ([\d,]+) texts", extractions.ray.finish(extractions.start(out)))
    assert forwarded is not None
    extractions.check_unbroken(out, before)
    both = [int(found[1].replace(",", "")) for found in (kept, forwarded)]
    assert sum(both) == Manifest.load(out).texts


def test_a_shard_that_fails_ends_the_command_with_its_line(extractions: Extractions, tmp_path: Path) -> None:
    """Here the disk refuses one shard, to every worker: a folder has its place."""
    out = tmp_path / "out"
    shutil.copytree(extractions.unbroken, out)
    (out / "shard-00002.h5").unlink()
    (out / "shard-00002.h5").mkdir()
    pid = extractions.start(out)
    zygote = extractions.ray.zygote
    code, printed = zygote.wait(pid), zygote.output(pid)
    assert (code, "Traceback" in printed) == (1, False), printed
    assert printed.splitlines()[-1].startswith("glot: ")
    assert "shard-00002.h5" in printed.splitlines()[-1]


# Planning: texts are tokenized by Ray's processes, where there are many; here few of them are many.


@pytest.fixture
def spread(ray_runs: RayRuns, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayRuns]:
    """This process is a driver of the cluster, and four batches of twenty texts, or more, are spread over it."""
    monkeypatch.setattr("glot.cluster.ray_map.FEW", 4)
    monkeypatch.setattr("glot.extract.planning.HASH_BATCH", 100)
    monkeypatch.setattr("glot.extract.planning.TOKENIZE_BATCH", 20)
    with connected(RayOptions(ray_runs.cluster.address)):
        yield ray_runs


def test_a_plan_over_ray_is_that_of_one_process(spread: RayRuns, bert: Path, tmp_path: Path) -> None:
    """Byte for byte, though every process that tokenizes is killed on the way."""
    runs.extract(bert, tmp_path / "alone", rows=3000, plan_only=True)
    (tmp_path / "out/examples").mkdir(parents=True)
    killed: list[int] = []

    def kill_once(done: int, total: int) -> None:
        if killed or done < total / 4:
            return
        for worker in [*spread.workers("ray::_call"), *spread.workers("ray::IDLE")]:
            worker.kill()
            killed.append(worker.pid)

    options = ExtractOptions(max_tokens=runs.WIDTH, shard_bytes=runs.SHARD_BYTES, device="cpu")
    source = ModelSource(bert.name, str(bert))
    prepare_over_ray(runs.make_corpus(3000), source, tmp_path / "out", options, kill_once, lambda line: None)
    assert killed
    assert runs.differences(tmp_path / "out", runs.contents(tmp_path / "alone")) == []


def test_what_is_wrong_with_an_item_is_told_as_here(spread: RayRuns) -> None:
    """Its error is that of the function itself; what came before is in order, and was not made here."""

    def half(number: int) -> tuple[int, int]:
        if number == 50:
            raise UsageError("50 is too many")
        return number // 2, os.getpid()

    found = map_over_ray(half, iter(range(100)))
    numbers, processes = zip(*[next(found) for _ in range(50)], strict=True)
    assert (list(numbers), os.getpid() in processes) == ([number // 2 for number in range(50)], False)
    with pytest.raises(UsageError, match="50 is too many"):
        next(found)
