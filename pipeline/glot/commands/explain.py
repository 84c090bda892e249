"""`glot explain`: one example as its heads see it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glot.commands.console import BackboneOption, DeviceOption, TrustOption, answer, note_unfinished, tell

if TYPE_CHECKING:
    from glot.inference.attribution import Explanation


PAGES = (".html", ".htm")


def explain(
    run: Annotated[
        list[Path], typer.Option("--run", help="A run's folder; again for more runs over the same layer, to compare.")
    ],
    text: Annotated[str | None, typer.Option(help="A text, forwarded through the run's own backbone.")] = None,
    text_b: Annotated[str | None, typer.Option(help="Of a pair: the second text.")] = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Instead of a text: a cache, and which example with --index.")
    ] = None,
    index: Annotated[int | None, typer.Option(help="The example's row in its source, as in predictions.")] = None,
    split: Annotated[str | None, typer.Option(help="The example set of --index; default: validation.")] = None,
    model: BackboneOption = None,
    trust_remote_code: TrustOption = False,
    tau: Annotated[
        float | None, typer.Option(help="Draw with this threshold first; default: the run's, or 0.6.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The page.")] = Path("explain.html"),
    png: Annotated[bool, typer.Option("--png", help="Also a picture beside the page, with matplotlib.")] = False,
    device: DeviceOption = None,
) -> None:
    """Show one example as its heads see it: the token graph, each pooler's weights, the cosines; one HTML page."""
    from glot.inference.explain import ExplainOptions, check_explainable
    from glot.report.figures import check_drawing
    from glot.store.files import check_output

    check_output(out, PAGES, "--out")
    if png:
        check_drawing(out.with_suffix(".png"))
    options = ExplainOptions(
        text=text,
        text_b=text_b,
        model=model,
        device=device,
        trust_remote_code=trust_remote_code or None,
        cache=cache,
        index=index,
        split=split,
        tau=tau,
    )
    check_explainable(run, options)
    from glot.inference.explain import explain_runs
    from glot.report.explain import draw_explanation, write_page

    explanation = explain_runs(run, options)
    note_unfinished(*run)
    write_page(explanation, out)
    if png:
        draw_explanation(explanation, out.with_suffix(".png"))
    _print(explanation, out)


def _print(explanation: Explanation, out: Path) -> None:
    prediction = explanation.predictions[0].answer
    answer({"page": out, "source": explanation.example.source, "prediction": prediction})
    tell(f"{out}: {explanation.example.source}, prediction {prediction}")
    if explanation.example.label:
        tell(f"label: {explanation.example.label}")
    for picture in explanation.pictures:
        joined, pairs = picture.edges(explanation.tau)
        density = f" ({100 * joined / pairs:.1f} %)" if pairs else ""
        tell(f"{len(picture.text.tokens)} tokens, {joined:,} of {pairs:,} pairs above τ = {explanation.tau:g}{density}")
