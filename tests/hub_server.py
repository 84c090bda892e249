"""A small Hub on this machine, which the real client of the Hub talks to over HTTP: models, no more than we use."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import pytest

TOKEN = "hf_of_a_test"
COMMIT = "0" * 40


class Hub(ThreadingHTTPServer):
    """Keeps what is committed; `files` is repository -> path -> bytes."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, dict[str, bytes]] = {}
        self.address = f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    """One request."""

    server: Hub

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if path == "/api/whoami-v2":
            return self._say({"type": "user", "name": "somebody"}, 200 if self._may_write() else 401)
        if found := re.fullmatch(r"/api/models/(\w+/\w+)(/revision/\w+)?", path):
            files = self.server.files.get(found[1])
            if files is None:
                return self._say({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})
            return self._say({"id": found[1], "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]})
        if found := re.fullmatch(r"/api/models/(\w+/\w+)/tree/\w+", path):
            files = self.server.files[found[1]]
            return self._say([{"type": "file", "path": n, "size": len(c), "oid": COMMIT} for n, c in files.items()])
        found = re.fullmatch(r"/(\w+/\w+)/resolve/\w+/(.+)", path)
        content = self.server.files.get(found[1], {}).get(found[2]) if found else None
        if content is None:
            return self._say({"error": "not found"}, 404, {"X-Error-Code": "EntryNotFound"})
        return self._send(content, 200, {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X-Repo-Commit": COMMIT})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not self._may_write():
            return self._say({"error": "a token is needed"}, 401)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, [asked.get("organization") or "somebody", asked["name"]]))
            self.server.files.setdefault(name, {})
            return self._say({"url": f"{self.server.address}/{name}"})
        if self.path == "/api/validate-yaml":
            return self._say({"errors": [], "warnings": []})
        found = re.match(r"/api/models/(\w+/\w+)/(preupload|commit)/main", self.path)
        assert found, self.path
        if found[2] == "preupload":
            names = [one["path"] for one in json.loads(body)["files"]]
            return self._say({"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]})
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.server.files[found[1]][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        address = f"{self.server.address}/{found[1]}/commit/{COMMIT}"
        return self._say({"success": True, "commitOid": COMMIT, "commitUrl": address})

    def _may_write(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _say(self, found: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(found).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *what: object) -> None:
        """Be quiet."""


@contextmanager
def hub_of_a_test(monkeypatch: pytest.MonkeyPatch, cache: str) -> Iterator[Hub]:
    """A Hub that the client of this process asks, with a token that may write; `cache` keeps what it downloads."""
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    values = {"ENDPOINT": server.address, "HF_HUB_OFFLINE": False, "HF_HUB_CACHE": cache}
    values["HUGGINGFACE_CO_URL_TEMPLATE"] = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in values.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
