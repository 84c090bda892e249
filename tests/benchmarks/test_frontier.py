"""The frontier at a tiny size: every method that can run here ends with a score, and what is there is not run again."""

from __future__ import annotations

import csv
import math
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.frontier import __main__ as frontier
from benchmarks.frontier import finetune, report, results
from benchmarks.frontier.measure import Meter, Spec, measure
from benchmarks.frontier.results import Measured, TaskName
from glot.store.reader import Cache

WORDS = ["rain", "falls", "softly", "over", "the", "old", "town", "in", "autumn", "books", "about", "ships"]
HEADS = ["logistic", "logistic-best-layer", "published", "adapool", "strong"]
PEERS = ["full", *(["lora"] if find_spec("peft") else [])]


def sentence(rows: random.Random, word: str) -> str:
    return " ".join([*rows.choices(WORDS, k=rows.randint(2, 5)), word])


@pytest.fixture(scope="module")
def glue(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SST-2 where "dog" is positive, MRPC and STS-B where equal last words are alike."""
    folder, rows = tmp_path_factory.mktemp("glue"), random.Random(0)
    for name in ("SST-2", "MRPC", "STS-B"):
        (folder / name).mkdir()
    for split, count in (("train", 60), ("dev", 24)):
        single, pairs, scores = ["sentence\tlabel"], [], []
        for row in range(count):
            word, other = ("dog", "river")[row % 2], ("dog", "river")[row // 2 % 2]
            single.append(f"{sentence(rows, word)}\t{1 - row % 2}")
            both = f"{sentence(rows, word)}\t{sentence(rows, other)}"
            pairs.append(f"{int(word == other)}\t1\t2\t{both}")
            scores.append(f"{row}\tg\tf\ty\t0\ts\ts\t{both}\t{4.0 if word == other else 1.0}")
        head = "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore"
        (folder / "SST-2" / f"{split}.tsv").write_text("\n".join(single) + "\n")
        (folder / "MRPC" / f"{split}.tsv").write_text(
            "\n".join(["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String", *pairs]) + "\n"
        )
        (folder / "STS-B" / f"{split}.tsv").write_text("\n".join([head, *scores]) + "\n")
    return folder


@pytest.fixture(scope="module")
def make_spec(glue: Path, backbone_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """`make(task, method, sample=0)`; the caches are of all layers, and made once."""
    from glot.corpus.load import load_task
    from glot.extract.run import ExtractOptions, extract_states
    from glot.extract.source import resolve_model

    model, caches = str(backbone_folders["bert"]), {}

    def make(task: str, method: str, sample: int = 0, **more: object) -> Spec:
        family = TaskName.parse(task).family
        if family not in caches:
            caches[family] = tmp_path_factory.mktemp("cache") / family
            corpus = load_task(family, ["train", "validation"], glue)
            options = ExtractOptions(max_tokens=24, layers=None, engine="torch")
            extract_states(corpus, resolve_model(model), caches[family], options)
        scratch = tmp_path_factory.mktemp("scratch")
        reads = {} if method in PEERS else {"cache": str(caches[family]), "cache_rate": 0.5}
        return Spec(task, model, method, sample, str(glue), str(scratch), **reads, **more)

    return make


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(finetune, "RATES", {"full": (1e-4, 1e-3), "lora": (1e-4, 1e-3)})
    monkeypatch.setattr(finetune.Pace, "of", lambda count: finetune.Pace(16, 2, 1, 1 / 4))
    monkeypatch.setattr("glot.fit.regression.STRENGTHS", (0.1,))


@pytest.mark.parametrize("method", [*HEADS, *PEERS])
def test_a_method_ends_with_a_score(method: str, make_spec: Callable) -> None:
    found = measure(make_spec("sst2-16", method))
    assert 0 <= found.scores["accuracy"] <= 1
    assert found.parameters > 0
    assert (found.extraction_seconds == 0) == (method in PEERS)
    assert found.extraction_seconds + found.search_seconds < found.processor_seconds
    again = measure(make_spec("sst2-16", method))
    assert again.scores == found.scores


@pytest.mark.slow
def test_a_search_ends_with_a_score(make_spec: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna", reason="optuna is not installed (extra: tune)")

    monkeypatch.setattr("glot.fit.presets._pace", lambda options, task, examples: {"lr": 1e-3, "epochs": 1})
    found = measure(make_spec("sst2-32", "tuned", minutes=0))
    assert 0 <= found.scores["accuracy"] <= 1
    assert found.chosen["candidates"] == 4


@pytest.mark.parametrize("task", ["mrpc", "stsb"])
@pytest.mark.parametrize("method", ["logistic", "full"])
def test_pairs_and_scores(task: str, method: str, make_spec: Callable) -> None:
    found = measure(make_spec(task, method))
    if task == "stsb":
        mean = (found.scores["pearson"] + found.scores["spearman"]) / 2
        assert found.scores["mean correlation"] == pytest.approx(mean)
    else:
        assert set(found.scores) == {"accuracy", "f1"}


@pytest.mark.parametrize("family", ["llama", "roberta"])
def test_other_backbones_are_fine_tuned(family: str, make_spec: Callable, backbone_folders: dict[str, Path]) -> None:
    for method in PEERS:
        assert measure(replace(make_spec("mrpc", method), model=str(backbone_folders[family]))).chosen["epoch"] in (
            1,
            2,
        )


def test_the_regression_is_anybody_s(make_spec: Callable) -> None:
    spec = make_spec("sst2-16", "logistic", sample=1)
    cache = Cache(spec.cache)
    train, dev = cache.examples("train"), cache.examples("validation")

    def means(rows: np.ndarray) -> np.ndarray:
        states = [cache.read_texts(2, np.asarray([text])) for text in rows]
        return np.stack([(some.values * some.scale[:, None]).mean(axis=0) for some in states])  # of int8

    order = np.random.default_rng([1, 16]).permutation(60)  # even rows are positive
    chosen = [*[row for row in order if row % 2 == 0][:8], *[row for row in order if row % 2 == 1][:8]]
    here = np.flatnonzero(np.isin(train.index, chosen))
    peer = make_pipeline(StandardScaler(), LogisticRegressionCV(Cs=8, cv=4, max_iter=300))
    peer.fit(means(train.text_id[here]), train.label[here])
    assert measure(spec).scores["accuracy"] == pytest.approx(peer.score(means(dev.text_id), dev.label))
    assert measure(spec).extraction_seconds == pytest.approx(
        0.5 * sum(np.diff(cache.plan.token_start)[np.unique(train.text_id[here])])
    )


def test_nothing_is_chosen_on_the_validation_set(make_spec: Callable, glue: Path, tmp_path: Path) -> None:
    """The same is chosen where its labels are turned round, and the accuracy is the rest."""
    (tmp_path / "SST-2").mkdir()
    for name in ("train.tsv", "dev.tsv"):
        lines = (glue / "SST-2" / name).read_text().splitlines()
        if name == "dev.tsv":
            lines = [lines[0], *(line[:-1] + str(1 - int(line[-1])) for line in lines[1:])]
        (tmp_path / "SST-2" / name).write_text("\n".join(lines) + "\n")
    spec = make_spec("sst2-16", "full")
    found, turned = measure(spec), measure(replace(spec, data_dir=str(tmp_path)))
    assert {**found.chosen, "searching": 0} == {**turned.chosen, "searching": 0}
    assert found.scores["accuracy"] == pytest.approx(1 - turned.scores["accuracy"])


def test_a_rate_that_is_settled_is_not_searched_again(make_spec: Callable) -> None:
    found = measure(make_spec("sst2-16", "full", 1, settled={"rate": 1e-4, "search_seconds": 1000.0}))
    assert found.chosen["rate"] == 1e-4
    assert found.search_seconds == 1000.0
    assert 1000 < found.processor_seconds < 2000


@pytest.mark.slow
def test_it_runs_to_its_end_and_resumes(
    glue: Path, backbone_folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "made"

    def run(methods: str, samples: int, *more: str) -> str:
        options = ["--tasks", "sst2-16", "--methods", methods, "--samples", str(samples), *more]
        options += ["--models", str(backbone_folders["bert"]), "--folder", str(folder), "--data-dir", str(glue)]
        capsys.readouterr()
        frontier.main(options)
        return capsys.readouterr().out

    run("logistic", 1)
    run("logistic,full", 2)
    found = results.load_results(folder / "results.jsonl")
    lines = (folder / "results.jsonl").read_text()
    assert len(lines.splitlines()) == len(found) == 4
    first, second = (found["sst2-16", "tiny-bert", "full", sample] for sample in (0, 1))
    assert second.chosen["rate"] == first.chosen["rate"]
    assert second.search_seconds == first.chosen["searching"] > 0
    assert run("logistic,full", 2) == ""
    assert (folder / "results.jsonl").read_text() == lines
    assert "logistic, sample 0: accuracy" in run("logistic", 1, "--again")
    assert len((folder / "results.jsonl").read_text().splitlines()) == 5
    frontier.main(["--folder", str(folder), "--report", str(tmp_path / "frontier.md")])
    assert "### SST-2, 16 rows, `tiny-bert`" in (tmp_path / "frontier.md").read_text()


def test_what_takes_too_long_is_ended_with_what_it_started(tmp_path: Path) -> None:
    code = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; print(1, flush=True); "
    code += "time.sleep(60)'])"
    began = time.monotonic()
    assert frontier.run_process(["-c", code], 1, tmp_path / "log", 1.5) is None
    assert time.monotonic() - began < 30
    assert frontier.run_process(["-c", "raise SystemExit(3)"], 1, tmp_path / "log", None) == 3


def measured(method: str, sample: int, seconds: float, parameters: int = 1000, **scores: float) -> Measured:
    return Measured("mrpc", "minilm", method, sample, scores, processor_seconds=seconds, parameters=parameters)


SOME = [
    measured("logistic", 0, 2.0, accuracy=0.72, f1=0.80),
    measured("strong", 0, 10.0, accuracy=0.76, f1=0.84),
    measured("strong", 1, 30.0, accuracy=0.78, f1=0.86),
    measured("strong", 2, 20.0, accuracy=0.77, f1=0.85),
    measured("full", 0, 4000.0, 22_713_602, accuracy=0.80, f1=0.87),
    Measured("mrpc", "minilm", "lora", 0, not_done="not done in 25 minutes"),
]


def test_the_table() -> None:
    rows = report.table(SOME, "mrpc", "minilm")
    # 4.30 is Student's t of two degrees of freedom; the deviation of 76, 77, 78 is 1
    half = round(4.303 / math.sqrt(3), 1)
    assert f"| GLOT, strong | 1,000 | 20 | 77.0 ± {half} (3) | 85.0 ± {half} (3) | 96.2 % | 1 |" in rows
    assert "| full fine-tuning | 22,713,602 | 4,000 | 80.0 (1) | 87.0 (1) | 100.0 % | 200 |" in rows
    assert "| logistic regression | 1,000 | 2.0 | 72.0 (1) | 80.0 (1) | 90.0 % | 0.1 |" in rows
    assert "| LoRA, r = 64 | | | not done in 25 minutes | | | |" in rows
    assert len({line.count("|") for line in rows}) == 1


def test_the_scores_as_csv(tmp_path: Path) -> None:
    report.write_scores(SOME, tmp_path / "scores.csv")
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    assert {row["method"] for row in rows} == {"logistic", "strong", "full"}  # LoRA was not done
    strong = next(row for row in rows if row["method"] == "strong" and row["metric"] == "accuracy")
    assert (strong["percent"], strong["samples"], strong["half_interval"]) == ("77.0", "3", "2.5")


def test_the_interval_is_student_s() -> None:
    values = [70.0, 71.5, 69.0, 72.0, 70.5]
    low, high = stats.t.interval(0.95, 4, loc=np.mean(values), scale=stats.sem(values))
    mean, half = report.interval(values)
    assert (mean - half, mean + half) == pytest.approx((low, high))
    assert report.interval([3.0]) == (3.0, None)


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    more = [replace(one, task="sst2-16") for one in SOME] + [replace(one, task="sst2") for one in SOME]
    report.draw([*SOME, *more], tmp_path / "frontier.svg")
    drawn = (tmp_path / "frontier.svg").read_text()
    assert "MRPC, minilm" in drawn
    assert "SST-2, minilm: 16, all rows" in drawn
    assert drawn.count("GLOT, strong") >= 2
    assert "LoRA" not in drawn


def test_labels_keep_their_distance() -> None:
    values = [1.0, 1.1, 1.2, 5.0]
    places = report.spread(values, 1.0)
    assert min(np.diff(places)) >= 1.0 - 1e-9
    assert sum(places) == pytest.approx(sum(values))


def test_results_outlive_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    results.append_result(path, SOME[0])
    with open(path, "a") as file:
        file.write('{"task": "mrpc", "mod')
    results.append_result(path, SOME[1])
    results.append_result(path, replace(SOME[0], processor_seconds=3.0))
    found = results.load_results(path)
    assert set(found) == {SOME[0].key, SOME[1].key}
    assert found[SOME[0].key].processor_seconds == 3.0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--tasks", "sst3"], "--tasks takes sst2, mrpc, cola, stsb"),
        (["--tasks", "sst2-15"], "got 'sst2-15'"),
        (["--tasks", "stsb-64"], "stsb has no classes"),
        (["--methods", "svm"], "--methods takes logistic"),
        (["--methods", "setfit"], "setfit needs --setfit-python"),
        (["--models", "minilmm"], "minilm"),
        (["--samples", "0"], "must be above 0"),
        (["--methods", "logistic", "--data-dir", "nowhere"], "there is no GLUE folder at nowhere"),
        (["--folder", "nowhere", "--report", "out.md"], "measure first"),
    ],
)
def test_wrong_use(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        frontier.parse(options)
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_seconds_are_the_processor_s() -> None:
    meter = Meter()
    with meter.on("training"):
        time.sleep(0.3)
    assert meter.spent["training"] < 0.2  # waiting is none
    with meter.on("scoring"):
        subprocess.run([sys.executable, "-c", "sum(range(10**7))"], check=True)
    assert meter.spent["scoring"] > 0.02  # a child's are
