"""GlotRegressor, and what both estimators take: any X, weights of samples, models that somebody holds."""

from __future__ import annotations

import copy
import fcntl
import os
import pickle
import pty
import struct
import sys
import termios
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV
from transformers import AutoModel, AutoTokenizer

from glot import GlotClassifier, GlotRegressor
from glot.errors import UsageError
from glot.fit.regression import PENALTIES, fit_logistic, fit_ridge
from glot.inference.estimator import weighted_rows
from glot.nn.heads import ClassHead, RegressionHead, with_weights

WORDS = ["rain", "falls", "softly", "over", "the", "old", "town", "in", "autumn", "books"]
SMALL = {"max_tokens": 24, "hidden": 8, "gnn_layers": 1, "epochs": 1, "device": "cpu"}


@pytest.fixture(scope="module")
def data() -> tuple[list[str], np.ndarray]:
    """48 texts, and how many dogs are in each."""
    rng = np.random.default_rng(0)
    texts, scores = [], []
    for row in range(48):
        words = [*rng.choice(WORDS, 3), *["dog"] * (row % 4)]
        texts.append(" ".join(rng.permutation(words)))
        scores.append(row % 4 + 0.5)
    return texts, np.asarray(scores)


@pytest.fixture
def regressor(backbone_folders: dict[str, Path]) -> Callable[..., GlotRegressor]:
    return lambda **settings: GlotRegressor(str(backbone_folders["bert"]), **{**SMALL, **settings})


@pytest.fixture
def classifier(backbone_folders: dict[str, Path]) -> Callable[..., GlotClassifier]:
    return lambda **settings: GlotClassifier(str(backbone_folders["bert"]), **{**SMALL, **settings})


def test_it_learns_scores_in_their_own_units(regressor: Callable, data: tuple) -> None:
    texts, scores = data
    fitted = regressor(epochs=8, lr=1e-2).fit(texts, scores)
    found = fitted.predict(texts)
    assert (found.shape, found.dtype) == ((48,), np.float32)
    assert pearsonr(found, scores).statistic > 0.8
    assert fitted.score(texts, scores) == pytest.approx(r2_score(scores, found))
    assert fitted.config_.task.score_range == (0.5, 3.5)
    assert fitted.transform(texts).shape == (48, len(fitted.get_feature_names_out()))
    assert not hasattr(fitted, "predict_proba")
    assert not hasattr(fitted, "class_weight")
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict(texts), found)


def test_it_is_searched(regressor: Callable, data: tuple, tmp_path: Path) -> None:
    search = GridSearchCV(regressor(cache=tmp_path), {"pooler": ["mean", "glot"]}, cv=2, error_score="raise")
    search.fit(*data)
    assert search.best_params_["pooler"] in ("mean", "glot")


def test_equal_scores_are_predicted(regressor: Callable, data: tuple) -> None:
    np.testing.assert_allclose(regressor().fit(data[0], np.full(48, 3.0)).predict(data[0]), 3.0, atol=0.1)


@pytest.mark.parametrize(("y", "match"), [(None, "y is None"), ([1.0, np.nan], "NaN"), ([[1, 2], [3, 4]], "1d array")])
def test_what_are_no_scores_is_refused(regressor: Callable, y: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        regressor().fit(["a", "b"], y)


def frames(texts: list[str], second: list[str] | None) -> dict[str, Any]:
    """The same texts, or pairs, in whatever is installed."""
    columns = {"text": texts} if second is None else {"text": texts, "other": second}
    rows = list(zip(*columns.values(), strict=True))
    found: dict[str, Any] = {"array": np.asarray(rows, dtype=object), "strings": np.asarray(rows)}
    found["list"] = texts if second is None else rows
    if second is not None:
        found["lists"] = [list(row) for row in rows]
    pd = pytest.importorskip("pandas", reason="pandas is not installed")
    found["pandas"] = pd.DataFrame(columns, index=range(5, 5 + len(texts)))
    datasets = pytest.importorskip("datasets", reason="datasets is not installed (extra: hub)")
    found["Dataset"] = datasets.Dataset.from_dict(columns)
    return found


def test_every_kind_of_x_is_the_same(regressor: Callable, data: tuple) -> None:
    texts, scores = data
    expected = regressor().fit(texts, scores).predict(texts[:9])
    fitted = regressor().fit(
        frames(texts, None)["Dataset"], frames(texts, None)["pandas"]["text"].map(len) * 0 + scores
    )
    for X in frames(texts[:9], None).values():
        np.testing.assert_array_equal(fitted.predict(X), expected)


def test_labels_may_be_a_column_of_a_dataset(classifier: Callable, data: tuple) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed (extra: hub)")
    texts, names = data[0], ["dog" if "dog" in text else "none" for text in data[0]]
    table = datasets.Dataset.from_dict({"text": texts, "label": names})
    fitted = classifier().fit(table.select_columns(["text"]), table["label"])
    np.testing.assert_array_equal(fitted.predict_proba(texts), classifier().fit(texts, names).predict_proba(texts))
    with pytest.raises(ValueError, match=r"it has 3 \(text, label, id\)"):
        classifier().fit(table.add_column("id", list(range(48))), names)


def test_pairs_without_a_prompt_are_two_vectors(regressor: Callable, classifier: Callable, data: tuple) -> None:
    first, scores = data
    second = first[7:] + first[:7]
    made = frames(first, second)
    for make, y in ((regressor, scores), (classifier, (scores > 2).astype(int))):
        fitted = make(preset="published", pooler="mean").fit(made["list"], y)
        assert fitted.config_.task.num_texts == 2
        answers = fitted.predict(made["list"])
        for X in made.values():
            np.testing.assert_array_equal(fitted.predict(X), answers)
        single = make(preset="published", pooler="mean").fit(first, y)
        both = np.concatenate([single.transform(first), single.transform(second)], axis=1)
        np.testing.assert_allclose(fitted.transform(made["list"]), both, rtol=1e-5, atol=1e-6)
        assert len(fitted.get_feature_names_out()) == both.shape[1]
        with pytest.raises(ValueError, match=r"X holds single texts, and this .* was fitted on pairs"):
            fitted.predict(first)
        with pytest.raises(ValueError, match=r"X holds pairs of texts, and this .* was fitted on single"):
            single.predict(made["list"])


def test_a_weighted_loss_is_the_sum_by_hand() -> None:
    torch.manual_seed(0)
    raw, labels, weights = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0]), torch.tensor([1.0, 2, 0, 0.5, 1.5])
    head = ClassHead(4, 1, 3)
    each = -raw.log_softmax(dim=1)[range(5), labels]
    torch.testing.assert_close(head.loss(raw, with_weights(labels, weights)), (each * weights).sum() / 5)
    torch.testing.assert_close(head.loss(raw, with_weights(labels, torch.ones(5))), head.loss(raw, labels))
    head.class_weights = torch.tensor([1.0, 3.0, 0.5])
    by_class = each * weights * head.class_weights[labels]
    torch.testing.assert_close(head.loss(raw, with_weights(labels, weights)), by_class.sum() / 5)
    scores, given = torch.tensor([1.0, 2, 3, 4, 5]), torch.randn(5)
    squares = (given - (scores - 1) / 4) ** 2
    loss = RegressionHead(4, (1.0, 5.0)).loss(given, with_weights(scores, weights))
    torch.testing.assert_close(loss, (squares * weights).sum() / 5)


def test_the_regression_that_training_begins_at_is_scikit_learn_s_with_these_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("glot.fit.regression.STRENGTHS", (0.1,))
    rng = np.random.default_rng(0)
    x, weight = rng.normal(size=(60, 4)), rng.uniform(0.1, 3, 60)
    y = (x[:, 0] + rng.normal(size=60) > 0).astype(np.int64)
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    peer = LogisticRegression(C=0.1, max_iter=200).fit(scaled, y, weight)
    raw = fit_logistic(x, y, 2, "none", weights=weight).raw(x)
    np.testing.assert_allclose(raw[:, 1] - raw[:, 0], peer.decision_function(scaled), atol=1e-4)
    ridge = RidgeCV(PENALTIES).fit(scaled, x @ [1, 2, 3, 4.0], sample_weight=weight)
    found = fit_ridge(x, x @ [1, 2, 3, 4.0], weight).raw(x)[:, 0]
    np.testing.assert_allclose(found, ridge.predict(scaled), atol=1e-4)


@pytest.mark.parametrize("preset", ["strong", "published"])
def test_a_weight_of_zero_leaves_a_row_out_and_equal_weights_are_none(
    classifier: Callable, data: tuple, preset: str
) -> None:
    texts, labels = data[0], (data[1] > 2).astype(int)
    weight = np.where(np.arange(48) % 5 == 0, 0.0, 2.0)
    kept = [row for row in range(48) if weight[row]]
    weighted = classifier(preset=preset).fit(texts, labels, weight)
    without = classifier(preset=preset).fit([texts[row] for row in kept], labels[kept])
    np.testing.assert_array_equal(weighted.predict_proba(texts), without.predict_proba(texts))
    uneven = classifier(preset=preset).fit(texts, labels, sample_weight=np.where(labels == 1, 9.0, 1.0))
    plain = classifier(preset=preset).fit(texts, labels, sample_weight=np.ones(48))
    assert uneven.predict_proba(texts)[:, 1].mean() > plain.predict_proba(texts)[:, 1].mean()


def test_weights_go_through_every_kind_of_training(regressor: Callable, data: tuple) -> None:
    texts, scores = data
    weight = np.linspace(0, 2, 48)
    fitted = regressor(validation_fraction=0.25).fit(texts, scores, weight)
    assert not np.array_equal(
        fitted.predict(texts), regressor(validation_fraction=0.25).fit(texts, scores).predict(texts)
    )


@pytest.mark.parametrize(
    ("weight", "match"),
    [
        ([1, 2], "inconsistent"),
        ([1, -1, 1], "negative"),
        ([0, 0, 0], "every weight is zero"),
        ([[1, 2]] * 3, "1d array"),
    ],
)
def test_what_are_no_weights_is_refused(weight: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        weighted_rows(weight, 3)


def held(folder: Path) -> tuple:
    return AutoModel.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_a_model_in_memory_learns_what_the_named_one_does(
    classifier: Callable, backbone_folders: dict[str, Path], data: tuple, forwarded: list
) -> None:
    texts, labels = data[0], (data[1] > 2).astype(int)
    expected = classifier().fit(texts, labels).predict_proba(texts)
    given = held(backbone_folders["bert"])
    fitted = GlotClassifier(given, **SMALL).fit(texts, labels)
    np.testing.assert_allclose(fitted.predict_proba(texts), expected, rtol=1e-5, atol=1e-6)
    assert fitted.config_.states.in_memory
    copied = clone(fitted).fit(texts, labels)
    np.testing.assert_array_equal(copied.predict_proba(texts), fitted.predict_proba(texts))
    with torch.no_grad():
        given[0].embeddings.word_embeddings.weight[7] += 1
    with pytest.raises(UsageError, match="weights_sha256"):
        fitted.predict(texts)
    with pytest.raises(TypeError, match=r"pair \(model, tokenizer\)"):
        GlotClassifier(given[0], **SMALL).fit(texts, labels)


def test_a_sentence_transformer_learns_what_its_folder_does(
    classifier: Callable, backbone_folders: dict[str, Path], data: tuple
) -> None:
    peer = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    texts, labels = data[0], (data[1] > 2).astype(int)
    embedder = peer.SentenceTransformer(str(backbone_folders["bert"]), device="cpu")
    fitted = GlotClassifier(embedder, **SMALL).fit(texts, labels)
    expected = classifier().fit(texts, labels).predict_proba(texts)
    np.testing.assert_allclose(fitted.predict_proba(texts), expected, rtol=1e-5, atol=1e-6)


def test_states_of_two_models_in_memory_are_not_confused(
    backbone_folders: dict[str, Path], data: tuple, tmp_path: Path, forwarded: list
) -> None:
    texts, labels = data[0], (data[1] > 2).astype(int)
    given = held(backbone_folders["bert"])
    other = copy.deepcopy(given[0]), given[1]
    with torch.no_grad():
        other[0].embeddings.word_embeddings.weight[2] *= -1  # [CLS]
    first = GlotClassifier(given, cache=tmp_path, **SMALL).fit(texts, labels)
    count = len(forwarded)
    second = GlotClassifier(other, cache=tmp_path, **SMALL).fit(texts, labels)
    assert len(forwarded) == 2 * count, "the other weights' states are their own"
    GlotClassifier(copy.deepcopy(given), cache=tmp_path, **SMALL).fit(texts, labels)
    assert len(forwarded) == 2 * count, "equal weights share theirs"
    assert not np.array_equal(first.transform(texts), second.transform(texts))


def test_weights_that_nobody_can_tell_are_not_kept(
    backbone_folders: dict[str, Path], data: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, labels = data[0], (data[1] > 2).astype(int)
    monkeypatch.setattr("glot.extract.held.memory_sha256", lambda model: None)  # as of weights that are offloaded
    fitted = GlotClassifier(held(backbone_folders["bert"]), cache=tmp_path / "cache", **SMALL)
    with pytest.warns(UserWarning, match="cache=.* is not used"):
        fitted.fit(texts, labels)
    assert not (tmp_path / "cache").exists()
    with pytest.warns(UserWarning, match="is not used"):
        assert fitted.predict(texts).shape == (48,)


def test_bars_are_drawn_where_somebody_looks_and_not_at_verbose_0(
    classifier: Callable, data: tuple, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    texts, labels = data[0], (data[1] > 2).astype(int)
    classifier().fit(texts, labels).predict(texts)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr("glot.inference.bars.somebody_looks", lambda: True)
    monkeypatch.setattr("glot.inference.bars.DELAY", 0.0)
    classifier(verbose=0).fit(texts, labels).predict(texts)
    assert capsys.readouterr() == ("", "")
    classifier(verbose=1).fit(texts, labels).predict(texts)
    shown = capsys.readouterr().err
    assert all(word in shown for word in ("tokens", "training", "texts", "48/48"))


def test_bars_are_drawn_in_a_terminal(classifier: Callable, data: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real one: what it shows is read at its other end."""
    texts, labels = data[0], (data[1] > 2).astype(int)
    monkeypatch.setattr("glot.inference.bars.DELAY", 0.0)
    for verbose, words in ((0, ()), (1, ("tokens", "training", "texts", "48/48"))):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))  # rows and columns
        with os.fdopen(theirs, "w") as terminal, ThreadPoolExecutor(1) as reader:
            shown = reader.submit(read_terminal, ours)
            monkeypatch.setattr(sys, "stderr", terminal)
            classifier(verbose=verbose).fit(texts, labels).predict(texts)
            terminal.write(END)
            terminal.flush()
            screen = shown.result(60)
        assert [word for word in words if word not in screen] == [], screen
        assert bool(words) or screen == END


END = "the end"


def read_terminal(descriptor: int) -> str:
    """What was written to a terminal until its end."""
    found = b""
    while not found.endswith(END.encode()):
        found += os.read(descriptor, 2**12)
    os.close(descriptor)
    return found.decode()
