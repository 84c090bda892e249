"""Names of mteb's tasks and benchmarks, tasks whose data cannot be had, and wrong uses of `glot evaluate`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("mteb", reason="needs mteb")

from glot.errors import UsageError
from glot.mteb_eval.tasks import find_tasks, leaves, read_prompts, split_names

PAIRS = "sentence1\tsentence2\tscore\nthe cat\tthe dog\t1\nthe mat\tthe mat\t5\na dog barks\ta dog\t4\n"


@pytest.fixture
def run(glot: Callable[..., tuple], extracted: Path) -> Path:
    code, _, err = glot("fit", "--cache", extracted, "--epochs", 1, "--hidden", 16, "--device", "cpu", "--out", "run")
    assert code == 0, err
    return Path("run")


@pytest.mark.slow  # imports mteb
def test_names_are_tasks_or_benchmarks() -> None:
    assert split_names("STSBenchmark, MTEB(eng, v2),SciFact,") == ["STSBenchmark", "MTEB(eng, v2)", "SciFact"]
    tasks = find_tasks("SciFact,MTEB(eng, v2)", [])
    names = [task.metadata.name for task in tasks]
    assert names[0] == "SciFact"
    assert {"STSBenchmark", "ArguAna", "Banking77Classification"} <= set(names)
    assert len(set(names)) == len(names) > 40
    assert names.count("SciFact") == 1
    for name, near in [("stsbenchmark", "STSBenchmark"), ("MTEB(eng, v9)", "MTEB(eng, v"), ("xyzzyqqq", "no task")]:
        with pytest.raises(UsageError, match=near.replace("(", r"\(")):
            find_tasks(name, [])
    with pytest.raises(UsageError, match=r"is of .*image.*, not of texts alone"):
        find_tasks("STS12VisualSTS", [])


def test_prompts_by_name() -> None:
    tasks = find_tasks("SciFact", [])
    given = ["query=q: ", "Retrieval=r=2", "SciFact-document=d"]
    assert read_prompts(given, tasks) == {"query": "q: ", "Retrieval": "r=2", "SciFact-document": "d"}
    for wrong in (["ArguAna=a"], ["query"], ["query-SciFact=a"], ["query=a", "query=b"]):
        with pytest.raises(UsageError, match="--mteb-prompt"):
            read_prompts(wrong, tasks)


def test_an_average_of_tasks(glot: Callable[..., tuple], run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mteb.abstasks.aggregate_task_metadata import AggregateTaskMetadata
    from mteb.abstasks.aggregated_task import AbsTaskAggregate

    for name in ("one", "two"):
        Path(f"{name}.tsv").write_text(PAIRS if name == "one" else PAIRS.replace("\t4", "\t0"))
    parts = find_tasks("", ["sts:one.tsv", "sts:two.tsv"])

    class Average(AbsTaskAggregate):
        metadata = AggregateTaskMetadata(
            name="Average",
            description="of two files",
            tasks=parts,
            main_score="cosine_spearman",
            type="STS",
            eval_splits=["test"],
            eval_langs=["und"],
        )

    average = Average()
    assert list(leaves(average)) == parts
    monkeypatch.setattr("glot.mteb_eval.run.find_tasks", lambda *_: [*parts, average])
    for _ in range(2):  # the second time from mteb's files
        code, _, err = glot("evaluate", "--run", run, "--mteb", "any", "--device", "cpu")
        assert code == 0, err
        lines = Path("run/mteb/scores.md").read_text().splitlines()[2:5]
        one, two, both = ([float(cell) for cell in line.split("|")[3:-1]] for line in lines)
        assert both == pytest.approx([(a + b) / 2 for a, b in zip(one, two, strict=True)], abs=0.006)
        assert one != two


def test_tasks_without_data_are_told_and_the_others_done(glot: Callable[..., tuple], run: Path) -> None:
    Path("dev.tsv").write_text(PAIRS)
    command = ["evaluate", "--run", run, "--mteb", "STSBenchmark", "--device", "cpu"]
    code, _, err = glot(*command, "--out", "a")
    assert code == 1
    assert "Traceback" not in err
    assert (
        err.strip().splitlines()[-1].startswith("glot: 1 of 1 tasks could not be evaluated: the data of STSBenchmark")
    )
    assert "--mteb-local" in err
    assert not Path("a/scores.md").exists()
    code, _, err = glot(*command, "--mteb-local", "sts:dev.tsv", "--out", "a")
    assert code == 1
    assert "1 of 2 tasks could not be evaluated (1 others are in a/scores.md)" in err
    assert "LocalSTS-dev" in Path("a/scores.md").read_text()


def test_a_task_of_the_hub_is_loaded_once_and_let_go(
    glot: Callable[..., tuple], run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import Dataset, DatasetDict

    loaded = []

    def load_dataset(path: str, **_: object) -> DatasetDict:
        loaded.append(path)
        pairs = {"sentence1": ["the cat", "the mat", "a dog barks"], "sentence2": ["the dog", "the mat", "a dog"]}
        return DatasetDict(test=Dataset.from_dict({**pairs, "score": [1.0, 5.0, 4.0]}))

    monkeypatch.setattr("mteb.abstasks.abstask.load_dataset", load_dataset)
    Path("dev.tsv").write_text(PAIRS)
    command = ["evaluate", "--run", run, "--mteb", "STSBenchmark", "--mteb-local", "sts:dev.tsv", "--device", "cpu"]
    for _ in range(2):
        code, _, err = glot(*command)
        assert code == 0, err
    assert len(loaded) == 1
    of_hub, of_file = Path("run/mteb/scores.md").read_text().splitlines()[2:4]
    assert of_hub.replace("STSBenchmark", "LocalSTS-dev") == of_file
    assert len(list(Path("run/mteb/results").glob("*/*/STSBenchmark.json"))) == 3


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "or --cache, or tasks with --mteb or --mteb-local"),
        (["--cache", "CACHE", "--mteb", "STSBenchmark"], "or --cache, or tasks"),
        (["--cache", "CACHE", "--max-tokens", "4"], "--max-tokens does not go with --cache"),
        (["--mteb", "STSBenchmark", "--split", "train"], "--split does not go with --mteb"),
        pytest.param(["--mteb", "STSBenchmrk"], "did you mean STSBenchmark", marks=pytest.mark.slow),  # imports mteb
        (["--mteb", ","], "--mteb names no task"),
        (["--mteb-local", "sts"], "write sts:FILE"),
        (["--mteb-local", "clustering:dev.tsv"], "write sts:FILE"),
        (["--mteb-local", "sts:none.tsv"], "no file none.tsv"),
        (["--mteb-local", "sts:none.csv:a,b,c"], "no file none.csv"),
        (["--mteb-local", "sts:dev.tsv:a,b,c"], "no column 'a'; the columns are: sentence1, sentence2, score"),
        (["--mteb-local", "sts:dev.tsv:a,b"], "name 3 columns"),
        (["--mteb-local", "sts:dev.tsv+dev.tsv"], "one file is needed"),
        (
            ["--mteb-local", "sts:dev.tsv:sentence1,score,sentence2"],
            "dev.tsv line 2: label 'the dog' is not a finite number",
        ),
        (["--mteb-local", "sts:short.tsv"], "short.tsv line 2: 2 columns where the header has 3"),
        (["--mteb-local", "sts:header.tsv"], "has no rows"),
        (["--mteb-local", "sts:same.tsv"], "every score is 3"),
        (["--mteb-local", "sts:bad.tsv"], "not UTF-8"),
        (["--mteb-local", "sts:dev.txt"], "unknown kind of table"),
        (["--mteb-local", "sts:dev.tsv", "--mteb-local", "sts:dev.tsv"], "two tasks are called LocalSTS-dev"),
        (["--mteb-local", "classification:dev.tsv"], "no column 'text'"),
        (["--mteb-local", "classification:dev.tsv:sentence1,score"], "occurs once, too few to split"),
        (["--mteb-local", "classification:dev.tsv+same.tsv:sentence1,score"], "label '3' is not among the training"),
        (["--mteb-local", "classification:same.tsv:sentence1,score"], "every label is '3'"),
        (["--mteb-local", "retrieval:empty"], "no empty/qrels.tsv"),
        (["--mteb-local", "retrieval:beir"], "no query 'q1' in queries.jsonl"),
        (["--mteb-local", "retrieval:beir/qrels/broken.tsv"], "names none of the documents"),
        (["--mteb-local", "retrieval:beir:a"], "name 0 columns"),
        (["--mteb-local", "sts:dev.tsv", "--max-tokens", "49"], "takes at most 48 tokens"),
        (["--mteb-local", "sts:dev.tsv", "--run", "run"], "--run names the same run twice"),
        (["--mteb-local", "sts:dev.tsv", "--run", "absent"], "there is no folder absent"),
        (["--mteb-local", "sts:dev.tsv", "--mteb-prompt", "SciFact=a"], "--mteb-prompt 'SciFact=a'"),
        (["--mteb-local", "sts:dev.tsv", "--model", "nothing"], "unknown model"),
        (["--mteb-local", "sts:dev.tsv", "--out", "dev.tsv"], "dev.tsv"),
    ],
)
def test_wrong_use_is_one_line(
    glot: Callable[..., tuple], shared_run: Path, words: list[str], expected: str, tmp_path: Path
) -> None:
    Path("run").symlink_to(shared_run, target_is_directory=True)
    Path("dev.tsv").write_text(PAIRS)
    Path("dev.txt").write_text(PAIRS)
    Path("same.tsv").write_text("sentence1\tsentence2\tscore\na\tb\t3\nc\td\t3\n")
    Path("short.tsv").write_text("sentence1\tsentence2\tscore\na\tb\n")
    Path("header.tsv").write_text("sentence1\tsentence2\tscore\n")
    Path("bad.tsv").write_bytes(b"sentence1\tsentence2\tscore\n\xff\xfe\ta\t1\n")
    Path("empty").mkdir()
    Path("beir/qrels").mkdir(parents=True)
    Path("beir/queries.jsonl").write_text('{"_id": "q0", "text": "a dog"}\n')
    Path("beir/corpus.jsonl").write_text('{"_id": "d0", "text": "a dog barks"}\n')
    Path("beir/qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td0\t1\n")
    Path("beir/qrels/broken.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td1\t1\n")
    code, _, err = glot("evaluate", "--run", "run", "--device", "cpu", *words)
    assert code == 2, err
    assert expected in err
    assert err.startswith("glot: ")
    assert len(err.strip().splitlines()) == 1
    assert not list(Path().rglob("scores.md"))


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory: pytest.TempPathFactory, backbone_folders: dict[str, Path]) -> Path:
    """A run of one backbone for all wrong uses."""
    from glot.corpus.examples import Corpus, Example, Split
    from glot.extract.run import ExtractOptions, extract_states
    from glot.extract.source import ModelSource
    from glot.fit.run import FitOptions, finish_runs, make_configs, prepare_runs
    from glot.store.reader import Cache
    from glot.store.task_spec import TaskSpec

    folder = tmp_path_factory.mktemp("shared")
    examples = [Example(row, f"the dog {row}", None, row % 2) for row in range(8)]
    splits = {name: Split(name, examples, "by hand") for name in ("train", "validation")}
    corpus = Corpus(TaskSpec("made", 1, "classes", ("no", "yes")), splits)
    source = ModelSource("tiny-bert", str(backbone_folders["bert"]))
    extract_states(corpus, source, folder / "cache", ExtractOptions(max_tokens=24, device="cpu"))
    cache = Cache(folder / "cache")
    prepare_runs(make_configs(cache, FitOptions(epochs=1, hidden=16, device="cpu")), folder / "run")
    finish_runs(folder / "run", cache)
    return folder / "run"


def test_runs_of_other_states_are_refused(
    glot: Callable[..., tuple], run: Path, table: Path, backbone_folders: dict[str, Path]
) -> None:
    Path("dev.tsv").write_text(PAIRS)
    data = ["--data", table, "--text", "sentence", "--label", "kind", "--max-tokens", 24, "--layers", "1,2"]
    for family in ("roberta", "bert"):
        assert glot("extract", "--model", backbone_folders[family], *data, "--out", family)[0] == 0
        fit = ["--layer", 1, "--epochs", 1, "--device", "cpu", "--out", f"run-{family}"]
        assert glot("fit", "--cache", family, *fit)[0] == 0
    for family, expected in (
        ("roberta", "run-roberta holds states of tiny-roberta"),
        ("bert", "run and run-bert do not go together: layer 2 there, 1 here"),
    ):
        code, _, err = glot("evaluate", "--run", run, "--run", f"run-{family}", "--mteb-local", "sts:dev.tsv")
        assert (code, expected in err) == (2, True), err


def test_heads_that_mix_layers_stand_beside_the_last_one(
    glot: Callable[..., tuple], table: Path, backbone_folders: dict[str, Path]
) -> None:
    from glot.inference.model import GlotModel
    from glot.mteb_eval.columns import open_comparison
    from glot.mteb_eval.encoder import TextVectors

    data = ["--data", table, "--text", "sentence", "--label", "kind", "--max-tokens", 24]
    assert glot("extract", "--model", backbone_folders["bert"], *data, "--layers", "1,2", "--out", "two")[0] == 0
    for name, options in {"mixed": ["--mix"], "plain": ["--pooler", "mean"]}.items():
        fit = ["--cache", "two", "--preset", "published", "--epochs", 1, "--device", "cpu"]
        assert glot("fit", *fit, *options, "--out", name)[0] == 0
    comparison = open_comparison([Path("mixed")], "dense")
    vectors, texts = TextVectors(comparison, 24, device="cpu"), ["the dog runs", "rain"]
    assert [column.title for column in comparison.columns] == ["GLOT", "mean", "CLS"]
    for index, run in enumerate(("mixed", "plain")):
        expected = GlotModel.load(run, device="cpu").encode(texts)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(vectors.of_column(texts, index), expected, rtol=1e-4, atol=1e-5)
    Path("dev.tsv").write_text(PAIRS)
    code, _, err = glot("evaluate", "--run", "mixed", "--run", "plain", "--mteb-local", "sts:dev.tsv")
    assert (code, "mixed and plain do not go together: layer 1, 2 there, 2 here" in err) == (2, True), err


def test_without_mteb_it_is_one_line(glot: Callable[..., tuple], run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glot.mteb_eval.find_spec", lambda name: None)
    code, _, err = glot("evaluate", "--run", run, "--mteb", "STSBenchmark")
    assert (code, err.strip()) == (
        2,
        "glot: --mteb needs mteb, which is not installed: pip install 'glot-pipeline[mteb]'",
    )
