"""What was measured of costs, and its table: what each way to train takes here, beside the paper's row."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from glot.nn.registry import GREY, POOLERS
from glot.report.cells import NOTHING
from glot.report.figures import Bars, Picture
from glot.report.results import VERSION
from glot.report.sections import Block, Heading, Prose, Section, Table, text_rows
from glot.reproduce.published import read_published, read_table
from glot.store.files import read_versioned

EXPLANATION = """\
All ways see the same batches in one run. Memory is of tensors at the peak of a step; "pays after" are the epochs, of \
any heads, in which the other way takes as much longer as extraction takes once. Scores are of trainings to their end \
(`python -m benchmarks.frontier`, see `docs/frontier.md`): validation, in percent, the mean over seeds with their \
number in brackets. The paper measured one setting, on Mistral-7B and a GPU that it does not name."""
PAPER_TITLE = "The paper: Mistral-7B, a GPU"
PAPER_HEADER = ["way", "trained", "memory", "a step"]
SCORES = "measured/frontier.csv"  # written by `python -m benchmarks.frontier --scores`
METHODS = {"full": "full", "LoRA": "lora", "frozen": "published", "GLOT": "published"}  # a way's first word


@dataclass(frozen=True)
class Cost:
    """One way's cost.

    Attributes:
        parameters: that are trained. bytes: of tensors at the peak of a step, weights and optimizer included.
        step: median seconds. before: seconds before the first step (extraction). training: seconds of all epochs,
            `before` included.
    """

    name: str
    parameters: int
    bytes: int
    step: float
    before: float
    training: float


@dataclass(frozen=True)
class CostRecord:
    """A measurement of all ways on one device, as `cost.json` holds it.

    Attributes:
        model, task, device: what was measured, and where. threads: of torch on a CPU.
        examples, batch_size: of the task. epochs: that `training` counts. costs: of each way, GLOT's last.
    """

    model: str
    task: str
    device: str
    threads: int
    examples: int
    batch_size: int
    epochs: int
    costs: list[Cost]
    version: int = 1

    @property
    def title(self) -> str:
        """Model, task, device."""
        where = f"{self.device}, {self.threads} threads" if self.device == "CPU" else self.device
        return f"{self.model}, {self.task} ({self.examples:,} examples, batches of {self.batch_size}), {where}"

    @property
    def header(self) -> list[str]:
        """The headings of the table's columns; the first is over the names."""
        metrics = " / ".join(dict.fromkeys(metric for names in self.scores().values() for metric in names))
        return [*PAPER_HEADER, f"{self.epochs} epochs", "step over GLOT's", "pays after", metrics or "score"]

    def scores(self) -> dict[str, dict[str, str]]:
        """What was measured elsewhere of the task with the model: the scores by their metric, by the method."""
        found: dict[str, dict[str, str]] = defaultdict(dict)
        for row in read_table(SCORES):
            if (row["task"], row["model"]) == (self.task, self.model):
                found[row["method"]][row["metric"]] = f"{row['percent']} ({row['samples']})"
        return dict(found)

    def rows(self) -> list[list[str]]:
        """A line of the table for each way."""
        rows, scores = [], self.scores()
        for way in self.costs:
            after, score = self.pays_after(way), scores.get(METHODS.get(re.split(r"\W", way.name)[0], ""), {})
            rows.append(
                [
                    way.name,
                    f"{way.parameters / 1e6:,.2f} M",
                    f"{way.bytes / 2**30:,.2f} GiB",
                    f"{1e3 * way.step:,.1f} ms",
                    f"{way.training:,.0f} s",
                    f"{way.step / self.costs[-1].step:,.1f}",
                    NOTHING if after is None else f"{after:.2f} epochs",
                    " / ".join(score.values()) or NOTHING,
                ]
            )
        return rows

    def pays_after(self, way: Cost) -> float | None:
        """The epochs (of any heads) after which extraction has paid for itself against a way; None: never."""
        ours = self.costs[-1]
        saved = (way.step - ours.step) * math.ceil(self.examples / self.batch_size)  # an epoch
        return ours.before / saved if saved > 0 else None


def find_costs(folders: Sequence[Path]) -> dict[Path, CostRecord]:
    """All measurements below some folders, by their files; raises FaultError for a damaged one."""
    found = {}
    for path in dict.fromkeys(path for folder in folders for path in sorted(folder.rglob("cost.json"))):
        found[path] = read_versioned(path, VERSION, _read_cost, "; remove it and run again")
    return found


def _read_cost(data: dict[str, Any]) -> CostRecord:
    record = CostRecord(**{**data, "costs": [Cost(**way) for way in data["costs"]]})
    record.title, record.rows()  # raise where its numbers are none
    return record


def costs_section(found: Mapping[Path, CostRecord]) -> Section:
    """The tables of costs, the paper's after ours, and bars of the steps."""
    data = {"costs": [{**asdict(record), "path": path} for path, record in found.items()]}
    title = "What a label costs"
    if not found:
        return Section(title, [], order=3, data=data)
    blocks: list[Block] = [Prose(EXPLANATION)]
    panels = []
    for record in found.values():
        blocks += [Heading(record.title), Table(record.title, record.header, text_rows(record.rows()))]
        if strong := record.scores().get("strong"):
            blocks.append(Prose(f"With `--preset strong` GLOT's scores are {' / '.join(strong.values())}."))
        panels.append(_bars(record.title, [(way.name, 1e3 * way.step) for way in record.costs]))
    published = read_published("efficiency.csv")
    rows = [
        [row["method"], f"{row['trained_millions']} M", f"{row['memory_gb']} GB", f"{row['step_ms']} ms"]
        for row in published
    ]
    blocks += [Heading(PAPER_TITLE), Table(PAPER_TITLE, PAPER_HEADER, text_rows(rows))]
    panels.append(_bars(PAPER_TITLE, [(row["method"], float(row["step_ms"])) for row in published]))
    blocks.append(Picture("Milliseconds a step", panels, columns=1, file="costs.png", width=7))
    return Section(title, blocks, "costs", order=3, data=data)


def _bars(title: str, ways: Sequence[tuple[str, float]]) -> Bars:
    bars = [
        (name, value, f"{value:,.1f} ms", POOLERS["glot"].colour if name.startswith("GLOT") else GREY)
        for name, value in ways
    ]
    return Bars(title, "milliseconds a step, logarithmic", bars)
