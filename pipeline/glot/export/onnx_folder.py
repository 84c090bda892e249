"""A run and its backbone as a folder that onnxruntime (or OpenVINO), tokenizers and numpy use: texts to answers."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from glot.errors import FaultError, UsageError, reason_of
from glot.export.folder import PROBES, uncut_pairs
from glot.export.onnx_graph import check_packages, make_graph
from glot.export.onnx_text import INPUTS, PAIR_INPUTS, PairGraph, TextGraph, answer_name
from glot.export.onnx_use import write_use
from glot.export.pooling import check_library, load_pooling
from glot.export.runtimes import RUNTIMES, Runtime
from glot.extract.planning import added_tokens
from glot.fit.result import FitResult
from glot.fit.run_folder import find_one_run
from glot.inference.model import GlotModel
from glot.products import fast_products
from glot.registry.backbones import hub_id
from glot.store.files import atomic_folder, folder_bytes, write_json, write_text
from glot.store.template import fill, join_pair, takes_pair
from glot.version import __version__

if TYPE_CHECKING:
    from glot.export.pooling_module import GlotPooling

TEXT_GRAPH, PAIR_GRAPH, TOKENIZER_FILE, FACTS_FILE = "model", "head", "tokenizer.json", "glot.json"
TOLERANCE = 1e-4
# Of the ten thousands of pairs of tokens in a long text some cosine may lie so near tau that rounding decides it.
LONG_TEXT, LONG_TOLERANCE = 64, 1e-2
PACKAGES = ("onnx", "tokenizers", "torch", "transformers")


@dataclass(frozen=True)
class ExportedText:
    """What an export made.

    Attributes:
        path: the folder. bytes: of its files. files: their names.
        outputs: of the graph of texts. pair_outputs: of the head of pairs, empty where there is none.
        width: D.
        difference: how far the numbers are from the run's at most, on some texts.
        compute_dtype: what the run's backbone computes in; the files compute in float32.
        rounding: how far the run's vectors in that dtype are from those in float32, on the same texts.
    """

    path: Path
    bytes: int
    files: tuple[str, ...]
    outputs: tuple[str, ...]
    pair_outputs: tuple[str, ...]
    width: int
    difference: float
    compute_dtype: str
    rounding: float


def export_text(
    run: Path,
    out: Path,
    model: str | None = None,
    trust_remote_code: bool = False,
    runtime: Runtime = RUNTIMES["onnx"],
) -> ExportedText:
    """Write a run, its backbone and its tokenizer to a new folder `out`, and compare it with the run.

    Args:
        run: of one seed, finished.
        model, trust_remote_code: see `GlotModel.load`.
        runtime: what the folder is for, and what compares it.

    Raises UsageError where a package is missing, the run cannot be exported or `out` is there already, FaultError
    where the disk is full or a number differs by more than `TOLERANCE` of the largest.
    """
    run = find_one_run(Path(run))
    result = FitResult.load(run)
    check_packages(runtime.kind)
    runtime.check()
    check_library()
    with atomic_folder(out) as folder:
        glot = GlotModel.load(run, model, "cpu", trust_remote_code, engine="torch")
        tokenizer = _tokenizer(glot)
        texts = _probes(glot)
        before = glot.encode(*texts)
        glot.backbone.model.float()  # processors have no ONNX operations in 16 bits
        pooling = load_pooling(run, glot.config, added_tokens(glot.backbone.tokenizer))
        text = TextGraph(glot.backbone, pooling, glot.config.layers).eval()
        pair_outputs = (str(answer_name(pooling)),) if glot.config.task.num_texts == 2 and pooling.head else ()
        facts = _facts(glot, result, text.outputs, pair_outputs, runtime)
        said = {"made_by": f"glot {__version__}", "backbone": glot.config.states.backbone}
        _make_text_graph(glot, text, said).save(folder / f"{TEXT_GRAPH}.onnx")
        if pair_outputs:
            _make_pair_graph(pooling, pair_outputs, said).save(folder / f"{PAIR_GRAPH}.onnx")
        for path in sorted(folder.glob("*.onnx")):
            runtime.keep(path)
        write_text(folder / TOKENIZER_FILE, tokenizer.to_str())
        write_json(folder / FACTS_FILE, facts)
        write_use(folder, facts, runtime)
        difference, rounding = _compare(folder, runtime, glot, facts, texts, before)
        files = tuple(sorted(path.name for path in folder.iterdir()))
    return ExportedText(
        out,
        folder_bytes(out),
        files,
        text.outputs,
        pair_outputs,
        pooling.out_width,
        difference,
        glot.config.states.compute_dtype,
        rounding,
    )


def _make_text_graph(glot: GlotModel, text: TextGraph, said: dict[str, str]) -> Any:
    backbone = glot.backbone
    if not backbone.pads:
        raise UsageError(
            f"padding changes the states of {backbone.name}, and whoever has the folder pads: use glot encode"
        )
    longest = glot.config.states.max_tokens
    rows = [[place % backbone.vocabulary_size for place in range(5, 5 + min(size, longest))] for size in (7, 5)]
    try:
        with fast_products("torch"):  # nothing is measured while the exporter looks on
            return make_graph(text, backbone.pad(rows), INPUTS, text.outputs, said)
    except Exception as error:  # the exporter and each family of models have their own
        kind = backbone.model.config.model_type
        raise UsageError(
            f"torch cannot write {backbone.name} (a {kind} model) as ONNX ({reason_of(error)}): export it --to "
            "sentence-transformers, or its head alone with --head-only"
        ) from None


def _make_pair_graph(pooling: GlotPooling, outputs: tuple[str, ...], said: dict[str, str]) -> Any:
    # Two tensors: one that is given twice would be one input of the graph.
    example = torch.zeros(2, pooling.out_width), torch.ones(2, pooling.out_width)
    return make_graph(PairGraph(pooling).eval(), example, PAIR_INPUTS, outputs, said, ("batch",))


def _tokenizer(glot: GlotModel) -> Any:
    """The run's tokenizer as the package tokenizers has it; cuts and pads as the run does."""
    from tokenizers import Tokenizer

    own, backbone = glot.backbone.tokenizer, glot.backbone
    if not own.is_fast:
        raise UsageError(
            f"the tokenizer of {backbone.name} is not one that the package tokenizers reads: export the run "
            "--to sentence-transformers, or its head alone with --head-only"
        )
    made = Tokenizer.from_str(own.backend_tokenizer.to_str())
    made.enable_truncation(glot.config.states.max_tokens)
    pad = own.pad_token_id or 0
    made.enable_padding(pad_id=pad, pad_token=made.id_to_token(pad) or "")
    return made


def _facts(
    glot: GlotModel, result: FitResult, outputs: tuple[str, ...], pair_outputs: tuple[str, ...], runtime: Runtime
) -> dict:
    """`glot.json`: what a user of the files must know."""
    config, states, task = glot.config, glot.config.states, glot.config.task
    return {
        "version": 1,
        "made_by": f"glot {__version__}",
        "backbone": states.backbone,
        "hub": hub_id(states.source),
        "backbone_weights_sha256": states.weights_sha256,
        "layers": list(config.layers),
        "pooler": config.pooler.pooler,
        "task": task.name,
        "template": states.template,
        "max_tokens": states.max_tokens,
        "texts": config.texts_each,
        "adds_tokens": any(added_tokens(glot.backbone.tokenizer)),
        "outputs": list(outputs),
        "pair_outputs": list(pair_outputs),
        "width": glot.width,
        "classes": list(task.classes),
        "thresholds": None if glot.thresholds is None else glot.thresholds.tolist(),
        "score_range": None if task.score_range is None else list(task.score_range),
        "scores": result.best,
        "computed_in": states.compute_dtype,
        "versions": {name: version(name) for name in (*PACKAGES, runtime.package)},
    }


def _probes(glot: GlotModel) -> tuple[list[str], ...]:
    """Some texts, one so long that it is cut; with their second texts where the run's prompt holds both.

    Such pairs are not cut: the run cuts the longer text, and whoever has the folder the end of the prompt.
    """
    states = glot.config.states
    if not takes_pair(states.template):
        return ([*PROBES, PROBES[1] * (states.max_tokens // 8 + 1)],)
    first, second = zip(*uncut_pairs(glot), strict=True)
    return list(first), list(second)


def _compare(
    folder: Path,
    runtime: Runtime,
    glot: GlotModel,
    facts: dict[str, Any],
    texts: tuple[list[str], ...],
    before: np.ndarray,
) -> tuple[float, float]:
    """The largest difference of the folder's numbers to the run's, and of the run's in its own dtype to float32.

    Raises FaultError for a large one.
    """
    template, task = glot.config.states.template, glot.config.task
    filled = [
        fill(template, join_pair(*given) if takes_pair(template) else given[0]) for given in zip(*texts, strict=True)
    ]
    predict = glot.predict_proba if task.classes else glot.predict
    expected = {"vectors": glot.encode(*texts)}
    expected |= {name: predict(*texts) for name in facts["outputs"] if name != "vectors"}
    user = _User(folder, runtime, facts["outputs"])
    batches = [list(range(len(filled))), *([place] for place in range(len(filled)))]
    worst = 0.0
    for places in batches:
        found, lengths = user([filled[place] for place in places])
        is_loose = (lengths > LONG_TEXT) & glot.config.pooler.entry.has_graph
        for name, values in found.items():
            worst = max(worst, _difference(name, values, expected[name][places], is_loose))
    if facts["pair_outputs"]:
        a = expected["vectors"]
        head = runtime.open(folder / f"{PAIR_GRAPH}{runtime.suffix}")
        (values,) = head(dict(zip(PAIR_INPUTS, (a, a[::-1]), strict=True)))
        wanted = predict(texts[0], texts[0][::-1])
        worst = max(worst, _difference(facts["pair_outputs"][0], values, wanted, np.zeros(len(a), dtype=bool)))
    return worst, float(np.abs(before - expected["vectors"]).max())


class _User:
    """What the folder's README tells its users to do: from filled texts to the outputs by name, and their lengths."""

    def __init__(self, folder: Path, runtime: Runtime, outputs: list[str]) -> None:
        from tokenizers import Tokenizer

        self.outputs = outputs
        self.tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self.graph = runtime.open(folder / f"{TEXT_GRAPH}{runtime.suffix}")

    def __call__(self, texts: list[str]) -> tuple[dict[str, np.ndarray], np.ndarray]:
        tokens = self.tokenizer.encode_batch(texts)
        given = [np.array([getattr(text, name) for text in tokens], np.int64) for name in ("ids", "attention_mask")]
        given = [some if some.shape[1] else np.zeros((len(texts), 1), np.int64) for some in given]
        found = self.graph(dict(zip(INPUTS, given, strict=True)))
        return dict(zip(self.outputs, found, strict=True)), given[1].sum(axis=1)


def _difference(name: str, values: np.ndarray, expected: np.ndarray, is_loose: np.ndarray) -> float:
    """The largest difference of (B, ...) numbers; FaultError where one is too large. `is_loose` (B,) bool."""
    difference = np.abs(values - expected).reshape(len(values), -1).max(axis=1)
    limit = np.where(is_loose, LONG_TOLERANCE, TOLERANCE) * max(1.0, float(np.abs(expected).max()))
    if not (difference <= limit).all():  # NaN is none either
        raise FaultError(
            f"{name} of the exported files differ from the run's by {difference.max():.1e}: nothing is written; export "
            "it --to sentence-transformers, or its head alone with --head-only"
        )
    return float(difference.max())
