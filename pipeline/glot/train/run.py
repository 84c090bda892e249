"""Does what a job asks for, stage after stage; what is done already stays, so that it goes on where it was stopped."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from glot.errors import Stopped, UsageError
from glot.extract.estimate import Estimate, estimate_extraction
from glot.extract.prepare import states_identity
from glot.extract.run import extract_states, load_source
from glot.fit.config import FitOptions
from glot.fit.curve import learning_curve
from glot.fit.presets import select_of
from glot.fit.run import finish_runs, make_configs
from glot.fit.run_folder import CONFIG_FILE, HEAD_FILE, METRICS_FILE, RunConfig
from glot.fit.study import STUDY_FILE, Standing, StudyFile, check_tunable
from glot.fit.train import Progress
from glot.process import stop_flag
from glot.store.claims import Claims
from glot.store.files import atomic_path, make_folder, read_json, write_json
from glot.store.layout import MANIFEST_FILE
from glot.store.reader import Cache
from glot.store.task_spec import describe_labels
from glot.train.card import write_card
from glot.train.job import CACHE_FOLDER, CLAIM, STUDY_FOLDER, TEST, Job
from glot.train.result import CARD_FILE, DOUBTS_FILE, PAGE_FILE, PREDICTIONS_FILE, Trained
from glot.train.score import classes_of, evaluate_untouched, scores_of, write_doubts, write_untouched

if TYPE_CHECKING:
    from glot.extract.backbone import Backbone
    from glot.fit.evaluation import Evaluation

LITTLE = 100_000  # tokens: fewer are forwarded before a measurement of the pace would say how long they take
FEW_SCORED = 20  # rows, whose score says next to nothing
PACE_SECONDS = 2.0  # of forwards, to tell the time of more
MOST_OF_DISK = 0.5  # of what is free: where all layers take more, the last one alone is kept
SPENT_FILE = "spent.json"  # in the study's folder: the seconds of search so far


@dataclass(frozen=True)
class Watch:
    """What is told of long work.

    Attributes:
        say: a line on what is done. note: a remark. tokens, texts: (done, in all) of stage one. epochs: see `Progress`.
    """

    say: Callable[[str], None] = lambda line: None
    note: Callable[[str], None] = lambda line: None
    tokens: Callable[[int, int], None] = lambda done, total: None
    texts: Callable[[int, int], None] = lambda done, total: None
    epochs: Progress = lambda epoch, step, steps, loss: None


def train_table(job: Job, watch: Watch = Watch()) -> Trained:
    """Extract, train or search, and score: everything lies in the job's folder then, which is a run itself.

    Raises UsageError where another process is at it, or the device is not there; Stopped where it was asked to stop;
    FaultError where the machine failed. Run again, it goes on.
    """
    if job.done is not None:
        return job.done
    make_folder(job.folder)
    with Claims(job.folder) as claims:
        if not claims.acquire(CLAIM):
            raise UsageError(
                f"another process trains in {job.folder}: wait for it, or choose another folder with --out"
            )
        job.begin()
        clock: dict[str, float] = {}
        with _timed(clock, "states"):
            cache = _extract(job, watch)
        searched = 0
        with _timed(clock, "training"):
            if job.request.minutes is None:
                _fit(job, cache, watch)
            else:
                searched = _search(job, cache, watch)
        return _finish(job, cache, searched, clock, watch)


@contextmanager
def _timed(clock: dict[str, float], name: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    clock[name] = round(time.monotonic() - started, 2)


def _extract(job: Job, watch: Watch) -> Cache:
    """The states of all rows; those that are there are not made again."""
    folder = job.folder / CACHE_FOLDER
    there = Cache(folder, allow_unfinished=True).manifest if (folder / MANIFEST_FILE).exists() else None
    if there is not None and there.complete:
        watch.say(f"{folder}: the states are there already")
        return Cache(folder)
    options = job.options if there is None else replace(job.options, layers=there.states.layers)
    backbone = load_source(job.source, options)
    if there is None and options.layers is None:
        options = replace(options, layers=_choose_layers(job, backbone, folder, watch))
    found = extract_states(job.corpus, backbone, folder, options, watch.tokens, watch.texts, watch.note)
    cache = Cache(folder)
    if found.truncated:
        _tell_of_cut(found.truncated, found.distinct, cache.manifest.states.max_tokens, backbone.max_positions, watch)
    return cache


def _tell_of_cut(count: int, texts: int, limit: int, most: int | None, watch: Watch) -> None:
    """Say how many texts are cut at `limit` tokens, and where the backbone takes more (`most`, None for any length)."""
    longer = 2 * limit if most is None else min(2 * limit, most)
    more = f": --max-tokens {longer} reads more of them" if longer > limit else ", for the model takes no more"
    watch.note(f"{count:,} of {texts:,} texts are longer than {limit} tokens and were cut there{more}")


def _choose_layers(job: Job, backbone: Backbone, folder: Path, watch: Watch) -> tuple[int, ...] | None:
    """All layers, or the last alone where all would fill the disk; and say what is to come."""
    found = _estimate(job, backbone, folder, None)
    layers = None
    if found.bytes > MOST_OF_DISK * found.free:
        watch.note(
            f"all layers would take {_gigabytes(found.bytes)} of {_gigabytes(found.free)} free: the last alone is kept"
        )
        layers, found = (-1,), _estimate(job, backbone, folder, (-1,))
    how_long = f"about {_duration(found.seconds)} on {found.device}" if found.seconds else "seconds"
    watch.say(
        f"{found.texts:,} texts, {found.distinct:,} distinct, {found.tokens:,} tokens: "
        f"{_gigabytes(found.bytes)} of states in {folder}, {how_long} to make"
    )
    return layers


def _estimate(job: Job, backbone: Backbone, folder: Path, layers: tuple[int, ...] | None) -> Estimate:
    assert job.corpus is not None
    options = replace(job.options, layers=layers)
    identity = states_identity(backbone, options)
    return estimate_extraction(job.corpus, backbone, identity, folder, options, seconds=PACE_SECONDS, little=LITTLE)


def _fit(job: Job, cache: Cache, watch: Watch) -> None:
    """Train the preset "strong": on all rows, but a tenth of many with scores, which chooses the epoch."""
    if not (job.folder / CONFIG_FILE).exists():
        entry = cache.examples_entry("train")
        select = select_of(entry.task, entry.examples)
        options = FitOptions(preset="strong", select=select, device=job.request.device)
        make_configs(cache, options)[0].save(job.folder)
    if not (job.folder / METRICS_FILE).exists():
        watch.say(f"training on {cache.examples_entry('train').examples:,} rows")
    with stop_flag() as should_stop, _goes_on():
        finish_runs(job.folder, cache, watch.epochs, should_stop)


def _search(job: Job, cache: Cache, watch: Watch) -> int:
    """Search for what is left of the minutes, and make the winner the folder's run; gives the candidates' count."""
    from glot.fit.tune import Tuner

    check_tunable(cache)
    folder = make_folder(job.folder / STUDY_FOLDER)
    if not (folder / STUDY_FILE).exists():
        StudyFile.of(cache).save(folder)
    seconds = 60 * (job.request.minutes or 0)
    spent = read_json(folder / SPENT_FILE)["seconds"] if (folder / SPENT_FILE).exists() else 0.0
    started = time.monotonic()

    def on_round(standing: Standing, left: float) -> None:
        write_json(folder / SPENT_FILE, {"seconds": spent + time.monotonic() - started})
        watch.say(standing.line(tuner.metric, left))

    device = make_configs(cache, FitOptions(select="holdout", device=job.request.device))[0].train.device
    with stop_flag() as should_stop, _goes_on():
        tuner = Tuner(folder, cache, device)
        tuner.search(max(0.0, seconds - spent), None, watch.epochs, should_stop, on_round)
        watch.say(tuner.verdict())
        best = tuner.finish(watch.epochs, should_stop)
    assert best is not None  # nobody else is at this study: the folder is ours
    promise = tuner.promise()
    if promise is not None:
        watch.say(promise.line)
    _take_run(best, job.folder)
    return tuner.standing().candidates


@contextmanager
def _goes_on() -> Iterator[None]:
    """Say of work that was stopped that this very command goes on with it."""
    try:
        yield
    except Stopped as error:
        raise error.but("the same command goes on where it was") from None


def _take_run(run: Path, folder: Path) -> None:
    """Make a finished run the folder's own; what says that it is finished comes last."""
    (folder / METRICS_FILE).unlink(missing_ok=True)
    for name in (CONFIG_FILE, HEAD_FILE, METRICS_FILE):
        with atomic_path(folder / name) as temporary:
            shutil.copyfile(run / name, temporary)


def _finish(job: Job, cache: Cache, searched: int, clock: dict[str, float], watch: Watch) -> Trained:
    """Score the untouched rows, and leave the predictions, the page, the card and the result."""
    count = len(job.split(TEST).examples)
    watch.say(f"scoring {count:,} untouched rows")
    if count < FEW_SCORED:
        watch.note(f"{count} rows are too few to tell how good it is: the interval says how little is known")
    config = RunConfig.load(job.folder)
    with _timed(clock, "scores"):
        found = evaluate_untouched(job.folder, cache, job.scored_file, job.request.device)
        write_untouched(job.folder / PREDICTIONS_FILE, found.scored, job.columns)
    with _timed(clock, "page"):
        pages = _write_pages(job, cache, config, found, watch)
    done = Trained(
        folder=job.folder,
        model=config.states.backbone,
        task=config.task,
        columns=job.columns,
        rows={name: cache.examples_entry(name).examples for name in ("train", TEST)},
        labels={name: describe_labels(config.task, cache.examples(name).label) for name in ("train", TEST)},
        untouched=job.untouched,
        scores=scores_of(found),
        classes=classes_of(found),
        settings=_settings(config),
        searched=searched,
        seconds=clock,
        files=(*pages, PREDICTIONS_FILE, CARD_FILE),
    )
    write_card(done)
    done.save()
    return done


def _write_pages(job: Job, cache: Cache, config: RunConfig, found: Evaluation, watch: Watch) -> list[str]:
    """Write the page of the evaluation, and the doubtful labels that it shows where there are any, as a table too.

    Gives the files' names; none, and a remark, where what the page is made with is not installed.
    """
    from glot.report.evaluation_page import write_page
    from glot.report.figures import check_extra
    from glot.report.gather import gather_page

    try:
        check_extra()
    except UsageError as error:
        watch.note(f"no {PAGE_FILE}: {error}")
        return []
    watch.say("the page: doubtful labels, duplicates, the learning curve")
    found = replace(found, curve=learning_curve(cache, config, TEST))
    page = replace(gather_page(job.folder, found, cache), answers_file=PREDICTIONS_FILE)
    write_page(job.folder / PAGE_FILE, page)
    if page.duplicates:
        watch.note(
            f"{len(page.duplicates):,} of the scored rows stand in the training rows too, but for case and blanks: the "
            "score looks better than it is"
        )
    if page.doubts is None or not page.doubts.found:
        return [PAGE_FILE]
    write_doubts(job.folder / DOUBTS_FILE, page.doubts, config.task)
    return [PAGE_FILE, DOUBTS_FILE]


def _settings(config: RunConfig) -> str:
    """The head in one line."""
    head, train = config.pooler.pooler, config.train
    pace = f"{train.epochs} epochs at a learning rate of {train.lr:.3g}"
    return f"{head} over {config.layers_in_words}, {config.start_in_words}, {pace}"


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:,.2f} GB"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):,.0f} s"
    return f"{seconds / 3600:,.1f} h" if seconds >= 5400 else f"{seconds / 60:,.0f} min"
