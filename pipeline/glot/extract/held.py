"""Backbones that people already hold: a name, a pair (model, tokenizer) of transformers, or a SentenceTransformer."""

from __future__ import annotations

import copy
import sys
import uuid
import warnings
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union, cast

import torch

from glot.errors import UsageError
from glot.extract.backbone import backbone_kind, check_family, load_backbone, set_padding, vocabulary_size
from glot.extract.forward import Backbone
from glot.extract.identity import identify_held, memory_sha256, tokenizer_sha256
from glot.extract.probe import probe
from glot.extract.source import resolve_model
from glot.process import kept_randomness
from glot.store.layout import IN_MEMORY, StatesIdentity

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

BackboneLike: TypeAlias = Union[str, Path, "tuple[PreTrainedModel, PreTrainedTokenizerBase]", "SentenceTransformer"]
UNDERSTOOD = (
    "a name (an alias, a hub id, a folder or a GGUF file), a pair (model, tokenizer) of transformers, "
    "or a SentenceTransformer"
)
UNKNOWN = "unknown-"  # before a number drawn for weights that cannot be hashed

# The number of each model whose weights cannot be hashed, as long as the model lives.
_numbers: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def is_held(given: object) -> bool:
    """Whether a backbone is an object in memory; False for a name. Raises TypeError for what is neither."""
    if isinstance(given, str | Path):
        return False
    parts_of(given)
    return True


def check_backbone_like(given: object) -> None:
    """Raise TypeError for what is no backbone, UsageError for a name that is none; nothing is loaded."""
    if not is_held(given):
        resolve_model(str(given))


def open_backbone(
    given: BackboneLike, device: torch.device | str | None = None, trust_remote_code: bool = False
) -> Backbone:
    """The backbone that is named, loaded, or the one that is handed over.

    Raises TypeError for what is neither, and UsageError as `load_backbone` and `hold_backbone` do.
    """
    if is_held(given):
        return hold_backbone(given, device)
    return load_backbone(resolve_model(str(given)), device=device, trust_remote_code=trust_remote_code)


def parts_of(given: object) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model and the tokenizer of what somebody holds; of a model with a head or an adapter its base.

    Raises TypeError, which says what is understood, for anything else.
    """
    peer: Any = sys.modules.get("sentence_transformers")  # who holds one has imported it
    if peer is not None and isinstance(given, peer.SentenceTransformer):
        first: Any = given[0]
        given = (getattr(first, "auto_model", None), getattr(first, "tokenizer", None))
        if not _is_pair(given):
            raise TypeError(
                f"this SentenceTransformer begins with {type(first).__name__}, which gives no states of tokens: "
                "pass one that begins with a language model in torch"
            )
    if not _is_pair(given):
        what = type(given).__name__
        if isinstance(given, tuple | list):
            what = f"a {what} of {', '.join(type(part).__name__ for part in given) or 'nothing'}"
        raise TypeError(f"a backbone is {UNDERSTOOD}; got {what}")
    model, tokenizer = cast("tuple[Any, PreTrainedTokenizerBase]", given)
    if hasattr(model, "get_base_model"):  # of peft
        model = model.get_base_model()
    return model.base_model, tokenizer


def _is_pair(given: object) -> bool:
    if not (isinstance(given, tuple | list) and len(given) == 2):
        return False
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    model, tokenizer = given
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    return isinstance(model, PreTrainedModel) and isinstance(tokenizer, PreTrainedTokenizerBase)


def hold_backbone(given: object, device: torch.device | str | None = None) -> Backbone:
    """The backbone that somebody holds, where it lies and in its own dtype; its weights are hashed each time.

    The model is put into evaluation mode, and is otherwise left as it is; the tokenizer is copied.

    Raises TypeError for what is no such thing, UsageError for a model that glot cannot use, or another device than that
    on which it lies.
    """
    model, tokenizer = parts_of(given)
    name = Path(getattr(model.config, "_name_or_path", "") or model.config.model_type).name
    check_family(model.config, name)
    tokenizer = copy.deepcopy(tokenizer)
    set_padding(tokenizer)
    weights = memory_sha256(model.eval()) or _number_of(model)
    embeddings: Any = model.get_input_embeddings()
    backbone = Backbone(
        name=f"{name}-in-memory-{weights.removeprefix(UNKNOWN)[:12]}",
        source="",
        revision="",
        weights_sha256=f"{IN_MEMORY}{weights}",
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        kind=backbone_kind(model.config),
        num_layers=model.config.num_hidden_layers,
        vocabulary_size=vocabulary_size(model, name),
        compute_dtype=str(model.dtype).removeprefix("torch."),
        get_model=lambda: model,
        tokenizer=tokenizer,
        device=_device_of(embeddings.weight.device, name, device),
        loader=identify_held(tokenizer),
        held=True,
    )
    with kept_randomness():
        probe(backbone)
    return backbone


def _number_of(model: Any) -> str:
    """A number drawn for a model whose weights cannot be hashed: the same one as long as it lives."""
    return _numbers.setdefault(model, UNKNOWN + uuid.uuid4().hex)


def is_unknown(backbone: Backbone) -> bool:
    """Whether nobody can tell this backbone's weights from another's, so that its states must not be used again."""
    return backbone.weights_sha256.startswith(IN_MEMORY + UNKNOWN)


def _device_of(found: torch.device, name: str, asked: torch.device | str | None) -> torch.device:
    """Where the input of a model goes whose embeddings were found there; raises UsageError where not as asked."""
    found = torch.device("cpu") if found.type == "meta" else found  # a module on disk is loaded for its turn
    if asked is not None:
        wanted = torch.device(asked)
        if wanted.type != found.type or wanted.index not in (None, found.index):
            raise UsageError(f"{name} lies on {found}, not on {wanted}: move it there first, by its own to()")
    return found


def hold_backbone_of(
    states: StatesIdentity, what: str, given: object, device: torch.device | str | None = None
) -> Backbone:
    """The backbone that somebody holds, for states that a backbone made before: the same one, as far as can be told.

    Weights in memory cannot be compared with those of files: where the states were made from files a warning says so,
    and what can be compared is: tokenizer, kind, layers, width and arithmetic.

    Raises what `hold_backbone` does, and UsageError where it is another one; `what` says in words which one it is.
    """
    backbone = hold_backbone(given, device)
    width = backbone.layer_widths[states.layers[-1]]
    compared: list[tuple[str, object, object]] = [
        ("kind", states.kind, backbone.kind),
        ("num_layers", states.num_layers, backbone.num_layers),
        ("width", states.width, width),
        ("compute_dtype", states.compute_dtype, backbone.compute_dtype),
        ("tokenizer_sha256", states.tokenizer_sha256, backbone.tokenizer_sha256),
    ]
    if states.in_memory:
        compared.append(("weights_sha256", states.weights_sha256, backbone.weights_sha256))
    for field, there, here in compared:
        if there != here:
            raise UsageError(f"{backbone.name} is not the backbone {what}: {field} {there} there, {here} here")
    if not states.in_memory:
        warnings.warn(
            f"{backbone.name} fits the backbone {what} ({states.backbone}), but weights in memory cannot be compared "
            "with those of files: make sure that they are the same",
            UserWarning,
            stacklevel=3,
        )
    return backbone
