"""No function leaves the process other than it was: random numbers, threads, dtypes, the environment, logs and bars."""

from __future__ import annotations

import gc
import logging
import os
import random
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glot import GlotClassifier, GlotModel
from glot.corpus.examples import Corpus, Example, pack
from glot.extract.backbone import ModelSource, load_backbone
from glot.extract.options import ExtractOptions
from glot.extract.planning import TextBatch, plan_texts
from glot.extract.run import extract_states
from glot.fit.run import FitOptions, finish_runs, make_configs, prepare_runs
from glot.store.reader import Cache
from glot.store.template import TEXT

for library in ("mteb", "sentence_transformers", "onnxruntime", "onnxscript", "peft"):
    with suppress(ImportError):  # what a library does to the process when it is imported is its own affair
        import_module(library)

TEXTS = ["the cat sat on the mat", "a dog barks", "rain falls softly", "the river turned green"]


def process_state() -> dict[str, Any]:
    """What a caller would find changed."""
    import transformers.utils.logging as transformers_logging

    arrays = np.random.get_state()
    return {
        "random": random.getstate(),
        "NumPy's generator": (arrays[0], arrays[1].tolist(), *arrays[2:]),
        "torch's generator": torch.get_rng_state().tolist(),
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "dtype": torch.get_default_dtype(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "precision": (torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()),
        "NumPy's errors": np.geterr(),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "signals": (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)),
        "logs": (logging.root.level, list(logging.root.handlers), transformers_logging.get_verbosity()),
        "bars": transformers_logging.is_progress_bar_enabled(),
    }


@contextmanager
def unchanged() -> Iterator[None]:
    import transformers.utils.logging as transformers_logging

    transformers_logging.enable_progress_bar()
    torch.manual_seed(7)
    np.random.seed(7)
    random.seed(7)
    before = process_state()
    yield
    after = process_state()
    transformers_logging.disable_progress_bar()
    changed = [name for name in before if before[name] != after[name]]
    assert not changed, changed


@dataclass
class Made:
    """A tiny backbone, a cache of it and runs over that, in a folder of their own."""

    folder: Path
    backbone: Path
    corpus: Corpus
    cache: Path
    run: Path


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, backbone_folders: dict[str, Path], make_corpus: Callable[..., Corpus]
) -> Made:
    folder, backbone = tmp_path_factory.mktemp("made"), backbone_folders["bert"]
    corpus = make_corpus({"train": 24, "validation": 12})
    options = ExtractOptions(max_tokens=16, compute_dtype="float32")
    extract_states(corpus, ModelSource("tiny-bert", str(backbone)), folder / "cache", options)
    cache = Cache(folder / "cache")
    prepare_runs(make_configs(cache, FitOptions(hidden=4, epochs=1, device="cpu")), folder / "run")
    finish_runs(folder / "run")
    return Made(folder, backbone, corpus, folder / "cache", folder / "run")


def extract(made: Made, out: Path) -> None:
    options = ExtractOptions(max_tokens=16, compute_dtype="float32")
    extract_states(made.corpus, ModelSource("tiny-bert", str(made.backbone)), out / "cache", options)


def fit(made: Made, out: Path) -> None:
    options = FitOptions(hidden=4, epochs=2, device="cpu", seeds=(0, 1), precision="bfloat16")
    prepare_runs(make_configs(Cache(made.cache), options), out / "run")
    finish_runs(out / "run")


def sweep(made: Made, out: Path) -> None:
    from glot.fit.sweep import finish_sweep, make_candidates, prepare_sweep

    options = FitOptions(hidden=4, epochs=2, device="cpu", select="holdout")
    grid = {"pooler": ("glot", "mean", "adapool"), "gnn": ("gat", "gin"), "graph": ("cosine", "random")}
    prepare_sweep(make_candidates(Cache(made.cache), options, grid), out / "sweep")
    finish_sweep(out / "sweep")


def evaluate(made: Made, out: Path) -> None:
    from glot.inference.predictions import evaluate_head, write_predictions

    evaluate_head(made.run, Cache(made.cache), "validation", "cpu", "dense")
    write_predictions(made.run, Cache(made.cache), "validation", "jsonl", out / "predictions.jsonl", "cpu", "dense")


def use_model(made: Made, out: Path) -> None:
    model = GlotModel.load(made.run, str(made.backbone), "cpu")
    model.encode(TEXTS)
    model.predict(TEXTS)
    model.predict_proba(TEXTS)


def classify(made: Made, out: Path) -> None:
    classifier = GlotClassifier(str(made.backbone), hidden=4, epochs=1, max_tokens=16, device="cpu")
    classifier.fit(TEXTS, ["a", "b", "a", "b"])
    classifier.predict(TEXTS)
    classifier.transform(TEXTS)


def classify_over_a_cache(made: Made, out: Path) -> None:
    settings = {"hidden": 4, "epochs": 1, "max_tokens": 16, "validation_fraction": 0.5, "device": "cpu"}
    classifier = GlotClassifier(str(made.backbone), **settings, cache=out / "states")
    classifier.fit(TEXTS, ["a", "b", "a", "b"]).predict_proba(TEXTS)


def explain(made: Made, out: Path) -> None:
    from glot.inference.explain import ExplainOptions, explain_runs
    from glot.report.explain import write_page

    options = ExplainOptions(input_text=[TEXTS[0]], model=str(made.backbone), device="cpu")
    explanations = explain_runs([made.run], options)
    write_page(explanations, out / "explain.html")


def export(made: Made, out: Path) -> None:
    from glot.export.folder import export_folder

    pytest.importorskip("sentence_transformers")
    export_folder(made.run, out / "exported", str(made.backbone), "cpu")


def export_as_onnx(made: Made, out: Path) -> None:
    from glot.export.onnx_file import export_onnx

    for package in ("sentence_transformers", "onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    export_onnx(made.run, out / "head.onnx")


def export_texts_as_onnx(made: Made, out: Path) -> None:
    from glot.export.onnx_folder import export_text

    for package in ("sentence_transformers", "onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    export_text(made.run, out / "onnx", str(made.backbone))


def measure(made: Made, out: Path) -> None:
    from glot.nn.poolers import PoolerConfig
    from glot.reproduce import cost

    backbone = load_backbone(ModelSource("tiny", str(made.backbone)), "float32", "cpu")
    work = cost.task_work(made.corpus, backbone, 4, 2, usual_tokens=16)
    cost.measure_cost(backbone.model, work, PoolerConfig(gnn_layers=1, hidden=4), torch.device("cpu"))


def baseline(made: Made, out: Path) -> None:
    from glot.reproduce import baselines

    baselines.vector_baseline(Cache(made.cache), "mean")
    baselines.bag_of_words_baseline(Cache(made.cache))


def report(made: Made, out: Path) -> None:
    from glot.reproduce.report import write_report

    write_report(made.folder, out / "report")


def evaluate_on_mteb(made: Made, out: Path) -> None:
    pytest.importorskip("mteb")
    from glot.mteb_eval.run import MtebOptions, evaluate_mteb, quiet_libraries

    rows = [f"{a}\t{b}\t{score}" for score, (a, b) in enumerate(pairwise(TEXTS))]
    (out / "sts.tsv").write_text("\n".join(["sentence1\tsentence2\tscore", *rows]) + "\n")
    options = MtebOptions([made.run], local=[f"sts:{out / 'sts.tsv'}"], out=out, model=str(made.backbone), device="cpu")
    with quiet_libraries():
        evaluate_mteb(options)


def benchmark(made: Made, out: Path) -> None:
    from benchmarks import density, memory, step

    step.make_ways(step.make_batch(8, 5, torch.device("cpu")), False)
    density.make_way(density.spread_batch(16), 0.5, "dense")
    memory.save_backbone(out)


FUNCTIONS = [extract, fit, sweep, evaluate, use_model, classify, classify_over_a_cache, explain, export]
FUNCTIONS += [export_as_onnx, export_texts_as_onnx, measure, baseline, report, evaluate_on_mteb, benchmark]


@pytest.mark.parametrize(
    "function",
    [
        pytest.param(some, marks=pytest.mark.slow) if some in (export_as_onnx, export_texts_as_onnx) else some
        for some in FUNCTIONS
    ],
    ids=lambda function: function.__name__,
)
def test_the_process_is_left_as_it_was(function: Callable[[Made, Path], None], made: Made, tmp_path: Path) -> None:
    with unchanged():
        function(made, tmp_path)


def test_a_seed_gives_the_weights_that_torch_gives_for_it(made: Made, tmp_path: Path) -> None:
    """So that runs of before are made again, whatever the caller has drawn meanwhile."""
    from glot.fit.head_model import HeadModel
    from glot.fit.learner import Job, Learner
    from glot.fit.training_data import open_data, open_states

    cache = Cache(made.cache)
    (config,) = make_configs(cache, FitOptions(hidden=4, epochs=1, device="cpu", seeds=(5,)))
    torch.rand(3)
    started = Learner(Job(config, tmp_path), open_data(cache, config, open_states(cache, config)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        expected = HeadModel(config.pooler, config.task, config.states.width, config.train.backend)
    for name, value in expected.state_dict().items():
        assert torch.equal(started.model.state_dict()[name], value), name


@pytest.mark.slow
def test_dgl_leaves_the_environment_alone() -> None:
    """In a process of its own, where DGL has not been imported yet."""
    from glot.nn.dgl_backend import dgl_available

    if not dgl_available():
        pytest.skip("DGL cannot be imported")
    code = "import os\nfrom glot.nn.dgl_backend import dgl_available\nbefore = dict(os.environ)\n"
    code += "assert dgl_available()\nassert before == dict(os.environ)"
    environment = {name: value for name, value in os.environ.items() if name != "DGLBACKEND"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("given", "policy"),
    [({}, "PASSIVE"), pytest.param({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE", marks=pytest.mark.slow)],
)
def test_threads_of_a_command_sleep_while_they_wait(given: dict[str, str], policy: str) -> None:
    """As OpenMP itself tells when torch is loaded; what the user has set stays."""
    code = (
        "import sys, contextlib; sys.argv = ['glot', '--version']; from glot.commands.app import main\n"
        "with contextlib.suppress(SystemExit): main()\n"
        "import torch"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, **given, "OMP_DISPLAY_ENV": "TRUE"},
        capture_output=True,
        text=True,
    )
    assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr, done.stderr


class Ring:
    """Refers to itself: only a search for cycles frees it."""

    def __init__(self) -> None:
        self.ring = self


def test_cycles_of_others_are_found_while_a_corpus_is_planned(backbone_folders: dict[str, Path]) -> None:
    """Planning looks for none meanwhile; what a caller leaves between its batches is not left for ever."""
    tokenizer = load_backbone(ModelSource("bert", str(backbone_folders["bert"]))).tokenizer
    batch = TextBatch((pack([Example(0, TEXTS[0], None, 0)], [0]),), np.zeros(1, dtype=np.int64))
    left = []
    for _ in range(100):
        left += [weakref.ref(Ring()) for _ in range(20)]  # too few at a time for a search of their own
        plan_texts(batch, TEXT, tokenizer, 24)
    assert any(ring() is None for ring in left)
    assert gc.isenabled()
