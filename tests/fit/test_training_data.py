"""Few examples: what is too little to learn from is told in one line, before anything is made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from glot.errors import UsageError
from glot.fit.run import FitOptions, finish_runs, make_configs, prepare_runs
from glot.fit.sweep import make_candidates
from glot.store.example_set import ExampleSet
from glot.store.layout import Manifest
from glot.store.plan import Plan
from glot.store.reader import Cache

MakeCache = Callable[..., Path]
FEW = {"device": "cpu", "epochs": 2, "select": "holdout"}


@pytest.fixture
def cache_of(make_fit_cache: MakeCache) -> Callable[..., Cache]:
    """A cache whose training examples have exactly these labels."""

    def make(*labels: int, target: str = "classes", validation: bool = True) -> Cache:
        sets = ("validation",) if validation else ()
        cache = Cache(make_fit_cache(train=len(labels), validation=4, target=target, shards=1, validation_sets=sets))
        task = cache.examples_entry("train").task
        examples = cache.examples("train")
        cache.add_examples("train", ExampleSet(examples.index, examples.text_id, None, np.asarray(labels)), task)
        return cache

    return make


@pytest.mark.parametrize("options", [{}, {"max_steps": 3}])
def test_one_example_leaves_nothing_beside_a_holdout(cache_of: Callable[..., Cache], options: dict) -> None:
    given = FitOptions(device="cpu", select="holdout", **options)
    with pytest.raises(UsageError, match=r"too few for --select holdout: pass --select last") as caught:
        make_configs(cache_of(1), given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("labels", [(0, 1), (1, 1), (0, 0, 0, 0)])
def test_what_a_holdout_leaves_must_have_two_classes(cache_of: Callable[..., Cache], labels: tuple[int, ...]) -> None:
    cache = cache_of(*labels)
    with pytest.raises(UsageError, match="less the 1 that --select holdout keeps aside are all of one class"):
        make_configs(cache, FitOptions(**FEW))
    with pytest.raises(UsageError, match="are all of one class"):
        make_candidates(cache, FitOptions(**FEW), {"tau": (0.3, 0.6)})


@pytest.mark.parametrize("select", ["validation", "last"])
def test_one_class_is_nothing_to_learn(cache_of: Callable[..., Cache], select: str) -> None:
    with pytest.raises(UsageError, match="are all of one class: there is nothing to learn"):
        make_configs(cache_of(1, 1, 1), FitOptions(device="cpu", select=select))


@pytest.mark.parametrize(
    ("labels", "target"), [((0, 1, 0, 1), "classes"), ((1.0, 4.0), "score"), ((2.0, 2.0), "score")]
)
def test_the_least_that_can_be_learnt_from_is_learnt_from(
    make_fit_cache: MakeCache, tmp_path: Path, labels: tuple, target: str
) -> None:
    """Whatever the seed: an example or more to train on, another that chooses the epoch."""
    folder = make_fit_cache(train=len(labels), validation=1, target=target, shards=1)
    manifest = Manifest.load(folder)
    plan = Plan(folder, manifest.plan.data)
    old = Cache(folder).examples("train")
    examples = ExampleSet(old.index, old.text_id, None, np.asarray(labels))
    data = examples.save(folder / "examples/train-2.h5")
    entry = manifest.examples["train"]
    fields = {**vars(entry), "fingerprint": examples.fingerprint(plan.hashes()), "data": data}
    manifest.examples["train"] = type(entry)(**fields)
    manifest.save(folder)
    configs = make_configs(Cache(folder), FitOptions(**FEW, seeds=(0, 1)))
    prepare_runs(configs, tmp_path / "run")
    for result in finish_runs(tmp_path / "run").values():
        assert list(result.best) == ["holdout", "validation"]
