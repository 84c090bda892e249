"""Caches that somebody made to do harm: how they are made, and all that a user could do with one."""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from glot.errors import GlotError
from glot.fit.run import FitOptions, make_configs
from glot.report.cache_summary import summarize_cache
from glot.store.combine import copy_cache, link_caches, merge_caches, subset_cache
from glot.store.example_set import ExampleSet
from glot.store.layout import EXAMPLES_FOLDER, ExamplesEntry, Manifest, PlanEntry, StatesIdentity
from glot.store.plan import CONTENT, SPECIAL, Plan, PlanWriter, text_hash
from glot.store.reader import Cache
from glot.store.recover import recover_manifest
from glot.store.shards import ShardWriter, adopt_shard
from glot.store.task_spec import TaskSpec
from glot.store.verify import verify_cache

WIDTH = 2
LENGTHS = (2, 1, 3, 1)
CUTS = (2,)  # two shards of two texts
SECONDS = 60  # that one input may take: what hangs is found, not what is slow on this machine
MEMORY = 200 * 2**20  # bytes that one input may take
SECRET = b"the secret that lies outside of the cache"
TASK = TaskSpec("made", 1, "classes", ("no", "yes"))


def make_cache(folder: Path, dtype: str = "float16") -> Path:
    """Write a cache of four texts and two shards, with one example set."""
    (folder / EXAMPLES_FOLDER).mkdir(parents=True)
    identity = StatesIdentity(
        *("tiny", "", "0" * 64, "1" * 64, "encoder", WIDTH, 1, "{text}", 8, (0, 1), dtype, "float32")
    )
    random, texts = np.random.default_rng(0), [f"text {number}" for number in range(len(LENGTHS))]
    writer = PlanWriter(folder, keep_texts=True)
    length = np.asarray(LENGTHS, dtype=np.uint32)
    tokens = int(length.sum())
    kinds = np.where(np.arange(tokens) % 2, CONTENT, SPECIAL).astype(np.uint8)
    hashes = b"".join(map(text_hash, texts))
    writer.add(length, hashes, np.arange(tokens) % 3, kinds, length > 2, [text.encode() for text in texts])
    writer.vocabulary = {0: "a", 1: "b", 2: "c"}
    writer.shard_start = [0, *CUTS, len(LENGTHS)]
    counts = {"truncated": 1, "empty": 0, "order_seed": 0}
    data = writer.finish(folder / "plan.h5", 1, {"states": asdict(identity), "plan": counts})
    writer.close()
    plan = Plan(folder, data)
    entry = PlanEntry(len(plan), plan.tokens, 1, 0, plan.num_shards, 0, "", data)
    manifest = Manifest("test", identity, entry)
    for name in ("train", "validation"):
        examples = ExampleSet(np.arange(4), np.asarray([2, 0, 1, 3]), None, np.asarray([1, 0, 1, 0]))
        values = {"fingerprint": examples.fingerprint(plan.hashes()), "examples": 4, "skipped": 0, "labelled": True}
        values["source"] = "made"
        about = {**values, "name": name, "task": TASK.to_json()}
        saved = examples.save(folder / EXAMPLES_FOLDER / f"{name}.h5", about)
        manifest.examples[name] = ExamplesEntry(**values, task=TASK, data=saved)
    for number in range(plan.num_shards):
        with ShardWriter(folder, number, plan, identity) as shard:
            for text in range(shard.first, shard.stop):
                for layer in identity.layers:
                    values = random.integers(-100, 100, (LENGTHS[text], WIDTH))
                    scale = np.ones(LENGTHS[text], np.float32) if dtype == "int8" else None
                    shard.write(layer, text, values.astype(shard_dtype(dtype)), scale)
            manifest.shards[number] = shard.finish()
    manifest.save(folder)
    return folder


def make_linked(folder: Path) -> Path:
    """Write a cache that is linked to two, which lie in its own folder."""
    parts = [make_cache(folder / "parts" / name) for name in ("a", "b")]
    link_caches(parts, folder / "made")
    for path in (folder / "made").iterdir():
        path.rename(folder / path.name)
    (folder / "made").rmdir()
    manifest = Manifest.load(folder)
    manifest.parts = tuple(replace(part, folder=part.folder.removeprefix("../")) for part in manifest.parts)
    manifest.save(folder)
    return folder


def shard_dtype(dtype: str) -> str:
    from glot.store.layout import STORED_AS

    return STORED_AS[dtype]


class Files:
    """The bytes of a cache's files, to be changed one input at a time and put back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.whole = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        self.manifest = json.loads(self.whole["manifest.json"])

    def write(self, files: dict[str, bytes]) -> None:
        """Change some files."""
        for name, data in files.items():
            (self.folder / name).write_bytes(data)

    def restore(self) -> None:
        """Make the folder what it was."""
        for path in self.folder.rglob("*"):
            if path.is_symlink() or not path.is_dir():
                name = path.relative_to(self.folder).as_posix()
                if name not in self.whole or path.is_symlink() or not path.is_file():
                    path.unlink()
        for name, data in self.whole.items():
            path = self.folder / name
            if not path.exists() or path.stat().st_size != len(data) or path.read_bytes() != data:
                path.write_bytes(data)


def entries_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """What the manifest says of each of its files."""
    held = [manifest["plan"], *manifest["examples"].values(), *manifest["shards"]]
    return [item["data"] for item in held]


def reseal(files: dict[str, bytes], manifest: dict[str, Any]) -> None:
    """Make every checksum fit what the files now hold, as somebody would who wants to be believed."""
    for entry in entries_of(manifest):
        data = files[entry["file"]]
        for name, column in entry["columns"].items():
            count = int(np.prod([int(size) for size in column["shape"]])) * np.dtype(column["dtype"]).itemsize
            held = data[column["offset"] : column["offset"] + count]
            column["xxh3"] = "" if name.startswith(("hidden/", "scale/")) else xxhash.xxh3_64_hexdigest(held)
        about = head_of(data).get("about", {})
        data, entry["xxh3"] = with_head(data, {"about": about, "columns": entry["columns"]})
        files[entry["file"]], entry["size"] = data, len(data)


HEAD_ROOM = 4096


def head_of(data: bytes) -> dict[str, Any]:
    """What a file says of itself; {} where a change has spoilt it."""
    try:
        line, rest = data.split(b"\n", 1)
        return json.loads(rest[: int(line.split()[1])])
    except (ValueError, IndexError, RecursionError):
        return {}


def with_head(data: bytes, head: dict[str, Any]) -> tuple[bytes, str]:
    """A file with another head, whose checksums fit; and the checksum of all that follows the head."""
    text = json.dumps(head, sort_keys=True).encode()
    line = f"glot-columns {len(text)} {xxhash.xxh3_64_hexdigest(text)} "
    end = len(line) + 17 + len(text)
    rest = bytes(max(0, min(HEAD_ROOM, len(data)) - end)) + data[max(HEAD_ROOM, end) :]
    digest = xxhash.xxh3_64_hexdigest(rest)
    return f"{line}{digest}\n".encode() + text + rest, digest


# All that a user could do with a cache


def read_plan(folder: Path) -> None:
    cache = Cache(folder, allow_unfinished=True)
    plan, count = cache.plan, len(cache.plan)
    plan.texts(0, count)
    plan.vocabulary  # noqa: B018 - read
    plan.hashes(), plan.truncated(0, count), plan.token_ids(0, count), plan.token_kinds(0, count)
    for number in range(plan.num_shards):
        plan.shard_digest(number)
    plan.name_text(count - 1)
    cache.close()


def read_examples(folder: Path) -> None:
    cache = Cache(folder, allow_unfinished=True)
    for name in cache.manifest.examples:
        cache.examples(name)
    cache.close()


def read_states(folder: Path) -> dict[int, bytes]:
    cache = Cache(folder, allow_unfinished=True)
    found = {}
    for layer in cache.manifest.states.layers:
        found[layer] = cache.read_texts(layer, np.arange(len(cache.plan))).values.tobytes()
    cache.close()
    return found


def verify(folder: Path) -> None:
    verify_cache(Cache(folder, allow_unfinished=True))


def summarize(folder: Path) -> None:
    json.dumps(asdict(summarize_cache(Cache(folder, allow_unfinished=True))))


def copy(folder: Path) -> None:
    with new_folder(folder) as target:
        copy_cache(folder, target, verify=True)


def subset(folder: Path) -> None:
    with new_folder(folder) as target:
        subset_cache(folder, target, limit=2)


def merge(folder: Path) -> None:
    with new_folder(folder) as target:
        merge_caches([folder, folder], target)


def link(folder: Path) -> None:
    with new_folder(folder) as target:
        link_caches([folder], target, verify=True)


def recover(folder: Path) -> None:
    """What an extraction does that finds no manifest."""
    found = recover_manifest(folder, "test")
    if found is not None:
        plan = Plan(folder, found.plan.data)
        for number in range(min(plan.num_shards, 100)):
            adopt_shard(folder, number, plan, found.states)
        plan.close()


def prepare_fit(folder: Path) -> None:
    make_configs(Cache(folder), FitOptions(device="cpu", backend="dense"))


Use = Callable[[Any], Any]  # of a folder, or of a URL
USES: list[Use] = [read_plan, read_examples, read_states, verify, prepare_fit]
SLOW_USES: list[Use] = [copy, subset, recover, summarize, merge, link]


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A place for a copy, beside the cache; whatever comes to lie there goes again."""
    target = folder.parent / "copied"
    try:
        yield target
        if target.exists():
            held = b"".join(path.read_bytes() for path in target.rglob("*") if path.is_file())
            assert SECRET not in held, "a file from outside of the cache was copied"
    finally:
        shutil.rmtree(target, ignore_errors=True)


def use(folder: Path | str, uses: list[Use]) -> None:
    """Do all that a user could do; anything but a result or one line is an AssertionError that says what and where."""
    for action in uses:
        try:
            action(folder)
        except GlotError as error:
            if "\n" in str(error) or SECRET.decode() in str(error):
                raise AssertionError(f"{action.__name__}: more than one line, or the secret: {error!r}") from error
        except (TooLong, AssertionError):
            raise
        except Exception as error:
            raise AssertionError(f"{action.__name__}: {type(error).__name__}: {error}") from error


# What must not happen


class TooLong(BaseException):
    """An input took longer than it may."""


@contextmanager
def limits(seconds: int = SECONDS) -> Iterator[None]:
    """Raise TooLong where something hangs, MemoryError where it takes too much memory; also in a blocked `open`."""

    def give_up(*_: object) -> None:
        raise TooLong(f"took more than {seconds} s")

    before = signal.signal(signal.SIGALRM, give_up)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * os.sysconf("SC_PAGE_SIZE") + MEMORY, hard))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, before)


_inside: list[str] = []  # how the names begin that may be opened while an input is tried
_outside: list[str] = []  # what else was
_HARMLESS = ("/proc/", "/dev/", "/sys/", "/usr/", "/lib", "/etc/", sys.prefix, sys.base_prefix)


def _watch_opens(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or not _inside or not isinstance(arguments[0], str | bytes | os.PathLike):
        return
    name = os.fsdecode(arguments[0])
    if not os.path.isabs(name):  # relative to a folder that is open already, as shutil.rmtree does it
        return
    # What does not follow a link opens the link's own place.
    is_followed = not (isinstance(arguments[2], int) and arguments[2] & os.O_NOFOLLOW)
    parent, last = os.path.split(name)
    path = os.path.realpath(name) if is_followed else os.path.join(os.path.realpath(parent), last)
    is_code = path.endswith((".py", ".pyc", ".so")) or path.startswith(_HARMLESS)
    if not (is_code or path.startswith(tuple(_inside)) or os.path.isdir(path)):  # a folder is opened for its fsync
        _outside.append(path)


@contextmanager
def confined(*folders: Path) -> Iterator[None]:
    """Fail where Python opens a file outside of some folders (a hook that stays, and watches only in this block)."""
    if not getattr(sys, "_glot_watches_opens", False):
        sys.addaudithook(_watch_opens)
        sys._glot_watches_opens = True
    _outside.clear()
    _inside[:] = [os.path.realpath(folder) for folder in folders]
    try:
        yield
    finally:
        _inside.clear()
    assert not _outside, f"opened outside of the cache: {_outside[:3]}"


class Guarded:
    """A folder outside of every cache; `touched` says whether anybody opened a file in it, also from C (inotify)."""

    IN_OPEN = 0x20

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        (folder / "secret.h5").write_bytes(SECRET * 400)
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.inotify_init1(os.O_NONBLOCK)
        if self.descriptor < 0 or libc.inotify_add_watch(self.descriptor, os.fsencode(folder), self.IN_OPEN) < 0:
            raise OSError(ctypes.get_errno(), "inotify")
        self.touched()

    def touched(self) -> bool:
        """Whether a file was opened since the last call (the folder itself does not count)."""
        names = []
        with suppress(BlockingIOError):
            while data := os.read(self.descriptor, 2**16):
                while data:
                    length = struct.unpack_from("iIII", data)[3]
                    names.append(data[16 : 16 + length].rstrip(b"\0"))
                    data = data[16 + length :]
        return any(names)

    def close(self) -> None:
        os.close(self.descriptor)
