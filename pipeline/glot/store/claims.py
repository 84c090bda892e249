"""Claims: which worker is at which piece of a cache, among processes and hosts that share only a folder.

A claim is a small file that can be made once. Its owner touches it every minute; who finds one untouched for five, or
of a process of this machine that is gone, takes it over. A claim saves work, it does not guard data: what two workers
should both finish, only the first can publish.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from glot.errors import AccessError, FaultError
from glot.store.files import UNFINISHED, checked, publish, read_plain, temporary_name, write_error

REFRESH_SECONDS = 60.0
STALE_SECONDS = 300.0
MAY_ASK = os.name == "posix"  # whether a process lives; on Windows signal 0 is Ctrl-C


@dataclass(frozen=True)
class Owner:
    """Who holds a claim.

    Attributes:
        host: for people. pid: the process on it.
        machine: what a pid is valid in (this boot, this process namespace); liveness is only asked within it.
        started: the process' start in clock ticks since boot, for pids are used again.
        since: when the claim was made, in UTC.
    """

    host: str
    pid: int
    machine: str
    started: int
    since: str

    @classmethod
    def me(cls) -> Owner:
        """This process, now."""
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        return cls(socket.gethostname(), os.getpid(), _machine(), _process(os.getpid())[1], since)

    def is_process_of(self, other: Owner) -> bool:
        """Whether both are one and the same process, whenever either claimed something."""
        return (self.pid, self.machine, self.started) == (other.pid, other.machine, other.started)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"

    @property
    def is_dead(self) -> bool:
        """Whether this is a process of this machine that is gone; where nobody can be asked, it is not."""
        if not MAY_ASK or self.machine != _machine():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError, ValueError):
            return False
        state, started = _process(self.pid)
        return started != self.started or state == "Z"  # Z: ended, and not yet waited for


def _machine() -> str:
    with suppress(OSError):
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    return socket.gethostname()


def _process(pid: int) -> tuple[str, int]:
    """A process' state and its start in clock ticks since boot, as Linux says them; "0" and 0 elsewhere."""
    with suppress(OSError, IndexError):
        # The command before the state, in brackets, may hold spaces.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return fields[0], int(fields[19])
    return "0", 0


class Claims:
    """The claims of one worker in one folder, kept fresh by a thread while the block lasts.

    Leaving the block gives back what is still held.
    """

    def __init__(self, folder: Path, refresh: float = REFRESH_SECONDS, stale: float = STALE_SECONDS) -> None:
        self.folder, self.refresh, self.stale = folder, refresh, stale
        self.held: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep_fresh, name="glot-claims", daemon=True)

    def __enter__(self) -> Claims:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for name in list(self.held):
            self.release(name)

    def path(self, name: str) -> Path:
        """The claim's file."""
        return self.folder / f"{name}.claim"

    def acquire(self, name: str) -> bool:
        """Claim a piece; False where a live worker holds it. Raises FaultError where the folder cannot be written."""
        path = self.path(name)
        self._remove_if_stale(path)
        temporary = temporary_name(path)
        try:
            # Written first and linked then: a claim is never there without its owner.
            temporary.write_text(json.dumps(asdict(Owner.me())), encoding="utf-8")
            publish(temporary, path)
        except FileExistsError:
            return False
        except FileNotFoundError:
            if self.folder.is_dir():  # another worker has tidied up just now
                return False
            raise FaultError(f"{self.folder} is gone: run again") from None
        except OSError as error:
            raise write_error(path, error) from None
        finally:
            temporary.unlink(missing_ok=True)
        self.held.add(name)
        return True

    def require(self, name: str, what: str) -> None:
        """Claim a piece that this process must have alone; raises FaultError where another one does `what` with it."""
        if not self.acquire(name):
            raise FaultError(
                f"{self.owner(name) or 'another process'} {what}: wait until it ends; one that was killed on another "
                "machine is forgotten after five minutes"
            )

    def release(self, name: str) -> None:
        """Give a piece back."""
        self.held.discard(name)
        owner = self.owner(name)
        if owner and owner.is_process_of(Owner.me()):
            self.path(name).unlink(missing_ok=True)

    def owner(self, name: str) -> Owner | None:
        """Who holds a piece; None where nobody does."""
        return read_owner(self.path(name))

    def _remove_if_stale(self, path: Path) -> None:
        """Remove a claim that nobody keeps up. Only the holder of its takeover file may, after a second look."""
        if not self._is_stale(path):
            return
        takeover = path.with_name(f"{path.name}.takeover")
        try:
            os.close(os.open(takeover, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except OSError:
            if takeover.exists() and self._is_stale(takeover):
                takeover.unlink(missing_ok=True)
            return
        try:
            if self._is_stale(path):
                path.unlink(missing_ok=True)
        finally:
            takeover.unlink(missing_ok=True)

    def _is_stale(self, path: Path) -> bool:
        owner = read_owner(path)
        try:
            touched = path.lstat().st_mtime
        except OSError:
            return False
        return (owner is not None and owner.is_dead) or self._age(touched) >= self.stale

    def _age(self, touched: float) -> float:
        """Seconds since a file was touched, by the file system's own clock, for hosts' clocks differ."""
        try:
            # A file without a name, where the file system has such: a kill leaves nothing.
            with tempfile.TemporaryFile(dir=self.folder, prefix=f"clock{UNFINISHED}") as probe:
                return os.fstat(probe.fileno()).st_mtime - touched
        except OSError:
            return time.time() - touched

    def _keep_fresh(self) -> None:
        while not self._stop.wait(self.refresh):
            for name in list(self.held):
                with suppress(OSError):
                    os.utime(self.path(name))


def read_owner(path: Path) -> Owner | None:
    """What a claim's file says; None where it is gone or cannot be read."""
    try:
        return checked(Owner, json.loads(read_plain(path)))
    except (AccessError, OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None
