"""The frozen language model: from a source to a loaded backbone and tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pipeline.errors import FaultError, UsageError
from pipeline.extract.identity import tokenizer_sha256, weights_sha256
from pipeline.extract.options import COMPUTE_DTYPES
from pipeline.extract.source import ModelSource, check_model_access, fetch_model

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {name: getattr(torch, name) for name in COMPUTE_DTYPES}


@dataclass
class Backbone:
    """A frozen model, its tokenizer, and the facts that the cache records of them.

    Attributes:
        source: what finds it again, see `ModelSource.spec`.
        kind: "encoder" or "decoder".
        width: d. num_layers: n. max_positions: the longest input the model takes, None where it has no limit.
        vocabulary_size: rows of the embedding table. device: where its input goes.
    """

    name: str
    source: str
    revision: str
    weights_sha256: str
    tokenizer_sha256: str
    kind: str
    width: int
    num_layers: int
    max_positions: int | None
    vocabulary_size: int
    compute_dtype: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device

    @torch.inference_mode()
    def hidden_states(self, ids: torch.Tensor, mask: torch.Tensor, layers: tuple[int, ...]) -> list[torch.Tensor]:
        """Forward one padded batch.

        Args:
            ids: (B, L) int64, padded on the right.
            mask: (B, L) int64, 1 for real tokens.
            layers: which states to return, 0 (embeddings) to n (after the final norm).

        Returns:
            One (B, L, d) tensor a layer.
        """
        wants_inner = any(layer < self.num_layers for layer in layers)
        options = {"use_cache": False} if self.kind == "decoder" else {}
        ids, mask = ids.to(self.device), mask.to(self.device)
        output = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=wants_inner, **options)
        return [
            output.last_hidden_state if layer == self.num_layers else output.hidden_states[layer] for layer in layers
        ]


def load_backbone(
    source: ModelSource,
    compute_dtype: str = "auto",
    device: torch.device | str | None = None,
    device_map: str | dict[str, str | int] | None = None,
) -> Backbone:
    """Load a frozen backbone and its tokenizer.

    Args:
        source: what `resolve_model` found.
        compute_dtype: "auto" (the checkpoint's own), "float32", "bfloat16" or "float16".
        device: where it runs; None lets accelerate choose.
        device_map: "auto" spreads it over the devices that are there, memory and disk (accelerate's own rules).

    Raises UsageError where the model is missing, gated, damaged or unfit, the hub cannot be reached, or the
    device does not exist; FaultError where memory runs out.
    """
    from accelerate import PartialState
    from transformers.utils import logging

    if device is not None and device_map is not None:
        raise UsageError("--device places the whole model, --device-map spreads it: pass one of them")

    logging.disable_progress_bar()
    folder, revision = fetch_model(source)
    check_model_access(folder, source.gguf_file)
    tokenizer, config, model = _load(source, folder, compute_dtype, device_map)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    tokenizer.padding_side = "right"
    model = model.eval().requires_grad_(False)
    if device_map is None:
        device = _place(model, source, device or PartialState().device)
    else:
        device = model.get_input_embeddings().weight.device
        device = torch.device("cpu") if device.type == "meta" else device  # a module on disk is loaded for its turn
    return Backbone(
        name=source.name,
        source=source.spec,
        revision=revision,
        weights_sha256=weights_sha256(folder, source.gguf_file),
        tokenizer_sha256=tokenizer_sha256(tokenizer),
        kind=backbone_kind(config),
        width=config.hidden_size,
        num_layers=config.num_hidden_layers,
        max_positions=_max_positions(config),
        vocabulary_size=model.get_input_embeddings().num_embeddings,
        compute_dtype=str(model.dtype).removeprefix("torch."),
        model=model,
        tokenizer=tokenizer,
        device=device,
    )


def _place(model: PreTrainedModel, source: ModelSource, device: torch.device | str) -> torch.device:
    try:
        device = torch.device(device)
        if device.type == "meta":
            raise RuntimeError("it holds no weights")
        model.to(device)
    except torch.OutOfMemoryError:
        raise FaultError(
            f"{source.name} does not fit on {device}: pass --compute-dtype bfloat16, --device-map auto or --device cpu"
        ) from None
    except (RuntimeError, AssertionError) as error:  # torch has no class of its own for a device that is not there
        reason = str(error).split(". ")[0][:200]
        raise UsageError(f"--device {device} cannot be used: {reason}; pass --device cpu") from None
    return device


def _load(
    source: ModelSource, folder: Path, compute_dtype: str, device_map: str | dict[str, str | int] | None
) -> tuple[PreTrainedTokenizerBase, PretrainedConfig, PreTrainedModel]:
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    if compute_dtype not in ("auto", *DTYPES):
        raise UsageError(f"unknown compute dtype {compute_dtype!r}: choose auto, {', '.join(DTYPES)}")
    gguf = {"gguf_file": source.gguf_file} if source.gguf_file else {}
    # A GGUF file is dequantized to float32; "auto" would ask it for a dtype that it does not record.
    dtype = torch.float32 if gguf and compute_dtype == "auto" else DTYPES.get(compute_dtype, "auto")
    try:
        config = AutoConfig.from_pretrained(folder, **gguf)
        if getattr(config, "is_encoder_decoder", False) or not getattr(config, "num_hidden_layers", None):
            raise UsageError(
                f"{source.location} is a {config.model_type} model; glot takes encoders and decoders of text"
            )
        tokenizer = AutoTokenizer.from_pretrained(folder, **gguf)
        placed = {"device_map": device_map} if device_map is not None else {}
        model, report = AutoModel.from_pretrained(folder, dtype=dtype, output_loading_info=True, **gguf, **placed)
    except UsageError:
        raise
    except Exception as error:  # damaged weights, configs and tokenizers each have a class of their own
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"{source.location} cannot be loaded as a Hugging Face model: {reason}") from None
    # transformers fills a gap with random numbers and a warning. Of these only BERT's pooler is not used here.
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing:
        raise UsageError(
            f"{source.location} lacks {len(missing)} of its model's weights (such as {missing[0]}): "
            "pass a whole checkpoint of a base model"
        )
    return tokenizer, config, model


def backbone_kind(config: PretrainedConfig) -> str:
    """ "encoder" for families with a masked language model (BERT, RoBERTa, ...), else "decoder"."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    is_encoder = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False)
    return "encoder" if is_encoder else "decoder"


def _max_positions(config: PretrainedConfig) -> int | None:
    limit = getattr(config, "max_position_embeddings", None)
    if config.model_type in ("roberta", "xlm-roberta", "camembert"):  # their positions start after the pad id
        return limit - config.pad_token_id - 1
    return limit
