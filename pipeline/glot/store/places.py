"""Where a cache lies: a folder, or a URL that fsspec has a file system for."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from glot.errors import AccessError, FaultError, GlotError, UsageError
from glot.store.files import MAX_TEXT, URL, one_line, parse_json, read_json

# Scheme -> what must be installed for it; the extra `remote` brings that of s3.
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs", "abfs": "adlfs", "hf": "huggingface_hub", "memory": "fsspec"}
TRY_AGAIN = ("s3", "gs", "az", "abfs")  # their clients try again by themselves, for half a minute or more
ATTEMPTS = 5  # of botocore for a request: with pauses that grow, for what is throttled (503) or not connected
TIMEOUTS = {"connect_timeout": 10, "read_timeout": 60}  # seconds
# The names of the clients' errors, for their modules are not imported before they are used.
NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "GatedRepoError"}
NO_CREDENTIALS |= {"RepositoryNotFoundError", "LocalTokenNotFoundError", "DefaultCredentialsError"}
NO_CREDENTIALS |= {"ClientAuthenticationError", "AzureSigningError"}  # of adlfs
NO_CONNECTION = {"EndpointConnectionError", "ConnectTimeoutError", "ConnectError", "ConnectTimeout"}
NO_CONNECTION |= {"ClientConnectorError", "ClientConnectorDNSError", "ServiceRequestError"}  # of gcsfs, of adlfs
NO_NAME = {"ParamValidationError", "HFValidationError", "InvalidBucketName"}


@dataclass(frozen=True)
class RemoteFolder:
    """A folder, or an object in it, at a URL.

    Attributes:
        url: without a slash at its end.
        is_fresh: whether what is read comes from there, whatever the local block cache holds.
    """

    url: str
    is_fresh: bool = False

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> RemoteFolder:
        return replace(self, url=f"{self.url}/{name}")

    @property
    def scheme(self) -> str:
        """s3, gs, ..."""
        return self.url.partition(":")[0]

    def fresh(self) -> RemoteFolder:
        """The same place, read past the local block cache."""
        return replace(self, is_fresh=True)

    def size(self) -> int | None:
        """Bytes of this object; None where there is none. Raises one line, see `told`."""
        with told(self.url):
            try:
                found = self._system.info(self._path)
            except FileNotFoundError:
                return None
            return int(found["size"]) if found.get("type") == "file" else None

    def read(self, start: int, stop: int) -> bytes:
        """The bytes [start, stop) of this object, or as many as there are. Raises one line, see `told`."""
        # Unless the file is said to end there, the Hub's client fetches what follows, too.
        options = {"size": stop} if self.scheme == "hf" else {}
        with told(self.url):
            return bytes(self._system.cat_file(self._path, start=start, end=stop, **options)) if start < stop else b""

    def read_json(self) -> Any:
        """The JSON of this object; raises UsageError where it is missing, FaultError where it is none.

        It is as it is there now, and so is what is read of that folder next: the Hub's client keeps what it has seen.
        """
        with told(self.url):
            self._system.invalidate_cache()
            if self._system.info(self._path)["size"] > MAX_TEXT:
                raise OSError(errno.EFBIG, "it is too large")
            data = bytes(self._system.cat_file(self._path))
        return parse_json(self.url, data)

    def put(self, path: Path) -> None:
        """Send a local file to be this object; raises FileExistsError where the store sees that one is there."""
        with told(self.url, "write"):
            self._system.put_file(str(path), self._path, mode="create")

    def put_bytes(self, data: bytes) -> None:
        """Make this object of some bytes; raises FileExistsError where the store sees that one is there."""
        with told(self.url, "write"):
            self._system.pipe_file(self._path, data, mode="create")

    def remove(self) -> None:
        """Remove this object."""
        with told(self.url, "remove"):
            self._system.rm_file(self._path)

    @property
    def _system(self) -> Any:
        return file_system(self.scheme)

    @property
    def _path(self) -> str:
        return str(self._system._strip_protocol(self.url))


Place = Path | RemoteFolder


def place_of(given: str | Path | RemoteFolder) -> Place:
    """A folder or a URL, as somebody names it; raises UsageError for a URL that cannot be one of a cache.

    A Path of a URL is one too, though Path makes one slash of two.
    """
    if isinstance(given, RemoteFolder):
        return given
    match = URL.fullmatch(str(given))
    if match is None:
        return Path(given)
    scheme, rest = match.groups()
    if scheme == "file":
        return Path(f"/{rest}")
    if scheme not in PACKAGES:
        known = ", ".join(f"{name}://" for name in ("file", *PACKAGES))
        raise UsageError(f"{scheme}:// is none of the places where a cache may lie ({known})")
    url = f"{scheme}://{rest.rstrip('/')}"
    if not rest or "::" in rest or any(part in (".", "..") for part in rest.split("/")):
        raise UsageError(f"{given} names no place: write it as in {scheme}://bucket/folder")
    file_system(scheme)
    return RemoteFolder(url)


def is_there(given: str | Path) -> bool:
    """Whether a place that was noted down may still be opened: of a URL only opening it tells."""
    return URL.fullmatch(str(given)) is not None or Path(given).exists()


def load_json(place: Place) -> Any:
    """Read a JSON file or object; raises UsageError where it is missing, FaultError where it is damaged."""
    return place.read_json() if isinstance(place, RemoteFolder) else read_json(place)


@cache
def file_system(scheme: str) -> Any:
    """The file system of a scheme, by fsspec; raises UsageError where what it needs is not installed."""
    package = PACKAGES[scheme]
    extra = "'glot-pipeline[remote]'" if package in ("s3fs", "fsspec") else package
    needs = UsageError(f"{scheme}:// needs {package}, which is not installed: pip install {extra}")
    try:
        import fsspec
    except ImportError:
        raise needs from None
    # What others write is seen at once; the instance is kept here, and not by fsspec, which does not look at the
    # environment that settings such as the endpoint come from.
    options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
    if scheme == "s3":
        options["config_kwargs"] = dict(TIMEOUTS)
        if "AWS_MAX_ATTEMPTS" not in os.environ:
            options["config_kwargs"]["retries"] = {"mode": "standard", "total_max_attempts": ATTEMPTS}
    for name in (package, "azure") if package == "adlfs" else (package,):  # they log what they raise, with tracebacks
        logger = logging.getLogger(name)
        if logger.level == logging.NOTSET:
            logger.setLevel(logging.CRITICAL)
    try:
        system = fsspec.filesystem(scheme, **options)
    except ImportError:
        raise needs from None
    except Exception as error:  # adlfs looks for its account at once
        words = one_line(error)[:300]
        raise AccessError(f"cannot use {scheme}://: {words}; check your account, credentials and settings") from None
    if scheme == "s3":
        system.retries = 2  # s3fs' own, of what breaks off in the middle: around botocore's, so they multiply
    return system


@contextmanager
def told(url: str, doing: str = "read") -> Iterator[None]:
    """Make one line of whatever a file system says: stores, and versions of their clients, raise all sorts of things.

    Raises UsageError (no such bucket, no name), AccessError (no rights) or FaultError (not reached, throttled, gone).
    """
    try:
        yield
    except (GlotError, FileExistsError):
        raise
    except Exception as error:
        raise explain(url, error, doing) from None


def explain(url: str, error: Exception, doing: str) -> GlotError:
    """What to raise for an error of a file system."""
    words, kind = one_line(error)[:300] or type(error).__name__, type(error).__name__
    tries = ", tried several times" if url.partition(":")[0] in TRY_AGAIN else ""
    if isinstance(error, FileNotFoundError):
        return UsageError(f"there is no {url} ({missing_words(url, error)})")
    if isinstance(error, PermissionError) or kind in NO_CREDENTIALS or _status(error) in (401, 403):
        return AccessError(f"cannot {doing} {url}: {words}; check your credentials and rights there")
    if kind in NO_NAME:
        return UsageError(f"{url} is no name that the store takes: {words}")
    if isinstance(error, ConnectionError | TimeoutError) or kind in NO_CONNECTION:
        return FaultError(f"cannot reach {url} ({words}){tries}: check address and network, and run again")
    if getattr(error, "errno", None) == errno.EBUSY or _status(error) in (429, 503):
        return FaultError(f"cannot {doing} {url}: the store is too busy ({words}){tries}: run again later")
    return FaultError(f"cannot {doing} {url} ({kind}: {words}): run again")


def missing_words(url: str, error: Exception) -> str:
    """What a store says of what is not there, where that is more than its name: the bucket may be missing."""
    words = one_line(error)
    return words if " " in words and words not in url else "nothing is there"


def _status(error: Exception) -> int | None:
    """The HTTP status in an error, where there is one."""
    found = getattr(getattr(error, "response", None), "status_code", None) or getattr(error, "status", None)
    return found if isinstance(found, int) else None


def local_folder(place: Place, what: str) -> Path:
    """The folder of a place; raises UsageError for a URL, saying what to do."""
    if isinstance(place, RemoteFolder):
        raise UsageError(f"{place} is no folder of this machine: {what}")
    return place
