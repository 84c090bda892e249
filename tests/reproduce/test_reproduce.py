"""The main job on a small scale: the plan, running it, stopping it, and finding everything done the second time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from glot.corpus.load import load_stress
from glot.errors import Stopped, UsageError
from glot.nn.dgl_backend import dgl_available, dgl_import_error
from glot.reproduce import run as reproduce
from glot.reproduce.backends import BACKENDS
from glot.reproduce.plan import BACKBONES, Step, describe_agenda, make_agenda, missing_dgl, stress_steps
from glot.reproduce.report import write_report
from glot.reproduce.run import Watch, run_steps


def test_quick_without_glue_says_what_it_leaves_out() -> None:
    plan = make_agenda("quick", None)
    assert {step.task for step in plan.steps} == {
        f"stress-{generator}-{ratio}" for generator in ("published", "paired") for ratio in (0.2, 0.5, 0.8, 0.9)
    }
    assert {step.method for step in plan.steps} == {"cls", "mean", "max", "adapool", "glot", "length", "bag-of-words"}
    assert [name for name, _ in plan.skipped] == ["cola with minilm", "mrpc with minilm", "stsb with minilm"]
    assert all("GLUE_DIR" in reason for _, reason in plan.skipped)


def test_profiles_grow(tmp_path: Path) -> None:
    for folder in ("CoLA", "MRPC", "STS-B", "SST-2"):
        (tmp_path / folder).mkdir()
    quick, cpu, paper = (set(make_agenda(profile, tmp_path).steps) for profile in ("quick", "cpu", "paper"))
    assert {step.place(tmp_path) for step in quick} < {step.place(tmp_path) for step in cpu}
    assert {(step.task, step.model) for step in cpu} >= {("sst2", "minilm"), ("mrpc", "smollm2-135m")}
    assert {step.model for step in paper} == set(BACKBONES.names())
    assert {step.seed for step in paper} == {0, 1, 2, 3, 4}
    with pytest.raises(UsageError, match="quick, cpu, paper"):
        make_agenda("fast", None)


def test_the_paper_plan_tells_downloads_disk_and_hours(tmp_path: Path) -> None:
    text = describe_agenda(make_agenda("paper", None), tmp_path, tmp_path)
    assert "downloads: 27.0 GB (bert, roberta, smollm2, tinyllama, llama-3b, mistral-7b)" in text
    assert "GB of states" in text
    assert " h, " in text


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, backbone_folders: dict[str, Path]) -> str:
    """Steps with a tiny backbone and 40 made texts."""
    monkeypatch.setattr(
        reproduce, "load_stress", lambda generator, ratio, haystack: load_stress(generator, ratio, 40, 20)
    )
    import glot.extract.run as run

    options = run.ExtractOptions
    monkeypatch.setattr(run, "ExtractOptions", lambda **given: options(**{**given, "max_tokens": 48}))
    monkeypatch.setattr(reproduce, "_max_tokens", lambda task: 48)
    return str(backbone_folders["bert"])


def _watch(lines: list[str], stop_after: int = 10**9) -> Watch:
    return Watch(lines.append, lambda done, total: None, lambda: sum("[" in line for line in lines) >= stop_after)


def test_steps_run_stop_go_on_and_are_reported(tiny: str, tmp_path: Path) -> None:
    steps = stress_steps(tiny, ("paired",), (0.2,), ("mean", "glot", "glot-loops"), (0,))
    steps = [*steps[3:], *steps[:3]]  # the baselines first, which run one by one; the heads train side by side
    cache, runs, lines = tmp_path / "cache", tmp_path / "runs", []
    with pytest.raises(Stopped):
        run_steps(steps, cache, runs, None, _watch(lines, stop_after=1))
    assert sum(step.place(runs).exists() for step in steps) == 1
    lines.clear()
    assert run_steps(steps, cache, runs, None, _watch(lines)) == []
    assert lines[0] == "5 runs, 1 done before"
    assert not any(line.startswith("extracting") for line in lines)  # states were cached
    lines.clear()
    run_steps(steps, cache, runs, None, _watch(lines))
    assert lines == ["5 runs, 5 done before"]
    loops = json.loads((runs / "stress-paired-0.2-tiny-bert/published/glot-loops/seed-0/config.json").read_text())
    assert (loops["pooler"]["pooler"], loops["pooler"]["tau"]) == ("glot", 1.0)
    names = {path.name for path in write_report(runs, tmp_path / "results", [("cola", "no data")])}
    assert names >= {"README.md", "stress.md", "stress.csv"}  # and a picture, see tests/report
    assert "no data" in (tmp_path / "results/README.md").read_text()


def test_a_step_that_cannot_run_is_told_and_the_others_go_on(tiny: str, tmp_path: Path) -> None:
    lines: list[str] = []
    steps = [
        Step("stress-paired-0.2", "no-such-model", "published", "mean"),
        Step("cola", "tiny", "published", "mean", options=(("pooler", "mean"),), location=tiny),
        *stress_steps(tiny, ("paired",), (0.5,), ("mean",), (0,)),
    ]
    failed = run_steps(steps, tmp_path / "cache", tmp_path / "runs", tmp_path, _watch(lines))
    assert [name for name, _ in failed] == ["stress-paired-0.2 with no-such-model", "cola with tiny"]
    assert "no-such-model" in failed[0][1]
    assert all(step.place(tmp_path / "runs").exists() for step in steps[2:])


def test_a_device_is_that_of_states_and_runs(tiny: str, tmp_path: Path) -> None:
    steps, folders = stress_steps(tiny, ("paired",), (0.5,), ("mean",), (0,)), (tmp_path / "cache", tmp_path / "runs")
    (failed,) = run_steps(steps, *folders, None, _watch([]), device="tpu9")
    assert "tpu9" in failed[1]
    assert run_steps(steps[1:], *folders, None, _watch([]), device="cpu") == []  # what trains no head
    (failed,) = run_steps(steps, *folders, None, _watch([]), device="tpu9")  # the states are there
    assert "tpu9" in failed[1]


def test_states_made_with_other_settings_are_refused(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = stress_steps(tiny, ("paired",), (0.2,), ("mean",), (0,))
    run_steps(steps[1:], tmp_path / "cache", tmp_path / "runs", None, _watch([]))
    monkeypatch.setattr(reproduce, "_max_tokens", lambda task: 128)
    failed = run_steps(steps, tmp_path / "cache", tmp_path / "runs", None, _watch([]))
    assert "max_tokens 48, the published settings ask for 128" in failed[0][1]


@pytest.mark.parametrize(
    ("generators", "ratios", "methods"),
    [
        (("new",), (0.2,), ("mean",)),
        (("paired",), (-0.5,), ("mean",)),
        (("paired",), (0.2,), ("sum",)),
        ((), (0.2,), ()),
    ],
)
def test_wrong_stress_steps_are_refused(generators: tuple, ratios: tuple, methods: tuple) -> None:
    with pytest.raises(UsageError):
        stress_steps("minilm", generators, ratios, methods, (0,))


@pytest.mark.parametrize("finished", [True, False])
def test_runs_of_other_settings_are_neither_taken_nor_gone_on_with(tiny: str, tmp_path: Path, finished: bool) -> None:
    """A recipe that was changed meanwhile: what lies there was made by the old one."""
    cache, runs = tmp_path / "cache", tmp_path / "runs"
    (step,) = [step for step in stress_steps(tiny, ("paired",), (0.2,), ("glot",), (0,)) if step.method == "glot"]
    run_steps([step], cache, runs, None, _watch([]))
    if not finished:
        step.place(runs).unlink()
    for options, told in (({"epochs": 5}, "epochs 3, now 5"), ({"layer": 0, "tau": 0.1}, "tau 0.6, now 0.1")):
        changed = replace(step, options=(*step.options, *options.items()))
        with pytest.raises(UsageError, match=f"was made with other settings .{told}.: remove it to train anew"):
            run_steps([changed], cache, runs, None, _watch([]))
    lines: list[str] = []
    assert run_steps([replace(step, options=(*step.options, ("epochs", 3)))], cache, runs, None, _watch(lines)) == []
    assert step.place(runs).exists()


def backend_steps(tiny: str) -> list[Step]:
    options = {"dense": (("backend", "dense"), ("epochs", 1)), "dgl": (("backend", "dgl"), ("epochs", 1))}
    return [
        Step("stress-paired-0.2", "tiny-bert", BACKENDS, f"glot,backend={name}", options=given, location=tiny)
        for name, given in options.items()
    ]


def test_dgl_and_plain_torch_give_a_head_the_same_scores(tiny: str, tmp_path: Path) -> None:
    if not dgl_available():
        pytest.skip(f"DGL cannot be imported: {dgl_import_error()}")
    steps = backend_steps(tiny)
    assert run_steps(steps, tmp_path / "cache", tmp_path / "runs", None, _watch([])) == []
    for step in steps:
        record = json.loads(step.place(tmp_path / "runs").read_text())
        assert record["trained"] == step.method.rpartition("=")[2]
        dense, dgl = (record["scores"][name]["validation"]["accuracy"] for name in ("dense", "dgl"))
        assert abs(dense - dgl) < 1.5 / 20  # of twenty examples at most one, whose logits are equal but for rounding
    steps[0].place(tmp_path / "runs").unlink()  # stopped before the head was judged
    lines: list[str] = []
    run_steps(steps, tmp_path / "cache", tmp_path / "runs", None, _watch(lines))
    assert lines[0] == "2 runs, 1 done before"
    assert steps[0].place(tmp_path / "runs").exists()
    written = write_report(tmp_path / "runs", tmp_path / "results")
    assert tmp_path / "results/backends.md" in written


def test_without_dgl_its_step_is_left_out_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "CoLA").mkdir()
    whole = make_agenda("quick", tmp_path)
    if dgl_available():
        steps = [step for step in whole.steps if step.setting == BACKENDS]
        assert [(step.task, step.model, step.method) for step in steps] == [
            ("cola", "minilm", "glot,backend=dense"),
            ("cola", "minilm", "glot,backend=dgl"),
        ]
    monkeypatch.setattr("glot.nn.graph.dgl_available", lambda: False)
    monkeypatch.setattr("glot.nn.graph.dgl_import_error", lambda: "no wheel")
    missing_dgl.cache_clear()
    try:
        plan = make_agenda("quick", tmp_path)
    finally:
        missing_dgl.cache_clear()
    assert not [step for step in plan.steps if step.setting == BACKENDS]
    assert "DGL cannot be imported (no wheel)" in dict(plan.skipped)["cola with minilm, DGL beside plain torch"]
    assert {step.task for step in plan.steps} == {step.task for step in whole.steps}
