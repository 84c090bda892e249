"""What the disk does to a cache: the order in which things become durable, what a power cut leaves, no room."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from glot.commands import app as cli
from glot.errors import FaultError
from glot.store.combine import copy_cache, subset_cache
from glot.store.layout import Manifest, shard_file, sidecar_file
from glot.store.reader import Cache
from tests.faults import runs
from tests.faults.runs import Zygote

pytestmark = pytest.mark.slow  # with the others of this folder a minute

Log = list[tuple[str, ...]]


# The order in which things become durable


@pytest.fixture
def disk_log(monkeypatch: pytest.MonkeyPatch) -> Log:
    """Every fsync, link, rename and removal, in order, with the names of the files; temporary names end in `.tmp`."""
    log: Log = []

    def short(path: object) -> str:
        path = Path(os.fspath(path))
        name = re.sub(r"\.tmp-.*", ".tmp", path.name)
        return f"examples/{name}" if path.parent.name == "examples" else name

    def watch(name: str, describe: Callable[..., tuple[str, ...]]) -> None:
        original = getattr(os, name)

        def watched(*args: object, **options: object) -> object:
            described = describe(*args)
            result = original(*args, **options)  # what fails has no effect
            log.append((name, *described))
            return result

        monkeypatch.setattr(os, name, watched)

    watch("fsync", lambda descriptor, *_: (short(os.readlink(f"/proc/self/fd/{descriptor}")),))
    watch("unlink", lambda path, *_: (short(path),))
    for name in ("link", "replace", "rename"):
        watch(name, lambda source, target, *_: (short(source), short(target)))
    return log


def about(log: Log, *names: str) -> Log:
    """The entries that concern some files, and the fsyncs of their folder."""
    wanted = {*names, *(f"{name}.tmp" for name in names)}
    return [entry for entry in log if wanted & set(entry[1:])]


def test_a_shard_is_durable_before_anything_says_so(bert: Path, tmp_path: Path, disk_log: Log) -> None:
    runs.extract(bert, tmp_path / "out", shard_bytes=2**30)
    shard, sidecar, manifest = "shard-00000.h5", "shard-00000.json", "manifest.json"
    start = disk_log.index(("fsync", f"{shard}.tmp"))
    assert about(disk_log[start:], shard, sidecar, manifest, "out") == [
        ("fsync", f"{shard}.tmp"),
        ("link", f"{shard}.tmp", shard),
        ("unlink", f"{shard}.tmp"),
        ("fsync", "out"),
        ("fsync", f"{sidecar}.tmp"),
        ("replace", f"{sidecar}.tmp", sidecar),
        ("fsync", "out"),
        ("fsync", f"{manifest}.tmp"),
        ("replace", f"{manifest}.tmp", manifest),
        ("fsync", "out"),
        ("unlink", sidecar),
    ]


def test_plan_and_examples_are_durable_before_the_manifest(bert: Path, tmp_path: Path, disk_log: Log) -> None:
    runs.extract(bert, tmp_path / "out", plan_only=True)
    files = ("plan.h5", "examples/train.h5", "examples/validation.h5", "manifest.json")
    expected = []
    for name in files:
        folder = "examples" if name.startswith("examples/") else "out"
        expected += [("fsync", f"{name}.tmp"), ("replace", f"{name}.tmp", name), ("fsync", folder)]
    assert about(disk_log, *files, "out", "examples") == expected


def assert_nothing_is_named_too_early(log: Log) -> None:
    """A file gets its name after its bytes are on the disk, and its folder is too before the next file is named.

    Claims are no part of a cache: after a power cut nobody holds them.
    """
    synced: set[str] = set()
    waiting = ""  # the folder whose new name is not yet durable
    for action, *names in log:
        if action == "fsync":
            synced.add(names[0])
            waiting = "" if names[0] == waiting else waiting
        elif action != "unlink" and not names[1].endswith(".claim") and ".claim" not in names[0]:
            assert names[0] in synced, f"{names[0]} was named {names[1]} before its bytes were on the disk"
            assert not waiting, f"{names[1]} was named before the folder {waiting} was on the disk"
            synced.discard(names[0])
            waiting = "examples" if names[1].startswith("examples/") else "out"


def test_nothing_is_named_before_its_bytes_are_there(bert: Path, tmp_path: Path, disk_log: Log) -> None:
    runs.extract(bert, tmp_path / "out")
    runs.extract(bert, tmp_path / "out", rows=runs.ROWS + 24)
    assert len(about(disk_log, "manifest.json")) >= 8
    assert_nothing_is_named_too_early(disk_log)


@pytest.mark.parametrize("command", ["copy", "subset"])
def test_a_copy_is_durable_before_it_has_its_name(
    command: str, made_caches: Callable, tmp_path: Path, disk_log: Log
) -> None:
    target, source = tmp_path / "out", made_caches()
    disk_log.clear()  # of what making the source has left there, if it was made just now
    copy_cache(source, target) if command == "copy" else subset_cache(source, target, limit=5)
    names = set(runs.contents(target))
    named = disk_log.index(("replace", "out.tmp", "out"))
    synced = {entry[1].removesuffix(".tmp") for entry in disk_log[:named] if entry[0] == "fsync"}
    assert names <= synced
    assert {"examples", "out"} <= synced, "a folder's names are not durable before the copy has its own"
    assert ("fsync", tmp_path.name) in disk_log[named:]


# What a power cut or a kill left


def owner_of_a_dead_process() -> str:
    """What a claim says whose process is gone."""
    from dataclasses import asdict

    from glot.store.claims import Owner

    process = subprocess.Popen(["true"])
    process.wait()
    return json.dumps({**asdict(Owner.me()), "pid": process.pid, "started": 1})


LEFT = {
    "plan.h5.tmp-host-1": b"half a plan",
    "plan-2.h5": b"a plan that no manifest names",
    "plan-7.h5.tmp-host-1": b"",
    "examples/train.h5.tmp-host-1": b"half",
    "examples/train-2.h5": b"a set that no manifest names",
    "manifest.json.tmp-host-1": b'{"format": "glot-ca',
    "shard-00001.h5.tmp-host-1": bytes(5000),
    "shard-00001.json.tmp-host-1": b"{",
    "plan.claim": b"",
    "plan.claim.tmp-host-1": b"{}",
    "plan.claim.tmp-host-1-stale": b"{}",
    "shard-00000.claim": b"",
    "shard-00002.claim.tmp-host-1": b"",
    "clock.tmp-host-1": b"",
}


@pytest.mark.parametrize("is_finished", [False, True], ids=["unfinished", "finished"])
def test_what_the_dead_left_is_removed(
    is_finished: bool, bert: Path, tmp_path: Path, made_caches: Callable, zygote: Zygote
) -> None:
    out = tmp_path / "out"
    zygote.finish(zygote.extract(bert, out, plan_only=not is_finished))
    owner = owner_of_a_dead_process().encode()
    for name, data in LEFT.items():
        (out / name).write_bytes(owner if name.endswith(".claim") else data)
    zygote.finish(zygote.extract(bert, out))
    assert runs.leftovers(out) == []
    assert runs.differences(out, runs.contents(made_caches())) == []


@pytest.mark.parametrize("is_finished", [False, True], ids=["unfinished", "finished"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_torn_manifest_costs_no_shard(
    is_finished: bool, share: float, bert: Path, copy_of: Callable, made_caches: Callable, zygote: Zygote
) -> None:
    """Its length is that of the old one or the new one's beginning; the blocks may hold zeros."""
    out = copy_of()
    if not is_finished:
        unlist(out, 5)
    path = out / "manifest.json"
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))] + bytes(len(data) - int(share * len(data))))
    before = runs.published(out)
    zygote.finish(zygote.extract(bert, out))
    after = runs.published(out)
    assert {name: after[name] for name in before} == before
    assert runs.leftovers(out) == []
    assert runs.differences(out, runs.contents(made_caches())) == []


def unlist(folder: Path, number: int) -> None:
    """Make a finished cache one that was stopped: shard `number` is missing, the others have their sidecars."""
    manifest = Manifest.load(folder)
    for other, entry in manifest.shards.items():
        if other != number:
            from glot.store.shards import write_sidecar

            write_sidecar(folder, other, entry)
    manifest.shards.clear()
    manifest.save(folder)
    (folder / shard_file(number)).unlink()


@pytest.mark.parametrize("content", ["", "{", "null", "[]", '{"texts": 1}', "\x00" * 50])
def test_a_torn_sidecar_costs_no_shard(
    content: str, bert: Path, copy_of: Callable, made_caches: Callable, zygote: Zygote
) -> None:
    out = copy_of()
    unlist(out, 5)
    (out / sidecar_file(2)).write_text(content)
    before = runs.published(out)
    zygote.finish(zygote.extract(bert, out))
    after = runs.published(out)
    assert {name: after[name] for name in before} == before
    assert runs.differences(out, runs.contents(made_caches())) == []


def test_a_shard_that_was_named_before_its_bytes_came_is_made_again(
    bert: Path, copy_of: Callable, made_caches: Callable, zygote: Zygote
) -> None:
    """As a file system without the order that fsync asks for leaves it: the size is right, the bytes are zeros."""
    out = copy_of()
    unlist(out, 5)
    path = out / shard_file(2)
    (out / sidecar_file(2)).unlink()
    path.write_bytes(bytes(path.stat().st_size))
    zygote.finish(zygote.extract(bert, out))
    assert runs.differences(out, runs.contents(made_caches())) == []


def test_states_of_another_backbone_are_neither_taken_up_nor_replaced(
    make_backbone_folder: Callable, copy_of: Callable, zygote: Zygote
) -> None:
    """A stopped run's manifest and plan are lost, and the next run is of another model with the same shapes."""
    out = copy_of()
    unlist(out, 5)
    (out / "manifest.json").unlink()
    for plan in out.glob("plan*.h5"):
        plan.unlink()
    before = runs.published(out)
    run = zygote.extract(make_backbone_folder("bert", seed=7), out)
    assert zygote.wait(run) != 0
    assert "no plan beside it says what they are" in zygote.output(run)
    assert runs.published(out) == before


# No room


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """`small_disk(kib, inodes=None)`: a file system of that size; skips where this user may not mount one."""
    mounted: list[Path] = []

    def mount(kib: int, inodes: int | None = None) -> Path:
        folder = tmp_path / f"disk-{len(mounted)}"
        folder.mkdir()
        options = f"size={kib}k" + (f",nr_inodes={inodes}" if inodes else "")
        program = shutil.which("mount")
        command = [program, "-t", "tmpfs", "-o", options, "glot-test", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True) if program else None
        if done is None or done.returncode:
            pytest.skip(f"this user cannot mount a small disk ({done.stderr.strip() if done else 'no mount program'})")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


def resize(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)


def command(bert: Path, data: Path, out: Path) -> list[str]:
    words = ["extract", "--model", bert, "--data", data, "--out", out, "--shard-mb", 1, "--device", "cpu"]
    return [str(word) for word in [*words, "--layers", "0,1,2", "--dtype", "float32", "--max-tokens", 32]]


def assert_one_line(code: int, output: str, *words: str) -> None:
    """A command that failed: exit code 1 and, after what it understood, one line that says what is wrong."""
    assert code == 1, output
    lines = output.strip().splitlines()
    lines = [line for line in lines if not re.match(r"train\.csv: comma-separated|label: 2 classes|\d layers as", line)]
    assert len(lines) == 1, output
    assert lines[0].startswith("glot: "), output
    for word in words:
        assert word in lines[0], output


@pytest.mark.parametrize("kib", [2500, *(pytest.param(kib, marks=pytest.mark.slow) for kib in (800, 1500, 4000))])
def test_the_command_on_a_full_disk(
    kib: int, zygote: Zygote, bert: Path, tmp_path: Path, small_disk: Callable[..., Path]
) -> None:
    """What is free is taken by another program after the run has looked."""
    data, disk = runs.write_csv(tmp_path / "train.csv", 1500), small_disk(10_000)
    words = command(bert, data, disk / "out")
    pid = zygote.glot(*words)
    while not list((disk / "out").glob("shard-*.claim")):
        assert zygote.is_running(pid), zygote.output(pid)
        time.sleep(0.001)
    os.kill(pid, signal.SIGSTOP)  # so that it does not end meanwhile
    with contextlib.suppress(OSError):  # a run that was quicker has less than that left: then nothing is
        (disk / "ballast").write_bytes(bytes((10_000 - kib) * 2**10))
    os.kill(pid, signal.SIGCONT)
    assert_one_line(zygote.wait(pid), zygote.output(pid), "shard-", "No space left on device", "make room")
    before = runs.published(disk / "out")
    cache = Cache(disk / "out", allow_unfinished=True)
    assert set(cache.manifest.shards) == {int(name[6:11]) for name in before}
    assert not list((disk / "out").glob("*.tmp-*"))
    (disk / "ballast").unlink()
    zygote.finish(zygote.glot(*words))
    after = runs.published(disk / "out")
    assert {name: after[name] for name in before} == before
    zygote.finish(zygote.glot(*command(bert, data, tmp_path / "unbroken")))
    assert runs.differences(disk / "out", runs.contents(tmp_path / "unbroken")) == []


def no_room_at_any_stage(zygote: Zygote, bert: Path, disk: Path, steps: list[str], expected: dict[str, bytes]) -> None:
    """Give the disk a little more room each time: every run says one thing, until one has enough."""
    out = disk / "out"
    for step in steps:
        resize(disk, step)
        before = runs.published(out)
        pid = zygote.extract(bert, out)
        code, output = zygote.wait(pid), zygote.output(pid)
        if code == 0:
            break
        assert code == 1, f"{step}: {output}"
        assert len(output.strip().splitlines()) == 1, f"{step}: {output}"
        assert "No space left on device" in output or "are free" in output, f"{step}: {output}"
        assert str(out) in output, f"{step}: {output}"
        assert not list(disk.rglob("*.tmp-*")), f"{step}: {output}"
        after = runs.published(out)
        assert {name: after.get(name) for name in before} == before, f"{step}: a finished shard was touched"
    assert code == 0, output
    assert runs.leftovers(out) == []
    assert runs.differences(out, expected) == []


def test_no_room_at_any_stage(
    zygote: Zygote, bert: Path, small_disk: Callable[..., Path], made_caches: Callable
) -> None:
    sizes = [f"size={kib}k" for kib in [16, 64, 72, 84, 100, 120, 160, 400, 4000]]
    no_room_at_any_stage(zygote, bert, small_disk(8), sizes, runs.contents(made_caches()))


@pytest.mark.slow
def test_no_room_at_every_stage(
    zygote: Zygote, bert: Path, small_disk: Callable[..., Path], made_caches: Callable
) -> None:
    sizes = [f"size={kib}k" for kib in range(8, 500, 4)]
    no_room_at_any_stage(zygote, bert, small_disk(8), sizes, runs.contents(made_caches()))


@pytest.mark.slow
def test_no_room_for_another_file(
    zygote: Zygote, bert: Path, small_disk: Callable[..., Path], made_caches: Callable
) -> None:
    """A file system may run out of files before it runs out of bytes."""
    counts = [f"nr_inodes={count}" for count in range(4, 80, 2)]
    no_room_at_any_stage(zygote, bert, small_disk(8000, 3), counts, runs.contents(made_caches()))


def test_a_disk_that_fails_is_one_line(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The same without a small disk: the eighth write fails, in the thread that writes."""
    data, out = runs.write_csv(tmp_path / "train.csv"), tmp_path / "out"
    written, pwrite = [], os.pwrite

    def fill(descriptor: int, view: memoryview, place: int) -> int:
        written.append(place)
        if ".h5.tmp-" in os.readlink(f"/proc/self/fd/{descriptor}") and len(written) > 60:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return pwrite(descriptor, view, place)

    monkeypatch.setattr(os, "pwrite", fill)
    monkeypatch.setattr("sys.argv", ["glot", *command(bert, data, out)])
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    assert_one_line(leaving.value.code, capsys.readouterr().err, "No space left on device", "make room")
    assert not list(out.rglob("*.tmp-*"))


def test_the_room_is_looked_at_first(bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(FaultError, match=r"out needs .* are free: make room, or choose another"):
        runs.extract(bert, out)
    assert not list(tmp_path.rglob("*.h5"))
    monkeypatch.undo()
    runs.extract(bert, out)
    # Of a cache that is there only what is missing needs room.
    (out / shard_file(1)).unlink()
    entry = Manifest.load(out).shards[1]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=entry.tokens * runs.TOKEN_BYTES - 1))
    with pytest.raises(FaultError, match="are free"):
        runs.extract(bert, out, rows=runs.ROWS + 4)
