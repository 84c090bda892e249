"""GlotClassifier with scikit-learn's own tools: cloned, pickled, cross-validated, searched, in pipelines."""

from __future__ import annotations

import fcntl
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from glot import GlotClassifier
from glot.errors import FaultError, UsageError
from glot.extract.backbone import load_backbone
from glot.extract.options import ExtractOptions
from glot.extract.source import resolve_model
from glot.inference.text_cache import open_with_texts
from glot.store.reader import Cache

try:
    import pandas as pd
except ImportError:
    pd = None

MakeClassifier = Callable[..., GlotClassifier]
needs_pandas = pytest.mark.skipif(pd is None, reason="pandas is not installed")


@pytest.fixture(scope="module")
def data() -> tuple[list[str], list[str]]:
    """Distinct texts: one with "dog" is animal, one with "river" is water."""
    rng = np.random.default_rng(0)
    words = ["rain", "falls", "softly", "over", "the", "old", "town", "in", "autumn", "books", "about", "ships"]
    found: dict[str, str] = {}
    for row in range(200):
        word, label = [("dog", "animal"), ("river", "water")][row % 2]
        text = " ".join(rng.permutation([*rng.choice(words, rng.integers(1, 4)), word]))
        found[text] = label
    return list(found)[:80], list(found.values())[:80]


@pytest.fixture
def make(backbone_folders: dict[str, Path]) -> MakeClassifier:
    def make_classifier(family: str = "bert", **settings: object) -> GlotClassifier:
        small = {"max_tokens": 24, "hidden": 16, "gnn_layers": 1, "lr": 1e-2, "epochs": 8, "device": "cpu"}
        return GlotClassifier(str(backbone_folders[family]), **{**small, **settings})

    return make_classifier


def test_it_learns_string_labels_and_predicts_them(make: MakeClassifier, data: tuple) -> None:
    texts, labels = data
    fitted = make(epochs=20).fit(texts, labels)
    assert fitted.classes_.tolist() == ["animal", "water"]
    assert fitted.score(texts, labels) > 0.75  # of twenty seeds the worst has 0.96
    assert set(fitted.predict(texts)) == {"animal", "water"}
    proba, decision = fitted.predict_proba(texts), fitted.decision_function(texts)
    assert np.allclose(proba.sum(axis=1), 1, atol=1e-6)
    assert np.allclose(1 / (1 + np.exp(-decision)), proba[:, 1], atol=1e-6)
    assert (fitted.predict(texts) == fitted.classes_[proba.argmax(axis=1)]).all()
    assert not hasattr(fitted, "n_features_in_")


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("pooler", ["glot", "mean", "adapool"])
def test_three_classes_of_numbers_and_any_pooler(make: MakeClassifier, data: tuple, family: str, pooler: str) -> None:
    texts = data[0]
    labels = np.arange(len(texts)) % 3 * 10 - 10
    fitted = make(family, pooler=pooler, epochs=1).fit(texts, labels)
    assert fitted.classes_.tolist() == [-10, 0, 10]
    assert fitted.decision_function(texts[:5]).shape == fitted.predict_proba(texts[:5]).shape == (5, 3)
    assert fitted.predict(texts[:5]).dtype == fitted.classes_.dtype
    assert len(fitted.get_feature_names_out()) == fitted.transform(texts[:5]).shape[1]


@pytest.mark.parametrize(
    "kind",
    [
        np.asarray,
        lambda x: np.asarray(x, dtype=object),
        pytest.param(lambda x: pd.Series(x, index=range(7, 7 + len(x))), marks=needs_pandas, id="Series"),
    ],
)
def test_lists_arrays_and_series_are_the_same_to_it(make: MakeClassifier, data: tuple, kind: Callable) -> None:
    texts, labels = data
    expected = make(epochs=1).fit(texts, labels).predict_proba(texts)
    assert np.array_equal(make(epochs=1).fit(kind(texts), kind(labels)).predict_proba(kind(texts)), expected)


@pytest.mark.parametrize(
    ("X", "error"),
    [
        (None, ValueError),
        ("one text", ValueError),
        ([], ValueError),
        ([["a"], ["b"]], ValueError),
        (np.array([["a", "b", "c"], ["d", "e", "f"]]), ValueError),
        pytest.param(
            lambda: pd.DataFrame({"id": [1, 2], "text": ["a", "b"]}), TypeError, marks=needs_pandas, id="DataFrame"
        ),
        (np.zeros((2, 3)), ValueError),
        (np.zeros((2, 2, 2)), ValueError),
        ([1.0, 2.0], TypeError),
        (["a", None], TypeError),
        pytest.param(lambda: pd.Series(["a", np.nan]), TypeError, marks=needs_pandas, id="Series"),
        ({"a": 1, "b": 2}, ValueError),
    ],
)
def test_what_is_no_text_is_refused(make: MakeClassifier, data: tuple, X: object, error: type[Exception]) -> None:
    X = X() if callable(X) else X
    with pytest.raises(error, match="X "):
        make().fit(X, ["x", "y"])
    fitted = make(epochs=1).fit(data[0][:8], data[1][:8])
    with pytest.raises(error, match="X "):
        fitted.predict(X)


@pytest.mark.parametrize(
    ("y", "match"),
    [
        (["x", "x"], r"one class only \('x'\)"),
        (["x", "y", "x"], "inconsistent numbers of samples"),
        ([0.5, 1.7], "continuous"),
        ([[0, 2], [1, 0]], "1d array"),
        (None, "y is None"),
        (np.array(["x", None], dtype=object), "None"),
    ],
)
def test_what_are_no_labels_is_refused(make: MakeClassifier, y: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        make().fit(["a", "b"], y)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("tau", 3), ("pooler", "medoid"), ("epochs", 0), ("device", "tpu9"), ("class_weight", {0: 2})],
)
def test_settings_out_of_range_are_told_in_fit(make: MakeClassifier, data: tuple, setting: str, value: object) -> None:
    unfit = make(**{setting: value})
    with pytest.raises(UsageError, match=setting.replace("_", ".")):
        unfit.fit(*data)


def test_it_is_cloned_without_what_it_learnt(make: MakeClassifier, data: tuple) -> None:
    fitted = make(tau=0.3, pooler="glot").fit(*data)
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    for method in ("predict", "predict_proba", "decision_function", "transform"):
        with pytest.raises(NotFittedError):
            getattr(copy, method)(data[0])
    assert copy.set_params(tau=0.8).tau == 0.8


def test_the_same_random_state_gives_the_same_bits(make: MakeClassifier, data: tuple) -> None:
    texts, labels = data
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = make(random_state=3).fit(texts, labels).predict_proba(texts)
    assert torch.equal(torch.get_rng_state(), before), "the caller's own random numbers were touched"
    assert np.array_equal(make(random_state=3).fit(texts, labels).predict_proba(texts), first)
    assert not np.array_equal(make(random_state=4).fit(texts, labels).predict_proba(texts), first)
    generator = np.random.RandomState(0)
    drawn = [make(random_state=generator).fit(texts, labels).predict_proba(texts) for _ in range(2)]
    assert not np.array_equal(*drawn)


def test_balanced_class_weights_bring_out_the_rare_class(make: MakeClassifier, data: tuple) -> None:
    texts, labels = data
    rare = [place for place, label in enumerate(labels) if label == "water"][:4]
    kept = rare + [place for place, label in enumerate(labels) if label == "animal"]
    few = [texts[place] for place in kept], [labels[place] for place in kept]
    settings = {"pooler": "mean", "epochs": 3}
    plain, balanced = make(**settings).fit(*few), make(**settings, class_weight="balanced").fit(*few)
    assert balanced.config_.train.class_weights == "balanced"
    share = [fitted.predict_proba(texts)[:, 1].mean() for fitted in (plain, balanced)]
    assert share[1] > share[0]  # of twenty seeds, by 0.08 at least


def test_validation_examples_choose_the_epoch(make: MakeClassifier, data: tuple) -> None:
    fitted = make(validation_fraction=0.25, epochs=3).fit(*data)
    assert (fitted.config_.train.select, set(fitted.config_.data)) == ("validation", {"train", "validation"})
    whole = make(epochs=3).fit(*data)
    assert (whole.config_.train.select, set(whole.config_.data), whole.n_iter_) == ("last", {"train"}, 3)


def test_a_pickle_holds_the_head_and_no_backbone(make: MakeClassifier, data: tuple, tmp_path: Path) -> None:
    texts, labels = data
    fitted = make().fit(texts, labels)
    proba = fitted.predict_proba(texts)
    content = pickle.dumps(fitted)
    assert not any(name in content for name in (b"torch", b"transformers", b"tokenizers"))
    again = pickle.loads(content)
    assert np.array_equal(again.predict_proba(texts), proba)
    assert again.get_params() == fitted.get_params()


def test_another_backbone_than_that_of_the_fit_is_refused(
    make: MakeClassifier, data: tuple, make_backbone_folder: Callable[..., Path]
) -> None:
    fitted = make().fit(*data)
    fitted.set_params(backbone=str(make_backbone_folder("bert", seed=1)))
    with pytest.raises(UsageError, match="weights_sha256"):
        fitted.predict(data[0])


def test_it_stands_in_a_pipeline_as_its_end_and_in_the_middle(make: MakeClassifier, data: tuple) -> None:
    texts, labels = data
    lower = FunctionTransformer(lambda X: [text.lower() for text in X])
    shouted = [text.upper() for text in texts]
    end = make_pipeline(lower, make()).fit(shouted, labels)
    assert np.array_equal(end.predict_proba(shouted), make().fit(texts, labels).predict_proba(texts))
    middle = make_pipeline(make(), LogisticRegression()).fit(texts, labels)
    assert np.array_equal(middle.predict(texts), middle[1].predict(middle[0].transform(texts)))


@needs_pandas
def test_its_vectors_are_a_data_frame_where_asked_for(make: MakeClassifier, data: tuple) -> None:
    fitted = make(epochs=1).fit(*data).set_output(transform="pandas")
    assert fitted.transform(data[0]).columns[0] == "glotclassifier0"


def test_a_cache_forwards_each_text_once_whatever_fold_it_is_in(
    make: MakeClassifier, data: tuple, tmp_path: Path, forwarded: list
) -> None:
    texts, labels = data
    kept = make(cache=tmp_path / "cache", epochs=1)
    cross_val_score(kept, texts, labels, cv=3, error_score="raise")
    assert len(forwarded) == len(set(forwarded)) == len(set(texts))
    kept.set_params(pooler="mean").fit(texts, labels).predict(texts)
    assert len(forwarded) == len(set(texts))
    kept.predict(["something else", *texts, "something else"])
    assert len(forwarded) == len(set(texts)) + 1
    cross_val_score(make(epochs=1), texts, labels, cv=3, error_score="raise")
    assert len(forwarded) == 4 * len(set(texts)) + 1, "without a cache each fold forwards its texts"


def test_a_cache_that_several_grow_at_once_forwards_each_text_once(
    backbone_folders: dict[str, Path], data: tuple, tmp_path: Path, forwarded: list
) -> None:
    backbone, texts = load_backbone(resolve_model(str(backbone_folders["bert"])), device="cpu"), data[0]

    def grow(part: int) -> list[str]:
        cache, ids = open_with_texts(
            tmp_path, texts[part * 10 : part * 10 + 30], backbone, ExtractOptions(max_tokens=24)
        )
        return [cache.plan.texts(number, number + 1)[0] for number in ids.tolist()]

    with ThreadPoolExecutor(max_workers=4) as pool:
        grown = list(pool.map(grow, range(6)))
    assert grown == [texts[part * 10 : part * 10 + 30] for part in range(6)]
    assert len(forwarded) == len(set(forwarded)) == len(set(texts))


def test_a_cache_changes_answers_by_rounding_alone(make: MakeClassifier, data: tuple, tmp_path: Path) -> None:
    texts, labels = data
    fitted = make().fit(texts, labels)
    vectors, proba = fitted.transform(texts), fitted.predict_proba(texts)
    fitted.set_params(cache=tmp_path / "cache")
    assert np.allclose(fitted.transform(texts), vectors, atol=2e-3)
    assert np.allclose(fitted.predict_proba(texts[::-1]), proba[::-1], atol=2e-3)


def counting(classifier: GlotClassifier, log: Path) -> GlotClassifier:
    """A classifier that writes a line for each text that goes through the backbone, in whatever process."""

    class Counting(GlotClassifier):  # local: so it goes to other processes by value
        def _backbone(self) -> object:
            backbone = super()._backbone()
            if not hasattr(backbone, "log"):
                backbone.log, forward = True, backbone.hidden_states

                def spy(ids: torch.Tensor, mask: torch.Tensor, layers: tuple[int, ...]) -> list[torch.Tensor]:
                    with open(log, "a") as file:
                        fcntl.flock(file, fcntl.LOCK_EX)
                        file.writelines(f"{row[keep.bool()].tolist()}\n" for row, keep in zip(ids, mask, strict=True))
                    return forward(ids, mask, layers)

                backbone.hidden_states = spy
            return backbone

    return Counting(**classifier.get_params())


@pytest.mark.slow  # two processes that import transformers
def test_a_search_in_two_processes_forwards_each_text_once(make: MakeClassifier, data: tuple, tmp_path: Path) -> None:
    texts, labels = data
    log = tmp_path / "forwarded.txt"
    kept = counting(make(cache=str(tmp_path / "cache"), epochs=20), log)
    search = GridSearchCV(kept, {"tau": [0.1, 0.6, 0.9]}, cv=2, n_jobs=2, error_score="raise").fit(texts, labels)
    lines = log.read_text().splitlines()
    assert len(lines) == len(set(lines)) == len(set(texts))
    assert 0 <= search.best_score_ == search.cv_results_["mean_test_score"].max() <= 1
    assert np.array_equal(search.predict(texts), search.best_estimator_.predict(texts))


def test_an_interrupted_cache_is_finished_by_the_next(
    make: MakeClassifier, data: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glot.extract.worker import Worker

    texts, labels = data

    def die(worker: Worker) -> None:
        raise FaultError("the machine went away")

    kept = make(cache=tmp_path / "cache", epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(Worker, "run", die)
        with pytest.raises(FaultError):
            kept.fit(texts[:40], labels[:40])
    kept.fit(texts[40:], labels[40:])
    (folder,) = (path for path in (tmp_path / "cache").iterdir() if path.is_dir())
    assert len(Cache(folder).plan) == len(texts)


def test_a_cache_of_another_backbone_of_the_same_name_is_refused(
    make: MakeClassifier, data: tuple, tmp_path: Path, make_backbone_folder: Callable[..., Path]
) -> None:
    make(cache=tmp_path, epochs=1).fit(*data)
    other = make(cache=tmp_path, epochs=1).set_params(backbone=str(make_backbone_folder("bert", seed=1)))
    with pytest.raises(UsageError, match="weights_sha256"):
        other.fit(*data)
    make("llama", cache=tmp_path, epochs=1).fit(*data)
    make(cache=tmp_path, epochs=1, max_tokens=8, backbone_layer=1).fit(*data)
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 3


def test_pairs_in_one_prompt_are_the_texts_filled_by_hand(make: MakeClassifier, tmp_path: Path) -> None:
    words = ["rain", "falls", "softly", "over", "the", "old", "town"]
    rng = np.random.default_rng(0)
    pairs = [tuple(" ".join(rng.choice(words, rng.integers(1, 4))) for _ in range(2)) for _ in range(20)]
    labels = [int("rain" in text + text_b) for text, text_b in pairs]
    settings = {"epochs": 1, "pooler": "mean", "preset": "published", "max_tokens": 48}
    by_hand = make(**settings).fit([f"the dog {text} a cat {text_b}" for text, text_b in pairs], labels)
    expected = by_hand.transform([f"the dog {text} a cat {text_b}" for text, text_b in pairs])
    prompt = "the dog {text} a cat {text_b}"
    for cache in (None, tmp_path / "states"):
        fitted = make(prompt=prompt, cache=cache, **settings).fit(pairs, labels)
        np.testing.assert_allclose(fitted.transform(pairs), expected, rtol=1e-2, atol=2e-3)
        np.testing.assert_allclose(fitted.transform(np.array(pairs, dtype=object)), expected, rtol=1e-2, atol=2e-3)
        assert fitted.predict(pairs).shape == (20,)
    make(cache=tmp_path / "states", prompt="{text}, {text_b}", **settings).fit(pairs, labels)  # beside the other prompt
    assert cross_val_score(make(prompt=prompt, **settings), pairs, labels, cv=2).shape == (2,)
    if pd is not None:
        frame = pd.DataFrame(pairs, columns=["a", "b"])
        np.testing.assert_allclose(fitted.transform(frame), expected, rtol=1e-2, atol=2e-3)


def test_what_is_no_pair_is_told(make: MakeClassifier) -> None:
    pairs = make(prompt="{text} {text_b}")
    for given in (["rain", "falls"], [("rain", "falls", "softly")], np.zeros((2, 3)), "rain", []):
        with pytest.raises(ValueError, match="pair"):
            pairs.fit(given, [0, 1])
    with pytest.raises(ValueError, match=r"whose first texts are y itself: leave the column .* X\[\['text'\]\]"):
        pairs.fit([("wet", "rain falls"), ("dry", "the sun")], ["wet", "dry"])  # a table of labels and texts
    with pytest.raises(TypeError, match="pairs of texts"):
        pairs.fit([("rain", 1), ("falls", "softly")], [0, 1])
    with pytest.raises(UsageError, match=r"must hold \{text\} once"):
        make(prompt="{text_b}").fit([("rain", "falls"), ("over", "town")], [0, 1])
