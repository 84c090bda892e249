"""An S3 server on this machine, for tests of caches at URLs."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


class S3Server:
    """The client of `tests/s3_server.py`."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.s3_server"], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        assert self.process.stdout is not None
        self.address = f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    def misbehave(self, **faults: Any) -> list[str]:
        """Spoil answers from now on; gives the requests since the last call."""
        request = urllib.request.Request(f"{self.address}/faults", json.dumps(faults).encode(), method="POST")
        with urllib.request.urlopen(request) as answer:
            return json.loads(answer.read())

    def kill(self) -> None:
        """End the server as a machine ends that loses its power."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    pytest.importorskip("moto", reason="moto is not installed")
    server = S3Server()
    yield server
    server.kill()


@pytest.fixture
def remote_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """`use(address)`: s3:// is the server there, with a block cache of its own, and few tries of a request."""
    from glot.store.places import file_system

    def use(address: str) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        file_system.cache_clear()

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "made")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
    monkeypatch.setenv("AWS_RETRY_MODE", "standard")
    monkeypatch.setenv("GLOT_CACHE_DIR", str(tmp_path / "blocks"))
    file_system.cache_clear()
    yield use
    file_system.cache_clear()


@pytest.fixture
def s3(s3_server: S3Server, remote_settings: Callable[[str], None]) -> Iterator[S3Server]:
    """The server, with an empty bucket "made"."""
    from glot.store.places import file_system

    s3_server.misbehave()
    remote_settings(s3_server.address)
    urllib.request.urlopen(f"{s3_server.address}/moto-api/reset", b"").close()
    file_system("s3").mkdir("made")
    s3_server.misbehave()
    yield s3_server
    s3_server.misbehave()


@pytest.fixture
def no_clients(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """gs:// and az:// on a machine that has neither gcsfs nor adlfs."""
    from fsspec.registry import _registry

    from glot.store.places import file_system

    for scheme, module in (("gs", "gcsfs"), ("az", "adlfs")):
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.delitem(_registry, scheme, raising=False)
    file_system.cache_clear()
    yield
    file_system.cache_clear()


def upload(folder: Path, url: str) -> None:
    """Copy the files of a folder to a URL, as any other program would."""
    from glot.store.places import file_system

    system = file_system(url.partition(":")[0])
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            system.pipe_file(f"{url}/{path.relative_to(folder).as_posix()}", path.read_bytes())
