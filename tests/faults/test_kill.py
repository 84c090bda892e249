"""A run may be killed at any moment, alone or beside another: the next one goes on and ends with the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glot.extract.worker import IN_FLIGHT
from glot.store.claims import STALE_SECONDS
from tests.faults import runs
from tests.faults.runs import ROOT, Zygote

pytestmark = pytest.mark.slow  # with the others of this folder a minute

GROWN = runs.ROWS + 24
PATIENCE = 120.0  # seconds that a run may take before a test gives up on it


@dataclass
class Unbroken:
    """An extraction without a mishap: its files, and how long it took."""

    files: dict[str, bytes]
    seconds: float


@pytest.fixture(scope="module")
def unbroken(zygote: Zygote, bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    seconds = []
    for number in range(3):  # the first warms up the disk's cache
        out = tmp_path_factory.mktemp("unbroken") / f"{number}"
        started = time.monotonic()
        zygote.finish(zygote.extract(bert, out))
        seconds.append(time.monotonic() - started)
    return Unbroken(runs.contents(out), min(seconds))


def assert_unbroken(out: Path, expected: dict[str, bytes], before: dict[str, tuple[int, int]], what: str) -> None:
    """Byte for byte what an unbroken run leaves, nothing else, and no shard of `before` was made twice."""
    assert runs.leftovers(out) == [], what
    assert runs.differences(out, expected) == [], what
    after = runs.published(out)
    assert {name: after[name] for name in before} == before, f"{what}: a finished shard was made again"


def kill_and_go_on(zygote: Zygote, bert: Path, out: Path, unbroken: Unbroken, seed: int) -> int:
    """One to three kills at random moments, then a run to the end; returns how many runs were really killed."""
    random = np.random.default_rng(seed)
    killed, before = 0, {}
    for _ in range(int(random.integers(1, 4))):
        was_killed = zygote.kill_after(zygote.extract(bert, out), float(random.uniform(0, unbroken.seconds)))
        now = runs.published(out)
        assert {name: now.get(name) for name in before} == before, f"seed {seed}: a finished shard went away"
        killed, before = killed + was_killed, now
        if not was_killed:
            break
    zygote.finish(zygote.extract(bert, out))
    assert_unbroken(out, unbroken.files, before, f"seed {seed}")
    return killed


def test_killed_at_a_random_moment(zygote: Zygote, bert: Path, tmp_path: Path, unbroken: Unbroken) -> None:
    killed, seed = 0, 0
    while killed < 5:
        killed += kill_and_go_on(zygote, bert, tmp_path / f"{seed}", unbroken, seed)
        seed += 1


@pytest.mark.slow
def test_killed_at_fifty_random_moments(zygote: Zygote, bert: Path, tmp_path: Path, unbroken: Unbroken) -> None:
    killed, seed = 0, 1000
    while killed < 50:
        killed += kill_and_go_on(zygote, bert, tmp_path / f"{seed}", unbroken, seed)
        seed += 1


# A cache of one shard: what was forwarded of it is kept


def kill_at_line(zygote: Zygote, pid: int, log: Path, random: np.random.Generator) -> bool:
    """Kill a run some forwards from now on; False where it ended before."""
    wanted = len(log.read_text().split()) + int(random.integers(3, 12))
    while len(log.read_text().split()) < wanted and zygote.is_running(pid):
        time.sleep(0.001)
    return zygote.kill_after(pid, float(random.uniform(0, 0.02)))


def kill_in_one_shard(zygote: Zygote, bert: Path, tmp_path: Path, kills: int) -> None:
    """Kill runs at random moments, each going on where the last one was killed, until so many were killed.

    A kill loses at most the batches that were being forwarded or waited to be written.
    """
    zygote.finish(zygote.extract(bert, tmp_path / "unbroken", log=str(tmp_path / "unbroken.log"), **runs.ONE_SHARD))
    whole = [int(line) for line in (tmp_path / "unbroken.log").read_text().split()]
    expected = runs.contents(tmp_path / "unbroken")
    killed, number = 0, 0
    while killed < kills:
        out, log, here = tmp_path / f"{number}", tmp_path / f"{number}.log", 0
        random = np.random.default_rng(number)
        log.touch()
        while kill_at_line(zygote, zygote.extract(bert, out, log=str(log), **runs.ONE_SHARD), log, random):
            here += 1
        assert runs.leftovers(out) == []
        assert runs.differences(out, expected) == []
        twice = len(log.read_text().split()) - len(whole)
        assert 0 <= twice <= (IN_FLIGHT + 1) * here, f"{number}: {here} kills"
        killed, number = killed + here, number + 1


def test_killed_in_the_middle_of_a_shard(zygote: Zygote, bert: Path, tmp_path: Path) -> None:
    kill_in_one_shard(zygote, bert, tmp_path, 4)


@pytest.mark.slow
def test_killed_fifty_times_in_the_middle_of_a_shard(zygote: Zygote, bert: Path, tmp_path: Path) -> None:
    kill_in_one_shard(zygote, bert, tmp_path, 50)


@pytest.mark.slow
def test_killed_while_a_cache_grows(zygote: Zygote, bert: Path, tmp_path: Path) -> None:
    """What was there before stays readable at every moment, and ends as if nothing had happened."""
    zygote.finish(zygote.extract(bert, tmp_path / "whole"))
    small = runs.contents(tmp_path / "whole")
    started = time.monotonic()
    zygote.finish(zygote.extract(bert, tmp_path / "whole", rows=GROWN))
    seconds, grown = time.monotonic() - started, runs.contents(tmp_path / "whole")
    for seed in range(12):
        out, random = tmp_path / f"{seed}", np.random.default_rng(seed)
        for name, data in small.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            (out / name).write_bytes(data)
        zygote.kill_after(zygote.extract(bert, out, rows=GROWN), float(random.uniform(0, seconds)))
        before = runs.published(out)
        assert before.keys() >= {name for name in small if name.startswith("shard-")}
        zygote.finish(zygote.extract(bert, out, rows=GROWN))
        assert_unbroken(out, grown, before, f"seed {seed}")


# The command itself


def command_line(bert: Path, data: Path, out: Path) -> list[str]:
    # 60 KiB a text at most: shards of 1 MiB hold some twenty texts.
    words = ["extract", "--model", bert, "--data", data, "--out", out, "--shard-mb", 1, "--device", "cpu"]
    return [str(word) for word in [*words, "--layers", "0,1,2", "--dtype", "float32", "--max-tokens", 32]]


@dataclass
class CommandRuns:
    """Command lines over one file of texts, and what an unbroken one leaves."""

    zygote: Zygote
    bert: Path
    data: Path
    files: dict[str, bytes] = field(default_factory=dict)

    def words(self, out: Path) -> list[str]:
        return command_line(self.bert, self.data, out)


@pytest.fixture(scope="module")
def commands(zygote: Zygote, bert: Path, tmp_path_factory: pytest.TempPathFactory) -> CommandRuns:
    folder = tmp_path_factory.mktemp("command")
    made = CommandRuns(zygote, bert, runs.write_csv(folder / "train.csv", 1500))
    zygote.finish(zygote.glot(*made.words(folder / "out")))
    made.files = runs.contents(folder / "out")
    return made


def kill_command(commands: CommandRuns, out: Path, seed: int) -> None:
    """Kill `glot extract` once some of its shards are there, and go on with the same command."""
    shards = sum(name.endswith(".h5") and name.startswith("shard-") for name in commands.files)
    wanted = int(np.random.default_rng(seed).integers(0, shards // 2 + 1))
    program = [sys.executable, "-c", "from glot.commands.app import main; main()", *commands.words(out)]
    for _ in range(20):  # the command may end before it is killed, where this process has to wait for its turn
        process = subprocess.Popen(program, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        while not (out.exists() and len(runs.published(out)) >= wanted):
            if process.poll() is not None or time.monotonic() > deadline:
                break
            time.sleep(0.001)
        process.kill()
        if process.wait() == -signal.SIGKILL:
            break
        shutil.rmtree(out)
    else:
        raise AssertionError(f"seed {seed}: the command always ended before it was killed")
    before = runs.published(out)
    commands.zygote.finish(commands.zygote.glot(*commands.words(out)))
    assert_unbroken(out, commands.files, before, f"seed {seed}")


@pytest.mark.slow
def test_the_command_killed_once(commands: CommandRuns, tmp_path: Path) -> None:
    kill_command(commands, tmp_path / "out", 0)


@pytest.mark.slow
def test_the_command_killed_four_times(commands: CommandRuns, tmp_path: Path) -> None:
    for seed in range(1, 5):
        kill_command(commands, tmp_path / f"{seed}", seed)


# Two at once


def start_together(zygote: Zygote, bert: Path, out: Path, **options: Any) -> list[int]:
    return [zygote.extract(bert, out, **options) for _ in range(2)]


def test_two_at_once_make_what_one_makes(zygote: Zygote, bert: Path, tmp_path: Path, unbroken: Unbroken) -> None:
    out = tmp_path / "out"
    for pid in start_together(zygote, bert, out):
        zygote.finish(pid)
    assert_unbroken(out, unbroken.files, {}, "two at once")


def test_the_survivor_takes_over_from_the_dead(zygote: Zygote, bert: Path, tmp_path: Path, unbroken: Unbroken) -> None:
    kill_one_of_two(zygote, bert, tmp_path / "out", unbroken, 0)


@pytest.mark.slow
def test_the_survivor_takes_over_at_any_moment(zygote: Zygote, bert: Path, tmp_path: Path, unbroken: Unbroken) -> None:
    for seed in range(1, 21):
        kill_one_of_two(zygote, bert, tmp_path / f"{seed}", unbroken, seed)


def kill_one_of_two(zygote: Zygote, bert: Path, out: Path, unbroken: Unbroken, seed: int) -> None:
    random = np.random.default_rng(seed)
    pids = start_together(zygote, bert, out)
    dying = int(random.integers(2))
    zygote.kill_after(pids[dying], float(random.uniform(0.2, 1)) * unbroken.seconds)
    before = runs.published(out)
    zygote.finish(pids[1 - dying])
    assert_unbroken(out, unbroken.files, before, f"seed {seed}")


def freeze(pid: int) -> bool:
    """Stop a run where it is; False where it has ended."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
        return True
    return False


@pytest.fixture
def stopped(zygote: Zygote, bert: Path) -> Iterator[Callable[[Path, str], int]]:
    """`stopped(out, pattern)`: start a run and freeze it once a file of that name is there; killed at the end."""
    frozen: list[int] = []

    def start(out: Path, pattern: str) -> int:
        for attempt in range(20):  # the claim may be given back before the signal arrives
            folder = out.with_name(f"{out.name}-{attempt}")
            pid = zygote.extract(bert, folder)
            deadline = time.monotonic() + PATIENCE
            while zygote.is_running(pid) and not list(folder.glob(pattern)) and time.monotonic() < deadline:
                time.sleep(0.0005)
            if not freeze(pid):
                continue
            frozen.append(pid)
            if list(folder.glob(pattern)):
                folder.rename(out)
                return pid
        raise AssertionError(f"no run was ever seen with {pattern}")

    yield start
    for pid in frozen:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
        zygote.wait(pid)


@pytest.mark.parametrize("pattern", ["plan.claim", "shard-00003.claim"])
def test_the_claim_of_a_killed_worker_is_taken_over_at_once(
    zygote: Zygote, bert: Path, tmp_path: Path, unbroken: Unbroken, stopped: Callable, pattern: str
) -> None:
    out = tmp_path / "out"
    pid = stopped(out, pattern)
    os.kill(pid, signal.SIGKILL)
    zygote.wait(pid)
    before = runs.published(out)
    started = time.monotonic()
    zygote.finish(zygote.extract(bert, out))
    assert time.monotonic() - started < STALE_SECONDS  # not the five minutes of a claim whose owner cannot be asked
    assert_unbroken(out, unbroken.files, before, pattern)


def test_a_worker_that_nobody_has_waited_for_is_dead_too(
    zygote: Zygote, bert: Path, tmp_path: Path, unbroken: Unbroken
) -> None:
    """A killed process stays in the process table until its parent asks for it; some launchers never ask."""
    out = tmp_path / "out"
    script = "import json, os; from dataclasses import asdict; from glot.store.claims import Owner\n"
    script += "print(json.dumps(asdict(Owner.me())), flush=True); os.kill(os.getpid(), 9)"
    zombie = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    owner = json.loads(zombie.stdout.read())
    try:
        state = ""
        while state != "Z":
            state = Path(f"/proc/{zombie.pid}/stat").read_text().rpartition(")")[2].split()[0]
        out.mkdir()
        (out / "plan.claim").write_text(json.dumps(owner))
        pid = zygote.extract(bert, out)
        deadline = time.monotonic() + PATIENCE  # less than the five minutes of a claim whose owner cannot be asked
        while (out / "plan.claim").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        finished = not (out / "plan.claim").exists()
    finally:
        zombie.stdout.close()
        zombie.wait()
    zygote.finish(pid)
    assert finished, "the run waited for a process that is dead"
