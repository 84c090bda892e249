"""Whether it pays that the tokens of one text of a pair see those of the other.

    python -m benchmarks.relations --cache cache/mrpc [--layer 3] [--seeds 5]

Three heads over the same states, alike but for the one relation that each token has: to no other token, to the tokens
that are like it in its own text, or to those in the other text. A token x that is matched by m, the mean of those
tokens weighed by their likeness, becomes ReLU(W [x, |x - m|, x * m]). Each head keeps the epoch that a tenth of train,
held out, likes best, and is then scored on validation. Beside the scores stands the difference to the head without
relations, seed by seed.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import mean

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.ratios import describe_machine
from glot.fit.metrics import compute_metrics
from glot.fit.states import MemoryStates
from glot.fit.training_data import labels_of
from glot.nn.heads import make_head
from glot.registry.tasks import is_symmetric
from glot.store.example_set import ExampleSet
from glot.store.reader import Cache
from glot.store.task_spec import TaskSpec

RELATIONS = ("none", "within", "across")
HIDDEN, BATCH, EPOCHS, RATE, SHARPNESS = 64, 32, 6, 1e-3, 0.1


class Related(nn.Module):
    """A relation layer, attention readout and the head of a task; see the top of this file."""

    def __init__(self, relation: str, task: TaskSpec, width: int) -> None:
        super().__init__()
        self.relation = relation
        self.likeness = nn.Linear(width, HIDDEN)
        self.layer = nn.Linear(width if relation == "none" else 3 * width, HIDDEN)
        self.score = nn.Linear(HIDDEN, 1)
        nn.init.zeros_(self.score.weight)  # the readout begins as the mean
        self.head = make_head(task, width + HIDDEN, "symmetric" if is_symmetric(task) else "full")

    def vector(self, x: Tensor, mask: Tensor, other: Tensor, other_mask: Tensor) -> Tensor:
        """(B, D) of texts (B, L, d) whose tokens are related to those of others (B, M, d); masks are True on tokens."""
        found = [x]
        if self.relation != "none":
            likeness = F.normalize(x, dim=2) @ F.normalize(other, dim=2).mT / SHARPNESS
            likeness = likeness + self.likeness(x) @ self.likeness(other).mT / HIDDEN**0.5
            if self.relation == "within":  # a token is not its own match
                likeness = likeness.masked_fill(torch.eye(x.shape[1], dtype=torch.bool), -1e9)
            matched = likeness.masked_fill(~other_mask[:, None], -1e9).softmax(dim=2) @ other
            found += [(x - matched).abs(), x * matched]
        g = F.relu(self.layer(torch.cat(found, dim=2)))
        weights = self.score(g.tanh()).squeeze(2).masked_fill(~mask, -1e9).softmax(dim=1)
        return (weights[:, None] @ torch.cat([x, g], dim=2)).squeeze(1)

    def forward(self, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
        """Raw outputs of the head for pairs of padded texts, each with its mask."""
        across = self.relation == "across"
        return self.head(self.vector(*a, *(b if across else a)), self.vector(*b, *(a if across else b)))


class Data:
    """A cache's states at one layer, normed, and its train and validation pairs."""

    def __init__(self, cache: Cache, layer: int | None) -> None:
        self.task = cache.examples_entry("train").task
        self.train, self.validation = cache.examples("train"), cache.examples("validation")
        ids = np.concatenate([self.train.used_ids(), self.validation.used_ids()])
        self.states = MemoryStates(cache, (cache.resolve_layer(layer),), ids, torch.device("cpu"))

    def padded(self, ids: np.ndarray) -> tuple[Tensor, Tensor]:
        """(B, L, d) states of some texts, and (B, L) where they are."""
        batch = self.states.gather(ids)
        tokens = F.layer_norm(batch.states.float(), batch.states.shape[1:]).split(batch.lengths.tolist())
        padded = nn.utils.rnn.pad_sequence(list(tokens), batch_first=True)
        return padded, torch.arange(padded.shape[1]) < batch.lengths[:, None]

    def output(self, model: Related, examples: ExampleSet) -> Tensor:
        """Raw outputs for some pairs."""
        assert examples.text_id_b is not None
        return model(self.padded(examples.text_id), self.padded(examples.text_id_b))

    @torch.no_grad()
    def score(self, model: Related, examples: ExampleSet) -> float:
        """By the task's first metric."""
        rows = np.array_split(np.arange(len(examples)), max(1, len(examples) // 256))
        parts = [model.head.predict(self.output(model, examples.subset(some))) for some in rows]
        return compute_metrics(self.task.metrics, torch.cat(parts).numpy(), labels_of(examples))[self.task.metrics[0]]


def fit(data: Data, relation: str, seed: int) -> float:
    """The validation score of a new head at the epoch that the hold-out likes best."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    order = random.permutation(len(data.train))
    held, rows = np.split(order, [len(order) // 10])
    model = Related(relation, data.task, data.states.width)
    optimizer = torch.optim.AdamW(model.parameters(), RATE)
    steps = EPOCHS * -(-len(rows) // BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps)
    best = (-np.inf, 0.0)
    for _ in range(EPOCHS):
        shuffled = random.permutation(rows)
        for start in range(0, len(shuffled), BATCH):
            batch = data.train.subset(shuffled[start : start + BATCH])
            labels = labels_of(batch)
            wanted = torch.from_numpy(labels if labels.dtype == np.int64 else labels.astype(np.float32))
            optimizer.zero_grad()
            model.head.loss(data.output(model, batch), wanted).backward()
            optimizer.step()
            schedule.step()
        found = data.score(model, data.train.subset(np.sort(held)))
        if found > best[0]:
            best = (found, data.score(model, data.validation))
    return 100 * best[1]


def main() -> None:
    """Print a row a relation."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cache", type=Path, required=True, help="of a task of pairs with labels")
    parser.add_argument("--layer", type=int, help="of the cache's; default: its last")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(describe_machine(), flush=True)
    data = Data(Cache(given.cache), given.layer)
    print(f"| relation | {data.task.metrics[0]} | less none | seconds a head |\n|---|---|---|---|", flush=True)
    scores: dict[str, list[float]] = {}
    for relation in RELATIONS:
        began = time.process_time()
        scores[relation] = [fit(data, relation, seed) for seed in range(given.seeds)]
        seconds = (time.process_time() - began) / given.seeds
        less = [one - other for one, other in zip(scores[relation], scores["none"], strict=True)]
        shown = ", ".join(f"{value:+.1f}" for value in less)
        print(
            f"| {relation} | {mean(scores[relation]):.1f} | {mean(less):+.1f} ({shown}) | {seconds:.0f} |", flush=True
        )


if __name__ == "__main__":
    main()
