"""A start without torch's model: what is known of a backbone, and what torch made of a few texts, are kept.

A converted model is compared with torch at each start (`agreement.py`). Torch's side of that does not change, so it is
kept beside the conversion: neither the weights nor transformers' classes of models, whose import takes seconds, are
loaded until something needs them.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from glot.errors import FaultError, GlotError
from glot.extract import converted
from glot.extract.agreement import Expected, Unfit, check_agreement
from glot.extract.backbone import load_backbone, load_rules, set_padding
from glot.extract.folders import find_folders
from glot.extract.forward import Backbone
from glot.extract.identity import identify_loader, tokenizer_sha256, weights_sha256
from glot.extract.openvino import OpenVinoEngine, check_openvino, computes_bfloat16, openvino_version, read, sure_layers
from glot.extract.source import ModelSource, find_source
from glot.store.files import atomic_path, checked, json_sha256
from glot.store.layout import StatesIdentity

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SUFFIX = ".start.safetensors"
MOST_BYTES = 64 * 2**20  # of torch's states that are kept


@dataclass(frozen=True)
class Start:
    """What torch's model said of itself: the attributes of `Backbone` of these names; and the layers that are kept."""

    layers: tuple[int, ...]
    kind: str
    num_layers: int
    parameters: int
    vocabulary_size: int
    layer_widths: tuple[int | None, ...]
    max_positions: int | None
    pads: bool
    tried: int


FACTS = tuple(item.name for item in fields(Start) if item.name != "layers")  # attributes of `Backbone`


def keep_start(backbone: Backbone, expected: Expected) -> None:
    """Keep what a later start needs of a backbone whose conversion is kept; not where that takes much room, or fails.

    What was kept of these layers, others among them, and of texts as long, stays.
    """
    if backbone.held or sum(states.nbytes for batch in expected.states for states in batch) > MOST_BYTES:
        return
    folder, there = converted.models_folder() / converted.model_key(backbone), _find(backbone, expected.layers)
    if not folder.is_dir() or (there is not None and backbone.tried <= there[1].tried):
        return
    layers = "-".join(map(str, expected.layers))
    start = Start(expected.layers, **{name: getattr(backbone, name) for name in FACTS})
    tensors = {
        f"{number}/{layer}": states.contiguous()
        for number, batch in enumerate(expected.states)
        for layer, states in zip(expected.layers, batch, strict=True)
    }
    path = folder / f"{_key(backbone)}-{layers}{SUFFIX}"
    with suppress(GlotError, SafetensorError, OSError), atomic_path(path) as temporary:
        save_file(tensors, temporary, {"start": json.dumps(asdict(start))})


def ready_backbone_of(
    states: StatesIdentity, what: str, model: str | None, device: str | None, layers: tuple[int, ...]
) -> Backbone | None:
    """As `load_backbone_of`, with its engine, for a CPU and these layers, from what is kept; None if that won't do."""
    accelerator = getattr(torch, "accelerator", None)  # from torch 2.6 on; what accelerate would choose
    is_cpu = device == "cpu" or (device is None and accelerator is not None and not accelerator.is_available())
    if not is_cpu or states.in_memory or openvino_version() is None:
        return None
    found = _find(states, layers)  # before anything is loaded or hashed: most runs have none
    if found is None:
        return None
    try:
        backbone = _open(find_source(states, what, model), states, layers, *found)
    except (GlotError, Unfit, RuntimeError, ValueError):  # whoever loads it whole will say what is wrong with it
        return None
    return backbone


def _open(
    source: ModelSource, states: StatesIdentity, layers: tuple[int, ...], key: str, start: Start, expected: Expected
) -> Backbone | None:
    """The backbone, with the engine of the converted model of that name; None where another one lies there."""
    folders = find_folders(source)
    if folders.adapter is not None or folders.gguf_file:
        return None
    tokenizer, config = load_rules(folders)
    set_padding(tokenizer)
    facts = {name: getattr(start, name) for name in FACTS}
    parameters = facts.pop("parameters")  # else they are counted, of the model
    backbone = Backbone(
        name=source.name,
        source=source.spec,
        revision=folders.revision,
        weights_sha256=weights_sha256(folders),
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        compute_dtype=states.compute_dtype,
        get_model=lambda: _load_model(source, backbone),
        tokenizer=tokenizer,
        device=torch.device("cpu"),
        loader=identify_loader(folders, tokenizer, config, {}),
        **facts,
    )
    backbone.parameters = parameters
    if states.other_backbone(backbone):
        return None
    check_openvino()
    kept = converted.find_folder(key)
    if kept is None or kept.folder is None or (states.compute_dtype == "bfloat16" and not computes_bfloat16()):
        return None
    engine = OpenVinoEngine(read(kept.folder), sure_layers(backbone), layers, states.compute_dtype)
    check_agreement(backbone, engine, expected)
    backbone.engine = engine
    return backbone


def _load_model(source: ModelSource, backbone: Backbone) -> PreTrainedModel:
    """Torch's model of a backbone that began without it; raises FaultError where another one lies there by now."""
    whole = load_backbone(source, backbone.compute_dtype, "cpu")
    if whole.weights_sha256 != backbone.weights_sha256:
        raise FaultError(f"{source.location} is another model than it was when this began: begin again")
    return whole.model


def _key(backbone: Backbone | StatesIdentity) -> str:
    """Of all that torch's states of given tokens depend on, and the tokens of a text."""
    parts = [
        *(
            converted.FORMAT,
            backbone.weights_sha256,
            backbone.tokenizer_sha256,
            backbone.loader_sha256,
            backbone.compute_dtype,
        ),
        *(version(name) for name in ("openvino", "torch", "transformers")),
    ]
    return json_sha256(parts)[:32]


def _find(backbone: Backbone | StatesIdentity, layers: tuple[int, ...]) -> tuple[str, Start, Expected] | None:
    """The name of a converted model, and what is kept of these layers; None where nothing is.

    Of several that of the longest text that was tried.
    """
    paths = sorted(converted.models_folder().glob(f"*/{_key(backbone)}-*{SUFFIX}"))
    found = [(path.parent.name, *some) for path in paths if (some := _read(path))]
    fit = [some for some in found if set(layers) <= set(some[1].layers)]
    return max(fit, key=lambda some: some[1].tried, default=None)


def _read(path: Path) -> tuple[Start, Expected] | None:
    """What a file keeps; None where it is not there, or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            values = json.loads(file.metadata()["start"])
            start = checked(Start, {**values, "layers": tuple(values["layers"]), "layer_widths": ()})
            start = replace(start, layer_widths=tuple(values["layer_widths"]))  # some are None, which is no count
            numbers = sorted({int(name.split("/")[0]) for name in file.keys()})  # noqa: SIM118 -- not a dict
            states = [[file.get_tensor(f"{number}/{layer}") for layer in start.layers] for number in numbers]
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return start, Expected(start.layers, states)
