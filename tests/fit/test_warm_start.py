"""Training that begins at the regression on the mean: equal to it at first, and never the worse for having trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, RidgeCV

from glot.errors import Stopped, UsageError
from glot.fit import learner, regression, warm_start
from glot.fit.head_model import HeadModel, pool_texts, predict
from glot.fit.learner import Job, Learner
from glot.fit.regression import PENALTIES
from glot.fit.result import FitResult
from glot.fit.run import FitOptions, finish_runs, make_configs, prepare_runs
from glot.fit.run_folder import RunConfig, load_tensors
from glot.fit.train import fit_heads
from glot.fit.training_data import open_data, open_source, open_states
from glot.fit.warm_start import start_at_regression
from glot.nn.heads import features_of
from glot.store.example_set import ExampleSet
from glot.store.reader import Cache

MakeCache = Callable[..., Path]
POOLERS = [
    {"pooler": "glot"},
    {"pooler": "glot", "gnn_layers": 0},
    {"pooler": "glot", "readout": "mean", "graph": "chain"},
    {"pooler": "adapool"},
    {"pooler": "mean"},
]


class Opened:
    """A new head, its data and its states."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.config = make_configs(Cache(folder), FitOptions(device="cpu", **options))[0]
        self.cache = Cache(folder)
        self.states = open_states(self.cache, self.config)
        self.data = open_data(self.cache, self.config, self.states)
        self.learner = Learner(Job(self.config, Path("unused")), self.data)
        self.model: HeadModel = self.learner.model
        self.source = open_source(self.config, self.states, self.data, self.model)

    def begin(self) -> float:
        """Set the weights; returns the mean loss."""
        return start_at_regression(self.model, self.source, self.data.train, self.config.train.class_weights, {})

    def means(self) -> list[np.ndarray]:
        """(m, d) means of the training examples' first texts, and of their second ones, by a loop."""
        train: ExampleSet = self.data.train
        return [
            np.stack([self.states.gather(np.array([text])).states.double().mean(dim=0).numpy() for text in column])
            for column in train.text_columns
        ]

    def outputs(self) -> np.ndarray:
        """What the head makes of the training examples: (m, C) logits, or (m,) scaled scores."""
        ids, index = np.unique(np.concatenate(self.data.train.text_columns), return_inverse=True)
        with torch.no_grad():
            vectors = pool_texts(self.model.pooler, self.states, ids)
            columns = torch.from_numpy(index).chunk(len(self.data.train.text_columns))
            return self.model.head(*(vectors[some] for some in columns)).double().numpy()


def standardised(x: np.ndarray) -> np.ndarray:
    return (x - x.mean(axis=0)) / x.std(axis=0)


@pytest.mark.parametrize("pooler", POOLERS, ids=lambda some: "-".join(map(str, some.values())))
@pytest.mark.parametrize("strength", [1e-3, 1e-2])
def test_the_first_logits_are_the_regressions(
    make_fit_cache: MakeCache, monkeypatch: pytest.MonkeyPatch, pooler: dict, strength: float
) -> None:
    """scikit-learn's own, on means made by a loop, whatever strength cross-validation chooses."""
    monkeypatch.setattr(regression, "STRENGTHS", (strength,))
    opened = Opened(make_fit_cache(), **pooler)
    loss = opened.begin()
    labels = opened.data.train.label
    x = standardised(opened.means()[0])
    expected = LogisticRegression(C=strength, max_iter=1000, tol=1e-8).fit(x, labels).decision_function(x)
    raw = opened.outputs()
    np.testing.assert_allclose(raw[:, 1] - raw[:, 0], expected, atol=5e-3)  # two solvers' stops, not the map
    log = np.log(np.exp(raw).sum(axis=1)) - raw[np.arange(len(labels)), labels]
    assert loss == pytest.approx(log.mean(), rel=1e-4)


@pytest.mark.parametrize("pooler", POOLERS, ids=lambda some: "-".join(map(str, some.values())))
def test_the_head_reads_the_mean_as_the_regression_does(make_fit_cache: MakeCache, pooler: dict) -> None:
    """The map itself, to rounding: its logits of the means of both texts, against those through the pooler."""
    opened = Opened(make_fit_cache(num_texts=2), pair_features="full", **pooler)
    known: dict = {}
    start_at_regression(opened.model, opened.source, opened.data.train, "none", known)
    ((weight, bias),) = (start.regression.line for start in known.values())
    a, b = opened.means()
    features = np.concatenate([a, b, abs(a - b), a * b], axis=1)
    np.testing.assert_allclose(opened.outputs(), features @ weight.T + bias, atol=1e-4)


@pytest.mark.parametrize("num_texts", [1, 2])
def test_scores_begin_at_ridge(make_fit_cache: MakeCache, num_texts: int) -> None:
    opened = Opened(make_fit_cache(target="score", num_texts=num_texts), pair_features="symmetric")
    opened.begin()
    given = [torch.from_numpy(some) for some in opened.means()]
    x = standardised(features_of("symmetric", *given).numpy())
    expected = RidgeCV(PENALTIES).fit(x, opened.data.train.label / 5).predict(x)
    np.testing.assert_allclose(opened.outputs(), expected, atol=1e-4)


def test_pairs_with_a_score_begin_at_the_cosine_of_their_means(make_fit_cache: MakeCache) -> None:
    opened = Opened(make_fit_cache(target="score", num_texts=2))
    opened.begin()
    a, b = opened.means()
    cosines = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(opened.outputs(), cosines, atol=1e-5)


@pytest.mark.parametrize("noise", [1, 2])
def test_a_mix_under_a_cosine_begins_near_the_layer_that_follows_the_scores(
    make_fit_cache: MakeCache, noise: int
) -> None:
    opened = Opened(make_fit_cache(target="score", num_texts=2, noise_layer=noise), mix=True)
    opened.begin()
    shares = opened.model.pooler.mix.weight.detach().softmax(dim=0).numpy()
    np.testing.assert_allclose(shares, [0.1, 0.9] if noise == 1 else [0.9, 0.1], atol=1e-6)


@pytest.mark.parametrize("noise", [1, 2])
def test_a_mix_under_a_regression_begins_near_the_layer_whose_regression_errs_least(
    make_fit_cache: MakeCache, monkeypatch: pytest.MonkeyPatch, noise: int
) -> None:
    """And at its regression; of few examples, where chance would choose, with all layers alike."""
    folder = make_fit_cache(noise_layer=noise)
    opened = Opened(folder, mix=True)
    opened.begin()
    assert opened.model.pooler.mix.weight.tolist() == [0, 0]
    monkeypatch.setattr(warm_start, "FEWEST", 2)
    known: dict = {}
    opened = Opened(folder, mix=True)
    start_at_regression(opened.model, opened.source, opened.data.train, "none", known)
    shares = opened.model.pooler.mix.weight.detach().softmax(dim=0).numpy()
    np.testing.assert_allclose(shares, [0.1, 0.9] if noise == 1 else [0.9, 0.1], atol=1e-6)
    again = Opened(folder, mix=True, tau=0.3)  # another head takes it over
    start_at_regression(again.model, again.source, again.data.train, "none", known)
    assert len(known) == 1
    np.testing.assert_allclose(again.outputs(), opened.outputs(), atol=1e-5)
    assert again.model.pooler.mix.weight.tolist() == opened.model.pooler.mix.weight.tolist()


def fit(folder: Path, out: Path, **options: object) -> FitResult:
    prepare_runs(make_configs(Cache(folder), FitOptions(device="cpu", start="regression", **options)), out)
    return finish_runs(out)[out]


def test_the_start_is_kept_where_no_epoch_is_better(
    make_fit_cache: MakeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores after each epoch are put in: worse than the start's. The head saved is the start's, and says so."""
    score = Learner._score

    def worse(self: Learner, source: object) -> tuple:
        scores, predictions = score(self, source)
        if self.start is not None:
            scores = {name: dict.fromkeys(found, 0.0) for name, found in scores.items()}
        return scores, predictions

    monkeypatch.setattr(Learner, "_score", worse)
    folder = make_fit_cache()
    result = fit(folder, tmp_path / "run", patience=2, epochs=9)
    assert (result.best_epoch, len(result.epochs)) == (0, 2)
    assert result.start is not None
    assert result.best == result.start.scores
    assert FitResult.load(tmp_path / "run") == result
    tensors, about = load_tensors(tmp_path / "run/head.safetensors")
    assert about["epoch"] == 0
    opened = Opened(folder)
    opened.begin()
    for name, tensor in opened.model.state_dict().items():
        torch.testing.assert_close(tensors[name], tensor)
    validation = opened.data.validation["validation"]
    expected = predict(opened.model, opened.source, validation, opened.data.lengths)
    assert (np.load(tmp_path / "run/predictions-validation.npy") == expected).all()


def test_an_epoch_that_is_better_is_kept(
    make_fit_cache: MakeCache, tmp_path: Path, put_in_scores: Callable[..., None]
) -> None:
    put_in_scores(validation=[1.5, 1.25])
    result = fit(make_fit_cache(), tmp_path / "run", epochs=2)
    assert (result.best_epoch, result.best["validation"]["accuracy"]) == (1, 1.5)


def test_a_stopped_fit_goes_on_to_the_same_bits(
    make_fit_cache: MakeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The regression is not made again, and its scores are remembered."""
    folder = make_fit_cache()
    whole = fit(folder, tmp_path / "whole")
    steps = iter(range(1000))
    prepare_runs(make_configs(Cache(folder), FitOptions(device="cpu", start="regression")), tmp_path / "broken")
    with pytest.raises(Stopped):
        finish_runs(tmp_path / "broken", should_stop=lambda: next(steps) == 17)

    def fail(*arguments: object) -> float:
        raise AssertionError("begun again")

    monkeypatch.setattr(learner, "start_at_regression", fail)
    result = finish_runs(tmp_path / "broken")[tmp_path / "broken"]
    assert (tmp_path / "whole/head.safetensors").read_bytes() == (tmp_path / "broken/head.safetensors").read_bytes()
    assert result.start is not None
    assert whole.start is not None
    assert result.start.scores == whole.start.scores
    assert result.best_epoch == whole.best_epoch


def test_a_sweep_makes_one_regression_for_all_its_heads(
    make_fit_cache: MakeCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    regress = warm_start.regress

    def counted(*arguments: object) -> object:
        made.append("one")
        return regress(*arguments)

    monkeypatch.setattr(warm_start, "regress", counted)
    cache = Cache(make_fit_cache())
    options = FitOptions(device="cpu", start="regression")
    configs = [make_configs(cache, options.but(tau=tau))[0] for tau in (0.3, 0.9)]
    jobs = [Job(config, tmp_path / str(number)) for number, config in enumerate(configs)]
    starts = [result.start for result in fit_heads(cache, jobs, tmp_path)]
    assert len(made) == 1
    assert starts[0] is not None
    assert starts[1] is not None
    assert starts[0].scores == starts[1].scores


def test_labels_of_one_class_or_with_a_class_of_one_example(make_fit_cache: MakeCache) -> None:
    """No strength can be cross-validated there; a class that train lacks is the least likely."""
    opened = Opened(make_fit_cache())
    train = opened.data.train
    for labels in (np.zeros(len(train), dtype=np.int64), (np.arange(len(train)) == 3).astype(np.int64)):
        opened.data = replace(opened.data, train=replace(train, label=labels))
        opened.begin()
        raw = opened.outputs()
        assert np.isfinite(raw).all()
        assert (raw[labels == 0].argmax(axis=1) == 0).all()


@pytest.mark.parametrize("settings", [{"pooler": "mlp"}, {"jk": "max"}, {"jk": "mean"}])
def test_a_vector_without_the_mean_is_refused(make_fit_cache: MakeCache, settings: dict) -> None:
    cache = Cache(make_fit_cache())
    with pytest.raises(UsageError, match=r"--start regression: vectors of .* do not hold the mean of the states"):
        make_configs(cache, FitOptions(device="cpu", start="regression", **settings))


def test_a_run_of_before_says_nothing_of_it_and_began_at_random(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    """Its config lacks the names: the published features, random weights."""
    config = make_configs(Cache(make_fit_cache()), FitOptions(device="cpu"))[0]
    config.save(tmp_path)
    path = tmp_path / "config.json"
    lines = [line for line in path.read_text().splitlines() if '"start"' not in line and '"pair_features"' not in line]
    path.write_text("\n".join(lines))
    assert RunConfig.load(tmp_path) == config
    assert (config.train.start, config.pooler.pair_features) == ("random", "concat")
