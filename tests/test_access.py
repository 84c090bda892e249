"""Files that we write follow the umask; a file that one may not read says so, and is never taken for damaged."""

from __future__ import annotations

import ctypes
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from glot.errors import AccessError
from glot.store.files import atomic_folder, atomic_path, write_text
from tests.faults import runs
from tests.work import make_work

Glot = Callable[..., tuple[int, str, str]]
BEYOND_PERMISSIONS = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: what lets root read any file


def _without_privilege() -> bool:
    """Let permissions bind this thread for a while where root runs the tests; False where that is not possible."""
    if os.geteuid() != 0:
        return True
    if not sys.platform.startswith("linux"):
        return False
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # version 3; effective, permitted, ...
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.capget(header, data) == 0
    data[0] &= ~BEYOND_PERMISSIONS
    return libc.capset(header, data) == 0


def _with_privilege() -> None:
    if os.geteuid() == 0:
        header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.capget(header, data) == 0
        data[0] = data[1]
        assert libc.capset(header, data) == 0


@contextmanager
def without_permission(path: Path) -> Iterator[None]:
    """Take all permissions from a file or folder, and from root the right to pass over them."""
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(0)
    try:
        if not _without_privilege():
            pytest.skip("root runs these tests, and this system cannot bind root by permissions: run them as a user")
        yield
    finally:
        _with_privilege()
        path.chmod(mode)


@pytest.fixture(scope="module")
def work(backbone_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a cache, a run and a table."""
    return make_work(tmp_path_factory.mktemp("work"), backbone_folders["bert"])


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file's inode and time of last change."""
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


EXTRACT = ["extract", "--model", "model", "--data", "data.csv", "--max-tokens", runs.WIDTH, "--shard-mb", 1]


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("cache/manifest.json", ["inspect", "cache"]),
        ("cache/manifest.json", [*EXTRACT, "--out", "cache"]),
        ("cache/plan.h5", ["inspect", "cache"]),
        ("cache/plan.h5", [*EXTRACT, "--out", "cache"]),
        ("cache/shard-00001.h5", ["inspect", "cache", "--verify"]),
        ("cache/shard-00001.h5", ["inspect", "cache", "--repair"]),
        ("cache/shard-00001.h5", ["fit", "--cache", "cache", "--epochs", 1, "--out", "new"]),
        ("cache/examples/train.h5", ["inspect", "cache", "--verify"]),
        ("cache", ["inspect", "cache"]),
        ("run/config.json", ["evaluate", "--run", "run", "--cache", "cache"]),
        ("run/head.safetensors", ["evaluate", "--run", "run", "--cache", "cache"]),
        ("run/metrics.json", ["report", "run", "--out", "new"]),
        ("run", ["evaluate", "--run", "run", "--cache", "cache"]),
        ("model/model.safetensors", [*EXTRACT, "--out", "new"]),
        ("model/tokenizer.json", [*EXTRACT, "--out", "new"]),
        ("model", [*EXTRACT, "--out", "new"]),
        ("data.csv", [*EXTRACT, "--out", "new"]),
        ("texts.txt", ["encode", "--run", "run", "--input", "texts.txt", "--output", "new.npy"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_what_one_may_not_read_says_so_and_stays(
    path: str, command: list, work: Path, glot: Glot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(work)
    shutil.rmtree(work / "new", ignore_errors=True)
    before = contents(work)
    with without_permission(work / path):
        code, _, err = glot(*command)
    assert (code, len(err.splitlines())) == (1, 1), err
    assert "ermission denied" in err
    assert path in err
    assert "is damaged" not in err
    assert before.items() <= contents(work).items()


def test_where_one_may_not_write_says_so(work: Path) -> None:
    (work / "closed").mkdir()
    with without_permission(work / "closed"), pytest.raises(AccessError, match=r"closed/file: .*ask its owner"):
        write_text(work / "closed" / "file", "x")


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002, 0o077], ids=oct)
def test_a_new_file_follows_the_umask_whatever_writes_it(umask: int, tmp_path: Path) -> None:
    old = os.umask(umask)
    try:
        with atomic_path(tmp_path / "head.safetensors") as temporary:
            save_file({"a": np.zeros(3)}, temporary)
        with atomic_folder(tmp_path / "model") as folder:
            (folder / "part").mkdir()
            save_file({"a": np.zeros(3)}, folder / "part/model.safetensors")
    finally:
        os.umask(old)
    made = [tmp_path / "head.safetensors", tmp_path / "model/part/model.safetensors"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in made] == 2 * [0o666 & ~umask]
    assert stat.S_IMODE((tmp_path / "model/part").stat().st_mode) == 0o777 & ~umask


def test_another_user_may_read_whatever_a_run_and_a_cache_hold(work: Path) -> None:
    files = [path for name in ("cache", "run") for path in (work / name).rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" for path in files)
    umask = os.umask(0)
    os.umask(umask)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in files} == {
        path.name: 0o666 & ~umask for path in files
    }
