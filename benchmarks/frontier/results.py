"""What was measured: a JSON line a task, backbone, method and sample."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

METHODS = {
    "logistic": "logistic regression",
    "logistic-best-layer": "logistic, best layer",
    "published": "GLOT, published",
    "adapool": "AdaPool",
    "strong": "GLOT, strong",
    "tuned": "GLOT, tuned",
    "setfit": "SetFit",
    "lora": "LoRA, r = 64",
    "full": "full fine-tuning",
}
ALL_LAYERS = ("logistic-best-layer", "strong", "tuned")  # these read a cache of every layer
LAST_LAYER = ("logistic", "published", "adapool")  # these one of the last alone
SEARCHED = ("lora", "full")  # the first sample chooses the learning rate of all
SCORES = {"sst2": ("accuracy",), "mrpc": ("accuracy", "f1"), "cola": ("mcc",), "stsb": ("mean correlation",)}
FAMILIES = {"sst2": "SST-2", "mrpc": "MRPC", "cola": "CoLA", "stsb": "STS-B"}

Key = tuple[str, str, str, int]


@dataclass(frozen=True)
class TaskName:
    """A task of GLUE, whole or a sample: "sst2", or "sst2-600" for 600 training rows, half of each class."""

    family: str
    size: int | None = None

    @classmethod
    def parse(cls, name: str) -> TaskName:
        """Raises ValueError for a name that is none."""
        family, dash, size = name.partition("-")
        if family not in FAMILIES or (dash and not (size.isdecimal() and int(size) >= 8 and int(size) % 2 == 0)):
            raise ValueError(f"--tasks takes {', '.join(FAMILIES)}, and samples as in sst2-600; got {name!r}")
        if dash and family == "stsb":
            raise ValueError("--tasks: samples have as many rows of each class, and stsb has no classes; take it whole")
        return cls(family, int(size) if dash else None)

    @property
    def title(self) -> str:
        """As a report says it."""
        return FAMILIES[self.family] + (f", {self.size:,} rows" if self.size else "")


@dataclass(frozen=True)
class Measured:
    """One line of the results. Scores are fractions.

    Attributes:
        processor_seconds: what training costs, extraction, search and the choice of everything else counted; neither
            the start (imports, loading the model and the texts) nor the scoring is in it.
        extraction_seconds, search_seconds: parts of it: of forwarding the training texts; of the learning rates that
            were tried and not taken (those of the first sample count in every other).
        setup_seconds, scoring_seconds: processor seconds beside it.
        wall_seconds: of the whole process. parameters: how many numbers were trained.
        device: what trained; processor seconds of anything but a "cpu" are no cost that compares.
        chosen: what the training examples chose. versions: of this project and of the libraries that matter.
        not_done: why there is no score; "" where there is one.
    """

    task: str
    model: str
    method: str
    sample: int
    scores: dict[str, float] = field(default_factory=dict)
    processor_seconds: float = 0.0
    extraction_seconds: float = 0.0
    search_seconds: float = 0.0
    setup_seconds: float = 0.0
    scoring_seconds: float = 0.0
    wall_seconds: float = 0.0
    parameters: int = 0
    device: str = "cpu"
    chosen: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    not_done: str = ""

    @property
    def key(self) -> Key:
        """What tells it from others."""
        return self.task, self.model, self.method, self.sample


def load_results(path: Path) -> dict[Key, Measured]:
    """All that was measured, of equal keys the latest; a last line that was cut off is left out."""
    found: dict[Key, Measured] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            measured = Measured(**json.loads(line))
        except ValueError:
            continue  # the machine stopped while it was written
        found[measured.key] = measured
    return found


def append_result(path: Path, measured: Measured) -> None:
    """Add a line, on a line of its own even after one that was cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        if file.tell():
            file.seek(-1, 2)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(asdict(measured)).encode() + b"\n")


def score_of(family: str, metrics: dict[str, float]) -> dict[str, float]:
    """The scores that are reported, of the metrics that the task has; the first of them is the main one."""
    if family == "stsb":
        return {"mean correlation": (metrics["spearman"] + metrics["pearson"]) / 2}
    return {name: metrics[name] for name in SCORES[family]}


def samples_of(results: Iterable[Measured], task: str, model: str, method: str) -> list[Measured]:
    """The lines of a method, by sample."""
    chosen = [one for one in results if (one.task, one.model, one.method) == (task, model, method)]
    return sorted(chosen, key=lambda one: one.sample)
