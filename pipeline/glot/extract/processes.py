"""Processes that were started together by `accelerate launch` or torchrun: which one this is.

They talk only through the cache's folder, so no process group is needed; on GPUs accelerate makes one all the same
when it chooses a device.
"""

from __future__ import annotations

import os


def this_process() -> tuple[int, int]:
    """(i, n) where this is the i-th of n processes, counted from 0, by the variables that every launcher sets."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def leave() -> None:
    """Leave the launcher's process group, which complains of those that just end."""
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
