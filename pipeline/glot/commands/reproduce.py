"""`glot stress` and `glot reproduce`: the paper's evidence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glot.commands.console import LinksOption, ModelOption, answer, floats, notes, numbers, say, tell, words
from glot.commands.machine_options import DeviceOption, TrustOption
from glot.commands.progress import extract_bars
from glot.errors import FaultError, UsageError
from glot.process import stop_flag

if TYPE_CHECKING:
    from glot.reproduce.plan import Agenda

CachesOption = Annotated[Path, typer.Option("--cache", help="Where caches are kept.")]
RunsOption = Annotated[Path, typer.Option("--runs", help="Where runs are kept; finished ones are not repeated.")]
OutOption = Annotated[Path, typer.Option("--out", help="Where tables and figures go.")]


def stress(
    model: ModelOption = "minilm",
    trust_remote_code: TrustOption = False,
    generator: Annotated[
        str, typer.Option(help="published, balanced, paired, or several, as in published,paired.")
    ] = "published",
    ratios: Annotated[str, typer.Option(help="Shares of distractor words.")] = "0.2,0.5,0.8,0.9",
    poolers: Annotated[
        str, typer.Option(help="Methods: cls,mean,max,adapool,glot,glot-loops.")
    ] = "cls,mean,max,adapool,glot",
    seeds: Annotated[str, typer.Option(help="One run a seed.")] = "0",
    converged: Annotated[
        bool, typer.Option("--converged", help="Train to convergence, not for the published 3 epochs.")
    ] = False,
    cache: CachesOption = Path("cache"),
    runs: RunsOption = Path("runs/stress"),
    out: OutOption = Path("results/stress"),
    device: DeviceOption = None,
) -> None:
    """The stress test: is a short signal found among distractors? Makes data, states, heads and a table."""
    from glot.extract.folders import check_source
    from glot.extract.source import resolve_model
    from glot.report.figures import check_extra
    from glot.reproduce.plan import Agenda, stress_steps

    check_extra()
    check_source(resolve_model(model), trust_remote_code)
    steps = stress_steps(
        model, words(generator), floats(ratios, "--ratios"), words(poolers), numbers(seeds, "--seeds"), converged
    )
    _run(Agenda(steps, []), cache, runs, out, trust_remote_code=trust_remote_code, device=device)
    tell((out / "stress.md").read_text(encoding="utf-8"))


def reproduce(
    profile: Annotated[str, typer.Option(help="quick, cpu or paper.")] = "quick",
    recipe: Annotated[
        str, typer.Option(help="Only these, as in table1,ablation-tau; or a .toml file of your own.")
    ] = "",
    data_dir: Annotated[
        Path | None, typer.Option(envvar="GLUE_DIR", help="A folder in the official GLUE download layout.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Start the paper profile, which downloads and runs for long.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    cache: CachesOption = Path("cache"),
    runs: RunsOption = Path("runs/reproduce"),
    out: OutOption = Path("results"),
    links: LinksOption = True,
    device: DeviceOption = None,
) -> None:
    """The main job: redo the paper's evidence on this machine, beside the paper's numbers."""
    from glot.report.figures import check_extra
    from glot.reproduce.plan import describe_agenda, make_agenda

    agenda = make_agenda(profile, data_dir, words(recipe))
    plan = describe_agenda(agenda, cache, runs)
    if dry_run:
        say(plan)
        answer({"plan": plan.splitlines()})
        return
    tell(plan)
    if profile == "paper" and not yes:
        raise UsageError("the paper profile downloads its backbones and runs for long: pass YES=1 (or --yes) to start")
    check_extra()
    _run(agenda, cache, runs, out, data_dir, links, device=device)


def _run(
    agenda: Agenda,
    cache: Path,
    runs: Path,
    out: Path,
    data_dir: Path | None = None,
    links: bool = True,
    trust_remote_code: bool = False,
    device: str | None = None,
) -> None:
    """Run what is not there yet, write the report and say where; raises FaultError where some steps could not run."""
    from glot.reproduce.report import write_report
    from glot.reproduce.run import Watch, run_steps

    with stop_flag() as should_stop, extract_bars(notes, "extract") as (tokens, _):
        watch = Watch(tell, tokens, should_stop)
        failed = run_steps(agenda.steps, cache, runs, data_dir, watch, trust_remote_code, device)
    written = write_report(runs, out, agenda.skipped + failed, links=links)
    for path in written:
        tell(str(path))
    answer({"written": written, "failed": failed})
    if failed:
        raise FaultError(f"{len(failed)} of the planned tasks could not run; the first: {failed[0][0]}: {failed[0][1]}")
