"""The loss curve of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from glot.report.figures import save_picture
from glot.store.files import read_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_loss(run: Path) -> bool:
    """Draw `loss.png` in a finished run's folder: training loss and score by epoch; False without matplotlib."""
    metrics = read_json(run / "metrics.json")
    numbers = [epoch["epoch"] for epoch in metrics["epochs"]]

    def draw(figure: Figure) -> None:
        from matplotlib.ticker import MaxNLocator

        left = figure.add_subplot()
        left.plot(numbers, [epoch["loss"] for epoch in metrics["epochs"]], "o-", color="tab:blue", label="train loss")
        for name in metrics["epochs"][0].get("losses", {}):
            left.plot(numbers, [epoch["losses"][name] for epoch in metrics["epochs"]], "--", label=f"{name} loss")
        left.set_xlabel("epoch")
        left.set_ylabel("mean training loss")
        left.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
        right = left.twinx()
        for name, style in zip(metrics["best"], ("s--", "^:", "d-."), strict=False):
            scores = [100 * epoch["scores"][name][metrics["metric"]] for epoch in metrics["epochs"]]
            right.plot(numbers, scores, style, color="tab:orange", label=name)
        right.set_ylabel(f"{metrics['metric']}, %")
        figure.legend(loc="outside upper center", ncols=3)

    return save_picture(run / "loss.png", (6, 3.6), draw)
