"""What commands work with, made once for many tests through the functions behind them."""

from __future__ import annotations

import shutil
from pathlib import Path

from tests.faults import runs

# A program: runs the commands that its argument lists as JSON, one after the other in one process.
COMMANDS = """
import json, sys
from glot.commands import app
for words in json.loads(sys.argv[1]):
    sys.argv = ["glot", *words]
    try:
        app.main()
    except SystemExit as stop:
        assert not stop.code, words
"""


def make_work(folder: Path, backbone: Path) -> Path:
    """Put a model, a cache, a run, two seeds, a sweep, an ensemble, half of another and small files into a folder."""
    from glot.fit.ensemble import Ensemble
    from glot.fit.options import FitOptions
    from glot.fit.run import finish_runs, make_configs, prepare_runs
    from glot.fit.sweep import make_candidates, prepare_sweep
    from glot.store.reader import Cache

    shutil.copytree(backbone, folder / "model")
    runs.extract(folder / "model", folder / "cache", layers=(2,))
    cache, options = Cache(folder / "cache"), FitOptions(epochs=1, hidden=8, device="cpu")
    prepare_runs(make_configs(cache, options), folder / "run")
    finish_runs(folder / "run")
    prepare_runs(make_configs(cache, FitOptions(epochs=1, hidden=8, device="cpu", seeds=(0, 1))), folder / "seeds")
    prepare_sweep(make_candidates(cache, options, {"tau": (0.3, 0.6)}), folder / "sweep")
    for name, there in (("both", "12"), ("half", "1")):
        for member in there:
            shutil.copytree(folder / "run", folder / name / member)
        Ensemble.of(make_configs(cache, options) * 2).save(folder / name)
    runs.write_csv(folder / "data.csv")
    (folder / "texts.txt").write_text("rain falls\n")
    return folder
