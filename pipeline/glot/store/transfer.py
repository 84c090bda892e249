"""Caches to a store and back: what is there already is not sent again, and the manifest comes last."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from glot.errors import FaultError, UsageError
from glot.store.column_reader import ColumnReader, DamageError
from glot.store.columns import HEAD_LINE, ColumnFile
from glot.store.files import atomic_path, make_folder, read_json
from glot.store.layout import EXAMPLES_FOLDER, MANIFEST_FILE, Manifest
from glot.store.places import Place, RemoteFolder, load_json, local_folder, place_of
from glot.store.plan import PlanWriter
from glot.store.reader import Cache
from glot.store.remote import at_once, fetch_all

Progress = Callable[[int, int], None]  # (bytes done, bytes in all)
REPAIR = "repair it with `glot inspect --repair`"
UNTOUCHED = "nothing was changed: choose another place"


@dataclass(frozen=True)
class Transfer:
    """What a push or a pull did.

    Attributes:
        place: where the cache is now. manifest: what it holds.
        sent, there: files that were sent, and that were there already. bytes: of those sent.
    """

    place: str
    manifest: Manifest
    sent: int
    there: int
    bytes: int


@dataclass(frozen=True)
class Parcel:
    """What is to be sent of a cache: its manifest, in a folder of its own, and where each of its files lies."""

    manifest: Manifest
    made: Path
    folders: dict[str, Path]


@contextmanager
def parcel(cache: Cache, keep_texts: bool = True) -> Iterator[Parcel]:
    """A finished cache as it is to be sent; without its texts if they are not to be kept.

    The ids of the tokens and their strings stay, so who has them can put texts together from those.
    """
    folder = local_folder(cache.folder, "pull it with `glot cache pull`, and push the copy")
    manifest, plan = cache.manifest, cache.manifest.plan
    manifest.refuse_linked(folder, "make one of its own of it with `glot cache subset`, and push that")
    with tempfile.TemporaryDirectory(prefix="glot-push-") as name:
        folders = {data.file: folder for data in manifest.files}
        if cache.plan.has_texts and not keep_texts:
            writer = PlanWriter(Path(name), keep_texts=False)
            writer.copy(cache.plan)
            kept = (1, plan.empty, plan.order_seed, plan.request)  # no shard is added, so their size does not count
            manifest = replace(manifest, plan=writer.save(Path(name) / plan.data.file, manifest.states, *kept))
            writer.close()
            folders[plan.data.file] = Path(name)
        manifest.save(Path(name))
        yield Parcel(manifest, Path(name), folders)


def push_cache(
    cache: Cache, url: str | Path | RemoteFolder, keep_texts: bool = True, progress: Progress = lambda *_: None
) -> Transfer:
    """Send a finished cache to a URL. After an interruption the same call goes on with the file that it was at.

    Every file is compared with its checksums before it is sent. `keep_texts` is that of `parcel`.

    Raises UsageError where the URL is none, or holds another cache or a part of one; FaultError where a file is
    damaged or the store fails, naming the file; AccessError without rights.
    """
    target = place_of(url)
    if not isinstance(target, RemoteFolder):
        raise UsageError(f"{target} is a folder: use `glot cache copy`")
    with parcel(cache, keep_texts) as given:
        manifest = given.manifest
        refuse_other(target, manifest_json(given))
        there = at_once(lambda data: _is_there(target, given.folders[data.file], data), manifest.files)
        waiting = [data for data, is_there in zip(manifest.files, there, strict=True) if not is_there]
        done, total = 0, sum(data.size for data in waiting)
        for data in reversed(waiting):  # the shards first
            _send(target, given.folders[data.file], data)
            done += data.size
            progress(done, total)
        _put(target / MANIFEST_FILE, given.made / MANIFEST_FILE, lambda: refuse_other(target, manifest_json(given)))
    return Transfer(str(target), manifest, len(waiting), len(manifest.files) - len(waiting), total)


def pull_cache(url: str | Path, folder: Path, progress: Progress = lambda *_: None) -> Transfer:
    """Fetch a finished cache from a URL into a folder. After an interruption the same call goes on.

    Every file is compared with its checksums when it has come, and has its name only then.

    Raises UsageError where the URL is none or holds no finished cache, or the folder holds something else; FaultError
    where a file there is damaged or the store fails, naming it; AccessError without rights.
    """
    source = place_of(url)
    if not isinstance(source, RemoteFolder):
        raise UsageError(f"{source} is a folder: use `glot cache copy`")
    manifest = Cache(source).manifest
    make_folder(folder / EXAMPLES_FOLDER)
    with tempfile.TemporaryDirectory(prefix="glot-pull-") as made:
        manifest.save(Path(made))
        refuse_other(folder, read_json(Path(made) / MANIFEST_FILE))
    waiting = [data for data in manifest.files if not _is_here(folder, data)]
    done, total = 0, sum(data.size for data in waiting)
    for data in waiting:
        _fetch_file(source / data.file, folder, data)
        done += data.size
        progress(done, total)
    manifest.save(folder)
    return Transfer(str(folder), manifest, len(waiting), len(manifest.files) - len(waiting), total)


def manifest_json(given: Parcel) -> dict:
    """The manifest that is to be sent."""
    return json.loads((given.made / MANIFEST_FILE).read_text(encoding="utf-8"))


def refuse_other(place: Place, manifest: dict) -> bool:
    """Whether this manifest is there; raises UsageError where another one is."""
    path = place / MANIFEST_FILE
    is_there = path.size() is not None if isinstance(path, RemoteFolder) else path.exists()
    if is_there and load_json(path) != manifest:
        raise UsageError(f"{place} holds another cache: {UNTOUCHED}")
    return is_there


def _is_there(target: RemoteFolder, folder: Path, data: ColumnFile) -> bool:
    """Whether a file lies in the store already: of its size, and its first line, which holds its checksums, is equal.

    A store shows no object before it is whole. Raises UsageError where another one has its name.
    """
    place, first = target / data.file, bytearray(HEAD_LINE)
    ColumnReader(folder, data, REPAIR).read_into(memoryview(first), 0)
    size = place.size()
    if size is None:
        return False
    if size != data.size or place.read(0, HEAD_LINE) != first:
        raise UsageError(f"{place} is there and is another file: {UNTOUCHED}")
    return True


def send_file(target: RemoteFolder, folder: Path, data: ColumnFile) -> None:
    """Send a file of a cache that is not there yet, compared with its checksums; raises what `push_cache` raises."""
    if not _is_there(target, folder, data):
        _send(target, folder, data)


def _send(target: RemoteFolder, folder: Path, data: ColumnFile) -> None:
    ColumnReader(folder, data, REPAIR).check_file()
    _put(target / data.file, folder / data.file, lambda: _is_there(target, folder, data))


def _put(place: RemoteFolder, path: Path, is_there: Callable[[], bool]) -> None:
    """Send a file; what another process has put there meanwhile must be the same."""
    try:
        place.put(path)
    except FileExistsError:
        is_there()  # raises where it is another
    if place.size() != path.stat().st_size:
        raise FaultError(f"{place} is not there as it was sent: run the same command again")


def _is_here(folder: Path, data: ColumnFile) -> bool:
    """Whether a file lies in the folder, whole; raises UsageError where another one has its name."""
    if not (folder / data.file).exists():
        return False
    try:
        ColumnReader(folder, data, "").check_file()
    except DamageError:
        raise UsageError(f"{folder / data.file} is there and is another file: {UNTOUCHED}, or remove it") from None
    return True


def _fetch_file(place: RemoteFolder, folder: Path, data: ColumnFile) -> None:
    if (size := place.size()) != data.size:
        raise FaultError(f"{place} has {size or 0} bytes, the manifest says {data.size}: push the cache again")
    with atomic_path(folder / data.file) as temporary:
        for attempt in range(2):  # what came over the network may be damaged
            with open(temporary, "wb") as file:
                file.writelines(fetch_all(place, data.size))
            try:
                name = temporary.relative_to(folder).as_posix()
                ColumnReader(folder, replace(data, file=name), "").check_file()
                break
            except DamageError:
                if attempt:
                    raise FaultError(f"{place} is damaged: push the cache again") from None
