"""What redoes the paper's evidence: one TOML file in `recipes/` for each table or figure.

A file has a `title` and blocks, each with the profiles that run it, models, tasks, methods, seeds, and the settings
that are not the task's own:

    [[block]]
    setting = "ablation-tau"            # the name of this group of runs; default: "published", with options or a grid
                                        # "own"; "cost" trains nothing, but measures `glot bench cost`
    profiles = ["cpu", "paper"]
    models = ["minilm"]
    tasks = ["cola", "stress-paired-0.9"]
    methods = ["glot"]                  # names of VARIANTS, or of poolers; default: glot
    baselines = ["mean", "length"]      # regressions on mean and cls; or length and bag-of-words
    seeds = [0, 1, 2]                   # default: 0
    layers = [-1, -2]                   # of the backbone, all forwarded at once; default: the last
    options = { epochs = 30 }           # fields of FitOptions, for every run
    grid = { tau = [0.1, 0.3] }         # every combination is a method of its own, "glot,tau=0.1"

    [[left_out]]                        # told in the report
    what = "MS MARCO"
    why = "..."
"""

from __future__ import annotations

import itertools
import sys
from dataclasses import dataclass, field, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from glot.errors import UsageError
from glot.nn.registry import POOLERS
from glot.report.results import OWN

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROFILES = ("quick", "cpu", "paper")
# What each method is, as fields of `FitOptions`. Self-loops alone: the same parameters without a graph.
VARIANTS: dict[str, dict[str, Any]] = {
    "cls": {"pooler": "cls"},
    "mean": {"pooler": "mean"},
    "max": {"pooler": "max"},
    "adapool": {"pooler": "adapool"},
    "adapool-wide": {"pooler": "adapool", "adapool_hidden": "glot"},
    "glot": {},
    "glot-loops": {"tau": 1.0},
    "glot-complete": {"tau": -1.0},
    "glot-random": {"graph": "random"},
    "glot-chain": {"graph": "chain"},
    "glot-knn": {"graph": "knn"},
    "glot-mean-readout": {"readout": "mean"},
    "glot-content": {"tokens": "content"},
}
_OLD_NAMES = {"yardsticks": "baselines"}  # as recipes of before have them
BASELINES = ("mean", "cls", "length", "bag-of-words")


@dataclass(frozen=True)
class Block:
    """Runs that differ in model, task, method and seed alone; see the module's description."""

    profiles: tuple[str, ...]
    models: tuple[str, ...]
    tasks: tuple[str, ...]
    setting: str = "published"
    methods: tuple[str, ...] = ("glot",)
    baselines: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    layers: tuple[int, ...] = (-1,)
    options: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        methods = tuple(dict.fromkeys([*VARIANTS, *POOLERS.names()]))  # a pooler from outside is a method too
        for name, known in (("profiles", PROFILES), ("methods", methods), ("baselines", BASELINES)):
            unknown = [value for value in getattr(self, name) if value not in known]
            if unknown:
                raise UsageError(f"unknown {name} {', '.join(map(str, unknown))}: choose from {', '.join(known)}")

    def trials(self) -> dict[str, dict[str, Any]]:
        """The fields of `FitOptions` of each method of this block, by its name."""
        made = {}
        for method in self.methods:
            for values in itertools.product(*self.grid.values(), self.layers):
                given = dict(zip([*self.grid, "layer"], values, strict=True))
                varied = [name for name in given if name in self.grid or len(self.layers) > 1]
                name = ",".join([method, *(f"{key}={given[key]}" for key in varied)])
                made[name] = {**VARIANTS.get(method, {"pooler": method}), **self.options, **given}
        return made


@dataclass(frozen=True)
class EvidenceRecipe:
    """A recipe: its name, what it redoes, and its blocks."""

    name: str
    title: str
    blocks: tuple[Block, ...]
    left_out: tuple[tuple[str, str], ...] = ()  # what of it cannot be run, and why


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    names = (path.name for path in files("glot.reproduce").joinpath("recipes").iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def load_recipe(name: str) -> EvidenceRecipe:
    """A recipe by its name, or from a file of your own; raises UsageError naming what is wrong in it."""
    path = Path(name)
    if name in recipe_names():
        text = files("glot.reproduce").joinpath("recipes", f"{name}.toml").read_text(encoding="utf-8")
    elif path.suffix == ".toml" and path.is_file():
        text = path.read_text(encoding="utf-8", errors="replace")
    else:
        raise UsageError(f"no recipe {name!r}: take one of {', '.join(recipe_names())}, or a .toml file of your own")
    try:
        data = tomllib.loads(text)
        blocks = tuple(_block(block) for block in data.get("block", []))
        left_out = tuple((item["what"], item["why"]) for item in data.get("left_out", []))
        return EvidenceRecipe(path.stem, data["title"], blocks, left_out)
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{name} is no TOML: {error}") from None
    except KeyError as error:
        raise UsageError(f"the recipe {name} lacks {error.args[0]!r}") from None
    except (TypeError, AttributeError) as error:
        raise UsageError(f"the recipe {name} is not as glot/reproduce/recipe.py has it: {error}") from None
    except UsageError as error:
        raise UsageError(f"the recipe {name}: {error}") from None


def _block(data: dict[str, Any]) -> Block:
    data = {_OLD_NAMES.get(name, name): value for name, value in data.items()}
    unknown = set(data) - {item.name for item in fields(Block)}
    if unknown:
        raise UsageError(f"a block has no {', '.join(sorted(unknown))}")
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}
    if values.keys() & {"options", "grid"}:  # such runs are not the published ones, unless the recipe names them so
        values.setdefault("setting", OWN)
    return Block(**values)
