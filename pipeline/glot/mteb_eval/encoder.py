"""Columns as mteb's encoders: a text goes through the backbone once, for all columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from mteb.models import ModelMeta
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ScoringFunction

from glot.errors import FaultError
from glot.extract.backbone import Backbone
from glot.extract.engine import take_engine
from glot.extract.planning import clean, length_limit
from glot.inference.forward import forward_texts, load_run_backbone
from glot.inference.model import WINDOW
from glot.mteb_eval.columns import Comparison, Vectorizer
from glot.process import available_memory
from glot.products import fast_products
from glot.store.plan import text_hash
from glot.store.template import TEXT, fill

Report = Callable[[int], None]  # texts forwarded


class TextVectors:
    """Unit vectors of texts, of every column; a text that was seen before is not forwarded again.

    That holds until `forget`, and while a quarter of the free memory lasts; what comes after that is forwarded for each
    column anew. The backbone is loaded when the first text comes.

    Args:
        comparison: the columns.
        max_tokens: the length at which texts are cut.
        model: the backbone, where it no longer lies where the runs found it. device: where all is computed.
        report: told how many texts were forwarded.
        trust_remote_code: run the code that the backbone's folder brings along.
        prompts: that will stand before texts: they must leave room for these.
        engine: what forwards the backbone, see `take_engine`. say: told why it is not the faster one.
    """

    def __init__(
        self,
        comparison: Comparison,
        max_tokens: int,
        model: str | None = None,
        device: str | None = None,
        report: Report = lambda done: None,
        trust_remote_code: bool = False,
        prompts: Iterable[str] = (),
        engine: str = "auto",
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.comparison, self.max_tokens, self.prompts = comparison, max_tokens, tuple(prompts)
        self._model, self._device, self._report = model, device, report
        self._trust_remote_code = trust_remote_code
        self._engine, self._say = engine, say
        ends = np.cumsum([column.width for column in comparison.columns]).tolist()
        self._parts = [slice(end - column.width, end) for column, end in zip(comparison.columns, ends, strict=True)]
        self._room = available_memory() // 4 // (4 * ends[-1])  # texts whose vectors are kept
        self._kept: dict[bytes, np.ndarray] = {}  # (ΣD,) float32 each, all columns side by side
        self._forwarded = 0

    @cached_property
    def backbone(self) -> Backbone:
        """The backbone, loaded, with the columns' weights beside it.

        Raises UsageError where it does not fit, or the run's template or a prompt leaves no room for a text.
        """
        states = self.comparison.config.states
        backbone = load_run_backbone(states, self.comparison.run, self._model, self._device, self._trust_remote_code)
        for prompt in sorted({"", *self.prompts}, key=len, reverse=True):
            length_limit(backbone, self.max_tokens, self.max_tokens, fill(states.template, prompt + TEXT))
        take_engine(backbone, self.comparison.config.layers, self._engine, say=self._say)
        for column in self.comparison.columns:
            column.module.to(backbone.device)
        return backbone

    def forget(self) -> None:
        """Let go of all vectors."""
        self._kept.clear()

    def of_column(self, texts: list[str], index: int) -> np.ndarray:
        """(n, D) float32 unit vectors of the texts, in their order, of the column at `index`."""
        part = self._parts[index]
        cleaned = [clean(text) for text in texts]
        keys = [text_hash(text) for text in cleaned]
        new = {key: text for key, text in zip(keys, cleaned, strict=True) if key not in self._kept}
        beyond: dict[bytes, np.ndarray] = {}  # vectors that there is no room to keep
        todo = list(new.items())
        for start in range(0, len(todo), WINDOW):
            names, window = zip(*todo[start : start + WINDOW], strict=True)
            for key, row in zip(names, self._forward(list(window)), strict=True):
                if len(self._kept) < self._room:
                    self._kept[key] = row
                else:
                    beyond[key] = row[part].copy()
            self._forwarded += len(window)
            self._report(self._forwarded)
        vectors = np.empty((len(texts), part.stop - part.start), dtype=np.float32)
        for row, key in enumerate(keys):
            vectors[row] = self._kept[key][part] if key in self._kept else beyond[key]
        return vectors

    @fast_products()
    @torch.inference_mode()
    def _forward(self, texts: list[str]) -> np.ndarray:
        """(k, ΣD) float32: unit vectors of all columns side by side, texts of similar length forwarded together."""
        config, backbone = self.comparison.config, self.backbone
        vectors = np.empty((len(texts), self._parts[-1].stop), dtype=np.float32)
        for rows, states in forward_texts(texts, config.states, self.max_tokens, config.layers, backbone):
            choices = {column.tokens for column in self.comparison.columns}
            batches = {choice: states.pack(choice, backbone.device) for choice in choices}
            for column, part in zip(self.comparison.columns, self._parts, strict=True):
                pooled = F.normalize(column.vectors(batches[column.tokens]).float(), dim=1)  # (B, D)
                vectors[rows, part] = pooled.cpu().numpy()
        if not np.isfinite(vectors).all():
            raise FaultError(
                f"{backbone.name} gives NaN or infinite states in {config.states.compute_dtype} for a text"
            )
        return vectors


class ColumnEncoder(AbsEncoder):
    """One column as an encoder of mteb's protocol.

    Args:
        vectors: shared by all columns.
        index: of the column among them.
        prompts: what is put before a text, by mteb's names: a task, a task type, "query" or "document", or a task or
            type and one of these, joined by "-"; mteb's rules choose, and a text that no name fits stands alone.
    """

    def __init__(self, vectors: TextVectors, index: int, prompts: Mapping[str, str]) -> None:
        self.vectors, self.index = vectors, index
        self.model_prompts: dict[str, str] = dict(prompts)
        self.meta = self.mteb_model_meta = _model_meta(vectors, vectors.comparison.columns[index], dict(prompts))

    def encode(self, inputs: Iterable[Any], *, task_metadata: Any, prompt_type: Any = None, **_: Any) -> np.ndarray:
        """(n, D) float32 unit vectors of mteb's batches of texts, in their order."""
        name = self.get_prompt_name(task_metadata, prompt_type)
        prompt = "" if name is None else self.model_prompts[name]
        texts = [prompt + text for batch in inputs for text in batch["text"]]
        return self.vectors.of_column(texts, self.index)


def _model_meta(vectors: TextVectors, column: Vectorizer, prompts: dict[str, str]) -> ModelMeta:
    comparison = vectors.comparison
    states = comparison.config.states
    settings = {"max_tokens": vectors.max_tokens, "prompts": prompts}
    return ModelMeta(
        loader=None,
        loader_kwargs={"source": column.source, **comparison.layer, **settings},
        name=f"glot/{states.backbone}-{column.slug}",
        revision=comparison.revision(column, settings),
        release_date=None,
        languages=None,
        n_parameters=None,
        memory_usage_mb=None,
        max_tokens=vectors.max_tokens,
        embed_dim=column.width,
        license=None,
        open_weights=None,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch"],
        similarity_fn_name=ScoringFunction.COSINE,
        use_instructions=bool(prompts),
        training_datasets=None,
    )
