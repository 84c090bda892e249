"""Score against cost: heads over a frozen backbone beside what people would pick instead.

    python -m benchmarks.frontier --tasks sst2-16,mrpc --methods logistic,strong,full     # measures what is not there
    python -m benchmarks.frontier --report frontier.md --picture frontier.svg             # of all that is there
    python -m benchmarks.frontier --scores pipeline/glot/reproduce/measured/frontier.csv  # for the report of costs

One thing at a time is measured, in a process of its own; each is a line of `results.jsonl` in `--folder` as soon as
it is done, and is not measured again (`--again` does so). All methods see the same training examples: of `sst2-N` N
rows, half of each class, another draw a sample; of a whole task all rows, with another seed. Nothing else chooses
anything; the validation set of GLUE is scored once, at the end.

Processor seconds are of training: with the forwarding of the training texts for heads over a cache (at the rate of the
cache's own extraction by `glot extract`, its start included) and with the search of the learning rate for fine-tuning,
whole in each sample. The start of a process, the model's loading and the scoring count for nobody. Of fewer
than 2,000 rows a head keeps its last epoch, for a tenth of so few chooses little; of more a hold-out chooses it.

`--device cuda` is for scores that a processor takes hours for: its seconds are in no table.

`setfit` needs an environment of its own, for it is no dependency of this project:

    python3 -m venv setfit && setfit/bin/pip install setfit==1.2.0 torch==2.13.0
    python -m benchmarks.frontier --methods setfit --setfit-python setfit/bin/python
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.extraction import glue_folder
from benchmarks.frontier.measure import Spec
from benchmarks.frontier.report import draw, write_report, write_scores
from benchmarks.frontier.results import (
    ALL_LAYERS,
    LAST_LAYER,
    METHODS,
    SEARCHED,
    Key,
    Measured,
    TaskName,
    append_result,
    load_results,
)
from glot.errors import UsageError
from glot.extract.source import resolve_model
from glot.registry.tasks import find_task

TASKS = "sst2-16,sst2-64,sst2-600,sst2-5000,sst2,cola,mrpc,stsb"
SAMPLES = {"tuned": 1}  # of other methods five
NEEDS = {"lora": ("peft", "bench"), "tuned": ("optuna", "tune")}  # a package, and the extra that brings it


@dataclass(frozen=True)
class Extraction:
    """What `glot extract` took for a cache, the start of its process included."""

    processor_seconds: float
    tokens: int

    @property
    def rate(self) -> float:
        """Processor seconds a token."""
        return self.processor_seconds / max(1, self.tokens)


class Frontier:
    """Measures, and keeps what was measured.

    Attributes:
        failed: what ended with a fault, in words.
    """

    def __init__(self, given: argparse.Namespace) -> None:
        self.given, self.folder = given, given.folder
        self.path = self.folder / "results.jsonl"
        self.done = {} if given.again else load_results(self.path)
        self.failed: list[str] = []
        self.commit = _commit()

    def run(self) -> None:
        """Measure all that is asked for and not there."""
        for model in self.given.models:
            for task in self.given.tasks:
                for method in self.given.methods:
                    if _is_asked(task, model, method):
                        self._run_samples(task, model, method)

    def _run_samples(self, task: str, model: str, method: str) -> None:
        name = resolve_model(model).name
        for sample in range(self.given.samples or SAMPLES.get(method, 5)):
            key: Key = (task, name, method, sample)
            first = self.done.get((task, name, method, 0))
            if first is not None and first.not_done:
                return  # the others would take as long
            if key in self.done:
                continue
            if sample and first is None and method in SEARCHED:
                return  # its first sample failed, and with it the choice of the rate
            measured = self._measure(key, model, first)
            if measured is None:
                continue
            measured = replace(measured, versions={"glot": self.commit, **measured.versions})
            append_result(self.path, measured)
            self.done[key] = measured
            print(_line(measured), flush=True)

    def _measure(self, key: Key, model: str, first: Measured | None) -> Measured | None:
        """None where it ended with a fault, which is told."""
        task, name, method, sample = key
        cache, rate = "", 0.0
        if method in ALL_LAYERS + LAST_LAYER:
            folder, extraction = self._cache(TaskName.parse(task).family, model, method in ALL_LAYERS)
            cache, rate = str(folder), extraction.rate
        settled: dict[str, float] = {}
        if sample and first is not None and method in SEARCHED:
            settled = {"rate": first.chosen["rate"], "search_seconds": first.chosen["searching"]}
        given = self.given
        log = self.folder / "logs" / f"{task}-{name}-{method}-{sample}.txt"
        with tempfile.TemporaryDirectory(prefix="frontier-") as made:
            spec = Spec(
                task=task,
                model=model,
                method=method,
                sample=sample,
                data_dir=str(glue_folder(given.data_dir)),
                scratch=made,
                threads=given.threads,
                cache=cache,
                cache_rate=rate,
                settled=settled,
                setfit_python=str(given.setfit_python or ""),
                device=given.device,
            )
            asked, answer = Path(made) / "spec.json", Path(made) / "measured.json"
            asked.write_text(json.dumps(asdict(spec)))
            command = ["-m", "benchmarks.frontier.measure", str(asked), str(answer)]
            code = run_process(command, given.threads, log, 60 * given.most_minutes)
            if code is None:
                return Measured(task, name, method, sample, not_done=f"not done in {given.most_minutes:g} minutes")
            if code:
                self.failed.append(f"{task}, {name}, {method}, sample {sample}: ended with {code}, see {log}")
                print(self.failed[-1], file=sys.stderr, flush=True)
                return None
            return replace(Measured(**json.loads(answer.read_text())), model=name)

    def _cache(self, family: str, model: str, every_layer: bool) -> tuple[Path, Extraction]:
        """A cache of a whole task and what it took, made by `glot extract` where it is not there."""
        source = resolve_model(model)
        folder = self.folder / "caches" / f"{family}-{source.name}-{'all' if every_layer else 'last'}"
        record = folder.with_suffix(".json")
        if record.exists():
            return folder, Extraction(**json.loads(record.read_text()))
        shutil.rmtree(folder, ignore_errors=True)  # one that was stopped, whose seconds nobody knows
        command = ["-m", "glot", "extract", "--model", model, "--task", family, "--out", str(folder)]
        command += ["--data-dir", str(glue_folder(self.given.data_dir)), "--layers", "all" if every_layer else "-1"]
        log, before = self.folder / "logs" / f"extract-{folder.name}.txt", os.times()
        if run_process([*command, "--device", self.given.device, "--json"], self.given.threads, log, None):
            raise SystemExit(f"`glot extract` of {folder} failed: see {log}")
        after = os.times()
        spent = after.children_user - before.children_user + after.children_system - before.children_system
        extraction = Extraction(spent, _tokens_of(folder))
        record.write_text(json.dumps(asdict(extraction)))
        print(f"{folder.name}: {extraction.tokens:,} tokens in {spent:.0f} processor seconds", flush=True)
        return folder, extraction


def _tokens_of(folder: Path) -> int:
    from glot.store.reader import Cache

    return int(Cache(folder).plan.tokens)


def run_process(arguments: list[str], threads: int, log: Path, seconds: float | None) -> int | None:
    """The exit code of a Python process whose output goes to a file; None where it took longer, and was ended."""
    log.parent.mkdir(parents=True, exist_ok=True)
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    environment = {**os.environ, **counts, "TOKENIZERS_PARALLELISM": "false"}
    with open(log, "w") as out:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=out, stderr=out, env=environment, start_new_session=True
        )
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # what it started too
                process.wait()


def _is_asked(task: str, model: str, method: str) -> bool:
    """SetFit knows classes of single texts, and bodies in folders."""
    if method != "setfit":
        return True
    spec = find_task(TaskName.parse(task).family).spec
    return spec.num_texts == 1 and spec.target == "classes" and resolve_model(model).gguf_file is None


def _commit() -> str:
    """The project's version, with the commit where that is known."""
    from glot.version import __version__

    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError:
        return __version__
    return f"{__version__} {done.stdout.strip()}".strip()


def _line(measured: Measured) -> str:
    where = f"{measured.task}, {measured.model}, {measured.method}, sample {measured.sample}"
    if measured.not_done:
        return f"{where}: {measured.not_done}"
    scores = ", ".join(f"{name} {100 * value:.2f}" for name, value in measured.scores.items())
    seconds = f"{measured.processor_seconds:.1f} processor seconds"
    return f"{time.strftime('%H:%M')} {where}: {scores}; {seconds}, {measured.wall_seconds:.0f} s in all"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options, checked; ends with exit code 2 where they are wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.frontier", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--data-dir", type=Path, help="a GLUE folder; default: GLUE_DIR")
    parser.add_argument("--tasks", default=TASKS, help=f"default: {TASKS}")
    parser.add_argument("--methods", help=f"of {', '.join(METHODS)}; default: all (setfit with --setfit-python)")
    parser.add_argument("--models", default="minilm", help="aliases, folders or GGUF files; default: minilm")
    parser.add_argument("--samples", type=int, help="samples or seeds; default: 5, of tuned 1")
    parser.add_argument("--folder", type=Path, default=Path("cache/bench/frontier"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda, where scores alone are comparable; default: cpu")
    parser.add_argument("--most-minutes", type=float, default=25.0, help="of one measurement; default: 25")
    parser.add_argument("--setfit-python", type=Path, help="the interpreter of an environment that has setfit")
    parser.add_argument("--again", action="store_true", help="measure what is there already, too")
    parser.add_argument("--report", type=Path, help="measure nothing, write the tables of what is there")
    parser.add_argument("--scores", type=Path, help="measure nothing, write what is there as CSV")
    parser.add_argument("--picture", type=Path, help="measure nothing, draw what is there (.svg, .png)")
    given = parser.parse_args(arguments)
    default = [name for name in METHODS if name != "setfit" or given.setfit_python]
    given.methods = given.methods.split(",") if given.methods else default
    given.tasks, given.models = given.tasks.split(","), given.models.split(",")
    problem = _problem(given)
    if problem:
        parser.error(problem)
    return given


def _problem(given: argparse.Namespace) -> str | None:
    """What is wrong with the options, before anything slow."""
    for name in given.methods:
        if name not in METHODS:
            return f"--methods takes {', '.join(METHODS)}; got {name!r}"
        package, extra = NEEDS.get(name, (None, None))
        if package and importlib.util.find_spec(package) is None:
            return f"{name} needs {package}: pip install 'glot-pipeline[{extra}]', or leave it out of --methods"
    try:
        for name in given.tasks:
            TaskName.parse(name)
        for model in given.models:
            resolve_model(model)
    except (ValueError, UsageError) as error:
        return str(error)
    if min(given.threads, given.samples if given.samples is not None else 1, given.most_minutes) <= 0:
        return "--threads, --samples and --most-minutes must be above 0"
    if given.report or given.picture or given.scores:
        path = given.folder / "results.jsonl"
        return None if path.exists() else f"there is nothing to report at {path}: measure first"
    if "setfit" in given.methods and (given.setfit_python is None or not os.access(given.setfit_python, os.X_OK)):
        return "setfit needs --setfit-python, the interpreter of an environment that has it (see the head of this file)"
    if not glue_folder(given.data_dir).is_dir():
        return f"there is no GLUE folder at {glue_folder(given.data_dir)}; name one with --data-dir or GLUE_DIR"
    return None


def main(arguments: list[str] | None = None) -> None:
    """Measure, or report."""
    given = parse(arguments)
    if given.report or given.picture or given.scores:
        results = list(load_results(given.folder / "results.jsonl").values())
        if given.report:
            write_report(results, given.report)
        if given.scores:
            write_scores(results, given.scores)
        if given.picture:
            draw(results, given.picture)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is ended with this
    frontier = Frontier(given)
    frontier.run()
    if frontier.failed:
        raise SystemExit(f"{len(frontier.failed)} measurements failed")


if __name__ == "__main__":
    main()
