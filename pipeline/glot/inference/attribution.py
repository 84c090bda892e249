"""What a head makes of one example: the cosines of its tokens, their edges, and each pooler's weights over them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from glot.errors import UsageError
from glot.fit.head_model import HeadModel, load_head
from glot.fit.run_folder import RunConfig, layer_shares
from glot.fit.states import HostBatch, as_tensors
from glot.inference.run_checks import Run
from glot.nn.config import PoolerConfig
from glot.nn.edges import EdgeRule, cosines
from glot.nn.poolers import LastLayerPooler, LayersPooler, Pooler, make_pooler, token_weights
from glot.nn.registry import EDGE_RULES
from glot.nn.tokens import TokenBatch
from glot.store.label_sets import to_names
from glot.store.plan import CONTENT, SPECIAL
from glot.store.reader import Cache
from glot.store.task_spec import label_in_words

MAX_TOKENS = 1024  # of a text: its cosines grow with the square
COMPARED = ("mean", "cls", "max")  # poolers without weights that are drawn beside the runs
DRAWN_TAU = 0.6  # where no run has a threshold of its own
MAX_LEFT_OUT = 512  # tokens of a text up to which each is left out in turn: the work grows with the cube
LEFT_OUT_BATCH = 32_768  # tokens of such texts that are pooled at once


@dataclass(frozen=True, eq=False)
class TextStates:
    """One text as the backbone saw it.

    Attributes:
        tokens: n strings, as the tokenizer spells them.
        kinds: (n,) uint8, CONTENT, SPECIAL (the tokenizer's own: [CLS], <s>, ...) or TEMPLATE.
        states: (n, k d) float32, of the k layers that the runs read, side by side.
    """

    tokens: list[str]
    kinds: np.ndarray
    states: Tensor

    @property
    def special(self) -> np.ndarray:
        """(n,) bool, which are the tokenizer's own."""
        return self.kinds == SPECIAL


@dataclass(frozen=True, eq=False)
class Example:
    """What is explained.

    Attributes:
        texts: one, or the two of a pair.
        source: where it comes from, in words.
        label: its label in words, "" where it is not known.
        task: the name of its task.
    """

    texts: list[TextStates]
    source: str
    label: str
    task: str


@dataclass(frozen=True, eq=False)
class Weighing:
    """How one pooler weighs the tokens.

    Attributes:
        pooler: its name. run: the folder of the run whose weights they are, "" for a pooler that is shown beside them.
        by_text: (n,) float64 for each text, summing to 1.
    """

    pooler: str
    run: str
    by_text: list[np.ndarray]


@dataclass(frozen=True, eq=False)
class Prediction:
    """A run's answer.

    Attributes:
        answer: in words.
        given: the class, or the labels; none of scores. of: the class or label that is explained; "" of scores.
        shares: for classes or labels the probability of each, else empty.
        effects: (n,) float64 for each text: what `of` loses in probability, or the score loses, where the head does not
            get a token's state. The other states stay as the backbone made them of the whole text. 0 for a token that
            the run does not see; empty where a text is longer than 512 tokens.
    """

    answer: str
    given: tuple[str, ...]
    of: str
    shares: dict[str, float]
    effects: list[np.ndarray]

    @property
    def in_words(self) -> str:
        """The answer, with the probability of what is explained."""
        if not self.of:
            return self.answer
        share = f"{100 * self.shares[self.of]:.0f} %"
        return f"{self.answer} ({share})" if self.of == self.answer else f"{self.answer} ({self.of}: {share})"


@dataclass(frozen=True, eq=False)
class TokenPicture:
    """The graph of one text.

    Attributes:
        text: its tokens.
        cosines: (n, n) float32, symmetric: what edges are decided by.
        seen: (n,) bool, the tokens that the drawn run pools; the others have no edges.
        own_edges: (m, 2) int64 pairs i < j that the drawn run joins, where it does not join by cosine, else None.
    """

    text: TextStates
    cosines: np.ndarray
    seen: np.ndarray
    own_edges: np.ndarray | None

    def edges(self, tau: float) -> tuple[int, int]:
        """(joined, possible) pairs of tokens at a threshold, each pair once."""
        upper = np.triu(self.seen[:, None] & self.seen, k=1)
        joined = upper & (self.cosines > np.float32(tau)) if tau < 1 else np.zeros_like(upper)
        return int(joined.sum()), int(upper.sum())


@dataclass(frozen=True, eq=False)
class Explanation:
    """All that is shown of an example.

    Attributes:
        drawn: the run whose graph is drawn: the first that has one, else the first.
        layer_shares: of each run, what each layer counts in its mix; empty where it reads one.
        tau: the threshold that the graph is drawn with at first.
        pictures: one a text.
        weighings: the runs' in their order, then those of `COMPARED` where no run has them.
        predictions: one a run.
    """

    example: Example
    runs: list[Run]
    drawn: Run
    tau: float
    pictures: list[TokenPicture]
    weighings: list[Weighing]
    predictions: list[Prediction]
    layer_shares: list[dict[int, float]]


def cache_example(cache: Cache, split: str, index: int, runs: Sequence[Run]) -> Example:
    """The example of a cache that has this index in its source; needs neither tokenizer nor backbone.

    Raises UsageError for a cache that does not fit the runs, an index that the set does not have, or tokens without
    strings; FaultError where something is damaged.
    """
    for run in runs:
        run.config.check_cache(cache)
    examples, task = cache.examples(split), cache.examples_entry(split).task
    if task.num_texts != runs[0].config.task.num_texts:
        raise UsageError(_other_texts(runs[0], f"the examples of {cache.folder} have {task.num_texts}"))
    rows = np.flatnonzero(examples.index == index)
    if not len(rows):
        there = f"they go from {examples.index.min()} to {examples.index.max()}" if len(examples) else "there are none"
        raise UsageError(f"the {split} examples of {cache.folder} have no index {index}: {there}")
    row = int(rows[0])
    ids = [int(column[row]) for column in (examples.text_id, examples.text_id_b) if column is not None]
    label = "" if examples.label is None else label_in_words(task, examples.label[row].item())
    texts = [_cache_text(cache, runs[0].config.layers, text_id) for text_id in ids]
    return Example(texts, f"example {index} of {split} in {cache.folder}", label, task.name)


def _cache_text(cache: Cache, layers: tuple[int, ...], text_id: int) -> TextStates:
    plan = cache.plan
    numbers = plan.token_ids(text_id, text_id + 1).tolist()
    if "vocabulary/ids" not in plan.file or not set(numbers) <= plan.vocabulary.keys():
        raise UsageError(
            f"{cache.folder} does not hold the strings of its tokens: pass the text itself with --input-text, "
            "or extract it again"
        )
    parts = []
    for layer in layers:
        values, scale = as_tensors(cache.read_texts(layer, np.asarray([text_id])))
        parts.append(HostBatch(values, scale, torch.tensor([len(numbers)])).tokens(torch.device("cpu")).states)
    kinds = plan.token_kinds(text_id, text_id + 1)
    return TextStates([plan.vocabulary[number] for number in numbers], kinds, torch.cat(parts, dim=1))


def check_texts(runs: Sequence[Run], count: int) -> None:
    """Refuse another number of texts than the runs take."""
    if runs[0].config.texts_each != count:
        what = "pass the second one with --input-text-b" if count == 1 else "leave --input-text-b out"
        raise UsageError(_other_texts(runs[0], what))


def _other_texts(run: Run, rest: str) -> str:
    return f"{run.folder} was trained on {run.config.texts_each} text(s) an example: {rest}"


def explain(example: Example, runs: list[Run], tau: float | None = None, of: str | None = None) -> Explanation:
    """Compute all that is shown of an example; every head runs on the CPU.

    Args:
        tau: the threshold to draw with first; None takes the drawn run's own, or 0.6 where it has none.
        of: the class or label to explain; None takes the likeliest.

    Raises UsageError for a threshold that is no cosine, or a text too long to be drawn.
    """
    longest = max(len(text.tokens) for text in example.texts)
    if longest > MAX_TOKENS:
        raise UsageError(f"a text of {longest:,} tokens is too long to be drawn: at most {MAX_TOKENS:,} are")
    if tau is not None and not -1 <= tau <= 1:
        raise UsageError(f"--tau is a cosine and must lie in [-1, 1]; got {tau}")
    drawn = next((run for run in runs if run.config.pooler.entry.has_graph), runs[0])
    if tau is None:
        pooler = drawn.config.pooler
        has_tau = pooler.entry.has_graph and "tau" in EDGE_RULES[pooler.graph].settings
        tau = pooler.tau if has_tau else DRAWN_TAU
    weighings, predictions, poolers = [], [], []
    for run in runs:
        model = load_head(run.folder, run.config, "dense", torch.device("cpu"))
        poolers.append(model.pooler)
        weighings.append(weigh(model.pooler, example.texts, str(run.folder)))
        predictions.append(_predict(model, run.config, example.texts, of))
    there = {run.config.pooler.pooler for run in runs}
    states = runs[0].config.states
    plain = [PoolerConfig(pooler=name, token_position=states.token_position) for name in COMPARED if name not in there]
    weighings += [weigh(LastLayerPooler(make_pooler(config, states.width, "dense")), example.texts) for config in plain]
    pictures = [_picture(text, poolers[runs.index(drawn)]) for text in example.texts]
    shares = [layer_shares(run.folder, run.config) for run in runs]
    return Explanation(example, runs, drawn, tau, pictures, weighings, predictions, shares)


def seen_tokens(text: TextStates, config: PoolerConfig) -> np.ndarray:
    """(n,) bool: the tokens that a pooler sees of a text; all, where it would see none."""
    content = text.kinds == CONTENT
    return content if config.tokens == "content" and content.any() else np.ones(len(content), dtype=bool)


def _batch(texts: Sequence[TextStates], config: PoolerConfig) -> TokenBatch:
    parts = [text.states[torch.from_numpy(seen_tokens(text, config))] for text in texts]
    return TokenBatch(torch.cat(parts), torch.tensor([len(part) for part in parts]))


@torch.no_grad()
def weigh(pooler: Pooler, texts: Sequence[TextStates], run: str = "") -> Weighing:
    """A pooler's weights over the tokens of some texts, as its registry entry says; 0 for tokens that it does not see.

    `run` is the folder of the run that trained it.
    """
    batch = _batch(texts, pooler.config)
    packed = token_weights(pooler, batch)  # (N,)
    by_text = []
    for text, some in zip(texts, packed.double().split(batch.lengths.tolist()), strict=True):
        weights = np.zeros(len(text.tokens))
        weights[seen_tokens(text, pooler.config)] = some.numpy()
        by_text.append(weights)
    return Weighing(pooler.config.pooler, run, by_text)


@torch.no_grad()
def _predict(model: HeadModel, config: RunConfig, texts: Sequence[TextStates], of: str | None) -> Prediction:
    z, names = model.pooler(_batch(texts, config.pooler)), config.task.classes  # (texts, D)
    raw = model.head(*z[:, None])
    predicted = model.head.predict(raw).item()
    shares = model.head.estimate(raw)[0].tolist() if names else []
    place = None
    if names:
        place = int(np.argmax(shares)) if of is None else names.index(of)
    is_short = max(len(text.tokens) for text in texts) <= MAX_LEFT_OUT
    effects = [_effects(model, z, side, text, place) for side, text in enumerate(texts)] if is_short else []
    shown = "" if place is None else names[place]
    said = label_in_words(config.task, predicted)
    given = to_names(int(predicted), names) if config.task.target == "labels" else (said,) if names else ()
    return Prediction(said, given, shown, dict(zip(names, shares, strict=True)), effects)


def _effects(model: HeadModel, z: Tensor, side: int, text: TextStates, place: int | None) -> np.ndarray:
    """(n,) of `Prediction.effects` for the text whose vector is z[side] among those of the example, (texts, D).

    `place` is that of the class or label which is explained; None: the score is.
    """

    def measure(*sides: Tensor) -> Tensor:  # (B,) of vectors (B, D)
        estimate = model.head.estimate(model.head(*sides))
        return estimate if place is None else estimate[:, place]

    whole = measure(*z[:, None])
    parts = []
    for vectors in _pool_without_each(model.pooler, text):
        sides = [vectors if place == side else other.expand_as(vectors) for place, other in enumerate(z)]
        parts.append(whole - measure(*sides))
    effects = np.zeros(len(text.tokens))
    if parts:
        effects[seen_tokens(text, model.pooler.config)] = torch.cat(parts).double().numpy()
    return effects


def _pool_without_each(pooler: Pooler, text: TextStates) -> Iterator[Tensor]:
    """Vectors (B, D) of a text without each of its n seen tokens in turn, n in all; none where n is 1."""
    states = text.states[torch.from_numpy(seen_tokens(text, pooler.config))]
    count = len(states)
    if count == 1:
        return
    others = torch.arange(count).expand(count, count)[~torch.eye(count, dtype=torch.bool)].view(count, count - 1)
    for part in others.split(max(1, LEFT_OUT_BATCH // count)):
        yield pooler(TokenBatch(states[part.flatten()], torch.full((len(part),), count - 1)))


@torch.no_grad()
def _picture(text: TextStates, pooler: Pooler) -> TokenPicture:
    config, count = pooler.config, len(text.tokens)
    if isinstance(pooler, LayersPooler):
        mixed = pooler.one_layer(TokenBatch(text.states, torch.tensor([count])))
        text = replace(text, states=mixed.states)
    full = cosines(TokenBatch(text.states, torch.tensor([count])))[0]
    matrix = (full.triu() + full.triu(diagonal=1).T).numpy()  # (n, n)
    seen = seen_tokens(text, config)
    if not config.entry.has_graph or config.graph == "cosine":  # the page draws cosine edges itself, at any threshold
        return TokenPicture(text, matrix, seen, None)
    mask = EdgeRule.of(config).edges(_batch([text], config))[0].numpy()
    own = np.flatnonzero(seen)[np.argwhere(np.triu(mask, k=1))]
    return TokenPicture(text, matrix, seen, own)
