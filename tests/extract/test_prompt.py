"""A prompt around each text: what the backbone reads, which tokens are the text's, and whom it shuts out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glot.corpus.examples import Corpus, Example, Split
from glot.errors import UsageError
from glot.extract.backbone import load_backbone
from glot.extract.planning import check_template, tokenize_filled
from glot.extract.repair import repair_cache
from glot.extract.source import ModelSource
from glot.store.plan import CONTENT, SPECIAL, TEMPLATE
from glot.store.reader import Cache
from glot.store.verify import verify_cache

PROMPT = "the dog barks, {text} on the mat"


def load(folder: Path) -> object:
    return load_backbone(ModelSource(folder.name, str(folder)))


@pytest.mark.parametrize("family", ["bert", "roberta", "mistral", "bare"])
def test_the_states_are_those_of_the_filled_prompt(
    family: str,
    backbone_folders: dict,
    make_corpus: Callable,
    extract: Callable,
    direct_states: Callable,
    tmp_path: Path,
) -> None:
    folder = backbone_folders[family]
    corpus = make_corpus({"train": 8}, pairs=True)
    summary = extract(corpus, folder, tmp_path, template=PROMPT, dtype="float32")
    cache = Cache(tmp_path)
    assert cache.manifest.states.template == PROMPT
    texts = cache.plan.texts(0, len(cache.plan))
    examples = corpus.splits["train"].examples
    assert set(texts) == {text for example in examples for text in (example.text, example.text_b)}
    states = cache.read_texts(2, np.arange(len(texts))).values
    for number, text in enumerate(texts):
        mine = states[cache.plan.token_start[number] : cache.plan.token_start[number + 1]]
        np.testing.assert_allclose(mine, direct_states(folder, PROMPT.replace("{text}", text), 2), rtol=1e-4, atol=2e-5)
    assert summary.empty == 1


@pytest.mark.parametrize(
    ("family", "text", "kinds"),
    [
        # [CLS] the dog barks , | the cat | on the mat [SEP]
        ("bert", "the cat", [SPECIAL, *[TEMPLATE] * 4, CONTENT, CONTENT, *[TEMPLATE] * 3, SPECIAL]),
        ("bert", "", [SPECIAL, *[TEMPLATE] * 7, SPECIAL]),
    ],
)
def test_which_tokens_are_the_texts(family: str, text: str, kinds: list, backbone_folders: dict) -> None:
    backbone = load(backbone_folders[family])
    tokens = tokenize_filled([text, "the dog"], PROMPT, backbone, 48)
    assert tokens.kinds[0].tolist() == kinds
    assert tokens.ids[0] == backbone.tokenizer(PROMPT.replace("{text}", text))["input_ids"]


def test_a_text_that_spells_the_place_is_a_text(backbone_folders: dict) -> None:
    backbone = load(backbone_folders["roberta"])
    tokens = tokenize_filled(["{text}"], PROMPT, backbone, 48)
    own = np.asarray(tokens.ids[0])[tokens.kinds[0] == CONTENT].tolist()
    assert "".join(backbone.tokenizer.convert_ids_to_tokens(own)) == "{text}"


@pytest.mark.parametrize("family", ["bert", "roberta", "mistral", "bare"])
@pytest.mark.parametrize("prompt", [PROMPT, "dog{text}cat", "{text}\n", " {text}", "é→{text}←é"])
def test_the_border_is_where_the_tokenizer_says(family: str, prompt: str, backbone_folders: dict) -> None:
    backbone = load(backbone_folders[family])
    text = "naïve 日本 cats"
    kinds = tokenize_filled([text], prompt, backbone, 96).kinds[0]
    spans = backbone.tokenizer(prompt.replace("{text}", text), return_offsets_mapping=True)["offset_mapping"]
    start = prompt.index("{text}")
    for (first, end), kind in zip(spans, kinds, strict=True):
        is_inside = max(first, start) < min(end, start + len(text))
        assert kind == SPECIAL or kind == (CONTENT if is_inside else TEMPLATE)


def test_a_cut_prompt_keeps_what_was_before_the_cut(backbone_folders: dict) -> None:
    tokens = tokenize_filled(["the cat " * 30], PROMPT, load(backbone_folders["bert"]), 12)
    assert tokens.kinds[0].tolist() == [SPECIAL, *[TEMPLATE] * 4, *[CONTENT] * 6, SPECIAL]
    assert tokens.truncated.tolist() == [1]


def test_content_leaves_the_prompt_out(
    backbone_folders: dict, make_corpus: Callable, extract: Callable, tmp_path: Path
) -> None:
    import torch

    from glot.fit.states import MemoryStates

    extract(make_corpus({"train": 8}), backbone_folders["bert"], tmp_path, template=PROMPT, dtype="float32")
    cache = Cache(tmp_path)
    ids = np.arange(len(cache.plan))
    seen = MemoryStates(cache, (2,), ids, torch.device("cpu"), "content").lengths
    for number in ids.tolist():
        kinds = cache.plan.token_kinds(number, number + 1)
        assert seen[number] == ((kinds == CONTENT).sum() or len(kinds))


def test_another_prompt_is_refused_and_both_are_named(
    backbone_folders: dict, make_corpus: Callable, extract: Callable, tmp_path: Path
) -> None:
    extract(make_corpus(), backbone_folders["bert"], tmp_path, template=PROMPT)
    with pytest.raises(UsageError) as raised:
        extract(make_corpus(), backbone_folders["bert"], tmp_path, template=PROMPT + " ")
    assert f"template: {PROMPT!r} -> {PROMPT + ' '!r}" in str(raised.value)
    with pytest.raises(UsageError, match=r"template: .* -> '\{text\}'"):
        extract(make_corpus(), backbone_folders["bert"], tmp_path)
    assert extract(make_corpus(), backbone_folders["bert"], tmp_path, template=PROMPT).forwarded == 0


@pytest.mark.parametrize("prompt", ["Classify:", "{text} or {text}", "", "{ text }"])
def test_a_prompt_without_one_place_for_the_text(
    prompt: str, backbone_folders: dict, make_corpus: Callable, extract: Callable, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"must hold \{text\} once"):
        extract(make_corpus(), backbone_folders["bert"], tmp_path / "new", template=prompt)
    assert not (tmp_path / "new").exists()


def test_a_tokenizer_that_tells_no_places(backbone_folders: dict) -> None:
    backbone = load(backbone_folders["bert"])
    slow = replace(backbone, tokenizer=type("Slow", (), {"is_fast": False})())
    with pytest.raises(UsageError, match="--prompt needs a fast tokenizer"):
        check_template(PROMPT, slow)
    assert check_template("{text}", slow) == "{text}"


def test_a_prompt_that_leaves_the_text_no_token(
    backbone_folders: dict, make_corpus: Callable, extract: Callable, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="--max-tokens 6 leaves no token of the text: pass at least 7"):
        extract(make_corpus(), backbone_folders["bert"], tmp_path / "new", template=PROMPT, max_tokens=6)
    extract(make_corpus(), backbone_folders["bert"], tmp_path / "new", template=PROMPT, max_tokens=7)


def test_growth_and_repair_keep_the_prompt(
    backbone_folders: dict, make_corpus: Callable, extract: Callable, tmp_path: Path
) -> None:
    folder, bert = tmp_path / "grown", backbone_folders["bert"]
    extract(make_corpus({"train": 6}), bert, folder, template=PROMPT)
    new = Split("train", [Example(0, "the dog", None, 0), Example(1, "a new one", None, 1)], "made")
    spec = make_corpus().spec
    assert extract(Corpus(spec, {"train": new}), bert, folder, template=PROMPT, group="other").forwarded == 2
    count = len(Cache(folder).plan)
    before = Cache(folder).read_texts(2, np.arange(count)).values
    shard = folder / "shard-00000.h5"
    place = Cache(folder).manifest.shards[0].data.columns["hidden/2"].offset
    data = bytearray(shard.read_bytes())
    data[place] ^= 0xFF
    shard.write_bytes(data)
    cache = Cache(folder)
    assert repair_cache(cache, verify_cache(cache), str(bert)) == 1
    assert verify_cache(Cache(folder)) == []
    np.testing.assert_allclose(Cache(folder).read_texts(2, np.arange(count)).values, before, rtol=2e-3, atol=2e-3)
