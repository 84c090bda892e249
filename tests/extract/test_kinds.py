"""Which tokens are the text's own: all but those that the tokenizer itself put around it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from glot.corpus.examples import Corpus, Example, Split
from glot.extract.planning import added_tokens
from glot.fit.states import MemoryStates
from glot.store.plan import CONTENT, SPECIAL
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec

TEXTS = {
    "bert": ["the Ωmega cat", "Ωmega", "the [SEP] cat [CLS]", "", "the cat"],
    "roberta": ["the </s> cat", "<unk>", "<mask>", "", "the cat"],
    "mistral": ["the </s> cat", "<s>", "<unk> </s>", "", "the cat"],
    "bare": ["the </s> cat", "<s>", "</s>", "", "the cat"],
}


@pytest.mark.parametrize("family", TEXTS)
def test_content_is_what_somebody_wrote(
    family: str, backbone_folders: dict[str, Path], extract: Callable, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    texts = TEXTS[family]
    examples = [Example(row, text, None, row % 2) for row, text in enumerate(texts)]
    corpus = Corpus(TaskSpec("made", 1, "classes", ("no", "yes")), {"train": Split("train", examples, "made")})
    summary = extract(corpus, backbone_folders[family], tmp_path)
    assert summary.empty == 1
    cache, tokenizer = Cache(tmp_path), AutoTokenizer.from_pretrained(backbone_folders[family])
    ids = {text: place for place, text in enumerate(cache.plan.texts(0, len(cache.plan)))}
    seen = MemoryStates(cache, (2,), np.arange(len(texts)), torch.device("cpu"), "content").lengths
    for text in texts:
        own = tokenizer(text, add_special_tokens=False)["input_ids"]
        kinds = cache.plan.token_kinds(ids[text], ids[text] + 1)
        assert (kinds == CONTENT).sum() == len(own)
        assert seen[ids[text]] == (len(own) or len(kinds))  # a text without any token of its own keeps all
    assert set(cache.plan.token_kinds(ids[""], ids[""] + 1).tolist()) == {SPECIAL}


def test_a_text_that_is_cut_keeps_what_the_tokenizer_added(
    backbone_folders: dict[str, Path], extract: Callable, tmp_path: Path
) -> None:
    examples = [Example(0, "the Ωmega cat [SEP] dog and the mat", None, 0)]
    corpus = Corpus(TaskSpec("made", 1, "classes", ("no", "yes")), {"train": Split("train", examples, "made")})
    extract(corpus, backbone_folders["bert"], tmp_path, max_tokens=5)
    assert Cache(tmp_path).plan.token_kinds(0, 1).tolist() == [SPECIAL, CONTENT, CONTENT, CONTENT, SPECIAL]


def test_tokenizers_written_in_python_are_asked_too() -> None:
    from transformers import ByT5Tokenizer, CanineTokenizer

    assert added_tokens(ByT5Tokenizer()) == (0, 1)
    assert added_tokens(CanineTokenizer()) == (1, 1)
