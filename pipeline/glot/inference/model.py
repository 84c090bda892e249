"""A frozen backbone and a trained head as one thing: new texts to vectors and labels."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import torch

from glot.errors import FaultError, UsageError
from glot.extract.engine import take_engine
from glot.extract.forward import Backbone
from glot.extract.held import BackboneLike
from glot.extract.planning import clean
from glot.fit.ensemble import answers_of, find_heads, mean_estimate, mean_thresholds
from glot.fit.head_model import HeadModel, load_head
from glot.fit.run_folder import BEST_MEMBER, RunConfig
from glot.inference.bars import progress_bar
from glot.inference.forward import forward_texts, load_run_backbone
from glot.nn.graph import resolve_backend
from glot.products import fast_products
from glot.store.label_sets import to_indicator
from glot.store.template import join_pair, takes_pair

WINDOW = 2048  # texts that are sorted by length together; what waits for its turn is small beside the backbone
Report = Callable[[int], None]  # of so many more texts that are done
Given: TypeAlias = "str | Sequence[str]"  # one text, or several
Vectors: TypeAlias = "np.ndarray | torch.Tensor | Sequence[Sequence[float]] | Sequence[float]"


class GlotModel:
    """A run's head, or the heads of an ensemble, and the backbone that they were trained on.

    An ensemble answers by the mean of its heads' probabilities or scores; it has no vectors.

    States go to the head as the backbone computes them, in float32; a cache keeps them in 16 bits, so a vector made
    here and one made over the cache differ by that rounding.

    Args:
        config: of the run.
        model: the trained pooler and head.
        backbone: the language model, loaded.
        others: config and head of each further run of an ensemble, over states of the same texts.

    Attributes:
        config, model: of the run, or of the best one of an ensemble.
    """

    def __init__(
        self,
        config: RunConfig,
        model: HeadModel,
        backbone: Backbone,
        others: Sequence[tuple[RunConfig, HeadModel]] = (),
    ) -> None:
        self.config, self.backbone, self.device = config, backbone, backbone.device
        self.model = model.to(self.device).eval()
        self._heads = [(config, self.model), *((its, other.to(self.device).eval()) for its, other in others)]
        self._layers = layers_of(its for its, _ in self._heads)
        self._folders: list[Path] = []  # of the heads, where they were loaded

    def __repr__(self) -> str:
        layers = f"layer{'s' if len(self._layers) > 1 else ''} {', '.join(map(str, self._layers))}"
        heads = f"{len(self._heads)} heads" if len(self._heads) > 1 else self.config.pooler.pooler
        classes = f", {len(self.config.task.classes)} classes" if self.config.task.classes else ""
        return f"<GlotModel: {heads} over {layers} of {self.backbone.name}{classes}, on {self.device}>"

    @classmethod
    def load(
        cls,
        run: Path | str,
        backbone: BackboneLike | None = None,
        device: str | None = None,
        trust_remote_code: bool = False,
        engine: str = "auto",
        tokens: int | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> GlotModel:
        """Load a run folder (of one seed), or an ensemble's, and its backbone.

        Args:
            run: what `glot fit` left, or `glot tune --ensemble`, or `save_pretrained`.
            backbone: an alias, hub id, folder or GGUF file, where the name in the run does not find it; or the model
                itself that somebody holds: a pair (model, tokenizer) of transformers, or a SentenceTransformer.
            device: where both run; None takes a GPU where there is one, and of a model in memory the place where it is.
            trust_remote_code: run the code that the backbone's folder brings along; else it is never run.
            engine: what forwards the backbone: "torch", "openvino", or "auto", see `take_engine`.
            tokens: about how many it will forward, None where nobody knows: "auto" takes torch for few.
            say: told why "auto" did not take the faster engine.

        Raises UsageError where the run, the backbone or the device is missing or does not fit, FaultError where a file
        is damaged, TypeError where `backbone` is nothing that is understood.
        """
        folders = find_heads(Path(run))
        configs = [RunConfig.load(folder) for folder in folders]
        layers = layers_of(configs)
        loaded = load_run_backbone(configs[0].states, folders[0], backbone, device, trust_remote_code, layers, engine)
        take_engine(loaded, layers, engine, tokens, say)
        passes = resolve_backend("auto", loaded.device)
        heads = [load_head(*found, passes, loaded.device) for found in zip(folders, configs, strict=True)]
        model = cls(configs[0], heads[0], loaded, list(zip(configs[1:], heads[1:], strict=True)))
        model._folders = list(folders)
        return model

    @classmethod
    def from_pretrained(
        cls,
        run: Path | str,
        backbone: BackboneLike | None = None,
        *,
        device: str | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        engine: str = "auto",
    ) -> GlotModel:
        """As `load`, also from the Hub, where `run` is the name of a repository, "user/name", and no folder.

        `revision` is a branch or commit there; None is the newest. The backbone comes from where the run says.
        """
        folder = Path(run)
        if not folder.exists() and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(run)):
            from glot.inference.push import fetch_run

            folder = fetch_run(str(run), revision)
        return cls.load(folder, backbone, device, trust_remote_code, engine)

    def save_pretrained(self, folder: Path | str) -> None:
        """Write what `from_pretrained` needs: settings, weights and scores of the head, or heads, not the backbone.

        The folder is there whole or not at all, and is a run as `glot fit` leaves one.

        Raises UsageError where it is there already and not empty, FaultError where it cannot be written.
        """
        from glot.inference.saved import save_heads

        save_heads(Path(folder), self._heads, self._folders)

    def push_to_hub(self, repo: str) -> str:
        """Upload what `save_pretrained` writes, with a card, to the model repository "user/name"; returns its address.

        Where things lie on this machine, the cache and a backbone in a folder, does not go along.

        Raises UsageError without a token that may write there, FaultError where the Hub cannot be reached.
        """
        from glot.inference.push import check_push, push_folder
        from glot.inference.saved import save_heads, without_places, write_hub_card

        check_push(repo)
        with TemporaryDirectory(prefix="glot-") as scratch:
            run, heads = Path(scratch) / "run", [(without_places(config), model) for config, model in self._heads]
            save_heads(run, heads, self._folders)
            write_hub_card(run, heads[0][0], repo)
            return push_folder(run, repo)

    @property
    def width(self) -> int:
        """D, the width of a vector; raises UsageError for an ensemble."""
        self._check_alone()
        return self.model.width

    def _check_alone(self) -> None:
        if len(self._heads) > 1:
            raise UsageError(
                f"an ensemble of {len(self._heads)} heads gives labels and scores, and no vector: load one of its "
                f"heads, the best is the folder {BEST_MEMBER} in it"
            )

    @property
    def classes_(self) -> np.ndarray:
        """(C,) the names of the classes, in the order of `predict_proba`; AttributeError where the task is a score."""
        if not self.config.task.classes:
            raise AttributeError(f"{self.config.task.name} has no classes: its head gives a score")
        return np.asarray(self.config.task.classes)

    @property
    def thresholds(self) -> np.ndarray | None:
        """(C,) of several labels a text the probability above which `predict` gives each; None of all else."""
        return mean_thresholds(self.thresholds_each)

    @property
    def thresholds_each(self) -> list[np.ndarray | None]:
        """The thresholds of each head by itself."""
        return [model.thresholds for _, model in self._heads]

    def answers(self, estimate: np.ndarray) -> np.ndarray:
        """(n,) what `predict_proba` (n, C), or scores (n,), come to: class indices, codes of labels, or scores."""
        return answers_of(self.config.task, estimate, self.thresholds)

    @overload
    def encode(
        self,
        texts: Given,
        texts_b: Given | None = None,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        convert_to_tensor: Literal[False] = False,
        normalize_embeddings: bool = False,
    ) -> np.ndarray: ...
    @overload
    def encode(
        self,
        texts: Given,
        texts_b: Given | None = None,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        convert_to_tensor: Literal[True],
        normalize_embeddings: bool = False,
    ) -> torch.Tensor: ...
    def encode(
        self,
        texts: Given,
        texts_b: Given | None = None,
        *,
        batch_size: int | None = None,
        show_progress_bar: bool | None = None,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = False,
    ) -> np.ndarray | torch.Tensor:
        """(n, D) float32 vectors of n texts, in their order, or (D,) of one; raises FaultError where there is NaN.

        Args:
            texts_b: the second texts of n pairs, for a run whose prompt holds both, and for such a run alone.
            batch_size: texts a forward at most; None: as many as keep the device busy.
            show_progress_bar: draw one, in a terminal or a notebook.
            convert_to_tensor: give a tensor, on the model's device, and not an array.
            normalize_embeddings: give vectors of length 1.
        """
        is_one, lists = _as_lists(texts, texts_b)
        with progress_bar("texts", bool(show_progress_bar)) as show:
            vectors = self.vectors(*lists, batch_size=batch_size, show=show)
        if normalize_embeddings:
            vectors = torch.nn.functional.normalize(vectors, dim=1)
        vectors = vectors[0] if is_one else vectors
        return vectors if convert_to_tensor else vectors.cpu().numpy()

    def vectors(
        self,
        texts: Sequence[str],
        texts_b: Sequence[str] | None = None,
        *,
        batch_size: int | None = None,
        show: Callable[[int, int], None] = lambda done, total: None,
    ) -> torch.Tensor:
        """(n, D) float32 vectors on the device, see `encode`; `show` is told of (texts done, n) meanwhile."""
        done = 0

        def report(more: int) -> None:
            nonlocal done
            done += more
            show(done, len(texts))

        pieces = list(self._pieces(texts, texts_b, batch_size, report))
        return torch.cat(pieces) if pieces else torch.zeros(0, self.width, device=self.device)

    def encode_stream(self, texts: Iterable[str], texts_b: Iterable[str] | None = None) -> Iterator[np.ndarray]:
        """(k, D) float32 vectors of the next k texts, as they come; memory is that of `WINDOW` texts."""
        if isinstance(texts, str) or isinstance(texts_b, str):
            raise UsageError("pass a list of texts, not one text")
        for vectors in self._pieces(texts, texts_b):
            yield vectors.cpu().numpy()

    def _pieces(
        self,
        texts: Iterable[str],
        texts_b: Iterable[str] | None,
        batch_size: int | None = None,
        report: Report = lambda done: None,
    ) -> Iterator[torch.Tensor]:
        """(k, D) float32 vectors of the next k texts, on the device."""
        self._check_alone()
        if takes_pair(self.config.states.template) and texts_b is None:
            raise UsageError("the prompt of this run holds both texts of a pair: pass the second ones as texts_b")
        if texts_b is not None and not takes_pair(self.config.states.template):
            raise UsageError("a vector is one text's: leave out texts_b")
        stream = iter(texts) if texts_b is None else _joined(texts, texts_b)
        while window := list(islice(stream, WINDOW)):
            yield self._vectors(window, batch_size, report)[0]

    @staticmethod
    def similarity(vectors: Vectors, vectors_b: Vectors) -> torch.Tensor:
        """(n, m) float32 cosines of vectors (n, D) and (m, D), or of one (D,), as sentence-transformers has them."""
        a, b = (
            torch.nn.functional.normalize(torch.atleast_2d(torch.as_tensor(some)).float(), dim=1)
            for some in (vectors, vectors_b)
        )
        return a @ b.to(a.device).T

    def predict(self, texts: Given, texts_b: Given | None = None) -> Any:
        """(n,) class names, or float32 scores in the task's units; of one text its own.

        Where a text may have several labels (n, C) int64 zeros and ones, in the order of `classes_`.

        `texts_b` are the second texts of pairs.
        """
        task = self.config.task
        values = self.answers(self._estimate(texts, texts_b))
        answers = np.asarray(task.classes)[values] if task.target == "classes" else values
        if task.target == "labels":
            answers = to_indicator(values, len(task.classes))
        return answers[0] if isinstance(texts, str) else answers

    def predict_proba(self, texts: Given, texts_b: Given | None = None) -> np.ndarray:
        """(n, C) float32 probabilities of `classes_`, or (C,) of one text; UsageError where the task is a score."""
        self.config.check_predicts("this run")
        if not self.config.task.classes:
            raise UsageError(f"{self.config.task.name} has no classes: use predict")
        shares = self._estimate(texts, texts_b)
        return shares[0] if isinstance(texts, str) else shares

    def _estimate(self, texts: Given, texts_b: Given | None) -> np.ndarray:
        """What the head makes of the texts: probabilities (n, C), or scores (n,); of several heads the mean."""
        return mean_estimate(self.estimate_each(texts, texts_b))

    @fast_products()
    @torch.inference_mode()
    def estimate_each(self, texts: Given, texts_b: Given | None = None) -> list[np.ndarray]:
        """Of each head by itself: probabilities (n, C) float32, or (n,) scores; each distinct text forwarded once."""
        self.config.check_predicts("this run")
        _, given = _as_lists(texts, texts_b)
        if len(given) != self.config.texts_each:
            raise UsageError(f"this head was trained on {self.config.texts_each} text(s) an example")
        if len(given[0]) != len(given[-1]):
            raise UsageError(f"{len(given[0])} first texts and {len(given[-1])} second ones make no pairs")
        if takes_pair(self.config.states.template):
            given = [list(_joined(*given))]
        pieces = []
        for start in range(0, max(len(given[0]), 1), WINDOW):
            window = [list(some[start : start + WINDOW]) for some in given]
            vectors = self._vectors([text for some in window for text in some])
            sizes = [len(some) for some in window]
            found = [
                model.head.estimate(model.head(*its.split(sizes)).float())
                for (_, model), its in zip(self._heads, vectors, strict=True)
            ]
            pieces.append([some.numpy() for some in found])
        return [np.concatenate(parts) for parts in zip(*pieces, strict=True)]

    @fast_products()
    @torch.inference_mode()
    def _vectors(
        self, texts: Sequence[str], batch_size: int | None = None, report: Report = lambda done: None
    ) -> list[torch.Tensor]:
        """Of each head (n, D) float32: each distinct text forwarded once for all, those of similar length together.

        `report` is told how many more of the n texts are done, after each forward of at most `batch_size` texts.
        """
        states = self.config.states
        _check_texts(texts)
        rank: dict[str, int] = {}
        for text in texts:
            rank.setdefault(clean(text), len(rank))
        if not rank:
            return [torch.zeros(0, model.width, device=self.device) for _, model in self._heads]
        row = np.asarray([rank[clean(text)] for text in texts])  # (n,)
        times = np.bincount(row)
        order: list[np.ndarray] = []
        pieces: list[list[torch.Tensor]] = [[] for _ in self._heads]
        batches = forward_texts(list(rank), states, states.max_tokens, self._layers, self.backbone, batch_size)
        for indices, forwarded in batches:
            for (config, model), found in zip(self._heads, pieces, strict=True):
                own = forwarded.of_layers([self._layers.index(layer) for layer in config.layers], states.width)
                found.append(model.vectors(own.pack(config.pooler.tokens, self.device)).float())
            order.append(indices)
            report(int(times[indices].sum()))
        back = np.argsort(np.concatenate(order))
        rows = torch.from_numpy(back[row]).to(self.device)
        vectors = [torch.cat(found) for found in pieces]
        if not all(bool(some.isfinite().all()) for some in vectors):
            raise FaultError(f"{self.backbone.name} gives NaN or infinite states in {states.compute_dtype} for a text")
        return [some[rows] for some in vectors]


def layers_of(configs: Iterable[RunConfig]) -> tuple[int, ...]:
    """All layers that some runs read, ascending."""
    return tuple(sorted({layer for config in configs for layer in config.layers}))


def _joined(texts: Iterable[str], texts_b: Iterable[str]) -> Iterator[str]:
    """The one text of each pair, for a template of pairs; raises UsageError where they make no pairs of texts."""
    for pair in zip_longest(texts, texts_b):
        _check_texts(pair)
        yield join_pair(*pair)


def _as_lists(texts: Given, texts_b: Given | None) -> tuple[bool, list[Sequence[str]]]:
    """Whether one text, or one pair, was given, and the texts, in lists of one then; the second ones where there are.

    Raises UsageError for one text beside a list.
    """
    given = [texts] if texts_b is None else [texts, texts_b]
    lists: list[Sequence[str]] = [[some] if isinstance(some, str) else some for some in given]
    ones = sum(isinstance(some, str) for some in given)
    if 0 < ones < len(given):
        raise UsageError("pass two texts, or two lists of texts, and not one text beside a list")
    return ones > 0, lists


def _check_texts(texts: Iterable[object]) -> None:
    for text in texts:
        if not isinstance(text, str):
            raise UsageError(f"a text is needed, and {type(text).__name__} was given")
