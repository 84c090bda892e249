"""`glot evaluate --mteb-local` through mteb itself: the scores are those of sentence-transformers' own pooling."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

pytest.importorskip("mteb", reason="needs mteb")

from glot import GlotModel
from glot.mteb_eval.local_tasks import local_task

WORDS = ["rain", "falls", "softly", "over", "the", "old", "town", "in", "autumn", "books", "dog", "river", "cat", "mat"]
COLUMNS = ["GLOT", "AdaPool", "mean", "CLS"]


def make_texts(count: int, seed: int, shortest: int = 2) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, int(random.integers(shortest, 10)))) for _ in range(count)]


def write_sts(path: Path, seed: int = 0) -> Path:
    """Pairs whose score is the share of words that they have in common, as GLUE writes them: a quote is text."""
    lines = ["index\tsentence1\tsentence2\tscore"]
    for row, (a, b) in enumerate(zip(make_texts(40, seed), make_texts(40, seed + 1), strict=True)):
        score = 5 * len({*a.split()} & {*b.split()}) / len({*a.split()} | {*b.split()})
        quote = '"' if row % 9 == 0 else ""
        lines.append(f"{row}\t{quote}{a}\t{b}\t{score:.3f}")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_retrieval(folder: Path) -> Path:
    """Documents with a title, and queries of words of theirs, in BEIR's layout."""
    (folder / "qrels").mkdir(parents=True)
    documents, random = make_texts(30, 5, shortest=5), np.random.default_rng(6)
    queries = [" ".join(random.choice(document.split(), 3)) for document in documents[:12]]
    rows = [{"_id": f"d{i}", "title": "the town" if i % 2 else "", "text": text} for i, text in enumerate(documents)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    rows = [{"_id": f"q{i}", "text": text} for i, text in enumerate([*queries, "nobody asks for me"])]
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in range(12))]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def runs(glot: Callable[..., tuple], extracted: Path) -> list[str]:
    for pooler in ("glot", "adapool"):
        options = ["--pooler", pooler, "--hidden", 16, "--epochs", 1, "--device", "cpu"]
        code, _, err = glot("fit", "--cache", extracted, *options, "--out", f"runs/{pooler}")
        assert code == 0, err
    return ["--run", "runs/glot", "--run", "runs/adapool", "--device", "cpu"]


def read_scores(folder: Path) -> dict[str, dict[str, float]]:
    """Task -> column -> score in percent, from the Markdown table."""
    lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in (folder / "scores.md").read_text().split("\n")
    ]
    rows = [line for line in lines if line]
    return {row[0]: dict(zip(rows[0][2:], map(float, row[2:]), strict=True)) for row in rows[2:]}


def sentence_transformer(folder: Path, pooling: str, max_tokens: int) -> object:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    transformer = Transformer(str(folder), max_seq_length=max_tokens)
    if transformer.tokenizer.pad_token is None:
        transformer.tokenizer.pad_token = transformer.tokenizer.eos_token
    pooled = Pooling(transformer.get_embedding_dimension(), pooling)
    return SentenceTransformer(modules=[transformer, pooled, Normalize()], device="cpu")


def peer_score(model: object, where: str) -> float:
    import mteb

    result = mteb.evaluate(model, local_task(where), cache=None, co2_tracker=False, show_progress_bar=False)
    return 100 * result.task_results[0].get_score()


@pytest.mark.slow
def test_scores_are_those_of_sentence_transformers(
    glot: Callable[..., tuple], runs: list[str], table: Path, backbone_folders: dict[str, Path]
) -> None:
    tasks = {
        "LocalSTS-pairs": f"sts:{write_sts(Path('pairs.tsv'))}",
        "LocalClassification-train": f"classification:{table}+{table.with_name('dev.csv')}:sentence,kind",
        "LocalRetrieval-beir": f"retrieval:{write_retrieval(Path('beir'))}",
    }
    options = [word for where in tasks.values() for word in ("--mteb-local", where)]
    code, out, err = glot("evaluate", *runs, *options, "--out", "scores")
    assert code == 0, err
    scores = read_scores(Path("scores"))
    assert list(scores) == [*tasks, "mean of 3 tasks"]
    assert all(list(row) == COLUMNS for row in scores.values())
    for title, pooling in (("mean", "mean"), ("CLS", "cls")):
        peer = sentence_transformer(backbone_folders["bert"], pooling, 24)
        for task, where in tasks.items():
            assert scores[task][title] == pytest.approx(peer_score(peer, where), abs=0.006), (task, title)
            assert f"{scores[task][title]:.2f}" in out
        assert scores["mean of 3 tasks"][title] == pytest.approx(
            np.mean([scores[task][title] for task in tasks]), abs=0.006
        )
    with open("pairs.tsv", encoding="utf-8") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    assert len(rows) == 40
    for title, run in (("GLOT", "runs/glot"), ("AdaPool", "runs/adapool")):
        first, second = (GlotModel.load(run, device="cpu").encode([row[column] for row in rows]) for column in (1, 2))
        cosines = (first * second).sum(1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
        expected = 100 * spearmanr(cosines, [float(row[3]) for row in rows]).statistic
        assert scores["LocalSTS-pairs"][title] == pytest.approx(expected, abs=0.006)


def test_last_token_of_a_decoder(glot: Callable[..., tuple], table: Path, backbone_folders: dict[str, Path]) -> None:
    folder, where = backbone_folders["mistral"], f"sts:{write_sts(Path('pairs.tsv'))}"
    data = ["--data", table, "--text", "sentence", "--label", "kind", "--max-tokens", 40]
    assert glot("extract", "--model", folder, *data, "--out", "made")[0] == 0
    assert glot("fit", "--cache", "made", "--pooler", "mean", "--epochs", 1, "--device", "cpu", "--out", "run")[0] == 0
    code, _, err = glot("evaluate", "--run", "run", "--mteb-local", where, "--device", "cpu")
    assert code == 0, err
    scores = read_scores(Path("run/mteb"))["LocalSTS-pairs"]
    assert list(scores) == ["mean", "last token"]  # the run is the mean already
    for title, pooling in (("mean", "mean"), ("last token", "lasttoken")):
        expected = peer_score(sentence_transformer(folder, pooling, 40), where)
        assert scores[title] == pytest.approx(expected, abs=0.006)


def test_a_text_is_forwarded_once_and_finished_tasks_never_again(
    glot: Callable[..., tuple],
    runs: list[str],
    forwarded: list[tuple[int, ...]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = write_sts(Path("pairs.tsv"))
    task = local_task(f"sts:{path}")
    pairs = task.dataset["default"]["test"]
    distinct = {*pairs["sentence1"], *pairs["sentence2"]}
    command = ["evaluate", *runs, "--mteb-local", f"sts:{path}", "--out", "scores"]
    forwarded.clear()
    assert glot(*command)[0] == 0
    assert len(forwarded) == len(distinct)
    first = Path("scores/scores.md").read_bytes()
    assert len(list(Path("scores/results").glob("*/*/LocalSTS-pairs.json"))) == 4

    with monkeypatch.context() as patch:  # not even the backbone is loaded
        patch.setattr("glot.mteb_eval.encoder.load_run_backbone", None)
        Path("scores/scores.md").unlink()
        code, _, err = glot(*command)
        assert code == 0, err
        assert Path("scores/scores.md").read_bytes() == first

    # A result that is cut off is made again, that one alone.
    damaged = next(Path("scores/results").glob("glot__tiny-bert-mean/*/LocalSTS-pairs.json"))
    whole = json.loads(damaged.read_text())
    damaged.write_text(damaged.read_text()[:100])
    forwarded.clear()
    assert glot(*command)[0] == 0
    assert len(forwarded) == len(distinct)
    assert json.loads(damaged.read_text())["scores"] == whole["scores"]

    # Another limit, and other data under the old name, give other scores; those of the old limit stay.
    limited = [*command, "--max-tokens", 4]
    assert glot(*limited)[0] == 0
    assert max(map(len, forwarded[len(distinct) :])) == 4
    assert len(list(Path("scores/results").glob("*/*/LocalSTS-pairs.json"))) == 8
    assert Path("scores/scores.md").read_bytes() != first
    write_sts(path, seed=9)
    assert glot(*command)[0] == 0
    assert Path("scores/scores.md").read_bytes() != first
    write_sts(path)
    assert glot(*command)[0] == 0
    assert Path("scores/scores.md").read_bytes() == first


def test_where_memory_ends_texts_are_forwarded_again(
    glot: Callable[..., tuple], runs: list[str], forwarded: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = f"sts:{write_sts(Path('pairs.tsv'))}"
    assert glot("evaluate", *runs, "--mteb-local", where, "--out", "a")[0] == 0
    once = len(forwarded)
    monkeypatch.setattr("glot.mteb_eval.encoder.available_memory", lambda: 4 * 4 * 200 * 10)
    monkeypatch.setattr("glot.mteb_eval.encoder.WINDOW", 7)
    forwarded.clear()
    assert glot("evaluate", *runs, "--mteb-local", where, "--out", "b")[0] == 0
    assert len(forwarded) > 2 * once
    assert read_scores(Path("a")) == read_scores(Path("b"))


def test_prompts_stand_before_the_texts_they_are_for(
    glot: Callable[..., tuple],
    runs: list[str],
    forwarded: list[tuple[int, ...]],
    backbone_folders: dict[str, Path],
) -> None:
    from transformers import AutoTokenizer

    tasks = ["--mteb-local", f"retrieval:{write_retrieval(Path('beir'))}"]
    tasks += ["--mteb-local", f"sts:{write_sts(Path('pairs.tsv'))}"]
    prompts = ["--mteb-prompt", "Retrieval-query=birds nest ", "--mteb-prompt", "LocalSTS-pairs=letters: "]
    forwarded.clear()
    code, _, err = glot("evaluate", *runs, *tasks, *prompts, "--out", "a")
    assert code == 0, err
    tokenizer = AutoTokenizer.from_pretrained(backbone_folders["bert"])
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in forwarded]
    assert sum(text.startswith("birds nest") for text in texts) == 12  # the query without an answer is not asked
    assert sum(text.startswith("letters") for text in texts) >= 70
    assert sum(not text.startswith(("letters", "birds nest")) for text in texts) == 30
    assert sum(text.startswith("the town") for text in texts) >= 15
    code, _, err = glot("evaluate", *runs, *tasks, "--out", "a")
    assert code == 0, err
    assert len(list(Path("a/results").glob("*/*/LocalRetrieval-beir.json"))) == 8  # with prompts, and without


def test_a_file_without_a_test_part_is_split(table: Path) -> None:
    task = local_task(f"classification:{table}:sentence,kind")
    parts = task.dataset["default"]
    assert (len(parts["train"]), len(parts["test"])) == (192, 48)
    assert sorted(set(parts["test"]["label"])) == [0, 1]
    assert parts["test"]["label"].count(0) == 24
    again = local_task(f"classification:{table}:sentence,kind").dataset["default"]
    assert parts["test"]["text"] == again["test"]["text"]
    with open(table, newline="") as file:
        texts = sorted(row["sentence"] for row in csv.DictReader(file))
    assert sorted([*parts["train"]["text"], *parts["test"]["text"]]) == texts


def test_kinds_of_files_and_columns(tmp_path: Path) -> None:
    rows = [{"a": "one\ttwo", "b": 'three "four"', "n": 1.5}, {"a": "five, six", "b": "seven", "n": 3}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with open(tmp_path / "p.csv", "w", newline="") as file:
        csv.writer(file).writerows([["a", "b", "n"], *(row.values() for row in rows)])
    for name in ("p.jsonl", "p.csv"):
        task = local_task(f"sts:{tmp_path / name}:a,b,n")
        assert task.dataset["default"]["test"].to_list() == [
            {"sentence1": row["a"], "sentence2": row["b"], "score": row["n"]} for row in rows
        ]
        assert (task.min_score, task.max_score) == (1.5, 3)
        assert task.metadata.license == "not specified"
    folder = write_retrieval(tmp_path / "beir")
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t2\n")
    task = local_task(f"retrieval:{folder / 'qrels' / 'dev.tsv'}")
    assert task.metadata.name == "LocalRetrieval-beir-dev"
    assert task.dataset["default"]["test"]["relevant_docs"] == {"q1": {"d1": 2}}


@pytest.mark.parametrize(
    ("template", "prompts"),
    [
        (None, ["--mteb-prompt", "query=the old town in autumn over the old town: "]),
        ("the old town in autumn over the old town: {text}", []),
        ("the old town in: {text}", ["--mteb-prompt", "STS=autumn over the old town: "]),
    ],
    ids=["prompt", "template", "both"],
)
def test_a_prompt_must_leave_room_for_a_text(
    glot: Callable[..., tuple], table: Path, backbone_folders: dict[str, Path], template: str | None, prompts: list
) -> None:
    """Else every text would have the vector of the prompt."""
    options = ["--data", table, "--text", "sentence", "--label", "kind", "--max-tokens", 24]
    options += ["--prompt", template] if template else []
    code, _, err = glot("extract", "--model", backbone_folders["bert"], *options)
    assert code == 0, err
    fit = ["fit", "--cache", "cache/train/tiny-bert", "--hidden", 4, "--epochs", 1, "--out", "runs/glot"]
    assert glot(*fit)[0] == 0
    write_sts(Path("sts.tsv"))
    arguments = ["evaluate", "--run", "runs/glot", "--mteb-local", "sts:sts.tsv", *prompts, "--device", "cpu"]
    code, out, err = glot(*arguments, "--max-tokens", 6)
    assert (code, out) == (2, "")
    line = err.splitlines()[-1]
    assert line.startswith("glot: --max-tokens 6 leaves no token of the text: pass at least "), err
    code, _, err = glot(*arguments, "--max-tokens", line.split()[-1])
    assert code == 0, err


@pytest.mark.parametrize("arguments", [["extract"], ["extract", "--estimate"]], ids=" ".join)
def test_so_must_the_prompt_of_an_extraction(
    glot: Callable[..., tuple], table: Path, backbone_folders: dict[str, Path], arguments: list
) -> None:
    options = ["--data", table, "--text", "sentence", "--label", "kind", "--prompt", "the old town in autumn: {text}"]
    command, *switches = arguments
    code, _, err = glot(command, "--model", backbone_folders["bert"], *options, *switches, "--max-tokens", 6)
    assert code == 2
    assert "leaves no token of the text" in err.splitlines()[-1]
