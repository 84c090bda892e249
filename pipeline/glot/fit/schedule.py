"""Learning rates as functions of how far a fit is, without a state that a resumed fit would need; but `StepPlateau`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from inspect import unwrap
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

PLATEAU_EPOCHS = 2
PLATEAU_STEPS, PLATEAU_FACTOR = 50, 0.1


def lr_factor(schedule: str, share: float, scores: list[float], warm_up: float = 0.0) -> float:
    """What a schedule makes of the learning rate.

    Args:
        schedule: see `TrainConfig`. share: of all steps that are done, 0 to 1. scores: of each epoch so far.
        warm_up: the share of all steps in which the rate rises in a line from 0, before the schedule begins.
    """
    if share < warm_up:
        return share / warm_up
    share = (share - warm_up) / (1 - warm_up)
    if schedule == "plateau":
        return 0.5 ** count_plateaus(scores)
    return {"constant": 1.0, "linear": 1 - share, "cosine": (1 + math.cos(math.pi * share)) / 2}[schedule]


def count_plateaus(scores: list[float]) -> int:
    """How often a score has not become better for `PLATEAU_EPOCHS` epochs."""
    best, stale, count = -math.inf, 0, 0
    for score in scores:
        best, stale = (score, 0) if score > best else (best, stale + 1)
        if stale == PLATEAU_EPOCHS:
            count, stale = count + 1, 0
    return count


class LightAdam(Adam):
    """`Adam` without `torch.compile`, which nothing here uses and whose import takes a second of each start.

    Torch wraps these methods so that a compiler leaves them alone, and loads it for that. Here they are unwrapped.
    """

    step = torch.no_grad()(unwrap(Adam.step))
    add_param_group, zero_grad = unwrap(Adam.add_param_group), unwrap(Adam.zero_grad)
    state_dict, load_state_dict = unwrap(Adam.state_dict), unwrap(Adam.load_state_dict)


def make_optimizer(parameters: Iterable[Tensor], lr: float, device: torch.device, weight_decay: float = 0.0) -> Adam:
    """Adam, and with a weight decay AdamW; on a GPU its rate is a tensor, which a recorded step reads.

    See `RecordedSteps`.
    """
    decay: dict[str, Any] = {"weight_decay": weight_decay, "decoupled_weight_decay": True}
    if device.type == "cuda":
        rate = torch.tensor(lr, dtype=torch.float32, device=device)
        return LightAdam(parameters, lr=rate, fused=True, capturable=True, **decay)
    return LightAdam(parameters, lr=lr, fused=True, **decay)


def set_rate(optimizer: Optimizer, lr: float) -> None:
    """Change the learning rate, where it lies."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def mean_weights(model: nn.Module) -> AveragedModel:
    """A copy of a model whose weights are the mean over all steps so far, in which later ones count more.

    Polynomial-decay averaging (Shamir and Zhang 2013) with η = 3: step t moves the mean by 4 / (t + 3) of the way to
    the new weights. Its `update_parameters` takes in a step. A GPU is not waited for.
    """

    def follow(means: Sequence[Tensor], weights: Sequence[Tensor], steps: Tensor | int) -> None:
        assert isinstance(steps, Tensor)  # how many were taken in before, on the device of the means
        share = 4 / (steps + 4)
        for mean, weight in zip(means, weights, strict=True):
            mean.lerp_(weight, share.to(mean.dtype))

    return AveragedModel(model, multi_avg_fn=torch.no_grad()(follow))


class StepPlateau:
    """The schedule "plateau-steps": `ReduceLROnPlateau` over the losses of single steps, which alone has a state."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.scheduler = ReduceLROnPlateau(optimizer, factor=PLATEAU_FACTOR, patience=PLATEAU_STEPS)

    def step(self, loss: float) -> None:
        """Take the loss of a step into account."""
        self.scheduler.step(loss)

    def state(self) -> dict[str, float]:
        """What a checkpoint must keep."""
        state = self.scheduler.state_dict()
        lr = float(self.optimizer.param_groups[0]["lr"])
        return {"lr": lr, **{name: state[name] for name in ("best", "num_bad_epochs", "last_epoch")}}

    def restore(self, state: dict[str, float]) -> None:
        """Take over what `state` gave."""
        kept = dict(state)
        set_rate(self.optimizer, kept.pop("lr"))
        self.scheduler.load_state_dict(kept)
