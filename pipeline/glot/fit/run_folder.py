"""Run folders: what a fit leaves behind, and how a trained head is built again from it. No pickles.

Torch is imported where tensors are read or written: what is wrong with a run is told before it is loaded.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from glot.errors import FaultError, UsageError, reason_of
from glot.fit.config import TrainConfig
from glot.fit.predictions_file import PATTERNS
from glot.nn.config import ContrastiveConfig, PoolerConfig
from glot.nn.registry import POOLERS
from glot.nn.settings import declared
from glot.store.files import (
    atomic_path,
    check_access,
    check_parent,
    check_readable_folder,
    check_version,
    holds_something,
    read_json,
    read_versioned,
    remove_leftovers,
    write_json,
)
from glot.store.layout import StatesIdentity
from glot.store.places import is_there
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec
from glot.store.template import takes_pair

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module

VERSION = 1
CONFIG_FILE, METRICS_FILE, HEAD_FILE = "config.json", "metrics.json", "head.safetensors"
CHECKPOINT_FILE = "checkpoint.safetensors"
ENSEMBLE_FILE, BEST_MEMBER = "ensemble.json", "1"  # of a folder of runs that answer together, see `glot.fit.ensemble`
NAMED_RUNS = 8  # in the line that says that one is to be named


@dataclass(frozen=True)
class RunConfig:
    """`config.json`: all that is needed to train a head again, and to use it on another cache.

    Attributes:
        cache: the folder it was trained on; `--resume` looks there.
        states: the identity of that cache's states. layer: the layer used.
        data: example set -> fingerprint, of every set used.
        task: the task. pooler: the pooler. train: the training settings.
        created_by: the program's name and version.
        contrastive: how pairs without labels are trained on; None for labels.
    """

    cache: str
    states: StatesIdentity
    layer: int
    data: dict[str, str]
    task: TaskSpec
    pooler: PoolerConfig
    train: TrainConfig
    created_by: str
    contrastive: ContrastiveConfig | None = None

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers whose states it reads, side by side: all that are mixed, or the one."""
        return self.states.layers if self.pooler.mixed_layers else (self.layer,)

    @property
    def layers_in_words(self) -> str:
        """Those layers, for people: "layers 0, 1, 2 mixed", or "layer 6"."""
        return f"layers {', '.join(map(str, self.layers))} mixed" if self.pooler.mixed_layers else f"layer {self.layer}"

    @property
    def start_in_words(self) -> str:
        """Where its training began, for people."""
        return "begun at the regression" if self.train.start == "regression" else "begun at random weights"

    @property
    def texts_each(self) -> int:
        """How many texts somebody hands over for one example; a template of pairs makes one text of two."""
        return 2 if takes_pair(self.states.template) else self.task.num_texts

    @property
    def pooler_settings(self) -> dict[str, Any]:
        """The settings that shape the pooler, by their keys; with a graph the backend is one of them."""
        if self.pooler.pooler not in POOLERS:
            return {}
        entry, values = POOLERS[self.pooler.pooler], self.pooler.to_json()
        used = {item.key: values[item.key] for name, item in declared(PoolerConfig).items() if name in entry.settings}
        return used | ({"backend": self.train.backend} if entry.has_graph else {})

    @property
    def training_settings(self) -> dict[str, Any]:
        """The settings that a run has whatever its pooler is; not among them: where it ran, and which seeds it took."""
        shaped = {name for entry in POOLERS for name in entry.settings} | {"pooler", "backend"}
        found: dict[str, Any] = {"layer": "mix" if self.pooler.mixed_layers else self.layer}
        kinds = ((self.train, TrainConfig), (self.pooler, PoolerConfig), (self.contrastive, ContrastiveConfig))
        for part, kind in kinds:
            names = [name for name, item in declared(kind).items() if item.setting.tells_apart and name not in shaped]
            found |= {name: getattr(part, name, None) for name in names}
        return found

    def to_json(self) -> dict[str, Any]:
        """A plain dict, as `config.json` has it."""
        return {"version": VERSION, **asdict(self), "pooler": self.pooler.to_json()}

    def save(self, folder: Path) -> None:
        """Write `config.json` atomically."""
        write_json(folder / CONFIG_FILE, self.to_json())

    @classmethod
    def load(cls, folder: Path) -> RunConfig:
        """Read `config.json`; raises UsageError where it is missing or of a newer version, FaultError where damaged."""
        path = folder / CONFIG_FILE

        def build(data: dict[str, Any]) -> RunConfig:
            return cls(
                cache=data["cache"],
                states=StatesIdentity.from_json(data["states"]),
                layer=data["layer"],
                data=data["data"],
                task=TaskSpec.from_json(data["task"]),
                pooler=_pooler(path, data["pooler"]),
                train=TrainConfig.from_json(data["train"]),
                created_by=data["created_by"],
                contrastive=ContrastiveConfig.from_json(data.get("contrastive")),
            )

        return read_versioned(path, VERSION, build)

    def check_predicts(self, run: Path | str) -> None:
        """Refuse what needs a label or a score from a run that was trained without; raises UsageError."""
        if self.contrastive is not None:
            raise UsageError(
                f"{run} was trained on pairs without labels: it gives vectors and no predictions; "
                "use `glot encode` for the vectors, `glot evaluate --mteb` to score them"
            )

    def check_cache(self, cache: Cache) -> None:
        """Refuse a cache whose states are of another kind than those the head was trained on.

        Raises UsageError naming the field, and both values.
        """
        self.check_states(cache.manifest.states, str(cache.folder))
        for layer in self.layers:
            cache.resolve_layer(layer)

    def check_states(self, theirs: StatesIdentity, where: str) -> None:
        """Refuse states of another kind than those the head was trained on; `where` says where those are.

        Raises UsageError naming the field, and both values.
        """
        ours = self.states
        names = ("width", "kind", "num_layers", "template")
        different = [name for name in names if getattr(ours, name) != getattr(theirs, name)]
        for name in filter(None, [*different, ours.other_backbone(theirs)]):
            raise UsageError(
                f"this head was trained on states of {ours.backbone}, {where} holds states of "
                f"{theirs.backbone}: {name} {getattr(ours, name)} there, {getattr(theirs, name)} here"
            )


def _pooler(path: Path, values: dict[str, Any]) -> PoolerConfig:
    """Raises UsageError where it names a pooler, a layer or a graph that nobody here knows."""
    try:
        return PoolerConfig.from_json(values)
    except UsageError as error:
        raise UsageError(f"{path}: {error}; where a module of your own adds it, name that in GLOT_PLUGINS") from None


def save_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict | None = None) -> None:
    """Write tensors to safetensors atomically, with a JSON object in the file's metadata, its version beside it."""
    from safetensors.torch import save_file

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with atomic_path(path) as temporary:
            save_file(contiguous, temporary, {"glot": json.dumps({"version": VERSION, **(metadata or {})})})
    except SafetensorError as error:  # what a full disk is here
        raise FaultError(f"cannot write {path}: {error}; make room and run again") from error


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read what `save_tensors` wrote: the tensors, and the JSON object.

    Raises UsageError where it is missing or of a newer version, FaultError where it is damaged.
    """
    _check_there(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = json.loads((file.metadata() or {}).get("glot", "{}"))
            check_version(path, metadata, VERSION)
            metadata.pop("version", None)
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 -- not a dict
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError) as error:
        raise FaultError(f"{path} is damaged: {error}") from None


def layer_shares(folder: Path, config: RunConfig) -> dict[int, float]:
    """What each layer counts in the mix of a trained head; they sum to 1. Empty where it takes one layer."""
    if not config.pooler.mixed_layers:
        return {}
    tensors, _ = load_tensors(folder / HEAD_FILE)
    shares = tensors["pooler.mix.weight"].softmax(dim=0)
    return dict(zip(config.layers, shares.tolist(), strict=True))


def check_trained(folder: Path) -> None:
    """Raise UsageError where a run has no head yet, AccessError where it may not be read."""
    _check_there(folder / HEAD_FILE)


def _check_there(path: Path) -> None:
    if not path.exists():
        raise UsageError(f"there is no {path}: that fit has not finished an epoch; go on with `glot fit --resume`")
    check_access(path)


def load_weights(module: Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load a state dict; raises FaultError where its names or shapes do not fit the config beside it."""
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise FaultError(f"{path} does not fit its config.json: {reason_of(error)}") from None


def clear_run(folder: Path) -> None:
    """Remove a finished run's checkpoint, and what killed processes left of the files that a fit writes."""
    (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    kept = (CONFIG_FILE, METRICS_FILE, HEAD_FILE, CHECKPOINT_FILE)
    remove_leftovers(folder, [*kept, *PATTERNS, "loss.png"])


def find_runs(folder: Path) -> list[Path]:
    """The run at `folder`, or the runs of its seeds (`seed-0`, `seed-1`, ...).

    Raises UsageError where there is none, naming the runs that lie deeper, as a sweep's do, or an ensemble's best one.
    """
    if (folder / CONFIG_FILE).exists():
        return [folder]
    if is_ensemble(folder):
        raise UsageError(
            f"{folder} is an ensemble, which gives labels and scores and nothing else: name one of its heads, the best "
            f"is {folder / BEST_MEMBER}"
        )
    runs = [path.parent for path in folder.glob(f"seed-*/{CONFIG_FILE}")]
    runs.sort(key=lambda run: (len(run.name), run.name))  # seed-2 before seed-10
    if not runs:
        check_readable_folder(folder)
        deeper = _find_deeper(folder)
        if deeper:
            raise UsageError(_name_one(folder, deeper))
        raise UsageError(f"{folder} holds no run (no {CONFIG_FILE}): make one with `glot train` or `glot fit`")
    return runs


def is_ensemble(folder: Path) -> bool:
    """Whether a folder holds an ensemble of runs."""
    return (folder / ENSEMBLE_FILE).exists()


def unfinished_remark(run: Path) -> str | None:
    """What to say of a run that has not finished, and whose best head so far is used all the same; None of others."""
    if (run / METRICS_FILE).exists() or not (run / HEAD_FILE).exists():
        return None
    _, metadata = load_tensors(run / HEAD_FILE)
    config = RunConfig.load(run)
    kept = "the last" if config.train.select == "last" else "the best"
    text = f"{run} is not finished: its head is that of epoch {metadata.get('epoch')}, {kept} so far"
    if (run / CHECKPOINT_FILE).exists():
        return f"{text}; `glot fit --resume {run}` goes on"
    sweep = run.parent.parent  # where the checkpoint of heads that train side by side lies
    return f"{text}; `glot sweep --resume {sweep}` goes on" if any(sweep.glob("group-*")) else text


def find_one_run(folder: Path) -> Path:
    """The run at `folder`, or of its only seed; UsageError where there is none, or several, naming them."""
    runs = find_runs(folder)
    if len(runs) > 1:
        raise UsageError(_name_one(folder, runs))
    return runs[0]


def find_sweep_runs(folder: Path) -> list[Path]:
    """The runs of a sweep, `<settings>/seed-<s>` in its folder, in the order of their names."""
    return sorted(path.parent for path in folder.glob(f"*/seed-*/{CONFIG_FILE}"))


def _find_deeper(folder: Path) -> list[Path]:
    """Runs up to three folders below one: of a sweep, or of `runs` itself. A backbone's config.json is none."""
    found = [path for depth in range(1, 4) for path in folder.glob("*/" * depth + CONFIG_FILE)]
    return sorted(path.parent for path in found if is_run(path))


def is_run(config: Path) -> bool:
    """Whether a `config.json` is a run's; a backbone's folder has one too."""
    try:
        data = read_json(config)
    except (UsageError, FaultError):  # not an AccessError: what may not be read is not left out in silence
        return False
    return isinstance(data, dict) and {"pooler", "train", "states"} <= set(data)


def _name_one(folder: Path, runs: list[Path]) -> str:
    """The line for a folder of several runs: which there are, and how to name one."""
    names = [run.relative_to(folder).as_posix() for run in runs[:NAMED_RUNS]]
    more = f" and {len(runs) - NAMED_RUNS} more" if len(runs) > NAMED_RUNS else ""
    count = "one run" if len(runs) == 1 else f"{len(runs)} runs"
    return f"{folder} holds {count} ({', '.join(names)}{more}): name one, as in --run {runs[0]}"


def check_resumable(folder: Path, cache: Cache | None) -> None:
    """Raise UsageError where `glot fit --resume` finds no runs in a folder, or not the cache that they need."""
    is_run = any(any(folder.glob(pattern)) for pattern in (CONFIG_FILE, f"seed-*/{CONFIG_FILE}"))
    if not is_run and find_sweep_runs(folder):
        raise UsageError(f"{folder} is a sweep: go on with `glot sweep --resume {folder}`")
    for run in find_runs(folder):
        config = RunConfig.load(run)
        if not (run / METRICS_FILE).exists():
            config.check_cache(find_run_cache(config, cache, run))


def find_run_cache(config: RunConfig, cache: Cache | None, run: Path) -> Cache:
    """The cache given, or the one that a run's config names; UsageError where that is not there."""
    if cache is None and not is_there(config.cache):
        raise UsageError(f"{run} was trained on {config.cache}, which is not there: name its cache with --cache")
    return cache or Cache(config.cache)


def check_new_folder(folder: Path) -> None:
    """Raise UsageError where runs cannot be put into a folder: it is a file, or holds something already."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file: choose another place with --out")
    if folder.exists() and holds_something(folder):
        raise UsageError(f"{folder} is not empty: choose another with --out, or go on with --resume {folder}")
    check_parent(folder)
