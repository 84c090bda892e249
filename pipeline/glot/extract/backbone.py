"""Loading the frozen language model: from a source to a backbone and its tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from glot.errors import FaultError, UsageError, reason_of
from glot.extract.adapter import merge_adapter
from glot.extract.folders import ModelFolders, check_peft, find_folders
from glot.extract.foreign_code import check_code, code_files, declared_code
from glot.extract.forward import Backbone
from glot.extract.gguf import parsed_once
from glot.extract.identity import identify_loader, memory_sha256, tokenizer_sha256, weights_sha256
from glot.extract.options import check_loading
from glot.extract.probe import probe
from glot.extract.source import ModelSource, find_source
from glot.process import kept_randomness, without_bars
from glot.store.layout import IN_MEMORY, StatesIdentity

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase


def load_backbone(
    source: ModelSource,
    compute_dtype: str = "auto",
    device: torch.device | str | None = None,
    device_map: str | dict[str, str | int] | None = None,
    trust_remote_code: bool = False,
) -> Backbone:
    """Load a frozen backbone and its tokenizer.

    Args:
        source: what `resolve_model` found.
        compute_dtype: "auto" (the checkpoint's own), "float32", "bfloat16" or "float16".
        device: where it runs; None lets accelerate choose.
        device_map: "auto" spreads it over the devices that are there, memory and disk (accelerate's own rules).
        trust_remote_code: run the code that the model's folder brings along, where it does; else it is never run.

    Raises UsageError where the model is missing, gated, damaged or unfit, the hub cannot be reached, or the
    device does not exist; FaultError where memory runs out.
    """
    from accelerate import PartialState

    check_loading(compute_dtype, device, device_map)
    folders = find_folders(source, trust_remote_code)
    once = parsed_once() if folders.gguf_file else nullcontext()
    with kept_randomness(), without_bars(), once:  # weights that no checkpoint has are drawn
        tokenizer, config, model = _load(folders, compute_dtype, device_map, trust_remote_code)
    trusted = (folders.model, folders.tokenizer) if trust_remote_code else ()
    code = code_files(trusted, (config, model, tokenizer))
    set_padding(tokenizer)
    model = model.eval().requires_grad_(False)
    if device_map is None:
        placed = _place(model, source, device or PartialState().device)
    else:
        embeddings: Any = model.get_input_embeddings()
        placed = embeddings.weight.device
        placed = torch.device("cpu") if placed.type == "meta" else placed  # a module on disk is loaded for its turn
    backbone = Backbone(
        name=source.name,
        source=source.spec,
        revision=folders.revision,
        weights_sha256=weights_sha256(folders),
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        kind=backbone_kind(config),
        num_layers=config.num_hidden_layers,
        vocabulary_size=vocabulary_size(model, source.name),
        compute_dtype=str(model.dtype).removeprefix("torch."),
        get_model=lambda: model,
        tokenizer=tokenizer,
        device=placed,
        loader=identify_loader(folders, tokenizer, config, code),
    )
    with kept_randomness():  # some families draw numbers where they forward
        probe(backbone)
    return backbone


def set_padding(tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a tokenizer a token to pad with, where it has none, and pad and cut at the end."""
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.padding_side = tokenizer.truncation_side = "right"


def load_backbone_of(
    states: StatesIdentity,
    what: str,
    model: str | None = None,
    device: torch.device | str | None = None,
    trust_remote_code: bool = False,
) -> Backbone:
    """The backbone that made some states, found where the extraction found it, or as `model` says.

    Raises UsageError where it is not there, or is another one; `what` says in words which one it is.
    """
    source = find_source(states, what, model)
    backbone = load_backbone(source, states.compute_dtype, device, trust_remote_code=trust_remote_code)
    if states.in_memory:  # hashed otherwise than files are
        backbone = replace(backbone, weights_sha256=f"{IN_MEMORY}{memory_sha256(backbone.model)}")
    different = states.other_backbone(backbone)
    if different:
        raise UsageError(
            f"{source.location} is not the backbone {what} ({different} differs): pass the right one with --model"
        )
    return backbone


def _place(model: PreTrainedModel, source: ModelSource, device: torch.device | str) -> torch.device:
    try:
        device = torch.device(device)
        if device.type == "meta":
            raise RuntimeError("it holds no weights")
        model.to(device)  # type: ignore[arg-type]  # transformers wraps torch's method, whose self mypy loses
    except torch.OutOfMemoryError:
        raise FaultError(
            f"{source.name} does not fit on {device}: pass --compute-dtype bfloat16, --device-map auto or --device cpu"
        ) from None
    except (RuntimeError, AssertionError) as error:  # torch has no class of its own for a device that is not there
        reason = str(error).split(". ")[0][:200]
        raise UsageError(f"--device {device} cannot be used: {reason}; pass --device cpu") from None
    return device


def load_rules(
    folders: ModelFolders, trust_remote_code: bool = False
) -> tuple[PreTrainedTokenizerBase, PretrainedConfig]:
    """The tokenizer and the config of a model, without its weights; raises UsageError where they cannot be loaded."""
    from transformers import AutoConfig, AutoTokenizer

    for folder in (folders.model, folders.tokenizer):
        check_code(folder, folders.name, trust_remote_code)
    options = _loading_options(folders, trust_remote_code)
    with _refused(folders):
        config = AutoConfig.from_pretrained(folders.model, **options)
        check_family(config, folders.name)
        return AutoTokenizer.from_pretrained(folders.tokenizer, config=config, **options), config


def _load(
    folders: ModelFolders, compute_dtype: str, device_map: str | dict[str, str | int] | None, trust_remote_code: bool
) -> tuple[PreTrainedTokenizerBase, PretrainedConfig, PreTrainedModel]:
    from transformers import AutoModel

    if folders.adapter is not None:
        check_peft(folders.name)
    tokenizer, config = load_rules(folders, trust_remote_code)
    # A GGUF file is dequantized to float32; "auto" would ask it for a dtype that it does not record.
    arithmetic = "float32" if folders.gguf_file and compute_dtype == "auto" else compute_dtype
    dtype = arithmetic if arithmetic == "auto" else getattr(torch, arithmetic)
    options = _loading_options(folders, trust_remote_code)
    with _refused(folders):
        placed = {"device_map": device_map} if device_map is not None else {}
        model, report = AutoModel.from_pretrained(
            folders.model, config=config, dtype=dtype, output_loading_info=True, **options, **placed
        )
        # transformers fills a gap with random numbers and a warning. Of these only BERT's pooler is not used here.
        missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
        if missing:
            own = ", or --trust-remote-code: it brings code of its own" if declared_code(folders.model) else ""
            raise UsageError(
                f"{folders.name} lacks {len(missing)} of its model's weights (such as {missing[0]}): "
                f"pass a whole checkpoint of a base model{own}"
            )
        if folders.adapter is not None:
            merge_adapter(model, folders.adapter, folders.name)
    return tokenizer, config, model


def _loading_options(folders: ModelFolders, trust_remote_code: bool) -> dict[str, Any]:
    # Where trust is not said, transformers asks on the terminal, and reads the answer from standard input.
    gguf = {"gguf_file": folders.gguf_file} if folders.gguf_file else {}
    return {"trust_remote_code": trust_remote_code, **gguf}


@contextmanager
def _refused(folders: ModelFolders) -> Iterator[None]:
    """Whatever transformers raises as a UsageError: damaged weights, configs and tokenizers each have another class."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{folders.name} cannot be loaded as a Hugging Face model: {reason_of(error, 300)}") from None


def check_family(config: PretrainedConfig, name: str) -> None:
    """Raise UsageError for a model that has no one stack of layers over a text."""
    if getattr(config, "is_encoder_decoder", False) or not getattr(config, "num_hidden_layers", None):
        raise UsageError(f"{name} is a {config.model_type} model; glot takes encoders and decoders of text")


def backbone_kind(config: PretrainedConfig) -> str:
    """ "encoder" for families with a masked language model (BERT, RoBERTa, ...), else "decoder"."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    is_encoder = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    return "encoder" if is_encoder else "decoder"


def vocabulary_size(model: PreTrainedModel, name: str) -> int:
    """Rows of the embedding table; raises UsageError for a model without one, which reads characters."""
    try:
        embeddings: Any = model.get_input_embeddings()
        return int(embeddings.weight.shape[0])
    except (NotImplementedError, AttributeError):
        raise UsageError(
            f"{name} (a {model.config.model_type} model) has no table of token embeddings, as models of "
            "characters do not: pass a model of tokens"
        ) from None
