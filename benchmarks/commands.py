"""Whole commands, from the start of their process to its end: stage one of MRPC, a run's first answer, `glot train`.

    python -m benchmarks.commands

`glot extract` by each engine, planning and writing included, and `glot predict` of a hundred sentences: at the very
first start, and once the backbone was converted to OpenVINO. The folder of converted models is one of its own. `glot
train` takes 600 sentences of SST-2, of which it keeps a fifth to score on.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks.extraction import glue_folder
from benchmarks.ratios import describe_machine, seconds_of, verdict
from glot.corpus.load import load_task

EXTRACT_TARGET, PREDICT_TARGET, TRAIN_TARGET = 1.6, 4.0, 15.0  # over --engine torch; seconds; seconds
SENTENCES, ROWS = 100, 600
WAYS = {
    "torch": ("--engine", "torch"),
    "auto": ("--engine", "auto"),
    "auto, bfloat16": ("--engine", "auto", "--compute-dtype", "bfloat16"),
}
Run = Callable[..., None]  # of a command's words


def run_command(*words: object) -> None:
    """Run `glot` in a process of its own; raises CalledProcessError where it fails."""
    subprocess.run([sys.executable, "-m", "glot", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def time_extraction(model: str, data: tuple[object, ...], folder: Path, run: Run = run_command) -> dict[str, float]:
    """Seconds of `glot extract` of some data by each way, the first one once more before to warm up the disk."""
    found = {}
    for name, options in {"warm-up": WAYS["torch"], **WAYS}.items():
        words = ("extract", "--model", model, *data, *options, "--out", folder / name)
        found[name] = seconds_of(lambda words=words: run(*words))
    del found["warm-up"]
    return found


def time_answers(
    model: str, data: tuple[object, ...], texts: list[str], folder: Path, run: Run = run_command
) -> dict[str, float]:
    """Seconds of `glot predict` of some texts, by a head trained on some data: at first, and after a conversion."""
    run("extract", "--model", model, *data, "--engine", "torch", "--out", folder / "cache")
    run("fit", "--cache", folder / "cache", "--epochs", 1, "--no-yardsticks", "--out", folder / "run")
    (folder / "texts.txt").write_text("\n".join(" ".join(text.split()) for text in texts), encoding="utf-8")
    words = ("predict", "--run", folder / "run", "--input", folder / "texts.txt", "--output")
    first = seconds_of(lambda: run(*words, folder / "first.csv"))
    run(*words, folder / "converted.csv", "--engine", "openvino")
    return {"first": first, "converted": seconds_of(lambda: run(*words, folder / "again.csv"))}


def time_training(model: str, rows: list[tuple[str, str]], folder: Path, run: Run = run_command) -> float:
    """Seconds of `glot train` of a table of texts with labels, to its page."""
    with open(folder / "rows.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return seconds_of(lambda: run("train", folder / "rows.csv", "--model", model, "--out", folder / "trained"))


def main() -> None:
    """Print the seconds and what they come to."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="a GLUE folder; default: GLUE_DIR")
    parser.add_argument("--model", default="minilm")
    given = parser.parse_args()
    data_dir = glue_folder(given.data_dir)
    if not data_dir.is_dir():
        print(f"commands: left out, for there is no GLUE folder at {data_dir}; name one with GLUE_DIR")
        return
    print(f"commands: {given.model}, {describe_machine()}", flush=True)
    glue = ("--data-dir", data_dir)
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = str(Path(name) / "home")
        found = time_extraction(given.model, ("--task", "mrpc", *glue), Path(name))
        for way, seconds in found.items():
            ratio = found["torch"] / seconds
            aimed = f", {ratio:.2f} times as fast as torch; {verdict(ratio, EXTRACT_TARGET)}" if way != "torch" else ""
            print(f"  glot extract, all of MRPC, {way}: {seconds:.1f} s{aimed}", flush=True)
        examples = load_task("cola", ["validation"], data_dir).splits["validation"].examples
        texts = [example.text for example in examples[:SENTENCES]]
        found = time_answers(given.model, ("--task", "cola", *glue, "--limit", 500), texts, Path(name))
        for when, seconds in found.items():
            told = verdict(seconds, PREDICT_TARGET, at_most=True)
            print(f"  glot predict, {len(texts)} sentences, {when}: {seconds:.1f} s; {told}", flush=True)
        examples = load_task("sst2", ["train"], data_dir, ROWS).splits["train"].examples
        rows = [(example.text, ("negative", "positive")[int(example.label or 0)]) for example in examples]
        seconds = time_training(given.model, rows, Path(name))
        print(f"  glot train, {ROWS} rows: {seconds:.1f} s; {verdict(seconds, TRAIN_TARGET, at_most=True)}")


if __name__ == "__main__":
    main()
