"""Texts to compare by, and where transformers keeps code that comes with a model."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

TEXTS = [
    "the cat sat on the mat and looked at the dog",
    "rain",
    "",
    "two birds built their nest above the kitchen window, and nobody knows why the river turned green last summer " * 3,
    "he never paid the bill,\tso the lights\nwent out ™ \ud83d",
    "a dog barks when the postman brings letters to the door",
]


@pytest.fixture(scope="session", autouse=True)
def _own_modules_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """transformers keeps a copy of the code that comes with a model: not below the home of who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield
