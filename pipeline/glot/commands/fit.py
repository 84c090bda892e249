"""`glot fit`: stage two."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from glot.commands.console import CacheOption, answer, chat, manners, note, notes, refuse_beside, tell
from glot.commands.judgements import print_judgements, tell_ensemble
from glot.commands.progress import epoch_bar
from glot.commands.settings import given_options, with_settings
from glot.errors import FaultError, UsageError
from glot.process import stop_flag

if TYPE_CHECKING:
    from glot.fit.config import FitOptions
    from glot.fit.result import FitResult
    from glot.fit.run_folder import RunConfig
    from glot.fit.yardsticks import Judgement
    from glot.store.reader import Cache


@with_settings(lists=False)
def fit(
    context: typer.Context,
    cache: CacheOption = None,
    *,
    track: Annotated[
        str | None, typer.Option(help="Show loss and scores as it trains: tensorboard (in the run's folder) or wandb.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; default: runs/TASK-MODEL-POOLER-TIME.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with an interrupted run; its own settings hold.")] = None,
    yardsticks: Annotated[
        bool,
        typer.Option(
            "--yardsticks/--no-yardsticks",
            help="Score the commonest class and the regression on the mean too (seconds; over wide states a minute).",
        ),
    ] = True,
    ensemble: Annotated[
        bool, typer.Option("--ensemble", help="Also average the heads of several --seeds, as OUT/ensemble.")
    ] = False,
    **settings: Any,
) -> None:
    """Stage two: train the token graph's GNN, readout and head over a cache. Unset options take the task's defaults."""
    from glot.fit.options import draft_configs
    from glot.fit.presets import preset_of
    from glot.fit.run_folder import RunConfig, check_new_folder, check_resumable, find_runs
    from glot.fit.track import check_tracker
    from glot.store.reader import Cache

    if resume is not None:
        refuse_beside(
            "--resume",
            context,
            ("--cache", "--track", "--yardsticks", "--ensemble"),
            "which goes on with the run's own settings",
        )
    if track is not None:
        check_tracker(track)
    preset = None  # of a run that goes on nobody knows it
    if resume is not None:
        folder, opened = resume, Cache(cache) if cache else None
        check_resumable(resume, opened)
        if ensemble:
            _check_ensemble([RunConfig.load(run) for run in find_runs(resume)])
    elif cache is None:
        raise UsageError("pass --cache (made by `glot extract`), or --resume with a run's folder")
    else:
        options, opened = given_options(settings), Cache(cache)
        configs = draft_configs(opened, options)
        folder = out or _run_folder(configs[0])
        check_new_folder(folder)
        if ensemble:
            _check_ensemble(configs)
        preset = preset_of(options, configs[0].task)
        tell(_describe_preset(preset, options, configs[0]))
        if options["backbone_layer"] is None:
            note_layer(configs[0])
    from glot.fit.run import finish_runs, make_configs, prepare_runs  # with torch, after all that is wrong is told
    from glot.report.loss import draw_loss

    if resume is None and opened is not None:
        prepare_runs(make_configs(opened, options), folder)
    with stop_flag() as should_stop, epoch_bar(notes) as report:
        results = finish_runs(folder, opened, report, should_stop, track)
    if not all([draw_loss(run) for run in results]):
        note("loss.png is left out: pip install 'glot-pipeline[report]'")
    _print_fit(folder, results, preset)
    groups = [list(results)]
    if ensemble:
        groups.append([_make_ensemble(folder, list(results), opened)])
    is_wanted = yardsticks and (manners.as_json or not manners.quiet)
    judged = _judge(groups, opened) if is_wanted else [[] for _ in groups]
    print_judgements(judged[0])
    runs = [{"run": run, **_summary(result)} for run, result in results.items()]
    found: dict[str, Any] = {"folder": folder, "runs": runs, "judgements": judged[0]}
    if ensemble:
        [made] = groups[1]
        _print_ensemble(made, len(results), judged[1], RunConfig.load(groups[0][0]).cache)
        found["ensemble"] = {"folder": made, "judgements": judged[1]}
    answer(found)


def _check_ensemble(configs: list[RunConfig]) -> None:
    """Raise UsageError where there are no several heads to average, or none that gives labels or scores."""
    if len(configs) < 2:
        raise UsageError("--ensemble averages the heads of several seeds: pass --seeds 0..4 beside it")
    if configs[0].contrastive is not None:
        raise UsageError("--ensemble averages labels or scores, and heads on pairs without labels give neither")


def note_layer(config: RunConfig) -> None:
    """Say so where the layer that nobody named is not the backbone's last."""
    if not config.pooler.mixed_layers and config.layer != config.states.num_layers:
        note(f"layer {config.layer} of 0 to {config.states.num_layers}: the last that {config.cache} keeps")


def _run_folder(config: RunConfig) -> Path:
    time = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{config.task.name}-{config.states.backbone}-{config.pooler.pooler}-{time}"


def _summary(result: FitResult) -> dict[str, Any]:
    """What `metrics.json` says of a run, but for its epochs one by one."""
    left_out = ("epochs", "heads", "own_seconds", "version")
    return {name: value for name, value in vars(result).items() if name not in left_out}


def _print_fit(folder: Path, results: dict[Path, FitResult], preset: str | None) -> None:
    first = next(iter(results.values()))
    cells = _print_scores(folder, results, preset)
    if first.start is not None:
        scored = [
            f"{name} {metric} {_percent(value)}"
            for name in first.start.scores
            for metric, value in first.start.scores[name].items()
        ]
        tell(f"the regression that training began at (epoch 0): {', '.join(scored)}")
    if not cells:
        tell(f"{folder}: the last epoch is kept; there is no validation set to score it on")
    if len(results) > 1:
        for (name, metric), values in cells.items():
            spread = f"{100 * mean(values):.2f} ± {100 * stdev(values):.2f}"
            tell(f"{name} {metric}: {spread} over {len(values)} seeds")
    for name in first.epochs[0].losses:
        average = mean(result.epochs[result.best_epoch - 1].losses[name] for result in results.values())
        tell(f"{name} loss at the best epoch: {average:.4f}")
    seconds = sum(result.seconds for result in results.values())  # of the runs as they trained, one after the other
    waited = sum(epoch.waited for result in results.values() for epoch in result.epochs)
    bound = "reading" if waited > seconds / 2 else "arithmetic"
    tell(
        f"{first.parameters:,} parameters trained in {seconds:.1f} s, bound by {bound} "
        f"({100 * waited / max(seconds, 1e-9):.0f} % of it waiting for states)"
    )
    _print_convergence(list(results.values()))
    _print_shares(results)
    if first.density is not None:
        tell(f"token graph: mean edge density {100 * first.density:.1f} %")
        if not 0.01 <= first.density <= 0.95:
            note(
                f"warning: {100 * first.density:.1f} % of the token pairs are joined, so the graph says little: "
                f"choose a {'lower' if first.density < 0.01 else 'higher'} --tau for this backbone"
            )


def _print_scores(
    folder: Path, results: dict[Path, FitResult], preset: str | None
) -> dict[tuple[str, str], list[float]]:
    """The table of the kept epochs' scores, which are returned: (set, metric) -> a score a seed.

    The published rule's column is for runs of the published preset, or of one that nobody knows and may be that.
    """
    from glot.fit.predictions_file import read_predictions
    from glot.fit.statistics import score_interval
    from glot.fit.yardsticks import describe_interval, resamples_for

    has_seeds, has_rule = len(results) > 1, any(result.best_published for result in results.values())
    has_rule = has_rule and preset != "strong" and all(result.start is None for result in results.values())
    table = Table(title=str(folder), title_justify="left")
    columns = ["set", "rows", "metric", "score [95 % interval]", "epoch", "last epoch's"]
    for heading in ["seed"] * has_seeds + columns + ["best (published rule)"] * has_rule:
        is_name = heading in ("set", "metric")  # never cut: the numbers' headings wrap instead
        table.add_column(heading, no_wrap=is_name, justify="left" if is_name else "right")
    scores: dict[tuple[str, str], list[float]] = {}
    for run, result in results.items():
        for name, best in result.best.items():
            predicted = read_predictions([run], name)
            for metric, value in best.items():
                scores.setdefault((name, metric), []).append(value)
                shown, rows = f"{100 * value:.1f}", ""
                if predicted is not None:
                    count = len(predicted[1])
                    shown = describe_interval(score_interval(*predicted, metric, resamples_for(count)))
                    rows = f"{count:,}"
                row = [run.name.removeprefix("seed-")] * has_seeds
                row += [name, rows, metric, shown, str(result.best_epoch), _percent(result.last[name][metric])]
                table.add_row(*row, *[_percent(result.best_published.get(name, {}).get(metric))] * has_rule)
    if scores:
        chat.print(table)
    return scores


def _judge(groups: list[list[Path]], cache: Cache | None) -> list[list[Judgement]]:
    """The scores of runs, or an ensemble, beside the yardsticks; none, and a remark, where the cache is gone."""
    from glot.fit.yardsticks import judge_each

    try:
        with notes.status("the yardsticks: a regression on the mean of the same states"):
            return judge_each(groups, cache)
    except (UsageError, FaultError) as error:  # the runs themselves are finished
        note(f"no yardsticks: {error}")
        return [[] for _ in groups]


def _make_ensemble(folder: Path, runs: list[Path], cache: Cache | None) -> Path:
    """Put the heads of finished runs side by side into a folder below theirs."""
    from glot.fit.ensemble import ENSEMBLE
    from glot.fit.ensemble_run import make_ensemble
    from glot.fit.run import open_cache
    from glot.fit.run_folder import RunConfig

    configs = [RunConfig.load(run) for run in runs]
    make_ensemble(folder / ENSEMBLE, configs, runs, open_cache(configs[0], cache, runs[0]))
    return folder / ENSEMBLE


def _print_ensemble(folder: Path, count: int, judgements: list[Judgement], cache: str) -> None:
    from glot.fit.ensemble_run import score_ensemble

    if not judgements:
        for name, scores in score_ensemble(folder).items():
            tell(f"ensemble: {name} " + ", ".join(f"{metric} {_percent(value)}" for metric, value in scores.items()))
    print_judgements(judgements, "ensemble: ")
    tell_ensemble(folder, count, cache)


def _print_convergence(results: list[FitResult]) -> None:
    """Say where training ended too early."""
    falls = [fell for result in results if (fell := result.loss_fell) is not None]
    if not falls:
        return
    first = results[0]
    where = f" in {len(falls)} of {len(results)} runs" if len(results) > 1 else ""
    is_best = "was kept" if first.select == "last" else "was the best"
    tell(
        f"training had not converged{where}: the last epoch {is_best}, and its loss {100 * mean(falls):.0f} % below "
        "that of the one before; more --epochs or a higher --lr may score better"
    )


def _describe_preset(preset: str, options: FitOptions, config: RunConfig) -> str:
    """Which preset is in force, why, and what that means, single options included."""
    why = ""
    if options["preset"] == "auto":
        reasons = {"strong": "for your own labels", "published": f"for {config.task.name}"}
        why = f" ({reasons[preset]})"
    if preset == "published":
        return f"preset published{why}: the paper's settings; --preset strong is usually the better head."
    train, pooler = config.train, config.pooler
    parts = [config.layers_in_words]
    if len(config.states.layers) == 1:
        parts[0] += " alone (of a cache of `extract --layers all` a mix)"
    parts.append(config.start_in_words)
    if config.task.num_texts == 2:
        parts.append(f"{pooler.pair_features} features of pairs")
    parts.append(f"{train.epochs} epoch{'s' * (train.epochs > 1)} at a learning rate of {train.lr:g}")
    if train.averaging != "none":
        parts.append("the mean of the weights over the steps is kept")
    return f"preset {preset}{why}: {'; '.join(parts)}. An option overrides it; --preset published is the paper's."


def _print_shares(results: dict[Path, FitResult]) -> None:
    """Say what each layer counts, where a head mixes them."""
    from glot.fit.run_folder import RunConfig, layer_shares

    for run in results:
        if shares := layer_shares(run, RunConfig.load(run)):
            tell(f"{run}: layers " + ", ".join(f"{layer} {100 * share:.0f} %" for layer, share in shares.items()))


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"
