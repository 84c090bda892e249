"""An emulator of Google's store (gcp-storage-emulator) in a process of its own: python -m tests.gcs_server.

It prints its port, holds all in memory, and has an empty bucket "made".
"""

from __future__ import annotations

from functools import partial
from http.server import HTTPServer

from gcp_storage_emulator.handlers.buckets import create_bucket
from gcp_storage_emulator.server import RequestHandler
from gcp_storage_emulator.storage import Storage

if __name__ == "__main__":
    storage = Storage(use_memory_fs=True)
    create_bucket("made", storage)
    server = HTTPServer(("127.0.0.1", 0), partial(RequestHandler, storage))
    print(server.server_port, flush=True)
    server.serve_forever()
