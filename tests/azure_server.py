"""What of Azure's Blob Storage adlfs asks for, as Microsoft documents it: python -m tests.azure_server.

No server of it comes as a Python package. It prints its port, holds all in memory, and takes any signature. A container
is there once it was made; one called "denied" is nobody's to read.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from werkzeug.http import http_date
from werkzeug.serving import make_server

from tests.servers import Quiet

Answer = tuple[str, dict[str, str], bytes]
CHANGED = http_date(0)


class Blobs:
    """The application: /account/container/blob."""

    def __init__(self) -> None:
        self.containers: dict[str, dict[str, bytes]] = {}
        self.blocks: dict[tuple[str, str, str], bytes] = {}
        self.lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
        """A request."""
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        _, _, container, *rest = [*environ["PATH_INFO"].split("/", 3), ""][:4]
        query = {name: values[0] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
        with self.lock:
            status, headers, data = self.answer(environ, container, "".join(rest), query, body)
        length = headers.pop("Content-Length", str(len(data)))
        start_response(status, [*headers.items(), ("Content-Length", length), ("x-ms-version", "2024-11-04")])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else data]

    def answer(self, environ: dict[str, Any], container: str, blob: str, query: dict[str, str], body: bytes) -> Answer:
        """What a request is answered."""
        method, blobs = environ["REQUEST_METHOD"], self.containers.get(container)
        if container == "denied":
            return refusal("403 Forbidden", "AuthorizationFailure")
        if query.get("restype") == "container":
            if method == "PUT":
                self.containers.setdefault(container, {})
                return "201 Created", about(b""), b""
            if blobs is None:
                return refusal("404 Not Found", "ContainerNotFound")
            if query.get("comp") == "list":
                return "200 OK", {"Content-Type": "application/xml"}, listing(container, blobs, query)
            return "200 OK", about(b""), b""
        if blobs is None:
            return refusal("404 Not Found", "ContainerNotFound")
        if method == "PUT":
            return self.put(environ, container, blob, query, body)
        if blob not in blobs:
            return refusal("404 Not Found", "BlobNotFound")
        if method == "DELETE":
            del blobs[blob]
            return "202 Accepted", {}, b""
        return content(environ, blobs[blob])

    def put(self, environ: dict[str, Any], container: str, blob: str, query: dict[str, str], body: bytes) -> Answer:
        """Put Blob, Put Block and Put Block List."""
        blobs = self.containers[container]
        if query.get("comp") == "block":
            self.blocks[container, blob, query["blockid"]] = body
            return "201 Created", {}, b""
        if environ.get("HTTP_IF_NONE_MATCH") == "*" and blob in blobs:
            return refusal("409 Conflict", "BlobAlreadyExists")
        if query.get("comp") == "blocklist":
            numbers = [block.text or "" for block in ElementTree.fromstring(body)]
            body = b"".join(self.blocks.pop((container, blob, number)) for number in numbers)
        blobs[blob] = body
        return "201 Created", about(body), b""


def about(data: bytes) -> dict[str, str]:
    """The headers about some bytes."""
    return {"ETag": f'"{hashlib.md5(data).hexdigest()}"', "Last-Modified": CHANGED}


def content(environ: dict[str, Any], data: bytes) -> Answer:
    """A blob, or the range of it that is asked for."""
    headers = about(data) | {"x-ms-blob-type": "BlockBlob", "Content-Type": "application/octet-stream"}
    if environ["REQUEST_METHOD"] == "HEAD":
        return "200 OK", headers | {"Content-Length": str(len(data))}, b""
    asked = environ.get("HTTP_X_MS_RANGE") or environ.get("HTTP_RANGE")
    if not asked:
        return "200 OK", headers, data
    start, _, end = asked.removeprefix("bytes=").partition("-")
    if int(start) >= len(data):
        return refusal("416 Range Not Satisfiable", "InvalidRange")
    part = data[int(start) : int(end) + 1 if end else len(data)]
    span = f"bytes {start}-{int(start) + len(part) - 1}/{len(data)}"
    return "206 Partial Content", headers | {"Content-Range": span}, part


def listing(container: str, blobs: dict[str, bytes], query: dict[str, str]) -> bytes:
    """The blobs whose names begin with a prefix; below a delimiter, where one is given, their common beginnings."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
    found: dict[str, str] = {}
    for name, data in sorted(blobs.items()):
        if not name.startswith(prefix):
            continue
        head, mark, _ = name[len(prefix) :].partition(delimiter) if delimiter else (name, "", "")
        if mark:
            found[prefix + head + mark] = f"<BlobPrefix><Name>{escape(prefix + head + mark)}</Name></BlobPrefix>"
        else:
            facts = f"<Last-Modified>{CHANGED}</Last-Modified><Etag>{about(data)['ETag']}</Etag>"
            facts += f"<Content-Length>{len(data)}</Content-Length><BlobType>BlockBlob</BlobType>"
            found[name] = f"<Blob><Name>{escape(name)}</Name><Properties>{facts}</Properties></Blob>"
    rows = "".join(found.values())
    head = f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="{container}">'
    return f"{head}<Blobs>{rows}</Blobs><NextMarker /></EnumerationResults>".encode()


def refusal(status: str, code: str) -> Answer:
    """An error as Azure words it."""
    body = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{code}</Message></Error>'
    return status, {"x-ms-error-code": code, "Content-Type": "application/xml"}, body.encode()


if __name__ == "__main__":
    server = make_server("127.0.0.1", 0, Blobs(), threaded=True, request_handler=Quiet)
    print(server.server_port, flush=True)
    server.serve_forever()
