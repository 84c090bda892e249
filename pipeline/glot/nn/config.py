"""The settings of a head, each declared once, without torch: wrong ones are told before it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from glot.errors import UsageError
from glot.nn.registry import EDGE_RULES, GNN_LAYERS, POOLERS, PoolerEntry
from glot.nn.settings import Setting, check_settings, choices, with_keys, with_names

JumpingKnowledge = Literal["cat", "max", "mean"]
TokenPosition = Literal["first", "last"]
ReadoutKind = Literal["attention", "mean"]
TokenChoice = Literal["all", "content"]
PairFeatures = Literal["concat", "full", "symmetric"]
Similarity = Literal["cos", "dot"]
POOLING, PAIRS = "Pooler", "Pairs without labels"  # where the help lists them


@dataclass(frozen=True)
class PoolerConfig:
    """All that shapes a pooler beside the width of its input; settings that a pooler does not use are ignored.

    `token_position` is the token that cls takes: the first of encoders, the last of decoders. `mixed_layers` is how
    many layers come side by side and are mixed (see `LayerMix`); 0: the states are of one.

    Raises:
        UsageError: a value that a setting does not take, named together with what is allowed.
    """

    pooler: Annotated[str, Setting("What makes one vector of a text's token states.", POOLING, POOLERS)] = "glot"
    gnn: Annotated[str, Setting("Layers of glot.", POOLING, GNN_LAYERS)] = "gat"
    jk: Annotated[JumpingKnowledge, Setting("Jumping knowledge: what glot's readout sees of its layers.", POOLING)] = (
        "cat"
    )
    tau: Annotated[
        float,
        Setting(
            "Cosine above which tokens are joined; 1: self-loops only.",
            POOLING,
            least=-1,
            most=1,
            bounds="is a cosine and must lie in [-1, 1]",
            by_task=True,
        ),
    ] = 0.6
    graph: Annotated[
        str,
        Setting("Edges of glot: cosine; to compare with it, random (as many), chain or knn.", POOLING, EDGE_RULES),
    ] = "cosine"
    neighbours: Annotated[int, Setting("Of each token in a knn graph.", POOLING, least=1)] = 5
    readout: Annotated[ReadoutKind, Setting("How glot sums up its tokens.", POOLING)] = "attention"
    tokens: Annotated[
        TokenChoice,
        Setting("Pool all tokens, or content: no special or prompt ones.", POOLING),
    ] = "all"
    pair_features: Annotated[
        PairFeatures,
        Setting(
            "What the head reads of the vectors a, b of a pair: concat [a, b] (of scores: their cosine), full [a, b, "
            "|a-b|, ab], symmetric [a+b, |a-b|, ab].",
            POOLING,
            by_task=True,
        ),
    ] = "concat"
    gnn_layers: Annotated[
        int,
        Setting(
            "K, layers of glot or mlp.",
            POOLING,
            least=0,
            most=16,
            by_task=True,
            key="layers",
            old_options=("--layers",),
        ),
    ] = 2
    hidden: Annotated[int, Setting("h, the width of those layers.", POOLING, least=1, by_task=True)] = 256
    gin_batch_norm: Annotated[bool, Setting("BatchNorm in gin's MLPs, as published.", POOLING)] = False
    adapool_hidden: Annotated[int, Setting("Width of AdaPool's scorer.", POOLING, least=1, by_task=True, option="")] = (
        128
    )
    token_position: TokenPosition = "first"
    mixed_layers: int = 0

    def __post_init__(self) -> None:
        check_settings(self, as_options=False)
        if self.token_position not in choices(TokenPosition):
            raise UsageError(f"token_position must be one of first, last; got {self.token_position!r}")

    @property
    def entry(self) -> PoolerEntry:
        """What the registry says of the pooler."""
        return POOLERS[self.pooler]

    @property
    def has_weights(self) -> bool:
        """Whether anything of the pooler trains."""
        return self.mixed_layers > 0 or self.entry.has_weights(self)

    def to_json(self) -> dict[str, Any]:
        """A plain dict that `from_json` turns back into an equal config."""
        return with_keys(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PoolerConfig:
        """Rebuild a config from `to_json`'s dict."""
        return cls(**with_names(cls, data))


@dataclass(frozen=True)
class ContrastiveConfig:
    """How vectors are trained from pairs.

    None: of `negatives` all that the cache has are used, without `proj_dim` z itself is given out, and without
    `chunk_size` a batch is pooled as a whole; with it gradients are cached. Similarity "dot" is the published run's.

    Raises UsageError for values out of range.
    """

    temperature: Annotated[float, Setting("Of the softmax over similarities.", PAIRS, above=0, most=100)] = 0.07
    similarity: Annotated[Similarity, Setting("Of two vectors.", PAIRS)] = "cos"
    negatives: Annotated[
        int | None, Setting("Hard negatives used of an example.", PAIRS, least=0, default="all in the cache")
    ] = None
    proj_dim: Annotated[
        int | None, Setting("Train a linear projection to this width.", PAIRS, least=1, default="none")
    ] = None
    matryoshka: Annotated[
        tuple[int, ...],
        Setting("Widths of the projection trained beside it, as in 64,128.", PAIRS, default="none", lists=False),
    ] = ()
    chunk_size: Annotated[
        int | None,
        Setting(
            "Texts pooled at a time, for batches beyond the memory.",
            PAIRS,
            least=1,
            default="all",
            tells_apart=False,
        ),
    ] = None

    def __post_init__(self) -> None:
        check_settings(self)
        if self.matryoshka and self.proj_dim is None:
            raise UsageError("--matryoshka trains widths of a projection: pass --proj-dim too")
        if not all(1 <= width <= (self.proj_dim or 0) for width in self.matryoshka):
            raise UsageError(f"--matryoshka takes widths from 1 to --proj-dim ({self.proj_dim}); got {self.matryoshka}")

    def check_pooler(self, pooler: PoolerConfig) -> None:
        """Raise UsageError where nothing would train, or where chunks would not add up to the batch."""
        if not pooler.has_weights and self.proj_dim is None:
            raise UsageError(
                f"--pooler {pooler.pooler} has no weights to train: pass --proj-dim, or choose --pooler glot or adapool"
            )
        if self.chunk_size is not None and pooler.gin_batch_norm:
            raise UsageError("--gin-batch-norm looks at a whole batch: leave --chunk-size out")

    @property
    def widths(self) -> tuple[int | None, ...]:
        """The widths that are trained; None is the whole vector."""
        if self.proj_dim is None:
            return (None,)
        return tuple(sorted({*self.matryoshka, self.proj_dim}))

    @classmethod
    def from_json(cls, data: dict[str, Any] | None) -> ContrastiveConfig | None:
        """Rebuild a config from a run's JSON; None where there is none."""
        return None if data is None else cls(**{**data, "matryoshka": tuple(data["matryoshka"])})


def readout_width(width: int) -> int:
    """Rows of the readout's first weight for token vectors of `width` numbers: D // 2, and at least 128."""
    return max(128, width // 2)
