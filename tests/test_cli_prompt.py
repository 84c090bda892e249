"""A prompt from end to end: the cache, other labels, a head, new texts, and the page of one text."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from glot import Cache, GlotModel
from glot.errors import UsageError
from glot.fit.head_model import pool_texts
from glot.fit.states import StreamedStates
from glot.store.plan import CONTENT
from tests.test_cli_explain import read_data

Glot = Callable[..., tuple[int, str, str]]
PROMPT = "the postman brings {text} in summer"


@pytest.fixture
def base(table: Path, backbone_folders: dict[str, Path]) -> list[object]:
    columns = ["--text", "sentence", "--label", "kind", "--max-tokens", 30, "--dtype", "float32"]
    return ["--model", backbone_folders["bert"], "--data", table, *columns]


@pytest.mark.parametrize("tokens", ["all", "content"])
def test_from_a_prompt_to_new_texts(glot: Glot, base: list, tokens: str) -> None:
    code, _, err = glot("extract", *base, "--prompt", PROMPT)
    assert code == 0, err
    cache = Cache("cache/train")
    assert cache.manifest.states.template == PROMPT
    options = ["--tokens", tokens, "--epochs", 1, "--hidden", 8, "--device", "cpu", "--out", "run"]
    code, _, err = glot("fit", "--cache", "cache/train", *options)
    assert code == 0, err
    assert json.loads(Path("run/config.json").read_text())["states"]["template"] == PROMPT
    model = GlotModel.load("run")
    texts = cache.plan.texts(0, 20)
    expected = pool_texts(model.model.pooler, StreamedStates(cache, (2,), model.device, tokens), np.arange(20)).numpy()
    np.testing.assert_allclose(model.encode(texts), expected, rtol=1e-4, atol=1e-5)

    code, _, err = glot("explain", "--run", "run", "--cache", "cache/train", "--index", 11, "--out", "a.html")
    assert code == 0, err
    examples = cache.examples("validation")
    number = int(examples.text_id[np.flatnonzero(examples.index == 11)[0]])
    text = cache.plan.texts(number, number + 1)[0]
    code, _, err = glot("explain", "--run", "run", "--input-text", text, "--out", "b.html")
    assert code == 0, err
    seen = (cache.plan.token_kinds(number, number + 1) == CONTENT) | (tokens == "all")
    for page in ("a.html", "b.html"):
        shown = read_data(Path(page))["examples"][0]["texts"][0]["tokens"]
        assert [token["seen"] for token in shown] == seen.tolist()


def test_a_folder_has_one_prompt(glot: Glot, base: list) -> None:
    assert glot("extract", *base, "--prompt", PROMPT)[0] == 0
    for words in (["--prompt", "Classify: {text}"], []):
        code, _, err = glot("extract", *base, *words)
        assert (code, repr(PROMPT) in err, len(err.splitlines())) == (2, True, 1)
        assert repr(words[1] if words else "{text}") in err
    code, _, err = glot("extract", *base, "--prompt", "Classify it")
    assert (code, "must hold {text} once" in err, len(err.splitlines())) == (2, True, 1)
    code, out, err = glot("extract", *base, "--prompt", PROMPT, "--estimate")
    assert code == 0, err
    assert f"{Cache('cache/train').manifest.plan.tokens:,} tokens" in out


def test_other_labels_repeat_the_prompt(glot: Glot, base: list) -> None:
    assert glot("extract", *base, "--prompt", PROMPT)[0] == 0
    texts = Cache("cache/train").plan.texts(0, 40)
    with open("length.csv", "w", newline="") as file:
        rows = [[text, "long" if len(text) > 18 else "short"] for text in [*texts, "one text that is new here"]]
        csv.writer(file).writerows([["text", "label"], *rows])
    more = ["--model", base[1], "--examples", "length.csv", "--out", "cache/train/tiny-bert"]
    code, _, err = glot("extract", *more, "--prompt", "Classify: {text}")
    assert (code, repr(PROMPT) in err, "'Classify: {text}'" in err) == (2, True, True)
    code, out, err = glot("extract", *more)
    assert (code, "forwarded 1 texts" in out) == (0, True), err
    code, out, err = glot("inspect", "cache/train", "--verify")
    assert code == 0, err


def test_a_head_refuses_the_cache_of_another_prompt(glot: Glot, base: list) -> None:
    assert glot("extract", *base, "--prompt", PROMPT)[0] == 0
    assert glot("extract", *base, "--out", "plain")[0] == 0
    assert glot("fit", "--cache", "cache/train", "--epochs", 1, "--hidden", 8, "--out", "run")[0] == 0
    code, _, err = glot("evaluate", "--run", "run", "--cache", "plain")
    assert (code, f"template {PROMPT} there, {{text}} here" in err) == (2, True)


@pytest.fixture
def pair_run(glot: Glot, backbone_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A run over pairs in one prompt: `pairs.csv` has the columns a, b and label, 40 rows."""
    rng = np.random.default_rng(0)
    words = ["rain", "falls", "softly", "over", "the", "old", "town", "dog", "river"]
    with open(tmp_path / "pairs.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "label"])
        for row in range(40):
            writer.writerow(
                [*(" ".join(rng.choice(words, rng.integers(1, 30))) for _ in range(2)), ["no", "yes"][row % 2]]
            )
    columns = ["--text", "a", "--text-b", "b", "--eval-data", "pairs.csv", "--max-tokens", 32, "--dtype", "float32"]
    made = ["--model", backbone_folders["bert"], "--data", "pairs.csv", *columns, "--out", "cache"]
    code, out, err = glot("extract", *made, "--prompt", "the dog {text} the cat {text_b} on the mat")
    assert (code, "cache: train 40, validation 40" in out) == (0, True), err
    code, _, err = glot("fit", "--cache", "cache", "--epochs", 1, "--hidden", 8, "--device", "cpu", "--out", "run")
    assert code == 0, err
    return Path("run")


def test_pairs_in_one_prompt(glot: Glot, pair_run: Path) -> None:
    table = ["--input", "pairs.csv", "--text", "a", "--text-b", "b"]
    assert json.loads(Path("run/config.json").read_text())["task"]["num_texts"] == 1
    code, _, err = glot("predict", "--run", pair_run, *table, "--output", "new.jsonl")
    assert code == 0, err
    assert (
        glot("predict", "--run", pair_run, "--cache", "cache", "--split", "validation", "--output", "old.jsonl")[0] == 0
    )
    new, old = (list(map(json.loads, Path(name).read_text().splitlines())) for name in ("new.jsonl", "old.jsonl"))
    assert [row["predicted_label"] for row in new] == [row["label"] for row in old]
    with open("pairs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    right = sum(answer["predicted_label"] == row["label"] for answer, row in zip(new, rows, strict=True))
    code, out, err = glot("evaluate", "--run", pair_run, "--cache", "cache")
    assert f"accuracy {100 * right / 40:.2f}" in out, err

    code, _, err = glot("encode", "--run", pair_run, *table, "--output", "new.npy")
    assert code == 0, err
    cache, model = Cache("cache"), GlotModel.load(pair_run)
    examples = cache.examples("validation")
    states = StreamedStates(cache, (2,), model.device, "all")
    expected = pool_texts(model.model.pooler, states, examples.text_id[np.argsort(examples.index)]).numpy()
    np.testing.assert_allclose(np.load("new.npy"), expected, rtol=1e-4, atol=1e-5)

    code, _, err = glot("explain", "--run", pair_run, "--cache", "cache", "--index", 3, "--out", "a.html")
    assert code == 0, err
    texts = ["--input-text", rows[3]["a"], "--input-text-b", rows[3]["b"]]
    code, _, err = glot("explain", "--run", pair_run, *texts, "--out", "b.html")
    assert code == 0, err
    shown = [read_data(Path(page))["examples"][0]["texts"] for page in ("a.html", "b.html")]
    assert [len(texts) for texts in shown] == [1, 1]
    assert len({json.dumps([token["raw"] for token in texts[0]["tokens"]]) for texts in shown}) == 1


def test_a_run_of_pairs_in_one_prompt_wants_both(glot: Glot, pair_run: Path) -> None:
    Path("texts.txt").write_text("rain\n")
    for words, told in [
        (["predict", "--input", "pairs.csv", "--text", "a"], "name the column of the second with --text-b"),
        (["predict", "--input", "pairs.csv", "--text", "a", "--text-b", "c"], "'c'"),
        (["predict", "--input", "pairs.csv"], "which columns are the two texts? Name them with --text and --text-b"),
        (["predict", "--input", "texts.txt"], "name the column of the second with --text-b"),
        (["encode", "--input", "pairs.csv", "--text", "a", "--output", "v.npy"], "second with --text-b"),
        (["explain", "--input-text", "rain"], "pass the second one with --input-text-b"),
        (["evaluate", "--mteb", "STSBenchmark"], "its vectors are of two texts each"),
    ]:
        code, _, err = glot(words[0], "--run", pair_run, *words[1:])
        assert (code, told in err, len(err.splitlines())) == (2, True, 1), err
    model = GlotModel.load(pair_run)
    for call in (model.encode, model.predict, model.predict_proba):
        with pytest.raises(UsageError):
            call(["rain"])
    with pytest.raises(UsageError, match="a text is needed"):
        model.encode(["rain", "dog"], ["falls"])
    Path("more.csv").write_text("text,label\nrain,a\nthe dog,b\n")
    code, _, err = glot("extract", "--model", model.backbone.source, "--examples", "more.csv", "--out", "cache")
    assert (code, "more has one text an example" in err) == (2, True), err
