"""The settings of a head, without torch: wrong ones are told before it is loaded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from glot.errors import UsageError
from glot.nn.registry import EDGE_RULES, GNN_LAYERS, POOLERS, PoolerEntry

JumpingKnowledge = Literal["cat", "max", "mean"]
TokenPosition = Literal["first", "last"]
ReadoutKind = Literal["attention", "mean"]
TokenChoice = Literal["all", "content"]
Similarity = Literal["cos", "dot"]


@dataclass(frozen=True)
class PoolerConfig:
    """All that shapes a pooler beside the width of its input; settings that a pooler does not use are ignored.

    Attributes:
        pooler: a name of `POOLERS`: glot, mean, max, cls, adapool, mlp, or one from outside.
        gnn: the layers of glot, a name of `GNN_LAYERS`: gat, gcn, gin, gine, or one from outside.
        jk: what the readout of glot sees: cat, max or mean over the layers.
        tau: the cosine threshold of the token graph, -1 to 1 (strict: an edge iff cosine > tau).
        graph: a name of `EDGE_RULES`: cosine as in the paper; or, to see what the graph is worth, random, chain or knn.
        neighbours: of each token in a knn graph, at least 1.
        readout: how glot sums up its tokens: attention, or mean.
        tokens: what any pooler sees of a text: all its tokens, or content alone, without special ones and a template's.
        layers: K, 0 to 16: layers of glot or mlp.
        hidden: h, at least 1: width of those layers.
        gin_batch_norm: a BatchNorm inside the MLPs of gin and gine, only to redo published runs.
        adapool_hidden: width of AdaPool's scorer, at least 1.
        token_position: the token that cls takes: first (encoders) or last (decoders).

    Raises:
        UsageError: a value outside these, named together with what is allowed.
    """

    pooler: str = "glot"
    gnn: str = "gat"
    jk: JumpingKnowledge = "cat"
    tau: float = 0.6
    graph: str = "cosine"
    neighbours: int = 5
    readout: ReadoutKind = "attention"
    tokens: TokenChoice = "all"
    layers: int = 2
    hidden: int = 256
    gin_batch_norm: bool = False
    adapool_hidden: int = 128
    token_position: TokenPosition = "first"

    def __post_init__(self) -> None:
        _check_choice("pooler", self.pooler, POOLERS.names())
        _check_choice("gnn", self.gnn, GNN_LAYERS.names())
        _check_choice("jk", self.jk, get_args(JumpingKnowledge))
        _check_choice("graph", self.graph, EDGE_RULES.names())
        _check_choice("readout", self.readout, get_args(ReadoutKind))
        _check_choice("tokens", self.tokens, get_args(TokenChoice))
        _check_choice("token_position", self.token_position, get_args(TokenPosition))
        if not -1 <= self.tau <= 1:  # also refuses NaN
            raise UsageError(f"tau is a cosine and must lie in [-1, 1]; got {self.tau}")
        if not 0 <= self.layers <= 16:
            raise UsageError(f"layers must lie in 0..16; got {self.layers}")
        for name in ("hidden", "adapool_hidden", "neighbours"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1; got {getattr(self, name)}")

    @property
    def entry(self) -> PoolerEntry:
        """What the registry says of the pooler."""
        return POOLERS[self.pooler]

    @property
    def has_weights(self) -> bool:
        """Whether anything of the pooler trains."""
        return self.entry.has_weights(self)

    def to_json(self) -> dict[str, Any]:
        """A plain dict that `from_json` turns back into an equal config."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PoolerConfig:
        """Rebuild a config from `to_json`'s dict."""
        return cls(**data)


@dataclass(frozen=True)
class ContrastiveConfig:
    """How vectors are trained from pairs.

    Attributes:
        temperature: similarities are divided by it.
        similarity: "cos", or "dot" as in the published run.
        negatives: how many hard negatives of an example to use; None: all that the cache has.
        proj_dim: P, the width of a learned linear projection of z, the vector that is then given out; None: z itself.
        matryoshka: widths of the projection, beside P itself, at which its first numbers are trained to do as well.
        chunk_size: texts pooled at a time (gradient caching); None: a batch as a whole.

    Raises UsageError for values out of range.
    """

    temperature: float = 0.07
    similarity: Similarity = "cos"
    negatives: int | None = None
    proj_dim: int | None = None
    matryoshka: tuple[int, ...] = ()
    chunk_size: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.temperature <= 100:
            raise UsageError(f"--temperature must be above 0, and at most 100; got {self.temperature}")
        if self.similarity not in get_args(Similarity):
            raise UsageError(f"--similarity must be one of {', '.join(get_args(Similarity))}; got {self.similarity!r}")
        for name, least in (("negatives", 0), ("proj_dim", 1), ("chunk_size", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"--{name.replace('_', '-')} must be at least {least}; got {value}")
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


def _check_choice(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name} must be one of {', '.join(allowed)}; got {value!r}")


def readout_width(width: int) -> int:
    """Rows of the readout's first weight for token vectors of `width` numbers: D // 2, and at least 128."""
    return max(128, width // 2)
