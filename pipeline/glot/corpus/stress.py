"""The stress test of the paper: a short signal among random common words ("signal dilution").

A positive signal (label 1) is `<context> <noun>`; a negative one (label 0) is `<context> <negation> <10 random
words> <noun>`: the class hangs on a negation far from its noun. Three generators put it among noise, the more of
it the larger the distractor ratio r:

- `published`: int(128 r) noise words around the signal, cut at 128 words. The one to compare with the published
  numbers, and it leaks: negatives are 11 words longer, and "not" is among the noise.
- `balanced`: the same number of words in every text, no negation among the noise. A negation's presence still
  tells the classes apart.
- `paired`: texts come in twins, rows 2i (positive) and 2i + 1 (negative), that differ only in where their one
  negation stands: outside the signal, or behind its context. The ten words stand in both signals, so neither bag
  of words nor distance between context and noun tells them apart.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from glot.corpus.examples import Example, ExampleTable
from glot.errors import UsageError

CONTEXTS = (("the", "delivery", "contains"), ("the", "folder", "includes"), ("in", "the", "box", "are"))
NOUNS = ("keys", "reports", "files", "tickets", "documents", "alerts")
NEGATIONS = ("not", "never", "without", "excluding")
_FREQUENT = """
    the of and a to in is you that it he was for on are as with his they at be this have from or one had by word
    but what all were we when your can said there use an each which she do how their if will up other about out many
    then them these so some her would make like him into time has look two more write go see number way could people
    my than first water been call who oil its now find long down day did get come made may part just over
"""
COMMON_WORDS = tuple(_FREQUENT.split())
GENERATORS = ("published", "balanced", "paired")

_SPARE = 16  # words fewer than the limit in `balanced` and `paired`: room for word pieces and special tokens


@dataclass(frozen=True)
class Haystack:
    """The size of the texts.

    Attributes:
        words: the limit, at which `published` cuts, as it did at 128.
        gap: the random words between a negation and its noun; the paper's 10.

    Raises:
        UsageError: out of range, or texts too short for the signal.
    """

    words: int = 128
    gap: int = 10

    def __post_init__(self) -> None:
        if self.gap < 0 or self.most_noise < 0:
            raise UsageError(
                f"stress texts of {self.words} words cannot hold {self.gap} between negation and noun: "
                f"take a gap from 0, and at least {self.longest_signal + _SPARE} words"
            )

    @property
    def longest_signal(self) -> int:
        """Words of a negative signal with the longest context."""
        return max(map(len, CONTEXTS)) + 1 + self.gap + 1

    @property
    def most_noise(self) -> int:
        """Words of noise in `balanced` and `paired` as the ratio nears 1."""
        return self.words - self.longest_signal - _SPARE

    def fair_noise(self, ratio: float) -> int:
        """Words of noise in each text of `balanced` and `paired`: the ratio's share of the room beside the signal."""
        return int(self.most_noise * ratio)

    def fair_length(self, ratio: float) -> int:
        """Words in each text of `balanced` and `paired`."""
        return self.longest_signal + self.fair_noise(ratio)


PUBLISHED = Haystack()


def make_examples(
    generator: str, ratio: float, count: int, rng: np.random.Generator, haystack: Haystack = PUBLISHED
) -> ExampleTable:
    """Make `count` texts, half of each class (one positive more if `count` is odd).

    Args:
        generator: "published", "balanced" or "paired".
        ratio: the distractor ratio r, 0 <= r < 1; the paper's are 0.2, 0.5, 0.8 and 0.9.
        count: how many texts.
        rng: the source of every choice; the same state makes the same texts.
        haystack: how long the texts are, and how far the negation is from its noun.

    Raises:
        UsageError: no such generator, or a ratio or count out of range.
    """
    if generator not in GENERATORS:
        raise UsageError(f"unknown stress generator {generator!r}: choose from {', '.join(GENERATORS)}")
    if not 0 <= ratio < 1:
        raise UsageError(f"distractor ratio {ratio} is out of range: choose one from 0 to below 1, such as 0.9")
    if count < 1:
        raise UsageError(f"cannot make {count} stress examples: ask for at least 1")
    texts = islice(_make_texts(generator, ratio, count, rng, haystack), count)
    return ExampleTable(Example(i, " ".join(words), None, label) for i, (words, label) in enumerate(texts))


def signal_roles(words: Sequence[str]) -> list[str]:
    """What each word of a made text is to its signal; no more is needed for it than the words.

    Returns:
        For each word "context", "negation" (the signal's own, behind its context), "filler" (the signal's random words)
        or "noun"; "stray" for a negation outside of the signal; "" for noise. All "" where there is no signal.
    """
    found = [
        (position, len(context))
        for context in CONTEXTS
        for position in range(len(words))
        if tuple(words[position : position + len(context)]) == context
    ]
    roles = [""] * len(words)
    if not found:
        return roles
    start, length = found[0]  # each context has a word that no noise has
    inside = start + length
    stop = next((position for position in range(inside, len(words)) if words[position] in NOUNS), len(words))
    for position, word in enumerate(words):
        if inside <= position < stop:
            roles[position] = "negation" if position == inside and word in NEGATIONS else "filler"
        elif word in NEGATIONS:
            roles[position] = "stray"
    roles[start:inside] = ["context"] * length
    if stop < len(words):
        roles[stop] = "noun"
    return roles


def _make_texts(
    generator: str, ratio: float, count: int, rng: np.random.Generator, haystack: Haystack
) -> Iterator[tuple[list[str], int]]:
    """`count` texts with their labels, or one more: twins come together."""
    if generator == "paired":
        for _ in range(0, count, 2):
            yield from _twins(ratio, rng, haystack)
        return
    make = _published if generator == "published" else _balanced
    labels = rng.permutation((np.arange(count) + 1) % 2).astype(np.uint8).tobytes()
    for label in labels:
        yield make(label, ratio, rng, haystack), label


def _published(label: int, ratio: float, rng: np.random.Generator, haystack: Haystack) -> list[str]:
    words = (*COMMON_WORDS, "not")
    noise = _choose(words, int(haystack.words * ratio), rng)
    return _insert(_signal(label, words, rng, haystack), noise, rng)[: haystack.words]


def _balanced(label: int, ratio: float, rng: np.random.Generator, haystack: Haystack) -> list[str]:
    signal = _signal(label, COMMON_WORDS, rng, haystack)
    return _insert(signal, _choose(COMMON_WORDS, haystack.fair_length(ratio) - len(signal), rng), rng)


def _twins(ratio: float, rng: np.random.Generator, haystack: Haystack) -> list[tuple[list[str], int]]:
    """A positive and a negative text, with their labels, that differ only in the position of their one negation."""
    signal = _signal(0, COMMON_WORDS, rng, haystack)
    noise = _choose(COMMON_WORDS, haystack.fair_length(ratio) - len(signal), rng)
    negation = next(word for word in signal if word in NEGATIONS)
    bare = [word for word in signal if word != negation]
    start = int(rng.integers(len(noise) + 1))
    negative = noise[:start] + signal + noise[start:]
    # Anywhere but inside the signal: start + 1 positions up to it, the rest behind it.
    position = int(rng.integers(len(noise) + 2))
    if position > start:
        position += len(bare) - 1
    positive = noise[:start] + bare + noise[start:]
    positive.insert(position, negation)
    return [(positive, 1), (negative, 0)]


def _signal(label: int, fillers: Sequence[str], rng: np.random.Generator, haystack: Haystack) -> list[str]:
    context = CONTEXTS[rng.integers(len(CONTEXTS))]
    between = [] if label else [*_choose(NEGATIONS, 1, rng), *_choose(fillers, haystack.gap, rng)]
    return [*context, *between, *_choose(NOUNS, 1, rng)]


def _choose(words: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    return [words[i] for i in rng.integers(len(words), size=count)]


def _insert(signal: list[str], noise: list[str], rng: np.random.Generator) -> list[str]:
    start = int(rng.integers(len(noise) + 1))
    return noise[:start] + signal + noise[start:]
