"""Which training labels are likely wrong, and which texts stand in two sets at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
from scipy.special import softmax

from glot.fit.regression import fit_logistic, fit_ridge
from glot.fit.training_data import labels_of, sample_of
from glot.fit.yardsticks import MOST_ROWS, Means
from glot.store.example_set import ExampleSet
from glot.store.label_sets import to_indicator
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec, label_in_words
from glot.store.template import split_pair, takes_pair

FOLDS = 5
FEWEST_EACH = 2 * FOLDS  # examples of a class, or with and without a label: of fewer a fold may have seen none
FEWEST = 40  # examples; of fewer the folds know next to nothing
FAR = 3.0  # robust deviations of a score from what the others say of it
MAD = 1.4826  # a normal deviation over the median absolute one
BLOCK = 4096  # texts that are read at once


@dataclass(frozen=True)
class Doubt:
    """A training label that the other examples speak against.

    Attributes:
        row: its row in the source. texts: one, or the two of a pair; none where the cache keeps no texts.
        label, other: what is written, and what the others say, in words.
        label_share, other_share: the probabilities of both out of fold; None of scores. Of several labels a text they
            are those of the one in doubt, as it is written and the other way round.
        name: of several labels the one in doubt; None of all else. is_missing: whether the text should have it.
    """

    row: int
    texts: tuple[str, ...]
    label: str
    other: str
    label_share: float | None = None
    other_share: float | None = None
    name: str | None = None
    is_missing: bool = False


@dataclass(frozen=True)
class Doubts:
    """The training labels in doubt, the likeliest wrong first.

    Attributes:
        of: how many examples were looked at. right: the share of them whose one class the regression tells that has
            not seen them, so how far its doubts can be trusted; None where they have scores, or several labels.
    """

    of: int
    found: tuple[Doubt, ...]
    right: float | None = None


def find_doubts(cache: Cache, train: ExampleSet, means: Means, layer: int) -> Doubts | None:
    """Labels that a regression on the means of a layer doubts, each judged by one that has not seen it (five folds).

    Of classes a label is in doubt where another class is at least as probable as it is, on average, for examples that
    have that label (confident learning, Northcutt et al. 2021); of several labels the same is asked of each, with
    it or without it, so that a text may have several doubts; of scores where it lies more than three robust deviations
    from the estimate. Of many examples a sample is looked at. Classes and labels of fewer than ten of
    them are left out. None: there are too few examples.
    """
    some = sample_of(train, MOST_ROWS)
    if len(some) < FEWEST:
        return None
    labels, features = labels_of(some), means.features(some, layer)
    find = {"score": _far_scores, "labels": _doubted_labels}.get(means.task.target, _doubted_classes)
    places, shown, right = find(means.task, features, labels)
    texts = texts_of(cache, some.subset(places))
    rows = some.index[places].tolist()
    found = [Doubt(row, text, *words) for row, text, words in zip(rows, texts, shown, strict=True)]
    return Doubts(len(some), tuple(found), right)


Doubted = tuple[np.ndarray, list[tuple], float | None]  # places, what is said of each, and `Doubts.right`


def _doubted_classes(task: TaskSpec, features: np.ndarray, labels: np.ndarray) -> Doubted:
    """The places of the doubted labels, the most doubted first, and what is said of each."""
    shares = _held_out_shares(features, labels, len(task.classes))
    places, others = _rivals(shares, labels)
    is_known = np.bincount(labels, minlength=len(task.classes))[labels[places]] >= FEWEST_EACH
    places, others = places[is_known], others[is_known]
    own, best = shares[places, labels[places]], shares[places, others]
    order = np.argsort(own - best, kind="stable")
    names = task.classes
    said = [(names[labels[places[i]]], names[others[i]], float(own[i]), float(best[i])) for i in order.tolist()]
    return places[order], said, float((shares.argmax(axis=1) == labels).mean())


def _doubted_labels(task: TaskSpec, features: np.ndarray, codes: np.ndarray) -> Doubted:
    """As `_doubted_classes`, but each label is a question of its own: a text has it (1) or not (0).

    Labels that are missing and labels that are wrong take turns, the most doubted of either first: the margins of both
    are not alike, for of a rare label a regression is surer that a text lacks it than that one has it.
    """
    found, columns = [], to_indicator(codes, len(task.classes)).T
    for number, (name, has) in enumerate(zip(task.classes, columns, strict=True)):
        if min(has.sum(), len(has) - has.sum()) < FEWEST_EACH:
            continue
        shares = _held_out_shares(features, has, 2)
        for place in _rivals(shares, has)[0].tolist():
            code, real = int(codes[place]), int(has[place])
            own, best = float(shares[place, real]), float(shares[place, 1 - real])
            said, other = label_in_words(task, code), label_in_words(task, code ^ (1 << number))
            found.append((own - best, place, (said, other, own, best, name, real == 0)))
    found.sort(key=lambda one: one[0])
    kinds = [[one for one in found if one[2][-1] is is_missing] for is_missing in (True, False)]
    turns = [one for turn in zip_longest(*kinds) for one in turn if one is not None]
    return np.asarray([place for _, place, _ in turns], dtype=np.int64), [words for *_, words in turns], None


def _held_out_shares(features: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """(m, C) probabilities of classes, each example's by a regression that has not seen it."""
    shares = np.zeros((len(labels), count))
    strength = fit_logistic(features, labels, count, "none").strength  # chosen once: it takes longest
    for fit, held in _folds(len(labels)):
        raw = fit_logistic(features[fit], labels[fit], count, "none", strength).raw(features[held])
        shares[held] = softmax(raw, axis=1)
    return shares


def _rivals(shares: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The places of labels (m,) beside which another class is likelier and as sure as is usual for it, and that class.

    As is usual: as on average for the examples that have it.
    """
    rows = np.arange(len(labels))
    own = shares[rows, labels]
    classes = range(shares.shape[1])
    usual = np.asarray([own[labels == one].mean() if (labels == one).any() else np.inf for one in classes])
    rivals = np.where(shares >= usual, shares, 0.0)
    rivals[rows, labels] = 0.0
    places = np.flatnonzero(rivals.max(axis=1) > own)
    return places, rivals[places].argmax(axis=1)


def _far_scores(task: TaskSpec, features: np.ndarray, labels: np.ndarray) -> Doubted:
    estimates = np.zeros(len(labels))
    for fit, held in _folds(len(labels)):
        estimates[held] = fit_ridge(features[fit], labels[fit]).raw(features[held])[:, 0]
    off = np.abs(labels - estimates - np.median(labels - estimates))
    places = np.flatnonzero(off > FAR * MAD * max(float(np.median(off)), 1e-12))
    places = places[np.argsort(-off[places], kind="stable")]
    return places, [(f"{labels[i]:.4g}", f"{estimates[i]:.4g}") for i in places.tolist()], None


def _folds(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    from sklearn.model_selection import KFold

    return list(KFold(FOLDS, shuffle=True, random_state=0).split(np.arange(count)))


def texts_of(cache: Cache, examples: ExampleSet) -> list[tuple[str, ...]]:
    """The texts of some examples, as the cache keeps them; empty tuples where it keeps none."""
    plan = cache.plan
    if not plan.has_texts:
        return [()] * len(examples)
    columns = examples.text_columns
    wanted = np.unique(columns)
    known: dict[int, str] = {}
    for first in range(0, len(plan), BLOCK):
        inside = wanted[(wanted >= first) & (wanted < first + BLOCK)]
        if len(inside):
            low, high = int(inside[0]), int(inside[-1]) + 1
            block = plan.texts(low, high)
            known |= {text_id: block[text_id - low] for text_id in inside.tolist()}
    rows = [tuple(known[text_id] for text_id in ids) for ids in np.stack(columns, axis=1).tolist()]
    if takes_pair(cache.manifest.states.template):
        return [split_pair(*row) for row in rows]
    return rows


@dataclass(frozen=True)
class Duplicate:
    """A text that stands in the scored rows and in the training examples, but for case and blanks.

    Attributes:
        row, train_row: its first rows in both sources. texts: one, or the two of a pair.
        label, train_label: in words.
    """

    row: int
    train_row: int
    texts: tuple[str, ...]
    label: str
    train_label: str


def find_duplicates(
    task: TaskSpec,
    scored: Sequence[tuple[int, tuple[str, ...], float]],
    train: Sequence[tuple[int, tuple[str, ...], float]],
) -> tuple[Duplicate, ...]:
    """The scored examples that train has too; both are (row, texts, label) each. Those of another label come first."""
    known: dict[tuple[str, ...], tuple[int, float]] = {}
    for row, texts, label in train:
        known.setdefault(_gist(texts), (row, label))
    found = []
    for row, texts, label in scored:
        if texts and (there := known.get(_gist(texts))) is not None:
            labels = label_in_words(task, label), label_in_words(task, there[1])
            found.append(Duplicate(row, there[0], texts, *labels))
    return tuple(sorted(found, key=lambda one: (one.label == one.train_label, one.row)))


def _gist(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(" ".join(text.split()).casefold() for text in texts)
