"""`glot extract`: stage one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glot.commands.console import ModelOption, answer, note, notes, say, tell
from glot.commands.data_options import DataOptions
from glot.commands.groups import with_groups
from glot.commands.launch_options import LaunchOptions
from glot.commands.machine_options import MachineOptions
from glot.commands.progress import extract_bars
from glot.commands.states_options import StatesOptions
from glot.commands.table_options import TableOptions
from glot.errors import UsageError

if TYPE_CHECKING:
    from glot.cluster.launch import RayOptions
    from glot.corpus.examples import Corpus
    from glot.corpus.request import CorpusRequest
    from glot.extract.estimate import Estimate
    from glot.extract.options import ExtractOptions
    from glot.extract.run import ExtractSummary
    from glot.extract.source import ModelSource
    from glot.store.places import RemoteFolder


@with_groups
def extract(
    model: ModelOption,
    *,
    data: DataOptions,
    out: Annotated[Path | None, typer.Option(help="The cache's folder, or a URL; default: cache/TASK/MODEL.")] = None,
    states: StatesOptions,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Print bytes and hours for this model and data, and stop.")
    ] = False,
    examples: Annotated[
        str | None,
        typer.Option(help="A file of other labels for the cache at --out: adds the sets FILE.train, FILE.validation."),
    ] = None,
    machine: MachineOptions,
    launch: LaunchOptions,
    table: TableOptions,
) -> None:
    """Stage one: run the frozen model once over each distinct text and keep its token states."""
    from glot.cluster.launch import check_address
    from glot.corpus.load import load_corpus
    from glot.corpus.request import check_template, corpus_name
    from glot.extract.folders import check_source
    from glot.extract.options import check_folder, check_options
    from glot.extract.source import resolve_model
    from glot.store.places import RemoteFolder, place_of
    from glot.store.sending import scratch_folder, sending

    place = None if out is None else place_of(out)
    if isinstance(place, RemoteFolder):
        asked = {"--part": states.part, "--plan": states.plan, "--examples": examples, "--launcher": launch.launcher}
        _check_url(place, asked)
    source = resolve_model(model)
    check_source(source, machine.trust_remote_code)
    request = data.request(table, examples)
    name = corpus_name(request)
    options = states.options(request, machine)
    folder = scratch_folder(place) if isinstance(place, RemoteFolder) else place or Path("cache") / name / source.name
    if examples is not None:
        folder, options = _for_examples(out, data.task, source.name, states.prompt, replace(options, group=name))
    check_options(options)
    beside = {
        "--part shares out by hand what --launcher ray assigns: pass one of them": options.part is not None,
        "--plan makes no states, so there is nothing for --launcher ray: leave it out": options.plan_only,
    }
    cluster = launch.cluster(beside)
    check_template(request, options.template)
    check_folder(folder)
    if cluster is not None:
        check_address(cluster)
    title = f"{name}, {source.name}"
    if estimate:
        corpus = load_corpus(request)
        tell_understood(corpus)
        _print_estimate(_estimate(corpus, source, folder, options), name, source.name)
    elif cluster is not None:
        _extract_over_ray(request, source, folder, options, cluster, title)
    elif isinstance(place, RemoteFolder):
        with sending(place, note) as finish:
            _extract(request, source, folder, options, title, str(place))
            finish()
        tell(f"{place}: every file is there")
    else:
        _extract(request, source, folder, options, title, str(folder))


def _check_url(place: RemoteFolder, beside: Mapping[str, object]) -> None:
    """Raise UsageError where a cache cannot be made at a URL: by several processes, or from a part."""
    from glot.extract.processes import this_process

    given = [option for option, value in beside.items() if value]
    if given or this_process()[1] > 1 or place.scheme == "hf":
        why = f"{', '.join(given)} needs a folder" if given else "the Hub, and several processes, need a folder"
        raise UsageError(f"cannot make {place}: {why}: name one with --out, then `glot cache push` it")


def _extract(
    request: CorpusRequest, source: ModelSource, folder: Path, options: ExtractOptions, title: str, place: str
) -> None:
    """Extract what is asked for, one of several processes perhaps.

    `title` names it beside the bars, `place` says where the cache will lie in the end.
    """
    from glot.corpus.load import load_corpus
    from glot.extract.options import is_planned
    from glot.extract.processes import leave, this_process

    turn = this_process()
    is_main = turn[0] == 0  # it speaks for all
    may_share_plan = options.part is not None or not is_main
    corpus = None if may_share_plan and is_planned(folder, options.request) else load_corpus(request)
    if corpus is not None and is_main:
        tell_understood(corpus)
    from glot.extract.run import extract_states  # with torch, after all that is wrong is told

    with extract_bars(notes, title, shown=is_main) as (tokens, texts):
        remark = note if is_main else lambda line: None
        summary = extract_states(corpus, source, folder, options, tokens, texts, remark, turn)
    leave()
    if is_main:
        _print_summary(summary, corpus, options, place)


def _extract_over_ray(
    request: CorpusRequest,
    source: ModelSource,
    folder: Path,
    options: ExtractOptions,
    cluster: RayOptions,
    title: str,
) -> None:
    """Have the workers of a Ray cluster extract what is asked for."""
    from glot.corpus.load import load_corpus

    corpus = load_corpus(request)
    tell_understood(corpus)
    from glot.extract.ray_run import extract_over_ray  # with torch, after all that is wrong is told

    with extract_bars(notes, title) as (tokens, texts):

        def count(workers: int) -> None:
            tokens.rename(f"{title}, {workers} workers")

        summary = extract_over_ray(corpus, source, folder, options, cluster, tokens, texts, note, count)
    _print_summary(summary, corpus, options, str(folder))


def tell_understood(corpus: Corpus) -> None:
    """Say how files were read and what the label is taken for, before anything slow."""
    for line in corpus.understood():
        tell(line)
    for line in corpus.remarks:
        note(line)


def _for_examples(
    out: Path | None, task: str | None, model: str, prompt: str | None, options: ExtractOptions
) -> tuple[Path, ExtractOptions]:
    """The cache that examples are added to, and options that repeat its own settings."""
    from glot.registry.tasks import known_name
    from glot.store.places import local_folder
    from glot.store.reader import Cache

    if out is None:
        if task is None:
            raise UsageError("--examples adds to a cache: name it with --out, or its task with --task")
        out = Path("cache") / known_name(task) / model
    cache = Cache(out, allow_unfinished=True)
    states = cache.manifest.states
    settings = replace(
        options,
        max_tokens=states.max_tokens,
        layers=states.layers,
        dtype=states.dtype,
        compute_dtype=states.compute_dtype,
        keep_texts=cache.plan.has_texts,
        template=states.template if prompt is None else prompt,
    )
    return local_folder(cache.folder, "pull it with `glot cache pull`, and add to the copy"), settings


def _estimate(corpus: Corpus, source: ModelSource, folder: Path, options: ExtractOptions) -> Estimate:
    from glot.extract.estimate import estimate_extraction
    from glot.extract.prepare import states_identity
    from glot.extract.run import load_source

    backbone = load_source(source, options)
    return estimate_extraction(corpus, backbone, states_identity(backbone, options), folder, options, note)


def _print_estimate(found: Estimate, name: str, model: str) -> None:
    answer(found)
    basis = f"told from {found.sampled:,} of them" if found.sampled < found.distinct else "all of them tokenized"
    say(f"{name} with {model}: {found.texts:,} texts, {found.distinct:,} distinct, {found.tokens:,} tokens ({basis})")
    enough = "" if found.bytes <= found.free else ": NOT ENOUGH"
    say(f"cache: {found.bytes / 2**30:,.2f} GiB; free where it goes: {found.free / 2**30:,.2f} GiB{enough}")
    say(f"time: {_duration(found.seconds)} at {found.rate:,.0f} tokens/s, as measured here on {found.device}")
    say(f"n such processes (accelerate launch, --part) take an n-th of it: 8 take {_duration(found.seconds / 8)}")


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:,.1f} h" if seconds >= 3600 else f"{seconds / 60:,.1f} min"


def _print_summary(summary: ExtractSummary, corpus: Corpus | None, options: ExtractOptions, place: str) -> None:
    answer({**vars(summary), "folder": place, "understood": corpus.understood() if corpus else []})
    tell(f"{place}: " + ", ".join(f"{name} {count:,}" for name, count in summary.examples.items()))
    skipped = f"{summary.skipped:,} rows skipped, " if summary.skipped else ""
    tell(
        f"{summary.texts:,} texts, {summary.distinct:,} distinct, {summary.tokens:,} tokens, {skipped}"
        f"{summary.truncated:,} truncated, {summary.empty:,} without a token of their own, {summary.bytes:,} bytes"
    )
    rate = f", {summary.forwarded_tokens / max(summary.seconds, 1e-9):,.0f} tokens/s" if summary.forwarded else ""
    if not options.plan_only:
        tell(f"forwarded {summary.forwarded:,} texts in {summary.seconds:.1f} s{rate}")
    if summary.missing:
        tell(f"{summary.missing:,} of {summary.shards:,} shards are still to be made: {_next_step(options)}")


def _next_step(options: ExtractOptions) -> str:
    """What makes the shards that are missing after a plan alone, or a part."""
    if options.part is None:
        return "run the same command without --plan; or on each of n machines with --part 1/n to n/n in its place"
    return f"run the other parts of {options.part[1]}, or the same command without --part"
