"""`glot tune`: find the settings of a head by a search on the training examples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from glot.commands.console import CacheOption, answer, chat, note, notes, refuse_beside, tell
from glot.commands.groups import with_groups
from glot.commands.judgements import print_judgements, tell_ensemble
from glot.commands.launch_options import LAUNCH_OPTIONS, LaunchOptions
from glot.commands.machine_options import DeviceOption
from glot.commands.progress import epoch_bar
from glot.errors import Stopped, UsageError
from glot.process import stop_flag

if TYPE_CHECKING:
    from glot.cluster.launch import RayOptions
    from glot.fit.tune import Tuner


@with_groups
def tune(
    context: typer.Context,
    cache: CacheOption = None,
    *,
    minutes: Annotated[
        float, typer.Option(min=0, help="Of search, by this process; the winner is trained after it.")
    ] = 10.0,
    trials: Annotated[
        int | None,
        typer.Option(min=1, help="Stop at so many candidates in all; default: as many as there is time for."),
    ] = None,
    ensemble: Annotated[
        int | None,
        typer.Option(min=2, help="Also average so many of the best heads, as STUDY/ensemble; default: no ensemble."),
    ] = None,
    device: DeviceOption = None,
    out: Annotated[Path | None, typer.Option(help="The study's folder; default: runs/tune-TASK.")] = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with a study, or join in one that runs; --minutes 0 ends it.")
    ] = None,
    launch: LaunchOptions,
) -> None:
    """Search for the settings of a head, on train alone; ends with the winner, trained, beside simpler heads."""
    from glot.cluster.launch import check_address
    from glot.fit.config import FitOptions
    from glot.fit.run_folder import check_new_folder
    from glot.fit.study import StudyFile, check_tunable
    from glot.store.files import make_folder
    from glot.store.places import is_there
    from glot.store.reader import Cache

    beside_ray = {"--device names what --launcher ray finds: leave it out, or see --gpus-per-worker": bool(device)}
    cluster = launch.cluster(beside_ray)
    if resume is not None:
        beside = ("--cache", "--minutes", "--trials", "--ensemble", "--device", *LAUNCH_OPTIONS)
        refuse_beside("--resume", context, beside, "which has its folder")
        begun = StudyFile.load(resume)
        if cache is None and not is_there(begun.cache):
            raise UsageError(f"{resume} is a study on {begun.cache}, which is not there: name its cache with --cache")
        folder, opened = resume, Cache(cache or begun.cache)
        begun.check(folder, opened)
    elif cache is None:
        raise UsageError("pass --cache (made by `glot extract`), or --resume with a study's folder")
    else:
        opened = Cache(cache)
        folder = out or Path("runs") / f"tune-{opened.examples_entry('train').task.name}"
        check_new_folder(folder)
    check_tunable(opened)
    if cluster is not None:
        check_address(cluster)
    from glot.fit.run import make_configs
    from glot.fit.tune import Tuner  # with torch and Optuna, after all that is wrong is told

    # What can only be told with torch (the device, examples of one class) before there is a folder.
    device = "cpu" if cluster is not None else device
    device = make_configs(opened, FitOptions(select="holdout", device=device))[0].train.device
    if resume is None:
        StudyFile.of(opened).save(make_folder(folder))
    try:
        tuner = Tuner(folder, opened, device)
        _tell_begin(tuner)
        if cluster is not None:
            best = _tune_over_ray(tuner, cluster, 60 * minutes, trials, ensemble)
        else:
            best = _tune(tuner, 60 * minutes, trials, ensemble)
    except Stopped as error:
        raise error.but(
            f"what was finished is kept: `glot tune --resume {folder}` goes on, with `--minutes 0` it ends with the "
            "best so far"
        ) from None
    if best is None:
        note(f"another process trains the winner of {folder}: `glot tune --resume {folder} --minutes 0` shows it then")
        answer({"folder": folder, "best": None, "standing": tuner.standing()})
        return
    _print_end(tuner, best, ensemble)


def _tune(tuner: Tuner, seconds: float, trials: int | None, ensemble: int | None) -> Path | None:
    """Search, and train the winner, unless another process does."""
    with stop_flag() as should_stop, epoch_bar(notes) as report:
        tuner.search(
            seconds, trials, report, should_stop, lambda standing, left: tell(standing.line(tuner.metric, left))
        )
        return tuner.finish(report, should_stop, ensemble)


def _tune_over_ray(
    tuner: Tuner, cluster: RayOptions, seconds: float, trials: int | None, ensemble: int | None
) -> Path | None:
    """Have the workers of a Ray cluster do so."""
    from glot.fit.ray_run import tune_over_ray

    return tune_over_ray(tuner, cluster, seconds, trials, ensemble, tell)


def _tell_begin(tuner: Tuner) -> None:
    from glot.fit.study import FOLDS, HOLD_OUTS

    used, there = len(tuner.examples), tuner.entry.examples
    sample = (
        f"{used:,} of {there:,} training examples, drawn at random" if used < there else f"{used:,} training examples"
    )
    tell(f"{tuner.folder}: {sample}; {HOLD_OUTS} hold-outs of one in {FOLDS} score a candidate")


def _print_end(tuner: Tuner, best: Path, asked: int | None) -> None:
    """The winner beside the yardsticks on sets that nothing was chosen on, what mattered, and the next commands.

    Where an ensemble of so many heads was `asked` for, that too.
    """
    from glot.fit.ensemble import ENSEMBLE, Ensemble
    from glot.fit.study import describe
    from glot.fit.yardsticks import judge_each

    standing, verdict, importances = tuner.standing(), tuner.verdict(), tuner.importances()
    promise = tuner.promise()
    tell(f"winner: {describe(standing.params)}")
    tell(verdict)
    if promise is not None:
        tell(promise.line)
    if importances:
        tell("what mattered: " + ", ".join(f"{name} {100 * share:.0f} %" for name, share in importances.items()))
    else:
        note("what mattered is not known from so few candidates: search longer with --resume")
    made = {"winner": best} if asked is None else {"winner": best, ENSEMBLE: tuner.folder / ENSEMBLE}
    heads = _print_heads(tuner, made)
    judged = dict(zip(made, judge_each([[folder] for folder in made.values()], tuner.cache), strict=True))
    for name, every in judged.items():
        judged[name] = [one for one in every if one.metric == tuner.metric]
        print_judgements(judged[name], "" if name == "winner" else f"{name}: ")
    if promise is not None:
        for line in filter(None, map(promise.verdict, judged["winner"])):
            tell(line)
    if not judged["winner"]:
        note(
            f"{tuner.cache.folder} has no labelled validation examples: score the winner on others before you trust it"
        )
    tell(f"the winner is a run: `glot evaluate --run {best} --cache {tuner.cache.folder}`, `glot predict --run {best}`")
    if asked is not None:
        count = len(Ensemble.load(made[ENSEMBLE]).members)
        if count < asked:
            note(
                f"only {count} candidates with different settings were scored: the ensemble is of {count}, not {asked}"
            )
        tell_ensemble(made[ENSEMBLE], count, tuner.cache.folder)
    tell(f"`glot tune --resume {tuner.folder}` searches on")
    found: dict[str, Any] = {
        "folder": tuner.folder,
        "best": best,
        "standing": standing,
        "verdict": verdict,
        "expected": promise,
        "importances": importances,
        "heads": heads,
    }
    found["judgements"] = judged.pop("winner")
    answer(found | {name: {"folder": made[name], "judgements": judged[name]} for name in judged})


def _print_heads(tuner: Tuner, made: dict[str, Path]) -> dict[str, Any]:
    """The scores of the heads that were trained at the end, by name, those of an ensemble too."""
    from glot.fit.ensemble_run import score_ensemble
    from glot.fit.result import FitResult
    from glot.fit.run_folder import is_ensemble
    from glot.fit.tune import YARDSTICKS

    runs = made | {name: tuner.folder / "yardsticks" / name for name in YARDSTICKS}
    scores = {name: score_ensemble(run) if is_ensemble(run) else FitResult.load(run).best for name, run in runs.items()}
    sets = [name for name in scores["winner"] if name != "holdout"]
    table = Table(title=str(tuner.folder), title_justify="left")
    for heading in ("head", *(f"{name} {tuner.metric}" for name in sets)):
        table.add_column(heading, justify="left" if heading == "head" else "right")
    for name, found in scores.items():
        table.add_row(name, *(f"{100 * found[some][tuner.metric]:.2f}" for some in sets))
    if sets:
        chat.print(table)
    return scores
