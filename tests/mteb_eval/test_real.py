"""A real encoder on real pairs: mean pooling scores what sentence-transformers scores, both through mteb."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("mteb", reason="needs mteb")

from glot.errors import UsageError
from glot.extract.source import resolve_model


@pytest.fixture
def glue_folder() -> Path:
    folder = Path(os.environ.get("GLUE_DIR") or Path(__file__).parents[2].parent / "shared/data/glue")
    if not (folder / "STS-B" / "dev.tsv").exists():
        pytest.skip("no real GLUE files: set GLUE_DIR to read them")
    return folder


@pytest.mark.real
@pytest.mark.slow
def test_minilm_on_stsb(glot: Callable[..., tuple], glue_folder: Path, table: Path) -> None:
    import mteb
    from mteb.results import TaskResult
    from sentence_transformers import SentenceTransformer

    from glot.mteb_eval.local_tasks import local_task

    try:
        source = resolve_model("minilm")
    except UsageError as error:
        pytest.skip(str(error))
    pairs = f"sts:{glue_folder / 'STS-B' / 'dev.tsv'}"
    assert glot("extract", "--model", "minilm", "--data", table, "--text", "sentence", "--label", "kind")[0] == 0
    assert glot("fit", "--cache", "cache/train", "--epochs", 1, "--device", "cpu", "--out", "run")[0] == 0
    code, out, err = glot("evaluate", "--run", "run", "--mteb-local", pairs, "--max-tokens", 256, "--device", "cpu")
    assert code == 0, err
    ours = TaskResult.from_disk(next(Path("run/mteb/results").glob("glot__minilm-mean/*/LocalSTS-dev.json")))
    peer = SentenceTransformer(source.location, device="cpu")
    task = local_task(pairs)
    assert len(task.dataset["default"]["test"]) == 1500
    theirs = mteb.evaluate(peer, task, cache=None, co2_tracker=False, show_progress_bar=False).task_results[0]
    print(f"mean pooling on STS-B dev: {ours.get_score():.6f} here, {theirs.get_score():.6f} by sentence-transformers")
    assert ours.get_score() == pytest.approx(theirs.get_score(), abs=1e-3)
    assert theirs.get_score() > 0.8
    assert f"{100 * ours.get_score():.2f}" in out
