"""GlotClassifier where a text may have several labels, or none: beside scikit-learn's OneVsRestClassifier."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.model_selection import cross_val_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from glot import GlotClassifier
from glot.fit import regression


@pytest.fixture(scope="module")
def data() -> tuple[list[str], np.ndarray]:
    """80 texts, (80, 3): whether each has the words dog, river and moon."""
    rng = np.random.default_rng(0)
    words = ["rain", "falls", "softly", "over", "the", "old", "town", "in", "autumn", "books", "about", "ships"]
    has = rng.random((80, 3)) < (0.5, 0.4, 0.3)
    marks = np.array(["dog", "river", "moon"])
    texts = [" ".join(rng.permutation([*rng.choice(words, 4), *marks[row]])) for row in has]
    return texts, has.astype(int)


@pytest.fixture
def classifier(backbone_folders: dict[str, Path]) -> GlotClassifier:
    return GlotClassifier(str(backbone_folders["bert"]), device="cpu", epochs=1, verbose=0)


def test_an_indicator_in_an_indicator_out(classifier: GlotClassifier, data: tuple[list[str], np.ndarray]) -> None:
    texts, y = data
    fitted = classifier.fit(texts, y)
    answers, shares = fitted.predict(texts), fitted.predict_proba(texts)
    assert answers.shape == shares.shape == y.shape
    assert fitted.classes_.tolist() == [0, 1, 2]
    assert len(set(fitted.thresholds_.tolist())) > 1  # each its own
    np.testing.assert_array_equal(answers, shares > fitted.thresholds_)
    np.testing.assert_allclose(shares, expit(fitted.decision_function(texts)), rtol=1e-5)
    assert fitted.score(texts, y) == accuracy_score(y, answers)
    again = classifier.fit(texts, csr_matrix(y))
    np.testing.assert_array_equal(again.predict_proba(texts), shares)


def test_weights_and_folds(classifier: GlotClassifier, data: tuple[list[str], np.ndarray]) -> None:
    texts, y = data
    kept = np.arange(80) < 60
    few = classifier.fit(np.array(texts)[kept], y[kept]).predict_proba(texts)
    np.testing.assert_array_equal(classifier.fit(texts, y, sample_weight=kept).predict_proba(texts), few)
    heavy = classifier.fit(texts, y, sample_weight=1 + 9 * y[:, 0]).predict_proba(texts)
    assert heavy[:, 0].mean() > classifier.fit(texts, y).predict_proba(texts)[:, 0].mean()
    assert cross_val_score(classifier, texts, y, cv=2, scoring="f1_micro", error_score="raise").shape == (2,)


def test_what_is_refused(classifier: GlotClassifier, data: tuple[list[str], np.ndarray]) -> None:
    texts, y = data
    for value, word in ((0, "no"), (1, "every")):
        same = y.copy()
        same[:, 1] = value
        with pytest.raises(ValueError, match=f"{word} sample has the label of column 1"):
            classifier.fit(texts, same)
    with pytest.raises(ValueError, match="values other than 0 and 1"):
        classifier.fit(texts, 2 * y)
    with pytest.raises(ValueError, match=r"several labels a sample \(n, C\) of zeros and ones"):
        classifier.fit(texts, y + np.arange(3))
    with pytest.raises(ValueError, match="y has 54 labels: a classifier of several takes 53 at most"):
        classifier.fit(texts, np.tile(y[:, :1], 54))


@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_training_begins_at_one_versus_the_rest(
    classifier: GlotClassifier,
    data: tuple[list[str], np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    class_weight: str | None,
) -> None:
    texts, y = data
    monkeypatch.setattr(regression, "STRENGTHS", (0.1,))
    settings = {"pooler": "mean", "backbone_layer": -1, "lr": 1e-12, "class_weight": class_weight}
    began = classifier.set_params(**settings).fit(texts, y)
    one = LogisticRegression(C=0.1, max_iter=200, class_weight=class_weight)
    theirs = make_pipeline(StandardScaler(), OneVsRestClassifier(one))
    means = began.transform(texts)
    expected = theirs.fit(means, y).predict_proba(means)
    # The states that the fit begins at are kept in 16 bits.
    np.testing.assert_allclose(began.predict_proba(texts), expected, atol=5e-3)
