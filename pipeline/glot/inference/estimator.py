"""What scikit-learn's estimators over both stages share: texts and labels in, a trained head out."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable
from functools import lru_cache, wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import Tags, check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.validation import check_is_fitted

from glot.extract.backbone import Backbone, load_backbone
from glot.extract.engine import take_engine
from glot.extract.held import BackboneLike, hold_backbone, is_held, is_unknown
from glot.extract.options import ExtractOptions
from glot.extract.prepare import sixteen_bits, states_identity
from glot.extract.source import ModelSource, resolve_model
from glot.fit.config import FitOptions, TrainConfig
from glot.fit.head_model import HeadModel, new_head, pool_texts
from glot.fit.run import check_device, make_configs
from glot.fit.run_folder import HEAD_FILE, load_tensors
from glot.fit.states import StreamedStates
from glot.fit.train import fit_head
from glot.inference.bars import offered_bar, over_epochs
from glot.inference.encode import BYTES_A_TOKEN
from glot.inference.model import GlotModel
from glot.inference.samples import Samples, check_no_labels, read_samples
from glot.inference.text_cache import open_with_texts
from glot.nn.config import PoolerConfig
from glot.nn.graph import resolve_backend
from glot.nn.settings import declared
from glot.store.example_set import ExampleSet
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec
from glot.store.template import TEXT, check_prompt, split_pair, takes_pair

Self = TypeVar("Self", bound="GlotEstimator")

# The settings of stage two that it takes as they are; those left out have a name or a default of their own here.
_SETTINGS = {
    name: item
    for config in (PoolerConfig, TrainConfig)
    for name, item in declared(config).items()
    if name not in ("select", "class_weights", "device", "backend", "order_seed")
}


def with_settings(init: Callable[..., None]) -> Callable[..., None]:
    """Take `_SETTINGS` as parameters of an `__init__`, the pooler by position too, and show them in its signature."""
    signature = inspect.signature(init)
    own = [item for item in signature.parameters.values() if item.kind is not item.VAR_KEYWORD]
    made = [
        inspect.Parameter(
            name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD if name == "pooler" else inspect.Parameter.KEYWORD_ONLY,
            default=None if item.setting.by_task else item.default,
        )
        for name, item in _SETTINGS.items()
    ]
    return _showing(signature.replace(parameters=sorted([*own, *made], key=lambda item: item.kind)), init)


def _showing(shown: inspect.Signature, init: Callable[..., None]) -> Callable[..., None]:
    """An `__init__` with another signature, which is handed every parameter of it by name."""

    @wraps(init)
    def with_defaults(*given: Any, **named: Any) -> None:
        bound = shown.bind(*given, **named)
        bound.apply_defaults()
        itself, *_ = bound.args
        init(itself, **{name: value for name, value in bound.arguments.items() if name != "self"})

    vars(with_defaults)["__signature__"] = shown
    return with_defaults


class GlotEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """The base of `GlotClassifier` and `GlotRegressor`; see there.

    X is a list, a 1-D array or a pandas Series of texts; a list of pairs of texts; or a table with one column of texts
    or the two of pairs: a 2-D array, a pandas or polars DataFrame, a Hugging Face `Dataset`.

    Args:
        backbone: an alias (minilm), a hub id, a Hugging Face folder or a GGUF file; or what somebody holds: a pair
            (model, tokenizer) of transformers, or a `SentenceTransformer`. Its weights are hashed at each fit and
            predict, and it is copied with the estimator, by `clone` and by pickle: for searches and pickles name it.
        pooler, gnn, jk, tau, ..., epochs, lr, batch_size, ...: each setting of `PoolerConfig` and of training in
            `TrainConfig`, see there; None takes the default.
        preset: "strong": a mix of all layers, begun at the regression on the mean, 4 epochs at a learning rate of 0.001
            of which the mean of the weights is kept (6 where `validation_fraction` chooses the epoch; of scores 3
            without the mean; below 2,000 examples 3 at 0.0002, below 400 2 √n steps at a rate that falls to 0); or
            "published", the paper's settings. What is given of single settings overrides it.
        backbone_layer: which of its layers; -1 is after the final norm. None: all of them in "strong", the last in
            "published". mix: all of them, mixed by weights that train; None: as `backbone_layer` says.
        prompt: what stands around each text, "Classify: {text}", or around both texts of a pair, as in "Do these mean
            the same? {text} / {text_b}": the backbone then reads them together. None: each text alone; of a pair the
            head then sees two vectors.
        max_tokens: longer texts are cut here; None cuts at 128, or at what the backbone takes where that is less.
        validation_fraction: None trains on all examples and keeps the last epoch; a share of them, 0 to 1, is kept
            aside to choose the best epoch.
        random_state: of the weights, the order of the examples and the validation examples. On a CPU the same number
            gives the same bits; None differs from fit to fit.
        device: of backbone and head; None takes a GPU where there is one, and leaves a model in memory where it is.
        trust_remote_code: run the code that the backbone's folder brings along; else it is never run.
        engine: what forwards the backbone: "torch", "openvino", or "auto": OpenVINO on a CPU where it is installed,
            agrees with torch, and there is much to do.
        cache: a folder that keeps the states of every text this estimator meets, in `fit` and afterwards, for all that
            name the same folder, in any number of processes: a search over heads, cross-validated, then runs the
            backbone once over each text. States are kept in 16 bits there, so vectors differ by that rounding from
            those without. None keeps states for the time of a fit alone.
        verbose: 1 draws a bar for what takes more than two seconds, in a terminal or a notebook; 0 draws none.

    Attributes:
        config_: the `RunConfig` of the trained head.
        weights_: its tensors as arrays, by name.
        n_iter_: the epochs trained.
    """

    @with_settings
    def __init__(
        self,
        backbone: BackboneLike = "minilm",
        *,
        preset: str = "strong",
        backbone_layer: int | None = None,
        mix: bool | None = None,
        prompt: str | None = None,
        max_tokens: int | None = None,
        validation_fraction: float | None = None,
        random_state: int | np.random.RandomState | None = 0,
        device: str | None = None,
        trust_remote_code: bool = False,
        engine: str = "auto",
        cache: str | Path | None = None,
        verbose: int = 1,
        **settings: Any,
    ) -> None:
        self.backbone = backbone
        self.backbone_layer = backbone_layer
        self.preset = preset
        self.mix = mix
        self.prompt = prompt
        self.max_tokens = max_tokens
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.device = device
        self.trust_remote_code = trust_remote_code
        self.engine = engine
        self.cache = cache
        self.verbose = verbose
        self.__dict__.update(settings)

    def _train(self, samples: Samples, labels: np.ndarray, task: TaskSpec, weight: np.ndarray | None) -> None:
        """Train the head on n samples and their labels (n,); texts that `cache` lacks go through the backbone first."""
        seed, backbone = self._seed(), self._backbone()
        with TemporaryDirectory(prefix="glot-") as scratch:
            cache, ids, ids_b = self._open_cache(self._kept(backbone) or Path(scratch), samples, backbone)
            examples = ExampleSet(np.arange(len(labels)), ids, ids_b, labels, weight=weight)
            self._add_examples(cache, examples, task, seed)
            config = make_configs(cache, self._options(seed))[0]
            with offered_bar("training", self.verbose) as show:
                result = fit_head(cache, config, Path(scratch) / "run", over_epochs(show, config.train.epochs))
            tensors, _ = load_tensors(Path(scratch) / "run" / HEAD_FILE)
            cache.close()
        self.config_ = config
        self.weights_ = {name: tensor.numpy().copy() for name, tensor in tensors.items()}
        self.n_iter_ = len(result.epochs)

    def transform(self, X: Iterable) -> np.ndarray:
        """(n, D) float32 vectors of the texts: the pooler's, before the head; of pairs (n, 2 D), side by side."""
        check_is_fitted(self)
        return torch.cat(self._vectors(self._samples(X), self._head()), dim=1).numpy()

    @torch.inference_mode()
    def _raw(self, X: Iterable) -> tuple[torch.Tensor, HeadModel]:
        """The head's raw outputs for n samples, on the CPU, and the head."""
        check_is_fitted(self)
        samples, head = self._samples(X), self._head()
        vectors = self._vectors(samples, head)
        device = next(head.head.parameters()).device
        return head.head(*(some.to(device) for some in vectors)).cpu(), head

    @property
    def _n_features_out(self) -> int:
        return self._head().width * self.config_.task.num_texts

    @property
    def _mixes(self) -> bool:
        if self.mix is not None:
            return self.mix
        return self.preset == "strong" and self.backbone_layer is None

    @property
    def _layer(self) -> int:
        return -1 if self.backbone_layer is None else self.backbone_layer

    def _options(self, seed: int) -> FitOptions:
        return FitOptions(
            **{name: getattr(self, name) for name in _SETTINGS},
            select="last" if self.validation_fraction is None else "validation",
            seeds=(seed,),
            preset=self.preset,
            mix=self._mixes,
            backbone_layer=None if self._mixes else self._layer,
            device=self.device,
        )

    def _extract_options(self, backbone: Backbone) -> ExtractOptions:
        layers = None if self._mixes else (self._layer,)
        return ExtractOptions(
            max_tokens=self.max_tokens,
            template=self._template,
            layers=layers,
            dtype=sixteen_bits(backbone),  # nearer than int8 to the states of new texts, which are not kept
            engine=self.engine,
        )

    @property
    def _template(self) -> str:
        template = TEXT if self.prompt is None else self.prompt
        check_prompt(template)
        return template

    def _read(self, X: Iterable, labels: np.ndarray | None = None) -> Samples:
        """What the backbone reads of X; for a prompt of pairs the one text that it makes of both.

        Raises ValueError where a column of X is the `labels`.
        """
        samples = read_samples(X)
        if labels is not None:
            check_no_labels(samples, labels)
        return samples.joined() if takes_pair(self._template) else samples

    def _samples(self, X: Iterable) -> Samples:
        """The same for a fitted head; raises ValueError for pairs where it was fitted on single texts, and reversed."""
        samples = self._read(X)
        if samples.num_texts != self.config_.task.num_texts:
            kinds = {1: "single texts", 2: "pairs of texts"}
            raise ValueError(
                f"X holds {kinds[samples.num_texts]}, and this {type(self).__name__} was fitted on "
                f"{kinds[self.config_.task.num_texts]}"
            )
        return samples

    def _seed(self) -> int:
        if isinstance(self.random_state, (int, np.integer)):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _backbone(self) -> Backbone:
        """The backbone; one in memory is looked at each time, for its weights may have changed."""
        if is_held(self.backbone):
            return hold_backbone(self.backbone, self.device)
        return _load_once(resolve_model(str(self.backbone)), self.device, self.trust_remote_code)

    def _kept(self, backbone: Backbone) -> Path | None:
        """The folder that keeps states, None where there is none; one warning where it must not be used."""
        if self.cache is None or not is_unknown(backbone):
            return None if self.cache is None else Path(self.cache)
        warnings.warn(
            f"cache={str(self.cache)!r} is not used: some weights of {backbone.name} are not in memory, so nobody can "
            "tell whose states those would be",
            UserWarning,
            stacklevel=4,
        )
        return None

    def _open_cache(
        self, folder: Path, samples: Samples, backbone: Backbone
    ) -> tuple[Cache, np.ndarray, np.ndarray | None]:
        """The cache with all texts, and (n,) ids of the first and of the second ones, None where there are none."""
        texts = [text for column in samples.columns for text in column]
        with offered_bar("tokens", self.verbose) as show:
            cache, ids = open_with_texts(folder, texts, backbone, self._extract_options(backbone), show)
        return cache, ids[: len(samples)], ids[len(samples) :] if samples.second is not None else None

    def _add_examples(self, cache: Cache, examples: ExampleSet, task: TaskSpec, seed: int) -> None:
        """Hand the examples to the opened cache as what `glot fit` trains on and validates with."""
        if self.validation_fraction is None:
            cache.add_examples("train", examples, task)
            return
        classes = examples.label if task.target == "classes" else None
        parts = train_test_split(
            np.arange(len(examples)), test_size=self.validation_fraction, random_state=seed, stratify=classes
        )
        for name, part in zip(("train", "validation"), parts, strict=True):
            cache.add_examples(name, examples.subset(np.sort(part)), task)

    def _head(self) -> HeadModel:
        """The trained head on its device."""
        device = check_device(self.device)
        head = new_head(self.config_, resolve_backend("auto", device))
        head.load_state_dict({name: torch.from_numpy(values.copy()) for name, values in self.weights_.items()})
        return head.to(device).eval()

    @torch.inference_mode()
    def _vectors(self, samples: Samples, head: HeadModel) -> list[torch.Tensor]:
        """(n, D) float32 on the CPU, of the first texts and of the second ones where there are such.

        Over the cache's states where there is one, else as the backbone gives them.
        """
        config, backbone = self.config_, self._backbone()
        config.check_states(states_identity(backbone, self._extract_options(backbone)), f"backbone={backbone.name!r}")
        # Sorted, so that the order of the texts does not change a bit of the answer.
        texts = np.asarray([text for column in samples.columns for text in column], dtype=object)
        distinct, inverse = np.unique(texts, return_inverse=True)
        kept = self._kept(backbone)
        if kept is None:
            tokens = sum(map(len, distinct.tolist())) // BYTES_A_TOKEN
            take_engine(backbone, config.layers, self.engine, tokens)
            given = [distinct.tolist()]
            if takes_pair(self._template):
                given = list(map(list, zip(*map(split_pair, distinct), strict=True)))
            with offered_bar("texts", self.verbose) as show:
                vectors = GlotModel(config, head, backbone).vectors(*given, show=show).cpu()
        else:
            cache, ids, _ = self._open_cache(kept, Samples(distinct.tolist()), backbone)
            states = StreamedStates(cache, config.layers, check_device(self.device), config.pooler.tokens)
            vectors = pool_texts(head.pooler, states, ids).float().cpu()
            cache.close()
        return list(vectors[torch.from_numpy(inverse)].split(len(samples)))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = self.prompt is not None and takes_pair(self.prompt)
        tags.input_tags.one_d_array = not tags.input_tags.two_d_array
        tags.transformer_tags.preserves_dtype = []
        tags.non_deterministic = self.random_state is None
        return tags


def adding_settings(init: Callable[..., None]) -> Callable[..., None]:
    """Take the parameters of `GlotEstimator` beside an `__init__`'s own, which are named, and show them all."""
    shared = inspect.signature(GlotEstimator.__init__)
    own = [item for item in inspect.signature(init).parameters.values() if item.kind is item.KEYWORD_ONLY]
    return _showing(shared.replace(parameters=[*shared.parameters.values(), *own]), init)


def weighted_rows(sample_weight: Iterable | None, count: int) -> tuple[np.ndarray, np.ndarray | None]:
    """(m,) the rows of n samples whose weight is not 0, and their weights (m,), 1 in the mean; None: all alike.

    Raises ValueError for weights that are none, negative, or all 0.
    """
    rows = np.arange(count)
    if sample_weight is None:
        return rows, None
    weight = column_or_1d(check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight"))
    check_consistent_length(rows, weight)
    if (weight < 0).any():
        raise ValueError("sample_weight holds negative values")
    rows = np.flatnonzero(weight > 0)
    if not len(rows):
        raise ValueError("sample_weight holds only zeros: every weight is zero, so there is nothing to learn")
    weight = weight[rows] / weight[rows].mean()
    return rows, None if (weight == weight[0]).all() else weight


@lru_cache(maxsize=1)
def _load_once(source: ModelSource, device: str | None, trust_remote_code: bool) -> Backbone:
    """A backbone for all estimators of this process: a search makes and drops one estimator a fit."""
    return load_backbone(source, device=device, trust_remote_code=trust_remote_code)
