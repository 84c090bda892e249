"""`glot explain` through the command: an example of a cache, texts through a tiny backbone, and wrong uses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from glot.store.reader import Cache


def read_data(page: Path) -> dict:
    return json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8")).group(1))


@pytest.fixture
def run(glot: Callable[..., tuple], extracted: Path) -> Path:
    for pooler in ("glot", "adapool"):
        code, _, err = glot(
            "fit", "--cache", extracted, "--pooler", pooler, "--epochs", 1, "--no-yardsticks", "--out", f"runs/{pooler}"
        )
        assert code == 0, err
    return Path("runs/glot")


def test_a_text_is_explained_as_the_same_text_of_a_cache(
    glot: Callable[..., tuple], run: Path, extracted: Path, backbone_folders: dict[str, Path]
) -> None:
    both = ["explain", "--run", run, "--run", "runs/adapool"]
    code, out, err = glot(*both, "--cache", extracted, "--index", 3, "--out", "out/cache.html")
    assert code == 0, err
    assert "example 3 of validation" in out
    assert "label: animal" in out
    cache = Cache(extracted)
    examples = cache.examples("validation")
    text_id = int(examples.text_id[np.flatnonzero(examples.index == 3)[0]])
    text = cache.plan.texts(text_id, text_id + 1)[0]

    code, out, err = glot(*both, "--input-text", text)  # the run knows where its backbone lies
    assert code == 0, err
    assert out.startswith("explain.html: the text given, prediction ")
    here, there = read_data(Path("explain.html")), read_data(Path("out/cache.html"))
    assert here["runs"] == there["runs"]
    assert [one["answer"] for one in here["examples"][0]["answers"]] == [
        one["answer"] for one in there["examples"][0]["answers"]
    ]
    assert here["examples"][0]["texts"][0]["tokens"] == there["examples"][0]["texts"][0]["tokens"]
    np.testing.assert_allclose(
        here["examples"][0]["texts"][0]["cosines"], there["examples"][0]["texts"][0]["cosines"], atol=2e-3
    )
    for ours, theirs in zip(
        here["examples"][0]["texts"][0]["weights"], there["examples"][0]["texts"][0]["weights"], strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=2e-3)
    assert [pooler["name"] for pooler in here["poolers"]] == ["GLOT", "AdaPool", "mean", "CLS (first token)", "max"]
    assert here["examples"][0]["label"] == ""

    code, out, err = glot(*both, "--input-text", "the cat sat " * 30, "--model", backbone_folders["bert"])
    assert code == 0, err
    assert "cut at 24 tokens" in out
    for model, expected in [("roberta", "weights_sha256 differs"), ("llama", "is not the backbone")]:
        code, _, err = glot(*both, "--input-text", text, "--model", backbone_folders[model])
        assert (code, expected in err) == (2, True)


def test_several_examples_share_a_page_and_the_answer_in_json(
    glot: Callable[..., tuple], run: Path, extracted: Path
) -> None:
    texts = ["the cat sat", "a bus", "the dog barks"]
    given = [word for text in texts for word in ("--input-text", text)]
    code, out, err = glot("explain", "--run", run, "--run", "runs/adapool", *given, "--json")
    assert code == 0, err
    shown, said = read_data(Path("explain.html"))["examples"], json.loads(out)["examples"]
    assert [example["line"] for example in shown] == texts
    for example, told in zip(shown, said, strict=True):
        assert told["tokens"] == [[token["raw"] for token in example["texts"][0]["tokens"]]]
        assert [one["prediction"] for one in told["runs"]] == [one["answer"] for one in example["answers"]]
        for number, one in enumerate(told["runs"]):
            assert sum(one["probabilities"].values()) == pytest.approx(1)
            np.testing.assert_allclose(one["weights"][0], example["texts"][0]["weights"][number], rtol=1e-5)
            np.testing.assert_allclose(one["effects"][0], example["texts"][0]["effects"][number], rtol=1e-5)
    code, out, err = glot("explain", "--run", run, "--cache", extracted, "--index", 3, "--index", 1)
    assert code == 0, err
    assert [example["source"][:10] for example in read_data(Path("explain.html"))["examples"]] == [
        "example 3 ",
        "example 1 ",
    ]
    assert out.count("label: ") == 2


def test_pairs_have_two_texts(glot: Callable[..., tuple], tmp_path: Path, backbone_folders: dict[str, Path]) -> None:
    lines = ["a,b,label"] + [f"the cat sat,the dog barks {'softly' * (i % 2)},{i % 2}" for i in range(12)]
    Path("pairs.csv").write_text("\n".join(lines) + "\n")
    options = ["--data", "pairs.csv", "--eval-data", "pairs.csv", "--text", "a", "--text-b", "b", "--max-tokens", 24]
    code, _, err = glot("extract", "--model", backbone_folders["mistral"], *options)
    assert code == 0, err
    assert glot("fit", "--cache", "cache/pairs", "--epochs", 1, "--out", "run")[0] == 0
    code, out, err = glot("explain", "--run", "run", "--cache", "cache/pairs", "--index", 1, "--out", "a.html")
    assert code == 0, err
    assert out.count("tokens,") == 2
    model = ["--model", backbone_folders["mistral"], "--out", "b.html"]
    code, _, err = glot("explain", "--run", "run", "--input-text", "the cat sat", *model)
    assert (code, "--input-text-b" in err) == (2, True)
    code, _, err = glot(
        "explain", "--run", "run", "--input-text", "the cat sat", "--input-text-b", "the dog barks softly", *model
    )
    assert code == 0, err
    cached, given = read_data(Path("a.html")), read_data(Path("b.html"))
    assert len(given["examples"][0]["texts"]) == 2
    assert given["poolers"][2]["name"] == "last token"
    for ours, theirs in zip(given["examples"][0]["texts"], cached["examples"][0]["texts"], strict=True):
        assert ours["tokens"] == theirs["tokens"]
        assert ours["weights"][2][-1] == 1


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "--input-text"),
        (["--input-text", "a", "--cache", "CACHE", "--index", "1"], "--input-text"),
        (["--cache", "CACHE"], "--index"),
        (["--cache", "CACHE", "--index", "999"], "no index 999: they go from 0 to 39"),
        (["--cache", "CACHE", "--index", "1", "--split", "dev"], "no example set 'dev'"),
        (["--cache", "CACHE", "--index", "1", "--input-text-b", "b"], "--input-text-b does not go with --cache"),
        (["--cache", "CACHE", "--index", "1", "--model", "minilm"], "--model does not go with --cache"),
        (["--input-text", "a", "--index", "1"], "--index does not go with --input-text"),
        (["--input-text", "a", "--input-text-b", "b"], "1 text(s) an example: leave --input-text-b out"),
        (["--cache", "CACHE", "--index", "1", "--tau", "1.5"], "--tau"),
        (["--cache", "CACHE", "--index", "1", "--out", "runs"], "runs is a folder"),
        (["--cache", "CACHE", "--index", "1", "--run", "absent"], "absent"),
        (["--cache", "absent", "--index", "1"], "absent"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(
    glot: Callable[..., tuple], run: Path, extracted: Path, arguments: list[str], expected: str
) -> None:
    before = sorted(Path().rglob("*"))
    code, _, err = glot("explain", "--run", run, *[extracted if word == "CACHE" else word for word in arguments])
    assert code == 2
    assert expected in err
    assert err.startswith("glot: ")
    assert len(err.strip().splitlines()) == 1
    assert sorted(Path().rglob("*")) == before


def test_a_picture_lies_beside_the_page(glot: Callable[..., tuple], run: Path, extracted: Path) -> None:
    pytest.importorskip("matplotlib", reason="pictures need matplotlib (extra: report)")
    code, _, err = glot("explain", "--run", run, "--cache", extracted, "--index", 3, "--out", "out/a.html", "--png")
    assert code == 0, err
    assert Path("out/a.png").read_bytes()[:4] == b"\x89PNG"


def test_a_picture_without_matplotlib_is_one_line(
    glot: Callable[..., tuple], run: Path, extracted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("glot.report.figures.find_spec", lambda name: None)
    code, _, err = glot("explain", "--run", run, "--cache", extracted, "--index", 1, "--png")
    assert (code, "pip install 'glot-pipeline[report]'" in err) == (2, True)
    assert len(err.strip().splitlines()) == 1
    assert not Path("explain.html").exists()


def test_a_run_of_another_backbone_is_refused(
    glot: Callable[..., tuple], run: Path, extracted: Path, table: Path, backbone_folders: dict[str, Path]
) -> None:
    options = ["--data", table, "--text", "sentence", "--label", "kind", "--max-tokens", 24, "--task", "other"]
    assert glot("extract", "--model", backbone_folders["roberta"], *options)[0] == 0
    assert glot("fit", "--cache", "cache/other", "--epochs", 1, "--out", "runs/other")[0] == 0
    code, _, err = glot("explain", "--run", run, "--cache", "cache/other", "--index", 1)
    assert (code, "trained on states of tiny-bert" in err) == (2, True)
    code, _, err = glot("explain", "--run", run, "--run", "runs/other", "--cache", extracted, "--index", 1)
    assert (code, "trained on states of tiny-bert" in err) == (2, True)
    assert "Traceback" not in err
