"""`glot fit`: stage two."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from glot.commands.console import (
    BackendOption,
    DeviceOption,
    answer,
    chat,
    note,
    notes,
    numbers,
    refuse_beside,
    tell,
)
from glot.errors import UsageError
from glot.progress import epoch_bar, stop_flag

if TYPE_CHECKING:
    from glot.fit.result import FitResult
    from glot.fit.run_folder import RunConfig
    from glot.nn.config import ContrastiveConfig


def fit(
    context: typer.Context,
    cache: Annotated[Path | None, typer.Option("--cache", help="A cache, or a folder with one cache below it.")] = None,
    pooler: Annotated[str, typer.Option(help="glot, mean, max, cls, adapool or mlp.")] = "glot",
    gnn: Annotated[str, typer.Option(help="Layers of glot: gat, gcn, gin or gine.")] = "gat",
    jk: Annotated[str, typer.Option(help="Jumping knowledge of glot: cat, max or mean.")] = "cat",
    tau: Annotated[float | None, typer.Option(help="Cosine above which tokens are joined; 1: self-loops only.")] = None,
    graph: Annotated[
        str, typer.Option(help="Edges of glot: cosine; to compare with it, random (as many), chain or knn.")
    ] = "cosine",
    neighbours: Annotated[int, typer.Option(help="Of each token in a knn graph.")] = 5,
    readout: Annotated[str, typer.Option(help="Of glot: attention or mean.")] = "attention",
    tokens: Annotated[str, typer.Option(help="Pool all tokens, or content: no special or prompt ones.")] = "all",
    layers: Annotated[int | None, typer.Option(help="K, layers of glot or mlp.")] = None,
    hidden: Annotated[int | None, typer.Option(help="h, the width of those layers.")] = None,
    gin_batch_norm: Annotated[
        bool, typer.Option("--gin-batch-norm", help="BatchNorm in gin's MLPs, as published.")
    ] = False,
    lr: Annotated[float | None, typer.Option(help="Adam's learning rate.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training examples.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples a step.")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Steps at most, over all epochs.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many epochs without a better score.")] = None,
    schedule: Annotated[
        str,
        typer.Option(
            help="Of the learning rate: constant, linear, cosine, plateau (halved after 2 epochs without a better "
            "score), or plateau-steps (a tenth after 50 steps without a lower loss; on pairs plateau is this)."
        ),
    ] = "constant",
    precision: Annotated[
        str, typer.Option(help="float32, or bfloat16 autocast: faster on GPUs, and on CPUs that have AMX.")
    ] = "float32",
    class_weights: Annotated[
        str, typer.Option(help="In the loss: none, or balanced: rare classes count as much as frequent ones.")
    ] = "none",
    select: Annotated[
        str, typer.Option(help="Keep the best epoch on validation or on holdout (a tenth of train), or the last.")
    ] = "validation",
    seeds: Annotated[str, typer.Option(help="One run a seed, as in 0,1,2.")] = "0",
    order_seed: Annotated[
        int | None, typer.Option(min=0, help="One data order for all seeds; default: each its own.")
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="labels, or contrastive: pairs without any; default: what the cache holds.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="Contrastive: of the softmax; default: 0.07.")] = None,
    similarity: Annotated[str | None, typer.Option(help="Contrastive: cos or dot; default: cos.")] = None,
    negatives: Annotated[
        int | None, typer.Option(help="Contrastive: hard negatives used of an example; default: all in the cache.")
    ] = None,
    proj_dim: Annotated[
        int | None, typer.Option(help="Contrastive: train a linear projection to this width; default: none.")
    ] = None,
    matryoshka: Annotated[
        str | None, typer.Option(help="Contrastive: widths of the projection trained beside it, as in 64,128.")
    ] = None,
    chunk_size: Annotated[
        int | None, typer.Option(help="Contrastive: texts pooled at a time, for batches beyond the memory.")
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(help="Which of the cache's layers; -1 is after the final norm; default: the last that it keeps."),
    ] = None,
    backend: BackendOption = "auto",
    device: DeviceOption = None,
    max_memory: Annotated[
        float | None,
        typer.Option(min=0, help="GiB of states to hold in memory, else stream; default: half of what is free."),
    ] = None,
    examples: Annotated[
        str, typer.Option(help="Train on other labels that `extract --examples <name>.csv` added: their name.")
    ] = "",
    track: Annotated[
        str | None, typer.Option(help="Show loss and scores as it trains: tensorboard (in the run's folder) or wandb.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; default: runs/<task>-<model>-<pooler>-<time>.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with an interrupted run; its own settings hold.")] = None,
) -> None:
    """Stage two: train the token graph's GNN, readout and head over a cache. Unset options take the task's defaults."""
    from glot.fit.options import FitOptions, draft_configs
    from glot.fit.run_folder import check_new_folder, check_resumable
    from glot.fit.track import check_tracker
    from glot.store.reader import Cache

    if resume is not None:
        refuse_beside("--resume", context, ("--cache", "--track"), "which goes on with the run's own settings")
    if track is not None:
        check_tracker(track)
    if resume is not None:
        folder, opened = resume, Cache(cache) if cache else None
        check_resumable(resume, opened)
    elif cache is None:
        raise UsageError("pass --cache (made by `glot extract`), or --resume with a run's folder")
    else:
        options = FitOptions(
            pooler=pooler,
            gnn=gnn,
            jk=jk,
            tau=tau,
            graph=graph,
            neighbours=neighbours,
            readout=readout,
            tokens=tokens,
            layers=layers,
            hidden=hidden,
            gin_batch_norm=gin_batch_norm,
            lr=lr,
            epochs=epochs,
            batch_size=batch_size,
            max_steps=max_steps,
            patience=patience,
            schedule=schedule,
            precision=precision,
            class_weights=class_weights,
            select=select,
            seeds=numbers(seeds, "--seeds"),
            order_seed=order_seed,
            layer=layer,
            device=device,
            backend=backend,
            group=examples,
            objective=objective,
            contrastive=_contrastive(
                temperature=temperature,
                similarity=similarity,
                negatives=negatives,
                proj_dim=proj_dim,
                matryoshka=None if matryoshka is None else numbers(matryoshka, "--matryoshka"),
                chunk_size=chunk_size,
            ),
            max_memory=None if max_memory is None else int(max_memory * 2**30),
        )
        opened = Cache(cache)
        configs = draft_configs(opened, options)
        if layer is None:
            note_layer(configs[0])
        folder = out or _run_folder(configs[0])
        check_new_folder(folder)
    from glot.fit.run import finish_runs, make_configs, prepare_runs  # with torch, after all that is wrong is told
    from glot.report.loss import draw_loss

    if resume is None:
        prepare_runs(make_configs(opened, options), folder)
    with stop_flag() as should_stop, epoch_bar(notes) as report:
        results = finish_runs(folder, opened, report, should_stop, track)
    if not all([draw_loss(run) for run in results]):
        note("loss.png is left out: pip install 'glot-pipeline[report]'")
    _print_fit(folder, results)
    answer({"folder": folder, "runs": [{"run": run, **_summary(result)} for run, result in results.items()]})


def note_layer(config: RunConfig) -> None:
    """Say so where the layer that nobody named is not the backbone's last."""
    if config.layer != config.states.num_layers:
        note(f"layer {config.layer} of 0 to {config.states.num_layers}: the last that {config.cache} keeps")


def _contrastive(**given: object) -> ContrastiveConfig | None:
    """The settings for pairs; None where none is given."""
    from glot.nn.config import ContrastiveConfig

    settings = {name: value for name, value in given.items() if value is not None}
    return ContrastiveConfig(**settings) if settings else None


def _run_folder(config: RunConfig) -> Path:
    time = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{config.task.name}-{config.states.backbone}-{config.pooler.pooler}-{time}"


def _summary(result: FitResult) -> dict[str, Any]:
    """What `metrics.json` says of a run, but for its epochs one by one."""
    left_out = ("epochs", "heads", "own_seconds", "version")
    return {name: value for name, value in vars(result).items() if name not in left_out}


def _print_fit(folder: Path, results: dict[Path, FitResult]) -> None:
    first = next(iter(results.values()))
    table = Table(title=str(folder), title_justify="left")
    for heading in ("seed", "epoch", "set", "metric", "best", "best (published rule)", "last"):
        is_name = heading in ("set", "metric")  # never cut: the numbers' headings wrap instead
        table.add_column(heading, no_wrap=is_name, justify="left" if is_name else "right")
    cells: dict[tuple[str, str], list[float]] = {}
    for run, result in results.items():
        seed = run.name.removeprefix("seed-") if run != folder else ""
        for name, scores in result.best.items():
            for metric, value in scores.items():
                cells.setdefault((name, metric), []).append(value)
                published = result.best_published.get(name, {}).get(metric)
                values = [_percent(value), _percent(published), _percent(result.last[name][metric])]
                table.add_row(seed, str(result.best_epoch), name, metric, *values)
    if cells:
        chat.print(table)
    else:
        tell(f"{folder}: the last epoch is kept; there is no validation set to score it on")
    if len(results) > 1:
        for (name, metric), values in cells.items():
            average = f"{100 * mean(values):.2f} ± {100 * stdev(values):.2f}"
            tell(f"{name} {metric}: {average} over {len(values)} seeds")
    for name in first.epochs[0].losses:
        losses = [result.epochs[result.best_epoch - 1].losses[name] for result in results.values()]
        tell(f"{name} loss at the best epoch: {mean(losses):.4f}")
    seconds = sum(result.seconds for result in results.values())  # of the runs as they trained, one after the other
    waited = sum(epoch.waited for result in results.values() for epoch in result.epochs)
    bound = "reading" if waited > seconds / 2 else "arithmetic"
    tell(
        f"{first.parameters:,} parameters trained in {seconds:.1f} s, bound by {bound} "
        f"({100 * waited / max(seconds, 1e-9):.0f} % of it waiting for states)"
    )
    if first.density is not None:
        tell(f"token graph: mean edge density {100 * first.density:.1f} %")
        if not 0.01 <= first.density <= 0.95:
            note(
                f"warning: {100 * first.density:.1f} % of the token pairs are joined, so the graph says little: "
                f"choose a {'lower' if first.density < 0.01 else 'higher'} --tau for this backbone"
            )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"
