"""The methods that train the backbone: full fine-tuning, LoRA, SetFit.

Mean of the last states, one linear map; a pair is one input. The learning rate and the epoch are those that score best
on a part of the training examples that is kept aside; of large sets only the middle rate is tried.
"""

from __future__ import annotations

import json
import subprocess
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from benchmarks.frontier.measure import Case, Outcome, processor_seconds
from benchmarks.frontier.results import score_of
from glot.corpus.examples import Example
from glot.extract.backbone import load_backbone
from glot.extract.forward import Backbone
from glot.extract.planning import length_limit
from glot.extract.source import resolve_model
from glot.fit.metrics import compute_metrics
from glot.reproduce.cost import LORA

RATES = {"full": (2e-5, 5e-5, 1e-4), "lora": (1e-4, 5e-4, 1e-3)}
FEW = 64  # examples at most, that are trained on as `Pace` says first
MOST_SEARCHED = 20_000  # of more the search of the rate would take hours
MAX_TOKENS = 128
WARM_UP, CLIP, EVAL_BATCH = 0.06, 1.0, 64


@dataclass(frozen=True)
class Pace:
    """How a number of examples is trained on: `patience` are epochs without a better score."""

    batch: int
    epochs: int
    patience: int
    held_out: float

    @classmethod
    def of(cls, count: int) -> Pace:
        """For so many."""
        return cls(16, 20, 5, 1 / 4) if count <= FEW else cls(32, 4, 2, 1 / 10)


@dataclass
class Encoded:
    """Tokenized examples: token ids and types of each, and (m,) targets, scores standardised."""

    ids: list[list[int]]
    types: list[list[int]] | None
    target: Tensor

    def batch(self, rows: np.ndarray, pad: int) -> tuple[dict[str, Tensor], Tensor]:
        """The model's inputs (b, L), padded to the longest, and (b,) targets."""
        longest = max(1, max(len(self.ids[row]) for row in rows))
        lengths = torch.tensor([len(self.ids[row]) for row in rows])
        inputs = {
            "input_ids": torch.tensor([self.ids[row] + [pad] * (longest - len(self.ids[row])) for row in rows]),
            "attention_mask": (torch.arange(longest) < lengths[:, None]).long(),
        }
        if self.types is not None:
            filled = [self.types[row] + [0] * (longest - len(self.types[row])) for row in rows]
            inputs["token_type_ids"] = torch.tensor(filled)
        return inputs, self.target[torch.from_numpy(rows)]


class Classifier(nn.Module):
    """A backbone that is trained with its labels."""

    def __init__(self, model: nn.Module, width: int, outputs: int) -> None:
        super().__init__()
        self.model, self.head = model, nn.Linear(width, outputs)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """(b, outputs)."""
        options = {"use_cache": False} if hasattr(self.model.config, "use_cache") else {}
        states = self.model(**inputs, **options).last_hidden_state
        weights = inputs["attention_mask"][:, :, None].to(states.dtype)
        return self.head((states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1))


@dataclass
class Trained:
    """A training's best epoch: how it scored on what was kept aside (the loss, negated, decides between equals)."""

    rate: float
    epoch: int
    rank: tuple[float, float]
    weights: dict[str, Tensor]


class FineTuning:
    """The backbone, the case's tokens, and the split; `trained` trains a copy of the backbone."""

    def __init__(self, case: Case, backbone: Backbone) -> None:
        self.case, self.backbone, self.pace = case, backbone, Pace.of(len(case.rows))
        self.device = torch.device(case.spec.device)
        self.is_score = case.task.target == "score"
        labels = np.asarray([row.label for row in case.train])
        self.shift, self.scale = (labels.mean(), labels.std()) if self.is_score else (0.0, 1.0)
        self.train = self.encoded(case.train)
        self.fit_rows, self.held_rows = train_test_split(
            np.arange(len(labels)),
            test_size=self.pace.held_out,
            random_state=case.spec.sample,
            stratify=None if self.is_score else labels,
        )

    def encoded(self, rows: list[Example]) -> Encoded:
        """Each example as one input."""
        limit = length_limit(self.backbone, None, MAX_TOKENS)
        texts = [row.text for row in rows]
        others = [row.text_b or "" for row in rows] if self.case.task.num_texts == 2 else None
        found = self.backbone.tokenizer(texts, others, truncation=True, max_length=limit)
        labels = torch.tensor([row.label for row in rows])
        target = ((labels - self.shift) / self.scale).float() if self.is_score else labels
        return Encoded(found["input_ids"], found.get("token_type_ids"), target)

    def make(self) -> Classifier:
        """A copy of the backbone, or adapters around one, with a new head."""
        torch.manual_seed(self.case.spec.sample)
        model = deepcopy(self.backbone.model)
        if self.case.spec.method == "lora":
            from peft import LoraConfig, get_peft_model

            model = get_peft_model(model, LoraConfig(**LORA))
        else:
            model.requires_grad_(True)
        classifier = Classifier(model, self.backbone.width, 1 if self.is_score else len(self.case.task.classes))
        return classifier.to(self.device)

    def trained(self, rate: float) -> Trained:
        """The best epoch of a training at a rate; stops where `patience` epochs were no better."""
        model, pace = self.make(), self.pace
        weights = [one for one in model.parameters() if one.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=rate)
        total = pace.epochs * -(-len(self.fit_rows) // pace.batch)
        warm = max(1, int(WARM_UP * total))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warm, (total - step) / max(1, total - warm))
        )
        random, best = np.random.default_rng(self.case.spec.sample), None
        for epoch in range(1, pace.epochs + 1):
            model.train()
            order = random.permutation(self.fit_rows)
            for start in range(0, len(order), pace.batch):
                optimizer.zero_grad(set_to_none=True)
                self.loss(model, self.train, order[start : start + pace.batch]).backward()
                nn.utils.clip_grad_norm_(weights, CLIP)
                optimizer.step()
                schedule.step()
            rank = self.rank(model)
            print(f"rate {rate:g}, epoch {epoch}: {rank[0]:.4f}, loss {-rank[1]:.4f}", flush=True)
            if best is None or rank > best.rank:
                best = Trained(rate, epoch, rank, _trained_weights(model))
            elif epoch - best.epoch >= pace.patience:
                break
        assert best is not None
        return best

    def loss(self, model: Classifier, data: Encoded, rows: np.ndarray) -> Tensor:
        """() the mean over rows."""
        inputs, target = data.batch(rows, self.backbone.tokenizer.pad_token_id or 0)
        return self.loss_of(model(self.on_device(inputs)), target.to(self.device))

    def on_device(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The model's inputs where it computes."""
        return {name: values.to(self.device) for name, values in inputs.items()}

    def loss_of(self, output: Tensor, target: Tensor) -> Tensor:
        """Cross entropy, or the squared error."""
        if self.is_score:
            return nn.functional.mse_loss(output[:, 0], target)
        return nn.functional.cross_entropy(output, target)

    def rank(self, model: Classifier) -> tuple[float, float]:
        """The main score on what is kept aside, and the loss there, negated."""
        output = self.outputs(model, self.train, self.held_rows)
        target = self.train.target[torch.from_numpy(self.held_rows)]
        labels = np.asarray([self.case.train[row].label for row in self.held_rows])
        metrics = compute_metrics(self.case.task.metrics, self.predictions(output), labels)
        return next(iter(score_of(self.case.family, metrics).values())), -float(self.loss_of(output, target))

    @torch.no_grad()
    def outputs(self, model: Classifier, data: Encoded, rows: np.ndarray) -> Tensor:
        """(m, outputs) of rows, on the processor, in batches of similar length."""
        model.eval()
        order = np.argsort([len(data.ids[row]) for row in rows], kind="stable")
        pad, parts = self.backbone.tokenizer.pad_token_id or 0, []
        for start in range(0, len(order), EVAL_BATCH):
            inputs, _ = data.batch(rows[order[start : start + EVAL_BATCH]], pad)
            parts.append(model(self.on_device(inputs)))
        output = torch.cat(parts).cpu()
        return output[torch.from_numpy(np.argsort(order))]

    def predictions(self, output: Tensor) -> np.ndarray:
        """(m,) in the labels' own units."""
        if self.is_score:
            return (output[:, 0] * self.scale + self.shift).numpy()
        return output.argmax(dim=1).numpy()


def _trained_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: one.detach().clone() for name, one in model.named_parameters() if one.requires_grad}


def fine_tuned(case: Case) -> Outcome:
    """All weights, or adapters, trained with the labels; the first sample chooses the rate of all."""
    backbone = load_backbone(resolve_model(case.spec.model), "float32", case.spec.device)
    tuning, settled = FineTuning(case, backbone), case.spec.settled
    rates: tuple[float, ...] = RATES[case.spec.method]
    if settled:
        rates = (settled["rate"],)
    elif len(case.rows) > MOST_SEARCHED:
        rates = rates[1:2]
    best, spent = None, {}
    with case.meter.on("training"):
        for rate in rates:
            began = processor_seconds()
            found = tuning.trained(rate)
            spent[rate] = processor_seconds() - began
            best = found if best is None or found.rank > best.rank else best
        assert best is not None
    searching = sum(spent.values()) - spent[best.rate]
    model = tuning.make()
    model.load_state_dict(best.weights, strict=False)
    dev = tuning.encoded(case.dev)
    with case.meter.on("scoring"):
        predictions = tuning.predictions(tuning.outputs(model, dev, np.arange(len(case.dev))))
    # The losing rates of this very process are in its training already; of another's they are added.
    chosen = {"rate": best.rate, "epoch": best.epoch, "held_out_score": best.rank[0]}
    return Outcome(
        predictions,
        np.asarray([row.label for row in case.dev]),
        sum(weights.numel() for weights in best.weights.values()),
        {**chosen, "searching": searching or settled.get("search_seconds", 0.0)},
        search_seconds=settled.get("search_seconds", 0.0),
    )


def setfit(case: Case) -> Outcome:
    """The package's defaults, by the interpreter that has it."""
    spec = case.spec
    asked: dict[str, Any] = {
        "body": resolve_model(spec.model).location,
        "texts": [row.text for row in case.train],
        "labels": [int(row.label or 0) for row in case.train],
        "dev": [row.text for row in case.dev],
        "seed": spec.sample,
        "threads": spec.threads,
        "scratch": spec.scratch,
    }
    script = Path(__file__).with_name("setfit_peer.py")
    done = subprocess.run([spec.setfit_python, str(script)], input=json.dumps(asked), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{script.name} ended with {done.returncode}")
    answer = json.loads(done.stdout)
    case.meter.take(answer["seconds"])
    labels = np.asarray([row.label for row in case.dev])
    predictions = np.asarray(answer["predictions"])
    return Outcome(predictions, labels, answer["parameters"], versions={"setfit": answer["version"]})
