"""An adapter's folder: its base is found, the two become one, and what does not fit is told in one line."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from glot.errors import UsageError
from glot.extract.backbone import Backbone, load_backbone
from glot.extract.source import ModelSource, resolve_model

IDS = torch.tensor([[1, 3, 50, 60, 70, 9]])


@pytest.fixture
def make_adapter(backbone_folders: dict[str, Path], tmp_path: Path) -> Callable[..., tuple[Path, np.ndarray]]:
    """`make("llama", "AutoModelForCausalLM", **LoraConfig)` gives an adapter's folder and peft's own states."""
    peft = pytest.importorskip("peft")
    import transformers

    def make(family: str, kind: str, base: Path | None = None, **settings: object) -> tuple[Path, np.ndarray]:
        torch.manual_seed(0)
        model = getattr(transformers, kind).from_pretrained(base or backbone_folders[family])
        model = peft.get_peft_model(model, peft.LoraConfig(**settings)).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.normal_(0, 0.3)
            states = model(input_ids=IDS, output_hidden_states=True).hidden_states[-1]
        folder = tmp_path / "adapter"
        model.save_pretrained(folder)
        return folder, states.numpy()

    return make


def states_of(backbone: Backbone) -> np.ndarray:
    return backbone.hidden_states(IDS, torch.ones_like(IDS), (backbone.num_layers,))[0].numpy()


def load(folder: Path) -> Backbone:
    return load_backbone(ModelSource(folder.name, str(folder)), device="cpu")


def refused(folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def change(folder: Path, **values: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


CASES = {
    "causal": ("llama", "AutoModelForCausalLM", {"task_type": "CAUSAL_LM"}),
    "bare": ("llama", "AutoModel", {}),
    "pattern": ("llama", "AutoModelForCausalLM", {"target_modules": r"model\.layers\.\d+\.self_attn\.q_proj"}),
    "dora": ("mistral", "AutoModelForCausalLM", {"target_modules": ["q_proj", "lm_head"], "use_dora": True}),
    "classifier": ("bert", "AutoModelForSequenceClassification", {"task_type": "SEQ_CLS", "bias": "all"}),
    "saved": (
        "bert",
        "AutoModelForSequenceClassification",
        {"task_type": "SEQ_CLS", "modules_to_save": ["word_embeddings"]},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_states_are_those_of_peft(case: str, backbone_folders: dict[str, Path], make_adapter: Callable) -> None:
    family, kind, settings = CASES[case]
    folder, expected = make_adapter(family, kind, **settings)
    before = torch.random.get_rng_state()
    loaded, base = load(folder), load(backbone_folders[family])
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_allclose(states_of(loaded), expected, rtol=1e-4, atol=1e-4)
    assert np.abs(states_of(base) - expected).max() > 0.1
    assert type(loaded.model) is type(base.model)
    assert loaded.tokenizer_sha256 == base.tokenizer_sha256
    assert loaded.weights_sha256 != base.weights_sha256


def test_from_extraction_to_prediction(make_adapter: Callable, glot: Callable, table: Path) -> None:
    folder, _ = make_adapter("llama", "AutoModelForCausalLM", task_type="CAUSAL_LM")
    data = ["--data", table, "--text", "sentence", "--label", "kind", "--limit", 24, "--max-tokens", 24]
    code, _, err = glot("extract", "--model", folder, *data, "--out", "cache")
    assert code == 0, err
    assert glot("fit", "--cache", "cache", "--out", "run", "--epochs", 1, "--pooler", "mean", "--seeds", 0)[0] == 0
    Path("new.txt").write_text("rain falls\n")
    code, out, err = glot("predict", "--run", "run", "--input", "new.txt")
    assert code == 0, err
    assert json.loads(out)["label"] in ("animal", "water")
    change(folder, lora_alpha=99)  # another scale of the same weights
    code, out, err = glot("predict", "--run", "run", "--input", "new.txt")
    assert (code, out) == (2, "")
    assert "loader_sha256 differs" in err


def test_the_base_may_be_named_from_the_adapters_folder(
    backbone_folders: dict[str, Path], make_adapter: Callable, tmp_path: Path
) -> None:
    folder, expected = make_adapter("llama", "AutoModelForCausalLM")
    shutil.copytree(backbone_folders["llama"], tmp_path / "base")
    before = load(folder)
    change(folder, base_model_name_or_path="../base")
    after = load(folder)
    np.testing.assert_allclose(states_of(after), expected, rtol=1e-4, atol=1e-4)
    assert after.loader_sha256 == before.loader_sha256  # where the base lies does not matter
    assert after.weights_sha256 == before.weights_sha256


def test_without_peft_one_line_says_what_to_install(
    make_adapter: Callable, glot: Callable, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = make_adapter("llama", "AutoModel")
    monkeypatch.setitem(sys.modules, "peft", None)
    code, out, err = glot("extract", "--model", folder, "--data", table, "--text", "sentence", "--label", "kind")
    assert (code, out) == (2, "")
    assert "pip install 'glot-pipeline[peft]'" in err
    assert len(err.strip().splitlines()) == 1


def test_an_adapter_without_a_base(backbone_folders: dict[str, Path], make_adapter: Callable, tmp_path: Path) -> None:
    folder, _ = make_adapter("llama", "AutoModel")
    change(folder, base_model_name_or_path=str(tmp_path / "gone"))
    assert f"its base {tmp_path / 'gone'} is not there" in refused(folder)
    change(folder, base_model_name_or_path="org/gone")
    assert "its base cannot be had: cannot reach the hub for org/gone" in refused(folder)
    for nothing in (None, "", 7):
        change(folder, base_model_name_or_path=nothing)
        assert "names no base model" in refused(folder)
    change(folder, base_model_name_or_path=str(folder))
    assert "is no model" in refused(folder)
    (folder / "adapter_config.json").write_text("{")
    assert "names no base model" in refused(folder)


def test_another_base(backbone_folders: dict[str, Path], make_adapter: Callable, tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaModel

    folder, _ = make_adapter("llama", "AutoModelForCausalLM")
    wide = Path(shutil.copytree(backbone_folders["llama"], tmp_path / "wide"))
    shared = {"vocab_size": 400, "num_attention_heads": 4, "intermediate_size": 48, "pad_token_id": None}
    LlamaModel(LlamaConfig(hidden_size=64, num_hidden_layers=2, **shared)).save_pretrained(wide)
    change(folder, base_model_name_or_path=str(wide))
    assert "does not fit its base" in refused(folder)
    LlamaModel(LlamaConfig(hidden_size=32, num_hidden_layers=1, **shared)).save_pretrained(wide)
    assert "the base has no place for" in refused(folder)
    LlamaModel(LlamaConfig(hidden_size=32, num_hidden_layers=3, **shared)).save_pretrained(wide)
    assert "it lacks" in refused(folder)
    change(folder, base_model_name_or_path=str(backbone_folders["bert"]))
    assert "cannot be loaded" in refused(folder)


def test_what_cannot_be_merged(backbone_folders: dict[str, Path], make_adapter: Callable, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(backbone_folders["llama"])
    settings = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    peft.get_peft_model(model, settings).save_pretrained(tmp_path / "prompts")
    assert "no weights can take in" in refused(tmp_path / "prompts")


def test_a_model_and_an_adapter_in_one_folder(backbone_folders: dict[str, Path], make_adapter: Callable) -> None:
    folder, _ = make_adapter("llama", "AutoModel")
    shutil.copytree(backbone_folders["llama"], folder, dirs_exist_ok=True)  # whether peft is there would decide
    assert "holds a model and an adapter" in refused(folder)


def test_an_adapters_own_tokenizer(backbone_folders: dict[str, Path], make_adapter: Callable) -> None:
    folder, _ = make_adapter("llama", "AutoModel")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(backbone_folders["bare"] / name, folder / name)
    assert load(folder).tokenizer_sha256 == load(backbone_folders["bare"]).tokenizer_sha256
    assert resolve_model(str(folder)).name == "adapter"
