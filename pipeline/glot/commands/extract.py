"""`glot extract`: stage one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glot.commands.console import (
    DeviceOption,
    EngineOption,
    ModelOption,
    ShardOption,
    TrustOption,
    answer,
    note,
    notes,
    numbers,
    say,
    tell,
)
from glot.commands.launch_options import GpusOption, LauncherOption, RayAddressOption, WorkersOption
from glot.commands.progress import extract_bars
from glot.commands.table_options import (
    BadRowOption,
    DelimiterOption,
    EncodingOption,
    LabelSeparatorOption,
    NoHeaderOption,
    QuotingOption,
)
from glot.errors import UsageError

if TYPE_CHECKING:
    from glot.cluster.launch import RayOptions
    from glot.corpus.examples import Corpus
    from glot.corpus.request import CorpusRequest, HubDataset
    from glot.extract.estimate import Estimate
    from glot.extract.options import ExtractOptions
    from glot.extract.run import ExtractSummary
    from glot.extract.source import ModelSource
    from glot.store.places import RemoteFolder


def extract(
    model: ModelOption,
    task: Annotated[str | None, typer.Option(help="cola sst2 stsb mrpc qqp mnli qnli rte wnli imdb stress.")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Your own training data: CSV, TSV, JSONL or Parquet, or hub:owner/name[:config]."),
    ] = None,
    pairs: Annotated[
        str | None,
        typer.Option(help="Queries with positives, as JSON lines: a file, or hub:owner/name/file.jsonl.gz; no labels."),
    ] = None,
    negatives: Annotated[
        int | None, typer.Option(help="With --pairs: hard negatives kept of a row; default: 1.")
    ] = None,
    eval_data: Annotated[Path | None, typer.Option(help="Your validation data; default: see --split.")] = None,
    test_data: Annotated[Path | None, typer.Option(help="Your test data; labels are not needed.")] = None,
    text: Annotated[
        str | None, typer.Option(help="Column of the text in your data; default: text, or the obvious one.")
    ] = None,
    text_b: Annotated[str | None, typer.Option(help="Column of the second text, for pairs.")] = None,
    label: Annotated[
        str | None,
        typer.Option(
            help="Column of the label, or of each of several: billing,login; default: label, or the obvious one."
        ),
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="A folder in the official GLUE download layout; default: GLUE_DIR, else the hub."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Splits of a known task, as in train,validation,test; default: all but test. For your own data "
            "without a validation set, the share of train to keep as one; default: 0.1."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take only N examples of each split, for a quick try.")
    ] = None,
    generator: Annotated[
        str | None, typer.Option(help="Stress test: published, balanced or paired; default: published.")
    ] = None,
    ratio: Annotated[float | None, typer.Option(help="Stress test: share of distractor words; default: 0.9.")] = None,
    out: Annotated[Path | None, typer.Option(help="The cache's folder, or a URL; default: cache/TASK/MODEL.")] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            help="What stands around each text, as in 'Classify: {text}'; with {text_b} around both texts of a pair, "
            "as one text. Another prompt is another cache."
        ),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Cut longer texts; default: 128, imdb 512, or the model's limit.")
    ] = None,
    layers: Annotated[str, typer.Option(help="Layers to keep, 0 to n or all; -1 is after the final norm.")] = "-1",
    dtype: Annotated[
        str,
        typer.Option(
            help="States as float16, bfloat16, float32 or int8; auto: as in the cache that is there, else int8 for "
            "several layers, else 16 bits."
        ),
    ] = "auto",
    compute_dtype: Annotated[
        str,
        typer.Option(help="The model's arithmetic; auto: the checkpoint's own; bfloat16 changed no score measurably."),
    ] = "auto",
    token_budget: Annotated[int | None, typer.Option(min=1, help="Padded tokens a forward; default by device.")] = None,
    shard_mb: ShardOption = 1024,
    order_seed: Annotated[int, typer.Option(min=0, help="Seed of the examples' order in a new cache.")] = 0,
    no_texts: Annotated[bool, typer.Option("--no-texts", help="Leave the texts themselves out of the cache.")] = False,
    device: DeviceOption = None,
    device_map: Annotated[
        str | None, typer.Option(help="auto: spread a model larger than one device over all, memory and disk.")
    ] = None,
    trust_remote_code: TrustOption = False,
    engine: EngineOption = "auto",
    part: Annotated[
        str | None, typer.Option(help="One job of an array, as in 3/8: makes its share of the shards and ends.")
    ] = None,
    launcher: LauncherOption = None,
    ray_address: RayAddressOption = None,
    workers: WorkersOption = None,
    gpus_per_worker: GpusOption = None,
    plan: Annotated[bool, typer.Option("--plan", help="Make the plan and the example sets, and no states.")] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Print bytes and hours for this model and data, and stop.")
    ] = False,
    examples: Annotated[
        str | None,
        typer.Option(help="A file of other labels for the cache at --out: adds the sets FILE.train, FILE.validation."),
    ] = None,
    on_overflow: Annotated[
        str, typer.Option(help="States beyond float16: stop, or float32-shard, which keeps that shard in float32.")
    ] = "stop",
    on_bad_row: BadRowOption = "stop",
    target: Annotated[
        str | None, typer.Option(help="What the labels of your data are, whatever they look like: classes or score.")
    ] = None,
    delimiter: DelimiterOption = None,
    quoting: QuotingOption = None,
    encoding: EncodingOption = None,
    no_header: NoHeaderOption = False,
    label_separator: LabelSeparatorOption = None,
) -> None:
    """Stage one: run the frozen model once over each distinct text and keep its token states."""
    from glot.cluster.launch import check_address, parse_launcher
    from glot.corpus.load import load_corpus
    from glot.corpus.request import CorpusRequest, check_template, corpus_name, default_max_tokens, request_digest
    from glot.extract.folders import check_source
    from glot.extract.options import ExtractOptions, check_folder, check_options
    from glot.extract.source import resolve_model
    from glot.store.places import RemoteFolder, place_of
    from glot.store.sending import scratch_folder, sending
    from glot.store.template import TEXT

    place = None if out is None else place_of(out)
    if isinstance(place, RemoteFolder):
        _check_url(place, {"--part": part, "--plan": plan, "--examples": examples, "--launcher": launcher})
    source = resolve_model(model)
    check_source(source, trust_remote_code)
    request = CorpusRequest(
        task if examples is None else None,
        _own_data(data, examples, pairs),
        eval_data,
        test_data,
        text,
        text_b,
        label,
        data_dir,
        split,
        generator,
        ratio,
        limit,
        on_bad_row,
        pairs,
        negatives,
        delimiter,
        quoting,
        encoding,
        no_header or None,
        target,
        label_separator,
    )
    name = corpus_name(request)
    options = ExtractOptions(
        max_tokens=max_tokens,
        usual_tokens=default_max_tokens(request),
        template=TEXT if prompt is None else prompt,
        layers=None if layers == "all" else numbers(layers, "--layers"),
        dtype=dtype,
        compute_dtype=compute_dtype,
        token_budget=token_budget,
        shard_bytes=shard_mb * 2**20,
        order_seed=order_seed,
        keep_texts=not no_texts,
        device=device,
        device_map=device_map,
        trust_remote_code=trust_remote_code,
        engine=engine,
        on_overflow=on_overflow,
        part=_part(part),
        plan_only=plan,
        request=request_digest(request),
    )
    folder = scratch_folder(place) if isinstance(place, RemoteFolder) else place or Path("cache") / name / source.name
    if examples is not None:
        folder, options = _for_examples(out, task, source.name, prompt, replace(options, group=name))
    check_options(options)
    beside = {
        "--part shares out by hand what --launcher ray assigns: pass one of them": options.part is not None,
        "--plan makes no states, so there is nothing for --launcher ray: leave it out": plan,
    }
    cluster = parse_launcher(launcher, ray_address, workers, gpus_per_worker, beside)
    check_template(request, options.template)
    check_folder(folder)
    if cluster is not None:
        check_address(cluster)
    if estimate:
        corpus = load_corpus(request)
        tell_understood(corpus)
        _print_estimate(_estimate(corpus, source, folder, options), name, source.name)
    elif cluster is not None:
        _extract_over_ray(request, source, folder, options, cluster, f"{name}, {source.name}")
    elif isinstance(place, RemoteFolder):
        with sending(place, note) as finish:
            _extract(request, source, folder, options, f"{name}, {source.name}", str(place))
            finish()
        tell(f"{place}: every file is there")
    else:
        _extract(request, source, folder, options, f"{name}, {source.name}", str(folder))


def _check_url(place: RemoteFolder, beside: dict[str, object]) -> None:
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


def _own_data(data: str | None, examples: str | None, pairs: str | None) -> Path | HubDataset | None:
    from glot.corpus.request import parse_data

    if examples is not None and pairs is not None:
        raise UsageError("--examples adds labels to a cache, --pairs has none: pass one of them")
    if data is not None and examples is not None:
        raise UsageError("--examples adds to a cache that is there, --data makes one: pass one of them")
    given = data if examples is None else examples
    return None if given is None else parse_data(given)


def _part(value: str | None) -> tuple[int, int] | None:
    """(2, 8) from "3/8"."""
    if value is None:
        return None
    index, _, count = value.partition("/")
    if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise UsageError(f"--part takes a job's number and how many there are, as in 3/8; got {value!r}")
    return int(index) - 1, int(count)


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
