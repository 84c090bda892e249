"""`glot sweep`: many heads over one cache."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from glot.commands.console import CacheOption, answer, chat, note, notes, refuse_beside, tell, words
from glot.commands.fit import note_layer
from glot.commands.groups import with_groups
from glot.commands.launch_options import LAUNCH_OPTIONS, LaunchOptions
from glot.commands.progress import epoch_bar, share_bar
from glot.commands.settings import given_grid, with_settings
from glot.errors import UsageError
from glot.process import stop_flag

if TYPE_CHECKING:
    from glot.cluster.launch import RayOptions
    from glot.fit.config import FitOptions
    from glot.fit.statistics import Interval
    from glot.report.sweep import Trial
    from glot.store.reader import Cache


@with_settings(lists=True, without=("device",))
@with_groups
def sweep(
    context: typer.Context,
    cache: CacheOption = None,
    *,
    devices: Annotated[
        str, typer.Option("--devices", "--device", help="One, or several that share the heads, as in cuda:0,cuda:1.")
    ] = "",
    out: Annotated[Path | None, typer.Option(help="Default: runs/TASK-MODEL-sweep-TIME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with an interrupted sweep.")] = None,
    launch: LaunchOptions,
    **settings: Any,
) -> None:
    """Stage two many times: train every combination of the settings given, as in --tau 0.3,0.6, and compare them."""
    from glot.cluster.launch import check_address
    from glot.fit.options import check_comparable, draft_configs, grid_options
    from glot.fit.run_folder import check_new_folder, find_sweep_runs
    from glot.store.reader import Cache

    beside = {"--devices names what --launcher ray finds: leave it out, or see --gpus-per-worker": bool(devices)}
    cluster = launch.cluster(beside)
    if resume is not None:
        refuse_beside("--resume", context, ("--cache", *LAUNCH_OPTIONS), "which goes on with the sweep's own settings")
    opened = Cache(cache) if cache else None
    if resume is not None:
        folder = resume
        if not find_sweep_runs(resume):
            raise UsageError(f"{resume} holds no sweep: make one with `glot sweep`")
    elif opened is None:
        raise UsageError("pass --cache (made by `glot extract`), or --resume with a sweep's folder")
    else:
        options, grid = given_grid(settings)
        combined = [some for _, some in grid_options(options, grid)]
        for some in combined:
            check_comparable(opened, some)
        first, *_ = (config for some in combined for config in draft_configs(opened, some))
        if "backbone_layer" not in grid:
            note_layer(first)
        time = datetime.now().strftime("%Y%m%d-%H%M%S")
        folder = out or Path("runs") / f"{first.task.name}-{first.states.backbone}-sweep-{time}"
        check_new_folder(folder)
    if cluster is not None:
        check_address(cluster)
        _sweep_over_ray(folder, opened, cluster, None if resume is not None else (options, grid))
        _print_sweep(folder)
        return
    from glot.fit.run import check_device  # with torch, after all that is wrong is told
    from glot.fit.sweep import finish_sweep, make_candidates, prepare_sweep

    if resume is None and opened is not None:
        places = tuple(str(check_device(device)) for device in words(devices))
        candidates = make_candidates(opened, options.but(device=places[0] if places else None), grid, places)
        prepare_sweep(candidates, folder)
        tell(f"{folder}: {len(candidates)} heads")
    with stop_flag() as should_stop, epoch_bar(notes) as report:
        finish_sweep(folder, opened, report, should_stop)
    _print_sweep(folder)


def _sweep_over_ray(
    folder: Path, cache: Cache | None, cluster: RayOptions, asked: tuple[FitOptions, dict[str, tuple[Any, ...]]] | None
) -> None:
    """Have the workers of a Ray cluster train the heads that are asked for, or those of the folder."""
    from glot.fit.ray_run import sweep_over_ray  # with torch, after all that is wrong is told
    from glot.fit.sweep import Grid, sweep_cache

    opened = cache or sweep_cache(folder)
    with share_bar(notes, "sweep") as bar:

        def count(workers: int) -> None:
            bar.rename(f"sweep, {workers} workers")

        sweep_over_ray(folder, opened, cluster, asked and Grid(*asked), bar, count, note)


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
    written = write_sweep(folder, trials)
    tell(f"written: {', '.join(path.name for path in written)}")
    is_varied = any(trial.settings for trial in trials)
    if is_varied and not any(path.suffix == ".png" for path in written):
        note("no pictures without matplotlib: pip install 'glot-pipeline[report]'")
    found = [
        {"settings": trial.settings, "metric": trial.results[0].metric, "scores": [x / 100 for x in trial.scores]}
        for trial in trials
    ]
    best = {"run": trials[0].best_run, "score": _print_best(trials)}
    answer({"folder": folder, "trials": found, "written": written, "best": best})


def _print_best(trials: list[Trial]) -> Interval | None:
    """Name the best run, and say how sure its score is; returns the score, None where it kept no predictions."""
    from glot.fit.predictions_file import read_predictions
    from glot.fit.statistics import score_interval
    from glot.fit.yardsticks import describe_interval

    best, heads = trials[0], sum(len(trial.runs) for trial in trials)
    chosen_on, metric = best.chosen_on, best.results[0].metric
    predicted = read_predictions(best.runs, chosen_on)
    if predicted is None:
        score, shown, count = None, f"{mean(best.scores):.1f}", ""
    else:
        score = score_interval(*predicted, metric)
        shown, count = describe_interval(score), f"the {score.examples:,} examples of "
    if len(best.runs) == 1:
        tell(f"best: {best.best_run}; {metric} {shown} on {count}{chosen_on}")
    else:
        settings = ", ".join(f"{name} {value}" for name, value in best.settings.items()) or "these settings"
        tell(f"best: {settings}; {metric} {shown} on {count}{chosen_on}, the mean of {len(best.runs)} seeds")
        tell(f"its best seed: {best.best_run}; {metric} {max(best.scores):.1f}")
    if heads > 1:
        tell(f"it is the best of {heads} heads by this score, which flatters it: score it on data that chose nothing")
    return score
