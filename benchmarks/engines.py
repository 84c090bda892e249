"""Stage one by each engine, against a bare loop of torch in float32 on the same padded batches of MRPC, in one process.

    python -m benchmarks.engines

All ways take turns, batch by batch; a number is the ratio of tokens/s to the bare loop's with as many threads, in
processor time and in wall time, and beside it how far the states lie from torch's float32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from benchmarks.extraction import glue_folder, load_pairs
from benchmarks.ratios import describe_machine, verdict
from glot.extract.backbone import Backbone, load_backbone
from glot.extract.engine import take_engine
from glot.extract.forward import length_batches
from glot.extract.openvino import computes_bfloat16, openvino_version
from glot.extract.planning import tokenize_filled
from glot.extract.source import resolve_model
from glot.products import choose_way

TEXTS = {"minilm": 256, "smollm2-135m": 24}
BUDGET, ROUNDS = 1024, 3
TARGETS = {
    ("minilm", "openvino float32"): 1.9,
    ("minilm", "openvino bfloat16"): 3.5,
    ("smollm2-135m", "openvino float32"): 1.8,
    ("smollm2-135m", "openvino bfloat16"): 3.3,
}
Batch = tuple[torch.Tensor, torch.Tensor]


@dataclass
class Way:
    """One way to forward a batch, and the least seconds that each batch took."""

    forward: Callable[[Batch], torch.Tensor]
    wall: dict[int, float] = field(default_factory=dict)
    cpu: dict[int, float] = field(default_factory=dict)

    def time(self, number: int, batch: Batch) -> None:
        """Forward a batch once more."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.forward(batch)
        self.cpu[number] = min(self.cpu.get(number, 1e9), time.process_time() - cpu)
        self.wall[number] = min(self.wall.get(number, 1e9), time.perf_counter() - wall)


def batches_of(backbone: Backbone, data_dir: Path, count: int) -> list[Batch]:
    """Distinct first texts of MRPC's pairs, as stage one pads them."""
    examples = load_pairs(data_dir, "mrpc", count).splits["train"].examples
    rows = tokenize_filled(list(dict.fromkeys(example.text for example in examples)), "{text}", backbone, 128).ids
    length = torch.tensor([len(row) for row in rows]).numpy()
    return [backbone.pad([rows[number] for number in some]) for some in length_batches(length, BUDGET, backbone.pads)]


@torch.inference_mode()
def bare(backbone: Backbone, batch: Batch) -> torch.Tensor:
    """The model alone, as a user's own loop calls it."""
    options = {"use_cache": False} if backbone.kind == "decoder" else {}
    return backbone.model(input_ids=batch[0], attention_mask=batch[1], **options).last_hidden_state


def make_ways(name: str, backbone: Backbone) -> dict[str, Way]:
    """Every engine and precision that there is here, compiled for the threads in use."""
    last = (backbone.num_layers,)
    ways = {"torch, bare loop": Way(lambda batch: bare(backbone, batch))}

    def add(title: str, other: Backbone, engine: str) -> None:
        other = replace(other, engine=None)
        take_engine(other, last, engine)
        ways[title] = Way(lambda batch: other.hidden_states(*batch, last)[0])

    add("torch, ours", backbone, "torch")
    if openvino_version() is None:
        print("  OpenVINO is not installed: its rows are left out")
        return ways
    add("openvino float32", backbone, "openvino")
    if computes_bfloat16():
        half = load_backbone(resolve_model(name), "bfloat16", "cpu")
        add("torch bfloat16", half, "torch")
        add("openvino bfloat16", half, "openvino")
    return ways


def report(name: str, backbone: Backbone, batches: list[Batch], threads: int) -> None:
    """Print a line a way."""
    torch.set_num_threads(threads)
    ways = make_ways(name, backbone)
    for number, batch in enumerate(batches):
        for _ in range(ROUNDS):
            for way in ways.values():
                way.time(number, batch)
    first = ways["torch, bare loop"]
    tokens = sum(int(mask.sum()) for _, mask in batches)
    print(
        f"{name}, {threads} thread(s): {tokens / sum(first.cpu.values()):,.0f} tokens/s of processor time by the loop"
    )
    for title, way in ways.items():
        cpu, wall = (sum(a.values()) / sum(b.values()) for a, b in ((first.cpu, way.cpu), (first.wall, way.wall)))
        expected, given = first.forward(batches[0]), way.forward(batches[0])
        real = batches[0][1].bool()
        far = float((expected[real] - given[real].float()).norm() / expected[real].norm())
        target = TARGETS.get((name, title))
        aimed = f"; {verdict(cpu, target)}" if target else ""
        print(f"  {title}: {cpu:.2f} in processor time, {wall:.2f} in wall time, {far:.0e} away{aimed}", flush=True)


def main() -> None:
    """Print all rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data-dir", type=Path, help="a GLUE folder; default: GLUE_DIR")
    parser.add_argument("--models", default=",".join(TEXTS))
    given = parser.parse_args()
    data_dir = glue_folder(given.data_dir)
    if not data_dir.is_dir():
        print(f"engines: left out, for there is no GLUE folder at {data_dir}; name one with GLUE_DIR")
        return
    most = torch.get_num_threads()
    units = "bfloat16 units" if openvino_version() and computes_bfloat16() else "no bfloat16 units that OpenVINO uses"
    print(f"engines: {describe_machine()}; products by {choose_way()}; {units}")
    for name in given.models.split(","):
        backbone = load_backbone(resolve_model(name), "float32", "cpu")
        batches = batches_of(backbone, data_dir, TEXTS[name])
        for threads in sorted({1, most}):
            report(name, backbone, batches, threads)


if __name__ == "__main__":
    main()
