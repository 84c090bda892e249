"""A prompt around both texts of a pair: one text, whose tokens are those of the string filled in by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glot.corpus.examples import Corpus, Example, Split
from glot.errors import UsageError
from glot.extract.backbone import load_backbone
from glot.extract.planning import tokenize_filled
from glot.extract.repair import repair_cache
from glot.extract.source import ModelSource
from glot.store.plan import CONTENT, SPECIAL, TEMPLATE
from glot.store.reader import Cache
from glot.store.template import join_pair
from glot.store.verify import verify_cache

PROMPT = "the dog {text} the cat {text_b} on the mat"
PROMPTS = [
    PROMPT,
    "{text}{text_b}",
    "{text_b}: {text}",
    " {text}\n{text_b} ",
    "é→{text}←é{text_b}",
    "a {text}; b {text_b}",
]
PAIRS = [
    ("rain falls", "a dog"),
    ("", "the cat"),
    ("", ""),
    ("naïve 日本 cats", "{text} or {text_b}\\n\"'"),
    ("a\n", "\tb"),
]


def load(folder: Path) -> object:
    return load_backbone(ModelSource(folder.name, str(folder)))


def fill_by_hand(prompt: str, text: str, text_b: str) -> tuple[str, list[tuple[int, int]]]:
    """The string, and where (start, stop) the two texts stand in it."""
    first, second = prompt.index("{text}"), prompt.index("{text_b}")
    if first < second:
        before, between, behind = prompt[:first], prompt[first + 6 : second], prompt[second + 8 :]
        start = len(before) + len(text + between)
        places = [(len(before), len(before + text)), (start, start + len(text_b))]
        return before + text + between + text_b + behind, places
    before, between, behind = prompt[:second], prompt[second + 8 : first], prompt[first + 6 :]
    start = len(before) + len(text_b + between)
    places = [(start, start + len(text)), (len(before), len(before + text_b))]
    return before + text_b + between + text + behind, places


@pytest.mark.parametrize("family", ["bert", "roberta", "mistral", "bare"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_the_tokens_are_those_of_the_string_filled_by_hand(
    family: str, prompt: str, backbone_folders: dict[str, Path]
) -> None:
    backbone = load(backbone_folders[family])
    tokens = tokenize_filled([join_pair(*pair) for pair in PAIRS], prompt, backbone, 96)
    for pair, ids, kinds in zip(PAIRS, tokens.ids, tokens.kinds, strict=True):
        filled, places = fill_by_hand(prompt, *pair)
        encoded = backbone.tokenizer(filled, return_offsets_mapping=True)
        if not encoded["input_ids"]:  # two empty texts without a prompt
            continue
        assert ids == encoded["input_ids"]
        for (first, end), kind in zip(encoded["offset_mapping"], kinds, strict=True):
            is_inside = any(max(first, start) < min(end, stop) for start, stop in places)
            assert kind == SPECIAL or kind == (CONTENT if is_inside else TEMPLATE)
    assert not tokens.truncated.any()


@pytest.mark.parametrize("prompt", [PROMPT, "{text_b} the cat {text} on the dog the mat"])
@pytest.mark.parametrize(
    ("first", "second"), [(10, 30), (30, 10), (3, 30), (30, 3), (20, 20), (0, 30), (30, 0), (8, 8)]
)
def test_the_longer_text_is_cut_and_the_prompt_stays(
    prompt: str, first: int, second: int, backbone_folders: dict[str, Path]
) -> None:
    backbone = load(backbone_folders["bert"])  # a token for each of these words
    words = ["rain", "falls", "softly", "over", "old", "town"] * 5
    most = 24
    room, kept, kept_b = most - 7 - 2, first, second  # beside the prompt's words, [CLS] and [SEP]
    while kept + kept_b > room:
        kept, kept_b = (kept - 1, kept_b) if kept > kept_b else (kept, kept_b - 1)
    tokens = tokenize_filled([join_pair(" ".join(words[:first]), " ".join(words[:second]))], prompt, backbone, most)
    filled, _ = fill_by_hand(prompt, " ".join(words[:kept]), " ".join(words[:kept_b]))
    assert tokens.ids[0] == backbone.tokenizer(filled)["input_ids"]
    assert tokens.truncated.tolist() == [int(first + second > room)]
    assert (tokens.kinds[0] == TEMPLATE).sum() == 7


def test_states_growth_and_repair(
    backbone_folders: dict[str, Path],
    make_corpus: Callable,
    extract: Callable,
    direct_states: Callable,
    tmp_path: Path,
) -> None:
    folder, bert = tmp_path / "grown", backbone_folders["bert"]
    corpus = make_corpus({"train": 8}, pairs=True)
    summary = extract(corpus, bert, folder, template=PROMPT, dtype="float32")
    assert (summary.examples, summary.texts, summary.truncated) == ({"train": 8}, 8, 1)
    cache = Cache(folder)
    assert cache.examples_entry("train").task == replace(corpus.spec, num_texts=1)
    examples, given = cache.examples("train"), corpus.splits["train"].examples
    assert examples.text_id_b is None
    for row, number in zip(examples.index.tolist(), examples.text_id.tolist(), strict=True):
        if row != 2:  # which is cut
            mine = cache.read_texts(2, np.asarray([number])).values
            filled, _ = fill_by_hand(PROMPT, given[row].text, given[row].text_b)
            np.testing.assert_allclose(mine, direct_states(bert, filled, 2), rtol=1e-4, atol=2e-5)
    new = [Example(0, given[0].text, given[0].text_b, 0), Example(1, "a new one", "the dog", 1)]
    grown = Corpus(corpus.spec, {"train": Split("train", new, "made")})
    assert extract(grown, bert, folder, template=PROMPT, dtype="float32", group="other").forwarded == 1
    count = len(Cache(folder).plan)
    before = Cache(folder).read_texts(2, np.arange(count)).values
    shard = folder / "shard-00000.h5"
    data = bytearray(shard.read_bytes())
    data[Cache(folder).manifest.shards[0].data.columns["hidden/2"].offset] ^= 0xFF
    shard.write_bytes(data)
    assert repair_cache(Cache(folder), verify_cache(Cache(folder)), str(bert)) == 1
    np.testing.assert_allclose(Cache(folder).read_texts(2, np.arange(count)).values, before, rtol=1e-4, atol=2e-5)


def test_another_prompt_is_refused(
    backbone_folders: dict[str, Path], make_corpus: Callable, extract: Callable, tmp_path: Path
) -> None:
    corpus, bert = make_corpus(pairs=True), backbone_folders["bert"]
    extract(corpus, bert, tmp_path, template=PROMPT)
    for other in (PROMPT + " ", "the dog {text}", "{text}"):
        with pytest.raises(UsageError, match="was made with other settings"):
            extract(corpus, bert, tmp_path, template=other)
    assert extract(corpus, bert, tmp_path, template=PROMPT).forwarded == 0


def test_what_is_no_labelled_pair_has_no_second_text(
    backbone_folders: dict[str, Path], make_corpus: Callable, extract: Callable, tmp_path: Path
) -> None:
    pairs = make_corpus(pairs=True)
    unlabelled = replace(pairs, spec=replace(pairs.spec, target="contrastive", classes=()))
    for corpus, told in [(make_corpus(), "made has one text an example"), (unlabelled, "pairs without labels")]:
        with pytest.raises(UsageError, match=told):
            extract(corpus, backbone_folders["bert"], tmp_path / "new", template=PROMPT)
    for prompt, told in [("{text_b}", r"must hold \{text\} once"), (PROMPT + "{text_b}", r"must hold \{text_b\} once")]:
        with pytest.raises(UsageError, match=told):
            extract(pairs, backbone_folders["bert"], tmp_path / "new", template=prompt)
    assert not (tmp_path / "new").exists()


def test_a_prompt_that_leaves_each_text_no_token(
    backbone_folders: dict[str, Path], make_corpus: Callable, extract: Callable, tmp_path: Path
) -> None:
    corpus, bert = make_corpus(pairs=True), backbone_folders["bert"]
    with pytest.raises(UsageError, match="--max-tokens 10 leaves no token of the text: pass at least 11"):
        extract(corpus, bert, tmp_path / "new", template=PROMPT, max_tokens=10)
    extract(corpus, bert, tmp_path / "new", template=PROMPT, max_tokens=11)
