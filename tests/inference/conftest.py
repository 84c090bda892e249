"""Of the estimator's many fits, each begins at a regression: one strength is enough for what is tested here."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _one_strength(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glot.fit.regression.STRENGTHS", (0.1,))
