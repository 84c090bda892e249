"""Graph attention on padded (b, L, L) matrices for S heads at once, with its backward pass written out.

What autograd makes of the same equations takes twice the passes over memory: it fills padding with zeros that nothing
reads, copies tensors that nobody needs again, and starts some forty small operations a layer.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from glot.nn.tokens import TokenBatch

SLOPE = 0.2  # of the LeakyReLU, as in Veličković et al. 2018


def attend(
    values: Tensor, source: Tensor, target: Tensor, edge_bias: Tensor, buckets: list[TokenBatch], masks: list[Tensor]
) -> Tensor:
    """(S, N, h): Σ_j α_ij v_j, α_i· = softmax_j(LeakyReLU(sourceᵀ v_j + targetᵀ v_i + edge_bias)) for each head.

    Args:
        values: v, (S, N, h), or (1, N, h).
        source: (S, h).
        target: (S, h).
        edge_bias: (S,).
        buckets: the texts whose tokens the N rows are, in order.
        masks: for each bucket (S, b, L, L) or (1, b, L, L) float, from `additive_mask`.
    """
    return _Attend.apply(values, torch.stack([source, target], dim=1), edge_bias, buckets, masks)


def additive_mask(mask: Tensor) -> Tensor:
    """(b, L, L) float32 to add to logits: 0 for neighbours in `mask` (b, L, L) bool of `EdgeRule`, -1e30 elsewhere.

    Padding attends to itself, so that its softmax is finite, and is dropped.
    """
    additive = mask.float().sub_(1).mul_(1e30)  # several times as fast as `masked_fill`
    additive.diagonal(dim1=1, dim2=2).zero_()
    return additive


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, values: Tensor, both: Tensor, edge_bias: Tensor, buckets: list[TokenBatch], masks: list[Tensor]
    ) -> Tensor:
        with torch.autocast(values.device.type, enabled=False):
            scores = widen(values @ both.mT.to(values.dtype))  # (S, N, 2)
            sizes = [len(bucket.states) for bucket in buckets]
            out, kept = [], []
            for bucket, mask, part, score in zip(
                buckets, masks, values.split(sizes, dim=1), scores.split(sizes, dim=1), strict=True
            ):
                padded, score = bucket.repeat_pad(part, 1), bucket.repeat_pad(score, 1)  # (S, b, L, h), (S, b, L, 2)
                logits = score[..., None, :, 0] + (score[..., 1:] + edge_bias.to(score.dtype)[:, None, None, None])
                logits = F.leaky_relu_(logits, SLOPE)  # (S, b, L, L)
                alpha = (logits + mask).softmax(dim=3).to(values.dtype)
                out.append(bucket.unpad(alpha @ padded, 1))
                kept += [padded, alpha, logits]
        ctx.buckets = buckets
        ctx.save_for_backward(values, both, edge_bias, *kept)
        return out[0] if len(out) == 1 else torch.cat(out, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        values, both, edge_bias, *kept = ctx.saved_tensors
        by_values, by_scores, by_edge = [], [], torch.zeros_like(edge_bias)
        parts = gradient.split([len(bucket.states) for bucket in ctx.buckets], dim=1)
        for index, (bucket, part) in enumerate(zip(ctx.buckets, parts, strict=True)):
            padded, alpha, logits = kept[3 * index : 3 * index + 3]
            given = bucket.repeat_pad(part, 1)  # what stands in the padding meets weights of zero
            by_values.append(bucket.unpad(alpha.mT @ given, 1))
            by_alpha, wide = widen(given @ padded.mT), widen(alpha)  # (S, b, L, L)
            by_logits = softmax_backward(by_alpha, wide)
            # The LeakyReLU's result has the sign of what went in.
            by_logits = torch.ops.aten.leaky_relu_backward(by_logits, logits, SLOPE, True)
            heard, hearing = by_logits.sum(dim=2), by_logits.sum(dim=3)  # (S, b, L)
            by_scores.append(bucket.unpad(torch.stack([heard, hearing], dim=3), 1))
            by_edge = by_edge + hearing.sum(dim=(1, 2))
        by_score = (by_scores[0] if len(by_scores) == 1 else torch.cat(by_scores, dim=1)).to(values.dtype)
        by_value = by_values[0] if len(by_values) == 1 else torch.cat(by_values, dim=1)
        by_value.baddbmm_(by_score, both.to(values.dtype))
        return by_value, (by_score.mT @ values).to(both.dtype), by_edge.to(edge_bias.dtype), None, None


# In one pass over memory what public operations do in three; private, so another torch may lack it.
_fused_softmax_backward = getattr(torch.ops.aten, "_softmax_backward_data", None)


def softmax_backward(gradient: Tensor, weights: Tensor) -> Tensor:
    """(..., L): from the gradient at softmax `weights` (..., L), that at the logits they were made of."""
    if _fused_softmax_backward is None:
        return (gradient - (gradient * weights).sum(dim=-1, keepdim=True)) * weights
    return _fused_softmax_backward(gradient, weights, weights.ndim - 1, weights.dtype)


def widen(values: Tensor) -> Tensor:
    """Half-precision values as float32; others as they are."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values
