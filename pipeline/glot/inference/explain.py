"""Joins the rooms for `glot explain`: an example from a cache, or new texts through the run's own backbone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from glot.errors import UsageError
from glot.fit.run_folder import check_trained
from glot.inference.run_checks import Run, check_backbone, open_runs
from glot.store.layout import StatesIdentity
from glot.store.reader import Cache
from glot.store.template import join_pair, takes_pair

if TYPE_CHECKING:
    from glot.extract.backbone import Backbone
    from glot.inference.attribution import Example, Explanation, TextStates

MAX_EXAMPLES = 20  # on one page: each brings the cosines of all its pairs


@dataclass(frozen=True)
class ExplainOptions:
    """What the user asked to see explained: `input_text`, or `cache` with `index`; empty or None is what was not said.

    Attributes:
        input_text: texts to be forwarded through the backbone of the runs. input_text_b: of pairs, the second of each.
        model: that backbone, where its name in the run does not find it. device: where it runs.
        trust_remote_code: whether code that the backbone's folder brings along may run.
        cache, index, split: examples of a cache, by their rows in their source; split None: see `Cache.resolve_set`.
        tau: the threshold to draw with first.
    """

    input_text: Sequence[str] = ()
    input_text_b: Sequence[str] = ()
    model: str | None = None
    device: str | None = None
    trust_remote_code: bool | None = None
    cache: Path | None = None
    index: Sequence[int] = ()
    split: str | None = None
    tau: float | None = None
    of: str | None = None


def explain_runs(folders: Sequence[Path], options: ExplainOptions) -> list[Explanation]:
    """Explain each example by one or more runs; transformers is imported for new texts alone.

    Raises UsageError for options that do not go together, runs that do not, an unknown index, or another backbone.
    """
    from glot.inference.attribution import cache_example, check_texts, explain

    runs = check_explainable(folders, options)
    if options.cache is not None:
        cache = Cache(options.cache)
        split = cache.resolve_set(options.split)
        examples = [cache_example(cache, split, index, runs) for index in options.index]
    else:
        check_texts(runs, 2 if options.input_text_b else 1)
        examples = _new_examples(runs, options)
    return [explain(example, runs, options.tau, options.of) for example in examples]


def check_explainable(folders: Sequence[Path], options: ExplainOptions) -> list[Run]:
    """The runs; raises UsageError where options or runs do not go together, or a run, cache or backbone is not there.

    Needs no torch.
    """
    _check_options(options)
    runs = open_runs(folders)
    for run in runs:
        classes = run.config.task.classes
        if options.of is not None and options.of not in classes:
            there = f"has {', '.join(classes)}" if classes else "gives a score: leave --of out"
            raise UsageError(f"--of {options.of}: {run.folder} {there}")
        check_trained(run.folder)
        if options.cache is None:
            check_backbone(run, options.model)
        else:
            cache = Cache(options.cache)
            run.config.check_cache(cache)
            cache.examples_entry(cache.resolve_set(options.split))
    return runs


def _check_options(options: ExplainOptions) -> None:
    if bool(options.input_text) == (options.cache is not None):
        raise UsageError('pass a text with --input-text "...", or --cache with --index')
    if options.cache is not None and not options.index:
        raise UsageError("--cache needs --index: which of its examples to explain")
    of_text, of_cache = ("input_text_b", "model", "device", "trust_remote_code"), ("index", "split")
    for name in of_cache if options.cache is None else of_text:
        if getattr(options, name) not in (None, ()):
            other = "--input-text" if options.cache is None else "--cache"
            raise UsageError(f"--{name.replace('_', '-')} does not go with {other}: leave it out")
    _check_counts(options)


def _check_counts(options: ExplainOptions) -> None:
    firsts, seconds = len(options.input_text), len(options.input_text_b)
    if seconds not in (0, firsts):
        raise UsageError(
            f"there are {firsts} --input-text but {seconds} --input-text-b: pass one of each for each pair"
        )
    asked = max(firsts, len(options.index))
    if asked > MAX_EXAMPLES:
        raise UsageError(f"{asked} examples are too many for one page: pass at most {MAX_EXAMPLES}")


def _new_examples(runs: list[Run], options: ExplainOptions) -> list[Example]:
    from glot.inference.attribution import Example
    from glot.inference.forward import load_run_backbone

    states = runs[0].config.states
    backbone = load_run_backbone(states, runs[0].folder, options.model, options.device, bool(options.trust_remote_code))
    columns = [options.input_text, options.input_text_b] if options.input_text_b else [options.input_text]
    examples = []
    for number, given in enumerate(zip(*columns, strict=True), start=1):
        source = "the text given" if len(given) == 1 else "the texts given"
        source = source if len(options.input_text) == 1 else f"{source}, number {number}"
        texts = [join_pair(*given)] if takes_pair(states.template) else list(given)
        forwarded, cut = forward_each(texts, backbone, states, runs[0].config.layers)
        source += f", cut at {states.max_tokens} tokens" if cut else ""
        examples.append(Example(forwarded, source, "", runs[0].config.task.name))
    return examples


def forward_each(
    texts: list[str], backbone: Backbone, states: StatesIdentity, layers: tuple[int, ...]
) -> tuple[list[TextStates], bool]:
    """The states of each text by itself, rounded as the cache rounds them, and whether any text was cut."""
    import torch

    from glot.extract.forward import quantize
    from glot.extract.planning import clean, tokenize_filled
    from glot.inference.attribution import TextStates

    tokens = tokenize_filled([clean(text) for text in texts], states.template, backbone, states.max_tokens)
    forwarded = []
    for numbers, kinds in zip(tokens.ids, tokens.kinds, strict=True):
        row = torch.tensor([numbers])
        kept = []
        for layer in backbone.hidden_states(row, torch.ones_like(row), layers):
            hidden = layer[0].cpu()  # (n, d)
            if states.dtype == "int8":
                values, scale = quantize(hidden)
                kept.append(values.float() * scale[:, None])
            else:
                kept.append(hidden.to(getattr(torch, states.dtype)).float())
        hidden = torch.cat(kept, dim=1)
        if not bool(hidden.isfinite().all()):
            raise UsageError(f"the states of {backbone.name} for this text do not fit {states.dtype}: shorten the text")
        names = backbone.tokenizer.convert_ids_to_tokens(numbers)
        forwarded.append(TextStates([name or "" for name in names], kinds, hidden))
    return forwarded, bool(tokens.truncated.any())
