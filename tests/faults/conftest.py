"""What the tests of faults share: runs that can be killed, and small caches made once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults import runs
from tests.faults.ray_runs import NODE, RayRuns


@pytest.fixture(scope="session")
def zygote() -> Iterator[runs.Zygote]:
    """Starts extractions and commands in processes of their own, within milliseconds."""
    process = runs.Zygote()
    yield process
    process.close()


@pytest.fixture(scope="session")
def ray_runs(zygote: runs.Zygote) -> Iterator[RayRuns]:
    """Commands on a Ray cluster of two nodes, which lasts as long as any test needs it."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    cluster.add_node(**NODE)
    cluster.wait_for_nodes()
    yield RayRuns(zygote, cluster)
    cluster.shutdown()


@pytest.fixture(scope="session")
def bert(backbone_folders: dict[str, Path]) -> Path:
    """A tiny encoder."""
    return backbone_folders["bert"]


@pytest.fixture(scope="session")
def made_caches(tmp_path_factory: pytest.TempPathFactory, bert: Path) -> Callable[..., Path]:
    """`made(**options of an extraction)`: a finished cache, made once for all tests; read only."""
    made: dict[str, Path] = {}

    def make(**options: object) -> Path:
        key = repr(sorted(options.items()))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("made") / "cache"
            runs.extract(bert, made[key], **options)
        return made[key]

    return make


@pytest.fixture
def copy_of(made_caches: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """`copy(**options)`: such a cache that a test may spoil."""

    def copy(name: str = "cache", **options: object) -> Path:
        return Path(shutil.copytree(made_caches(**options), tmp_path / name))

    return copy
