"""What a user may say of an extraction, and what speaks against it: before torch, model or data are loaded."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from glot.errors import FaultError, UsageError
from glot.store.files import nearest_there
from glot.store.layout import MANIFEST_FILE, STORED_AS, Manifest
from glot.store.template import TEXT, check_prompt

COMPUTE_DTYPES = ("float16", "bfloat16", "float32")  # of a backbone's arithmetic, beside "auto"
ON_OVERFLOW = ("stop", "float32-shard")
ENGINES = ("auto", "torch", "openvino")  # what forwards a backbone
ENGINE_VARIABLE = "GLOT_ENGINE"  # of the environment: the engine where none is asked for
# The names that a cache's folder may hold before it has a manifest.
OURS = re.compile(
    r"((manifest\.json|plan(-\d+)?\.h5|shard-\d{5,}\.(h5|json)|(plan|shard-\d{5,})\.claim(\.takeover)?|clock)"
    r"(\.tmp-.+|\.part)?|manifest\.json\.damaged|examples)"
)


@dataclass(frozen=True)
class ExtractOptions:
    """How states are made and kept.

    Attributes:
        max_tokens: longer texts are cut here; None cuts at `usual_tokens`.
        usual_tokens: where texts are cut that nobody gave a length for, or earlier where the backbone takes fewer.
        template: what stands around each text, "{text}" in its place, or with "{text_b}" around both texts of a pair,
            which then are one text; see `check_template`.
        layers: kept layers; negative numbers count from the last (-1: after the final norm); None keeps every one.
        dtype: a name of `STORED_AS`, or "auto": that of the cache that is there, else int8 for several layers, else
            bfloat16 where the backbone computes in it, else float16.
        compute_dtype: the backbone's arithmetic; "auto" is the checkpoint's own.
        token_budget: padded tokens a forward; None chooses by device.
        shard_bytes: the size at which a shard is closed.
        order_seed: seed of the examples' permutation in a new cache.
        keep_texts: False leaves the texts themselves out of the cache.
        device: where the backbone runs; None lets accelerate choose.
        device_map: "auto" for a backbone larger than one device.
        trust_remote_code: run the code that the model's folder brings along; else it is never run.
        engine: what forwards the backbone, see `ENGINES` and `take_engine`.
        on_overflow: what to do with finite states that float16 cannot hold: "stop", or keep that shard in float32.
        part: (i, n) makes only every n-th shard from i on (counted from 0), and waits for no one.
        plan_only: make the plan and the example sets, and no states.
        group: a name before those of the example sets, "group.train", for other labels beside a cache's own.
        request: stands for the corpus asked for; a plan made for the same request is taken as it is.
    """

    max_tokens: int | None = None
    usual_tokens: int = 128
    template: str = TEXT
    layers: tuple[int, ...] | None = (-1,)
    dtype: str = "auto"
    compute_dtype: str = "auto"
    token_budget: int | None = None
    shard_bytes: int = 2**30
    order_seed: int = 0
    keep_texts: bool = True
    device: str | None = None
    device_map: str | None = None
    trust_remote_code: bool = False
    engine: str = "auto"
    on_overflow: str = "stop"
    part: tuple[int, int] | None = None
    plan_only: bool = False
    group: str = ""
    request: str = ""


def check_options(options: ExtractOptions) -> None:
    """Raise UsageError for a value that no backbone takes, or options that do not go together."""
    if options.on_overflow not in ON_OVERFLOW:
        raise UsageError(f"unknown --on-overflow {options.on_overflow!r}: choose {' or '.join(ON_OVERFLOW)}")
    if options.dtype not in ("auto", *STORED_AS):
        raise UsageError(f"unknown --dtype {options.dtype!r}: choose auto, {', '.join(STORED_AS)}")
    check_loading(options.compute_dtype, options.device, options.device_map)
    check_engine(options.engine)
    check_prompt(options.template)
    if not re.fullmatch(r"(\w[\w.-]*)?", options.group):  # it names files
        raise UsageError(
            f"--examples {options.group!r}: use letters, digits, '.', '_' and '-', a letter or digit first"
        )


def check_engine(engine: str) -> str:
    """The engine asked for, or that of the environment where that is "auto"; raises UsageError for an unknown one."""
    asked = os.environ.get(ENGINE_VARIABLE, "auto") if engine == "auto" else engine
    if asked not in ENGINES:
        where = ENGINE_VARIABLE if engine == "auto" else "--engine"
        raise UsageError(f"unknown {where} {asked!r}: choose {', '.join(ENGINES[:-1])} or {ENGINES[-1]}")
    return asked


def check_loading(compute_dtype: str, device: object, device_map: object) -> None:
    """Raise UsageError for an arithmetic that no backbone has, or two ways to choose its devices."""
    if compute_dtype not in ("auto", *COMPUTE_DTYPES):
        raise UsageError(f"unknown compute dtype {compute_dtype!r}: choose auto, {', '.join(COMPUTE_DTYPES)}")
    if device is not None and device_map is not None:
        raise UsageError("--device places the whole model, --device-map spreads it: pass one of them")


def check_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but a cache of its own: what killed runs left is cleaned up in it."""
    there = nearest_there(folder)
    if not there.is_dir():
        raise UsageError(f"cannot make the folder {folder}: {there} is a file; choose another with --out")
    if there != folder:
        return
    if (folder / MANIFEST_FILE).exists():
        with suppress(FaultError):  # one that is damaged is made again
            manifest = Manifest.load(folder)
            manifest.refuse_linked(folder, "extract into another folder, and link that with `glot cache link`")
        return
    strange = [path.name for path in folder.iterdir() if not OURS.fullmatch(path.name)]
    if strange:
        raise UsageError(f"{folder} is no cache and not empty ({strange[0]} is in it): choose another with --out")


def is_planned(folder: Path, request: str) -> bool:
    """Whether a plan for this very request is there, so that a worker need not read the corpus."""
    try:
        return bool(request) and Manifest.load(folder).plan.request == request
    except (UsageError, FaultError):
        return False
