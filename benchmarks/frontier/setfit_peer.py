"""SetFit with its defaults, in its own environment, which knows nothing of this project.

    python setfit_peer.py < JSON > JSON

In: `body` (a sentence-transformers folder), `texts`, `labels`, `dev`, `seed`, `threads`, `scratch`. Out: `predictions`
of `dev`, `parameters`, `seconds` (processor seconds of setup, training, scoring), `version`.
"""

import contextlib
import json
import resource
import sys


def seconds() -> float:
    """Processor seconds of this process and of its children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    """Read, train, predict, write."""
    given = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        answer = run(given)
    json.dump(answer, sys.stdout)


def run(given: dict) -> dict:
    """What `main` writes."""
    import setfit
    import torch
    from datasets import Dataset, disable_progress_bars

    torch.set_num_threads(given["threads"])
    disable_progress_bars()
    model = setfit.SetFitModel.from_pretrained(given["body"])
    train = Dataset.from_dict({"text": given["texts"], "label": given["labels"]})
    arguments = setfit.TrainingArguments(
        output_dir=given["scratch"], seed=given["seed"], save_strategy="no", report_to="none", show_progress_bar=False
    )
    marks = [seconds()]
    setfit.Trainer(model=model, args=arguments, train_dataset=train).train()
    marks.append(seconds())
    predictions = [int(label) for label in model.predict(given["dev"], show_progress_bar=False)]
    marks.append(seconds())
    trained = sum(weights.numel() for weights in model.model_body.parameters()) + model.model_head.coef_.size + 1
    spent = {"setup": marks[0], "training": marks[1] - marks[0], "scoring": marks[2] - marks[1]}
    return {"predictions": predictions, "parameters": trained, "seconds": spent, "version": setfit.__version__}


if __name__ == "__main__":
    main()
