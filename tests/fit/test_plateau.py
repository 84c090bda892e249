"""The published runs' schedule on pairs: a tenth of the learning rate after 50 steps without a lower loss."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from unittest import mock

import pytest
import torch

from glot.errors import Stopped
from glot.fit.config import FitOptions
from glot.fit.learner import Learner
from glot.fit.options import setting_difference
from glot.fit.run import make_configs
from glot.fit.schedule import StepPlateau
from glot.fit.train import fit_head
from glot.store.reader import Cache

MakeCache = Callable[..., Path]
OPTIONS = {"device": "cpu", "hidden": 4, "lr": 1e-2, "batch_size": 4, "max_steps": 70}


def rates_of(losses: list[float], state: dict | None = None) -> tuple[list[float], dict]:
    """The rate of each step whose loss is given, and the state at the end."""
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    plateau, rates = StepPlateau(optimizer), []
    if state is not None:
        plateau.restore(state)
    for loss in losses:
        rates.append(optimizer.param_groups[0]["lr"])
        plateau.step(loss)
    return rates, plateau.state()


def test_the_rate_falls_to_a_tenth_after_fifty_stuck_steps() -> None:
    rates, _ = rates_of([3.0, 2.0, *[2.5] * 120, 1.0, 1.0])
    assert rates[:53] == [1.0] * 53  # the best is step 2; 50 worse ones are borne with, and one more is too many
    assert rates[53:104] == [0.1] * 51
    assert rates[104:] == pytest.approx([0.01] * (len(rates) - 104))
    assert rates_of([5.0 - step / 100 for step in range(200)])[0] == [1.0] * 200


def test_it_goes_on_from_a_checkpoint() -> None:
    losses = [3.0, 2.0, *[2.5] * 120]
    for cut in (1, 30, 52, 60, 110):
        first, state = rates_of(losses[:cut])
        assert first + rates_of(losses[cut:], state)[0] == rates_of(losses)[0]


def plateaus(config: object, folder: Path, cache: Cache, **options: object) -> list[float]:
    """The rates of a fit's steps."""
    rates, update = [], Learner.update

    def spied(self: Learner, *given: object) -> None:
        update(self, *given)
        rates.append(self.optimizer.param_groups[0]["lr"])

    with mock.patch.object(Learner, "update", spied), mock.patch("glot.fit.schedule.PLATEAU_STEPS", 5):
        fit_head(cache, config, folder, **options)
    return rates


@pytest.fixture
def pairs(glot: Callable[..., tuple], backbone_folders: dict[str, Path], tmp_path: Path) -> Cache:
    import json

    words = ["rain", "falls", "softly", "over", "the", "old", "town", "in", "autumn", "books", "about", "ships"]
    rows = [{"query": words[i % 12], "positive": f"{words[i % 12]} {words[(i * 5 + 1) % 12]}"} for i in range(40)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    code, _, err = glot("extract", "--model", backbone_folders["bert"], "--pairs", "pairs.jsonl", "--max-tokens", 16)
    assert code == 0, err
    return Cache(next(path.parent for path in Path("cache").rglob("manifest.json")))


def test_on_pairs_a_plateau_is_one_of_steps(pairs: Cache, tmp_path: Path) -> None:
    options = FitOptions(**OPTIONS, schedule="plateau")
    (config,) = make_configs(pairs, options)
    assert config.train.schedule == "plateau-steps"
    assert setting_difference(config, options) is None
    rates = plateaus(config, tmp_path / "whole", pairs)
    assert len(rates) == 70
    ratios = [later / sooner for sooner, later in pairwise(rates)]
    assert sorted(set(rates), reverse=True) == list(dict.fromkeys(rates))
    assert {round(ratio, 6) for ratio in ratios} <= {1.0, 0.1}


def test_a_stopped_fit_goes_on_with_its_plateau(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    """On labels too, where it is asked for by its name."""
    cache = Cache(make_fit_cache())
    (config,) = make_configs(cache, FitOptions(**OPTIONS, schedule="plateau-steps"))
    whole = plateaus(config, tmp_path / "whole", cache)
    assert len(set(whole)) > 1  # of batches of four, five in a row without a better one come soon
    steps = iter(range(1000))
    with pytest.raises(Stopped):
        plateaus(config, tmp_path / "broken", cache, should_stop=lambda: next(steps) == 40)
    plateaus(config, tmp_path / "broken", cache)
    heads = [(tmp_path / name / "head.safetensors").read_bytes() for name in ("whole", "broken")]
    assert heads[0] == heads[1]


def test_on_labels_a_plateau_counts_epochs(make_fit_cache: MakeCache) -> None:
    (config,) = make_configs(Cache(make_fit_cache()), FitOptions(**OPTIONS, schedule="plateau"))
    assert config.train.schedule == "plateau"
