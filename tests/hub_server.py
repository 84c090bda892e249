"""A Hub on this machine that the real client of huggingface_hub talks to over HTTP: repositories are folders.

It answers what that client asks for to read files, by ranges too, and to commit them; all that it was asked for is in
`seen`. `busy`: how many of the next requests for a range of a file are answered 503, which that client tries again.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

TOKEN = "hf_made"  # may write


class HubServer:
    """The Hub; `folder` holds its repositories, of models and data sets alike, as user/name."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.seen, self.busy, self.commits = folder, list[str](), 0, 0

        class Handler(_Handler):
            hub = self

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def commit(self) -> str:
        """The name of the last commit."""
        return f"{self.commits:040x}"

    def close(self) -> None:
        """End it."""
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        self._answer(b"")

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def _answer(self, body: bytes) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.seen.append(f"{self.command} {path} {self.headers.get('Range', '')}".strip())
        if self.hub.busy and self.headers.get("Range"):
            self.hub.busy -= 1
            self._send(503, b"{}")
            return
        words = path.strip("/").split("/")
        is_owner = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        if not is_owner and (self.command == "POST" or words[:2] == ["api", "whoami-v2"]):
            self._send(401, b"{}")
        elif words[:2] == ["api", "whoami-v2"]:
            self._json({"name": "somebody", "type": "user"})
        elif words[:3] == ["api", "repos", "create"]:
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'somebody'}/{asked['name']}"
            (self.hub.folder / name).mkdir(parents=True, exist_ok=True)
            self._json({"url": f"{self.hub.address}/{'datasets/' * (asked.get('type') == 'dataset')}{name}"})
        elif words[:2] == ["api", "validate-yaml"]:
            self._json({"errors": [], "warnings": []})
        elif words[:2] in (["api", "datasets"], ["api", "models"]):
            self._repository("/".join(words[2:4]), words[4:], body)
        elif "resolve" in words:
            user, name, _, _, *file = words[words[0] == "datasets" :]
            self._file(self.hub.folder / user / name / "/".join(file))
        else:
            self._send(404, b"{}")

    def _repository(self, name: str, asked: list[str], body: bytes) -> None:
        root = self.hub.folder / name
        if not root.is_dir():
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif not asked or asked[0] == "revision":
            files = [{"rfilename": entry["path"]} for entry in _entries(root, root, "**/*") if entry["type"] == "file"]
            self._json({"id": name, "sha": self.hub.commit, "private": True, "tags": [], "siblings": files})
        elif asked[0] == "tree":
            query = parse_qs(urlsplit(self.path).query)
            everything = query.get("recursive", ["false"])[0].lower() == "true"
            self._json(_entries(root, root / "/".join(asked[2:]), "**/*" if everything else "*"))
        elif asked[0] == "paths-info":
            paths = [root / path for path in parse_qs(body.decode())["paths"]]
            self._json([_entry(root, path) for path in paths if path.exists()])
        elif asked[0] == "preupload":
            files = json.loads(body)["files"]
            modes = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in files]
            self._json({"files": modes})
        elif asked[0] == "commit":
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    target = root / entry["value"]["path"]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(base64.b64decode(entry["value"]["content"]))
            self.hub.commits += 1
            self._json(
                {
                    "success": True,
                    "commitOid": self.hub.commit,
                    "commitUrl": f"{self.hub.address}/{name}/commit/made",
                }
            )
        else:
            self._send(404, b"{}")

    def _file(self, path: Path) -> None:
        if not path.is_file():
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data = path.read_bytes()
        about = {
            "X-Repo-Commit": self.hub.commit,
            "ETag": f'"{hashlib.sha1(data).hexdigest()}"',
            "Accept-Ranges": "bytes",
        }
        asked = self.headers.get("Range")
        if asked is None:
            self._send(200, data, about)
            return
        first, _, last = asked.removeprefix("bytes=").partition("-")
        start, stop = int(first), min(int(last or len(data)) + 1, len(data))
        about["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
        self._send(206 if start < stop else 416, data[start:stop], about)

    def _json(self, values: Any) -> None:
        self._send(200, json.dumps(values).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _entries(root: Path, folder: Path, pattern: str) -> list[dict[str, Any]]:
    return [_entry(root, path) for path in sorted(folder.glob(pattern))]


def _entry(root: Path, path: Path) -> dict[str, Any]:
    """What the Hub says of a file or folder of a repository."""
    about = {"path": path.relative_to(root).as_posix(), "oid": "0" * 40}
    if path.is_dir():
        return {**about, "type": "directory"}
    return {**about, "type": "file", "size": path.stat().st_size}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A Hub without repositories, which is the one that huggingface_hub knows, with a token that may write there."""
    from huggingface_hub import constants

    from glot.store.places import file_system

    (tmp_path / "hub").mkdir()
    server = HubServer(tmp_path / "hub")
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "downloaded"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("GLOT_CACHE_DIR", str(tmp_path / "blocks"))
    file_system.cache_clear()
    yield server
    server.close()
    file_system.cache_clear()


def files_of(folder: Path) -> dict[str, bytes]:
    """What lies in a folder, a repository perhaps, by path."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
