"""The loss curve of a run."""

from __future__ import annotations

from pathlib import Path

from pipeline.store.files import atomic_path, read_json


def draw_loss(run: Path) -> Path | None:
    """Draw `loss.png` in a finished run's folder: training loss and score by epoch.

    Returns the file, or None where matplotlib is not installed (`pip install 'glot-pipeline[plots]'`).
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return None
    metrics = read_json(run / "metrics.json")
    numbers = [epoch["epoch"] for epoch in metrics["epochs"]]
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    left = figure.add_subplot()
    left.plot(numbers, [epoch["loss"] for epoch in metrics["epochs"]], "o-", color="tab:blue", label="train loss")
    left.set_xlabel("epoch")
    left.set_ylabel("mean training loss")
    left.xaxis.get_major_locator().set_params(integer=True)
    right = left.twinx()
    for name, style in zip(metrics["best"], ("s--", "^:", "d-."), strict=False):
        scores = [100 * epoch["scores"][name][metrics["metric"]] for epoch in metrics["epochs"]]
        right.plot(numbers, scores, style, color="tab:orange", label=name)
    right.set_ylabel(f"{metrics['metric']}, %")
    figure.legend(loc="outside upper center", ncols=3)
    path = run / "loss.png"
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return path
