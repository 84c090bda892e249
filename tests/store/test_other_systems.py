"""The store on a system that lacks what Linux has: the calls are taken away before the package is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from glot.process import available_memory
from glot.store.reader import Cache

ROOT = Path(__file__).parents[2]
# What Windows lacks, macOS some of it: positions in files, advice, room kept, processors; folders cannot be opened.
POOR = """
import builtins, io, json, os, sys
for name in ("pread", "preadv", "pwrite", "pwritev", "posix_fadvise", "posix_fallocate", "sched_getaffinity",
             "RWF_NOWAIT", "O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY"):
    if hasattr(os, name):
        delattr(os, name)
del os.POSIX_FADV_WILLNEED

def without_linux(call):
    def refuse(path, *more, **options):
        if str(path).startswith("/proc") and str(path) != "/proc/self/maps":  # of threadpoolctl's, on Linux alone
            raise FileNotFoundError(2, "no such file", str(path))
        if call is system_open and os.path.isdir(path):
            raise PermissionError(13, "permission denied", str(path))
        return call(path, *more, **options)
    return refuse

def no_signal(pid, number):
    raise AssertionError("signal 0 is Ctrl-C on Windows")

system_open = os.open
os.open, os.kill = without_linux(os.open), no_signal
io.open = builtins.open = without_linux(builtins.open)
"""
WORK = """
from pathlib import Path
import numpy as np
from glot.store import claims
from glot.store.combine import copy_cache, subset_cache
from glot.store.files import check_access, save_array, write_json
from glot.store.reader import Cache
from glot.corpus.spool import Spool

claims.MAY_ASK = False
check_access(Path("cache"))
copy_cache(Path("cache"), Path("copy"), verify=True)
subset_cache(Path("copy"), Path("part"), layers=(3,))  # written anew, column by column
out = {}
for name, layer in (("copy", 1), ("part", 3)):
    cache = Cache(Path(name))
    out[name] = cache.read_texts(layer, np.arange(len(cache.plan))).values.tolist()
write_json(Path("made.json"), {"a": 1})
save_array(Path("made.npy"), np.arange(3))
spool = Spool(in_memory=4)
ends = [spool.append(bytes([65 + number]) * 5) for number in range(4)]
out["spool"] = [spool.read(end - 5, end).decode() for end in ends]
with claims.Claims(Path("."), stale=1e6) as mine, claims.Claims(Path("."), stale=1e6) as theirs:
    out["claims"] = [mine.acquire("shard"), theirs.acquire("shard")]
    mine.release("shard")
    out["claims"].append(theirs.acquire("shard"))
json.dump(out, sys.stdout)
"""


def test_caches_and_claims_without_what_linux_has(make_cache: Callable[..., object], tmp_path: Path) -> None:
    made = make_cache("cache")
    done = subprocess.run(
        [sys.executable, "-c", POOR + WORK],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "pipeline")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, layer in (("copy", 1), ("part", 3)):
        kept = list(range(7)) if name == "copy" else [2, 0]
        expected = made.naive(layer, kept)
        np.testing.assert_array_equal(np.asarray(found[name], dtype=np.float16), expected)
        np.testing.assert_array_equal(Cache(tmp_path / name).read_texts(layer, np.arange(len(kept))).values, expected)
    assert found["spool"] == ["AAAAA", "BBBBB", "CCCCC", "DDDDD"]
    assert found["claims"] == [True, False, True]
    assert json.loads((tmp_path / "made.json").read_text()) == {"a": 1}
    assert np.load(tmp_path / "made.npy").tolist() == [0, 1, 2]
    assert not list(tmp_path.rglob("*.tmp-*"))


def test_free_memory_where_there_is_no_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    def no_proc(path: object, *more: object) -> object:
        raise FileNotFoundError(2, "no such file", str(path))

    monkeypatch.setattr("builtins.open", no_proc)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=123))
    assert available_memory() == 123
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert available_memory() == 4 * 2**30
