"""`glot sweep`: many heads over one cache."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from glot.commands.console import (
    BackendOption,
    answer,
    chat,
    floats,
    note,
    notes,
    numbers,
    refuse_beside,
    tell,
    words,
)
from glot.commands.fit import note_layer
from glot.errors import UsageError
from glot.progress import epoch_bar, stop_flag


def sweep(
    context: typer.Context,
    cache: Annotated[Path | None, typer.Option("--cache", help="A cache, or a folder with one cache below it.")] = None,
    pooler: Annotated[str, typer.Option(help="As in glot,adapool,mean.")] = "glot",
    gnn: Annotated[str, typer.Option(help="As in gat,gcn,gin,gine.")] = "gat",
    jk: Annotated[str, typer.Option(help="As in cat,max,mean.")] = "cat",
    tau: Annotated[str, typer.Option(help="Thresholds, as in 0.1,0.3,0.6; unset: the task's.")] = "",
    graph: Annotated[str, typer.Option(help="As in cosine,random,chain,knn.")] = "cosine",
    readout: Annotated[str, typer.Option(help="As in attention,mean.")] = "attention",
    tokens: Annotated[str, typer.Option(help="As in all,content.")] = "all",
    layers: Annotated[str, typer.Option(help="K, as in 0,1,2 or 0..4; unset: the task's.")] = "",
    hidden: Annotated[str, typer.Option(help="h, as in 64,128; unset: the task's.")] = "",
    lr: Annotated[str, typer.Option(help="Learning rates, as in 1e-4,3e-4; unset: the task's.")] = "",
    class_weights: Annotated[str, typer.Option(help="In the loss, as in none,balanced.")] = "none",
    layer: Annotated[
        str, typer.Option(help="Which of the cache's layers, as in -1,-9; unset: the last that it keeps.")
    ] = "",
    seeds: Annotated[str, typer.Option(help="Of every combination, as in 0..4.")] = "0",
    order_seed: Annotated[
        int | None, typer.Option(min=0, help="One data order for all seeds (faster); default: each its own.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training examples.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples a step.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Steps at most, over all epochs.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many epochs without a better score.")] = None,
    schedule: Annotated[str, typer.Option(help="constant, linear, cosine, plateau or plateau-steps.")] = "constant",
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    select: Annotated[str, typer.Option(help="Choose the epoch by validation or holdout.")] = "validation",
    backend: BackendOption = "auto",
    devices: Annotated[str, typer.Option(help="One, or several that share the heads, as in cuda:0,cuda:1.")] = "",
    max_memory: Annotated[float | None, typer.Option(min=0, help="GiB of states to hold in memory.")] = None,
    examples: Annotated[str, typer.Option(help="Train on other labels that `extract --examples` added.")] = "",
    out: Annotated[Path | None, typer.Option(help="Default: runs/<task>-<model>-sweep-<time>.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with an interrupted sweep.")] = None,
) -> None:
    """Stage two many times: train every combination of the settings given, and compare them."""
    from glot.fit.options import FitOptions, check_comparable, draft_configs, grid_options
    from glot.fit.run_folder import check_new_folder, find_sweep_runs
    from glot.store.reader import Cache

    if resume is not None:
        refuse_beside("--resume", context, ("--cache",), "which goes on with the sweep's own settings")
    folder, opened = resume, Cache(cache) if cache else None
    if resume is None:
        if opened is None:
            raise UsageError("pass --cache (made by `glot extract`), or --resume with a sweep's folder")
        options = FitOptions(
            seeds=numbers(seeds, "--seeds"),
            order_seed=order_seed,
            epochs=epochs,
            batch_size=batch_size,
            max_steps=max_steps,
            patience=patience,
            schedule=schedule,
            precision=precision,
            select=select,
            backend=backend,
            group=examples,
            max_memory=None if max_memory is None else int(max_memory * 2**30),
        )
        given: dict[str, list[Any]] = {"pooler": words(pooler), "gnn": words(gnn), "jk": words(jk)}
        given |= {"graph": words(graph), "readout": words(readout), "tokens": words(tokens)}
        given |= {"tau": floats(tau, "--tau"), "layers": list(numbers(layers, "--layers"))}
        given |= {"hidden": list(numbers(hidden, "--hidden")), "lr": floats(lr, "--lr")}
        given |= {"layer": list(numbers(layer, "--layer")), "class_weights": words(class_weights)}
        grid = {name: tuple(dict.fromkeys(values)) for name, values in given.items() if values}
        check_comparable(opened, options)
        first, *_ = (config for _, some in grid_options(options, grid) for config in draft_configs(opened, some))
        if not layer:
            note_layer(first)
        folder = out or _sweep_folder(first.task.name, first.states.backbone)
        check_new_folder(folder)
    elif not find_sweep_runs(resume):
        raise UsageError(f"{resume} holds no sweep: make one with `glot sweep`")
    from glot.fit.run import check_device  # with torch, after all that is wrong is told
    from glot.fit.sweep import finish_sweep, make_candidates, prepare_sweep

    if resume is None:
        places = tuple(str(check_device(device)) for device in words(devices))
        candidates = make_candidates(opened, replace(options, device=places[0] if places else None), grid, places)
        prepare_sweep(candidates, folder)
        tell(f"{folder}: {len(candidates)} heads")
    with stop_flag() as should_stop, epoch_bar(notes) as report:
        finish_sweep(folder, opened, report, should_stop)
    _print_sweep(folder)


def _sweep_folder(task: str, backbone: str) -> Path:
    return Path("runs") / f"{task}-{backbone}-sweep-{datetime.now().strftime('%Y%m%d-%H%M%S')}"


def _print_sweep(folder: Path) -> None:
    from glot.report.sweep import read_sweep, sweep_rows, write_sweep

    trials = read_sweep(folder)
    headings, rows = sweep_rows(trials)
    table = Table(title=str(folder), title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(*row)
    chat.print(table)
    written = write_sweep(folder)
    tell(f"written: {', '.join(path.name for path in written)}")
    is_varied = any(trial.settings for trial in trials)
    if is_varied and not any(path.suffix == ".png" for path in written):
        note("no pictures without matplotlib: pip install 'glot-pipeline[report]'")
    found = [
        {"settings": trial.settings, "metric": trial.results[0].metric, "scores": [x / 100 for x in trial.scores]}
        for trial in trials
    ]
    answer({"folder": folder, "trials": found, "written": written})
