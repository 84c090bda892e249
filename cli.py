"""The `glot` command: parses, calls one function, prints. No logic."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from enum import Enum
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from pipeline import __version__
from pipeline.errors import FaultError, GlotError, UsageError
from pipeline.progress import epoch_bar, stop_flag, token_bar

if TYPE_CHECKING:
    from pipeline.fit.run_folder import RunConfig
    from pipeline.fit.train import FitResult

app = typer.Typer(
    help="One good vector or label a text from a frozen language model: extract token states once, fit small heads.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
screen = Console()
errors = Console(stderr=True, soft_wrap=True)


class Format(str, Enum):
    """Formats of a predictions file."""

    jsonl = "jsonl"
    glue = "glue"


def main() -> None:
    """Run the command; a foreseeable error is one line and exit code 2 (wrong use) or 1 (a fault of the machine)."""
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False) or 0
    except GlotError as error:
        _fail(str(error), error.exit_code)
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (OSError, MemoryError) as error:
        _fail(f"{type(error).__name__}: {error}", 1)
    except Exception as error:
        if hasattr(error, "format_message"):  # Typer's own: an unknown option, a value that does not parse
            _fail(error.format_message(), error.exit_code)
        if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported for this
            _fail("the device is out of memory: pass a smaller --batch-size, or --device cpu", 1)
        raise
    if code == 130:  # what Typer makes of Ctrl-C
        _fail("stopped; the same command goes on where it was", code)
    sys.exit(code)


def _fail(message: str, code: int) -> NoReturn:
    errors.print("glot: " + " ".join(message.split()), highlight=False, markup=False)
    sys.exit(code)


def _print_version(wanted: bool) -> None:
    if wanted:
        screen.print(f"glot {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Shared options."""


ModelOption = Annotated[
    str, typer.Option("--model", help="An alias (minilm, mistral-7b, ...), hub id, folder or GGUF file.")
]
CacheOption = Annotated[Path, typer.Option("--cache", help="A cache, or a folder with one cache right below it.")]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda, cuda:1, ...; default: a GPU if there is one.")
]
BackendOption = Annotated[str, typer.Option("--backend", help="Message passing by dgl, dense (plain torch), or auto.")]


@app.command()
def extract(
    model: ModelOption,
    task: Annotated[str | None, typer.Option(help="cola sst2 stsb mrpc qqp mnli qnli rte wnli imdb stress.")] = None,
    data: Annotated[Path | None, typer.Option(help="Your own training data: CSV, TSV, JSONL or Parquet.")] = None,
    eval_data: Annotated[Path | None, typer.Option(help="Your validation data; default: a tenth of --data.")] = None,
    test_data: Annotated[Path | None, typer.Option(help="Your test data; labels are not needed.")] = None,
    text: Annotated[str | None, typer.Option(help="Column of the text in your data; default: text.")] = None,
    text_b: Annotated[str | None, typer.Option(help="Column of the second text, for pairs.")] = None,
    label: Annotated[str | None, typer.Option(help="Column of the label; default: label.")] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="A folder in the official GLUE download layout; default: GLUE_DIR, else the hub."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="Splits of a known task, as in train,validation,test; default: all but test.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Take only N examples of each split, for a quick try.")
    ] = None,
    generator: Annotated[
        str | None, typer.Option(help="Stress test: published, balanced or paired; default: published.")
    ] = None,
    ratio: Annotated[float | None, typer.Option(help="Stress test: share of distractor words; default: 0.9.")] = None,
    out: Annotated[Path | None, typer.Option(help="The cache's folder; default: cache/<task>/<model>.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Cut longer texts; default: 128, imdb 512.")] = None,
    layers: Annotated[str, typer.Option(help="Layers to keep, 0 to n; -1 is after the final norm.")] = "-1",
    dtype: Annotated[str, typer.Option(help="How states are stored: auto, float16, bfloat16 or float32.")] = "auto",
    compute_dtype: Annotated[str, typer.Option(help="The model's arithmetic; auto: the checkpoint's own.")] = "auto",
    token_budget: Annotated[int | None, typer.Option(min=1, help="Padded tokens a forward; default by device.")] = None,
    shard_mb: Annotated[int, typer.Option(min=1, help="Size of a shard, MiB.")] = 1024,
    order_seed: Annotated[int, typer.Option(min=0, help="Seed of the examples' order in a new cache.")] = 0,
    no_texts: Annotated[bool, typer.Option("--no-texts", help="Leave the texts themselves out of the cache.")] = False,
    device: DeviceOption = None,
) -> None:
    """Stage one: run the frozen model once over each distinct text and keep its token states."""
    from pipeline.corpus.load import CorpusRequest, load_corpus
    from pipeline.extract.backbone import resolve_model
    from pipeline.extract.run import ExtractOptions, extract_states

    source = resolve_model(model)
    request = CorpusRequest(
        task, data, eval_data, test_data, text, text_b, label, data_dir, split, generator, ratio, limit
    )
    corpus, default_tokens = load_corpus(request)
    options = ExtractOptions(
        max_tokens=max_tokens or default_tokens,
        layers=_numbers(layers, "--layers"),
        dtype=dtype,
        compute_dtype=compute_dtype,
        token_budget=token_budget,
        shard_bytes=shard_mb * 2**20,
        order_seed=order_seed,
        keep_texts=not no_texts,
        device=device,
    )
    folder = out or Path("cache") / corpus.spec.name / source.name
    with token_bar(errors, f"{corpus.spec.name}, {source.name}") as report:
        summary = extract_states(corpus, source, folder, options, report)
    rate = f", {summary.forwarded_tokens / max(summary.seconds, 1e-9):,.0f} tokens/s" if summary.forwarded else ""
    counts = ", ".join(f"{name} {count:,}" for name, count in summary.examples.items())
    screen.print(f"{summary.folder}: {counts}", highlight=False)
    screen.print(
        f"{summary.texts:,} texts, {summary.distinct:,} distinct, {summary.tokens:,} tokens, "
        f"{summary.truncated:,} truncated, {summary.empty:,} without a token of their own, {summary.bytes:,} bytes; "
        f"forwarded {summary.forwarded:,} texts in {summary.seconds:.1f} s{rate}",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def fit(
    cache: Annotated[Path | None, typer.Option("--cache", help="A cache, or a folder with one cache below it.")] = None,
    pooler: Annotated[str, typer.Option(help="glot, mean, max, cls, adapool or mlp.")] = "glot",
    gnn: Annotated[str, typer.Option(help="Layers of glot: gat, gcn, gin or gine.")] = "gat",
    jk: Annotated[str, typer.Option(help="Jumping knowledge of glot: cat, max or mean.")] = "cat",
    tau: Annotated[float | None, typer.Option(help="Cosine above which tokens are joined; 1: self-loops only.")] = None,
    layers: Annotated[int | None, typer.Option(help="K, layers of glot or mlp.")] = None,
    hidden: Annotated[int | None, typer.Option(help="h, the width of those layers.")] = None,
    gin_batch_norm: Annotated[
        bool, typer.Option("--gin-batch-norm", help="BatchNorm in gin's MLPs, as published.")
    ] = False,
    lr: Annotated[float | None, typer.Option(help="Adam's learning rate.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training examples.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Examples a step.")] = None,
    patience: Annotated[int | None, typer.Option(help="Stop after so many epochs without a better score.")] = None,
    select: Annotated[
        str, typer.Option(help="Choose the epoch by validation, or by holdout (a tenth of train).")
    ] = "validation",
    seeds: Annotated[str, typer.Option(help="One run a seed, as in 0,1,2.")] = "0",
    order_seed: Annotated[
        int | None, typer.Option(min=0, help="One data order for all seeds; default: each its own.")
    ] = None,
    layer: Annotated[int, typer.Option(help="Which of the cache's layers; -1 is after the final norm.")] = -1,
    backend: BackendOption = "auto",
    device: DeviceOption = None,
    max_memory: Annotated[
        float | None,
        typer.Option(min=0, help="GiB of states to hold in memory, else stream; default: half of what is free."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; default: runs/<task>-<model>-<pooler>-<time>.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with an interrupted run; its own settings hold.")] = None,
) -> None:
    """Stage two: train the token graph's GNN, readout and head over a cache. Unset options take the task's defaults."""
    from pipeline.fit.run import FitOptions, finish_runs, make_configs, prepare_runs
    from pipeline.report.loss import draw_loss
    from pipeline.store.reader import Cache

    if resume is not None:
        folder, opened = resume, Cache(cache) if cache else None
    elif cache is None:
        raise UsageError("pass --cache (made by `glot extract`), or --resume with a run's folder")
    else:
        options = FitOptions(
            pooler=pooler,
            gnn=gnn,
            jk=jk,
            tau=tau,
            layers=layers,
            hidden=hidden,
            gin_batch_norm=gin_batch_norm,
            lr=lr,
            epochs=epochs,
            batch_size=batch_size,
            patience=patience,
            select=select,
            seeds=_numbers(seeds, "--seeds"),
            order_seed=order_seed,
            layer=layer,
            device=device,
            backend=backend,
            max_memory=None if max_memory is None else int(max_memory * 2**30),
        )
        opened = Cache(cache)
        configs = make_configs(opened, options)
        folder = out or _run_folder(configs[0])
        prepare_runs(configs, folder)
    with stop_flag() as should_stop, epoch_bar(errors) as report:
        results = finish_runs(folder, opened, report, should_stop)
    if not all([draw_loss(run) for run in results]):
        errors.print("loss.png is left out: pip install 'glot-pipeline[plots]'", markup=False, highlight=False)
    _print_fit(folder, results)


def _run_folder(config: RunConfig) -> Path:
    time = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{config.task.name}-{config.states.backbone}-{config.pooler.pooler}-{time}"


def _print_fit(folder: Path, results: dict[Path, FitResult]) -> None:
    first = next(iter(results.values()))
    table = Table(title=str(folder), title_justify="left")
    for heading in ("seed", "epoch", "set", "metric", "best", "best (published rule)", "last"):
        table.add_column(heading, justify="left" if heading in ("set", "metric") else "right")
    cells: dict[tuple[str, str], list[float]] = {}
    for run, result in results.items():
        seed = run.name.removeprefix("seed-") if run != folder else ""
        for name, scores in result.best.items():
            for metric, value in scores.items():
                cells.setdefault((name, metric), []).append(value)
                published = result.best_published.get(name, {}).get(metric)
                values = [_percent(value), _percent(published), _percent(result.last[name][metric])]
                table.add_row(seed, str(result.best_epoch), name, metric, *values)
    screen.print(table)
    if len(results) > 1:
        for (name, metric), values in cells.items():
            average = f"{100 * mean(values):.2f} ± {100 * stdev(values):.2f}"
            screen.print(f"{name} {metric}: {average} over {len(values)} seeds", highlight=False)
    screen.print(
        f"{first.parameters:,} parameters trained in {sum(r.seconds for r in results.values()):.1f} s", highlight=False
    )
    if first.density is not None:
        screen.print(f"token graph: mean edge density {100 * first.density:.1f} %", highlight=False)
        if not 0.01 <= first.density <= 0.95:
            errors.print(
                f"warning: {100 * first.density:.1f} % of the token pairs are joined, so the graph says little: "
                f"choose a {'lower' if first.density < 0.01 else 'higher'} --tau for this backbone",
                highlight=False,
            )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f}"


@app.command()
def evaluate(
    run: Annotated[Path, typer.Option("--run", help="A run's folder.")],
    cache: CacheOption,
    split: Annotated[str, typer.Option(help="The example set to score on.")] = "validation",
    backend: BackendOption = "auto",
    device: DeviceOption = None,
) -> None:
    """Score a saved head on a cache; a cache of another backbone, layer or width is refused."""
    from pipeline.fit.graph import resolve_backend
    from pipeline.fit.predictions import evaluate_head
    from pipeline.fit.run import check_device
    from pipeline.fit.run_folder import find_runs
    from pipeline.store.reader import Cache

    place = check_device(device)
    for folder in find_runs(run):
        scores = evaluate_head(folder, Cache(cache), split, str(place), resolve_backend(backend, place))
        line = ", ".join(f"{metric} {100 * value:.2f}" for metric, value in scores.items())
        screen.print(f"{folder} on {split}: {line}", highlight=False, soft_wrap=True)


@app.command()
def predict(
    run: Annotated[Path, typer.Option("--run", help="A run's folder.")],
    cache: CacheOption,
    split: Annotated[str, typer.Option(help="The example set to predict.")] = "test",
    format: Annotated[
        Format, typer.Option(help="jsonl, or glue for the benchmark's submission format.")
    ] = Format.jsonl,
    out: Annotated[Path | None, typer.Option(help="The file; default: <run>/<split>.jsonl or .tsv.")] = None,
    backend: BackendOption = "auto",
    device: DeviceOption = None,
) -> None:
    """Write a saved head's predictions for an example set of a cache."""
    from pipeline.fit.graph import resolve_backend
    from pipeline.fit.predictions import write_predictions
    from pipeline.fit.run import check_device
    from pipeline.fit.run_folder import find_runs
    from pipeline.store.reader import Cache

    runs = find_runs(run)
    if len(runs) > 1:
        raise UsageError(f"{run} holds {len(runs)} runs: name one, as in --run {runs[0]}")
    path = out or run / f"{split}.{'tsv' if format is Format.glue else 'jsonl'}"
    place = check_device(device)
    count = write_predictions(
        runs[0], Cache(cache), split, format.value, path, str(place), resolve_backend(backend, place)
    )
    screen.print(f"{path}: {count:,} predictions", highlight=False, soft_wrap=True)


@app.command()
def stress(
    model: ModelOption = "minilm",
    generator: Annotated[
        str, typer.Option(help="published, balanced, paired, or several, as in published,paired.")
    ] = "published",
    ratios: Annotated[str, typer.Option(help="Shares of distractor words.")] = "0.2,0.5,0.8,0.9",
    poolers: Annotated[
        str, typer.Option(help="Methods: cls,mean,max,adapool,glot,glot-loops.")
    ] = "cls,mean,max,adapool,glot",
    seeds: Annotated[str, typer.Option(help="One run a seed.")] = "0",
    converged: Annotated[
        bool, typer.Option("--converged", help="Train to convergence, not for the published 3 epochs.")
    ] = False,
    cache: Annotated[Path, typer.Option(help="Where caches are kept.")] = Path("cache"),
    runs: Annotated[Path, typer.Option(help="Where runs are kept; finished ones are not repeated.")] = Path(
        "runs/stress"
    ),
    out: Annotated[Path, typer.Option(help="Where tables and figures go.")] = Path("results/stress"),
) -> None:
    """The stress test: is a short signal found among distractors? Makes data, states, heads and a table."""
    from pipeline.report.write import write_report
    from pipeline.reproduce import Watch, run_steps, stress_steps

    steps = stress_steps(
        model, _words(generator), _floats(ratios), _words(poolers), _numbers(seeds, "--seeds"), converged
    )
    with stop_flag() as should_stop, token_bar(errors, "extract") as tokens:
        failed = run_steps(steps, cache, runs, None, Watch(_say, tokens, should_stop))
    for path in write_report(runs, out, failed):
        screen.print(str(path), highlight=False, soft_wrap=True)
    _fail_where_steps_failed(failed)
    _say((out / "stress.md").read_text(encoding="utf-8"))


@app.command()
def reproduce(
    profile: Annotated[str, typer.Option(help="quick, cpu or paper.")] = "quick",
    data_dir: Annotated[
        Path | None, typer.Option(envvar="GLUE_DIR", help="A folder in the official GLUE download layout.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Start the paper profile, which downloads and runs for long.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    cache: Annotated[Path, typer.Option(help="Where caches are kept.")] = Path("cache"),
    runs: Annotated[Path, typer.Option(help="Where runs are kept; finished ones are not repeated.")] = Path(
        "runs/reproduce"
    ),
    out: Annotated[Path, typer.Option(help="Where tables and figures go.")] = Path("results"),
) -> None:
    """The main job: redo the paper's evidence on this machine, beside the paper's numbers."""
    from pipeline.report.write import write_report
    from pipeline.reproduce import Watch, describe_agenda, make_agenda, run_steps

    agenda = make_agenda(profile, data_dir)
    _say(describe_agenda(agenda, cache, runs))
    if dry_run:
        return
    if profile == "paper" and not yes:
        raise UsageError("the paper profile downloads its backbones and runs for long: pass YES=1 (or --yes) to start")
    with stop_flag() as should_stop, token_bar(errors, "extract") as tokens:
        failed = run_steps(agenda.steps, cache, runs, data_dir, Watch(_say, tokens, should_stop))
    for path in write_report(runs, out, agenda.skipped + failed):
        screen.print(str(path), highlight=False, soft_wrap=True)
    _fail_where_steps_failed(failed)


def _fail_where_steps_failed(failed: list[tuple[str, str]]) -> None:
    if failed:
        raise FaultError(f"{len(failed)} of the planned tasks could not run; the first: {failed[0][0]}: {failed[0][1]}")


def _say(line: str) -> None:
    screen.print(line, highlight=False, markup=False, soft_wrap=True)


def _words(value: str) -> list[str]:
    return [word for word in value.replace(" ", "").split(",") if word]


def _numbers(value: str, option: str) -> tuple[int, ...]:
    """Whole numbers from "0,1,2" or "0..4"."""
    try:
        if ".." in value:
            first, last = value.split("..")
            return tuple(range(int(first), int(last) + 1))
        return tuple(int(word) for word in _words(value))
    except ValueError:
        raise UsageError(f"{option} takes whole numbers, as in 0,1,2 or 0..4; got {value!r}") from None


def _floats(value: str) -> list[float]:
    try:
        return [float(word) for word in _words(value)]
    except ValueError:
        raise UsageError(f"--ratios takes numbers, as in 0.2,0.9; got {value!r}") from None


if __name__ == "__main__":
    main()
