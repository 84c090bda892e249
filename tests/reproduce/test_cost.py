"""The table of costs: every way trains, what is counted is what is trained, and the arithmetic adds up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from glot.corpus.examples import Corpus, Example, Split
from glot.errors import UsageError
from glot.extract.backbone import load_backbone
from glot.extract.source import ModelSource
from glot.nn.poolers import PoolerConfig
from glot.reproduce import cost
from glot.reproduce.costs import Cost, CostRecord, find_costs
from glot.reproduce.plan import Step
from glot.reproduce.run import Watch, run_steps
from glot.store.task_spec import TaskSpec

WORDS = ["cat", "dog", "mat", "letters", "door", "rain", "town", "autumn", "books", "ships"]


def corpus(num_texts: int, rows: int = 40) -> Corpus:
    def example(row: int) -> Example:
        text = " ".join(WORDS[: 1 + row % len(WORDS)])
        return Example(row, text, WORDS[row % 3] if num_texts == 2 else None, row % 2)

    spec = TaskSpec("made", num_texts, "classes", ("no", "yes"))
    return Corpus(spec, {"train": Split("train", [example(row) for row in range(rows)], "made")})


@pytest.mark.parametrize("name", ["bert", "llama"])
@pytest.mark.parametrize("num_texts", [1, 2])
def test_every_way_is_measured(backbone_folders: dict[str, Path], name: str, num_texts: int) -> None:
    pytest.importorskip("peft", reason="LoRA needs peft (extra: bench)")
    backbone = load_backbone(ModelSource("tiny", str(backbone_folders[name])), "float32", "cpu")
    work = cost.task_work(corpus(num_texts), backbone, 8, 3)
    assert work.examples == 40
    assert len(work.texts) == len(set(map(tuple, work.texts)))
    whole = sum(parameter.numel() for parameter in backbone.model.parameters())
    before = {name: value.clone() for name, value in backbone.model.state_dict().items()}
    costs = cost.measure_cost(backbone.model, work, PoolerConfig(gnn_layers=1, hidden=4), torch.device("cpu"))
    assert [item.name.split(",")[0] for item in costs] == [
        *("full fine-tuning", "LoRA", "frozen backbone", "GLOT over the cache")
    ]
    head = num_texts * backbone.width * 2 + 2
    assert costs[0].parameters == whole + head
    assert costs[2].parameters == costs[3].parameters
    assert all(item.step > 0 and item.bytes > 4 * item.parameters for item in costs)
    steps = 3 * 5  # three epochs of 40 examples in batches of 8
    for item in costs[:3]:
        assert item.before == 0
        assert item.training == pytest.approx(steps * item.step)
    ours = costs[3]
    assert ours.training == pytest.approx(ours.before + steps * ours.step)
    assert all(torch.equal(value, before[name]) for name, value in backbone.model.state_dict().items())  # frozen


@pytest.mark.slow
def test_one_way_after_the_other_costs_no_copy_of_the_model(backbone_folders: dict[str, Path]) -> None:
    """For a model of which two do not fit; in the same order, with the same counts."""
    backbone = load_backbone(ModelSource("tiny", str(backbone_folders["llama"])), "float32", "cpu")
    work = cost.task_work(corpus(1), backbone, 8, 3)
    config, before = PoolerConfig(gnn_layers=1, hidden=4), backbone.model.norm.weight.clone()
    turns = cost.measure_cost(backbone.model, work, config, torch.device("cpu"))
    assert torch.equal(backbone.model.norm.weight, before)
    alone = cost.measure_cost(backbone.model, work, config, torch.device("cpu"), alone=True)
    assert [(item.name, item.parameters) for item in alone] == [(item.name, item.parameters) for item in turns]
    assert not torch.equal(backbone.model.norm.weight, before)  # fine-tuned as it is
    assert [item.before > 0 for item in alone] == [False] * (len(alone) - 1) + [True]


@pytest.mark.slow
def test_what_does_not_fit_is_left_out(backbone_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cost, "Labelled", full)
    backbone = load_backbone(ModelSource("tiny", str(backbone_folders["bert"])), "float32", "cpu")
    work, config = cost.task_work(corpus(1), backbone, 8, 3), PoolerConfig(gnn_layers=1, hidden=4)
    costs = cost.measure_cost(backbone.model, work, config, torch.device("cpu"), alone=True)
    assert [item.name for item in costs] == ["frozen backbone", "GLOT over the cache"]
    assert cost.ways_left_out(costs) == ["full fine-tuning", "LoRA"]


def test_the_bytes_of_a_step_are_those_at_its_peak() -> None:
    """The profiler has no public list of allocations; a trace that it exports has, and must go on having them."""

    def step() -> None:
        first = torch.ones(1000)
        second = torch.ones(3000) + 1  # with the ones: 7,000 numbers at once
        del second
        first += 1

    assert cost.step_bytes(step, torch.device("cpu")) == pytest.approx(4 * 7000, abs=100)  # and some single numbers


def test_when_extraction_has_paid_for_itself() -> None:
    ways = [Cost("slower", 1, 1, 0.1, 0.0, 3.0), Cost("faster", 1, 1, 0.005, 0.0, 3.0)]
    ways.append(Cost("GLOT", 1, 1, step=0.01, before=1.8, training=2.0))
    record = CostRecord("tiny", "made", "CPU", 1, examples=80, batch_size=8, epochs=3, costs=ways)
    assert [record.pays_after(way) for way in ways] == [pytest.approx(2.0), None, None]


def test_random_weights_of_a_known_shape() -> None:
    work = cost.random_work(100, 20, 4, 3, 50)
    assert [len(batch) for batch in work.batches] == [4, 4, 4]
    small = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    assert cost.random_model("bert", torch.bfloat16, **small).encoder.layer[0].output.dense.weight.shape == (16, 16)
    with pytest.raises(UsageError, match="knows the shapes of bert, roberta"):
        cost.random_model("gpt-7", torch.float32)


def test_too_few_examples_are_said(backbone_folders: dict[str, Path]) -> None:
    backbone = load_backbone(ModelSource("tiny", str(backbone_folders["bert"])), "float32", "cpu")
    with pytest.raises(UsageError, match="has 40 examples: lower --batch-size"):
        cost.task_work(corpus(1), backbone, 32, 6)


def test_the_main_job_measures_costs(
    backbone_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("peft", reason="LoRA needs peft (extra: bench)")
    monkeypatch.setattr("glot.corpus.load.load_task", lambda task, splits, data_dir: corpus(2, rows=200))
    lines: list[str] = []
    step = Step("mrpc", "tiny", "cost", "cost", location=str(backbone_folders["bert"]))
    watch = Watch(lines.append, lambda done, total: None, lambda: False)
    assert run_steps([step], tmp_path / "cache", tmp_path / "runs", None, watch) == []
    assert "ms a step, full fine-tuning" in lines[-1]
    [record] = find_costs([tmp_path / "runs"]).values()
    assert record.rows()[-1][0].startswith("GLOT over the cache")
    assert step.place(tmp_path / "runs").exists()


def test_an_unknown_model_is_told_before_the_data_is_read() -> None:
    with pytest.raises(UsageError, match="no-such-model"):
        cost.measure_task("no-such-model", "mrpc", None, 32, 6, PoolerConfig(), torch.device("cpu"))
