"""Presets: several settings under one name, each of which an option overrides; what is published stays the default."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from glot.errors import UsageError
from glot.fit.options import setting_difference
from glot.fit.presets import select_of, with_preset
from glot.fit.run import FitOptions, make_configs
from glot.inference.classifier import GlotClassifier
from glot.registry.tasks import find_task
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec

MakeCache = Callable[..., Path]


def config_of(folder: Path, **options: object):
    return make_configs(Cache(folder), FitOptions(device="cpu", **options))[0]


def test_published_is_the_default_and_adds_nothing(make_fit_cache: MakeCache) -> None:
    folder = make_fit_cache(num_texts=2)
    config = config_of(folder)
    assert config == config_of(folder, preset="published")
    assert (config.train.start, config.pooler.pair_features, config.pooler.mixed_layers) == ("random", "concat", 0)


def test_strong_is_a_mix_begun_at_the_regression(make_fit_cache: MakeCache) -> None:
    config = config_of(make_fit_cache(num_texts=2), preset="strong")
    assert config.layers == (1, 2)
    assert config.train.start == "regression"
    assert config.pooler.pair_features == "full"  # nobody knows whether its pairs are symmetric


def test_an_option_overrides_it(make_fit_cache: MakeCache) -> None:
    folder = make_fit_cache(num_texts=2)
    given = {"start": "random", "lr": 3e-4, "epochs": 2, "pair_features": "concat", "backbone_layer": 1}
    config = config_of(folder, preset="strong", **given)
    assert (config.train.start, config.train.lr, config.train.epochs) == ("random", 3e-4, 2)
    assert (config.pooler.pair_features, config.layers) == ("concat", (1,))
    assert config_of(folder, preset="strong", mix=False).layers == (2,)
    assert config_of(folder, preset="strong", max_steps=5).train.epochs == 1  # as many as the steps take
    assert config_of(folder, preset="strong", pooler="mlp").train.start == "random"  # which holds no mean


def test_any_pooler_goes_with_a_mix(make_fit_cache: MakeCache) -> None:
    """So that one sweep compares them: a mix trains, and no regression on the mean is a beginning for one token."""
    folder = make_fit_cache()
    for pooler, start in (("glot", "regression"), ("mean", "regression"), ("cls", "random"), ("max", "random")):
        config = config_of(folder, preset="strong", pooler=pooler)
        assert (config.train.start, config.pooler.mixed_layers) == (start, 2), pooler
        assert setting_difference(config, FitOptions(preset="strong", pooler=pooler)) is None
    with pytest.raises(UsageError, match="--start regression: vectors of cls"):
        config_of(folder, preset="strong", pooler="cls", start="regression")


@pytest.mark.parametrize(
    ("examples", "chosen", "last"),
    [
        # 2 √examples steps of 32: 8, 16 and 28 of them
        (16, (1e-3, "linear", 8), (1e-3, "linear", 8)),
        (64, (1e-3, "linear", 8), (1e-3, "linear", 8)),
        (200, (1e-3, "linear", 4), (1e-3, "linear", 4)),
        (400, (2e-4, "constant", 3), (2e-4, "constant", 3)),
        (2000, (1e-3, "constant", 6), (1e-3, "constant", 4)),
    ],
)
def test_the_number_of_examples_decides_how_fast_and_long_it_trains(
    make_fit_cache: MakeCache, examples: int, chosen: tuple, last: tuple
) -> None:
    states, task = Cache(make_fit_cache()).manifest.states, find_task("sst2").spec
    for select, expected in (("validation", chosen), ("last", last)):
        found = with_preset(FitOptions(preset="strong", select=select), task, states, examples)
        assert (found["lr"], found["schedule"], found["epochs"]) == expected
        assert found["averaging"] == ("polynomial" if examples == 2000 else "none")
    few = with_preset(FitOptions(preset="strong", batch_size=8), task, states, 64)
    assert few["epochs"] == 2  # sixteen steps still
    assert with_preset(FitOptions(preset="strong", schedule="cosine"), task, states, 64)["schedule"] == "cosine"


def test_scores_train_without_the_mean_of_the_weights(make_fit_cache: MakeCache) -> None:
    """And many of them with a tenth kept aside, which chooses the epoch."""
    states, pairs, one = Cache(make_fit_cache()).manifest.states, find_task("stsb").spec, TaskSpec("one", 1, "score")
    for task, lr in ((pairs, 2e-4), (one, 1e-3)):
        for select, epochs in (("holdout", 6), ("last", 3)):
            found = with_preset(FitOptions(preset="strong", select=select), task, states, 2000)
            assert (found["lr"], found["epochs"], found["averaging"]) == (lr, epochs, "none")
        assert [select_of(task, count) for count in (1999, 2000)] == ["last", "holdout"]
    assert select_of(find_task("sst2").spec, 100_000) == "last"


def test_what_the_data_decides(make_fit_cache: MakeCache) -> None:
    """One layer is no mix; symmetric tasks get symmetric features, scores the published cosine."""
    states = Cache(make_fit_cache()).manifest.states
    strong = FitOptions(preset="strong")
    expected = {"mrpc": "symmetric", "qqp": "symmetric", "rte": "full", "sst2": None, "stsb": None}
    for name, features in expected.items():
        found = with_preset(strong, find_task(name).spec, states, 5000).given
        assert (found.get("pair_features"), found["mix"]) == (features, True)
    assert "mix" not in with_preset(strong, find_task("sst2").spec, replace(states, layers=(2,)), 5000).given
    with pytest.raises(UsageError, match="--preset strong begins at a regression on labels"):
        with_preset(strong, TaskSpec("pairs", 2, "contrastive"), states, 5000)


def test_a_run_of_a_preset_is_the_same_when_it_is_asked_for_again(make_fit_cache: MakeCache) -> None:
    folder = make_fit_cache()
    options = FitOptions(device="cpu", preset="strong")
    assert setting_difference(make_configs(Cache(folder), options)[0], options) is None


def test_the_command_says_what_is_in_force(glot: Callable[..., tuple], extracted: Path) -> None:
    code, out, err = glot("fit", "--cache", extracted, "--preset", "strong", "--epochs", 1, "--out", "run")
    assert code == 0, err
    assert out.splitlines()[0].startswith(
        "preset strong: layer 2 alone (of a cache of `extract --layers all` a mix); begun at the regression; 1 epoch "
        "at a learning rate of 0.001. An option overrides it"
    )
    assert glot("fit", "--cache", extracted, "--preset", "best")[0] == 2


def test_the_estimator_takes_it(backbone_folders: dict[str, Path]) -> None:
    texts, labels = ["rain falls softly", "a dog barks"] * 8, [0, 1] * 8
    model = GlotClassifier(backbone_folders["bert"], preset="strong", epochs=1, hidden=4).fit(texts, labels)
    assert model.config_.layers == (0, 1, 2)
    assert (model.config_.train.start, model.config_.train.lr, model.config_.train.epochs) == ("regression", 1e-3, 1)
    assert model.config_.train.schedule == "linear"
    one = GlotClassifier(backbone_folders["bert"], preset="strong", mix=False, epochs=1, hidden=4).fit(texts, labels)
    assert one.config_.layers == (2,)
