"""A run and its backbone as one folder that sentence-transformers loads without this program."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from glot.errors import FaultError, UsageError
from glot.export.card import CODE_FILE, Evaluation, write_card
from glot.export.pooling import check_library, load_pooling
from glot.extract.planning import added_tokens
from glot.fit.result import FitResult
from glot.fit.run_folder import find_one_run
from glot.inference.model import GlotModel
from glot.process import kept_randomness, without_bars
from glot.store.files import atomic_folder, folder_bytes, write_json
from glot.store.template import TEXT, fill, join_pair, takes_pair

if TYPE_CHECKING:
    from glot.export.pooling_module import GlotPooling

POOLING_FOLDER = "1_GlotPooling"
TOLERANCE = 1e-5
PROBES = ("A text.", "Two birds built their nest above the kitchen window, and nobody knows why.", "", "42 % of $7?\n")


@dataclass(frozen=True)
class ExportedFolder:
    """What an export made: the folder, its size, D, and how far its vectors are from the run's on some texts.

    `prompt` is what a user of the folder fills in: that of the run where it holds both texts of a pair, else "".
    """

    path: Path
    bytes: int
    width: int
    difference: float
    prompt: str = ""


def export_folder(
    run: Path,
    out: Path,
    model: str | None = None,
    device: str | None = None,
    licence: str | None = None,
    repo: str | None = None,
    trust_remote_code: bool = False,
    evaluation: Evaluation | None = None,
) -> ExportedFolder:
    """Write backbone, tokenizer, pooling, head and model card of a run to a new folder `out`, and check it.

    The folder is loaded again with sentence-transformers, and its vectors of some texts compared with the run's.

    Args:
        run: of one seed, finished.
        model, device, trust_remote_code: see `GlotModel.load`.
        licence: for the model card, an identifier that the Hub knows, such as apache-2.0.
        repo: for its example of use, where the folder will be uploaded to.
        evaluation: on untouched rows, for the card.

    Raises UsageError where the run cannot be exported or `out` is there already, FaultError where the disk is full or
    the vectors differ by more than `TOLERANCE` of their largest number.
    """
    run = find_one_run(Path(run))
    result = FitResult.load(run)
    check_library()
    with atomic_folder(out) as folder, without_bars():
        glot = GlotModel.load(run, model, device, trust_remote_code, engine="torch")
        if not glot.backbone.pads:
            raise UsageError(
                f"padding changes the states of {glot.backbone.name}, and sentence-transformers pads: use glot encode"
            )
        pooling = load_pooling(run, glot.config, added_tokens(glot.backbone.tokenizer))
        if not trust_remote_code:
            _leave_code_out(glot)
        _write_backbone(glot, folder)
        contrastive = glot.config.contrastive
        _write_pooling(pooling, folder, "dot" if contrastive and contrastive.similarity == "dot" else "cosine")
        write_card(folder, glot.config, result, pooling.out_width, repo or out.name, licence, evaluation)
        probes, expected = _probe(glot)
        template, device = glot.config.states.template, str(glot.device)
        del glot  # a large backbone fits once
        difference = _compare(folder, probes, expected, device, trust_remote_code)
    return ExportedFolder(
        out, folder_bytes(out), pooling.out_width, difference, template if takes_pair(template) else ""
    )


def _probe(glot: GlotModel) -> tuple[list[str], np.ndarray]:
    """Some texts for the exported folder, and the run's vectors of them, (n, D).

    Where the run's prompt holds both texts of a pair, the folder takes that prompt filled in, and cuts its end where
    the run cuts the longer text: so pairs that are cut are left out.
    """
    template = glot.config.states.template
    if not takes_pair(template):
        return list(PROBES), np.concatenate([glot.encode([text]) for text in PROBES])
    pairs = uncut_pairs(glot)
    vectors = np.concatenate([glot.encode([text], [text_b]) for text, text_b in pairs])
    return [fill(template, join_pair(*pair)) for pair in pairs], vectors


def uncut_pairs(glot: GlotModel) -> list[tuple[str, str]]:
    """Some pairs of texts that the run's prompt for both, filled in, leaves whole."""
    states, tokenizer = glot.config.states, glot.backbone.tokenizer
    pairs = [("a", "a"), *zip(PROBES, PROBES[::-1], strict=True)]
    filled = [fill(states.template, join_pair(*pair)) for pair in pairs]
    lengths = [len(tokenizer(text)["input_ids"]) for text in filled]
    return [pair for pair, length in zip(pairs, lengths, strict=True) if length <= states.max_tokens]


def _leave_code_out(glot: GlotModel) -> None:
    """Code that did not run is not named in the folder: who loads that has to trust the code that lies in it."""
    vars(glot.backbone.model.config).pop("auto_map", None)
    glot.backbone.tokenizer.init_kwargs.pop("auto_map", None)


def _write_backbone(glot: GlotModel, folder: Path) -> None:
    backbone, states = glot.backbone, glot.config.states
    if backbone.tokenizer.pad_token is None:
        raise UsageError(f"the tokenizer of {backbone.name} has no token to pad with: add one to its folder")
    backbone.tokenizer.model_max_length = states.max_tokens
    quantizer = getattr(backbone.model, "hf_quantizer", None)
    if quantizer is not None and quantizer.quantization_config.quant_method == "gguf":
        quantizer.remove_quantization_config(backbone.model)  # its weights were unpacked when it was loaded
    if glot.config.pooler.mixed_layers:
        vars(backbone.model.config)["output_hidden_states"] = True  # sentence-transformers then passes them all on
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    is_last = glot.config.layer == states.num_layers
    is_mix = bool(glot.config.pooler.mixed_layers)
    output = "last_hidden_state" if is_last or is_mix else ["hidden_states", glot.config.layer]
    write_json(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": output}},
            "module_output_name": "token_embeddings",
            "unpad_inputs": False,  # the pooling takes padded states
            # sentence-transformers has no second text: it is handed the prompt with both filled in.
            "template": TEXT if takes_pair(states.template) else states.template,
        },
    )


def _write_pooling(pooling: GlotPooling, folder: Path, similarity: str) -> None:
    from glot.export import pooling_module

    shutil.copyfile(pooling_module.__file__, folder / CODE_FILE)
    (folder / POOLING_FOLDER).mkdir()
    pooling.save(str(folder / POOLING_FOLDER))
    code = CODE_FILE.removesuffix(".py")
    modules = [("", "GlotBackbone"), (POOLING_FOLDER, "GlotPooling")]
    write_json(
        folder / "modules.json",
        [
            {"idx": number, "name": str(number), "path": path, "type": f"{code}.{name}"}
            for number, (path, name) in enumerate(modules)
        ],
    )
    names = {"sentence_transformers": "sentence-transformers", "transformers": "transformers", "pytorch": "torch"}
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "model_type": "SentenceTransformer",
            "__version__": {name: version(package) for name, package in names.items()},
            "prompts": {},
            "default_prompt_name": None,
            "similarity_fn_name": similarity,
        },
    )


def _compare(folder: Path, probes: list[str], expected: np.ndarray, device: str, trust_remote_code: bool) -> float:
    """The largest difference between the folder's vectors of the probes and these, (n, D); FaultError for a large one.

    The code is that of this program, of which the folder has a copy, so that nothing is run from the folder, but for a
    backbone's own code that is trusted.
    """
    from sentence_transformers import SentenceTransformer
    from torch.nn import Module

    from glot.export.pooling_module import GlotBackbone, GlotPooling

    with kept_randomness():  # as in `load_pooling`
        backbone = GlotBackbone.load(str(folder), trust_remote_code=trust_remote_code)
        modules: list[Module] = [backbone, GlotPooling.load(str(folder), subfolder=POOLING_FOLDER)]
    vectors = SentenceTransformer(modules=modules, device=device).encode(probes, batch_size=1, show_progress_bar=False)
    difference = float(np.abs(vectors - expected).max())
    if not difference <= TOLERANCE * max(1.0, float(np.abs(expected).max())):  # NaN too
        raise FaultError(f"the exported vectors differ from the run's by {difference:.1e}: nothing is written")
    return difference
