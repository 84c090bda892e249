"""`glot bench`: measurements on the user's own machine."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from glot.commands.console import answer, note, say, screen, tell
from glot.commands.machine_options import DeviceOption, TrustOption
from glot.errors import UsageError

if TYPE_CHECKING:
    import torch

    from glot.nn.config import PoolerConfig
    from glot.reproduce.costs import CostRecord

app = typer.Typer(help="Measure on this machine.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def bench() -> None:
    """Measure on this machine."""


@app.command()
def cost(
    model: Annotated[str | None, typer.Option(help="A backbone, as in `glot extract`.")] = None,
    random_init: Annotated[
        str | None, typer.Option(help="Instead: mistral-7b, bert or roberta in shape, with random weights and texts.")
    ] = None,
    task: Annotated[str, typer.Option(help="The examples, as in `glot extract`.")] = "mrpc",
    data_dir: Annotated[Path | None, typer.Option(help="A GLUE folder; default: GLUE_DIR, else the hub.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Examples a step.")] = 32,
    steps: Annotated[int, typer.Option(min=2, help="Steps of each way that are timed; the first warms up.")] = 6,
    mean_tokens: Annotated[int, typer.Option(min=3, help="Of --random-init: mean length of a text.")] = 128,
    hidden: Annotated[int, typer.Option(min=1, help="h of GLOT.")] = 128,
    tau: Annotated[float, typer.Option(help="The threshold of GLOT.")] = 0.6,
    trust_remote_code: TrustOption = False,
    device: DeviceOption = None,
    out: Annotated[Path | None, typer.Option(help="Also write the numbers to this JSON file.")] = None,
) -> None:
    """Full fine-tuning, LoRA, a frozen backbone in every step, and GLOT over a cache: parameters, memory, time."""
    from glot.extract.source import resolve_model
    from glot.nn.config import PoolerConfig
    from glot.registry.tasks import find_task
    from glot.store.files import check_output, write_json

    if (model is None) == (random_init is None):
        raise UsageError("pass --model, or --random-init with the name of a model's shape")
    if out is not None:
        check_output(out, (".json",), "--out")
    config = PoolerConfig(gnn_layers=2, hidden=hidden, tau=tau)
    if model is not None:
        resolve_model(model)
        find_task(task)
    from glot.fit.run import check_device
    from glot.reproduce.cost import measure_task

    place = check_device(device)
    if model is not None:
        record = measure_task(model, task, data_dir, batch_size, steps, config, place, trust_remote_code)
    else:
        assert random_init is not None  # checked above
        record = _measure_random(random_init, mean_tokens, batch_size, steps, config, place)
    _print_costs(record, str(place))
    if out is not None:
        write_json(out, asdict(record))
        tell(f"written: {out}")
    answer({"name": record.model, "device": str(place), "examples": record.examples, "ways": record.costs})


def _measure_random(
    name: str, mean: int, batch_size: int, steps: int, config: PoolerConfig, device: torch.device
) -> CostRecord:
    import torch

    from glot.reproduce.cost import make_record, measure_cost, random_model, random_work

    model = random_model(name, torch.bfloat16 if device.type == "cuda" else torch.float32)
    work = random_work(model.config.vocab_size, mean, batch_size, steps, examples=3668)
    # On a GPU a large model leaves no room for its copies, and nobody else's work for which ways would take turns.
    costs = measure_cost(model, work, config, device, alone=device.type == "cuda")
    return make_record(f"{name}, random weights", "random texts", work, costs, device)


def _print_costs(record: CostRecord, device: str) -> None:
    from glot.reproduce.cost import PUBLISHED, ways_left_out

    ours = record.costs[-1]
    title = f"{record.model} on {device}, {record.examples:,} examples, batch {record.batch_size}"
    table = Table(title=title, title_justify="left")
    for heading in ("way", "trained", "GiB", "step, ms", f"{record.epochs} epochs", "/ GLOT", "pays after"):
        table.add_column(heading, no_wrap=True, justify="left" if heading == "way" else "right")
    for cost in record.costs:
        epochs = record.pays_after(cost)
        table.add_row(
            cost.name,
            f"{cost.parameters / 1e6:,.2f} M",
            f"{cost.bytes / 2**30:,.2f}",
            f"{1e3 * cost.step:,.1f}",
            f"{cost.training:,.0f} s",
            f"{cost.step / ours.step:,.1f}",
            "" if epochs is None else f"{epochs:.2f} ep.",
        )
    screen.print(table)
    say("GiB: tensors at the peak of a step; / GLOT: a step over GLOT's;")
    say("pays after: the epochs, of any heads, in which the other way takes as much longer as extraction takes")
    say(f"extraction is {ours.before:,.1f} s of GLOT's {ours.training:,.1f} s; it serves every head that follows")
    say(PUBLISHED)
    for name in ways_left_out(record.costs):
        lacks_peft = name == "LoRA" and importlib.util.find_spec("peft") is None
        note(f"{name} is left out: " + ("pip install 'glot-pipeline[bench]'" if lacks_peft else f"no room on {device}"))
