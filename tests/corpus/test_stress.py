from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from glot.corpus.stress import COMMON_WORDS, CONTEXTS, GENERATORS, NEGATIONS, NOUNS, PUBLISHED, make_examples
from glot.errors import UsageError

RATIOS = (0.2, 0.5, 0.8, 0.9)
FAIR = ("balanced", "paired")


def make(generator: str, ratio: float, count: int = 300, seed: int = 0) -> list[tuple[list[str], int]]:
    examples = make_examples(generator, ratio, count, np.random.default_rng(seed))
    assert [example.index for example in examples] == list(range(count))
    return [(example.text.split(" "), example.label) for example in examples]


def negation_after_context(words: list[str]) -> bool:
    """Whether a negation stands right behind a context, which is what makes a signal negative."""
    runs = [tuple(words[i : i + len(c) + 1]) for c in CONTEXTS for i in range(len(words) - len(c))]
    return any(run[:-1] in CONTEXTS and run[-1] in NEGATIONS for run in runs)


def test_about_100_noise_words_that_carry_no_signal() -> None:
    assert len(COMMON_WORDS) == len(set(COMMON_WORDS)) == 99  # and "not" in `published`
    content = {"delivery", "contains", "folder", "includes", "box", *NOUNS, *NEGATIONS, "no", "none", "nor"}
    assert not content & set(COMMON_WORDS)


@pytest.mark.parametrize("ratio", [0.0, *RATIOS])
@pytest.mark.parametrize("generator", GENERATORS)
def test_classes_are_even_and_a_seed_decides_all(generator: str, ratio: float) -> None:
    texts = make(generator, ratio)
    assert Counter(label for _, label in texts) == {0: 150, 1: 150}
    assert texts == make(generator, ratio)
    assert texts != make(generator, ratio, seed=1)


@pytest.mark.parametrize("generator", GENERATORS)
def test_odd_counts(generator: str) -> None:
    assert Counter(label for _, label in make(generator, 0.5, 7)) == {1: 4, 0: 3}


@pytest.mark.parametrize(("ratio", "positive", "negative"), [(0.2, 29, 40), (0.5, 68, 79), (0.8, 106, 117)])
def test_published_has_the_published_lengths(ratio: float, positive: int, negative: int) -> None:
    texts = make("published", ratio, 1000)
    means = [np.mean([len(words) for words, label in texts if label == wanted]) for wanted in (1, 0)]
    assert means == pytest.approx([positive + 1 / 3, negative + 1 / 3], abs=0.1)


def test_published_is_cut_at_128_words() -> None:
    lengths = {label: {len(words) for words, got in make("published", 0.9) if got == label} for label in (0, 1)}
    assert lengths == {1: {119, 120}, 0: {PUBLISHED.words}}


@pytest.mark.parametrize("ratio", RATIOS)
def test_published_leaks_through_length_and_negations(ratio: float) -> None:
    texts = make("published", ratio)
    longest = max(len(words) for words, label in texts if label == 1)
    assert all((len(words) > longest) == (label == 0) for words, label in texts)
    assert any("not" in words for words, label in texts if label == 1)  # "not" is noise, too


@pytest.mark.parametrize("generator", GENERATORS)
def test_signals_are_the_papers(generator: str) -> None:
    for words, label in make(generator, 0.5, 100):
        (noun,) = [i for i, word in enumerate(words) if word in NOUNS]
        starts = [i for c in CONTEXTS for i in range(len(words)) if tuple(words[i : i + len(c)]) == c]
        assert len(starts) == 1
        length = noun + 1 - starts[0]
        context = next(c for c in CONTEXTS if tuple(words[starts[0] : starts[0] + len(c)]) == c)
        if label == 0:
            assert words[starts[0] + len(context)] in NEGATIONS
        if generator == "paired":
            assert length == len(context) + 10 + 1 + (label == 0)
        else:
            assert length == len(context) + 1 + (11 if label == 0 else 0)


@pytest.mark.parametrize("generator", GENERATORS)
def test_the_signal_stands_anywhere(generator: str) -> None:
    texts = make(generator, 0.5, 2000)
    shares = []  # of the other words, how many stand before the signal
    for words, _ in texts:
        before = next(i for c in CONTEXTS for i in range(len(words)) if tuple(words[i : i + len(c)]) == c)
        after = len(words) - 1 - next(i for i, word in enumerate(words) if word in NOUNS)
        shares.append(before / (before + after))
    counts, _ = np.histogram(shares, bins=4, range=(0, 1))
    assert counts.min() > 400
    assert any(words[-1] in NOUNS for words, _ in texts)
    assert any(tuple(words[: len(c)]) == c for words, _ in texts for c in CONTEXTS)


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("generator", FAIR)
def test_fair_generators_have_one_length_that_fits(generator: str, ratio: float) -> None:
    (length,) = {len(words) for words, _ in make(generator, ratio)}
    assert length == 16 + int(96 * ratio)
    assert length <= 115


def test_balanced_has_a_negation_in_negatives_only() -> None:
    for words, label in make("balanced", 0.9):
        assert sum(word in NEGATIONS for word in words) == (label == 0)


@pytest.mark.parametrize("ratio", RATIOS)
def test_twins_differ_only_in_the_place_of_their_negation(ratio: float) -> None:
    texts = make("paired", ratio)
    for (positive, one), (negative, zero) in zip(texts[::2], texts[1::2], strict=True):
        assert (one, zero) == (1, 0)
        assert Counter(positive) == Counter(negative)
        assert sum(word in NEGATIONS for word in positive) == 1
        bare = [[word for word in words if word not in NEGATIONS] for words in (positive, negative)]
        assert bare[0] == bare[1]
        assert negation_after_context(negative)
        assert not negation_after_context(positive)


def test_the_place_of_the_negation_does_not_tell_twins_apart() -> None:
    texts = make("paired", 0.9, 2000)
    places = {
        wanted: [
            next(i for i, word in enumerate(words) if word in NEGATIONS) for words, label in texts if label == wanted
        ]
        for wanted in (0, 1)
    }
    guesses = [np.mean(np.array(places[0]) < cut) - np.mean(np.array(places[1]) < cut) for cut in range(103)]
    assert max(map(abs, guesses)) < 0.2  # the best cut is right in less than 60 % of texts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fair", 0.5, 10), "unknown stress generator 'fair': choose from published, balanced, paired"),
        (("paired", 1.0, 10), "distractor ratio 1.0 is out of range"),
        (("paired", -0.1, 10), "distractor ratio -0.1 is out of range"),
        (("paired", float("nan"), 10), "distractor ratio nan is out of range"),
        (("paired", 0.5, 0), "cannot make 0 stress examples"),
    ],
)
def test_bad_arguments(arguments: tuple, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        make_examples(*arguments, np.random.default_rng(0))
    assert message in str(raised.value)
