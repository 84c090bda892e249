from __future__ import annotations

import pytest
import torch

from glot.nn.tokens import TokenBatch


def test_layout(make_batch):
    batch = make_batch((3, 1, 2))
    assert len(batch) == 3
    assert batch.index.offsets.tolist() == [0, 3, 4]
    assert batch.index.segment.tolist() == [0, 0, 0, 1, 2, 2]
    assert batch.real.tolist() == [[True] * 3, [True, False, False], [True, True, False]]


def test_pad_and_unpad(make_batch):
    batch = make_batch((3, 1, 2))
    padded = batch.pad(batch.states, fill=-7.0)
    assert padded.shape == (3, 3, 6)
    for text, states in enumerate(batch.states.split([3, 1, 2])):
        assert torch.equal(padded[text, : len(states)], states)
        assert (padded[text, len(states) :] == -7).all()
    assert torch.equal(batch.unpad(padded), batch.states)
    assert batch.pad(batch.states[:, 0]).shape == (3, 3)


def test_readout_against_a_loop(make_batch):
    batch = make_batch((3, 1, 4))
    scores = torch.randn(8, dtype=torch.float64) * 30
    weights, (first, second) = batch.readout(scores, [batch.states, batch.states[:, :2] ** 2])
    for text, (s, x) in enumerate(zip(scores.split([3, 1, 4]), batch.states.split([3, 1, 4]), strict=True)):
        pi = s.softmax(0)
        torch.testing.assert_close(weights.split([3, 1, 4])[text], pi)
        torch.testing.assert_close(first[text], pi @ x)
        torch.testing.assert_close(second[text], pi @ x[:, :2] ** 2)


def test_to_casts_the_states_only(make_batch):
    moved = make_batch((2, 1)).to("cpu", torch.float32)
    assert moved.states.dtype == torch.float32
    assert moved.lengths.dtype == torch.int64


@pytest.mark.parametrize("lengths", [[], [3, 0, 3], [5], [7], [[6]]])
def test_lengths_that_do_not_fit_are_refused(lengths):
    with pytest.raises(ValueError, match=r"length|token"):
        TokenBatch(torch.zeros(6, 2), torch.tensor(lengths, dtype=torch.int64))
