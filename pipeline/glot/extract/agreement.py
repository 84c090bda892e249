"""Whether an engine gives a backbone's states as torch does: compared on a few short texts, at each start."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from glot.errors import reason_of
from glot.extract.forward import Backbone, Engine
from glot.extract.probe import ROUNDING, SHORT, distance_of, probe_ids

# How far a token's state may lie from torch's, relative to its norm.
AGREES = {"float32": 1e-3, "bfloat16": ROUNDING[torch.bfloat16]}


class Unfit(Exception):
    """Why an engine does not forward a backbone here."""


@dataclass(frozen=True)
class Expected:
    """What torch makes of `probe_batches`: of each batch and each of the layers, (N, d) float32 of its real tokens."""

    layers: tuple[int, ...]
    states: list[list[torch.Tensor]]


def probe_batches(backbone: Backbone) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Ids and masks, see `Backbone.pad`: texts of other lengths than the tracer saw, alone and padded."""
    long = probe_ids(backbone, backbone.tried)
    batches = [[long], [long[:SHORT]], [long[:1]]]
    if backbone.pads:
        batches.append([long, long[:SHORT], long[:1]])
    return [backbone.pad(rows) for rows in batches]


def expect(backbone: Backbone, layers: tuple[int, ...]) -> Expected:
    """What torch makes of them; for a backbone that nothing else forwards."""
    states = []
    for ids, mask in probe_batches(backbone):
        real = mask.bool()
        states.append([found[real].float() for found in backbone.hidden_states(ids, mask, layers)])
    return Expected(layers, states)


def check_agreement(backbone: Backbone, engine: Engine, expected: Expected) -> None:
    """Raise Unfit where the states of an engine, in the layers that it gives, are not those that are expected."""
    for (ids, mask), wanted in zip(probe_batches(backbone), expected.states, strict=True):
        real = mask.bool()
        try:
            given = engine.hidden_states(ids, mask, engine.layers)
        except RuntimeError as error:
            raise Unfit(f"OpenVINO cannot compute {tuple(ids.shape)} tokens ({reason_of(error)})") from None
        for layer, theirs in zip(engine.layers, given, strict=True):
            ours = wanted[expected.layers.index(layer)]
            if theirs.shape[:2] != ids.shape or theirs.shape[2:] != ours.shape[1:]:
                raise Unfit(f"OpenVINO gives states of shape {tuple(theirs.shape)}, not {(*ids.shape, ours.shape[1])}")
            distance = distance_of(ours, theirs[real])
            if not distance <= AGREES[backbone.compute_dtype]:  # NaN does not either
                raise Unfit(f"OpenVINO's states of layer {layer} are {distance:.1e} of their norm away from torch's")
