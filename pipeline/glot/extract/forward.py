"""From token ids to stored states: batches by length, padding, forward pass, cast, a look at the numbers, the shard.

All that pads or forwards does it here, by `Backbone.pad` and `Backbone.forward`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from glot.errors import FaultError
from glot.extract.identity import Loader
from glot.products import fast_products, torch_attention
from glot.store.layout import TORCH, StatesIdentity
from glot.store.plan import Plan
from glot.store.shards import ShardWriter

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

CPU_BUDGET, GPU_BUDGET = 4096, 65536  # padded tokens a forward
CPU_FLOPS = 5e10  # a second, of a slow CPU
FORWARD_FLOPS = 30 * CPU_FLOPS  # of a forward on a CPU: 30 s
BATCH_BYTES = 64 * 2**20  # of states a forward: bounds what waits for the disk


class Engine(Protocol):
    """What forwards a backbone in torch's place.

    Attributes:
        name: with version and precision. layers: those that it gives.
    """

    name: str
    layers: tuple[int, ...]

    def hidden_states(self, ids: torch.Tensor, mask: torch.Tensor, layers: tuple[int, ...]) -> list[torch.Tensor]:
        """As `Backbone.hidden_states`."""


@dataclass
class Backbone:
    """A frozen model, its tokenizer, and the facts that the cache records of them.

    Attributes:
        source: what finds it again, see `ModelSource.spec`.
        kind: "encoder" or "decoder".
        num_layers: n. vocabulary_size: rows of the embedding table. device: where its input goes.
        get_model: gives the model, which is loaded when it is first needed where an engine forwards in its place.
        loader: what was read beside weights and tokenizer.
        layer_widths: (n + 1) numbers, d of each layer; None for a layer of which the model does not say for sure
            which it is.
        max_positions: the longest input the model takes, None where it has no limit.
        pads: whether texts may be padded; else only texts of equal length are forwarded together.
        tried: the most tokens of a text that was forwarded to see that it works. See `probe` for these four.
        engine: what forwards it where not torch, see `take_engine`.
        held: whether the model is somebody's own object, whose weights may change while this is used.
    """

    name: str
    source: str
    revision: str
    weights_sha256: str
    tokenizer_sha256: str
    kind: str
    num_layers: int
    vocabulary_size: int
    compute_dtype: str
    get_model: Callable[[], PreTrainedModel]
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    loader: Loader
    layer_widths: tuple[int | None, ...] = ()
    max_positions: int | None = None
    pads: bool = True
    tried: int = 0
    engine: Engine | None = None
    held: bool = False

    @cached_property
    def model(self) -> PreTrainedModel:
        """The model, in evaluation mode."""
        return self.get_model()

    @property
    def loader_sha256(self) -> str:
        """Hash of what was read beside weights and tokenizer."""
        return self.loader.sha256

    @property
    def width(self) -> int:
        """d of the last layer."""
        last = self.layer_widths[-1]
        assert last is not None  # only inner layers may be unsure
        return last

    @cached_property
    def parameters(self) -> int:
        """How many numbers its weights are."""
        return sum(weights.numel() for weights in self.model.parameters())

    @property
    def engine_name(self) -> str:
        """What forwards it, as shards record it: equal names make equal bits on one machine."""
        return TORCH if self.engine is None else self.engine.name

    def pad(self, rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, L) int64 ids of B texts, padded on the right, and their (B, L) int64 mask."""
        packed = torch.tensor([number for row in rows for number in row])
        return self.pad_packed(packed, torch.tensor([len(row) for row in rows]))

    def pad_packed(self, packed: torch.Tensor, length: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, L) int64 ids and mask of (N,) ids of B texts one after the other, and their (B,) lengths."""
        mask = torch.arange(int(length.max())) < length[:, None]
        ids = torch.full(mask.shape, self.tokenizer.pad_token_id or 0)
        ids[mask] = packed
        return ids, mask.long()

    @fast_products()
    @torch_attention()
    @torch.inference_mode()
    def forward(self, ids: torch.Tensor, mask: torch.Tensor, with_inner: bool = False) -> Any:
        """The model's own `ModelOutput` for (B, L) ids and mask; with the states of all layers where asked for."""
        if self.model.training:  # by whoever holds it, too, since it was handed over
            self.model.eval()
        ids, mask = ids.to(self.device), mask.to(self.device)
        options = {"use_cache": False} if "use_cache" in inspect.signature(self.model.forward).parameters else {}
        return self.model(input_ids=ids, attention_mask=mask, output_hidden_states=with_inner, **options)

    def hidden_states(self, ids: torch.Tensor, mask: torch.Tensor, layers: tuple[int, ...]) -> list[torch.Tensor]:
        """Forward one batch of (B, L) int64 ids, padded on the right, and their mask; one (B, L, d) tensor a layer.

        Layers count from 0 (embeddings) to n (after the final norm).
        """
        if self.engine is not None and set(layers) <= set(self.engine.layers):
            return self.engine.hidden_states(ids, mask, layers)
        output = self.forward(ids, mask, with_inner=any(layer < self.num_layers for layer in layers))
        return [
            output.last_hidden_state if layer == self.num_layers else output.hidden_states[layer] for layer in layers
        ]


class Overflow(Exception):
    """Finite states that the stored dtype cannot hold."""


@dataclass
class LayerStates:
    """The packed states of N tokens in one layer.

    Attributes:
        values: (N, d) in the stored dtype. scale: (N,) float32, None but for int8.
        finite: whether the backbone's states are finite. fits: whether the stored ones are.
    """

    values: torch.Tensor
    scale: torch.Tensor | None
    finite: torch.Tensor
    fits: torch.Tensor

    def to_host(self) -> LayerStates:
        """The same in memory; from a GPU the copy may still be under way."""
        scale = None if self.scale is None else _to_host(self.scale)
        return LayerStates(_to_host(self.values), scale, _to_host(self.finite), _to_host(self.fits))


@dataclass
class BatchStates:
    """The states of a batch of texts on their way to the disk.

    Attributes:
        text_ids: (B,) the texts. lengths: (B,) their tokens.
        layers: in memory, for each kept layer.
        copied: set where the copy from the device may still be under way.
    """

    text_ids: np.ndarray
    lengths: np.ndarray
    layers: list[LayerStates]
    copied: torch.cuda.Event | None

    @property
    def tokens(self) -> int:
        """N."""
        return int(self.lengths.sum())

    def write(self, shard: ShardWriter, plan: Plan) -> None:
        """Write the states to their shard, once their copies have arrived.

        Raises Overflow where finite states do not fit the shard's dtype, FaultError where the backbone made states that
        are not finite, or the disk is full.
        """
        if self.copied is not None:
            self.copied.synchronize()
        _check_numbers(self, plan, shard.identity, shard.dtype)
        ends = np.cumsum(self.lengths).tolist()
        for layer, states in zip(shard.identity.layers, self.layers, strict=True):
            start, values = 0, states.values.numpy()
            scale = None if states.scale is None else states.scale.numpy()
            for text_id, end in zip(self.text_ids.tolist(), ends, strict=True):
                shard.write(layer, text_id, values[start:end], None if scale is None else scale[start:end])
                start = end


def token_budget(backbone: Backbone, identity: StatesIdentity) -> int:
    """Padded tokens a forward, where the user does not say: what keeps the device busy and the memory small.

    On a CPU a large backbone gets fewer, so that a forward takes half a minute at most: a stop loses what is in flight.
    """
    most = GPU_BUDGET
    if backbone.device.type == "cpu":
        most = min(CPU_BUDGET, int(FORWARD_FLOPS / (2 * backbone.parameters + 1)))
    return max(128, min(most, BATCH_BYTES // identity.bytes_per_token))


def length_batches(length: np.ndarray, budget: int, pads: bool = True) -> Iterator[np.ndarray]:
    """Cut positions, longest text first, into batches of at most `budget` padded tokens (at least one text each).

    With `pads` False, for a backbone whose states would change with it, only texts of equal length go together.
    """
    order = np.argsort(-length.astype(np.int64), kind="stable")
    falling = -length[order].astype(np.int64)
    start = 0
    while start < len(order):
        stop = start + max(1, budget // -int(falling[start]))
        if not pads:
            stop = min(stop, int(np.searchsorted(falling, falling[start], side="right")))
        yield order[start:stop]
        start = stop


class ShardTexts:
    """The token ids of one shard's texts, or `only` of those with some ids, read from the plan once."""

    def __init__(self, plan: Plan, number: int, only: np.ndarray | None = None) -> None:
        self.first, stop = plan.shard_range(number)
        self.text_ids = np.arange(self.first, stop) if only is None else only
        self.start = plan.shard_offsets(number)
        self.token_ids = plan.token_ids(self.first, stop)
        self.length = plan.length[self.text_ids]

    def packed(self, chosen: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """(N,) int64 token ids of the `chosen` of these texts, one after the other, and their (B,) lengths."""
        indices = (self.text_ids[chosen] - self.first).tolist()
        ids = np.concatenate([self.token_ids[self.start[index] : self.start[index + 1]] for index in indices])
        return torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(self.length[chosen].astype(np.int64))


def forward_batch(
    backbone: Backbone, texts: ShardTexts, chosen: np.ndarray, identity: StatesIdentity, dtype: str
) -> BatchStates:
    """Forward a batch and cast its states; on a GPU the copy to memory goes on while the next batch is computed.

    Raises FaultError where the device has no memory for the batch.
    """
    ids, mask = backbone.pad_packed(*texts.packed(chosen))
    try:
        hidden = backbone.hidden_states(ids, mask, identity.layers)
        layers = [_store(states[mask.bool().to(states.device)], dtype) for states in hidden]
    except torch.OutOfMemoryError:
        raise FaultError(
            f"{backbone.device} has no memory for {ids.numel()} tokens a forward: pass a smaller --token-budget, "
            "or --compute-dtype bfloat16; finished shards are whole"
        ) from None
    on_gpu = any(layer.values.is_cuda for layer in layers)
    batch = BatchStates(
        text_ids=texts.text_ids[chosen],
        lengths=texts.length[chosen].astype(np.int64),
        layers=[layer.to_host() for layer in layers],
        copied=torch.cuda.Event() if on_gpu else None,
    )
    if batch.copied is not None:
        batch.copied.record()
    return batch


def _store(states: torch.Tensor, dtype: str) -> LayerStates:
    """Packed states (N, d) in their stored form."""
    finite = states.isfinite().all()
    if dtype == "int8":
        values, scale = quantize(states)
        return LayerStates(values, scale, finite, finite)
    values = states.to(getattr(torch, dtype))
    fits = values.isfinite().all() if dtype == "float16" else finite
    return LayerStates(values.view(torch.uint16) if dtype == "bfloat16" else values, None, finite, fits)


def quantize(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, d) int8 and (N,) float32 scales: a token's largest magnitude becomes 127."""
    states = states.float()
    scale = states.abs().amax(dim=1) / 127  # (N,)
    values = (states / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round().clamp(-127, 127)
    return values.to(torch.int8), scale


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_cuda:
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def _check_numbers(batch: BatchStates, plan: Plan, identity: StatesIdentity, dtype: str) -> None:
    for layer, states in zip(identity.layers, batch.layers, strict=True):
        if bool(states.fits):
            continue
        where = f"layer {layer}: states of {_name_texts(batch, states, plan)}"
        if bool(states.finite):
            raise Overflow(f"{where} do not fit {dtype}")
        raise FaultError(
            f"{where} are NaN or infinite as the backbone computes them in {identity.compute_dtype}: "
            "try --compute-dtype float32; finished shards are whole"
        )


def _name_texts(batch: BatchStates, states: LayerStates, plan: Plan) -> str:
    """The first text of a batch whose states in a layer are not finite, and how many more; for messages."""
    # int8 has neither NaN nor infinity: its scale shows them.
    values = states.values if states.scale is None else states.scale
    values = values.view(torch.bfloat16) if values.dtype == torch.uint16 else values
    bad_tokens = (~values.isfinite()).reshape(len(values), -1).any(dim=1).numpy()  # (N,)
    owner = np.repeat(np.arange(len(batch.lengths)), batch.lengths)
    bad = np.unique(owner[bad_tokens])
    others = f" and of {len(bad) - 1} more in its batch" if len(bad) > 1 else ""
    return plan.name_text(int(batch.text_ids[bad[0]])) + others
