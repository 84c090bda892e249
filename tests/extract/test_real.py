"""Stage one on real models: the states are those of the model's own forward, text by text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from glot.corpus.examples import Corpus, Example, Split
from glot.errors import UsageError
from glot.extract.backbone import load_backbone
from glot.extract.run import ExtractOptions, extract_states
from glot.extract.source import ModelSource, resolve_model
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec

TEXTS = [
    "A man is playing a guitar.",
    "",
    "Someone plays an instrument, and nobody is listening to it, for the hall has been empty since last Tuesday.",
    "naïve café 文字 🙂",
    "A man is playing a guitar.",
    "no",
]


@pytest.fixture
def corpus() -> Corpus:
    examples = [Example(row, text, None, row % 2) for row, text in enumerate(TEXTS)]
    return Corpus(TaskSpec("real", 1, "classes", ("no", "yes")), {"train": Split("train", examples, "by hand")})


def find(alias: str) -> ModelSource:
    try:
        return resolve_model(alias)
    except UsageError as error:
        pytest.skip(str(error))


@pytest.mark.real
def test_minilm(corpus: Corpus, tmp_path: Path) -> None:
    from transformers import AutoModel, AutoTokenizer

    source = find("minilm")
    summary = extract_states(corpus, source, tmp_path, ExtractOptions(dtype="float32", layers=(3, -1)))
    assert (summary.distinct, summary.empty) == (5, 1)
    cache = Cache(tmp_path)
    states = cache.manifest.states
    assert (states.kind, states.width, states.num_layers, states.layers) == ("encoder", 384, 6, (3, 6))
    tokenizer, model = AutoTokenizer.from_pretrained(source.location), AutoModel.from_pretrained(source.location).eval()
    for number, text in enumerate(cache.plan.texts(0, len(cache.plan))):
        with torch.no_grad():
            output = model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True)
        for layer, expected in ((3, output.hidden_states[3]), (6, output.last_hidden_state)):
            np.testing.assert_allclose(cache.read_texts(layer, np.asarray([number])).values, expected[0], atol=2e-5)


@pytest.mark.real
@pytest.mark.slow
def test_smollm2_from_its_gguf_file(corpus: Corpus, tmp_path: Path) -> None:
    source = find("smollm2-135m")
    assert source.gguf_file is not None
    extract_states(corpus, source, tmp_path, ExtractOptions(layers=(-1, 15), dtype="float32"))
    cache = Cache(tmp_path)
    states = cache.manifest.states
    assert (states.kind, states.width, states.num_layers, states.compute_dtype) == ("decoder", 576, 30, "float32")
    texts = cache.plan.texts(0, len(cache.plan))
    empty = texts.index("")
    assert cache.plan.length[empty] == 1  # this tokenizer adds no BOS: one EOS stands for no text
    backbone = load_backbone(source)
    assert cache.plan.token_ids(empty, empty + 1).tolist() == [backbone.tokenizer.eos_token_id]
    text = max(texts, key=len)
    number = texts.index(text)
    with torch.no_grad():
        output = backbone.model(**backbone.tokenizer(text, return_tensors="pt"), output_hidden_states=True)
    for layer, expected in ((15, output.hidden_states[15]), (30, output.last_hidden_state)):
        read = cache.read_texts(layer, np.asarray([number]))
        np.testing.assert_allclose(read.values, expected[0], rtol=1e-3, atol=1e-3)
