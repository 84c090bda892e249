"""What is compared: trained heads and poolers without weights, over the same layers of one backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from glot.errors import UsageError
from glot.fit.head_model import HeadModel, load_head
from glot.fit.run_folder import HEAD_FILE, RunConfig
from glot.inference.run_checks import check_single_texts, open_runs
from glot.nn.config import PoolerConfig, TokenChoice
from glot.nn.graph import Backend
from glot.nn.poolers import LastLayerPooler, Pooler, make_pooler
from glot.nn.tokens import TokenBatch
from glot.store.files import file_sha256, json_sha256


@dataclass(frozen=True, eq=False)
class Vectorizer:
    """One way to make a vector of a text's token states.

    Attributes:
        title: what the table calls it.
        slug: the same, fit for a file's name.
        source: where its weights come from, in words.
        tokens: which tokens it pools.
        module: the pooler, or the pooler and head of a run.
        identity: what sets its vectors apart from those of other columns over the same states.
    """

    title: str
    slug: str
    source: str
    tokens: TokenChoice
    module: HeadModel | Pooler
    identity: dict[str, Any]

    @property
    def width(self) -> int:
        """D, the width of a text's vector."""
        return self.module.width if isinstance(self.module, HeadModel) else self.module.out_width

    def vectors(self, batch: TokenBatch) -> Tensor:
        """(B, D): the vector of each text, as it is, not normalised."""
        return self.module.vectors(batch) if isinstance(self.module, HeadModel) else self.module(batch)


@dataclass(frozen=True)
class Comparison:
    """Columns over the same states.

    Attributes:
        config: of the first run; all share its states and its layers.
        run: the first run's folder.
        columns: the runs in the order given, then mean and CLS (encoders) or the last token (decoders).
    """

    config: RunConfig
    run: Path
    columns: list[Vectorizer]

    @property
    def layer(self) -> dict[str, Any]:
        """The layer of all columns, or the layers where runs mix several; the plain ones take the last of them."""
        return {"layers": list(self.config.layers)} if len(self.config.layers) > 1 else {"layer": self.config.layer}

    def revision(self, column: Vectorizer, settings: dict[str, Any]) -> str:
        """A name for all that a column's vectors depend on: states, layer, weights and `settings`; 16 hex digits."""
        states = self.config.states
        parts = {
            "states": [
                *(states.weights_sha256, states.tokenizer_sha256, states.template, states.compute_dtype),
                *([states.loader_sha256] if states.loader_sha256 else []),
            ],
            **self.layer,
            "column": column.identity,
            "settings": settings,
        }
        return json_sha256(parts)[:16]


def open_comparison(runs: Sequence[Path], backend: Backend) -> Comparison:
    """Load the heads of some runs, and put the plain poolers of the same states beside them.

    A pooler without weights that a run brings along already is not put beside it again.

    Raises UsageError where there is no run, a run is given twice or is of pairs in one prompt, or runs are not over the
    same states and layers;
    FaultError where a file is damaged.
    """
    opened = open_runs(runs, same_texts=False)
    check_single_texts(opened[0])  # all have its template
    if len({run.folder.resolve() for run in opened}) < len(opened):
        raise UsageError("--run names the same run twice: leave one out")
    columns = [_run_column(run.folder, run.config, backend) for run in opened]
    there = {(run.config.pooler.pooler, run.config.pooler.tokens) for run in opened}
    first = opened[0]
    for name in ("mean", "cls"):
        if (name, "all") not in there:
            plain = PoolerConfig(pooler=name, token_position=first.config.states.token_position)
            columns.append(_plain_column(plain, first.config.states.width, backend))
    return Comparison(first.config, first.folder, _tell_apart(columns))


def _run_column(folder: Path, config: RunConfig, backend: Backend) -> Vectorizer:
    identity = {"pooler": config.pooler.to_json(), "head": file_sha256(folder / HEAD_FILE)}
    module = load_head(folder, config, backend, torch.device("cpu"))
    return Vectorizer(
        _title(config.pooler), config.pooler.pooler, f"run {folder}", config.pooler.tokens, module, identity
    )


def _plain_column(config: PoolerConfig, width: int, backend: Backend) -> Vectorizer:
    identity = {"pooler": config.pooler, "tokens": config.tokens, "token": config.token_position}
    return Vectorizer(
        _title(config),
        "last" if _title(config) == "last token" else config.pooler,
        "no weights",
        config.tokens,
        LastLayerPooler(make_pooler(config, width, backend)).eval(),
        identity,
    )


def _title(config: PoolerConfig) -> str:
    title = config.entry.title_at(config.token_position)
    return title if config.tokens == "all" else f"{title}, {config.tokens} tokens"


def _tell_apart(columns: list[Vectorizer]) -> list[Vectorizer]:
    """The columns with their runs named where two have one title."""
    titles = [column.title for column in columns]
    return [
        column if titles.count(column.title) == 1 else replace(column, title=f"{column.title} ({column.source})")
        for column in columns
    ]
