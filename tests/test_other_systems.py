"""From a table to answers on a system that lacks what Linux has, as `tests/store/test_other_systems.py` has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.store.test_other_systems import POOR, ROOT
from tests.work import COMMANDS

pytest.importorskip("matplotlib", reason="pages need the extra report")

# Of the standard library on Linux alone; the libraries that are loaded before keep their own.
ABSENT = """
import accelerate, matplotlib.figure, pandas, scipy.stats, sklearn.linear_model, torch, tqdm.auto, transformers
transformers.BertModel, transformers.PreTrainedTokenizerFast, transformers.BertConfig
import signal, sys
for name in ("fcntl", "resource", "pwd", "grp", "termios", "pty"):
    sys.modules[name] = None
for name in ("SIGKILL", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGQUIT", "SIGCHLD", "alarm", "setitimer"):
    delattr(signal, name)
"""
GONE = """
for name in ("fork", "forkpty", "geteuid", "getuid", "getpgid", "killpg", "setsid", "sysconf", "mkfifo", "fchmod"):
    delattr(os, name)
"""


@pytest.mark.slow
def test_from_a_table_to_answers_without_what_linux_has(backbone_folders: dict[str, Path], tmp_path: Path) -> None:
    """Windows and macOS themselves are not here: what they lack is taken away."""
    rows = [f"the old {word} {row},{word}" for row in range(20) for word in ("dog", "river")]
    (tmp_path / "train.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    run = ["--run", "made", "--model", str(backbone_folders["bert"])]
    commands = [
        ["train", "train.csv", *run[2:], "--out", "made", "--max-tokens", "24"],
        ["predict", *run, "--input", "train.csv", "--output", "answers.csv"],
        ["encode", *run, "--input", "train.csv", "--output", "vectors.npy"],
        ["evaluate", *run, "--data", "train.csv", "--page", "page.html"],
        ["explain", *run, "--input-text", "the old dog"],
    ]
    done = subprocess.run(
        [sys.executable, "-c", ABSENT + POOR + GONE + COMMANDS, json.dumps(commands)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT / "pipeline")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "answers.csv").read_text(encoding="utf-8").splitlines()) == 41
    assert np.load(tmp_path / "vectors.npy").shape[0] == 40
    for name in ("made/report.html", "page.html", "explain.html"):
        assert (tmp_path / name).is_file()
