"""Two examples of each command, for the end of its help: the usual use first."""

from __future__ import annotations

EXAMPLES = {
    "train": ("train train.csv --model minilm", "train train.csv --model minilm --test held.csv --minutes 5"),
    "extract": (
        "extract --model minilm --data train.csv --text body --label topic",
        "extract --model mistral-7b --task sst2 --layers all --estimate",
    ),
    "inspect": ("inspect cache/train", "inspect cache/train --json"),
    "fit": ("fit --cache cache/train --out runs/topics", "fit --cache cache/train --preset published --seeds 0..4"),
    "sweep": ("sweep --cache cache/train --tau 0.3,0.6", "sweep --cache cache/train --pooler mean,adapool,glot"),
    "tune": ("tune --cache cache/train --minutes 10", "tune --resume runs/tune-train --minutes 5"),
    "evaluate": (
        "evaluate --run runs/topics --data held.csv --text body --label topic --page report.html",
        "evaluate --run runs/topics --mteb STSBenchmark",
    ),
    "encode": (
        "encode --run runs/topics --input new.csv --text body --output vectors.npy",
        "encode --run runs/topics --input texts.txt --output vectors.parquet",
    ),
    "predict": (
        "predict --run runs/topics --input new.csv --text body --output answers.csv",
        "predict --run runs/topics --input texts.txt",
    ),
    "export": (
        "export --run runs/topics --to sentence-transformers mine",
        "export --run runs/topics --to onnx topics-onnx",
    ),
    "serve": ("serve --run runs/topics", "serve --run runs/topics --host 0.0.0.0 --port 80"),
    "report": ("report runs/topics", "report runs/topics runs/mean --out results/mine"),
    "explain": (
        'explain --run runs/topics --input-text "a late goal"',
        "explain --run runs/topics --cache cache/train --index 17",
    ),
    "stress": ("stress --model minilm", "stress --model minilm --generator paired"),
    "reproduce": ("reproduce --dry-run", "reproduce --profile cpu --recipe table1"),
    "doctor": ("doctor", "doctor --json"),
}


def examples_of(name: str) -> str | None:
    """The end of a command's help; lines that are not filled up into others. None for a command without."""
    if name not in EXAMPLES:
        return None
    return "\b\nExamples:\n" + "\n".join(f"  glot {line}" for line in EXAMPLES[name])
