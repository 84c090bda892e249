"""Private operations of torch that graph attention may use, and what stands in for them."""

from __future__ import annotations

import pytest
import torch

from glot.nn import attention


def test_softmax_s_gradient_does_not_hang_on_a_private_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    """`aten._softmax_backward_data` does in one pass what public operations do in three; torch may drop it any day."""
    logits = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    weights, gradient = logits.softmax(dim=-1), torch.randn(2, 3, 5, dtype=torch.float64)
    (expected,) = torch.autograd.grad(weights, logits, gradient)
    found = [attention.softmax_backward(gradient, weights.detach())]
    monkeypatch.setattr(attention, "_fused_softmax_backward", None)
    found.append(attention.softmax_backward(gradient, weights.detach()))
    for one in found:
        torch.testing.assert_close(one, expected)


def test_padding_attends_to_itself_and_neighbours_are_left_as_they_are() -> None:
    mask = torch.tensor([[[True, True, False], [True, True, False], [False, False, False]]])
    expected = torch.tensor([[[0, 0, -1e30], [0, 0, -1e30], [-1e30, -1e30, 0]]])
    assert torch.equal(attention.additive_mask(mask), expected)
