"""What the servers of the tests have in common."""

from __future__ import annotations

from werkzeug.serving import WSGIRequestHandler


class Quiet(WSGIRequestHandler):
    """Logs nothing."""

    protocol_version = "HTTP/1.1"

    def log(self, *_: object) -> None:
        """Nothing."""
