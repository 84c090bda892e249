"""What a server is asked to be, and what speaks against it: told before torch is loaded."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from glot.errors import UsageError
from glot.fit.run_folder import is_ensemble
from glot.inference.run_checks import check_new_labels, check_new_texts

PACKAGES = ("fastapi", "uvicorn")


@dataclass(frozen=True)
class Limits:
    """What a server takes at most.

    Attributes:
        texts: of a request (or pairs). characters: of a text.
        waiting: texts of all requests together that may wait for their turn.
    """

    texts: int = 256
    characters: int = 10_000
    waiting: int = 4096

    def __post_init__(self) -> None:
        if self.waiting < self.texts:
            raise UsageError(
                f"--max-waiting {self.waiting} is less than --max-texts {self.texts}: a full request could never wait"
            )

    @property
    def body_bytes(self) -> int:
        """Bytes of a request's body: two texts a row, each character written as JSON's longest, \\uXXXX, and more."""
        return 2 * self.texts * (6 * self.characters + 8) + 1024


def check_packages() -> None:
    """Raise UsageError where a package of the extra is missing."""
    for name in PACKAGES:
        if find_spec(name) is None:
            raise UsageError(f"glot serve needs {name}: pip install 'glot-pipeline[serve]'")


def check_served(run: Path, model: str | None = None) -> Path:
    """The folder of a run or an ensemble; raises UsageError where it or its backbone (or `model`) is not there."""
    return (check_new_labels if is_ensemble(run) else check_new_texts)(run, model).folder


def take_address(host: str, port: int) -> socket.socket:
    """A socket that has the address and does not listen yet; port 0 is any free one.

    Raises UsageError where there is no such host here, or the port is taken or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:  # UnicodeError: what is no name at all
        raise UsageError(f"--host {host}: {getattr(error, 'strerror', None) or error}; pass 127.0.0.1") from None
    taken = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # the port of a server that ended just now; on Windows it would take a live one's
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        taken.close()
        raise _cannot_listen(host, port, error) from None
    return taken


def listen(taken: socket.socket) -> None:
    """Listen at a socket that has an address; raises UsageError where another program does so meanwhile."""
    try:
        taken.listen()
    except OSError as error:  # until somebody listens, several sockets may have one address
        host, port = taken.getsockname()[:2]
        raise _cannot_listen(host, port, error) from None


def _cannot_listen(host: str, port: int, error: OSError) -> UsageError:
    return UsageError(
        f"cannot listen on {host} port {port}: {error.strerror}; pass another with --port, 0 for any free one"
    )


def address_of(taken: socket.socket) -> str:
    """The URL of a socket that has an address."""
    host, port = taken.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
