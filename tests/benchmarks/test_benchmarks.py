"""The benchmarks run, at tiny sizes and without a look at the clock."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks import (
    bfloat16,
    commands,
    engines,
    extraction,
    int8,
    made,
    memory,
    ratios,
    reading,
    remote,
    scale,
    streaming,
)
from glot.corpus.examples import Corpus, Example, Split
from glot.extract.source import ModelSource
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec
from glot.store.verify import verify_cache

if TYPE_CHECKING:
    from glot.extract.backbone import Backbone

PAIRS = TaskSpec("made", 2, "classes", ("no", "yes"))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    from glot.extract.backbone import load_backbone

    folder = memory.save_backbone(tmp_path_factory.mktemp("backbone"))
    return load_backbone(ModelSource("tiny", str(folder)), device="cpu")


def make_pairs(**splits: int) -> Corpus:
    def example(row: int) -> Example:
        return Example(row, f"w{row} w1 w2", f"w{row % 7} w3 {row}", row % 2)

    made_splits = {name: Split(name, [example(row) for row in range(count)], "made") for name, count in splits.items()}
    return Corpus(PAIRS, made_splits)


def test_ratios() -> None:
    values = iter([0, 0])
    assert len(ratios.speed_ratio(lambda: next(values), lambda: None, 2).values) == 2
    seen = []
    assert ratios.interleaved(seen.append, lambda piece: None, [1, 2, 3]) > 0
    assert seen == [1, 2, 3]
    assert str(ratios.Ratio((1.0, 3.0, 2.0))) == "2.000 (1.000 to 3.000, 3 repeats)"
    assert ratios.verdict(1.0, 0.9) == "target >= 0.9: met"
    assert ratios.verdict(1.0, 0.9, at_most=True) == "target <= 0.9: MISSED"


def test_a_made_cache_is_whole(tmp_path: Path) -> None:
    lengths = made.spread_lengths(2000, 27)
    assert 20 < lengths.mean() < 34
    assert made.spread_lengths(50_000, 110).mean() == pytest.approx(110, rel=0.05)
    cache = Cache(made.make_cache(tmp_path / "cache", 8, lengths, 500))
    assert cache.plan.num_shards > 3
    assert not verify_cache(cache)
    assert len(cache.examples("train")) + len(cache.examples("validation")) == len(cache.plan)


def test_files_leave_the_page_cache(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(2**20))
    try:
        made.forget([file])
    except RuntimeError:
        pytest.skip("this file system keeps its files in memory")
    assert made.cached_share(file) < 0.01
    made.load([file])
    assert made.cached_share(file) == 1.0


def test_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(made, "forget", lambda paths: None)
    monkeypatch.setattr(reading, "forget", lambda paths: None)
    reading.run_all(tmp_path, replace(reading.TINY, fit_bytes=10**5))
    printed = capsys.readouterr().out
    assert len(re.findall(r"target >= 0\.9", printed)) == 2 * 2 * 4
    assert "checksums over the rest of a streamed epoch" in printed
    assert "opening 5 shards" in printed
    assert not list(tmp_path.iterdir())


def test_extraction(tmp_path: Path, backbone: Backbone, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = make_pairs(train=40)
    assert len(extraction.against_bare_loop(backbone, pairs, tmp_path, 2).values) == 12
    assert len(extraction.against_obvious(backbone, pairs, tmp_path, 1).values) == 1
    assert extraction.size_ratio(backbone, pairs, tmp_path) > 1
    printed = capsys.readouterr().out
    assert "in 6 shards" in printed
    assert "inside the model" in printed
    assert f"4 d 128 = {4 * 16 * 128:,}" in printed
    assert not list(tmp_path.iterdir())


def test_each_distinct_text_is_forwarded_once(
    tmp_path: Path, backbone: Backbone, capsys: pytest.CaptureFixture[str]
) -> None:
    premises, hypotheses = [f"w{row} w9" for row in range(4)], [f"w{row}" for row in range(20, 32)]
    shared, apart = (extraction.pair_up(premises, hypotheses, distinct) for distinct in (False, True))
    extraction.deduplication(backbone, shared, apart, tmp_path, 1)
    assert "24 texts, 16 forwarded; with every premise made distinct 24" in capsys.readouterr().out


def test_engines(
    tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line a way; all of them give the states of the bare loop."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    monkeypatch.setattr("glot.extract.converted.models_folder", lambda: tmp_path / "converted")
    monkeypatch.setattr(engines, "resolve_model", lambda name: ModelSource(name, backbone.source))
    monkeypatch.setattr(engines, "ROUNDS", 1)
    batches = [backbone.pad([[5, 6, 7], [8, 9]]), backbone.pad([[10, 11]])]
    engines.report("tiny", backbone, batches, 1)
    lines = capsys.readouterr().out.splitlines()
    found = [
        re.fullmatch(r"  (.*): [\d.]+ in processor time, [\d.]+ in wall time, (\S+) away", line) for line in lines[1:]
    ]
    assert lines[0].startswith("tiny, 1 thread(s): ")
    assert [way and way[1] for way in found][:2] == ["torch, bare loop", "torch, ours"]
    for way in found:
        assert way is not None
        assert float(way[2]) < (1e-1 if "bfloat16" in way[1] else 1e-3)


@pytest.mark.slow
def test_whole_commands(
    tmp_path: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch, glot: Callable[..., tuple], table: Path
) -> None:
    """Here in this process: each command is one that works, and all of its answers are there."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    monkeypatch.setattr("glot.extract.converted.models_folder", lambda: tmp_path / "converted")

    def run(*words: object) -> None:
        code, _, err = glot(*words)
        assert code == 0, err

    data = ("--data", table, "--text", "sentence", "--label", "kind", "--limit", 16)
    assert list(commands.time_extraction(backbone.source, data, tmp_path / "caches", run)) == list(commands.WAYS)
    found = commands.time_answers(backbone.source, data, ["rain falls", "two\nbirds"], tmp_path, run)
    assert (list(found), min(found.values()) > 0) == (["first", "converted"], True)
    for name in ("first", "converted", "again"):
        assert len((tmp_path / f"{name}.csv").read_text().splitlines()) == 3
    rows = [(f"{word} letters", label) for word in ("a", "two", "old") for label in ("yes", "no") for _ in range(4)]
    assert commands.time_training(backbone.source, rows, tmp_path, run) > 0
    assert (tmp_path / "trained/report.html").is_file()


def test_what_bfloat16_costs_is_a_paired_difference() -> None:
    found = {"float32": [80.0, 81.0, 82.0], "states": [81.0, 82.0, 83.0], "training": [80.0, 82.0, 81.0]}
    mean, half = bfloat16.interval([0.0, 1.0, -1.0])
    low, high = stats.t.interval(0.95, 2, loc=0.0, scale=stats.sem([0.0, 1.0, -1.0]))
    assert (mean - half, mean + half) == pytest.approx((low, high))
    line = bfloat16.row("MRPC", "tiny", {**found, "both": found["float32"]})
    assert line == f"| MRPC | tiny | 81.00 | +1.00 ± 0.00 | +0.00 ± {half:.2f} | +0.00 ± 0.00 |"


def test_int8(tmp_path: Path, backbone: Backbone, capsys: pytest.CaptureFixture[str]) -> None:
    found = int8.compare(backbone, make_pairs(train=20, validation=10), tmp_path, (0, 1), 1)
    assert len(found.differences) == 2
    assert found.size["int8"] < found.size["float16"]
    int8.report("made", found)
    assert "over 2 seeds" in capsys.readouterr().out


@pytest.mark.slow
def test_memory_of_extraction(tmp_path: Path) -> None:
    seen = memory.extraction(tmp_path, 200)
    assert seen.baseline > 2**20
    assert seen.said["distinct"] == 200
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_memory_of_a_fit(tmp_path: Path) -> None:
    seen = memory.fitting(tmp_path, 10**6, 2**18, width=64)
    assert seen.said["window"] == 4
    assert "fitting" in seen.peaks
    assert "of the limit" in "\n".join(memory.lines_of("fit", seen, 2**30))


def test_a_step() -> None:
    from benchmarks import step

    batch = step.make_batch(8, 5, torch.device("cpu"))
    assert batch.states.shape[1] == 8
    assert np.all(batch.lengths.numpy() >= 2)


def test_an_epoch_of_each_way(backbone: Backbone, tmp_path: Path) -> None:
    pytest.importorskip("torch_geometric", reason="the peers need torch-geometric (extra: bench)")
    from benchmarks import epoch

    extraction.extract(backbone, make_pairs(train=70, validation=8), tmp_path / "cache")
    cache = Cache(tmp_path / "cache")
    epoch.save_padded(cache, tmp_path / "padded")
    train, width = cache.examples("train"), cache.manifest.states.width
    obvious = list(epoch.obvious_batches(tmp_path / "padded", 70, np.arange(70)))
    fair = list(epoch.fair_batches(tmp_path / "padded"))
    assert [len(labels) for _, labels in obvious] == [32, 32, 6]
    assert torch.cat([labels for _, labels in obvious]).tolist() == train.label.tolist()
    assert sorted(torch.cat([labels for _, labels in fair]).tolist()) == sorted(train.label.tolist())
    (states, mask), _ = obvious[0][0]
    first = cache.read_texts(cache.resolve_layer(-1), train.text_id[:1]).values
    np.testing.assert_array_equal(states[0][mask[0]].numpy(), first.astype(np.float32))
    for way in ("obvious", "fair"):
        epoch.train_peer(way, tmp_path / "padded", 70, width)
    assert epoch.train_ours(cache) > 0


@pytest.mark.slow
def test_remote(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, remote_settings: object) -> None:
    pytest.importorskip("moto", reason="moto is not installed")
    for name in ("AWS_ENDPOINT_URL", "GLOT_CACHE_DIR"):  # what it sets goes when the test ends
        monkeypatch.setenv(name, "")
    monkeypatch.setattr("sys.argv", ["remote", "--mb", "1", "--repeats", "1"])
    remote.main()
    assert len(re.findall(r"(memory|streamed), (first|again): \d", capsys.readouterr().out)) == 4


def test_scale(tmp_path: Path) -> None:
    saving, opening, size = scale.measure_manifest(30, tmp_path)
    assert min(saving, opening) > 0
    assert size == (tmp_path / "manifest.json").stat().st_size
    seconds, size = scale.measure_order(20000)
    assert seconds > 0
    assert size >= 8  # a number an example
    overhead, shards = scale.measure_assignment(40, 4, 0.005, 0.2)
    assert shards == 40  # those whose worker was lost too
    assert overhead > -0.5
    lines = list(scale.describe_hours(scale.BACKBONES[:1]))
    assert lines[1].startswith("minilm (2 cores, 5,000 tokens/s), 1e+08 texts: 2.07 TB, 1,931 shards; 150.0 h on 1, ")
    assert lines[1].endswith("; 0.8 h and 9.00 GB to plan, 5.5 h to put into a store")


def test_plans_that_differ_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both by one process here; over Ray see `tests/faults/test_ray.py`."""
    from benchmarks import ray_workers

    source = ModelSource("tiny", str(memory.save_backbone(tmp_path / "backbone")))
    for name, texts in (("same", 40), ("other", 39)):
        (tmp_path / name).mkdir()

        def plan(table: Path, source: ModelSource, folder: Path, texts: int = texts) -> None:
            lines = table.read_text().splitlines()[: texts + 1]
            table.write_text("\n".join(lines))
            ray_workers.plan_alone(table, source, folder)

        monkeypatch.setattr(ray_workers, "plan_over_ray", plan)
        if name == "same":
            assert min(ray_workers.compare_planning(40, source, tmp_path / name)) > 0
        else:
            with pytest.raises(RuntimeError, match="the plans differ"):
                ray_workers.compare_planning(40, source, tmp_path / name)


def test_streaming(tmp_path: Path) -> None:
    case = streaming.Case("adapool", 8, 10, 500)
    folder = made.make_cache(tmp_path / "cache", case.width, made.spread_lengths(case.tokens, case.mean), 100)
    assert all(streaming.seconds_of_pass(folder, case, way) > 0 for way in streaming.WAYS)
