"""A real Ray cluster of two nodes on this machine, and command lines whose workers are on it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil

from tests.faults.runs import Zygote

PATIENCE = 300.0  # seconds until a test gives up
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
T = TypeVar("T")
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass
class RayRuns:
    """Command lines on a cluster."""

    zygote: Zygote
    cluster: Any

    def start(self, *words: object) -> int:
        """Start a command; gives its process id."""
        return self.zygote.glot(*words, "--launcher", "ray", "--ray-address", self.cluster.address)

    def finish(self, pid: int) -> str:
        """Wait for a command that must succeed, and must not repeat what Ray says of itself; gives what it printed."""
        printed = self.zygote.finish(pid)
        self.check_quiet(printed)
        return printed

    def stop(self, pid: int) -> str:
        """Stop a command as Ctrl-C does; gives what it printed."""
        os.kill(pid, signal.SIGINT)
        code, printed = self.zygote.wait(pid), self.zygote.output(pid)
        assert code == 130, printed
        self.check_quiet(printed)
        return printed

    def check_quiet(self, printed: str) -> None:
        """Ray says nothing of itself."""
        lines = COLOURS.sub("", printed).splitlines()
        assert not any(line.startswith(("[", "(raylet)")) for line in lines), printed

    def wait_for(self, there: Callable[[], T], pid: int) -> T:
        """Wait until something is there, while the command runs; gives it."""
        deadline = time.monotonic() + PATIENCE
        while not (found := there()):
            assert self.zygote.is_running(pid), f"the command ended before: {self.zygote.output(pid)}"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return found

    def workers(self, kind: str) -> list[psutil.Process]:
        """The processes of the workers, at work or loading, of this cluster alone."""
        found = []
        for child in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):  # it ended while the list was read
                if kind in child.name():
                    found.append(child)
        return found

    def replace_node(self) -> None:
        """Remove a node that is not the head, and start another."""
        self.cluster.remove_node(self.cluster.list_all_nodes()[1])
        self.cluster.add_node(**NODE)
