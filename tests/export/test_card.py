"""The model card as the Hub's own client reads it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from glot.export.card import Evaluation, write_card
from glot.fit.result import FitResult
from glot.fit.run_folder import RunConfig
from glot.nn.contrastive import ContrastiveConfig
from glot.registry.backbones import hub_id
from glot.store.task_spec import TaskSpec


@pytest.fixture
def make_card(make_run: Callable[..., Path], tmp_path: Path) -> Callable[..., ModelCard]:
    """The card of a run: `make(task, source="", licence=None)`."""

    def make(task: TaskSpec, source: str = "", licence: str | None = None) -> ModelCard:
        is_labelled = task.target != "contrastive"
        run = make_run("bert", task=task) if is_labelled else make_run("bert")
        config = RunConfig.load(run)
        config = replace(config, states=replace(config.states, source=source or config.states.source))
        if task.target == "contrastive":
            config = replace(config, task=task, contrastive=ContrastiveConfig(proj_dim=8))
        write_card(tmp_path, config, FitResult.load(run), 56, "somebody/mine", licence)
        return ModelCard.load(tmp_path / "README.md")

    return make


def test_a_classifier(make_card: Callable[..., ModelCard]) -> None:
    task = TaskSpec("news", 1, "classes", ("sport", "money"), metrics=("accuracy", "mcc"))
    card = make_card(task, source="minilm")
    data = card.data
    assert (data.library_name, data.pipeline_tag) == ("sentence-transformers", "text-classification")
    assert (data.base_model, data.license) == ("sentence-transformers/all-MiniLM-L6-v2", "apache-2.0")
    assert {"sentence-transformers", "glot", "custom_code"} <= set(data.tags)
    scores = {score.metric_type: score for score in data.eval_results}
    assert set(scores) == {"accuracy", "matthews_correlation"}
    assert (scores["accuracy"].metric_value, scores["accuracy"].dataset_name) == (0.75, "news")
    assert scores["accuracy"].dataset_split == "validation"
    for words in ("classes sport, money", "τ = 0.6", "at most 24 tokens", 'SentenceTransformer("somebody/mine"'):
        assert words in card.text
    assert "model[1].predict(vectors)" in card.text
    assert re.search(r"\| glot: \d layers of gat, width \d+,", card.text)
    assert re.search(r"\| layer (\d), of \1,", card.text)


def test_what_was_found_on_untouched_rows(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run("bert", task=TaskSpec("news", 1, "classes", ("sport", "money")))
    found = Evaluation(
        ("accuracy 78.7 [75.8, 81.3]; majority 50.9", "clearly better"),
        "rows of held.csv",
        {"train": 1600},
        {"train": "2 classes"},
    )
    write_card(tmp_path, RunConfig.load(run), FitResult.load(run), 56, "mine", None, found)
    text = (tmp_path / "README.md").read_text()
    for words in (
        "- accuracy 78.7 [75.8, 81.3]; majority 50.9\n",
        "(rows of held.csv;",
        "train of 1,600 rows, 2 classes.",
    ):
        assert words in text
    assert "model[1].predict_proba(vectors)" in text


def test_pairs_without_labels_have_no_head(make_card: Callable[..., ModelCard]) -> None:
    text = make_card(TaskSpec("queries", 2, "contrastive", metrics=("mrr@10",))).text
    assert "on pairs without labels" in text
    assert "model.similarity(vectors, others)" in text
    assert "head" not in text


def test_pairs_with_a_score_over_a_folder(make_card: Callable[..., ModelCard]) -> None:
    task = TaskSpec("sim", 2, "score", score_range=(0.0, 5.0), metrics=("spearman",))
    card = make_card(task, licence="mit")
    assert (card.data.pipeline_tag, card.data.license) == ("sentence-similarity", "mit")
    assert card.data.base_model is None
    assert "a score from 0 to 5" in card.text
    assert "predict(vectors, others)" in card.text


@pytest.mark.parametrize(
    ("source", "known"),
    [
        ("mistral-7b", "mistralai/Mistral-7B-v0.1"),
        ("somebody/model", "somebody/model"),
        ("/home/me/model", None),
        ("/model", None),
        ("", None),
    ],
)
def test_the_backbone_by_its_name_on_the_hub(source: str, known: str | None) -> None:
    assert hub_id(source) == known
