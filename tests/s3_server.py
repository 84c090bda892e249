"""A real S3 server (moto's) in a process of its own, which can be told to misbehave: python -m tests.s3_server.

It prints its port. `POST /faults` takes JSON, which holds until the next one: `busy`, how many of the requests from now
on are answered 503; `every`, 3 where every third one is; `slow`, seconds before each answer; `part`, of which objects
(a part of their path); `method`, PUT where it is those alone; `cut`, whether answers lack their second half; `denied`,
whether all is refused; `unlisted`, whether listings are those of a bucket before anything was put there.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from tests.servers import Quiet

UNLISTED = (
    b"<ListBucketResult><Name>made</Name><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>"
)
BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


class Faulty:
    """moto's application behind what spoils its answers."""

    def __init__(self) -> None:
        self.moto = DomainDispatcherApplication(create_backend_app)
        self.faults: dict[str, Any] = {}
        self.seen: list[str] = []
        self.lock = threading.Lock()

    def __call__(self, environ: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
        """A request."""
        path = environ["PATH_INFO"]
        if path == "/faults":
            size = int(environ.get("CONTENT_LENGTH") or 0)
            with self.lock:
                answer = json.dumps(self.seen).encode()
                self.faults, self.seen = json.loads(environ["wsgi.input"].read(size)), []
            start_response("200 OK", [("Content-Length", str(len(answer)))])
            return [answer]
        with self.lock:
            self.seen.append(f"{environ['REQUEST_METHOD']} {path} {environ.get('HTTP_RANGE', '')}".strip())
            faults = self.faults if self.faults.get("part", "") in path else {}
            faults = faults if faults.get("method") in (None, environ["REQUEST_METHOD"]) else {}
            is_busy = faults.get("busy", 0) > 0 or ("every" in faults and len(self.seen) % faults["every"] == 0)
            if faults.get("busy", 0) > 0:
                faults["busy"] -= 1
        time.sleep(faults.get("slow", 0))
        if is_busy or faults.get("denied"):
            return _refuse(environ, start_response, *(("503 Slow Down", BUSY) if is_busy else ("403 No", DENIED)))
        if faults.get("unlisted") and "list-type" in environ["QUERY_STRING"]:
            start_response("200 OK", [("Content-Type", "application/xml"), ("Content-Length", str(len(UNLISTED)))])
            return [UNLISTED]
        if not faults.get("cut") or environ["REQUEST_METHOD"] != "GET":
            return self.moto(environ, start_response)
        return self._cut(environ, start_response)

    def _cut(self, environ: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
        """The answer without its second half: a store that has lost it, and does not know."""
        told: list[Any] = []
        body = b"".join(self.moto(environ, lambda *words: told.extend(words)))
        body = body[: len(body) // 2]
        headers = [(name, value) for name, value in told[1] if name.lower() != "content-length"]
        headers = [(name, value) for name, value in headers if not name.lower().startswith("x-amz-checksum")]
        start_response(told[0], [*headers, ("Content-Length", str(len(body)))])
        return [body]


def _refuse(environ: dict[str, Any], start_response: Callable, status: str, body: bytes) -> Iterable[bytes]:
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    body = b"" if environ["REQUEST_METHOD"] == "HEAD" else body
    start_response(status, [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
    return [body]


if __name__ == "__main__":
    server = make_server("127.0.0.1", 0, Faulty(), threaded=True, request_handler=Quiet)
    print(server.server_port, flush=True)
    server.serve_forever()
