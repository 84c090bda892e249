"""The states in a cache are those of each text forwarded alone, whatever batch it went through."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from glot.extract.backbone import load_backbone
from glot.extract.forward import quantize
from glot.extract.identity import tokenizer_sha256
from glot.extract.source import ModelSource
from glot.store.plan import CONTENT, SPECIAL, Plan
from glot.store.reader import Cache

FAMILIES = ["mistral", "llama", "bert", "roberta", "bare"]


def values(cache: Cache, layer: int, text_id: int) -> np.ndarray:
    """(L, d) float32."""
    stored = cache.read_texts(cache.resolve_layer(layer), np.asarray([text_id]))
    if stored.dtype == "bfloat16":
        return torch.from_numpy(stored.values).view(torch.bfloat16).float().numpy()
    return stored.values.astype(np.float32)


def texts_of(cache: Cache) -> list[str]:
    return cache.plan.texts(0, len(cache.plan))


def tokens_of(plan: Plan, text_id: int) -> list[int]:
    return plan.token_ids(text_id, text_id + 1).tolist()


@pytest.mark.parametrize("token_budget", [40, 4096])
@pytest.mark.parametrize("family", FAMILIES)
def test_float32_states_are_those_of_each_text_alone(
    family: str,
    token_budget: int,
    backbone_folders: dict,
    make_corpus: Callable,
    extract: Callable,
    direct_states: Callable,
    tmp_path: Path,
) -> None:
    folder = backbone_folders[family]
    extract(make_corpus(), folder, tmp_path, dtype="float32", layers=(-1, 0, 1), token_budget=token_budget)
    cache = Cache(tmp_path)
    assert cache.manifest.states.layers == (0, 1, 2)
    for text_id, text in enumerate(texts_of(cache)):
        for layer in (-1, 0, 1):
            expected = direct_states(folder, text, layer)
            np.testing.assert_allclose(values(cache, layer, text_id), expected, rtol=1e-5, atol=1e-5, err_msg=text)


@pytest.mark.cuda
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gpu_makes_the_states_of_the_cpu(
    family: str, backbone_folders: dict, make_corpus: Callable, extract: Callable, tmp_path: Path
) -> None:
    caches = []
    for device in ("cpu", "cuda"):
        extract(make_corpus(), backbone_folders[family], tmp_path / device, dtype="float32", device=device)
        caches.append(Cache(tmp_path / device))
    for text_id in range(len(caches[0].plan)):
        one, other = (values(cache, -1, text_id) for cache in caches)
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_float16_is_the_nearest_half(
    family: str,
    backbone_folders: dict,
    make_corpus: Callable,
    extract: Callable,
    direct_states: Callable,
    tmp_path: Path,
) -> None:
    folder = backbone_folders[family]
    extract(make_corpus(), folder, tmp_path)
    cache = Cache(tmp_path)
    assert (cache.manifest.states.dtype, cache.manifest.states.compute_dtype) == ("float16", "float32")
    for text_id, text in enumerate(texts_of(cache)):
        expected = direct_states(folder, text, -1)
        np.testing.assert_allclose(values(cache, -1, text_id), expected, rtol=2**-10, atol=2e-5)


def test_a_backbone_that_computes_in_bfloat16_is_kept_in_bfloat16(
    backbone_folders: dict, make_corpus: Callable, extract: Callable, direct_states: Callable, tmp_path: Path
) -> None:
    folder = backbone_folders["mistral"]
    corpus = make_corpus()
    extract(corpus, folder, tmp_path / "half", compute_dtype="bfloat16", token_budget=1)
    extract(corpus, folder, tmp_path / "full", compute_dtype="bfloat16", token_budget=1, dtype="float32")
    half, full = Cache(tmp_path / "half"), Cache(tmp_path / "full")
    assert (half.manifest.states.dtype, half.manifest.states.compute_dtype) == ("bfloat16", "bfloat16")
    for text_id, text in enumerate(texts_of(half)):
        np.testing.assert_array_equal(values(half, -1, text_id), values(full, -1, text_id))  # nothing was lost
        np.testing.assert_allclose(values(half, -1, text_id), direct_states(folder, text, -1), rtol=0.2, atol=0.2)


@pytest.mark.parametrize("family", FAMILIES)
def test_int8_is_within_half_a_step(
    family: str, backbone_folders: dict, make_corpus: Callable, extract: Callable, tmp_path: Path
) -> None:
    corpus, options = make_corpus(), {"layers": (-1, 0), "token_budget": 100, "shard_bytes": 3000}
    extract(corpus, backbone_folders[family], tmp_path / "int8", dtype="int8", **options)
    extract(corpus, backbone_folders[family], tmp_path / "full", dtype="float32", **options)
    cache, full = Cache(tmp_path / "int8"), Cache(tmp_path / "full")
    assert texts_of(cache) == texts_of(full)
    assert len(cache.manifest.shards) > 1
    for layer in (0, 2):
        for text_id in range(len(cache.plan)):
            stored, exact = cache.read_texts(layer, np.asarray([text_id])), values(full, layer, text_id)
            step = stored.scale[:, None]  # (L, 1)
            assert (stored.dtype, stored.values.dtype) == ("int8", np.int8)
            np.testing.assert_array_equal(np.abs(stored.values).max(axis=1), 127)  # all of the range is used
            assert (np.abs(stored.values * step - exact) <= step * 0.501 + 1e-7).all()
            np.testing.assert_allclose(stored.scale * 127, np.abs(exact).max(axis=1), rtol=1e-5)


@pytest.mark.parametrize(
    "states",
    [
        torch.zeros(2, 4),
        torch.tensor([[0.0, 0, 0, 0], [1, -2, 3, -4]]),
        torch.tensor([[1e-38, -1e-38, 0, 1e-42], [3e38, -3e38, 1, 0]]),
        torch.tensor([[1e-44, 0, 0, 0]]),
        torch.tensor([[6e4, 1e-3, -6e4, 1]], dtype=torch.bfloat16),
    ],
)
def test_states_of_any_size_are_quantized(states: torch.Tensor) -> None:
    quantized, scale = quantize(states)
    assert (quantized.dtype, scale.dtype) == (torch.int8, torch.float32)
    error = (quantized.double() * scale.double()[:, None] - states.double()).abs()
    assert (error <= scale.double()[:, None] * 0.51 + 1e-38).all()


@pytest.mark.parametrize(
    ("family", "kind", "pad", "positions"),
    [
        ("mistral", "decoder", 2, 48),
        ("llama", "decoder", 2, 48),
        ("bert", "encoder", 0, 48),
        ("roberta", "encoder", 1, 48),
    ],
)
def test_what_is_known_of_a_backbone(family: str, kind: str, pad: int, positions: int, backbone_folders: dict) -> None:
    backbone = load_backbone(ModelSource("x", str(backbone_folders[family])))
    assert (backbone.kind, backbone.width, backbone.num_layers, backbone.max_positions) == (kind, 32, 2, positions)
    assert backbone.vocabulary_size == 400
    assert (backbone.tokenizer.pad_token_id, backbone.tokenizer.padding_side) == (pad, "right")
    assert backbone.revision == ""
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert not backbone.model.training


@pytest.mark.parametrize("pairs", [False, True])
def test_the_plan_holds_each_text_once_with_its_tokens(
    pairs: bool, backbone_folders: dict, make_corpus: Callable, extract: Callable, tmp_path: Path
) -> None:
    corpus = make_corpus({"train": 10, "validation": 5}, pairs=pairs)
    summary = extract(corpus, backbone_folders["bert"], tmp_path)
    examples = [example for split in corpus.splits.values() for example in split.examples]
    texts = [text for example in examples for text in (example.text, example.text_b) if text is not None]
    cache = Cache(tmp_path)
    plan = cache.plan
    assert sorted(texts_of(cache)) == sorted(set(texts))
    assert (summary.texts, summary.distinct, summary.forwarded) == (len(texts), len(set(texts)), len(set(texts)))
    assert summary.examples == {"train": 10, "validation": 5}
    assert (summary.empty, summary.truncated) == (1, len({text for text in texts if len(text.split()) == 90}))
    assert summary.tokens == summary.forwarded_tokens == plan.length.sum()
    assert summary.bytes == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    truncated = plan.truncated(0, len(plan))
    for text_id, text in enumerate(texts_of(cache)):
        names = [plan.vocabulary[number] for number in tokens_of(plan, text_id)]
        assert (names[0], names[-1]) == ("[CLS]", "[SEP]")  # a cut text keeps both
        kinds = plan.token_kinds(text_id, text_id + 1).tolist()
        assert kinds == [SPECIAL, *[CONTENT] * (len(names) - 2), SPECIAL]
        assert truncated[text_id] == (len(text.split()) == 90)
        assert len(names) == 32 if truncated[text_id] else len(names) <= 32


@pytest.mark.parametrize(("family", "tokens"), [("mistral", ["<s>"]), ("bare", ["</s>"]), ("bert", ["[CLS]", "[SEP]"])])
def test_a_text_without_tokens_still_has_states(
    family: str, tokens: list[str], backbone_folders: dict, make_corpus: Callable, extract: Callable, tmp_path: Path
) -> None:
    summary = extract(make_corpus(), backbone_folders[family], tmp_path)
    cache = Cache(tmp_path)
    empty = tokens_of(cache.plan, texts_of(cache).index(""))
    assert [cache.plan.vocabulary[number] for number in empty] == tokens
    assert summary.empty == 1


def test_each_distinct_text_is_forwarded_once(
    backbone_folders: dict, make_corpus: Callable, extract: Callable, tmp_path: Path, forwarded: list
) -> None:
    corpus = make_corpus({"train": 10, "validation": 10}, pairs=True)
    extract(corpus, backbone_folders["llama"], tmp_path, token_budget=50, shard_bytes=3000)
    plan = Cache(tmp_path).plan
    assert sorted(forwarded) == sorted(tuple(tokens_of(plan, number)) for number in range(len(plan)))


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("order_seed", [0, 1])
def test_examples_are_shuffled_and_keep_their_texts_and_labels(
    pairs: bool, order_seed: int, backbone_folders: dict, make_corpus: Callable, extract: Callable, tmp_path: Path
) -> None:
    corpus = make_corpus({"train": 20, "validation": 6}, pairs=pairs)
    extract(corpus, backbone_folders["bert"], tmp_path, order_seed=order_seed)
    cache = Cache(tmp_path)
    texts = texts_of(cache)
    for name, split in corpus.splits.items():
        examples = cache.examples(name)
        assert sorted(examples.index.tolist()) == [example.index for example in split.examples]
        assert examples.index.tolist() != sorted(examples.index.tolist())
        for row in range(len(examples)):
            source = split.examples[int(examples.index[row])]
            assert texts[examples.text_id[row]] == source.text
            assert (examples.text_id_b is not None) == pairs
            assert not pairs or texts[examples.text_id_b[row]] == source.text_b
            assert examples.label[row] == source.label
        order = np.random.default_rng(order_seed).permutation(len(split.examples))
        assert examples.index.tolist() == order.tolist()  # the recorded seed gives this order for ever
    assert cache.manifest.plan.order_seed == order_seed
    entry = cache.examples_entry("train")
    assert (entry.examples, entry.labelled, entry.task, entry.source) == (20, True, corpus.spec, "made train")


def test_the_two_texts_of_a_pair_lie_together(
    backbone_folders: dict, make_corpus: Callable, extract: Callable, tmp_path: Path
) -> None:
    extract(make_corpus(pairs=True), backbone_folders["bert"], tmp_path)
    examples = Cache(tmp_path).examples("train")
    fresh = examples.text_id == np.maximum.accumulate(examples.text_id)
    assert fresh.sum() > 8
    assert (examples.text_id_b - examples.text_id)[fresh].max() == 1


def test_examples_without_labels(
    backbone_folders: dict, make_corpus: Callable, extract: Callable, tmp_path: Path
) -> None:
    extract(make_corpus(labels=False), backbone_folders["bert"], tmp_path)
    cache = Cache(tmp_path)
    assert cache.examples("train").label is None
    assert not cache.examples_entry("train").labelled


def test_shards_hold_what_fits_and_no_more(
    backbone_folders: dict, make_corpus: Callable, extract: Callable, tmp_path: Path
) -> None:
    shard_tokens = 24  # shorter than the long text, which gets a shard of its own
    extract(make_corpus(), backbone_folders["bert"], tmp_path / "many", shard_bytes=shard_tokens * 32 * 2)
    extract(make_corpus(), backbone_folders["bert"], tmp_path / "one")
    many, one = Cache(tmp_path / "many"), Cache(tmp_path / "one")
    sizes = [entry.tokens for entry in many.manifest.shards.values()]
    assert len(sizes) > 3
    assert sum(sizes) == many.plan.length.sum()
    assert [size for size in sizes if size > shard_tokens] == [32]
    assert len(one.manifest.shards) == 1
    assert texts_of(many) == texts_of(one)
    for text_id in range(len(one.plan)):
        np.testing.assert_allclose(values(many, -1, text_id), values(one, -1, text_id), rtol=2**-9, atol=2e-5)


def test_texts_can_be_left_out(
    backbone_folders: dict, make_corpus: Callable, extract: Callable, tmp_path: Path
) -> None:
    corpus = make_corpus()
    extract(corpus, backbone_folders["bert"], tmp_path / "without", keep_texts=False)
    extract(corpus, backbone_folders["bert"], tmp_path / "with")
    without, kept = Cache(tmp_path / "without"), Cache(tmp_path / "with")
    assert (without.plan.has_texts, kept.plan.has_texts) == (False, True)
    np.testing.assert_array_equal(without.plan.hashes(), kept.plan.hashes())
    # The same plan in both, so the same states, byte for byte.
    assert without.manifest.shards == kept.manifest.shards


def test_broken_unicode_does_not_stop_a_run(
    backbone_folders: dict, make_corpus: Callable, extract: Callable, tmp_path: Path
) -> None:
    corpus = make_corpus()
    examples = corpus.splits["train"].examples
    examples[4] = examples[4]._replace(text="half a pair \ud83d of surrogates")
    extract(corpus, backbone_folders["bert"], tmp_path)
    assert "half a pair ? of surrogates" in texts_of(Cache(tmp_path))


def test_weights_are_hashed_so_that_other_weights_are_other_states(make_backbone_folder: Callable) -> None:
    first, again, other = (
        load_backbone(ModelSource("x", str(make_backbone_folder("bert", seed)))) for seed in (0, 0, 1)
    )
    assert first.weights_sha256 == again.weights_sha256 != other.weights_sha256
    assert first.tokenizer_sha256 == again.tokenizer_sha256 == other.tokenizer_sha256
    before = first.tokenizer_sha256
    assert len(before) == len(hashlib.sha256().hexdigest())


def test_the_tokenizers_hash_is_of_its_rules_not_of_its_use(backbone_folders: dict) -> None:
    tokenizer = load_backbone(ModelSource("x", str(backbone_folders["bert"]))).tokenizer
    before = tokenizer_sha256(tokenizer)
    tokenizer(["a dog", "the cat sat on"], padding=True, truncation=True, max_length=3)
    assert tokenizer_sha256(tokenizer) == before
    tokenizer.add_tokens(["newword"])
    assert tokenizer_sha256(tokenizer) != before
