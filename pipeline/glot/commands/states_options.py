"""The options that say how states are made and kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from glot.commands.console import ShardOption, numbers
from glot.commands.machine_options import MachineOptions
from glot.errors import UsageError

if TYPE_CHECKING:
    from glot.corpus.request import CorpusRequest
    from glot.extract.options import ExtractOptions


@dataclass(frozen=True)
class StatesOptions:
    """How states are made and kept, see `ExtractOptions`."""

    prompt: Annotated[
        str | None,
        typer.Option(
            help="What stands around each text, as in 'Classify: {text}'; with {text_b} around both texts of a pair, "
            "as one text. Another prompt is another cache."
        ),
    ] = None
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Cut longer texts; default: 128, imdb 512, or the model's limit.")
    ] = None
    layers: Annotated[str, typer.Option(help="Layers to keep, 0 to n or all; -1 is after the final norm.")] = "-1"
    dtype: Annotated[
        str,
        typer.Option(
            help="States as float16, bfloat16, float32 or int8; auto: as in the cache that is there, else int8 for "
            "several layers, else 16 bits."
        ),
    ] = "auto"
    compute_dtype: Annotated[
        str,
        typer.Option(help="The model's arithmetic; auto: the checkpoint's own; bfloat16 changed no score measurably."),
    ] = "auto"
    token_budget: Annotated[int | None, typer.Option(min=1, help="Padded tokens a forward; default by device.")] = None
    shard_mb: ShardOption = 1024
    order_seed: Annotated[int, typer.Option(min=0, help="Seed of the examples' order in a new cache.")] = 0
    no_texts: Annotated[bool, typer.Option("--no-texts", help="Leave the texts themselves out of the cache.")] = False
    on_overflow: Annotated[
        str, typer.Option(help="States beyond float16: stop, or float32-shard, which keeps that shard in float32.")
    ] = "stop"
    device_map: Annotated[
        str | None, typer.Option(help="auto: spread a model larger than one device over all, memory and disk.")
    ] = None
    part: Annotated[
        str | None, typer.Option(help="One job of an array, as in 3/8: makes its share of the shards and ends.")
    ] = None
    plan: Annotated[bool, typer.Option("--plan", help="Make the plan and the example sets, and no states.")] = False

    def options(self, request: CorpusRequest, machine: MachineOptions) -> ExtractOptions:
        """What is asked of the extraction of a corpus; raises UsageError for words that are no numbers."""
        from glot.corpus.request import default_max_tokens, request_digest
        from glot.extract.options import ExtractOptions
        from glot.store.template import TEXT

        return ExtractOptions(
            max_tokens=self.max_tokens,
            usual_tokens=default_max_tokens(request),
            template=TEXT if self.prompt is None else self.prompt,
            layers=None if self.layers == "all" else numbers(self.layers, "--layers"),
            dtype=self.dtype,
            compute_dtype=self.compute_dtype,
            token_budget=self.token_budget,
            shard_bytes=self.shard_mb * 2**20,
            order_seed=self.order_seed,
            keep_texts=not self.no_texts,
            device=machine.device,
            device_map=self.device_map,
            trust_remote_code=machine.trust_remote_code,
            engine=machine.engine,
            on_overflow=self.on_overflow,
            part=_part(self.part),
            plan_only=self.plan,
            request=request_digest(request),
        )


def _part(value: str | None) -> tuple[int, int] | None:
    """(2, 8) from "3/8"."""
    if value is None:
        return None
    index, _, count = value.partition("/")
    if not (index.isdigit() and count.isdigit() and 1 <= int(index) <= int(count)):
        raise UsageError(f"--part takes a job's number and how many there are, as in 3/8; got {value!r}")
    return int(index) - 1, int(count)
