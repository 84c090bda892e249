"""The model card of an exported folder: metadata that the Hub reads, and what a reader wants to know."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, StrictUndefined

from glot.fit.result import FitResult
from glot.fit.run_folder import RunConfig
from glot.registry.backbones import BACKBONES, hub_id
from glot.store.files import write_text
from glot.store.template import takes_pair

CARD_FILE, CODE_FILE = "README.md", "glot_pooling.py"
# The Hub's names of our metrics, where they differ.
HUB_METRICS = {"mcc": "matthews_correlation", "macro_f1": "f1", "spearman": "spearmanr", "pearson": "pearsonr"}


@dataclass(frozen=True)
class Evaluation:
    """How a run did on untouched rows, for people.

    Attributes:
        lines: the scores, each with its interval and what simpler heads have there.
        untouched: which rows these are. rows: example set -> how many. labels: example set -> what they are.
    """

    lines: tuple[str, ...]
    untouched: str
    rows: dict[str, int]
    labels: dict[str, str]


def write_card(
    folder: Path,
    config: RunConfig,
    result: FitResult,
    width: int,
    name: str,
    licence: str | None,
    evaluation: Evaluation | None = None,
) -> None:
    """Write `README.md`.

    Args:
        width: D. name: what the example of use loads, a folder's name or a repository's.
        licence: an identifier of the Hub's; None takes that of a packaged backbone, and leaves it out for others.
        evaluation: on untouched rows, where there was one.
    """
    source = config.states.source
    licence = licence or (BACKBONES[source].licence if source in BACKBONES else None)
    template = Environment(undefined=StrictUndefined).from_string(
        files("glot.export").joinpath("card.md.jinja").read_text(encoding="utf-8")
    )
    card = template.render(
        card_data=_metadata(config, result, licence).to_yaml(),
        title=_title(config),
        config=config,
        result=result,
        evaluation=evaluation,
        base=hub_id(config.states.source),
        width=width,
        name=name,
        code=CODE_FILE,
        prompt=repr(config.states.template) if takes_pair(config.states.template) else "",
        license_name=licence,
    )
    write_text(folder / CARD_FILE, card + "\n")


def _metadata(config: RunConfig, result: FitResult, licence: str | None) -> ModelCardData:
    is_classifier = bool(config.task.classes) and config.task.num_texts == 1
    kind = "text-classification" if is_classifier else "sentence-similarity"
    scores = [
        EvalResult(
            task_type=kind,
            dataset_type=config.task.name,
            dataset_name=config.task.name,
            dataset_split=split,
            metric_type=HUB_METRICS.get(name, name),
            metric_name=name,
            metric_value=round(value, 5),
        )
        for split, values in result.best.items()
        for name, value in values.items()
    ]
    return ModelCardData(
        library_name="sentence-transformers",
        pipeline_tag=kind,
        base_model=hub_id(config.states.source),
        license=licence,
        tags=["sentence-transformers", "feature-extraction", "glot", "custom_code"],
        metrics=sorted({score.metric_type for score in scores}) or None,
        model_name=_title(config) if scores else None,
        eval_results=scores or None,
    )


def _title(config: RunConfig) -> str:
    return f"{config.pooler.pooler} over {config.states.backbone}, trained on {config.task.name}"
