"""What tells one backbone from another: hashes of all that its loader reads and that can change a token or a state."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glot.extract.folders import ADAPTER_CONFIG, ModelFolders
from glot.store.files import file_sha256, json_sha256

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

# Settings that no token and no state depends on: names and paths, what is set anew at each load, how text is decoded.
_TOKENIZER_ASIDE = {
    *("name_or_path", "special_tokens_map_file", "tokenizer_file", "transformers_version", "processor_class"),
    *("padding_side", "truncation_side", "model_max_length", "clean_up_tokenization_spaces", "chat_template"),
}
_ADAPTER_ASIDE = {"base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version"}
# Of a config in memory: names, the dtype (which the weights say), what is given out, and what heads alone look at.
_CONFIG_ASIDE = {
    *("_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"),
    *("use_cache", "output_attentions", "output_hidden_states", "return_dict"),
    *("id2label", "label2id", "num_labels", "problem_type", "classifier_dropout", "tie_word_embeddings"),
}
_TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


@dataclass(frozen=True)
class Loader:
    """What the loader read beside the weights, the config and the fast tokenizer's rules.

    Attributes:
        sha256: over all of it.
        beyond: what of it is no tokenizer's: "code", "adapter", "weights"; nothing for most models.
    """

    sha256: str
    beyond: tuple[str, ...]


def weights_sha256(folders: ModelFolders) -> str:
    """Hash of the weight files and the config, an adapter's weights after them, or of the GGUF file."""
    if folders.gguf_file:
        return file_sha256(folders.model / folders.gguf_file)
    files = [*_hashed_weights(folders.model), *sorted(folders.model.glob("config.json"))]
    if folders.adapter is not None:
        files += sorted(folders.adapter.glob("adapter_model.*"))
    return file_sha256(*files)


def memory_sha256(model: PreTrainedModel) -> str | None:
    """Hash of the class, the settings and every weight of a model that lies in memory, whatever it was loaded from.

    None where some of its weights are not in memory (they are offloaded), so that nobody can tell what they are.
    """
    import torch

    settings = {key: value for key, value in model.config.to_diff_dict().items() if key not in _CONFIG_ASIDE}
    about = {"class": type(model).__name__, "config": settings}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if tensor.is_meta:
            return None
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of the tokenizer's rules: the fast tokenizer's JSON, or the vocabulary of a slow one."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is not None:
        # A batch sets padding and truncation on the object: they are options, not the tokenizer's identity.
        fast = type(fast).from_str(fast.to_str())
        fast.no_padding()
        fast.no_truncation()
        return hashlib.sha256(fast.to_str().encode()).hexdigest()
    return hashlib.sha256(repr(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()


def identify_loader(
    folders: ModelFolders, tokenizer: PreTrainedTokenizerBase, config: PretrainedConfig, code: dict[str, Path]
) -> Loader:
    """Hash what the other two hashes leave out.

    Of a fast tokenizer only what its JSON does not say; of one in Python its files, settings and class; weight files
    that have unusual names, an adapter's settings, and the code that runs, by its names in the folder.
    """
    beyond: dict[str, Any] = {}
    if code:
        beyond["code"] = {name: file_sha256(path) for name, path in code.items()}
    if folders.adapter is not None:
        beyond["adapter"] = _settings(folders.adapter / ADAPTER_CONFIG, _ADAPTER_ASIDE)
    if not folders.gguf_file:
        loaded = _loaded_weights(folders.model, config)
        if set(loaded) != set(_hashed_weights(folders.model)):
            beyond["weights"] = {path.relative_to(folders.model).as_posix(): file_sha256(path) for path in loaded}
    parts = {"tokenizer": _tokenizer_parts(folders.tokenizer, tokenizer, bool(code)), **beyond}
    return Loader(json_sha256(parts), tuple(sorted(beyond)))


def identify_held(tokenizer: PreTrainedTokenizerBase) -> Loader:
    """As `identify_loader` for a tokenizer in memory: the same hash, where it is a fast one.

    Of one in Python only its class and settings of tokens are known, beside the words that `tokenizer_sha256` hashes.
    """
    parts = _tokenizer_settings(tokenizer)
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        parts["class"] = type(tokenizer).__name__
    return Loader(json_sha256({"tokenizer": parts}), ())


def _tokenizer_settings(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return {
        "split_special_tokens": bool(getattr(tokenizer, "split_special_tokens", False)),
        "ids": [tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id],
    }


def _tokenizer_parts(folder: Path, tokenizer: PreTrainedTokenizerBase, has_code: bool) -> dict[str, Any]:
    parts = _tokenizer_settings(tokenizer)
    if getattr(tokenizer, "backend_tokenizer", None) is not None and not has_code:
        return parts  # its JSON says the rest
    files = sorted({*tokenizer.vocab_files_names.values(), "tekken.json"})
    return parts | {
        "class": type(tokenizer).__name__,
        "settings": {name: _settings(folder / name, _TOKENIZER_ASIDE) for name in _TOKENIZER_SETTINGS},
        "files": {name: file_sha256(folder / name) for name in files if (folder / name).is_file()},
    }


def _settings(path: Path, aside: Iterable[str]) -> Any:
    """What a JSON file says, without some keys; None where it is not there."""
    if not path.is_file():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    return {key: value for key, value in values.items() if key not in aside} if isinstance(values, dict) else values


def _hashed_weights(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def _loaded_weights(folder: Path, config: PretrainedConfig) -> list[Path]:
    """The weight files that transformers opens: the first of these names, or what an index lists."""
    names = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"]
    named = getattr(config, "transformers_weights", None)
    for name in [named, *names] if isinstance(named, str) else names:
        path = folder / name
        if path.is_file() and name.endswith(".index.json"):
            listed = json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()
            return [folder / file for file in sorted(set(listed))]
        if path.is_file():
            return [path]
    return []
