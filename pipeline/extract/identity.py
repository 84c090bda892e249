"""What tells one backbone from another: hashes of its weights and of its tokenizer."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.store.files import file_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def weights_sha256(folder: Path, gguf_file: str | None) -> str:
    """Hash of the weight files and the config, or of the GGUF file."""
    if gguf_file:
        return file_sha256(folder / gguf_file)
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    return file_sha256(*files, *sorted(folder.glob("config.json")))


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
