"""`glot serve`: a trained run behind HTTP."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from glot.commands.console import BackboneOption, answer, note_unfinished, tell
from glot.commands.encode import AnyRunOption
from glot.commands.groups import with_groups
from glot.commands.machine_options import MachineOptions


@with_groups
def serve(
    run: AnyRunOption,
    *,
    host: Annotated[
        str, typer.Option(help="Where to listen; 0.0.0.0 for every network that reaches it.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0: any free one, which is printed.")] = 8000,
    max_texts: Annotated[int, typer.Option(min=1, help="Most texts, or pairs, of a request.")] = 256,
    max_characters: Annotated[int, typer.Option(min=1, help="Most characters of a text.")] = 10_000,
    max_waiting: Annotated[
        int, typer.Option(min=1, help="Most texts that wait for their turn; more are sent away with 503.")
    ] = 4096,
    model: BackboneOption = None,
    machine: MachineOptions,
) -> None:
    """A trained run over HTTP: POST /predict and /encode, GET /health; requests that wait are forwarded together.

    Ctrl-C or SIGTERM ends it, with exit code 0, when the requests in hand are answered.
    """
    from glot.extract.options import check_engine
    from glot.serve.options import Limits, address_of, check_packages, check_served, take_address

    check_packages()
    check_engine(machine.engine)
    limits = Limits(max_texts, max_characters, max_waiting)
    folder = check_served(run, model)
    with take_address(host, port) as taken:
        from glot.serve.server import serve_until_stopped
        from glot.serve.service import Service

        service = Service(machine.load(folder, model), run)
        note_unfinished(folder)

        def ready() -> None:
            tell(f"{run} answers at {address_of(taken)} (/predict, /encode, /health; /docs shows how); Ctrl-C ends it")
            answer({"address": address_of(taken), **vars(service.facts)})
            sys.stdout.flush()

        serve_until_stopped(service, limits, taken, ready)
    tell("stopped")
