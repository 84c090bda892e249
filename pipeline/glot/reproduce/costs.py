"""The table of costs: what each way to train takes here, beside the paper's row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glot.errors import FaultError
from glot.report.cells import NOTHING
from glot.report.figures import Bars, Picture
from glot.report.methods import GREY, colour_of
from glot.report.results import read_record
from glot.report.sections import Block, Entry, Heading, Prose, Section, Table, words
from glot.reproduce.published import read_published

EXPLANATION = """\
All ways see the same batches in one run. Memory is of tensors at the peak of a step; "pays after" are the epochs, of \
any heads, in which the other way takes as much longer as extraction takes once. The paper measured one setting, on \
Mistral-7B and a GPU that it does not name."""


PAPER_TITLE = "The paper: Mistral-7B, a GPU"
PAPER_HEADER = ["way", "trained", "memory", "a step"]


@dataclass(frozen=True)
class CostTable:
    """One `cost.json` (see `glot.reproduce.cost.CostRecord`): where it lies, and what it says."""

    path: Path
    data: dict[str, Any]

    @property
    def title(self) -> str:
        """Model, task, device."""
        data = self.data
        where = f"{data['device']}, {data['threads']} threads" if data["device"] == "CPU" else data["device"]
        return (
            f"{data['model']}, {data['task']} ({data['examples']:,} examples, batches of {data['batch_size']}), {where}"
        )

    @property
    def header(self) -> list[str]:
        """The headings of the table's columns; the first is over the names."""
        return [*PAPER_HEADER, f"{self.data['epochs']} epochs", "step over GLOT's", "pays after"]

    def rows(self) -> list[list[str]]:
        """A line of the table for each way."""
        ways, epochs = self.data["costs"], self.data["epochs"]
        ours = ways[-1]
        steps = epochs * -(-self.data["examples"] // self.data["batch_size"])
        rows = []
        for way in ways:
            saved = (way["step"] - ours["step"]) * steps / epochs
            rows.append(
                [
                    way["name"],
                    f"{way['parameters'] / 1e6:,.2f} M",
                    f"{way['bytes'] / 2**30:,.2f} GiB",
                    f"{1e3 * way['step']:,.1f} ms",
                    f"{way['training']:,.0f} s",
                    f"{way['step'] / ours['step']:,.1f}",
                    NOTHING if way is ours or saved <= 0 else f"{ours['before'] / saved:.2f} epochs",
                ]
            )
        return rows


def find_costs(folders: Sequence[Path]) -> list[CostTable]:
    """All measurements below some folders; raises FaultError for a damaged one."""
    paths = dict.fromkeys(path for folder in folders for path in sorted(folder.rglob("cost.json")))
    tables = [CostTable(path, read_record(path)) for path in paths]
    for table in tables:
        try:
            table.title, table.rows()
        except (KeyError, TypeError, IndexError, ZeroDivisionError, AttributeError) as error:
            raise FaultError(f"{table.path} is damaged: {error!r}; remove it and run again") from None
    return tables


def published_rows() -> list[list[str]]:
    """The paper's table, as `CostTable.rows` has ours."""
    return [
        [row["method"], f"{row['trained_millions']} M", f"{row['memory_gb']} GB", f"{row['step_ms']} ms"]
        for row in published_costs()
    ]


def published_costs() -> list[dict[str, str]]:
    """The paper's table: method, trained_millions, memory_gb, step_ms."""
    return read_published("efficiency.csv")


def costs_section(tables: Sequence[CostTable]) -> Section:
    """The tables of costs, the paper's after ours, and bars of the steps."""
    data = {"costs": [{**table.data, "path": table.path} for table in tables]}
    title = "What a label costs"
    if not tables:
        return Section(title, [], order=3, data=data)
    blocks: list[Block] = [Prose(EXPLANATION)]
    panels = []
    for table in tables:
        blocks += [Heading(table.title), Table(table.title, table.header, _rows(table.rows()))]
        panels.append(_bars(table.title, [(way["name"], 1e3 * way["step"]) for way in table.data["costs"]]))
    blocks += [Heading(PAPER_TITLE), Table(PAPER_TITLE, PAPER_HEADER, _rows(published_rows()))]
    panels.append(_bars(PAPER_TITLE, [(row["method"], float(row["step_ms"])) for row in published_costs()]))
    blocks.append(Picture("Milliseconds a step", panels, columns=1, file="costs.png", width=7))
    return Section(title, blocks, "costs", order=3, data=data)


def _rows(rows: Sequence[Sequence[str]]) -> list[tuple[str, list[Entry]]]:
    return [(row[0], words(row[1:])) for row in rows]


def _bars(title: str, ways: Sequence[tuple[str, float]]) -> Bars:
    bars = [
        (name, value, f"{value:,.1f} ms", colour_of("glot") if name.startswith("GLOT") else GREY)
        for name, value in ways
    ]
    return Bars(title, "milliseconds a step, logarithmic", bars)
