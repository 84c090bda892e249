"""The table of costs: what each way to train takes here, beside the paper's row."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glot.errors import FaultError
from glot.report.cells import NOTHING, markdown_table
from glot.report.figures import picture_line, save_picture
from glot.report.results import VERSION
from glot.report.styles import GREY, colour_of
from glot.store.files import check_version, read_json, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPLANATION = """\
All ways see the same batches in one run. Memory is of tensors at the peak of a step; "pays after" are the epochs, of \
any heads, in which the other way takes as much longer as extraction takes once. The paper measured one setting, on \
Mistral-7B and a GPU that it does not name."""


PAPER_TITLE = "The paper: Mistral-7B, a GPU"
PAPER_HEADER = ["", "trained", "memory", "a step"]


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
        """The headings of the table's columns; the first is empty."""
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
    tables = [CostTable(path, read_json(path)) for path in paths]
    for table in tables:
        try:
            check_version(table.path, table.data, VERSION)
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
    with files("glot.report").joinpath("published", "efficiency.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_costs(tables: Sequence[CostTable], out: Path) -> list[Path]:
    """Write `costs.md` and `costs.png`; nothing where nothing was measured."""
    if not tables:
        return []
    page, picture = out / "costs.md", out / "costs.png"
    drawn = save_picture(picture, (7, 1.6 * (len(tables) + 1) + 0.6), lambda figure: _draw(figure, tables))
    parts = ["# What a label costs", EXPLANATION]
    for table in tables:
        parts += [f"## {table.title}", markdown_table(table.header, table.rows())]
    parts += [f"## {PAPER_TITLE}", markdown_table(PAPER_HEADER, published_rows())]
    write_text(page, "\n\n".join([*parts, picture_line(picture, "Cost of a step", drawn)]) + "\n")
    return [page, *([picture] if drawn else [])]


def _draw(figure: Figure, tables: Sequence[CostTable]) -> None:
    """Bars of milliseconds a step, on a logarithmic axis, a panel a table and one for the paper."""
    bars = [(table.title, [(way["name"], 1e3 * way["step"]) for way in table.data["costs"]]) for table in tables]
    bars.append((PAPER_TITLE, [(row["method"], float(row["step_ms"])) for row in published_costs()]))
    panels = figure.subplots(len(bars), 1, squeeze=False)[:, 0]
    for panel, (title, values) in zip(panels, bars, strict=True):
        names, heights = zip(*values, strict=True)
        colours = [colour_of("glot") if name.startswith("GLOT") else GREY for name in names]
        drawn = panel.barh(range(len(names)), heights, color=colours)
        panel.bar_label(drawn, [f"{height:,.1f} ms" for height in heights], fontsize=7, padding=2)
        panel.set_yticks(range(len(names)), names, fontsize=7)
        panel.invert_yaxis()
        panel.set_xscale("log")
        panel.margins(x=0.2)
        panel.set_title(title, fontsize=8)
