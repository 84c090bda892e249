"""Both stages over texts in memory, in a call each: `extract_texts` and `fit_cache`.

They are not called `extract` and `fit`: those are the packages where the stages lie, and a name that is a function or a
package by what was imported before would be neither.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sklearn.utils import check_consistent_length

from glot.corpus.examples import Corpus, Example, Split
from glot.corpus.load import HELD_OUT, load_memory
from glot.corpus.memory import SOURCE
from glot.errors import UsageError
from glot.extract.held import BackboneLike, check_backbone_like, open_backbone
from glot.extract.options import ExtractOptions, check_folder, check_options
from glot.extract.run import extract_states
from glot.fit.config import FitOptions
from glot.fit.result import FitResult
from glot.fit.run import finish_runs, make_configs, prepare_runs
from glot.fit.run_folder import RunConfig, check_new_folder
from glot.inference.bars import offered_bar, over_epochs
from glot.inference.model import GlotModel
from glot.inference.samples import Samples, check_no_labels, read_samples
from glot.store.files import make_folder
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec
from glot.store.template import TEXT, takes_pair

UNLABELLED = "texts"  # the example set of texts without labels


def extract_texts(
    texts: Iterable,
    labels: Iterable | None = None,
    *,
    model: BackboneLike,
    out: Path | str,
    validation_fraction: float | None = HELD_OUT,
    target: Literal["classes", "score"] | None = None,
    layers: tuple[int, ...] | Literal["all"] = (-1,),
    prompt: str | None = None,
    max_tokens: int | None = None,
    dtype: str = "auto",
    name: str | None = None,
    device: str | None = None,
    engine: str = "auto",
    trust_remote_code: bool = False,
    verbose: int = 1,
) -> Cache:
    """Stage one over texts in memory: the cache of their token states, in the folder `out`.

    What is there already is not made again: more texts, or an interrupted call, go on from it.

    Args:
        texts: n texts, or pairs of them, in whatever the estimators take as X (see `GlotEstimator`).
        labels: n labels: strings, whole numbers or booleans are classes, floats are scores; `target` says otherwise.
            None: texts without labels, in the example set "texts".
        model: the backbone: an alias, hub id, folder or GGUF file, a pair (model, tokenizer), a `SentenceTransformer`.
        validation_fraction: what is held out to choose the epoch, each class in proportion; None: nothing.
        layers: kept layers; -1 is after the final norm, "all" every one, which the preset "strong" then mixes.
        prompt: what stands around each text, "Classify: {text}", or around both texts of a pair.
        max_tokens, dtype, device, engine, trust_remote_code: see `ExtractOptions`.
        name: of the task, in reports; None: that of the folder.
        verbose: 1 draws a bar for what takes more than two seconds, in a terminal or a notebook; 0 draws none.

    Raises UsageError for settings or labels that do not fit, a folder that holds something else, or a backbone that is
    not there; ValueError and TypeError for texts that are none; FaultError where the machine fails.
    """
    folder, samples = Path(out), read_samples(texts)
    check_backbone_like(model)
    options = ExtractOptions(
        max_tokens=max_tokens,
        template=TEXT if prompt is None else prompt,
        layers=None if layers == "all" else layers,
        dtype=dtype,
        engine=engine,
    )
    check_options(options)
    check_folder(folder)
    corpus = _corpus(name or folder.resolve().name, samples, labels, validation_fraction, target)
    if takes_pair(options.template):
        samples.joined()  # raises ValueError for single texts
    backbone = open_backbone(model, device, trust_remote_code)
    with offered_bar("tokens", verbose) as show:
        extract_states(corpus, backbone, make_folder(folder), options, show)
    return Cache(folder)


def _corpus(name: str, samples: Samples, labels: Iterable | None, share: float | None, target: str | None) -> Corpus:
    if labels is None:
        spec = TaskSpec(name, samples.num_texts, "classes")
        second: Sequence[str | None] = samples.second or [None] * len(samples)
        examples = [Example(row, *pair, None) for row, pair in enumerate(zip(samples.first, second, strict=True))]
        return Corpus(spec, {UNLABELLED: Split(UNLABELLED, examples, SOURCE)})
    given = list(labels)
    check_consistent_length(samples.first, given)
    check_no_labels(samples, given)
    return load_memory(name, samples.first, samples.second, given, share, target)


@dataclass(frozen=True)
class FittedRun:
    """What `fit_cache` leaves.

    Attributes:
        folder: the run's. config: its settings. result: its scores.
    """

    folder: Path
    config: RunConfig
    result: FitResult

    def model(self, backbone: BackboneLike | None = None, device: str | None = None) -> GlotModel:
        """The head with its backbone, for new texts; see `GlotModel.load`."""
        return GlotModel.load(self.folder, backbone, device)


def fit_cache(cache: Cache | Path | str, *, out: Path | str, verbose: int = 1, **settings: Any) -> FittedRun:
    """Stage two: train a head over a cache, and leave its run in the folder `out`.

    Args:
        cache: what `extract_texts` gave, or its folder, or the URL of one.
        verbose: 1 draws a bar for what takes more than two seconds, in a terminal or a notebook; 0 draws none.
        settings: those of `glot fit`, by their names there: `tau=0.5`, `epochs=4`, `preset="published"`, `mix=True`,
            `seeds=(1,)`. What is not given is the task's default.

    Raises UsageError for settings that are none or out of range, several seeds, a folder that is not empty, or a cache
    that cannot be trained on; FaultError where the machine fails.
    """
    options, folder = FitOptions(**settings), Path(out)
    if len(options["seeds"]) != 1:
        raise UsageError(f"fit_cache trains one head: pass one seed, as in seeds=(0,), not {options['seeds']}")
    check_new_folder(folder)
    opened = cache if isinstance(cache, Cache) else Cache(cache)
    (config,) = make_configs(opened, options)
    prepare_runs([config], folder)
    with offered_bar("training", verbose) as show:
        results = finish_runs(folder, opened, over_epochs(show, config.train.epochs))
    return FittedRun(folder, config, results[folder])
