"""A cache that is made for a URL: in a folder here, from where each shard is sent as soon as it is finished."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import xxhash

from glot.errors import FaultError, GlotError, UsageError
from glot.store.blocks import blocks
from glot.store.claims import Owner
from glot.store.files import checked
from glot.store.layout import MANIFEST_FILE
from glot.store.places import RemoteFolder
from glot.store.reader import Cache
from glot.store.shards import finished_shards
from glot.store.transfer import UNTOUCHED, Transfer, push_cache, send_file

CLAIM_FILE = "extract.claim"  # while a cache is being made: who makes it
SECONDS, LONGEST = 2.0, 300.0  # between looks for finished shards; where the store fails, longer and longer


def scratch_folder(target: RemoteFolder) -> Path:
    """The folder in which a cache for a URL is made: always the same one, so that an interrupted command goes on."""
    return blocks().folder / "made" / xxhash.xxh3_128_hexdigest(str(target).encode())


@contextmanager
def sending(target: RemoteFolder, say: Callable[[str], None]) -> Iterator[Callable[[], Transfer]]:
    """Send finished shards while the block lasts; gives what sends the rest, the manifest last, and removes the folder.

    `say` is told when the store fails meanwhile: it is tried again, at the latest at the end.

    Raises UsageError where a cache is there, or another process makes one, and whatever the store does: before
    anything slow.
    """
    folder = scratch_folder(target)
    if (target / MANIFEST_FILE).size() is not None:
        raise UsageError(f"{target} holds a cache already: {UNTOUCHED}")
    _claim(target)
    done = threading.Event()
    thread = threading.Thread(target=_send_finished, args=(folder, target, done, say), daemon=True)
    thread.start()

    def finish() -> Transfer:
        done.set()
        thread.join()
        found = push_cache(Cache(folder), target)
        shutil.rmtree(folder)
        return found

    try:
        yield finish
    finally:
        done.set()
        thread.join()
        with suppress(GlotError):
            (target / CLAIM_FILE).remove()


def _claim(target: RemoteFolder) -> None:
    """Note that this process makes the cache; raises UsageError where another one does that may be alive."""
    place = target / CLAIM_FILE
    mine = json.dumps(asdict(Owner.me())).encode()
    try:
        if place.size() is not None:
            raise FileExistsError
        place.put_bytes(mine)
    except FileExistsError:
        owner = _owner(place)
        if owner is None or not owner.is_dead:
            who = owner or "somebody"
            raise UsageError(f"{who} is making {target}: wait, or remove {place} if that has ended") from None
        place.remove()
        place.put_bytes(mine)


def _owner(place: RemoteFolder) -> Owner | None:
    try:
        return checked(Owner, place.read_json())
    except (FaultError, TypeError, ValueError, AttributeError):
        return None


def _send_finished(folder: Path, target: RemoteFolder, done: threading.Event, say: Callable[[str], None]) -> None:
    sent: set[int] = set()
    pause = SECONDS
    while not done.wait(pause):
        pause = SECONDS
        for number, entry in sorted(finished_shards(folder, sent).items()):
            if done.is_set():
                return
            try:
                send_file(target, folder, entry.data)
                sent.add(number)
            except GlotError as error:
                say(f"{error}; it will be tried again")
                pause = min(LONGEST, 8 * pause)
                break
