"""Training over a made cache: it learns, repeats, resumes, streams, and leaves a run that can be used again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glot.errors import FaultError, Stopped, UsageError
from glot.fit.metrics import compute_metrics
from glot.fit.result import Epoch, FitResult, best_published
from glot.fit.run import FitOptions, finish_runs, make_configs, prepare_runs
from glot.fit.run_folder import RunConfig, load_tensors
from glot.fit.states import MemoryStates, StreamedStates, epoch_order
from glot.fit.train import fit_head
from glot.inference.predictions import evaluate_head, write_predictions
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec

MakeCache = Callable[..., Path]


def fit(folder: Path, out: Path, **options: object) -> FitResult:
    cache = Cache(folder)
    config = make_configs(cache, FitOptions(device="cpu", **options))[0]
    return fit_head(cache, config, out)


# What is learnt here, each of twenty seeds learnt to an accuracy (or a rank correlation) far above the floor.


@pytest.mark.parametrize("pooler", ["glot", "mean", "max", "adapool", "mlp"])
def test_a_learnable_task_is_learnt(make_fit_cache: MakeCache, tmp_path: Path, pooler: str) -> None:
    result = fit(make_fit_cache(train=192), tmp_path / "run", pooler=pooler, epochs=12)
    assert result.best["validation"]["accuracy"] > 0.8
    assert result.epochs[-1].loss < 0.6 * result.epochs[0].loss


@pytest.mark.parametrize(
    ("num_texts", "target", "floor"),
    [(2, "classes", 0.85), (2, "score", 0.6), (1, "score", 0.6)],  # chance: 0.75, 0, 0
)
def test_every_kind_of_task_is_learnt(
    make_fit_cache: MakeCache, tmp_path: Path, num_texts: int, target: str, floor: float
) -> None:
    """Learnt is what holds for texts and pairs that neither trained nor chose the epoch: the last one is kept."""
    folder = make_fit_cache(num_texts=num_texts, target=target, train=160)
    jk = "mean" if num_texts == 1 else "cat"
    result = fit(folder, tmp_path / "run", epochs=8, jk=jk, select="last")
    assert next(iter(result.last["validation"].values())) > floor
    scores = evaluate_head(tmp_path / "run", Cache(folder), "validation", "cpu", "dense")
    assert next(iter(scores.values())) > floor


def test_the_same_seed_gives_the_same_bits(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    folder = make_fit_cache()
    first, second = fit(folder, tmp_path / "a"), fit(folder, tmp_path / "b")
    assert (tmp_path / "a/head.safetensors").read_bytes() == (tmp_path / "b/head.safetensors").read_bytes()
    assert [epoch.loss for epoch in first.epochs] == [epoch.loss for epoch in second.epochs]


def test_initialisation_and_order_have_seeds_of_their_own(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    folder = make_fit_cache()
    losses = {
        seeds: fit(folder, tmp_path / str(seeds), seeds=(seeds[0],), order_seed=seeds[1], epochs=1).epochs[0].loss
        for seeds in [(0, 0), (1, 0), (0, 1)]
    }
    assert len(set(losses.values())) == 3
    train = RunConfig.load(tmp_path / "(0, 1)").train
    assert (train.init_seed, train.order_seed) == (0, 1)


@pytest.mark.parametrize("stop_after", [5, 12, 13, 30])
def test_a_stopped_fit_goes_on_to_the_same_bits(make_fit_cache: MakeCache, tmp_path: Path, stop_after: int) -> None:
    folder = make_fit_cache()
    whole = fit(folder, tmp_path / "whole")
    config = make_configs(Cache(folder), FitOptions(device="cpu"))
    prepare_runs(config, tmp_path / "broken")
    steps = iter(range(1000))
    with pytest.raises(Stopped, match="--resume"):
        finish_runs(tmp_path / "broken", should_stop=lambda: next(steps) + 1 >= stop_after)
    assert not (tmp_path / "broken/metrics.json").exists()
    result = finish_runs(tmp_path / "broken")[tmp_path / "broken"]
    assert (tmp_path / "whole/head.safetensors").read_bytes() == (tmp_path / "broken/head.safetensors").read_bytes()
    assert [epoch.loss for epoch in result.epochs] == [epoch.loss for epoch in whole.epochs]
    assert [epoch.scores for epoch in result.epochs] == [epoch.scores for epoch in whole.epochs]


def test_several_seeds_have_a_folder_each_and_a_finished_one_is_kept(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    cache = Cache(make_fit_cache())
    prepare_runs(make_configs(cache, FitOptions(device="cpu", seeds=(3, 5), epochs=1)), tmp_path / "runs")
    first = finish_runs(tmp_path / "runs", cache)
    assert [run.name for run in first] == ["seed-3", "seed-5"]
    stamp = (tmp_path / "runs/seed-3/head.safetensors").stat().st_mtime_ns
    assert finish_runs(tmp_path / "runs", cache).keys() == first.keys()
    assert (tmp_path / "runs/seed-3/head.safetensors").stat().st_mtime_ns == stamp


def test_no_file_of_a_run_is_a_pickle(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    cache = Cache(make_fit_cache())
    prepare_runs(make_configs(cache, FitOptions(device="cpu")), tmp_path / "run")
    with pytest.raises(Stopped):
        finish_runs(tmp_path / "run", cache, should_stop=lambda: True)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["checkpoint.safetensors", "config.json"]
    finish_runs(tmp_path / "run", cache)
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    arrays = ["labels-validation.npy", "predictions-validation.npy"]
    assert names == ["config.json", "head.safetensors", arrays[0], "metrics.json", arrays[1]]
    labels, predictions = (np.load(tmp_path / "run" / name, allow_pickle=False) for name in arrays)
    best = FitResult.load(tmp_path / "run").best["validation"]
    assert compute_metrics(("accuracy",), predictions, labels) == {"accuracy": best["accuracy"]}
    # A safetensors file begins with the length of its JSON header.
    data = (tmp_path / "run/head.safetensors").read_bytes()
    assert "pooler.readout.project.weight" in json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def test_streamed_states_train_as_those_in_memory(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    folder = make_fit_cache(shards=6)
    for name, max_memory, window in (("memory", None, None), ("streamed", 0, 4)):
        result = fit(folder, tmp_path / name, epochs=6, max_memory=max_memory)
        assert RunConfig.load(tmp_path / name).train.window == window
        assert result.best["validation"]["accuracy"] > 0.8, name


def test_both_sources_of_states_give_the_same_batches(make_fit_cache: MakeCache) -> None:
    import torch

    cache = Cache(make_fit_cache())
    ids = np.asarray([7, 3, 120, 3, 8, 9])
    streamed = StreamedStates(cache, (2,), torch.device("cpu")).gather(ids)
    memory = MemoryStates(cache, (2,), np.arange(len(cache.plan)), torch.device("cpu")).gather(ids)
    assert torch.equal(streamed.states, memory.states)
    assert torch.equal(streamed.lengths, memory.lengths)


@pytest.mark.parametrize("window", [None, 1, 2, 3, 100])
def test_every_example_is_seen_once_an_epoch(window: int | None) -> None:
    home = np.repeat(np.arange(7), [5, 1, 9, 4, 4, 6, 2])
    first, second = epoch_order(home, 0, 1, window), epoch_order(home, 0, 2, window)
    assert sorted(first) == sorted(second) == list(range(31))
    assert first.tolist() != second.tolist()
    assert epoch_order(home, 0, 1, window).tolist() == first.tolist()


def test_a_window_shuffles_within_its_shards_only() -> None:
    home = np.repeat(np.arange(6), 4)
    shards = home[epoch_order(home, 0, 1, 2)].reshape(3, 8)  # three windows of two shards
    assert sorted(len(set(window)) for window in shards.tolist()) == [2, 2, 2]


@pytest.mark.parametrize(("examples", "shards", "window"), [(1, 1, 1), (31, 7, 2), (500, 300, 4), (500, 5, 100)])
def test_the_order_of_windows_is_that_of_its_definition(examples: int, shards: int, window: int) -> None:
    """Also where shards hold no example: window by window the examples of its shards, shuffled."""
    home = 3 * np.random.default_rng(1).integers(0, shards, examples)
    generator = np.random.default_rng([5, 2])
    there = generator.permutation(np.unique(home))
    groups = [there[start : start + window] for start in range(0, len(there), window)]
    expected = [generator.permutation(np.flatnonzero(np.isin(home, group))) for group in groups]
    assert epoch_order(home, 5, 2, window).tolist() == np.concatenate(expected).tolist()


# Which epoch is kept: on scores that are put in, so that it is known which of them is the best.


def kept_epoch(run: Path) -> dict:
    return load_tensors(run / "head.safetensors")[1]


def test_the_epoch_with_the_best_score_is_kept(
    make_fit_cache: MakeCache, tmp_path: Path, put_in_scores: Callable
) -> None:
    put_in_scores(validation=[0.5, 0.7, 0.6, 0.7])
    result = fit(make_fit_cache(), tmp_path / "run", epochs=4)
    assert result.best_epoch == 2  # the earliest of equals
    assert [epoch.scores["validation"]["f1"] for epoch in result.epochs] == [0.5, 0.7, 0.6, 0.7]
    assert result.best == result.epochs[1].scores
    assert kept_epoch(tmp_path / "run") == {"epoch": 2}
    assert FitResult.load(tmp_path / "run").best_epoch == 2


def test_holdout_chooses_the_epoch_and_never_trains(
    make_fit_cache: MakeCache, tmp_path: Path, put_in_scores: Callable
) -> None:
    put_in_scores(holdout=[0.2, 0.3, 0.9, 0.8], validation=[0.9, 0.8, 0.1, 0.2])
    result = fit(make_fit_cache(train=100), tmp_path / "run", select="holdout", epochs=4)
    assert result.best_epoch == 3
    assert result.best == {"holdout": {"accuracy": 0.9, "f1": 0.9}, "validation": {"accuracy": 0.1, "f1": 0.1}}
    assert kept_epoch(tmp_path / "run") == {"epoch": 3}
    assert len(np.load(tmp_path / "run/labels-holdout.npy")) == 10  # of the 100


def test_the_last_epoch_is_kept_where_no_score_is_to_choose(
    make_fit_cache: MakeCache, tmp_path: Path, put_in_scores: Callable
) -> None:
    result = fit(make_fit_cache(validation_sets=()), tmp_path / "run", select="last", epochs=3)
    assert (result.best_epoch, result.best, len(result.epochs)) == (3, {}, 3)
    assert kept_epoch(tmp_path / "run") == {"epoch": 3}
    put_in_scores(validation=[0.9, 0.8, 0.7])
    scored = fit(make_fit_cache("other"), tmp_path / "scored", select="last", epochs=3)
    assert scored.best_epoch == 3
    assert scored.best == scored.last == {"validation": {"accuracy": 0.7, "f1": 0.7}}
    assert kept_epoch(tmp_path / "scored") == {"epoch": 3}


def test_the_command_says_that_nothing_was_scored(
    make_fit_cache: MakeCache, glot: Callable[..., tuple], tmp_path: Path
) -> None:
    words = ["--select", "last", "--epochs", 1, "--out", tmp_path / "run"]
    code, out, err = glot("fit", "--cache", make_fit_cache(validation_sets=()), *words)
    assert code == 0, err
    assert "the last epoch is kept; there is no validation set to score it on" in out


def test_the_last_epoch_does_not_go_with_what_looks_at_scores(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    for settings in ({"patience": 2}, {"schedule": "plateau"}):
        with pytest.raises(UsageError, match="looks at no score"):
            fit(make_fit_cache(next(iter(settings))), tmp_path / "run", select="last", **settings)


def test_patience_stops_early(make_fit_cache: MakeCache, tmp_path: Path, put_in_scores: Callable) -> None:
    put_in_scores(validation=[0.5, 0.6, 0.6, 0.5, 0.4])
    result = fit(make_fit_cache(), tmp_path / "run", epochs=40, patience=3)
    assert (result.best_epoch, len(result.epochs)) == (2, 5)


def test_the_three_scores_follow_their_rules() -> None:
    def epoch(number: int, mcc: float, accuracy: float, other: float) -> Epoch:
        scores = {"mcc": mcc, "accuracy": accuracy}
        return Epoch(number, 1.0, 1.0, {"validation": scores, "validation_mismatched": {**scores, "accuracy": other}})

    history = [epoch(1, 0.3, 0.5, 0.9), epoch(2, 0.2, 0.8, 0.1), epoch(3, 0.1, 0.8, 0.4)]
    spec = TaskSpec("t", 1, "classes", ("a", "b"), metrics=("mcc", "accuracy"))
    published = best_published(history, spec, ["validation", "validation_mismatched"])
    assert published["validation"] == history[1].scores["validation"]  # by accuracy, the earlier of equals
    assert published["validation_mismatched"]["accuracy"] == 0.4  # the last epoch


def test_a_saved_head_scores_as_it_did(make_fit_cache: MakeCache, tmp_path: Path, backend: str) -> None:
    """Scores of a regression: none of them turns over by rounding, as a class may."""
    folder = make_fit_cache(target="score")
    result = fit(folder, tmp_path / "run")
    scores = evaluate_head(tmp_path / "run", Cache(folder), "validation", "cpu", backend)
    assert scores["pearson"] == pytest.approx(result.best["validation"]["pearson"], abs=1e-4)


def test_predictions_come_in_the_order_of_the_source(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    folder = make_fit_cache()
    result = fit(folder, tmp_path / "run", epochs=8)
    count = write_predictions(
        tmp_path / "run", Cache(folder), "validation", "jsonl", tmp_path / "p.jsonl", "cpu", "dense"
    )
    rows = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    examples = Cache(folder).examples("validation")
    truth = {int(index): ("no", "yes")[label] for index, label in zip(examples.index, examples.label, strict=True)}
    assert [row["index"] for row in rows] == sorted(truth)
    right = np.mean([truth[row["index"]] == row["label"] for row in rows])
    assert count == len(rows)
    assert right == pytest.approx(result.best["validation"]["accuracy"])
    write_predictions(tmp_path / "run", Cache(folder), "validation", "glue", tmp_path / "p.tsv", "cpu", "dense")
    lines = (tmp_path / "p.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction"
    assert [line.split("\t")[1] for line in lines[1:]] == [str(int(row["label"] == "yes")) for row in rows]


def test_a_cache_of_another_backbone_width_or_layer_is_refused(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    fit(make_fit_cache(), tmp_path / "run", epochs=1)
    for other, field in [({"backbone": "big"}, "weights_sha256"), ({"width": 12}, "width")]:
        folder = make_fit_cache(field, **other)
        with pytest.raises(UsageError, match=field):
            evaluate_head(tmp_path / "run", Cache(folder), "validation", "cpu", "dense")
    config = RunConfig.load(tmp_path / "run")
    replace(config, layer=0).save(tmp_path / "run")
    with pytest.raises(UsageError, match="no layer 0"):
        evaluate_head(tmp_path / "run", Cache(tmp_path / "cache"), "validation", "cpu", "dense")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tau": 1.5}, "tau"),
        ({"pooler": "sum"}, "pooler"),
        ({"layer": 0}, "layer 0"),
        ({"lr": 0.0}, "--lr"),
        ({"epochs": 0}, "--epochs"),
        ({"seeds": (1, 1)}, "--seeds"),
        ({"select": "test"}, "--select"),
        ({"device": "cuda:99"}, "cuda:99"),
    ],
)
def test_options_out_of_range_are_refused(make_fit_cache: MakeCache, options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make_configs(Cache(make_fit_cache()), FitOptions(**{"device": "cpu", **options}))


def test_one_class_only_is_refused(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    folder = make_fit_cache()
    cache = Cache(folder)
    examples = cache.examples("train")
    examples.label[:] = 1
    cache.manifest.examples["train"] = replace(
        cache.manifest.examples["train"], data=examples.save(folder / "examples/train.h5")
    )
    cache.manifest.save(folder)
    with pytest.raises(UsageError, match="one class"):
        fit(folder, tmp_path / "run")


def test_a_run_with_other_settings_is_not_overwritten(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    folder = make_fit_cache()
    fit(folder, tmp_path / "run", epochs=1)
    with pytest.raises(UsageError, match="other settings"):
        fit(folder, tmp_path / "run", epochs=2)
    with pytest.raises(UsageError, match="--resume"):
        prepare_runs(make_configs(Cache(folder), FitOptions(device="cpu")), tmp_path / "run")


def test_damaged_weights_are_a_fault(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    folder = make_fit_cache()
    fit(folder, tmp_path / "run", epochs=1)
    path = tmp_path / "run/head.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(FaultError, match=r"head\.safetensors"):
        evaluate_head(tmp_path / "run", Cache(folder), "validation", "cpu", "dense")


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (blocked)", name=name)
sys.meta_path.insert(0, Block())
import glot, glot.fit
from pathlib import Path
from glot.fit.run import FitOptions, make_configs, prepare_runs, finish_runs
from glot.store.reader import Cache
cache = Cache(sys.argv[1])
configs = make_configs(cache, FitOptions(device="cpu", epochs=2))
prepare_runs(configs, Path(sys.argv[2]))
result = next(iter(finish_runs(Path(sys.argv[2])).values()))
leaked = [name for name in sys.modules if name.split(".")[0] in {blocked!r}]
leaked += [name for name in sys.modules if name.startswith(("glot.extract", "glot.corpus", "glot.report"))]
assert not leaked, leaked
print(configs[0].train.backend, result.best["validation"]["accuracy"])
"""


@pytest.mark.slow
def test_fit_runs_without_dgl_datasets_and_transformers(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    code = BLOCKED.format(blocked=("dgl", "datasets", "transformers", "tokenizers", "huggingface_hub", "matplotlib"))
    command = [sys.executable, "-c", code, str(make_fit_cache()), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("dense ")


def test_class_weights_are_kept_and_are_none_in_old_runs(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    folder = make_fit_cache()
    fit(folder, tmp_path / "run", epochs=1, class_weights="balanced")
    assert RunConfig.load(tmp_path / "run").train.class_weights == "balanced"
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["task"]["classes"] == ["no", "yes"]
    del config["train"]["class_weights"]
    (tmp_path / "run/config.json").write_text(json.dumps(config))
    assert RunConfig.load(tmp_path / "run").train.class_weights == "none"
    assert evaluate_head(tmp_path / "run", Cache(folder), "validation", "cpu", "dense")


def test_class_weights_that_cannot_be(make_fit_cache: MakeCache) -> None:
    with pytest.raises(UsageError, match="--class-weights must be one of none, balanced; got 'heavy'"):
        make_configs(Cache(make_fit_cache()), FitOptions(class_weights="heavy"))
    scores = Cache(make_fit_cache("scores", target="score"))
    with pytest.raises(UsageError, match="--class-weights balanced: made has no classes: leave it out"):
        make_configs(scores, FitOptions(class_weights="balanced"))
    assert make_configs(scores, FitOptions(class_weights="none"))


def test_a_fit_with_class_weights_goes_on_as_if_unbroken(make_fit_cache: MakeCache, tmp_path: Path) -> None:
    folder = make_fit_cache()
    whole = fit(folder, tmp_path / "whole", class_weights="balanced", select="holdout")
    config = make_configs(Cache(folder), FitOptions(device="cpu", class_weights="balanced", select="holdout"))[0]
    asked = iter(range(100))
    with pytest.raises(Stopped):
        fit_head(Cache(folder), config, tmp_path / "broken", should_stop=lambda: next(asked) == 15)
    broken = fit_head(Cache(folder), config, tmp_path / "broken")
    assert [epoch.loss for epoch in broken.epochs] == [epoch.loss for epoch in whole.epochs]
