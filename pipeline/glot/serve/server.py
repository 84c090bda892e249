"""A run's server: loads it, listens, and ends well."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn

from glot.process import stop_flag
from glot.serve.app import make_app
from glot.serve.options import Limits, listen
from glot.serve.service import Service

LEAVE_SECONDS = 30  # for requests in hand, when the server is asked to stop; about what container managers wait


def make_server(service: Service, limits: Limits, ready: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """A server of uvicorn's, whose `run` takes the socket; `ready` is called when it answers."""
    config = uvicorn.Config(
        make_app(service, limits, ready),
        log_config=None,  # the program's own: warnings on standard error, with --verbose all
        access_log=False,
        timeout_graceful_shutdown=LEAVE_SECONDS,
    )
    config.load()
    return uvicorn.Server(config)


def serve_until_stopped(service: Service, limits: Limits, taken: socket.socket, ready: Callable[[], None]) -> None:
    """Answer at an address until SIGTERM or Ctrl-C, then what is in hand; a second Ctrl-C leaves at once.

    Raises UsageError where another program listens there meanwhile.
    """
    server = make_server(service, limits, ready)
    listen(taken)
    with stop_flag():  # uvicorn raises the signals that it took once more when it is done
        server.run(sockets=[taken])
