"""What the tests of stage one share: running it, and the slow and obvious way to the same states."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from glot.corpus.examples import Corpus
from glot.extract.options import ENGINE_VARIABLE
from glot.extract.run import ExtractOptions, ExtractSummary, extract_states
from glot.extract.source import ModelSource

MAX_TOKENS = 32


@pytest.fixture
def extract() -> Callable[..., ExtractSummary]:
    """`extract(corpus, backbone_folder, out, say=print, **options)`; 32 tokens a text unless said otherwise."""

    def call(
        corpus: Corpus | None, backbone: Path, out: Path, say: Callable[[str], None] = print, **options: Any
    ) -> ExtractSummary:
        source = ModelSource(backbone.name, str(backbone))
        return extract_states(corpus, source, out, ExtractOptions(**{"max_tokens": MAX_TOKENS, **options}), say=say)

    return call


@pytest.fixture(scope="session")
def direct_states() -> Callable[..., np.ndarray]:
    """`direct(folder, text, layer)`: (L, d) float32 states of a text forwarded alone, without any code of ours."""
    from transformers import AutoModel, AutoTokenizer

    loaded: dict[Path, tuple] = {}
    made: dict[tuple, tuple] = {}

    def forward(folder: Path, text: str, max_tokens: int) -> tuple[np.ndarray, ...]:
        if folder not in loaded:
            tokenizer = AutoTokenizer.from_pretrained(folder)
            loaded[folder] = tokenizer, AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer, model = loaded[folder]
        inputs = tokenizer([text], return_tensors="pt", truncation=True, max_length=max_tokens)
        if inputs["input_ids"].shape[1] == 0:
            inputs = {"input_ids": torch.tensor([[tokenizer.eos_token_id]])}
        with torch.no_grad():
            output = model(**inputs, output_hidden_states=True)
        return tuple(states[0].numpy() for states in (*output.hidden_states[:-1], output.last_hidden_state))

    def direct(folder: Path, text: str, layer: int, max_tokens: int = MAX_TOKENS) -> np.ndarray:
        key = folder, text, max_tokens
        if key not in made:
            made[key] = forward(*key)
        return made[key][layer]

    return direct


@pytest.fixture
def crash_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[type | ModuleType, str, int], None]:
    """`crash_at(Manifest, "save", 3)`: the third call from now on dies before it does anything, and all after it."""

    def set_up(owner: type | ModuleType, name: str, call: int) -> None:
        original = getattr(owner, name)
        left = iter(range(call - 1))

        def dying(*args: Any, **kwargs: Any) -> Any:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, dying)

    return set_up


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of converted models, and no engine asked for by the environment."""
    folder = tmp_path / "home" / "openvino"
    monkeypatch.setattr("glot.extract.converted.models_folder", lambda: folder)
    monkeypatch.delenv(ENGINE_VARIABLE, raising=False)
    return folder
