"""A frozen backbone and a trained head as one thing: new texts to vectors and labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, zip_longest
from pathlib import Path

import numpy as np
import torch

from glot.errors import FaultError, UsageError
from glot.extract.backbone import Backbone, load_backbone_of
from glot.extract.engine import take_engine
from glot.extract.forward import length_batches, token_budget
from glot.extract.planning import clean, length_limit, tokenize_filled
from glot.fit.ensemble import answers_of, find_heads, mean_estimate
from glot.fit.head_model import HeadModel, load_head
from glot.fit.run_folder import BEST_MEMBER, RunConfig
from glot.nn.config import TokenChoice
from glot.nn.graph import resolve_backend
from glot.nn.tokens import TokenBatch
from glot.products import fast_products
from glot.store.layout import StatesIdentity
from glot.store.plan import CONTENT
from glot.store.template import join_pair, takes_pair

WINDOW = 2048  # texts that are sorted by length together; what waits for its turn is small beside the backbone


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
        self._layers = _layers_of(its for its, _ in self._heads)

    @classmethod
    def load(
        cls,
        run: Path | str,
        backbone: str | None = None,
        device: str | None = None,
        trust_remote_code: bool = False,
        engine: str = "auto",
        tokens: int | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> GlotModel:
        """Load a run folder (of one seed), or an ensemble's, and its backbone.

        Args:
            run: what `glot fit` left, or `glot tune --ensemble`.
            backbone: an alias, hub id, folder or GGUF file, where the name in the run does not find it.
            device: where both run; None takes a GPU where there is one.
            trust_remote_code: run the code that the backbone's folder brings along; else it is never run.
            engine: what forwards the backbone: "torch", "openvino", or "auto", see `take_engine`.
            tokens: about how many it will forward, None where nobody knows: "auto" takes torch for few.
            say: told why "auto" did not take the faster engine.

        Raises UsageError where the run, the backbone or the device is missing or does not fit, FaultError where a file
        is damaged.
        """
        folders = find_heads(Path(run))
        configs = [RunConfig.load(folder) for folder in folders]
        loaded = load_run_backbone(configs[0].states, folders[0], backbone, device, trust_remote_code)
        take_engine(loaded, _layers_of(configs), engine, tokens, say)
        passes = resolve_backend("auto", loaded.device)
        heads = [load_head(*found, passes, loaded.device) for found in zip(folders, configs, strict=True)]
        return cls(configs[0], heads[0], loaded, list(zip(configs[1:], heads[1:], strict=True)))

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

    def encode(self, texts: Sequence[str], texts_b: Sequence[str] | None = None) -> np.ndarray:
        """(n, D) float32 vectors of the texts, in their order; raises FaultError where the backbone gives NaN.

        `texts_b` are the second texts of n pairs, for a run whose prompt holds both, and for such a run alone.
        """
        pieces = list(self.encode_stream(texts, texts_b))
        return np.concatenate(pieces) if pieces else np.zeros((0, self.width), dtype=np.float32)

    def encode_stream(self, texts: Iterable[str], texts_b: Iterable[str] | None = None) -> Iterator[np.ndarray]:
        """(k, D) float32 vectors of the next k texts, as they come; memory is that of `WINDOW` texts."""
        if isinstance(texts, str) or isinstance(texts_b, str):
            raise UsageError("pass a list of texts, not one text")
        self._check_alone()
        if takes_pair(self.config.states.template) and texts_b is None:
            raise UsageError("the prompt of this run holds both texts of a pair: pass the second ones as texts_b")
        if texts_b is not None and not takes_pair(self.config.states.template):
            raise UsageError("a vector is one text's: leave out texts_b")
        stream = iter(texts) if texts_b is None else _joined(texts, texts_b)
        while window := list(islice(stream, WINDOW)):
            yield self._vectors(window)[0].cpu().numpy()

    def predict(self, texts: Sequence[str], texts_b: Sequence[str] | None = None) -> np.ndarray:
        """(n,) class names, or float32 scores in the task's units; `texts_b` are the second texts of pairs."""
        task = self.config.task
        values = answers_of(task, self._estimate(texts, texts_b))
        return np.asarray(task.classes)[values] if task.target == "classes" else values

    def predict_proba(self, texts: Sequence[str], texts_b: Sequence[str] | None = None) -> np.ndarray:
        """(n, C) float32 probabilities of `config.task.classes`; raises UsageError where the task is a score."""
        self.config.check_predicts("this run")
        if self.config.task.target != "classes":
            raise UsageError(f"{self.config.task.name} has no classes: use predict")
        return self._estimate(texts, texts_b)

    def _estimate(self, texts: Sequence[str], texts_b: Sequence[str] | None) -> np.ndarray:
        """What the head makes of the texts: probabilities (n, C), or (n,) scores; of several heads the mean."""
        return mean_estimate(self.estimate_each(texts, texts_b))

    @fast_products()
    @torch.inference_mode()
    def estimate_each(self, texts: Sequence[str], texts_b: Sequence[str] | None = None) -> list[np.ndarray]:
        """Of each head by itself: probabilities (n, C) float32, or (n,) scores; each distinct text forwarded once."""
        self.config.check_predicts("this run")
        given = [texts] if texts_b is None else [texts, texts_b]
        if any(isinstance(some, str) for some in given):
            raise UsageError("pass a list of texts, not one text")
        if len(given) != self.config.texts_each:
            raise UsageError(f"this head was trained on {self.config.texts_each} text(s) an example")
        if len(given[0]) != len(given[-1]):
            raise UsageError(f"{len(texts)} first texts and {len(given[-1])} second ones make no pairs")
        if takes_pair(self.config.states.template):
            given = [list(_joined(*given))]
        pieces = []
        for start in range(0, max(len(texts), 1), WINDOW):
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
    def _vectors(self, texts: Sequence[str]) -> list[torch.Tensor]:
        """Of each head (n, D) float32: each distinct text forwarded once for all, those of similar length together."""
        states = self.config.states
        _check_texts(texts)
        rank: dict[str, int] = {}
        for text in texts:
            rank.setdefault(clean(text), len(rank))
        if not rank:
            return [torch.zeros(0, model.width, device=self.device) for _, model in self._heads]
        order: list[np.ndarray] = []
        pieces: list[list[torch.Tensor]] = [[] for _ in self._heads]
        for indices, forwarded in forward_texts(list(rank), states, states.max_tokens, self._layers, self.backbone):
            for (config, model), found in zip(self._heads, pieces, strict=True):
                own = forwarded.of_layers([self._layers.index(layer) for layer in config.layers], states.width)
                found.append(model.vectors(own.pack(config.pooler.tokens, self.device)).float())
            order.append(indices)
        back = np.argsort(np.concatenate(order))
        rows = torch.from_numpy(back[[rank[clean(text)] for text in texts]]).to(self.device)
        vectors = [torch.cat(found) for found in pieces]
        if not all(bool(some.isfinite().all()) for some in vectors):
            raise FaultError(f"{self.backbone.name} gives NaN or infinite states in {states.compute_dtype} for a text")
        return [some[rows] for some in vectors]


def _layers_of(configs: Iterable[RunConfig]) -> tuple[int, ...]:
    """All layers that some runs read, ascending."""
    return tuple(sorted({layer for config in configs for layer in config.layers}))


def _joined(texts: Iterable[str], texts_b: Iterable[str]) -> Iterator[str]:
    """The one text of each pair, for a template of pairs; raises UsageError where they make no pairs of texts."""
    for pair in zip_longest(texts, texts_b):
        _check_texts(pair)
        yield join_pair(*pair)


def _check_texts(texts: Iterable[object]) -> None:
    for text in texts:
        if not isinstance(text, str):
            raise UsageError(f"a text is needed, and {type(text).__name__} was given")


@dataclass(frozen=True, eq=False)
class Forwarded:
    """One padded batch as the backbone saw it.

    Attributes:
        hidden: (B, L, n d) states of n layers side by side, on the backbone's device, in its dtype.
        mask: (B, L) bool, True for real tokens. content: (B, L) bool, True for the text's own. Both on the CPU.
    """

    hidden: torch.Tensor
    mask: torch.Tensor
    content: torch.Tensor

    def of_layers(self, places: list[int], width: int) -> Forwarded:
        """The states of some of the layers, by their places among the n, each `width` numbers wide."""
        layers = self.hidden.split(width, dim=2)
        if places == list(range(len(layers))):
            return self
        return replace(self, hidden=torch.cat([layers[place] for place in places], dim=2))

    def pack(self, tokens: TokenChoice, device: torch.device) -> TokenBatch:
        """The float32 states on `device`, without padding: of all tokens, or content (a text without any keeps all)."""
        mask = self.mask
        if tokens == "content":
            mask = torch.where(self.content.any(dim=1, keepdim=True), self.content, mask)
        return TokenBatch(self.hidden[mask.to(self.hidden.device)].float().to(device), mask.sum(dim=1))


def forward_texts(
    texts: list[str], states: StatesIdentity, max_tokens: int, layers: tuple[int, ...], backbone: Backbone
) -> Iterator[tuple[np.ndarray, Forwarded]]:
    """Indices of some texts and what the backbone made of them, until all are done; those of similar length together.

    The texts (of a template of pairs, as `join_pair` makes them) are filled into that of `states` and cut at
    `max_tokens`.
    """
    tokens = tokenize_filled(texts, states.template, backbone, max_tokens)
    lengths = np.asarray([len(row) for row in tokens.ids])
    for indices in length_batches(lengths, token_budget(backbone, states), backbone.pads):
        padded, mask = backbone.pad([tokens.ids[index] for index in indices])
        real = mask.bool()
        content = torch.zeros_like(real)
        content[real] = torch.from_numpy(np.concatenate([tokens.kinds[index] for index in indices]) == CONTENT)
        hidden = backbone.hidden_states(padded, mask, layers)
        yield indices, Forwarded(hidden[0] if len(hidden) == 1 else torch.cat(hidden, dim=2), real, content)


def load_run_backbone(
    states: StatesIdentity,
    run: Path | str,
    model: str | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
) -> Backbone:
    """The backbone that states were made with: found where the run says, or as `model` says.

    Raises UsageError where it is not there, or is another one.
    """
    backbone = load_backbone_of(states, f"that {run} was trained on", model, device, trust_remote_code)
    length_limit(backbone, states.max_tokens, states.max_tokens, states.template)
    return backbone
