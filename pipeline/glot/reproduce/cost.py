"""What a label costs by each way to train it: fine-tuning, LoRA, a frozen backbone in every step, GLOT over a cache.

All ways see the same batches of the same examples, on the same device, in one run; medians of their steps are
multiplied up to whole trainings. The paper's table of costs is the model.
"""

from __future__ import annotations

import gc
import itertools
import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from glot.errors import UsageError
from glot.fit.schedule import make_optimizer
from glot.fit.states import HostBatch, Texts
from glot.fit.steps import make_steps
from glot.nn.config import PoolerConfig
from glot.nn.graph import Backend, resolve_backend
from glot.nn.poolers import make_pooler
from glot.nn.tokens import TokenBatch
from glot.process import kept_randomness
from glot.registry.backbones import BACKBONES
from glot.reproduce.costs import Cost, CostRecord
from glot.store.template import TEXT

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from glot.corpus.examples import Corpus
    from glot.extract.backbone import Backbone

EPOCHS = 3
LORA: dict[str, Any] = {"r": 64, "lora_alpha": 64, "lora_dropout": 0.1, "target_modules": "all-linear"}
# Families whose configuration classes have a published model's shapes built in, for measurements without weights.
BUILT_IN = {entry.name: entry.config for entry in BACKBONES if entry.config}
PUBLISHED = "published: full fine-tuning 7,110 M, 32.59 GB, 1,318 ms; LoRA 167.8 M, 33.50 GB, 1,454 ms; GLOT 8.9 M, "
PUBLISHED += "0.42 GB, 13.4 ms a step (Mistral-7B, an unnamed GPU)"


@dataclass(frozen=True)
class Work:
    """The examples that all ways train on.

    Attributes:
        texts: token ids of each distinct text that occurs in the batches.
        batches: for each step (B,) indices of texts, or (B, 2) for pairs.
        examples: in the whole training set. distinct_tokens: of its distinct texts.
    """

    texts: list[list[int]]
    batches: list[np.ndarray]
    examples: int
    distinct_tokens: int

    @property
    def batch_size(self) -> int:
        """Examples a step."""
        return len(self.batches[0])


def measure_task(
    model: str,
    task: str,
    data_dir: Path | None,
    batch_size: int,
    steps: int,
    config: PoolerConfig,
    device: torch.device,
    trust_remote_code: bool = False,
) -> CostRecord:
    """What each way costs for a backbone on a task; raises UsageError where either is not there."""
    from glot.corpus.load import load_task
    from glot.extract.backbone import load_backbone
    from glot.extract.source import resolve_model

    source = resolve_model(model)  # a name that nobody knows is told before the data is read
    corpus = load_task(task, ["train"], data_dir)
    backbone = load_backbone(source, "float32", "cpu", trust_remote_code=trust_remote_code)
    work = task_work(corpus, backbone, batch_size, steps)
    return make_record(model, task, work, measure_cost(backbone.model, work, config, device), device)


def make_record(model: str, task: str, work: Work, costs: list[Cost], device: torch.device) -> CostRecord:
    """Costs with what was measured, and where."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return CostRecord(model, task, name, torch.get_num_threads(), work.examples, work.batch_size, EPOCHS, costs)


@kept_randomness()
def random_model(name: str, dtype: torch.dtype, **smaller: int) -> PreTrainedModel:
    """A published model's shapes with random weights; raises UsageError where they are not built in.

    Args:
        smaller: settings of its configuration that are to differ.
    """
    import transformers

    if name not in BUILT_IN:
        raise UsageError(f"--random-init knows the shapes of {', '.join(BUILT_IN)}; got {name!r}")
    config = getattr(transformers, BUILT_IN[name])(**smaller)
    return transformers.AutoModel.from_config(config, dtype=dtype)


def random_work(vocabulary: int, mean: int, batch_size: int, steps: int, examples: int) -> Work:
    """Single texts of random tokens, their lengths spread around a mean."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.gamma(4.0, mean / 4.0, batch_size * steps), 3, 512).astype(int)
    texts = [random.integers(0, vocabulary, length).tolist() for length in lengths]
    batches = np.split(np.arange(len(texts)), steps)
    return Work(texts, list(batches), examples, int(examples * lengths.mean()))


def task_work(corpus: Corpus, backbone: Backbone, batch_size: int, steps: int, usual_tokens: int = 128) -> Work:
    """Batches of a task's first training examples; raises UsageError where it has too few."""
    from glot.extract.planning import length_limit, tokenize_filled

    examples = corpus.splits["train"].examples
    if len(examples) < batch_size * steps:
        raise UsageError(f"{corpus.spec.name} has {len(examples)} examples: lower --batch-size or --steps")
    wide = corpus.spec.num_texts == 2
    rows = [(example.text, example.text_b or "") if wide else (example.text,) for example in examples]
    place = {text: number for number, text in enumerate(dict.fromkeys(text for row in rows for text in row))}
    ids = tokenize_filled(list(place), TEXT, backbone, length_limit(backbone, None, usual_tokens)).ids
    chosen = np.asarray([[place[text] for text in row] for row in rows[: batch_size * steps]])
    batches = [batch if wide else batch[:, 0] for batch in np.split(chosen, steps)]
    used = {number: at for at, number in enumerate(dict.fromkeys(chosen.reshape(-1).tolist()))}
    batches = [np.vectorize(used.__getitem__)(batch) for batch in batches]
    return Work([ids[number] for number in used], batches, len(examples), sum(map(len, ids)))


class Labelled(nn.Module):
    """A backbone that is trained with its labels: mean of the last states, one linear map."""

    def __init__(self, model: nn.Module, width: int, num_texts: int) -> None:
        super().__init__()
        self.model, self.num_texts = model, num_texts
        self.head = nn.Linear(num_texts * width, 2)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """(B, 2) logits of padded (B · num_texts, L) ids."""
        states = self.model(input_ids=ids, attention_mask=mask, **_no_cache(self.model)).last_hidden_state
        weights = mask[:, :, None].to(states.dtype)
        z = (states * weights).sum(dim=1) / weights.sum(dim=1)
        return self.head(z.reshape(-1, self.num_texts * z.shape[1]).to(self.head.weight.dtype))


def _no_cache(model: nn.Module) -> dict[str, bool]:
    return {"use_cache": False} if hasattr(model.config, "use_cache") else {}


class Way:
    """One way to train: what is trained, and the step of a batch."""

    def __init__(self, name: str, modules: list[nn.Module], loss: Callable[[np.ndarray], Tensor], lr: float) -> None:
        self.name, self.loss, self.modules = name, loss, modules
        self.trained = [p for module in modules for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.Adam(self.trained, lr=lr, fused=True)

    def step(self, batch: np.ndarray) -> None:
        """Forward, backward, optimizer."""
        self.optimizer.zero_grad(set_to_none=True)  # before the forward pass, which needs the room
        self.loss(batch).backward()
        self.optimizer.step()

    def held_bytes(self, more: Sequence[nn.Module]) -> int:
        """Bytes of weights (of `more` modules too) and of the optimizer's state."""
        tensors = {id(p): p for module in [*self.modules, *more] for p in module.parameters()}
        state = [value for values in self.optimizer.state.values() for value in values.values() if value.ndim]
        return sum(tensor.numel() * tensor.element_size() for tensor in [*tensors.values(), *state])


class _Pooled(nn.Module):
    """GLOT and a linear head for two classes."""

    def __init__(self, config: PoolerConfig, width: int, backend: Backend, num_texts: int) -> None:
        super().__init__()
        self.pooler, self.num_texts = make_pooler(config, width, backend), num_texts
        self.head = nn.Linear(num_texts * self.pooler.out_width, 2)

    def loss(self, texts: Texts, rows: list[Tensor], labels: Tensor | None) -> Tensor:
        """() of the texts at `rows`, those of a pair one after the other."""
        assert labels is not None
        z = self.pooler(texts).index_select(0, rows[0])
        return nn.functional.cross_entropy(self.head(z.reshape(len(labels), -1)), labels)


class CachedWay(Way):
    """GLOT over stored states, its steps run as those of `glot fit` are."""

    can_be_recorded = True

    def __init__(self, pooled: _Pooled, gather: Callable[[np.ndarray], HostBatch], labels: Tensor) -> None:
        device = labels.device
        super().__init__(
            "GLOT over the cache", [pooled], lambda batch: pooled.loss(*gather(batch).to(device), labels), 2e-4
        )
        self.pooled, self.gather, self.labels = pooled, gather, labels
        self.optimizer = make_optimizer(self.trained, 2e-4, device)
        self.steps = make_steps([self], device, None)

    def step(self, batch: np.ndarray) -> None:
        """See `Way.step`."""
        self.steps.run(self.gather(batch), self.labels)

    def update(self, texts: Texts, rows: list[Tensor], labels: Tensor | None) -> None:
        """See `Learner.update`."""
        self.optimizer.zero_grad(set_to_none=True)
        self.pooled.loss(texts, rows, labels).backward()
        self.optimizer.step()


@kept_randomness()
def measure_cost(
    model: PreTrainedModel, work: Work, config: PoolerConfig, device: torch.device, alone: bool = False
) -> list[Cost]:
    """Measure all ways, which take turns step by step; LoRA is left out where peft is not installed.

    Args:
        alone: one way after the other instead, for a model of which several copies do not fit on the device: only LoRA
            has one, and full fine-tuning comes last and changes `model` itself. What does not fit is left out.
    """
    num_texts = work.batches[0].ndim
    cast("nn.Module", model).to(device).eval()  # its own `to` is wrapped, and so untyped
    model.requires_grad_(False)
    labels = torch.arange(work.batch_size, device=device) % 2
    texts = _Texts(work, device)
    backend = resolve_backend("auto", device)
    stored, rate = _extract(model, work, texts)
    width = stored[0].shape[1]

    def fine_tuned(name: str, module: nn.Module, lr: float) -> Way:
        labelled = Labelled(module, width, num_texts).to(device).train()
        return Way(
            name, [labelled], lambda batch: nn.functional.cross_entropy(labelled(*texts.padded(batch)), labels), lr
        )

    def full() -> Way:
        whole = model if alone else deepcopy(model)
        return fine_tuned("full fine-tuning", whole.requires_grad_(True), 2e-5)

    def lora() -> Way | None:
        adapted = _lora(model)
        return None if adapted is None else fine_tuned(f"LoRA, r = {LORA['r']}", adapted, 2e-4)

    def frozen() -> Way:
        pooled = _Pooled(config, width, backend, num_texts).to(device)
        rows = [torch.arange(num_texts * work.batch_size, device=device)]
        return Way(
            "frozen backbone", [pooled], lambda batch: pooled.loss(texts.forwarded(model, batch), rows, labels), 2e-4
        )

    def cached() -> Way:
        pooled = _Pooled(config, width, backend, num_texts).to(device)
        return CachedWay(pooled, partial(_gathered, stored), labels)

    makers: list[Callable[[], Way | None]] = [full, lora, frozen, cached]
    extraction = work.distinct_tokens / rate
    if alone:
        return [cost for make in makers[::-1] for cost in _cost_alone(make, model, work, device, extraction)][::-1]
    ways = [way for make in makers if (way := make()) is not None]
    return _costs(ways, model, work, device, extraction)


def _cost_alone(
    make: Callable[[], Way | None], model: PreTrainedModel, work: Work, device: torch.device, extraction: float
) -> list[Cost]:
    """The cost of one way, of which nothing is left on the device after; none where it does not fit there."""
    costs: list[Cost] = []
    with suppress(torch.OutOfMemoryError):
        way = make()
        costs = [] if way is None else _costs([way], model, work, device, extraction)
    way = None
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return costs


def ways_left_out(costs: Sequence[Cost]) -> list[str]:
    """Of full fine-tuning and LoRA, what was not measured."""
    return [name for name in ("full fine-tuning", "LoRA") if not any(cost.name.startswith(name) for cost in costs)]


def _costs(ways: list[Way], model: PreTrainedModel, work: Work, device: torch.device, extraction: float) -> list[Cost]:
    times: dict[str, list[float]] = {way.name: [] for way in ways}
    for number, batch in enumerate(work.batches):
        for way in ways:
            seconds = _seconds(partial(way.step, batch), device)
            if number:  # the first warms up
                times[way.name].append(seconds)
    costs, steps = [], EPOCHS * math.ceil(work.examples / work.batch_size)
    for way in ways:
        step = statistics.median(times[way.name])
        uses_model = [model] if way.name.startswith("frozen") else []
        before = extraction if "cache" in way.name else 0.0
        way.optimizer.zero_grad(set_to_none=True)  # so that a step's gradients are counted with it
        held = way.held_bytes(uses_model) + step_bytes(partial(Way.step, way, work.batches[0]), device)
        trained = sum(parameter.numel() for parameter in way.trained)
        costs.append(Cost(way.name, trained, held, step, before, before + steps * step))
    return costs


def _lora(model: PreTrainedModel) -> nn.Module | None:
    """A copy of the model with adapters; None where peft is not installed."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError:
        return None
    adapted: nn.Module = get_peft_model(deepcopy(model), LoraConfig(**LORA))
    return adapted


class _Texts:
    """The texts of a batch, padded together, on the device."""

    def __init__(self, work: Work, device: torch.device) -> None:
        self.work, self.device = work, device

    def padded(self, batch: np.ndarray) -> tuple[Tensor, Tensor]:
        """(B · num_texts, L) ids and mask of a batch, the two texts of a pair one after the other."""
        texts = [self.work.texts[index] for index in batch.reshape(-1).tolist()]
        longest = max(map(len, texts))
        ids = torch.tensor([text + [0] * (longest - len(text)) for text in texts])
        mask = torch.arange(longest) < torch.tensor(list(map(len, texts)))[:, None]
        return ids.to(self.device), mask.long().to(self.device)

    @torch.no_grad()
    def forwarded(self, model: PreTrainedModel, batch: np.ndarray) -> TokenBatch:
        """The states of a batch's texts, from the backbone."""
        ids, mask = self.padded(batch)
        states = model(input_ids=ids, attention_mask=mask, **_no_cache(model)).last_hidden_state
        return TokenBatch(states[mask.bool()].float(), mask.sum(dim=1).cpu())


def _extract(model: PreTrainedModel, work: Work, texts: _Texts) -> tuple[list[Tensor], float]:
    """Every text's states as a cache holds them, and the tokens/s of forwarding them in order of their lengths."""
    order = sorted(range(len(work.texts)), key=lambda text: len(work.texts[text]))
    stored: dict[int, Tensor] = {}

    def forward_all() -> None:
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            batch = texts.forwarded(model, np.asarray(chosen))
            parts = batch.states.half().split(batch.lengths.tolist())
            stored.update(zip(chosen, parts, strict=True))

    forward_all()
    seconds = min(_seconds(forward_all, texts.device) for _ in range(2))
    return [stored[text] for text in range(len(work.texts))], sum(map(len, work.texts)) / seconds


def _gathered(stored: list[Tensor], batch: np.ndarray) -> HostBatch:
    texts = [stored[index] for index in batch.reshape(-1).tolist()]
    lengths = torch.tensor([len(text) for text in texts])
    return HostBatch(torch.cat(texts), lengths=lengths, rows=(torch.arange(len(texts)),))


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def step_bytes(step: Callable[[], object], device: torch.device) -> int:
    """Most bytes of tensors that a step holds beyond what was there before it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    with tempfile.TemporaryDirectory() as folder:  # the trace is the one public place of single allocations
        profile.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_bytes())["traceEvents"]
    memory = [event for event in events if event.get("name") == "[memory]"]
    changes = [event["args"]["Bytes"] for event in sorted(memory, key=lambda event: event["ts"])]
    return max(itertools.accumulate(changes, initial=0))
