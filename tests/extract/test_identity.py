"""What tells two backbones apart: all that can change a token or a state, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from glot.corpus.examples import Corpus, Example, Split
from glot.errors import UsageError
from glot.extract import backbone as room
from glot.extract import planning
from glot.extract.backbone import Backbone, load_backbone
from glot.extract.identity import Loader
from glot.extract.source import ModelSource
from glot.store.plan import SPECIAL
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec

TEXTS = ["the cat sat on the mat and looked at the dog", "the [SEP] cat", "", "a dog barks", "Ωmega rain"]
LONG = 40 * "the cat sat on the mat "


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **values}))


def corpus(count: int, *more: str) -> Corpus:
    examples = [Example(row, text, None, row % 2) for row, text in enumerate([*TEXTS[:count], *more])]
    return Corpus(TaskSpec("made", 1, "classes", ("no", "yes")), {"train": Split("train", examples, "made")})


def load(folder: Path, trust_remote_code: bool = False) -> Backbone:
    return load_backbone(ModelSource("x", str(folder)), device="cpu", trust_remote_code=trust_remote_code)


def hashes(loaded: Backbone) -> tuple[str, str, str]:
    return loaded.weights_sha256, loaded.tokenizer_sha256, loaded.loader_sha256


@pytest.fixture
def copy(backbone_folders: dict[str, Path], tmp_path: Path) -> Callable[..., Path]:
    """`copy("bert")` gives a folder of its own, to be changed."""
    return lambda family="bert": Path(shutil.copytree(backbone_folders[family], tmp_path / family))


# Texts are cut at the end


def test_a_text_is_cut_at_the_end_whatever_the_tokenizer_says(
    copy: Callable, extract: Callable, tmp_path: Path
) -> None:
    folder = copy()
    extract(corpus(3, LONG), folder, tmp_path / "right", max_tokens=6)
    expected = Cache(tmp_path / "right").plan
    change(folder / "tokenizer_config.json", truncation_side="left")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["truncation"] = {"direction": "Left", "max_length": 9, "strategy": "LongestFirst", "stride": 0}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    extract(corpus(3, LONG), folder, tmp_path / "left", max_tokens=6)
    plan = Cache(tmp_path / "left").plan
    assert plan.token_ids(0, len(plan)).tolist() == expected.token_ids(0, len(plan)).tolist()
    extract(corpus(3, LONG, LONG + " and"), folder, tmp_path / "right", max_tokens=6)  # one cache may go on with it


# What changes a token or a state


def split_special_tokens(folder: Path) -> None:
    change(folder / "tokenizer_config.json", split_special_tokens=True)  # "[SEP]" is then "[", "SE", ...


def stand_in_for_an_empty_text(folder: Path) -> None:
    change(folder / "tokenizer_config.json", eos_token="<unk>")


def merges_of_a_tokenizer_in_python(folder: Path) -> None:
    lines = (folder / "merges.txt").read_text().splitlines()
    (folder / "merges.txt").write_text("\n".join([lines[0], *lines[:0:-1], ""]))


def weights_beside_others(folder: Path) -> None:
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save({name: value + 0.01 for name, value in weights.items()}, folder / "pytorch_model.bin")


def weights_below(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "below" / "part.safetensors")
    shifted = {name: value + 0.01 for name, value in weights.items()}
    save_file(shifted, folder / "below" / "part.safetensors", {"format": "pt"})


def prepare_python_tokenizer(folder: Path) -> None:
    """CTRL's tokenizer, whose merges stand in a file of their own."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    words = ["<unk>", *"thecaogd", *(f"{letter}</w>" for letter in "thecaogd"), "th@@", "the", "ca@@", "at", "he"]
    pieces = [piece.replace("</w>", "") if "</w>" in piece else f"{piece}@@" for piece in words]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys([*words, *pieces]))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\nt h\nth e</w>\nh e</w>\nc a\na t</w>\n")
    change(folder / "tokenizer_config.json", tokenizer_class="CTRLTokenizer", unk_token="<unk>", pad_token="<unk>")


def prepare_other_weights(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    save_file({"x": torch.zeros(1)}, folder / "consolidated.safetensors", {"format": "pt"})


def prepare_weights_below(folder: Path) -> None:
    from safetensors.torch import load_file

    names = list(load_file(folder / "model.safetensors"))
    (folder / "below").mkdir()
    (folder / "model.safetensors").rename(folder / "below" / "part.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(names, "below/part.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


CHANGES = {
    "split": ("bert", None, split_special_tokens),
    "stand-in": ("bare", None, stand_in_for_an_empty_text),
    "merges": ("bert", prepare_python_tokenizer, merges_of_a_tokenizer_in_python),
    "bin": ("bert", prepare_other_weights, weights_beside_others),
    "below": ("bert", prepare_weights_below, weights_below),
}


@pytest.mark.parametrize("case", CHANGES)
def test_what_changes_states_is_in_the_identity(case: str, copy: Callable, extract: Callable, tmp_path: Path) -> None:
    family, prepare, alter = CHANGES[case]
    folder, out = copy(family), tmp_path / "cache"
    if prepare:
        prepare(folder)
    before = load(folder)
    assert hashes(before) == hashes(load(folder))
    extract(corpus(5), folder, out, dtype="float32")
    alter(folder)
    after = load(folder)
    extract(corpus(5), folder, tmp_path / "again", dtype="float32")
    first, second = Cache(out), Cache(tmp_path / "again")
    same_tokens = np.array_equal(first.plan.token_ids(0, 5), second.plan.token_ids(0, 5))
    states = [cache.read_texts(2, np.arange(5)).values for cache in (first, second)]
    assert not (same_tokens and np.array_equal(*states)), "the change changes nothing: the case is none"
    assert hashes(before)[:2] == hashes(after)[:2]
    assert before.loader_sha256 != after.loader_sha256
    with pytest.raises(UsageError, match=r"made with other settings \(loader_sha256"):
        extract(corpus(5, "a new text"), folder, out, dtype="float32")


@pytest.mark.parametrize("family", ["bert", "python"])
def test_what_changes_nothing_is_not(family: str, copy: Callable) -> None:
    folder = copy()
    if family == "python":
        prepare_python_tokenizer(folder)
    before = hashes(load(folder))
    for name in ("README.md", "LICENSE", "LICENSE.txt", "chat_template.jinja", "own.py", "requirements.txt"):
        (folder / name).write_text("something else")
    change(folder / "generation_config.json", temperature=0.7)
    change(folder / "tokenizer_config.json", chat_template="{{ x }}", padding_side="left", truncation_side="left")
    change(folder / "tokenizer_config.json", model_max_length=9, clean_up_tokenization_spaces=True)
    assert hashes(load(folder)) == before
    assert hashes(load(Path(folder.rename(folder.with_name("moved"))))) == before


def test_trusted_code_is_in_the_identity(copy: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    folder = copy()
    code = "from transformers import BertConfig, BertModel\nclass OwnModel(BertModel):\n    factor = FACTOR\n"
    (folder / "own.py").write_text(code.replace("FACTOR", "2"))
    plain = hashes(load(folder, trust_remote_code=True))
    assert plain == hashes(load(folder))  # nobody names that file, and it does not run
    change(folder / "config.json", auto_map={"AutoModel": "own.OwnModel"})
    first = load(folder, trust_remote_code=True)
    assert type(first.model).__name__ == "OwnModel"
    (folder / "own.py").write_text(code.replace("FACTOR", "3"))
    second = load(folder, trust_remote_code=True)
    assert len({first.loader_sha256, second.loader_sha256, plain[2]}) == 3


# Caches that an older program made


@pytest.fixture
def extract_as_before(extract: Callable, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Extract into a cache that records nothing of the loader, as once; `kinds` marks tokens as it was done then."""

    def call(texts: Corpus, folder: Path, out: Path, unknown_is_special: bool = False, **options: object) -> Path:
        with monkeypatch.context() as once:
            once.setattr(room, "identify_loader", lambda *_: Loader("", ()))
            if unknown_is_special:
                tokenize = planning.tokenize_filled

                def by_number(strings: list, template: str, backbone: Backbone, most: int) -> planning.Tokens:
                    made = tokenize(strings, template, backbone, most)
                    special = backbone.tokenizer.all_special_ids
                    for ids, kinds in zip(made.ids, made.kinds, strict=True):
                        kinds[np.isin(ids, special)] = SPECIAL
                    return made

                once.setattr(planning, "tokenize_filled", by_number)
            extract(texts, folder, out, **options)
        path = out / "manifest.json"
        manifest = json.loads(path.read_text())
        assert manifest["states"].pop("loader_sha256") == ""
        path.write_text(json.dumps(manifest))
        return out

    return call


def test_an_older_cache_goes_on_where_its_tokens_are_the_same(
    copy: Callable, extract: Callable, extract_as_before: Callable, tmp_path: Path
) -> None:
    folder = copy()
    out = extract_as_before(corpus(4, LONG), folder, tmp_path / "cache")
    said: list[str] = []
    extract(corpus(4, LONG), folder, out, say=said.append)  # all is there
    assert said == []
    extract(corpus(4, LONG, "a new text"), folder, out, say=said.append)
    assert said == [f"{out} was made by an older version: its texts come to the same tokens still"]
    cache = Cache(out)
    assert (len(cache.plan), cache.manifest.states.loader_sha256) == (6, "")
    assert cache.manifest.complete


def test_an_older_cache_whose_tokens_would_be_others(
    copy: Callable, extract: Callable, extract_as_before: Callable, tmp_path: Path
) -> None:
    folder = copy()
    out = extract_as_before(corpus(5), folder, tmp_path / "cache", unknown_is_special=True)
    extract(corpus(5), folder, out)
    with pytest.raises(UsageError, match=r"older version, and .* makes other tokens of its texts now: choose another"):
        extract(corpus(5, "a new text"), folder, out)
    assert len(Cache(out).plan) == 5
    out = extract_as_before(corpus(4), folder, tmp_path / "no texts", keep_texts=False)
    extract(corpus(4), folder, out, keep_texts=False)
    with pytest.raises(UsageError, match="older version, and it holds no texts to compare"):
        extract(corpus(5), folder, out, keep_texts=False)


def test_an_older_cache_of_weights_that_were_not_hashed(
    copy: Callable, extract: Callable, extract_as_before: Callable, tmp_path: Path
) -> None:
    folder = copy()
    prepare_other_weights(folder)
    out = extract_as_before(corpus(5), folder, tmp_path / "cache")
    with pytest.raises(UsageError, match="did not record the weights that"):
        extract(corpus(5), folder, out)


def test_runs_and_caches_of_before_still_open(
    backbone_folders: dict[str, Path], extracted: Path, glot: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert glot("fit", "--cache", extracted, "--out", "run", "--epochs", 1, "--pooler", "mean", "--seeds", 0)[0] == 0
    for path in (extracted / "manifest.json", Path("run/config.json")):
        text = path.read_text()
        values = json.loads(text)
        assert len(values["states"].pop("loader_sha256")) == 64
        path.write_text(json.dumps(values))
        Path("new.txt").write_text("rain falls\n")
        for command in (
            ["evaluate", "--run", "run", "--cache", extracted],
            ["inspect", extracted],
            ["predict", "--run", "run", "--input", "new.txt"],
            ["fit", "--cache", extracted, "--out", f"{path.name}-run", "--epochs", 1, "--seeds", 0, "--pooler", "mean"],
        ):
            code, _, err = glot(*command)
            assert code == 0, err
        path.write_text(text)
