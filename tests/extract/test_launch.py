"""What speaks against workers by Ray, told in one line before anything slow."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from glot.cluster import launch
from glot.cluster.launch import RayOptions, parse_launcher
from glot.errors import UsageError
from glot.extract.options import ExtractOptions
from glot.store.claims import Claims

HERE = "127.0.0.1"


@pytest.fixture
def words(backbone_folders: dict[str, Path], table: Path) -> list[object]:
    columns = ["--text", "sentence", "--label", "kind"]
    return [
        "extract",
        "--model",
        backbone_folders["bert"],
        "--data",
        table,
        *columns,
        "--out",
        "out",
        "--launcher",
        "ray",
    ]


@pytest.fixture
def answering() -> Iterator[str]:
    """The address of somebody who answers."""
    with socket.create_server((HERE, 0)) as server:
        yield f"{HERE}:{server.getsockname()[1]}"


def test_an_address_where_nobody_answers(glot: Callable, words: list, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path("tmp/ray")
    folder.mkdir(parents=True)
    monkeypatch.setenv("RAY_TMPDIR", "tmp")
    with socket.socket() as taken:  # nobody else can listen there
        taken.bind((HERE, 0))
        address = f"{HERE}:{taken.getsockname()[1]}"
        (folder / "ray_current_cluster").write_text(address)  # of a cluster that was not stopped, but is gone
        for given, variable in ((address, ""), ("auto", address), ("auto", "")):
            monkeypatch.setenv("RAY_ADDRESS", variable)
            code, out, err = glot(*words, "--ray-address", given)
            assert (code, out) == (1, "")
            assert err.startswith(f"glot: no Ray answers at {address} (Connection refused): start it there with")
            assert not Path("out").exists()


def test_ray_is_not_installed(glot: Callable, words: list, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.importlib.util, "find_spec", lambda name: None)
    code, _, err = glot(*words)
    assert (code, err.strip().endswith("pip install 'glot-pipeline[ray]'")) == (2, True), err


@pytest.mark.parametrize("claim", ["plan", "shard-00000"])
def test_another_process_works_on_the_cache(glot: Callable, words: list, answering: str, claim: str) -> None:
    """A command of the same kind, or a worker that shares the folder by claims; Ray is not even asked."""
    assert glot(*words[:-2])[0] == 0
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    with Claims(Path("out")) as claims:
        assert claims.acquire(claim)
        code, _, err = glot(*words, "--ray-address", answering)
        assert (code, "wait until it ends" in err) == (1, True), err
        assert str(claims.owner(claim)) in err
    assert {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()} == before


def test_under_another_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(UsageError, match="run the command alone"):
        parse_launcher("ray", None, None, None)


@pytest.mark.parametrize(
    ("given", "variable", "expected"),
    [
        (None, "", "local"),
        (None, "head:6379", "head:6379"),
        ("auto", "", "auto"),
        ("auto", "head:6379", "head:6379"),
        ("other:6379", "head:6379", "other:6379"),
        ("local", "head:6379", "local"),
    ],
)
def test_where_ray_is(given: str | None, variable: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", variable)
    assert parse_launcher("ray", given, None, None) == RayOptions(expected)


def test_a_backbone_in_memory(make_corpus: Callable, backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    from glot.extract.backbone import load_backbone
    from glot.extract.ray_run import extract_over_ray
    from glot.extract.source import ModelSource

    backbone = load_backbone(ModelSource("bert", str(backbone_folders["bert"])), device="cpu")
    with pytest.raises(UsageError, match="save it, and pass its folder"):
        extract_over_ray(make_corpus(), backbone, tmp_path / "out", ExtractOptions(), RayOptions())


def test_a_worker_that_nobody_asks_ends_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """While it works, and only then: its driver may be gone, or thinks that it is and has its shard made elsewhere."""
    from glot.cluster import actor

    now, ended = [0.0], threading.Event()
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds, sleep=time.sleep: sleep(0.005))
    monkeypatch.setattr(actor, "time", clock)  # one that does not go on while this machine is busy elsewhere
    lease = actor.Lease(30.0, end=lambda code: ended.set())

    def ends_after(seconds: float) -> bool:
        now[0] += seconds
        return ended.wait(0.1)

    lease.begin()
    lease.finish()
    assert not ends_after(100.0)  # it has nothing in hand
    lease.begin()
    assert not ends_after(20.0)
    lease.renew()
    assert not ends_after(20.0)
    now[0] += 20.0
    assert ended.wait(30)
    ended.clear()
    lease.renew()  # too late
    assert ended.is_set()
