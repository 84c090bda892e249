"""The product from end to end through the `glot` command, with a tiny backbone and a made table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


def test_from_a_table_to_predictions(glot: Callable[..., tuple], extracted: Path) -> None:
    code, out, err = glot(
        "fit",
        "--cache",
        "cache/train",
        "--seeds",
        "0,1",
        "--epochs",
        8,
        "--hidden",
        16,
        "--lr",
        0.01,
        "--out",
        "runs/a",
    )
    assert code == 0, err
    assert "token graph: mean edge density" in out
    scores = [json.loads(Path(f"runs/a/seed-{seed}/metrics.json").read_text())["best"] for seed in (0, 1)]
    assert min(score["validation"]["accuracy"] for score in scores) > 0.75  # of twenty seeds the worst has 0.92

    code, out, _ = glot("evaluate", "--run", "runs/a", "--cache", extracted)
    assert code == 0
    assert f"accuracy {100 * scores[0]['validation']['accuracy']:.2f}" in out.splitlines()[0]

    code, _, err = glot("predict", "--run", "runs/a", "--cache", extracted)
    assert (code, "name one" in err) == (2, True)
    code, _, err = glot("predict", "--run", "runs/a/seed-0", "--cache", extracted, "--out", "out/test.jsonl")
    assert code == 0, err
    rows = [json.loads(line) for line in Path("out/test.jsonl").read_text().splitlines()]
    truth = ["animal"] * 5 + ["water"] * 5
    assert [row["index"] for row in rows] == list(range(10))
    right = np.mean([row["label"] == label for row, label in zip(rows, truth, strict=True)])
    code, out, _ = glot("evaluate", "--run", "runs/a/seed-0", "--cache", extracted, "--split", "test")
    assert f"accuracy {100 * right:.2f}" in out


def test_a_fit_leaves_a_picture_of_its_loss(glot: Callable[..., tuple], extracted: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib (extra: report)")
    assert glot("fit", "--cache", extracted, "--epochs", 1, "--out", "run")[0] == 0
    assert Path("run/loss.png").read_bytes()[:4] == b"\x89PNG"


def test_a_fit_needs_no_matplotlib(
    glot: Callable[..., tuple], extracted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    code, _, err = glot("fit", "--cache", extracted, "--epochs", 1, "--out", "run")
    assert code == 0, err
    assert Path("run/head.safetensors").exists()
    assert not Path("run/loss.png").exists()


def test_sorted_data_with_a_small_window_are_learnt_as_in_memory(
    glot: Callable[..., tuple], table: Path, backbone_folders: dict[str, Path]
) -> None:
    from dataclasses import replace

    from glot.corpus.load import load_table
    from glot.extract.run import ExtractOptions, extract_states
    from glot.extract.source import resolve_model
    from glot.fit.run import FitOptions, make_configs
    from glot.fit.train import fit_head
    from glot.store.reader import Cache

    corpus = load_table(table, table.with_name("dev.csv"), "sentence", None, "kind")
    options = ExtractOptions(max_tokens=24, shard_bytes=64 * 200)  # about 200 tokens a shard
    extract_states(corpus, resolve_model(str(backbone_folders["llama"])), Path("cache/sorted"), options)
    cache = Cache("cache/sorted")
    assert cache.manifest.plan.shards > 4
    memory = make_configs(cache, FitOptions(device="cpu", epochs=8, hidden=16, lr=1e-2))[0]
    assert memory.train.window is None
    streamed = replace(memory, train=replace(memory.train, window=1))
    scores = [
        fit_head(cache, config, Path(name)).best["validation"]["accuracy"]
        for name, config in [("memory", memory), ("streamed", streamed)]
    ]
    assert min(scores) > 0.7  # of twenty seeds the worst has 0.85, both ways; chance is 0.5


def test_a_second_extract_forwards_nothing(
    glot: Callable[..., tuple], extracted: Path, table: Path, backbone_folders: dict[str, Path]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in extracted.glob("shard-*.h5")}
    options = ["--data", table, "--eval-data", table.with_name("dev.csv"), "--test-data", table.with_name("test.csv")]
    code, out, _ = glot(
        "extract",
        "--model",
        backbone_folders["bert"],
        *options,
        "--text",
        "sentence",
        "--label",
        "kind",
        "--max-tokens",
        24,
    )
    assert code == 0
    assert "forwarded 0 texts" in out
    assert {path: path.stat().st_mtime_ns for path in extracted.glob("shard-*.h5")} == before


def test_a_graph_that_says_nothing_is_warned_of(glot: Callable[..., tuple], extracted: Path) -> None:
    for tau, hint in [("1", "lower"), ("-1", "higher")]:
        code, _, err = glot("fit", "--cache", extracted, "--tau", tau, "--epochs", 1, "--out", f"runs/{tau}")
        assert code == 0
        assert f"{hint} --tau" in err


@pytest.mark.slow
def test_a_killed_fit_goes_on_with_resume(glot: Callable[..., tuple], extracted: Path) -> None:
    """A real SIGKILL between two checkpoints; what is left is what an unbroken run gives."""
    code = (
        "import os, glot.fit.regression, glot.fit.train as t\n"
        "glot.fit.regression.STRENGTHS = (0.1,)\n"  # as in this process
        "t.CHECKPOINT_SECONDS = 0\n"
        "save = t.Training.save_checkpoint\n"
        "count = [0]\n"
        "def save_and_die(self):\n"
        "    save(self)\n"
        "    count[0] += 1\n"
        "    if count[0] == 7: os.kill(os.getpid(), 9)\n"
        "t.Training.save_checkpoint = save_and_die\n"
        "import sys\n"
        "from glot.commands import app\n"
        "sys.argv = ['glot', 'fit', '--cache', sys.argv[1], '--out', 'runs/killed']\n"
        "app.main()\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(extracted)], capture_output=True, timeout=120, env=environment
    )
    assert done.returncode == -9, done.stderr
    assert Path("runs/killed/checkpoint.safetensors").exists()
    assert not Path("runs/killed/metrics.json").exists()
    code, _, err = glot("fit", "--resume", "runs/killed")
    assert code == 0, err
    assert glot("fit", "--cache", extracted, "--out", "runs/whole")[0] == 0
    assert Path("runs/killed/head.safetensors").read_bytes() == Path("runs/whole/head.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["extract", "--model", "minlm", "--task", "cola"], "did you mean minilm"),
        (["extract", "--model", "BERT_FOLDER", "--task", "colaa"], "did you mean 'cola'"),
        (["extract", "--model", "BERT_FOLDER"], "--task"),
        (["extract", "--model", "BERT_FOLDER", "--data", "absent.csv"], "absent.csv"),
        (["extract", "--model", "BERT_FOLDER", "--data", "train.csv", "--text", "text"], "sentence"),
        (["extract", "--model", "BERT_FOLDER", "--task", "cola", "--data-dir", "absent"], "absent"),
        (["extract", "--model", "absent/", "--task", "cola"], "unknown model"),
        (["extract", "--model", "BERT_FOLDER", "--task", "stress", "--ratio", "1.5"], "ratio"),
        (["extract", "--model", "BERT_FOLDER", "--task", "stress", "--generator", "new"], "generator"),
        (["extract", "--model", "BERT_FOLDER", "--task", "stress", "--layers", "7"], "--layers"),
        (["extract", "--model", "BERT_FOLDER", "--task", "stress", "--layers", "x"], "--layers"),
        (["extract", "--model", "BERT_FOLDER", "--task", "stress", "--dtype", "int3"], "--dtype"),
        (["extract", "--model", "BERT_FOLDER", "--task", "stress", "--out", "train.csv/x"], "train.csv/x"),
        (["fit"], "--cache"),
        (["fit", "--cache", "absent"], "absent"),
        (["fit", "--cache", "."], "no cache"),
        (["fit", "--resume", "absent"], "absent"),
        (["evaluate", "--run", "absent", "--cache", "."], "absent"),
        (["stress", "--model", "BERT_FOLDER", "--poolers", "sum"], "sum"),
        (["reproduce", "--profile", "slow"], "slow"),
        (["reproduce", "--profile", "paper"], "YES=1"),
        (["fit", "--cache"], "--cache"),
        (["fit", "--epochs", "x"], "--epochs"),
        (["fit", "--colour", "x"], "--colour"),
        (["fry"], "fry"),
        (["extract", "--model", "BERT_FOLDER", "--data", "train.csv", "--ratio", "0.2"], "--ratio does not go"),
        (["extract", "--model", "BERT_FOLDER", "--task", "mrpc", "--text-b", "b"], "--text-b does not go"),
        (["extract", "--model", "BERT_FOLDER", "--data", "train.csv", "--task", "../up"], "task name"),
        (["extract", "--model", "BERT_FOLDER", "--task", "stress", "--max-tokens", "4000"], "at most 48"),
        (["stress", "--model", "minlm"], "did you mean minilm"),
        (["stress", "--model", "BERT_FOLDER", "--ratios=-0.5"], "[0, 1)"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(
    glot: Callable[..., tuple], table: Path, backbone_folders: dict[str, Path], arguments: list[str], expected: str
) -> None:
    before = sorted(Path().rglob("*"))
    code, _, err = glot(*[str(backbone_folders["bert"]) if word == "BERT_FOLDER" else word for word in arguments])
    assert code == 2
    assert expected in err
    assert "Traceback" not in err
    assert sorted(Path().rglob("*")) == before  # nothing half-written
    assert err.startswith("glot: ")
    assert len(err.strip().splitlines()) == 1


def test_a_bad_label_names_file_and_row(
    glot: Callable[..., tuple], table: Path, backbone_folders: dict[str, Path]
) -> None:
    dev = table.with_name("dev.csv")
    dev.write_text(dev.read_text() + "a text,plant\n")
    options = ["--data", table, "--eval-data", dev, "--text", "sentence", "--label", "kind"]
    code, _, err = glot("extract", "--model", backbone_folders["bert"], *options)
    assert code == 2
    assert "dev.csv" in err
    assert "42" in err
    assert not Path("cache").exists()


def test_help_names_every_command(glot: Callable[..., tuple]) -> None:
    code, out, _ = glot("--help")
    assert code == 0
    assert all(word in out for word in ("extract", "fit", "evaluate", "predict", "explain", "stress", "reproduce"))


@pytest.mark.parametrize("family", ["mistral", "llama", "bert", "roberta"])
def test_every_family_goes_from_text_to_score(
    glot: Callable[..., tuple], table: Path, backbone_folders: dict[str, Path], family: str
) -> None:
    options = ["--data", table, "--text", "sentence", "--label", "kind", "--max-tokens", 24, "--task", "animals"]
    code, out, err = glot("extract", "--model", backbone_folders[family], *options)
    assert code == 0, err
    assert "train 216, validation 24" in out  # a tenth is held out where no --eval-data is given
    states = json.loads(Path(f"cache/animals/tiny-{family}/manifest.json").read_text())["states"]
    assert states["kind"] == ("encoder" if family in ("bert", "roberta") else "decoder")
    code, out, err = glot("fit", "--cache", "cache/animals", "--epochs", 1, "--hidden", 8, "--out", "run")
    assert code == 0, err
    assert "accuracy" in out
    position = json.loads(Path("run/config.json").read_text())["pooler"]["token_position"]
    assert position == ("first" if family in ("bert", "roberta") else "last")


def test_ctrl_c_says_what_to_do(glot: Callable[..., tuple], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("glot.store.reader.Cache.__init__", interrupt)
    code, _, err = glot("fit", "--cache", "x")
    assert code == 130
    assert "the same command goes on" in err
