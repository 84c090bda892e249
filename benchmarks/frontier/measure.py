"""One method on one sample, in a process of its own: `python -m benchmarks.frontier.measure SPEC.json OUT.json`."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.few import sample
from benchmarks.frontier.results import METHODS, Measured, TaskName, score_of
from glot.corpus.examples import Example
from glot.errors import UsageError
from glot.store.task_spec import TaskSpec

LIBRARIES = ("torch", "transformers", "scikit-learn", "peft", "optuna")


@dataclass(frozen=True)
class Spec:
    """What is to be measured.

    Attributes:
        cache: the cache that the method reads; "" for one that reads none. cache_rate: processor seconds that a token
            of it took.
        settled: what the first sample found out for this one: `rate`, and `search_seconds`.
        scratch: an empty folder to work in.
        minutes: of search, for `tuned`.
        device: what trains; the regressions compute on the processor in any case.
    """

    task: str
    model: str
    method: str
    sample: int
    data_dir: str
    scratch: str
    threads: int = 1
    cache: str = ""
    cache_rate: float = 0.0
    settled: dict[str, float] = field(default_factory=dict)
    setfit_python: str = ""
    minutes: float = 10.0
    device: str = "cpu"


def processor_seconds() -> float:
    """Of this process and of those that it started and waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


class Meter:
    """Processor seconds by what they were spent on; what is named nothing else is setup."""

    def __init__(self) -> None:
        self.spent = {"training": 0.0, "scoring": 0.0}

    @contextmanager
    def on(self, what: str) -> Iterator[None]:
        """Counts what happens in the block."""
        began = processor_seconds()
        yield
        self.spent[what] += processor_seconds() - began

    def take(self, spent: dict[str, float]) -> None:
        """Take over what another process counted of itself."""
        for what, seconds in spent.items():
            self.spent[what] = self.spent.get(what, 0.0) + seconds

    @property
    def setup(self) -> float:
        """The rest, so far."""
        return self.spent.get("setup", processor_seconds() - sum(self.spent.values()))


@dataclass
class Case:
    """A spec with its texts: all training rows, and the validation set."""

    spec: Spec
    meter: Meter
    every_row: list[Example]
    dev: list[Example]
    task: TaskSpec

    @classmethod
    def of(cls, spec: Spec, meter: Meter) -> Case:
        """Read the texts; raises UsageError where they are not there."""
        from glot.corpus.load import load_task

        corpus = load_task(TaskName.parse(spec.task).family, ["train", "validation"], Path(spec.data_dir))
        splits = corpus.splits
        return cls(spec, meter, list(splits["train"].examples), list(splits["validation"].examples), corpus.spec)

    @property
    def family(self) -> str:
        """The task without the number of its rows."""
        return TaskName.parse(self.spec.task).family

    @cached_property
    def rows(self) -> np.ndarray:
        """Indices of the training rows that are taken, the same for all methods; raises UsageError for too few."""
        size = TaskName.parse(self.spec.task).size
        if size is None:
            return np.arange(len(self.every_row))
        labels = np.asarray([row.label for row in self.every_row])
        chosen = sample(labels, size, self.spec.sample)
        if len(chosen) < size:
            raise UsageError(f"{self.spec.task}: the task has too few rows of a class for a sample of {size:,}")
        return chosen

    @property
    def train(self) -> list[Example]:
        """The examples that may be learned from."""
        return [self.every_row[row] for row in self.rows]


@dataclass
class Outcome:
    """What a method leaves: (m,) predictions in the labels' own units, with the labels beside them."""

    predictions: np.ndarray
    labels: np.ndarray
    parameters: int
    chosen: dict[str, Any] = field(default_factory=dict)
    extraction_seconds: float = 0.0
    search_seconds: float = 0.0
    versions: dict[str, str] = field(default_factory=dict)


def measure(spec: Spec) -> Measured:
    """Train the method, score it once, and say what it took."""
    import torch

    from glot.fit.metrics import compute_metrics

    began = time.monotonic()
    torch.set_num_threads(spec.threads)
    meter = Meter()
    case = Case.of(spec, meter)
    outcome = _method(spec.method)(case)
    metrics = compute_metrics(case.task.metrics, outcome.predictions, outcome.labels)
    return Measured(
        task=spec.task,
        model=spec.model,
        method=spec.method,
        sample=spec.sample,
        scores={**metrics, **score_of(case.family, metrics)},
        processor_seconds=meter.spent["training"] + outcome.extraction_seconds + outcome.search_seconds,
        extraction_seconds=outcome.extraction_seconds,
        search_seconds=outcome.search_seconds,
        setup_seconds=meter.setup,
        scoring_seconds=meter.spent["scoring"],
        wall_seconds=time.monotonic() - began,
        parameters=outcome.parameters,
        device=spec.device,
        chosen=outcome.chosen,
        versions={**_versions(), **outcome.versions},
    )


def _method(name: str) -> Callable[[Case], Outcome]:
    from benchmarks.frontier import finetune, heads

    ways = {
        "logistic": heads.logistic,
        "logistic-best-layer": heads.logistic_best_layer,
        "published": heads.fitted,
        "adapool": heads.fitted,
        "strong": heads.fitted,
        "tuned": heads.tuned,
        "setfit": finetune.setfit,
        "lora": finetune.fine_tuned,
        "full": finetune.fine_tuned,
    }
    assert ways.keys() == METHODS.keys()
    return ways[name]


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    """Read the spec, write what was measured."""
    given, out = map(Path, sys.argv[1:])
    measured = measure(Spec(**json.loads(given.read_text())))
    out.write_text(json.dumps(asdict(measured)))


if __name__ == "__main__":
    main()
