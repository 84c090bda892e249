"""The published figures, in percent, and which of their backbones stands nearest to one of ours."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

from glot.registry.backbones import BACKBONES
from glot.report.results import BASELINE, OWN

PAPER_NAMES = {entry.name: entry.published for entry in BACKBONES if entry.published}


@cache
def load_table1() -> dict[tuple[str, str, str], float]:
    """Table 1 (GLUE): (model, method, column) -> percent; the columns are task names and `mnli_mm`."""
    return {(row["model"], row["method"], row["column"]): float(row["percent"]) for row in read_published("table1.csv")}


@cache
def load_stress() -> dict[tuple[str, str, float], float]:
    """The stress test: (model, method, distractor ratio) -> percent, read off the chart (± 0.5 points)."""
    return {
        (row["model"], row["method"], float(row["ratio"])): float(row["percent"])
        for row in read_published("stress.csv")
    }


def nearest_paper_model(model: str) -> str | None:
    """The paper's backbone to stand beside: the model itself, else its nearest relation, else None."""
    return model if model in PAPER_NAMES else (model in BACKBONES and BACKBONES[model].nearest) or None


def no_number(model: str, method: str) -> tuple[str | None, None]:
    """The backbone to stand beside, of scores that the paper does not have."""
    return nearest_paper_model(model), None


def comparison_note(model: str, setting: str = "published") -> str:
    """What stands beside a model's cells: which backbone of the paper, and whether it and its training are the same."""
    nearest = nearest_paper_model(model)
    if nearest is None:
        note = f"The paper has no backbone near `{model}`, so there is nothing to compare with."
    elif nearest == model:
        note = f"Compared with the paper's {PAPER_NAMES[nearest]}, the same backbone."
    else:
        note = (
            f"**The paper has no `{model}`.** Beside it stands the paper's nearest backbone, {PAPER_NAMES[nearest]}, "
            "another and larger model: the order of the methods compares, the levels need not."
        )
    if setting == OWN:
        return f"{note} These runs have settings of their own, which need not be the paper's."
    if setting not in ("published", BASELINE):
        return f"{note} The paper trained 3 epochs; this is another setting."
    return note


def read_published(name: str) -> list[dict[str, str]]:
    """The lines of a table of the paper, by their columns."""
    return read_table(f"published/{name}")


@cache
def read_table(path: str) -> list[dict[str, str]]:
    """The lines of a CSV file that is part of this package, by their columns."""
    text = files("glot.reproduce").joinpath(path).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
