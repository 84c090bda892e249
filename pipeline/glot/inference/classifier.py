"""A scikit-learn estimator over both stages: texts and labels in, a trained head out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Set
from functools import lru_cache, wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import Tags, check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from glot.errors import UsageError
from glot.extract.backbone import Backbone, load_backbone
from glot.extract.engine import take_engine
from glot.extract.options import ExtractOptions
from glot.extract.prepare import sixteen_bits, states_identity
from glot.extract.source import ModelSource, resolve_model
from glot.fit.config import FitOptions, TrainConfig
from glot.fit.head_model import HeadModel, pool_texts
from glot.fit.run import check_device, make_configs
from glot.fit.run_folder import HEAD_FILE, load_tensors
from glot.fit.states import StreamedStates
from glot.fit.train import fit_head
from glot.inference.encode import BYTES_A_TOKEN
from glot.inference.model import GlotModel
from glot.inference.text_cache import open_with_texts
from glot.nn.config import PoolerConfig
from glot.nn.graph import resolve_backend
from glot.nn.settings import declared
from glot.process import kept_randomness
from glot.store.example_set import ExampleSet
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec
from glot.store.template import TEXT, TEXT_B, check_prompt, join_pair, split_pair, takes_pair

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
    shown = signature.replace(parameters=sorted([*own, *made], key=lambda item: item.kind))

    @wraps(init)
    def with_defaults(*given: Any, **named: Any) -> None:
        bound = shown.bind(*given, **named)
        bound.apply_defaults()
        init(*bound.args[:2], **dict(list(bound.arguments.items())[2:]))

    vars(with_defaults)["__signature__"] = shown
    return with_defaults


class GlotClassifier(ClassNamePrefixFeaturesOutMixin, TransformerMixin, ClassifierMixin, BaseEstimator):
    """Classify texts by a head trained over a frozen language model's token states.

    As any scikit-learn classifier it goes into `Pipeline`, `cross_val_score` and `GridSearchCV`; as a transformer
    (`transform`: one vector a text) it may stand before another estimator. X is a list, a 1-D array or a pandas Series
    of texts; with a `prompt` for both texts of a pair it is a list of pairs, or an array or a DataFrame of two columns.
    What is not given takes the same default as `glot fit`.

    A fitted estimator can be pickled: it holds the head, not the backbone, which is loaded when it is needed (once a
    process, the last one used is kept) and must be the one that the head was trained on.

    Args:
        backbone: an alias (minilm), a hub id, a Hugging Face folder or a GGUF file.
        pooler, gnn, jk, tau, ..., epochs, lr, batch_size, ...: each setting of `PoolerConfig` and of training in
            `TrainConfig`, see there; None takes the default.
        preset: "strong": a mix of all layers, begun at the regression on the mean, 3 epochs at a learning rate of 0.001
            (6 where `validation_fraction` chooses the epoch; below 2,000 examples 3 at 0.0002, below 400 2 √n steps at
            a rate that falls to 0); or "published", the paper's settings. What is given of single settings overrides
            it.
        class_weight: None, or "balanced": in the loss, rare classes count as much as frequent ones.
        backbone_layer: which of its layers; -1 is after the final norm. None: all of them in "strong", the last in
            "published". mix: all of them, mixed by weights that train; None: as `backbone_layer` says.
        prompt: what stands around each text, "Classify: {text}", or around both texts of a pair, as in "Do these mean
            the same? {text} / {text_b}": the backbone then reads them together. None: the text alone.
        max_tokens: longer texts are cut here; None cuts at 128, or at what the backbone takes where that is less.
        validation_fraction: None trains on all examples and keeps the last epoch; a share of them, 0 to 1, is kept
            aside, each class in proportion, to choose the best epoch by accuracy.
        random_state: of the weights, the order of the examples and the validation examples. On a CPU the same number
            gives the same bits; None differs from fit to fit.
        device: of backbone and head; None takes a GPU where there is one.
        trust_remote_code: run the code that the backbone's folder brings along; else it is never run.
        engine: what forwards the backbone: "torch", "openvino", or "auto": OpenVINO on a CPU where it is installed,
            agrees with torch, and there is much to do.
        cache: a folder that keeps the states of every text this estimator meets, in `fit` and afterwards, for all that
            name the same folder, in any number of processes: a search over heads, cross-validated, then runs the
            backbone once over each text. States are kept in 16 bits there, so vectors differ by that rounding from
            those without. None keeps states for the time of a fit alone.

    Attributes:
        classes_: (C,) the labels, sorted.
        config_: the `RunConfig` of the trained head.
        weights_: its tensors as arrays, by name.
        n_iter_: the epochs trained.

    Raises UsageError for settings out of range, or a backbone that is not there or not the one of the fit; ValueError
    and TypeError for texts and labels that are none; NotFittedError before `fit`.
    """

    @with_settings
    def __init__(
        self,
        backbone: str | Path = "minilm",
        *,
        class_weight: str | None = None,
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
        **settings: Any,
    ) -> None:
        self.backbone = backbone
        self.class_weight = class_weight
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
        self.__dict__.update(settings)

    def fit(self, X: Iterable, y: Iterable) -> GlotClassifier:
        """Train the head on n texts and their n labels; the texts that `cache` lacks go through the backbone first."""
        texts, labels = self._texts(X), _check_labels(y)
        check_consistent_length(texts, labels)
        encoder = LabelEncoder().fit(labels)
        classes, label = encoder.classes_, encoder.transform(labels)
        if len(classes) < 2:
            raise ValueError(f"y holds one class only ({classes[0]!r}): a classifier needs two or more")
        seed = self._seed()
        with TemporaryDirectory(prefix="glot-") as scratch:
            cache, ids = self._open_cache(Path(self.cache or scratch), texts)
            task = TaskSpec("texts", 1, "classes", tuple(map(str, classes.tolist())))
            self._add_examples(cache, ids, label, task, seed)
            config = make_configs(cache, self._options(seed))[0]
            result = fit_head(cache, config, Path(scratch) / "run")
            tensors, _ = load_tensors(Path(scratch) / "run" / HEAD_FILE)
            cache.close()
        self.classes_ = classes
        self.config_ = config
        self.weights_ = {name: tensor.numpy().copy() for name, tensor in tensors.items()}
        self.n_iter_ = len(result.epochs)
        return self

    def transform(self, X: Iterable) -> np.ndarray:
        """(n, D) float32 vectors of the texts: the pooler's, before the head."""
        check_is_fitted(self)
        return self._vectors(self._texts(X), self._head()).numpy()

    def decision_function(self, X: Iterable) -> np.ndarray:
        """(n, C) float32 logits; for two classes (n,), that of the second less that of the first."""
        logits = self._logits(X).numpy()
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 else logits

    def predict_proba(self, X: Iterable) -> np.ndarray:
        """(n, C) float32 probabilities, in the order of `classes_`."""
        return self._logits(X).softmax(dim=1).numpy()

    def predict(self, X: Iterable) -> np.ndarray:
        """(n,) labels."""
        best = self._logits(X).argmax(dim=1).numpy()  # raises before `classes_` is looked for
        return self.classes_[best]

    @property
    def _n_features_out(self) -> int:
        return self._head().width

    @property
    def _mixes(self) -> bool:
        if self.mix is not None:
            return self.mix
        return self.preset == "strong" and self.backbone_layer is None

    @property
    def _layer(self) -> int:
        return -1 if self.backbone_layer is None else self.backbone_layer

    def _options(self, seed: int) -> FitOptions:
        if self.class_weight not in (None, "balanced"):
            raise UsageError(f'class_weight must be None or "balanced"; got {self.class_weight!r}')
        return FitOptions(
            **{name: getattr(self, name) for name in _SETTINGS},
            class_weights=self.class_weight or "none",
            select="last" if self.validation_fraction is None else "validation",
            seeds=(seed,),
            preset=self.preset,
            mix=self._mixes,
            backbone_layer=None if self._mixes else self._layer,
            device=self.device,
        )

    def _extract_options(self) -> ExtractOptions:
        layers = None if self._mixes else (self._layer,)
        return ExtractOptions(
            max_tokens=self.max_tokens,
            template=self._template,
            layers=layers,
            dtype=sixteen_bits(self._backbone()),  # nearer than int8 to the states of new texts, which are not kept
            engine=self.engine,
        )

    @property
    def _template(self) -> str:
        template = TEXT if self.prompt is None else self.prompt
        check_prompt(template)
        return template

    def _texts(self, X: Iterable) -> list[str]:
        """What the backbone reads, one a sample: the texts, or of pairs the one text that the prompt makes of them."""
        return check_pairs(X) if takes_pair(self._template) else check_texts(X)

    def _seed(self) -> int:
        if isinstance(self.random_state, (int, np.integer)):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _backbone(self) -> Backbone:
        return _load_once(resolve_model(str(self.backbone)), self.device, self.trust_remote_code)

    def _open_cache(self, folder: Path, texts: list[str]) -> tuple[Cache, np.ndarray]:
        return open_with_texts(folder, texts, self._backbone(), self._extract_options())

    def _add_examples(self, cache: Cache, ids: np.ndarray, label: np.ndarray, task: TaskSpec, seed: int) -> None:
        """Hand the examples to the opened cache as what `glot fit` trains on and validates with."""
        rows = np.arange(len(ids))
        examples = ExampleSet(rows, ids, None, label.astype(np.int64))
        if self.validation_fraction is None:
            cache.add_examples("train", examples, task)
            return
        parts = train_test_split(rows, test_size=self.validation_fraction, random_state=seed, stratify=label)
        for name, part in zip(("train", "validation"), parts, strict=True):
            cache.add_examples(name, examples.subset(np.sort(part)), task)

    def _head(self) -> HeadModel:
        """The trained head on its device."""
        config, device = self.config_, check_device(self.device)
        with kept_randomness():  # new weights are drawn, though these are replaced
            head = HeadModel(config.pooler, config.task, config.states.width, resolve_backend("auto", device))
        head.load_state_dict({name: torch.from_numpy(values.copy()) for name, values in self.weights_.items()})
        return head.to(device).eval()

    @torch.inference_mode()
    def _logits(self, X: Iterable) -> torch.Tensor:
        check_is_fitted(self)
        head = self._head()
        return head.head(self._vectors(self._texts(X), head).to(next(head.head.parameters()).device)).cpu()

    def _vectors(self, texts: list[str], head: HeadModel) -> torch.Tensor:
        """(n, D) float32 on the CPU: over the cache's states where there is one, else as the backbone gives them."""
        config, backbone = self.config_, self._backbone()
        config.check_states(states_identity(backbone, self._extract_options()), f"backbone={str(self.backbone)!r}")
        # Sorted, so that the order of the texts does not change a bit of the answer.
        distinct, inverse = np.unique(np.asarray(texts, dtype=object), return_inverse=True)
        if self.cache is None:
            tokens = sum(map(len, distinct.tolist())) // BYTES_A_TOKEN
            take_engine(backbone, config.layers, self.engine, tokens)
            given = [distinct.tolist()]
            if takes_pair(self._template):
                given = list(map(list, zip(*map(split_pair, distinct), strict=True)))
            vectors = torch.from_numpy(GlotModel(config, head, backbone).encode(*given))
        else:
            cache, ids = self._open_cache(Path(self.cache), distinct.tolist())
            states = StreamedStates(cache, config.layers, check_device(self.device), config.pooler.tokens)
            vectors = pool_texts(head.pooler, states, ids).float().cpu()
            cache.close()
        return vectors[torch.from_numpy(inverse)]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = self.prompt is not None and takes_pair(self.prompt)
        tags.input_tags.one_d_array = not tags.input_tags.two_d_array
        tags.transformer_tags.preserves_dtype = []
        tags.non_deterministic = self.random_state is None
        return tags


@lru_cache(maxsize=1)
def _load_once(source: ModelSource, device: str | None, trust_remote_code: bool) -> Backbone:
    """A backbone for all estimators of this process: a search makes and drops one estimator a fit."""
    return load_backbone(source, device=device, trust_remote_code=trust_remote_code)


def check_texts(X: Any) -> list[str]:
    """The texts of a list, 1-D array or Series; raises ValueError for another shape, TypeError for what is no text."""
    if X is None or isinstance(X, (str, bytes, Mapping, Set)) or not isinstance(X, Iterable):
        raise ValueError(f"X must be a list or 1-D array of texts, one a sample; got {type(X).__name__}")
    shape = getattr(X, "shape", (0,))
    if len(shape) != 1:
        raise ValueError(f"X must be 1-D, one text a sample; got the shape {shape}: pass one column of texts")
    texts = list(X)
    if not texts:
        raise ValueError("X holds no text: found 0 samples, and at least 1 is needed")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            hint = f"; for pairs pass a prompt with {TEXT} and {TEXT_B}" if isinstance(text, (tuple, list)) else ""
            raise TypeError(
                f"X must hold texts (str); at index {index} it holds {type(text).__name__} {text!r:.40}{hint}"
            )
    return [str(text) for text in texts]


def check_pairs(X: Any) -> list[str]:
    """The pairs of a list, a 2-D array or a DataFrame of two columns, each as one text (see `join_pair`).

    Raises ValueError for another shape, TypeError for what is no text.
    """
    if X is None or isinstance(X, (str, bytes, Mapping, Set)) or not isinstance(X, Iterable):
        raise ValueError(f"X must be a list or 2-D array of pairs of texts; got {type(X).__name__}")
    if hasattr(X, "shape"):  # a DataFrame too, which is iterated by columns
        X = np.asarray(X, dtype=object).tolist()
    pairs = list(X)
    if not pairs:
        raise ValueError("X holds no pair: found 0 samples, and at least 1 is needed")
    for index, pair in enumerate(pairs):
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(f"X must hold pairs of texts, (text, text_b); at index {index} it holds {pair!r:.40}")
        if not all(isinstance(text, str) for text in pair):
            raise TypeError(f"X must hold pairs of texts (str); at index {index} it holds {pair!r:.40}")
    return [join_pair(*map(str, pair)) for pair in pairs]


def _check_labels(y: Any) -> np.ndarray:
    """(n,) labels of classes; raises ValueError for missing or continuous ones."""
    if y is None:
        raise ValueError("GlotClassifier requires y to be passed, but the target y is None")
    labels = column_or_1d(check_array(y, ensure_2d=False, dtype=None, input_name="y"), warn=True)
    if labels.dtype == object and any(label is None for label in labels):
        raise ValueError("y holds None: every sample needs a label")
    check_classification_targets(labels)
    return labels
