"""Workers by Ray on a real cluster of two nodes, through the command line: whatever is killed, the same bytes."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tests.faults import runs
from tests.faults.runs import Zygote

pytestmark = pytest.mark.slow

PATIENCE = 120.0  # seconds until a test gives up
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}


@dataclass
class RayRuns:
    """Command lines on a cluster; `unbroken` is what one process leaves."""

    zygote: Zygote
    cluster: Any
    words: list[object]
    unbroken: Path

    @cached_property
    def files(self) -> dict[str, bytes]:
        """What an unbroken process leaves."""
        return runs.contents(self.unbroken)

    def start(self, out: Path) -> int:
        """Start the command; gives its process id."""
        return self.zygote.glot(*self.words, "--out", out, "--launcher", "ray", "--ray-address", self.cluster.address)

    def finish(self, pid: int) -> None:
        """Wait for a command that must succeed, and must not repeat what Ray says of itself."""
        printed = self.zygote.finish(pid)
        assert not any(line.startswith(("[", "(raylet)")) for line in printed.splitlines()), printed

    def wait_for(self, there: Callable[[], bool], pid: int) -> None:
        """Wait until something is there, or the command has ended."""
        deadline = time.monotonic() + PATIENCE
        while not there() and self.zygote.is_running(pid):
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def wait_for_shards(self, count: int, out: Path, pid: int) -> None:
        """Wait until so many shards are published, or the command has ended."""
        self.wait_for(lambda: out.exists() and len(runs.published(out)) >= count, pid)

    def actors(self) -> list[psutil.Process]:
        """The processes of the workers, at work or loading, of this cluster alone."""
        return [child for child in psutil.Process().children(recursive=True) if "ShardMaker" in child.name()]


@pytest.fixture(scope="module")
def on_ray(zygote: Zygote, bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayRuns]:
    from ray.cluster_utils import Cluster

    folder = tmp_path_factory.mktemp("ray")
    data = runs.write_csv(folder / "train.csv", 3000)
    # A text a forward, and about twelve shards: long enough for something to be killed in between.
    words = ["extract", "--model", bert, "--data", data, "--shard-mb", 1, "--device", "cpu", "--layers", "0,1,2"]
    words += ["--dtype", "float32", "--max-tokens", 32, "--token-budget", 16]
    zygote.finish(zygote.glot(*words, "--out", folder / "unbroken"))
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    yield RayRuns(zygote, cluster, words, folder / "unbroken")
    cluster.shutdown()


def test_workers_and_a_node_die(on_ray: RayRuns, tmp_path: Path) -> None:
    """Two workers are killed and a node is removed, at random moments; another node comes in its place."""
    out, random = tmp_path / "out", np.random.default_rng(0)
    pid, cluster = on_ray.start(out), on_ray.cluster
    for count in (1, 3):
        on_ray.wait_for_shards(count, out, pid)
        time.sleep(random.uniform(0, 0.3))
        on_ray.wait_for(lambda: bool(on_ray.actors()), pid)
        random.choice(on_ray.actors()).kill()
    on_ray.wait_for_shards(6, out, pid)
    before = runs.published(out)
    cluster.remove_node(cluster.list_all_nodes()[1])
    cluster.add_node(**NODE)
    assert len(before) < len(runs.published(out)) or on_ray.zygote.is_running(pid)
    on_ray.finish(pid)
    assert_unbroken(on_ray, out, before)


def test_the_command_is_stopped_and_killed(on_ray: RayRuns, tmp_path: Path) -> None:
    """Once by Ctrl-C, once by force: the same command goes on."""
    out, random = tmp_path / "out", np.random.default_rng(1)
    pid = on_ray.start(out)
    on_ray.wait_for_shards(2, out, pid)
    os.kill(pid, signal.SIGINT)
    code, printed = on_ray.zygote.wait(pid), on_ray.zygote.output(pid)
    assert (code, "kept of this run: " in printed) == (130, True), printed
    assert [path.name for path in out.glob("*.tmp-*")] == []
    pid = on_ray.start(out)
    on_ray.wait_for_shards(6, out, pid)
    assert on_ray.zygote.kill_after(pid, random.uniform(0, 0.3)), "the command ended before it was killed"
    before = runs.published(out)
    on_ray.finish(on_ray.start(out))
    assert_unbroken(on_ray, out, before)


def assert_unbroken(on_ray: RayRuns, out: Path, before: dict[str, tuple[int, int]]) -> None:
    """Byte for byte what one process leaves, nothing else, and no shard of `before` was made twice."""
    assert runs.differences(out, on_ray.files) == []
    after = runs.published(out)
    assert {name: after[name] for name in before} == before, "a finished shard was made again"


def test_a_shard_that_fails_ends_the_command_with_its_line(on_ray: RayRuns, tmp_path: Path) -> None:
    """Here the disk refuses one shard, to every worker: a folder has its place."""
    out = tmp_path / "out"
    shutil.copytree(on_ray.unbroken, out)
    (out / "shard-00002.h5").unlink()
    (out / "shard-00002.h5").mkdir()
    pid = on_ray.start(out)
    code, printed = on_ray.zygote.wait(pid), on_ray.zygote.output(pid)
    assert (code, "Traceback" in printed) == (1, False), printed
    assert printed.splitlines()[-1].startswith("glot: ")
    assert "shard-00002.h5" in printed.splitlines()[-1]
