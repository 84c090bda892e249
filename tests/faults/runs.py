"""Extractions that are started, killed and looked at from outside: what the tests and the soak share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from glot.corpus.examples import Corpus, Example, Split
from glot.store.layout import Manifest
from glot.store.task_spec import TaskSpec

ROOT = Path(__file__).parents[2]
WIDTH = 32  # of the tiny backbones
TOKEN_BYTES = WIDTH * 2  # float16
SHARD_BYTES = 40 * TOKEN_BYTES
ONE_SHARD: dict[str, Any] = {"shard_bytes": 2**30, "token_budget": 16}  # forwarded in many small batches
ROWS = 48  # make about a dozen shards of 40 tokens
WORDS = "cat dog mat letters door rain town autumn books ships islands market fridays river birds nest window lights"


def make_corpus(rows: int = ROWS, seed: int = 0) -> Corpus:
    """Texts of 1 to 12 words in two splits; the first rows are the same for any number of rows."""
    examples = []
    for row in range(rows):
        random = np.random.default_rng([seed, row])
        text = " ".join(random.choice(WORDS.split(), int(random.integers(1, 13))))
        examples.append(Example(row, text, None, row % 2))
    held = [example for example in examples if example.index % 4 == 3]
    train = [example for example in examples if example.index % 4 != 3]
    splits = {"train": Split("train", train, "made"), "validation": Split("validation", held, "made")}
    return Corpus(TaskSpec("made", 1, "classes", ("no", "yes")), splits)


def write_csv(path: Path, rows: int = ROWS) -> Path:
    """The same texts as a user's file."""
    examples = sorted(example for split in make_corpus(rows).splits.values() for example in split.examples)
    lines = ["text,label", *(f"{example.text},{'yes' if example.label else 'no'}" for example in examples)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def extract(backbone: Path, out: Path, rows: int = ROWS, log: str = "", **options: Any) -> Any:
    """`extract_states` over `make_corpus(rows)`; returns its summary.

    With `log`, a file, each forward is slow and adds a line to it, and what a shard holds is noted after each batch.
    """
    from glot.extract.run import ExtractOptions, extract_states
    from glot.extract.source import ModelSource

    if log:
        _slow_down(Path(log))

    options = {"max_tokens": WIDTH, "shard_bytes": SHARD_BYTES, "device": "cpu", **options}
    for name in ("layers", "part"):
        if options.get(name) is not None:
            options[name] = tuple(options[name])
    return extract_states(make_corpus(rows), ModelSource(backbone.name, str(backbone)), out, ExtractOptions(**options))


def _slow_down(log: Path) -> None:
    """For this process, which is a child of its own."""
    from glot.extract import worker
    from glot.extract.backbone import Backbone

    forward = Backbone.hidden_states
    worker.NOTE_SECONDS = 0.0

    def slow(self: Backbone, ids: Any, mask: Any, layers: tuple[int, ...]) -> Any:
        if len(ids) * ids.shape[1] <= ONE_SHARD["token_budget"]:  # none of those that try the backbone out
            with log.open("a") as file:
                file.write(f"{int(mask.sum())}\n")
            time.sleep(0.01)
        return forward(self, ids, mask, layers)

    Backbone.hidden_states = slow  # type: ignore[method-assign]


class Zygote:
    """The client of `zygote.py`: starts runs, waits for them, kills them."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.errors = open(Path(self.folder.name) / "errors", "w+")  # noqa: SIM115 - `close` closes it
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.zygote"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        self.ended: dict[int, int] = {}
        self.outputs: dict[int, Path] = {}
        self.count = 0
        assert "ready" in self._event()

    def extract(self, backbone: Path, out: Path, **values: Any) -> int:
        """Start an extraction; gives its process id."""
        return self._start({"extract": {"backbone": str(backbone), "out": str(out), **values}})

    def glot(self, *words: object) -> int:
        """Start a command line of `glot`; gives its process id."""
        return self._start({"argv": [str(word) for word in words]})

    def wait(self, pid: int) -> int:
        """The exit code of a run, after its end; minus the signal where one killed it."""
        while pid not in self.ended:
            event = self._event()
            self.ended[event["pid"]] = event["code"]
        return self.ended.pop(pid)

    def is_running(self, pid: int) -> bool:
        """Whether a run has not ended; one that has is asked for by the process that forked it, and then gone."""
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True

    def kill_after(self, pid: int, seconds: float) -> bool:
        """Kill a run with SIGKILL after so many seconds; False where it had ended by then."""
        time.sleep(seconds)
        # A process stays a zombie until it is waited for, so its id cannot be another's yet, or it was announced.
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        return self.wait(pid) == -signal.SIGKILL

    def finish(self, pid: int) -> str:
        """Wait for a run that must succeed; gives what it printed."""
        code = self.wait(pid)
        assert code == 0, f"a run ended with {code}: {self.output(pid)}"
        return self.output(pid)

    def output(self, pid: int) -> str:
        """What a run printed."""
        return self.outputs[pid].read_text(errors="replace")

    def close(self) -> None:
        """End the process; children that still run go on."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()
        self.folder.cleanup()

    def _start(self, request: dict[str, Any]) -> int:
        self.count += 1
        output = Path(self.folder.name) / f"{self.count}.txt"
        print(json.dumps({**request, "output": str(output)}), file=self.process.stdin, flush=True)
        while "code" in (event := self._event()):
            self.ended[event["pid"]] = event["code"]
        self.outputs[event["pid"]] = output
        return event["pid"]

    def _event(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise RuntimeError(f"the process that forks runs has ended: {self.errors.read()[-2000:]}")
        return json.loads(line)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a cache and its bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def published(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of last change of every shard that has its final name."""
    found = {path.name: path.stat() for path in folder.glob("shard-*.h5")}
    return {name: (status.st_ino, status.st_mtime_ns) for name, status in found.items()}


def leftovers(folder: Path) -> list[str]:
    """The files of a folder that its manifest does not name."""
    manifest = Manifest.load(folder)
    named = {"manifest.json", manifest.plan.data.file}
    named |= {entry.data.file for entry in (*manifest.examples.values(), *manifest.shards.values())}
    return sorted(contents(folder).keys() - named)


def differences(folder: Path, expected: dict[str, bytes]) -> list[str]:
    """The files in which a folder differs from `contents` of another."""
    found = contents(folder)
    return sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))


def flip(path: Path, place: int, mask: int = 0x10) -> None:
    """Change one byte of a file."""
    with open(path, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ mask]))
