"""Processes that were started together by `accelerate launch` or torchrun: which one this is.

They talk only through the cache's folder, so no process group is needed; on GPUs accelerate makes one all the same
when it chooses a device.
"""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Process:
    """The `index`-th of `count` processes (counted from 0)."""

    index: int = 0
    count: int = 1

    @property
    def is_main(self) -> bool:
        """Whether it is the one that speaks for all."""
        return self.index == 0


def this_process() -> Process:
    """Which process this is, by the variables that every launcher sets; alone where there are none."""
    return Process(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def leave() -> None:
    """Leave the launcher's process group, which complains of those that just end."""
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
