"""Claims: one worker at a piece at a time, and nobody waits for the dead."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from glot.errors import FaultError
from glot.store import claims as room
from glot.store.claims import Claims, Owner

ROOT = Path(room.__file__).parents[2]
FIVE_MINUTES = 300


def write_claim(folder: Path, name: str = "plan", **changes: object) -> Path:
    """A claim of this process, or of whatever `changes` make of it."""
    path = folder / f"{name}.claim"
    path.write_text(json.dumps({**vars(Owner.me()), **changes}))
    return path


def age(path: Path, seconds: float) -> None:
    touched = time.time() - seconds
    os.utime(path, (touched, touched))


@pytest.fixture
def start_python() -> Callable[..., subprocess.Popen]:
    """Start another process; it is waited for after the test."""
    started = []

    def start(code: str, *arguments: object) -> subprocess.Popen:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        started.append(subprocess.Popen(command, cwd=ROOT, stdin=-1, stdout=-1, stderr=-1, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


HOLD = """
import os, sys
from pathlib import Path
from glot.store.claims import Claims

claims = Claims(Path(sys.argv[1]))
claims.__enter__()
print(claims.acquire("plan"), flush=True)
sys.stdin.readline()
os._exit(9)
"""


def test_the_second_is_refused_and_the_first_is_named(tmp_path: Path, start_python: Callable) -> None:
    holder = start_python(HOLD, tmp_path)
    assert holder.stdout.readline() == "True\n"
    with Claims(tmp_path) as claims:
        assert not claims.acquire("plan")
        owner = claims.owner("plan")
        assert owner.pid == holder.pid
        assert re.fullmatch(rf"process {holder.pid} on .+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d UTC", str(owner))
        assert claims.acquire("shard-00000")  # another piece is free
    assert [path.name for path in tmp_path.iterdir()] == ["plan.claim"]


def test_the_claim_of_a_process_that_died_is_taken_over_at_once(tmp_path: Path, start_python: Callable) -> None:
    holder = start_python(HOLD, tmp_path)
    assert holder.stdout.readline() == "True\n"
    holder.communicate("die\n")
    assert (tmp_path / "plan.claim").exists()
    with Claims(tmp_path) as claims:
        assert claims.owner("plan").is_dead
        assert claims.acquire("plan")
        assert claims.owner("plan").pid == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_died_is_dead_although_nobody_waited_for_it(tmp_path: Path, start_python: Callable) -> None:
    """A launcher that waits for its first worker leaves the others, killed, as zombies."""
    holder = start_python(HOLD, tmp_path)
    assert holder.stdout.readline() == "True\n"
    holder.stdin.write("die\n")
    holder.stdin.flush()
    assert holder.stdout.read() == ""  # its end is closed, the process is gone, and not waited for
    deadline = time.monotonic() + 60
    with Claims(tmp_path) as claims:
        while not claims.acquire("plan"):
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_takeover_that_was_broken_off_holds_up_nobody_for_long(tmp_path: Path) -> None:
    write_claim(tmp_path, started=Owner.me().started - 1)
    takeover = tmp_path / "plan.claim.takeover"
    takeover.touch()
    with Claims(tmp_path) as claims:
        assert not claims.acquire("plan")
        age(takeover, FIVE_MINUTES + 1)
        assert any(claims.acquire("plan") for _ in range(2))
    assert list(tmp_path.iterdir()) == []


def test_a_pid_that_is_used_again_is_another_process(tmp_path: Path) -> None:
    write_claim(tmp_path, started=Owner.me().started - 1)
    with Claims(tmp_path) as claims:
        assert claims.acquire("plan")


def test_within_one_process_a_claim_is_held_once(tmp_path: Path) -> None:
    with Claims(tmp_path) as first, Claims(tmp_path) as second:
        assert first.acquire("plan")
        assert not second.acquire("plan")
        first.release("plan")
        assert second.acquire("plan")
        assert not first.acquire("plan")


ELSEWHERE = [{"machine": "another boot", "host": "far"}, {"machine": "another boot", "host": "far", "pid": 2**40}]


@pytest.mark.parametrize("owner", ELSEWHERE)
def test_a_claim_of_another_machine_stands_while_it_is_touched(tmp_path: Path, owner: dict) -> None:
    path = write_claim(tmp_path, **owner)
    for seconds in (0, 60, FIVE_MINUTES - 60):
        age(path, seconds)
        with Claims(tmp_path) as claims:
            assert not claims.acquire("plan")
            assert claims.owner("plan").host == "far"
    age(path, FIVE_MINUTES + 1)
    with Claims(tmp_path) as claims:
        assert claims.acquire("plan")
        assert claims.owner("plan").pid == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"host": "x"}', '{"pid": "x"}', "\x00" * 40])
def test_a_claim_that_nobody_can_read_stands_five_minutes(tmp_path: Path, content: str) -> None:
    path = tmp_path / "plan.claim"
    path.write_text(content)
    with Claims(tmp_path) as claims:
        assert not claims.acquire("plan")
        assert claims.owner("plan") is None
        age(path, FIVE_MINUTES + 1)
        assert claims.acquire("plan")


def test_what_a_claim_says_is_not_trusted(tmp_path: Path) -> None:
    for changes in ({"pid": -1}, {"pid": "x"}, {"pid": None}, {"pid": 0}, {"pid": 2**80}, {"pid": []}):
        path = write_claim(tmp_path, **changes)
        with Claims(tmp_path) as claims:
            claims.acquire("plan")  # either way, but no crash
        path.unlink(missing_ok=True)


def test_claims_are_kept_fresh_as_long_as_they_are_held(tmp_path: Path) -> None:
    with Claims(tmp_path, refresh=0.02) as claims:
        assert claims.acquire("plan")
        assert claims.acquire("shard-00001")
        for name in ("plan", "shard-00001"):
            age(claims.path(name), FIVE_MINUTES + 1)
        deadline = time.monotonic() + 60
        while any(time.time() - claims.path(name).stat().st_mtime > 60 for name in ("plan", "shard-00001")):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        claims.release("plan")
        time.sleep(0.1)
        assert not claims.path("plan").exists()  # a touch does not bring it back


def test_leaving_the_block_gives_everything_back(tmp_path: Path) -> None:
    def interrupted() -> None:
        with Claims(tmp_path) as claims:
            for name in ("plan", "shard-00001", "shard-00002"):
                assert claims.acquire(name)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_was_taken_over_is_not_given_back(tmp_path: Path) -> None:
    with Claims(tmp_path) as claims:
        assert claims.acquire("plan")
        write_claim(tmp_path, pid=1, machine="another boot")
    assert Claims(tmp_path).owner("plan").pid == 1


RACE = """
import os, sys, time
from pathlib import Path
from glot.store.claims import Claims

folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
won = []
for number in range(rounds):
    name = f"shard-{number:05d}"
    while not (folder / f"go-{number}").exists():
        pass
    claims = Claims(folder)
    won.append(str(int(claims.acquire(name))))
    (folder / f"done-{number}-{os.getpid()}").touch()
    while not (folder / f"over-{number}").exists():
        time.sleep(0.0005)
print("".join(won))
"""


@pytest.mark.parametrize("is_dead", [True, False], ids=["dead", "untouched"])
def test_of_several_who_find_a_stale_claim_one_gets_it(tmp_path: Path, start_python: Callable, is_dead: bool) -> None:
    rounds = 100
    takers = [start_python(RACE, tmp_path, rounds) for _ in range(3)]
    changes = {"started": Owner.me().started - 1} if is_dead else {"machine": "another boot"}
    for number in range(rounds):
        age(write_claim(tmp_path, f"shard-{number:05d}", **changes), FIVE_MINUTES + 1)
        (tmp_path / f"go-{number}").touch()
        deadline = time.monotonic() + 60
        while len(list(tmp_path.glob(f"done-{number}-*"))) < len(takers):
            assert time.monotonic() < deadline
            assert all(taker.poll() is None for taker in takers), [taker.communicate() for taker in takers]
            time.sleep(0.0005)
        (tmp_path / f"over-{number}").touch()
    wins = [taker.communicate(timeout=60)[0].strip() for taker in takers]
    assert [sum(map(int, column)) for column in zip(*wins, strict=True)] == [1] * rounds
    assert not list(tmp_path.glob("*.tmp-*"))


def test_two_threads_of_one_process_are_two_workers(tmp_path: Path) -> None:
    together = Barrier(2)

    def take(number: int) -> bool:
        together.wait()
        return Claims(tmp_path).acquire(f"shard-{number:05d}")

    with ThreadPoolExecutor(2) as pool:
        rounds = [list(pool.map(take, [number, number])) for number in range(200)]
    assert [sum(won) for won in rounds] == [1] * len(rounds)
    assert not list(tmp_path.glob("*.tmp-*"))


def test_a_folder_without_room_is_named(tmp_path: Path) -> None:
    with Claims(tmp_path / "nowhere") as claims, pytest.raises(FaultError, match="nowhere is gone"):
        claims.acquire("plan")
