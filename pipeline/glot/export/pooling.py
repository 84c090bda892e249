"""The trained pooling of a run, as the one module that goes along with an export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from glot.errors import UsageError
from glot.fit.run_folder import HEAD_FILE, RunConfig, load_tensors, load_weights
from glot.nn.config import PoolerConfig, readout_width
from glot.nn.registry import EDGE_RULES, GNN_LAYERS
from glot.process import kept_randomness

if TYPE_CHECKING:
    from glot.export.pooling_module import GlotPooling


def check_library() -> None:
    """Raise UsageError where sentence-transformers is missing or too old; it is the base of the exported module."""
    try:
        import glot.export.pooling_module  # noqa: F401
    except ImportError:
        raise UsageError(
            "exporting needs sentence-transformers 5.4 or newer: pip install 'glot-pipeline[sentence-transformers]'"
        ) from None


def load_pooling(run: Path, config: RunConfig, added: tuple[int, int] = (0, 0)) -> GlotPooling:
    """The pooling and the head of a run, in float32 on the CPU.

    Args:
        run: its folder. config: what that folder's `config.json` holds.
        added: how many tokens the tokenizer puts before and behind a text, for a pooler that is not shown them.

    Raises UsageError where sentence-transformers is missing or the run cannot be exported, FaultError where it is
    damaged.
    """
    check_library()
    from glot.export.pooling_module import GlotPooling

    _check(config)
    tensors, _ = load_tensors(run / HEAD_FILE)
    renamed = {_rename(name): value for name, value in tensors.items()}
    projection, thresholds = renamed.get("projection.weight"), renamed.pop("head.thresholds", None)
    pooler, task = config.pooler, config.task
    hidden_before, hidden_behind = added if pooler.tokens == "content" else (0, 0)
    score_range = list(task.score_range) if task.score_range else None
    shape = pooler.to_json()
    settings = {key: shape[key] for key in ("pooler", "gnn", "layers", "hidden", "jk", "tau", "readout")}
    with kept_randomness():  # new weights are drawn, though these are replaced
        pooling = GlotPooling(
            width=config.states.width,
            **settings,
            scorer=_scorer_width(pooler, config.states.width),
            token_position=pooler.token_position,
            hidden_before=hidden_before,
            hidden_behind=hidden_behind,
            num_texts=task.num_texts,
            classes=list(task.classes),
            score_range=score_range,
            thresholds=None if thresholds is None else thresholds.tolist(),
            projection=None if projection is None else len(projection),
            pair_features=pooler.pair_features,
            mixed_layers=list(config.layers) if pooler.mixed_layers else [],
        )
    load_weights(pooling, renamed, run / HEAD_FILE)
    return pooling.eval()


def _rename(name: str) -> str:
    """A weight's name in the exported module, from that in `head.safetensors`."""
    own = name.removeprefix("pooler.").removeprefix("inner.")
    return own.replace("head.linear.", "head.").replace("head.projection.", "projection.")


def _check(config: RunConfig) -> None:
    pooler = config.pooler
    if pooler.tokens == "content" and config.states.template != "{text}":
        raise UsageError("a head that does not see its prompt's tokens is not exported: fit with --tokens all")
    if not pooler.entry.exports:
        raise UsageError(f"a head of the pooler {pooler.pooler} is not exported: export knows no equations of it")
    if not pooler.entry.has_graph:
        return
    layer = GNN_LAYERS[pooler.gnn]
    if not layer.exports:
        raise UsageError(f"a head with layers of {layer.name} is not exported: export knows no equations of them")
    if not EDGE_RULES[pooler.graph].exports:
        raise UsageError(f"a head on a {pooler.graph} graph is made for comparison and is not exported: fit on cosine")
    if pooler.gin_batch_norm and "gin_batch_norm" in layer.settings:
        raise UsageError("a head with a BatchNorm (--gin-batch-norm) is not exported: fit without it")


def _scorer_width(pooler: PoolerConfig, width: int) -> int:
    if "adapool_hidden" in pooler.entry.settings:
        return pooler.adapool_hidden
    in_front = width if pooler.jk == "cat" or not pooler.gnn_layers else 0
    behind = pooler.hidden * (pooler.gnn_layers if pooler.jk == "cat" else min(1, pooler.gnn_layers))
    return readout_width(in_front + behind)
