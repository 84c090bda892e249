"""`glot explain`: one example as its heads see it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glot.commands.console import BackboneOption, answer, note_unfinished, tell
from glot.commands.machine_options import DeviceOption, TrustOption
from glot.errors import UsageError

if TYPE_CHECKING:
    from glot.inference.attribution import Explanation


PAGES = (".html", ".htm")


def explain(
    run: Annotated[
        list[Path], typer.Option(help="A run's folder; again for more runs over the same layer, to compare.")
    ],
    input_text: Annotated[
        list[str] | None,
        typer.Option(help="A text, forwarded through the run's own backbone; again for more on one page."),
    ] = None,
    input_text_b: Annotated[
        list[str] | None, typer.Option(help="Of a pair: the second text; once for each first one.")
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="Instead of a text: a cache, and which example with --index.")
    ] = None,
    index: Annotated[
        list[int] | None,
        typer.Option(help="The example's row in its source, as in predictions; again for more on one page."),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="The example set of --index; default: validation, else test.")
    ] = None,
    model: BackboneOption = None,
    trust_remote_code: TrustOption = False,
    tau: Annotated[
        float | None, typer.Option(help="Draw with this threshold first; default: the run's, or 0.6.")
    ] = None,
    of: Annotated[str | None, typer.Option(help="Explain this class or label; default: the likeliest.")] = None,
    out: Annotated[Path, typer.Option(help="The page.")] = Path("explain.html"),
    png: Annotated[bool, typer.Option("--png", help="Also a picture beside the page, with matplotlib.")] = False,
    device: DeviceOption = None,
) -> None:
    """Show examples as their heads see them: what pushed the answer, the token graph, the weights; one HTML page."""
    from glot.inference.explain import ExplainOptions, check_explainable
    from glot.report.figures import check_drawing
    from glot.store.files import check_output

    check_output(out, PAGES, "--out")
    if png:
        if len(input_text or index or ()) > 1:
            raise UsageError("--png draws one example: leave it out, or pass one --input-text or --index")
        check_drawing(out.with_suffix(".png"))
    options = ExplainOptions(
        input_text=tuple(input_text or ()),
        input_text_b=tuple(input_text_b or ()),
        model=model,
        device=device,
        trust_remote_code=trust_remote_code or None,
        cache=cache,
        index=tuple(index or ()),
        split=split,
        tau=tau,
        of=of,
    )
    check_explainable(run, options)
    from glot.inference.explain import explain_runs
    from glot.report.explain import draw_explanation, summary, write_page

    explanations = explain_runs(run, options)
    note_unfinished(*run)
    write_page(explanations, out)
    if png:
        draw_explanation(explanations[0], out.with_suffix(".png"))
    answer({"page": out, "examples": [summary(one) for one in explanations]})
    for explanation in explanations:
        _tell(explanation, out)


def _tell(explanation: Explanation, out: Path) -> None:
    tell(f"{out}: {explanation.example.source}, prediction {explanation.predictions[0].in_words}")
    if explanation.example.label:
        tell(f"label: {explanation.example.label}")
    for picture in explanation.pictures:
        joined, pairs = picture.edges(explanation.tau)
        density = f" ({100 * joined / pairs:.1f} %)" if pairs else ""
        tell(f"{len(picture.text.tokens)} tokens, {joined:,} of {pairs:,} pairs above τ = {explanation.tau:g}{density}")
