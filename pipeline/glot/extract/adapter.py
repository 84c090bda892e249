"""An adapter (LoRA and its kin) that peft trained: its weights go into the backbone's own, once, when it is loaded."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from glot.errors import UsageError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class _InItsPlace(nn.Module):
    """A backbone under the name that it has in a model with a head: an adapter trained there finds it by that name."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.config = model.config
        setattr(self, model.base_model_prefix, model)


def merge_adapter(model: PreTrainedModel, folder: Path, name: str) -> None:
    """Add the adapter in a folder to a backbone's weights, in place; what it has for a task's head is left out.

    Raises UsageError where the adapter has no weights of its own kind to add (prompts), or belongs to another base.
    """
    from peft import PeftConfig, PeftModel, load_peft_weights, set_peft_model_state_dict

    config = PeftConfig.from_pretrained(str(folder))
    if config.is_prompt_learning:
        raise UsageError(f"{name} is an adapter of the kind {config.peft_type.value}, which no weights can take in")
    weights = load_peft_weights(str(folder), device="cpu")
    inner = f"base_model.model.{model.base_model_prefix}."
    has_head = any(key.startswith(inner) for key in weights)
    if has_head:
        weights = {key: value for key, value in weights.items() if key.startswith(inner)}
    holder = _InItsPlace(model) if has_head else model
    saved = getattr(config, "modules_to_save", None) or []
    if hasattr(config, "modules_to_save"):
        names = {part for module, _ in holder.named_modules() for part in module.split(".")}
        config.modules_to_save = [module for module in saved if module.split(".")[-1] in names] or None
    with warnings.catch_warnings():  # what peft will do otherwise one day is nothing for a user
        warnings.simplefilter("ignore")
        adapted = PeftModel(holder, config)
    _check_fit(adapted, weights, name)
    set_peft_model_state_dict(adapted, weights)
    adapted.merge_and_unload(safe_merge=True)


def _check_fit(adapted: PeftModel, weights: dict[str, torch.Tensor], name: str) -> None:
    from peft import get_peft_model_state_dict

    expected = get_peft_model_state_dict(adapted, save_embedding_layers=False)
    for key in sorted(expected.keys() ^ weights.keys()):
        what = f"the base has no place for {key}" if key in weights else f"it lacks {key}"
        raise UsageError(f"{name} does not fit its base: {what}")
    for key, value in expected.items():
        if value.shape != weights[key].shape:
            sizes = [" x ".join(map(str, some.shape)) for some in (weights[key], value)]
            raise UsageError(f"{name} does not fit its base: {key} is {sizes[0]}, the base takes {sizes[1]}")
