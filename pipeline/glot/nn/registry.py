"""The poolers, the GNN layers and the edge rules there are: one entry each, readable without torch.

An entry from outside is added the same way (see `glot.registry`): `POOLERS.add(PoolerEntry("sum", "sum", make=Sum))`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from glot.registry import Registry

GREY = "#777777"  # of what has no colour of its own
Code = str | Callable[..., Any]  # a callable, or "module:name" of one that is imported when it is first used


def load(code: Code) -> Callable[..., Any]:
    """The callable that an entry names."""
    if not isinstance(code, str):
        return code
    module, name = code.split(":")
    found: Callable[..., Any] = getattr(import_module(module), name)
    return found


@dataclass(frozen=True)
class PoolerEntry:
    """A pooler.

    Attributes:
        name: of `--pooler`. title: in tables and pictures.
        make: called with (PoolerConfig, d, backend) it gives a `Pooler`: a subclass of it will do.
        settings: the fields of `PoolerConfig` that it uses. One that uses `graph` has a token graph.
        trains: whether it has weights, or whether a given `PoolerConfig` gives it any. One without is run once a text.
        weights: called with (Pooler, TokenBatch) it gives the weights (N,) that `explain` draws; they sum to 1 over a
            text.
        colour, dash, marker: how pictures tell it apart: a CSS colour (`GREY` where it has none), the lengths
            of its dashes, on and off, and a marker of matplotlib.
        begins_with_mean: whether, or for which `PoolerConfig`, the first d numbers of its vector are the mean of the
            states where its readout weighs all tokens alike: so training may begin at the regression on the mean.
        stacks: whether `glot.fit.stack` knows how to train several of it as one, if their layer `stacks` too.
        exports: whether `glot.export` has its equations.
    """

    name: str
    title: str
    make: Code
    settings: tuple[str, ...] = ()
    trains: bool | Callable[[Any], bool] = True
    weights: Code = "glot.nn.poolers:uniform_weights"
    colour: str = GREY
    dash: tuple[float, ...] = ()
    marker: str = "o"
    begins_with_mean: bool | Callable[[Any], bool] = False
    stacks: bool = False
    exports: bool = False

    @property
    def has_graph(self) -> bool:
        """Whether it joins tokens by an edge rule."""
        return "graph" in self.settings

    @property
    def takes_one_token(self) -> bool:
        """Whether it takes the state of one token, the first or the last."""
        return "token_position" in self.settings

    def has_weights(self, config: Any) -> bool:
        """Whether anything of it trains under a `PoolerConfig`."""
        return self.trains if isinstance(self.trains, bool) else self.trains(config)

    def may_start_at_regression(self, config: Any) -> bool:
        """Whether training may begin at a regression: on the mean, or on its vector where nothing of it trains."""
        begins = self.begins_with_mean
        return not config.has_weights or (begins if isinstance(begins, bool) else begins(config))

    def title_at(self, position: str) -> str:
        """The title, for a pooler of one token by the token that it takes: `position` is "first" or "last"."""
        return "last token" if self.takes_one_token and position == "last" else self.title


@dataclass(frozen=True)
class GnnLayerEntry:
    """A layer of message passing.

    Attributes:
        name: of `--gnn`. title: in tables.
        make: called with (width, hidden) and, by name, its `settings`, it gives a module whose `forward` maps node
            features (N, width) and a `TokenGraph` to (N, hidden).
        settings: the fields of `PoolerConfig` that it takes.
        stacks, exports: as in `PoolerEntry`.
    """

    name: str
    title: str
    make: Code
    settings: tuple[str, ...] = ()
    stacks: bool = False
    exports: bool = False


@dataclass(frozen=True)
class EdgeRuleEntry:
    """A rule by which tokens are joined.

    Attributes:
        name: of `--graph`. title: in words; its settings stand in braces, "{neighbours} nearest".
        joined: called with (TokenBatch, EdgeRule) it gives (B, Lmax, Lmax) bool, True where tokens j > i are joined.
            What it says of other pairs and of padding is not read: edges go both ways, and each token hears itself.
        settings: the fields of `EdgeRule` that it uses.
        exports: as in `PoolerEntry`.
    """

    name: str
    title: str
    joined: Code
    settings: tuple[str, ...] = ()
    exports: bool = False


POOLERS: Registry[PoolerEntry] = Registry("pooler")
GNN_LAYERS: Registry[GnnLayerEntry] = Registry("GNN layer")
EDGE_RULES: Registry[EdgeRuleEntry] = Registry("edge rule")

# Okabe and Ito's colours, which colour-blind readers can tell apart; colours never stand alone.
for _entry in (
    PoolerEntry(
        "glot",
        "GLOT",
        make="glot.nn.poolers:Glot",
        settings=("gnn", "jk", "tau", "graph", "neighbours", "readout", "gnn_layers", "hidden", "gin_batch_norm"),
        trains=lambda config: config.gnn_layers > 0 or config.readout == "attention",
        weights="glot.nn.poolers:readout_weights",
        colour="#D55E00",
        begins_with_mean=lambda config: config.jk == "cat" or config.gnn_layers == 0,
        stacks=True,
        exports=True,
    ),
    PoolerEntry(
        "mean",
        "mean",
        make="glot.nn.poolers:MeanPooler",
        trains=False,
        colour="#0072B2",
        begins_with_mean=True,
        dash=(4, 2),
        marker="s",
        exports=True,
    ),
    PoolerEntry(
        "max",
        "max",
        make="glot.nn.poolers:MaxPooler",
        trains=False,
        weights="glot.nn.poolers:largest_weights",
        colour="#56B4E9",
        dash=(2, 2),
        marker="v",
        exports=True,
    ),
    PoolerEntry(
        "cls",
        "CLS",
        make="glot.nn.poolers:ClsPooler",
        settings=("token_position",),
        trains=False,
        weights="glot.nn.poolers:one_token_weights",
        colour="#009E73",
        dash=(6, 2),
        marker="^",
        exports=True,
    ),
    PoolerEntry(
        "adapool",
        "AdaPool",
        make="glot.nn.poolers:AdaPooler",
        settings=("adapool_hidden",),
        weights="glot.nn.poolers:readout_weights",
        colour="#E69F00",
        dash=(6, 2, 1, 2),
        marker="D",
        begins_with_mean=True,
        exports=True,
    ),
    PoolerEntry(
        "mlp",
        "MLP",
        make="glot.nn.poolers:MlpPooler",
        settings=("gnn_layers", "hidden"),
        trains=lambda config: config.gnn_layers > 0,
        exports=True,
    ),
):
    POOLERS.add(_entry)

GNN_LAYERS.add(GnnLayerEntry("gat", "GAT", make="glot.nn.gnn:GatLayer", stacks=True, exports=True))
GNN_LAYERS.add(GnnLayerEntry("gcn", "GCN", make="glot.nn.gnn:GcnLayer", exports=True))
for _name in ("gin", "gine"):
    _class = f"glot.nn.gnn:{_name.title()}Layer"
    GNN_LAYERS.add(GnnLayerEntry(_name, _name.upper(), make=_class, settings=("gin_batch_norm",), exports=True))

EDGE_RULES.add(EdgeRuleEntry("cosine", "τ = {tau:g}", joined="glot.nn.edges:similar", settings=("tau",), exports=True))
EDGE_RULES.add(EdgeRuleEntry("random", "random, τ = {tau:g}", joined="glot.nn.edges:shuffled", settings=("tau",)))
EDGE_RULES.add(EdgeRuleEntry("chain", "chain", joined="glot.nn.edges:chain"))
EDGE_RULES.add(EdgeRuleEntry("knn", "{neighbours} nearest", joined="glot.nn.edges:nearest", settings=("neighbours",)))
