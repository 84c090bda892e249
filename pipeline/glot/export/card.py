"""The model card of an exported folder: metadata that the Hub reads, and what a reader wants to know."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from glot.backbones import BACKBONES
from glot.fit.result import FitResult
from glot.fit.run_folder import RunConfig
from glot.nn.config import PoolerConfig
from glot.store.files import write_text
from glot.store.layout import StatesIdentity

CARD_FILE, CODE_FILE = "README.md", "glot_pooling.py"
# The Hub's names of our metrics, where they differ.
HUB_METRICS = {"mcc": "matthews_correlation", "macro_f1": "f1", "spearman": "spearmanr", "pearson": "pearsonr"}


def write_card(folder: Path, config: RunConfig, result: FitResult, width: int, name: str, licence: str | None) -> None:
    """Write `README.md`.

    Args:
        width: D. name: what the example of use loads, a folder's name or a repository's.
        licence: an identifier of the Hub's; None takes that of a packaged backbone, and leaves it out for others.
    """
    source = config.states.source
    licence = licence or (BACKBONES[source].licence if source in BACKBONES else None)
    data = _metadata(config, result, licence)
    prose = [
        _opening(config, width),
        _usage(config, name),
        _numbers(config, result),
        _making(config, result),
        _ending(licence),
    ]
    card = ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(prose) + "\n")
    write_text(folder / CARD_FILE, str(card))


def base_model(states: StatesIdentity) -> str | None:
    """The backbone's id on the Hub; None for a folder or a file, whose place is nobody else's business."""
    source = BACKBONES[states.source].hub if states.source in BACKBONES else states.source
    is_hub_id = source.count("/") == 1 and not Path(source).is_absolute()
    return source if is_hub_id else None


def _metadata(config: RunConfig, result: FitResult, licence: str | None) -> ModelCardData:
    is_classifier = config.task.target == "classes" and config.task.num_texts == 1
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
        base_model=base_model(config.states),
        license=licence,
        tags=["sentence-transformers", "feature-extraction", "glot", "custom_code"],
        metrics=sorted({score.metric_type for score in scores}) or None,
        model_name=_title(config) if scores else None,
        eval_results=scores or None,
    )


def _title(config: RunConfig) -> str:
    return f"{config.pooler.pooler} over {config.states.backbone}, trained on {config.task.name}"


def _opening(config: RunConfig, width: int) -> str:
    known = base_model(config.states)
    name = f"[{known}](https://huggingface.co/{known})" if known else f"`{config.states.backbone}`"
    how = (
        "GLOT joins a text's tokens into a graph by the cosine of their states, runs a small graph neural network over "
        "it and reads out a weighted sum ([Graph Learning Over Tokens](https://arxiv.org/abs/2603.03389))."
        if config.pooler.pooler == "glot"
        else f"The pooling is `{config.pooler.pooler}`."
    )
    if config.contrastive is None:
        trained = "only the pooling over its token states, and a linear head, were trained"
    elif config.contrastive.proj_dim is None:
        trained = "only the pooling over its token states was trained, on pairs without labels"
    else:
        trained = "only the pooling over its token states, and a projection, were trained, on pairs without labels"
    return (
        f"# {_title(config)}\n\nOne vector of {width} numbers a text, from the frozen {config.states.kind} {name}: "
        f"{trained}. {how}"
    )


def _usage(config: RunConfig, name: str) -> str:
    task = config.task
    lines = [
        "from sentence_transformers import SentenceTransformer",
        "",
        f'model = SentenceTransformer("{name}", trust_remote_code=True)  # runs {CODE_FILE}, which lies here',
        f'vectors = model.encode(["{"A first text." if task.num_texts == 2 else "A text."}"])',
    ]
    what = "class names" if task.target == "classes" else "scores"
    has_head = config.contrastive is None
    if task.num_texts == 2:
        lines += ['others = model.encode(["A second text."])']
        call = "model[1].predict" if has_head else "model.similarity"
        lines += [f"{call}(vectors, others)" + (f"  # {what}, one a pair" if has_head else "")]
    else:
        lines += [f"model[1].predict(vectors)  # {what}"]
    return (
        "## How to use\n\n```python\n" + "\n".join(lines) + "\n```\n\n"
        "It needs `pip install 'sentence-transformers>=5.4'` and nothing else. The losses and the trainer of that "
        "library train the pooling on; `model[0].requires_grad_(False)` keeps the backbone frozen."
        + (
            " The head (`model[1].head`) belongs to the weights as they are here and is not trained with them."
            if has_head
            else ""
        )
    )


def _numbers(config: RunConfig, result: FitResult) -> str:
    lines = ["## Numbers", "", "| set | metric | value |", "|---|---|---:|"]
    for split, values in result.best.items():
        lines += [f"| {split} | {name} | {value:.4f} |" for name, value in values.items()]
    how = {"validation": "the best on that same validation set", "holdout": "the best on a tenth of train kept aside"}
    return "\n".join(lines) + f"\n\nOf epoch {result.best_epoch}, {how.get(result.select, 'the last')}; one seed."


def _making(config: RunConfig, result: FitResult) -> str:
    task, states, train = config.task, config.states, config.train
    label = f"classes {', '.join(task.classes)}" if task.target == "classes" else "no labels"
    if task.score_range:
        label = f"a score from {task.score_range[0]:g} to {task.score_range[1]:g}"
    rows = [
        ("task", f"{task.name}: {'pairs of texts' if task.num_texts == 2 else 'single texts'}, {label}"),
        ("data, as fingerprints", ", ".join(f"{name} `{mark[:16]}`" for name, mark in config.data.items())),
        ("backbone", f"{states.backbone}{f' at {states.revision}' if states.revision else ''}, {states.compute_dtype}"),
        ("SHA-256 of its weights", f"`{states.weights_sha256}`"),
        ("states", f"layer {config.layer} of {states.num_layers}, at most {states.max_tokens} tokens"),
        ("template", f"`{states.template}`"),
        ("pooling", _pooling(config.pooler)),
        ("numbers trained", f"{result.parameters:,}"),
        (
            "training",
            f"Adam at {train.lr:g}, {len(result.epochs)} epochs, batches of {train.batch_size}, seed {train.init_seed}",
        ),
        ("made by", config.created_by),
    ]
    return "## How it was made\n\n| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)


def _pooling(pooler: PoolerConfig) -> str:
    text = pooler.pooler
    if text == "glot":
        text += (
            f": {pooler.layers} layers of {pooler.gnn}, width {pooler.hidden}, τ = {pooler.tau:g}, jumping knowledge "
        )
        text += f"{pooler.jk}, {pooler.readout} readout"
    return text + (", special tokens left out" if pooler.tokens == "content" else "")


def _ending(licence: str | None) -> str:
    terms = (
        f"{licence}, as the backbone's weights that lie here."
        if licence
        else "That of the backbone, whose weights lie here."
    )
    return (
        f"## Limits and licence\n\nThe graph compares every token with every other: memory grows with the square of a "
        f"text's length. What the backbone gets wrong about a text stays wrong. Numbers above are of that data alone."
        f"\n\nLicence: {terms}"
    )
