"""The states of a text depend on that text alone: what is tried on a backbone when it is loaded, and what follows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glot.corpus.examples import Corpus, Example, Split
from glot.errors import UsageError
from glot.extract.backbone import Backbone, load_backbone
from glot.extract.forward import length_batches
from glot.extract.planning import length_limit
from glot.extract.prepare import states_identity
from glot.extract.run import ExtractOptions, extract_states
from glot.extract.source import resolve_model
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec
from tests.conftest import MAX_POSITIONS, SENTENCES

TEXTS = [SENTENCES[0], "the cat", "rain", " ".join(SENTENCES[:3]), "", SENTENCES[4]]


@pytest.fixture(scope="module")
def make_model(make_backbone_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable:
    """`make(config)` saves a tiny model of any family with random weights, and the tiny BERT's tokenizer beside it."""
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(make_backbone_folder("bert"))

    def make(config: object) -> Path:
        folder = tmp_path_factory.mktemp("backbone") / f"tiny-{config.model_type}"
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = AutoModel.from_config(config)
            for weight in model.parameters():  # far from 0, so that padding that leaks shows
                if weight.dim() > 1:
                    torch.nn.init.normal_(weight, std=0.3)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="module")
def fnet(make_model: Callable) -> Path:
    """A model that mixes all places, padding too."""
    from transformers import FNetConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48, "max_position_embeddings": 64}
    return make_model(FNetConfig(vocab_size=400, tpu_short_seq_length=64, **sizes))


def load(folder: Path) -> Backbone:
    return load_backbone(resolve_model(str(folder)))


def alone(folder: Path, text: str, max_tokens: int) -> np.ndarray:
    """(L, d) states of a text by itself, without any code of ours."""
    from transformers import AutoModel, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(folder)([text], return_tensors="pt", truncation=True, max_length=max_tokens)
    with torch.no_grad():
        return AutoModel.from_pretrained(folder).eval()(**inputs).last_hidden_state[0].numpy()


def extract(folder: Path, out: Path, say: Callable[[str], None] = print, **options: object) -> Cache:
    examples = [Example(row, text, None, row % 2) for row, text in enumerate(TEXTS)]
    corpus = Corpus(TaskSpec("made", 1, "classes", ("no", "yes")), {"train": Split("train", examples, "made")})
    extract_states(corpus, resolve_model(str(folder)), out, ExtractOptions(dtype="float32", **options), say=say)
    return Cache(out)


def test_a_model_that_pads_wrongly_forwards_texts_of_equal_length_together(fnet: Path, tmp_path: Path) -> None:
    said: list[str] = []
    cache = extract(fnet, tmp_path / "cache", said.append)
    assert not load(fnet).pads
    assert [line for line in said if "only texts of equal length" in line]
    examples = cache.examples("train")
    for text_id, row in zip(examples.text_id.tolist(), examples.index.tolist(), strict=True):
        expected = alone(fnet, TEXTS[row], 64)
        states = cache.read_texts(cache.manifest.states.layers[0], np.asarray([text_id]))
        np.testing.assert_allclose(states.values, expected, atol=1e-5 * np.abs(expected).max())


@given(st.lists(st.integers(1, 9), max_size=30), st.integers(1, 40))
def test_batches_of_equal_length_hold_every_text_once(lengths: list[int], budget: int) -> None:
    length = np.asarray(lengths, dtype=np.uint32)
    batches = list(length_batches(length, budget, pads=False))
    assert sorted(place for batch in batches for place in batch.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(set(length[batch].tolist())) == 1
        assert len(batch) == 1 or length[batch].sum() <= budget


@pytest.mark.parametrize(
    ("how", "message"),
    [("counts", "other states at each forward"), ("looks", "other states beside other texts, even of the same length")],
)
def test_states_that_depend_on_more_than_the_text_are_refused(
    how: str, message: str, backbone_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = Backbone.forward, [0]

    def changed(self: Backbone, ids: torch.Tensor, mask: torch.Tensor, with_inner: bool = False) -> object:
        output = forward(self, ids, mask, with_inner)
        calls[0] += 1
        output.last_hidden_state = output.last_hidden_state.clone()
        output.last_hidden_state += calls[0] if how == "counts" else float(len(ids))
        return output

    monkeypatch.setattr(Backbone, "forward", changed)
    with pytest.raises(UsageError, match=message) as caught:
        load(backbone_folders["llama"])
    assert "tiny-llama (a llama model)" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_length_that_changes_the_way_of_computing_is_noticed(
    backbone_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the scaling of rotary positions does that begins at some length of the batch."""
    forward = Backbone.forward

    def changed(self: Backbone, ids: torch.Tensor, mask: torch.Tensor, with_inner: bool = False) -> object:
        output = forward(self, ids, mask, with_inner)
        output.last_hidden_state = output.last_hidden_state * (2 if ids.shape[1] > 40 else 1)
        return output

    monkeypatch.setattr(Backbone, "forward", changed)
    backbone = load(backbone_folders["llama"])
    assert backbone.pads
    assert length_limit(backbone, 40, 128) == 40
    assert backbone.pads
    assert length_limit(backbone, 48, 128) == 48
    assert not backbone.pads


# Lengths


@pytest.mark.parametrize("family", ["bert", "llama", "roberta"])
def test_the_usual_length_adapts_to_the_model_and_one_that_was_asked_for_does_not(
    family: str, backbone_folders: dict[str, Path], tmp_path: Path
) -> None:
    said: list[str] = []
    cache = extract(backbone_folders[family], tmp_path / "cache", said.append)
    assert cache.manifest.states.max_tokens == MAX_POSITIONS
    assert sum(f"texts are cut at {MAX_POSITIONS} tokens, the most that" in line for line in said) == 1
    again: list[str] = []
    assert extract(backbone_folders[family], tmp_path / "cache", again.append).manifest.states.max_tokens == 48
    with pytest.raises(UsageError, match=f"--max-tokens 49: tiny-{family} takes at most {MAX_POSITIONS} tokens"):
        extract(backbone_folders[family], tmp_path / "other", max_tokens=MAX_POSITIONS + 1)
    assert not (tmp_path / "other").exists()


def test_the_limit_is_what_can_be_forwarded_whatever_the_config_says(make_model: Callable) -> None:
    """MPNet's table of positions begins after the padding index; the config counts its rows."""
    from transformers import MPNetConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    backbone = load(make_model(MPNetConfig(vocab_size=400, max_position_embeddings=64, **sizes)))
    assert backbone.max_positions == 62
    assert length_limit(backbone, None, 128) == 62
    with pytest.raises(UsageError, match="takes at most 62 tokens"):
        length_limit(backbone, 63, 128)


def test_a_limit_that_nothing_tells_of_is_found_by_trying(
    backbone_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = Backbone.forward

    def short_of_breath(self: Backbone, ids: torch.Tensor, mask: torch.Tensor, with_inner: bool = False) -> object:
        if ids.shape[1] > 37:
            raise RuntimeError("a buffer of another size")
        return forward(self, ids, mask, with_inner)

    monkeypatch.setattr(Backbone, "forward", short_of_breath)
    with pytest.raises(UsageError, match="--max-tokens 48: tiny-llama takes at most 37 tokens"):
        length_limit(load(backbone_folders["llama"]), 48, 128)


def test_a_model_without_a_limit_takes_any_length(make_model: Callable, tmp_path: Path) -> None:
    """XLNet says -1."""
    from transformers import XLNetConfig

    folder = make_model(XLNetConfig(vocab_size=400, d_model=32, n_layer=2, n_head=4, d_inner=48))
    assert load(folder).max_positions is None
    cache = extract(folder, tmp_path / "cache", max_tokens=200)
    assert cache.manifest.states.max_tokens == 200


# Layers


def test_the_width_is_that_of_the_states(make_model: Callable, tmp_path: Path) -> None:
    from transformers import OPTConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48}
    folder = make_model(OPTConfig(vocab_size=400, word_embed_proj_dim=16, max_position_embeddings=64, **sizes))
    backbone = load(folder)
    assert (backbone.width, backbone.layer_widths) == (16, (32, 32, 16))
    assert extract(folder, tmp_path / "last").manifest.states.width == 16
    assert extract(folder, tmp_path / "inner", layers=(0, 1)).manifest.states.width == 32
    with pytest.raises(UsageError, match=r"several widths \(layer 0 has 32, layer 2 has 16\): extract them one by one"):
        states_identity(backbone, ExtractOptions(layers=(0, -1)))


def test_layer_0_is_the_embeddings_or_is_not_promised(make_model: Callable) -> None:
    """Mamba's list of states begins after its first layer."""
    from transformers import MambaConfig

    backbone = load(make_model(MambaConfig(vocab_size=400, hidden_size=32, num_hidden_layers=2, state_size=8)))
    assert backbone.layer_widths == (None, None, 32)
    assert states_identity(backbone, ExtractOptions()).layers == (2,)
    with pytest.raises(UsageError, match=r"--layers 0: tiny-mamba .a mamba model.* leave --layers out"):
        states_identity(backbone, ExtractOptions(layers=(0,)))


def test_models_that_cannot_work_are_refused_by_name(make_model: Callable) -> None:
    from transformers import CanineConfig, XmodConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    for config, reason in [
        (CanineConfig(**sizes), "has no table of token embeddings"),
        (XmodConfig(vocab_size=400, languages=["en_XX", "de_DE"], **sizes), "cannot be used: .*language"),
    ]:
        with pytest.raises(UsageError, match=f"tiny-{config.model_type} .*{reason}") as caught:
            load(make_model(config))
        assert "\n" not in str(caught.value)


def test_new_texts_are_forwarded_as_the_caches_were(fnet: Path) -> None:
    from glot.inference.forward import forward_texts

    backbone = load(fnet)
    states = states_identity(backbone, ExtractOptions())
    seen = {}
    for places, forwarded in forward_texts(TEXTS, states, states.max_tokens, states.layers[:1], backbone):
        assert bool(forwarded.mask.all())
        seen.update(zip(places.tolist(), forwarded.hidden, strict=True))
    for place, text in enumerate(TEXTS):
        expected = alone(fnet, text, states.max_tokens)
        np.testing.assert_allclose(seen[place].numpy(), expected, atol=1e-5 * np.abs(expected).max())
