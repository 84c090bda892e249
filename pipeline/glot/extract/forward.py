"""From token ids to stored states: batches in length order, the forward pass, the cast, and the look at the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from glot.errors import FaultError
from glot.extract.backbone import Backbone
from glot.store.layout import StatesIdentity
from glot.store.plan import Plan

CPU_BUDGET, GPU_BUDGET = 4096, 65536  # padded tokens a forward
BATCH_BYTES = 64 * 2**20  # of states a forward: bounds what waits for the disk


class Overflow(Exception):
    """Finite states that the stored dtype cannot hold."""


@dataclass
class BatchStates:
    """The states of a batch of texts on their way to the disk.

    Attributes:
        text_ids: (B,) the texts. lengths: (B,) their tokens.
        values: one packed (N, d) CPU tensor a kept layer, in the stored dtype. scales: (N,) float32 each, or None.
        finite: one flag a layer, whether the backbone's states are finite; fits: whether the stored ones are.
        copied: set where the copy from the device may still be under way.
    """

    text_ids: np.ndarray
    lengths: np.ndarray
    values: list[torch.Tensor]
    scales: list[torch.Tensor | None]
    finite: list[torch.Tensor]
    fits: list[torch.Tensor]
    copied: torch.cuda.Event | None

    @property
    def tokens(self) -> int:
        """N."""
        return int(self.lengths.sum())

    def texts(self, layers: tuple[int, ...]) -> Iterator[tuple[int, int, np.ndarray, np.ndarray | None]]:
        """Text id, layer, (L, d) stored states, and (L,) scales or None, of each text and layer."""
        ends = np.cumsum(self.lengths).tolist()
        for layer, values, scale in zip(layers, self.values, self.scales, strict=True):
            start = 0
            for text_id, end in zip(self.text_ids.tolist(), ends, strict=True):
                yield text_id, layer, values[start:end].numpy(), None if scale is None else scale[start:end].numpy()
                start = end

    def wait(self) -> None:
        """Wait until the copies have arrived."""
        if self.copied is not None:
            self.copied.synchronize()


def token_budget(device: torch.device, identity: StatesIdentity) -> int:
    """Padded tokens a forward, where the user does not say: what keeps the device busy and the memory small."""
    most = CPU_BUDGET if device.type == "cpu" else GPU_BUDGET
    return max(256, min(most, BATCH_BYTES // identity.bytes_per_token))


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
    """The token ids of one shard's texts, read from the plan once.

    `only` takes just some of its texts (ids).
    """

    def __init__(self, plan: Plan, number: int, only: np.ndarray | None = None) -> None:
        self.first, stop = plan.shard_range(number)
        self.text_ids = np.arange(self.first, stop) if only is None else only
        self.start = plan.token_start[self.first : stop + 1] - plan.token_start[self.first]
        self.token_ids = plan.token_ids(self.first, stop)
        self.length = plan.length[self.text_ids]

    def batch(self, places: np.ndarray, padding: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, L) int64 token ids padded on the right, and the (B, L) bool mask of real ones, of texts by place."""
        rows = self.text_ids[places] - self.first
        length = torch.from_numpy(self.length[places].astype(np.int64))  # (B,)
        mask = torch.arange(int(length.max())) < length[:, None]  # (B, L)
        ids = torch.full(mask.shape, padding, dtype=torch.long)
        packed = np.concatenate([self.token_ids[self.start[row] : self.start[row + 1]] for row in rows.tolist()])
        ids[mask] = torch.from_numpy(packed.astype(np.int64))
        return ids, mask


def forward_batch(
    backbone: Backbone, texts: ShardTexts, places: np.ndarray, identity: StatesIdentity, dtype: str
) -> BatchStates:
    """Forward a batch and cast its states; on a GPU the copy to memory goes on while the next batch is computed.

    Raises FaultError where the device has no memory for the batch.
    """
    ids, mask = texts.batch(places, backbone.tokenizer.pad_token_id or 0)
    try:
        layers = backbone.hidden_states(ids, mask.long(), identity.layers)
        stored = [_store(hidden[mask.to(hidden.device)], dtype) for hidden in layers]
    except torch.OutOfMemoryError:
        raise FaultError(
            f"{backbone.device} has no memory for {ids.numel()} tokens a forward: pass a smaller --token-budget, "
            "or --compute-dtype bfloat16; finished shards are whole"
        ) from None
    on_gpu = any(item.values.device.type == "cuda" for item in stored)
    batch = BatchStates(
        text_ids=texts.text_ids[places],
        lengths=texts.length[places].astype(np.int64),
        values=[_to_host(item.values) for item in stored],
        scales=[None if item.scale is None else _to_host(item.scale) for item in stored],
        finite=[_to_host(item.finite) for item in stored],
        fits=[_to_host(item.fits) for item in stored],
        copied=torch.cuda.Event() if on_gpu else None,
    )
    if batch.copied is not None:
        batch.copied.record()
    return batch


@dataclass
class _Stored:
    values: torch.Tensor
    scale: torch.Tensor | None
    finite: torch.Tensor
    fits: torch.Tensor


def _store(states: torch.Tensor, dtype: str) -> _Stored:
    """Packed states (N, d) in their stored form."""
    finite = states.isfinite().all()
    if dtype == "int8":
        values, scale = quantize(states)
        return _Stored(values, scale, finite, finite)
    values = states.to(getattr(torch, dtype))
    fits = values.isfinite().all() if dtype == "float16" else finite
    return _Stored(values.view(torch.uint16) if dtype == "bfloat16" else values, None, finite, fits)


def quantize(states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, d) int8 and (N,) float32 scales: a token's largest magnitude becomes 127."""
    states = states.float()
    scale = states.abs().amax(dim=1) / 127  # (N,)
    values = (states / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round().clamp(-127, 127)
    return values.to(torch.int8), scale


def _to_host(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.device.type != "cuda":
        return tensor.cpu()
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)


def check_numbers(batch: BatchStates, plan: Plan, identity: StatesIdentity, dtype: str) -> None:
    """Raise Overflow where finite states do not fit the stored dtype, FaultError where the backbone made none."""
    for place, layer in enumerate(identity.layers):
        if bool(batch.fits[place]):
            continue
        if bool(batch.finite[place]):
            raise Overflow(_name_texts(batch, place, layer, plan) + f" do not fit {dtype}")
        # int8 has no NaN: what its scale cannot say is not finite.
        raise FaultError(
            _name_texts(batch, place, layer, plan) + " are NaN or infinite as the backbone computes them "
            f"in {identity.compute_dtype}: try --compute-dtype float32; finished shards are whole"
        )


def _name_texts(batch: BatchStates, place: int, layer: int, plan: Plan) -> str:
    values = batch.scales[place] if batch.scales[place] is not None else batch.values[place]
    values = values.view(torch.bfloat16) if values.dtype == torch.uint16 else values
    bad_tokens = (~values.isfinite()).reshape(len(values), -1).any(dim=1).numpy()  # (N,)
    owner = np.repeat(np.arange(len(batch.lengths)), batch.lengths)
    bad = np.unique(owner[bad_tokens])
    others = f" and of {len(bad) - 1} more in its batch" if len(bad) > 1 else ""
    return f"layer {layer}: states of {plan.name_text(int(batch.text_ids[bad[0]]))}{others}"
