"""Everything that only a GPU can show, in at most eight minutes: Markdown for docs/benchmarks-gpu.md.

    PYTHON=python3 make gpu-check                     # or: PYTHONPATH=pipeline python3 -m benchmarks.gpu_check
    python -m benchmarks.gpu_check --tiny             # tiny sizes, in a minute, on a CPU too: does it run at all?

It needs torch, transformers, h5py and xxhash; pytest for the CUDA tests, peft for LoRA. Each section is a process of
its own with a budget of seconds: a crash, a full card or a hang ends that section, with one line that says so, and not
the others. Progress goes to standard error. The exit code is 1 where a section failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import torch

from benchmarks import step
from benchmarks.made import make_cache, spread_lengths
from benchmarks.ratios import describe_machine, seconds_of, verdict
from glot.fit.run import FitOptions, make_configs
from glot.fit.schedule import make_optimizer
from glot.fit.states import HostBatch
from glot.fit.steps import RecordedSteps, Steps
from glot.fit.train import fit_head
from glot.nn.config import PoolerConfig
from glot.nn.poolers import make_pooler
from glot.nn.tokens import TokenBatch
from glot.process import kept_randomness
from glot.reproduce.cost import step_bytes
from glot.store.files import one_line, write_text
from glot.store.reader import Cache

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from glot.corpus.examples import Corpus
    from glot.extract.backbone import Backbone

ROOT = Path(__file__).parents[1]
WHOLE = 470  # seconds for all sections: eight minutes, less what starting and ending takes
BEGAN = "GPU_CHECK_BEGAN"  # the variable that tells a section's process when the whole check began
NOMINAL_H100 = 989e12  # bfloat16 FLOP/s of an H100 SXM without sparsity, by its data sheet
SHAPE = "mistral-7b"
PUBLISHED_STEP = 13.4  # ms of the paper's GLOT, on a GPU that it does not name
EXTRACTION_TARGET = 0.95  # of the bare loop's tokens/s, as for the larger backbone on a CPU


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        smaller: settings of the backbone's configuration that differ from Mistral-7B's.
        product: rows and columns of the product that stands for the card's peak.
        width, tokens: d and L of the step. steps: in a block that is timed as one. blocks: the median is of so many.
        extracted: tokens of stage one. repeats: how often each way runs.
        fit_means, fit_texts, fit_epochs: tokens of a text, texts and epochs of the trainings that are timed whole.
        cost_texts: a step of the table of costs. cost_steps: of each way, the first of which warms up.
    """

    smaller: dict[str, int] = field(default_factory=dict)
    product: int = 8192
    width: int = 4096
    tokens: int = 128
    steps: int = 50
    blocks: int = 7
    extracted: int = 300_000
    repeats: int = 2
    fit_means: tuple[int, ...] = (27, 110)
    fit_texts: int = 2048
    fit_epochs: int = 4
    cost_texts: int = 8
    cost_steps: int = 12


TINY = Sizes(
    smaller={
        **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 400},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8},
    },
    **{"product": 64, "width": 32, "tokens": 8, "steps": 2, "blocks": 2, "extracted": 1500, "repeats": 1},
    **{"fit_means": (4,), "fit_texts": 200, "fit_epochs": 2, "cost_texts": 2, "cost_steps": 3},
)


def tell(line: str) -> None:
    """Progress, with the seconds since the whole check began."""
    elapsed = time.time() - float(os.environ.get(BEGAN, time.time()))
    print(f"[{elapsed:4.0f} s] {line}", file=sys.stderr, flush=True)


def wait_for(device: torch.device) -> None:
    """Until a GPU has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def table_head(*headings: str) -> Iterator[str]:
    """The first two lines of a Markdown table."""
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"


def table_row(*cells: str) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


# --- the machine


def machine(sizes: Sizes, device: torch.device) -> Iterator[str]:
    """What this is measured on, and how fast one large product is."""
    import transformers

    driver = ""
    with suppress(OSError, subprocess.SubprocessError):
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        found = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        driver = f", driver {found.stdout.split()[0]}"
    memory = f", {torch.cuda.get_device_properties(device).total_memory / 2**30:.0f} GiB" if on_gpu(device) else ""
    yield f"{device_name(device)}{memory}{driver}, CUDA {torch.version.cuda}; {time.strftime('%Y-%m-%d')};"
    yield f"{platform.machine()}, {describe_machine()}, transformers {transformers.__version__}."
    yield ""
    yield from table_head("a product of two square matrices", "TFLOP/s")
    for name, (bfloat16, precision) in step.PRECISIONS.items():
        with step.float32_products(precision):
            rate = peak(sizes, device, torch.bfloat16 if bfloat16 else torch.float32)
        yield table_row(f"{name}, {sizes.product:,} wide", f"{rate / 1e12:,.3g}")
    nominal = nominal_peak(device)
    yield table_row("bfloat16, by the data sheet", f"{nominal / 1e12:,.3g}" if nominal else "not known of this device")


def on_gpu(device: torch.device) -> bool:
    """Whether a device is a CUDA device."""
    return device.type == "cuda"


def device_name(device: torch.device) -> str:
    """What a GPU calls itself."""
    return torch.cuda.get_device_name(device) if on_gpu(device) else "CPU (no GPU)"


def nominal_peak(device: torch.device) -> float | None:
    """The card's bfloat16 FLOP/s by its data sheet; None where it is no H100 SXM (PCIe and NVL cards are slower)."""
    name = device_name(device)
    return NOMINAL_H100 if "H100" in name and "PCIe" not in name and "NVL" not in name else None


def peak(sizes: Sizes, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> float:
    """FLOP/s of one large product."""
    return 2 * step.product_rate(sizes.product, sizes.product, device, dtype, sizes.product)


# --- the tests that need a GPU


def marked_files() -> list[Path]:
    """The files with tests that are marked `cuda`."""
    return [path for path in sorted(ROOT.glob("tests/**/test_*.py")) if "pytest.mark.cuda" in path.read_text("utf-8")]


def cuda_tests(sizes: Sizes, device: torch.device) -> Iterator[str]:
    """Runs the tests that are marked `cuda`; raises RuntimeError where one fails, or where a GPU runs none."""
    if importlib.util.find_spec("pytest") is None:
        yield "No test was run: pytest is not installed here."
        return
    marked = marked_files()
    if not marked:
        raise RuntimeError(f"no file below {ROOT / 'tests'} has a test marked `cuda`")
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-rs", "--tb=short", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *map(str, marked)], cwd=ROOT, capture_output=True, text=True)
    print(done.stdout[-6000:], done.stderr[-2000:], file=sys.stderr, flush=True)
    counts = re.findall(r"(\d+) (passed|skipped|failed|errors?)\b", done.stdout)
    yield f"Of the tests marked `cuda` in {len(marked)} files: {', '.join(map(' '.join, counts)) or 'none was found'}."
    passed = any(kind == "passed" for _, kind in counts)
    if done.returncode or (on_gpu(device) and not passed):
        raise RuntimeError(f"pytest ended with {done.returncode}; what it said is on standard error")


# --- the step


class Unit:
    """GLOT and a linear head as `glot fit` trains them, by bfloat16 autocast or not."""

    can_be_recorded = True

    @kept_randomness(0)
    def __init__(self, width: int, device: torch.device, bfloat16: bool) -> None:
        config = PoolerConfig(gnn_layers=step.LAYERS, hidden=step.HIDDEN, tau=step.TAU)
        self.pooler = make_pooler(config, width, "dense").to(device)
        self.head = torch.nn.Linear(self.pooler.out_width, 2).to(device)
        self.device, self.bfloat16 = device, bfloat16
        self.optimizer = make_optimizer([*self.pooler.parameters(), *self.head.parameters()], 1e-4, device)

    def update(self, texts: TokenBatch, rows: list[torch.Tensor], labels: torch.Tensor) -> None:
        """See `Learner.update`."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            raw = self.head(self.pooler(texts).index_select(0, rows[0]))
        torch.nn.functional.cross_entropy(raw.float(), labels).backward()
        self.optimizer.step()


def host_batch(sizes: Sizes, device: torch.device, pinned: bool) -> HostBatch:
    """A batch as a cache holds it, (N, d) float16, on the device or in memory (pinned, where there is a GPU)."""
    batch = step.make_batch(sizes.width, sizes.tokens, torch.device("cpu"), same_length=True)
    values = batch.states.half()
    if not pinned:
        values = values.to(device)
    elif on_gpu(device):
        values = values.pin_memory()
    return HostBatch(values, lengths=batch.lengths, rows=(torch.arange(len(batch)),))


def make_runs(host: HostBatch, device: torch.device, bfloat16: bool) -> dict[str, Callable[[], None]]:
    """A step of `glot fit` on a batch, from its states as stored to new weights: as it is, and recorded."""
    labels = torch.arange(len(host.rows[0])) % 2
    units = [Unit(host.values.shape[1], device, bfloat16) for _ in range(2)]
    plain, recorded = Steps(units[:1], device), RecordedSteps(units[1:], device)
    return {"as it is": partial(plain.run, host, labels), "recorded": partial(recorded.run, host, labels)}


def step_seconds(run: Callable[[], None], sizes: Sizes, device: torch.device) -> float:
    """Of one step, the median of blocks; the device is waited for at the end of a block alone, as in training."""

    def block() -> None:
        for _ in range(sizes.steps):
            run()
        wait_for(device)

    block()  # warms up
    return statistics.median(seconds_of(block) for _ in range(sizes.blocks)) / sizes.steps


PLACES = {"on the device": False, "pinned in memory": True}


def step_table(sizes: Sizes, device: torch.device) -> Iterator[str]:
    """The step by precision, by where its states are, and by how it is run."""
    tokens = step.TEXTS * sizes.tokens
    yield f"{step.TEXTS} texts of L = {sizes.tokens} tokens, d = {sizes.width}, K = {step.LAYERS}, h = {step.HIDDEN},"
    yield f"τ = {step.TAU}, states in float16; blocks of {sizes.steps} steps, the median of {sizes.blocks}. Products"
    yield "alone: a step's, at the rate of one product of that size; cosines are float32 always. Recorded: as a CUDA"
    yield f"graph, see `fit/steps.py`{'' if on_gpu(device) else ' (no GPU: the same operations)'}."
    yield ""
    yield from table_head(
        "precision",
        "states",
        "ms a step",
        "recorded",
        "its products alone",
        "peak of tensors",
        "≤ 1.0 ms",
        "over 13.4 ms",
    )
    for name, (bfloat16, precision) in step.PRECISIONS.items():
        for place, pinned in PLACES.items():
            tell(f"step: {name}, states {place}")
            with step.float32_products(precision):
                runs = make_runs(host_batch(sizes, device, pinned), device, bfloat16)
                took = {way: step_seconds(run, sizes, device) for way, run in runs.items()}
                dtype = torch.bfloat16 if bfloat16 else torch.float32
                floor = step.step_products(sizes.width, tokens) / step.product_rate(tokens, sizes.width, device, dtype)
                size = step_bytes(runs["as it is"], device) / 2**20
            best = took["recorded"]
            met = verdict(best, step.CUDA_TARGET, True).rpartition(": ")[2]
            numbers = [f"{1e3 * value:.3g}" for value in (took["as it is"], best, floor)]
            yield table_row(name, place, *numbers, f"{size:,.0f} MiB", met, f"{PUBLISHED_STEP / (1e3 * best):.3g}")
    yield ""
    yield from copy_time(sizes, device)
    yield ""
    yield from fit_table(sizes, device)


def copy_time(sizes: Sizes, device: torch.device) -> Iterator[str]:
    """What the copy of a batch's states costs by itself."""
    host = host_batch(sizes, device, pinned=True).values
    took = statistics.median(
        seconds_of(lambda: (host.to(device, non_blocking=True), wait_for(device))) for _ in range(20)
    )
    rate = host.nbytes / took / 1e9
    yield f"The copy of a batch's states from pinned memory alone: {1e3 * took:.3g} ms, {rate:.3g} GB/s."


def fit_table(sizes: Sizes, device: torch.device) -> Iterator[str]:
    """Whole trainings by `fit_head` over a cache: reading, batches, steps, progress."""
    yield "`glot fit` over a cache of texts of many lengths, ms a step of its last epoch, evaluation not counted:"
    yield ""
    yield from table_head("d", "mean tokens", "precision", "as it is", "recorded")
    for mean in sizes.fit_means:
        with tempfile.TemporaryDirectory(prefix="gpu-check-") as made:
            tokens = sizes.fit_texts * mean
            cache = Cache(make_cache(Path(made) / "cache", sizes.width, spread_lengths(tokens, mean), tokens))
            for precision in ("float32", "bfloat16"):
                tell(f"fit: mean {mean} tokens, {precision}")
                options = FitOptions(device=device.type, precision=precision, epochs=sizes.fit_epochs, seeds=(0,))
                [config] = make_configs(cache, options)
                took = []
                for number, make in enumerate((Steps, RecordedSteps)):
                    chosen = lambda units, place, chunk_size, make=make: make(units, place)  # noqa: E731
                    with mock.patch("glot.fit.train.make_steps", chosen):
                        last = fit_head(cache, config, Path(made) / f"{precision}-{number}").epochs[-1]
                    took.append(1e3 * last.seconds / math.ceil(len(cache.examples("train")) / config.train.batch_size))
                yield table_row(f"{sizes.width:,}", str(mean), precision, *(f"{value:.3g}" for value in took))
            cache.close()


# --- stage one


def random_backbone(sizes: Sizes, device: torch.device) -> PreTrainedModel:
    """Mistral-7B's shape with random bfloat16 weights, drawn on the device, which takes a GPU a second."""
    from glot.reproduce.cost import random_model

    with torch.device(device):
        return random_model(SHAPE, torch.bfloat16, **sizes.smaller).eval().requires_grad_(False)


def word_tokenizer(vocabulary: int) -> PreTrainedTokenizerBase:
    """A tokenizer of the words w0, w1, ..., each one token, with a BOS before every text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", *(f"w{number}" for number in range(vocabulary - 3))]
    tokenizer = Tokenizer(models.WordLevel({piece: n for n, piece in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    roles = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, padding_side="right", **roles)


def as_backbone(model: PreTrainedModel, device: torch.device, longest: int) -> Backbone:
    """What loading from a folder would make of the model, without writing, hashing and trying 14 GB."""
    from glot.extract.backbone import Backbone
    from glot.extract.identity import Loader

    config = model.config
    return Backbone(
        name="random-mistral",
        source="random-mistral",
        revision="",
        weights_sha256="0" * 64,
        tokenizer_sha256="1" * 64,
        kind="decoder",
        num_layers=config.num_hidden_layers,
        vocabulary_size=config.vocab_size,
        compute_dtype="bfloat16",
        get_model=lambda: model,
        tokenizer=word_tokenizer(config.vocab_size),
        device=device,
        loader=Loader("2" * 64, ()),
        layer_widths=(config.hidden_size,) * (config.num_hidden_layers + 1),
        tried=longest,
    )


def random_corpus(vocabulary: int, tokens: int) -> Corpus:
    """Distinct texts of random words with about `tokens` tokens in all, 92 to 128 each."""
    import numpy as np

    from benchmarks.made import TASK, spread_lengths
    from glot.corpus.examples import Corpus, Example, Split

    random, lengths = np.random.default_rng(0), spread_lengths(tokens, 110)
    texts = [" ".join(f"w{n}" for n in random.integers(0, vocabulary - 3, length - 1)) for length in lengths]
    examples = [Example(row, text, None, row % 2) for row, text in enumerate(texts)]
    return Corpus(TASK, {"train": Split("train", examples, "random words")})


def forward_flops(model: PreTrainedModel, lengths: Sequence[int]) -> float:
    """FLOPs of forwarding texts of some lengths.

    Two for each weight but the embeddings' and token, and attention's two products over all pairs of a text's tokens:
    4 · layers · (heads · head width) · L², the causal half that nobody needs to compute included.
    """
    config = model.config
    weights = sum(p.numel() for p in model.parameters()) - model.get_input_embeddings().weight.numel()
    inner = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    attention = 4 * config.num_hidden_layers * inner * sum(length**2 for length in lengths)
    return 2.0 * weights * sum(lengths) + attention


def extraction_table(sizes: Sizes, device: torch.device) -> Iterator[str]:
    """Tokens/s of stage one beside a bare loop over the same batches, and both as shares of the card's peak."""
    from benchmarks import extraction
    from glot.store.reader import Cache

    tell(f"extraction: drawing the weights of {SHAPE}")
    model = random_backbone(sizes, device)
    backbone = as_backbone(model, device, extraction.MAX_TOKENS)
    corpus = random_corpus(backbone.vocabulary_size, sizes.extracted)
    times: dict[str, list[float]] = {"bare": [], "ours": []}
    busy: list[str] = []
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        for repeat in range(sizes.repeats):
            with extraction.scratch(Path(folder)) as place:
                shards = extraction.extract(backbone, corpus, place, plan_only=True, request="benchmark").shards
                cache = Cache(place, allow_unfinished=True)
                lengths = cache.plan.length.astype(int).tolist()
                batches = [b for number in range(shards) for b in extraction.padded_batches(backbone, cache, number)]
                cache.close()
                extraction.bare_loop(backbone, batches[:2])  # warms up
                for way in ("bare", "ours") if repeat % 2 else ("ours", "bare"):
                    tell(f"extraction: {way}, {sum(lengths):,} tokens in {len(batches)} batches, {shards} shards")
                    if way == "bare":
                        times[way].append(seconds_of(lambda batches=batches: extraction.bare_loop(backbone, batches)))
                        continue
                    done = extraction.extract(backbone, None, place, request="benchmark")
                    times[way].append(done.seconds)
                    busy.append(", ".join(f"{name} {value:.2f} s" for name, value in vars(done.busy).items()))
    yield from extraction_rows(sizes, device, times, forward_flops(model, lengths), sum(lengths))
    padded, mean = sum(ids.numel() for ids, _ in batches) / sum(lengths), sum(lengths) / len(lengths)
    yield ""
    yield f"{len(lengths):,} texts of {mean:.0f} tokens, padded {padded:.3f} times as many. Stage one writes"
    yield f"{2 * backbone.width * sum(lengths) / 1e9:.3g} GB of bfloat16 states; its threads were busy:"
    yield f"{'; '.join(busy)}."


def extraction_rows(
    sizes: Sizes, device: torch.device, times: dict[str, list[float]], flops: float, tokens: int
) -> Iterator[str]:
    """The table: the best of the repeats of each way, and the ratio of these."""
    measured, nominal = peak(sizes, device), nominal_peak(device)
    best = {way: min(values) for way, values in times.items()}
    titles = {"bare": "bare loop of `model(**batch)` on the same batches", "ours": "stage one: forward, cast, write"}
    yield from table_head(
        "best of " + str(sizes.repeats), "tokens/s", "model TFLOP/s", "of a large product", "of the data sheet"
    )
    for way, title in titles.items():
        rate = flops / best[way]
        share = f"{100 * rate / nominal:.3g} %" if nominal else "not known"
        yield table_row(
            title, f"{tokens / best[way]:,.0f}", f"{rate / 1e12:.3g}", f"{100 * rate / measured:.3g} %", share
        )
    yield ""
    ratio = best["bare"] / best["ours"]
    yield f"Stage one over the bare loop: {ratio:.3f}; {verdict(ratio, EXTRACTION_TARGET)}."


# --- the cost of a label


def cost_table(sizes: Sizes, device: torch.device) -> Iterator[str]:
    """Full fine-tuning, LoRA, a frozen backbone in every step, and GLOT over a cache."""
    import numpy as np

    from glot.nn.config import PoolerConfig
    from glot.reproduce.cost import PUBLISHED, Work, make_record, measure_cost, ways_left_out

    tell(f"cost: drawing the weights of {SHAPE}")
    model = random_backbone(sizes, device)
    random, count, examples = np.random.default_rng(0), sizes.cost_texts * sizes.cost_steps, 3668
    texts = random.integers(0, model.config.vocab_size, (count, sizes.tokens)).tolist()
    work = Work(texts, np.split(np.arange(count), sizes.cost_steps), examples, examples * sizes.tokens)
    config = PoolerConfig(gnn_layers=step.LAYERS, hidden=step.HIDDEN, tau=step.TAU)
    tell("cost: GLOT, frozen backbone, LoRA, full fine-tuning, one after the other")
    costs = measure_cost(model, work, config, device, alone=True)
    record = make_record(
        f"{SHAPE}'s shape, random bfloat16 weights", f"texts of {sizes.tokens} tokens", work, costs, device
    )
    yield f"{record.title}."
    yield "One way after the other, for they do not fit on a card together; weights and Adam's state in bfloat16."
    yield ""
    yield from table_head(*record.header)
    yield from (table_row(*row) for row in record.rows())
    yield ""
    yield f"Extraction is {costs[-1].before:,.3g} s of GLOT's {costs[-1].training:,.3g} s."
    yield f"{PUBLISHED[0].upper()}{PUBLISHED[1:]}."
    for name in ways_left_out(costs):
        lacks_peft = name == "LoRA" and importlib.util.find_spec("peft") is None
        yield f"{name} is left out: {'peft is not installed here' if lacks_peft else 'it does not fit on this card'}."


# --- the whole


@dataclass(frozen=True)
class Section:
    """A part of the check: its name, its heading, the seconds it may take, and what yields its lines of Markdown."""

    name: str
    title: str
    budget: int
    lines: Callable[[Sizes, torch.device], Iterator[str]]


SECTIONS = (
    Section("machine", "The machine", 50, machine),
    Section("tests", "The CUDA tests", 90, cuda_tests),
    Section("step", "Stage two: a step on a GPU", 100, step_table),
    Section("extraction", "Stage one on a GPU: Mistral-7B's shape", 130, extraction_table),
    Section("cost", "The cost of a label on a GPU", 110, cost_table),
)


class Report:
    """What was found so far: printed at once, and written to a file after each section."""

    def __init__(self, out: Path | None) -> None:
        self.out, self.lines = out, []

    def add(self, line: str) -> None:
        """One more line of Markdown."""
        print(line, flush=True)
        self.lines.append(line)

    def save(self) -> None:
        """Write the file, whole or not at all, where there is to be one."""
        if self.out is not None:
            write_text(self.out, "\n".join(self.lines) + "\n")


def run_here(section: Section, tiny: bool, report: Report) -> bool:
    """Run a section in this process; False where it failed, which is said in one line."""
    try:
        if not tiny and not torch.cuda.is_available():
            raise RuntimeError("torch sees no CUDA device; --tiny runs on a CPU")
        device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        for line in section.lines(TINY if tiny else Sizes(), device):
            report.add(line)
    except Exception as error:
        traceback.print_exc()
        report.add(f"\n{section.name} failed: {type(error).__name__}: {one_line(error)[:300]}")
        return False
    return True


def run_apart(command: list[str], name: str, seconds: float, report: Report) -> bool:
    """Run a section in a process of its own, which is killed with all that it started after so many seconds."""
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    late = threading.Event()

    def kill() -> None:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)

    timer = threading.Timer(seconds, lambda: (late.set(), kill()))
    timer.start()
    said = ""
    try:
        for line in child.stdout or ():
            said = line.rstrip("\n")
            report.add(said)
        code = child.wait()
    finally:
        timer.cancel()
        kill()
    if late.is_set():
        report.add(f"\n{name} failed: stopped after {seconds:.0f} s")
    elif code and not said.startswith(f"{name} failed"):
        report.add(f"\n{name} failed: its process ended with {code}")
    return not code and not late.is_set()


def check(sections: Sequence[Section], tiny: bool, report: Report) -> int:
    """Run sections one after the other, whatever becomes of any; 1 where one failed.

    Tiny ones run in this process, where nothing can go wrong that would spoil the next.
    """
    began, failed = time.monotonic(), []
    for section in sections:
        tell(f"{section.title}: at most {section.budget} s")
        report.add(f"## {section.title}\n")
        if tiny:
            succeeded = run_here(section, tiny, report)
        else:
            command = [sys.executable, "-m", "benchmarks.gpu_check", "--only", section.name]
            left = WHOLE - (time.monotonic() - began)
            succeeded = run_apart(command, section.name, max(0.0, min(section.budget, left)), report)
        if not succeeded:
            failed.append(section.name)
        report.add("")
        report.save()
    tell(f"failed: {', '.join(failed)}" if failed else "all sections are there")
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all sections, or the one that is named; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, on a CPU where there is no GPU")
    parser.add_argument("--out", type=Path, help="a Markdown file for what is printed; written after each section")
    parser.add_argument("--only", choices=[section.name for section in SECTIONS], help="this section, in this process")
    given = parser.parse_args(arguments)
    os.environ.setdefault(BEGAN, str(time.time()))
    report = Report(given.out)
    if given.only is None:
        return check(SECTIONS, given.tiny, report)
    [section] = [section for section in SECTIONS if section.name == given.only]
    succeeded = run_here(section, given.tiny, report)
    report.save()
    return 0 if succeeded else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a section's process ends with this one
    sys.exit(main())
