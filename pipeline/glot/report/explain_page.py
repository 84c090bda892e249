"""`glot explain`'s page: one HTML file with its data inside, which needs no network."""

from __future__ import annotations

import html
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from glot.corpus.stress import signal_roles
from glot.errors import UsageError
from glot.inference.attribution import Explanation, Run, TokenPicture, Weighing
from glot.nn.registry import EDGE_RULES, GNN_LAYERS, POOLERS
from glot.report.pieces import Piece, readable_pieces, words_of
from glot.store.files import make_folder, write_text

ONE_LINE = 72  # characters of a text in the page's title


def write_page(explanation: Explanation, out: Path) -> None:
    """Write the page; raises UsageError where `out` cannot be a file, FaultError where it cannot be written."""
    check_out(out)
    make_folder(out.parent)
    write_text(out, render_page(explanation))


def check_out(out: Path) -> None:
    """Refuse a folder as the file to write."""
    if out.is_dir():
        raise UsageError(f"{out} is a folder: name a file with --out")


def render_page(explanation: Explanation) -> str:
    """The page's HTML. Strings of the data reach it as JSON and are put in as text, never as HTML."""
    template = files("glot.report").joinpath("templates", "explain.html").read_text(encoding="utf-8")
    data = json.dumps(page_data(explanation), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # The data first: the title is a text of anybody's, and stands before it.
    page = template.replace("{{data}}", data.replace("<", "\\u003c"), 1)
    return page.replace("{{title}}", html.escape(f"GLOT: {one_line(explanation)}"), 1)


def one_line(explanation: Explanation) -> str:
    """The beginning of the (first) text in one line."""
    text = explanation.pictures[0].text
    pieces = readable_pieces(text.tokens, text.special.tolist())
    words = ["".join(pieces[place].shown for place in word) for word in words_of(pieces) if not text.special[word[0]]]
    line = " ".join(words)
    return line if len(line) <= ONE_LINE else line[: ONE_LINE - 1] + "…"


def page_data(explanation: Explanation) -> dict[str, Any]:
    """What the page is made of, as plain JSON."""
    example, config = explanation.example, explanation.drawn.config
    has_graph = config.pooler.entry.has_graph
    return {
        "facts": _facts(explanation),
        "runs": [
            {
                "folder": str(run.folder),
                "settings": settings(run),
                "answer": prediction.answer,
                "shares": {name: round(share, 4) for name, share in prediction.shares.items()},
            }
            for run, prediction in zip(explanation.runs, explanation.predictions, strict=True)
        ],
        "drawn": explanation.runs.index(explanation.drawn),
        "tau": explanation.tau,
        "tauName": f"τ of {explanation.drawn.folder}" if has_graph else "no run has a graph: τ as drawn",
        "ownGraph": config.pooler.graph if has_graph and config.pooler.graph != "cosine" else "",
        "poolers": [
            {
                "name": pooler_name(weighing, config.states.kind),
                "run": weighing.run,
                "colour": POOLERS[weighing.pooler].colour,
            }
            for weighing in explanation.weighings
        ],
        "texts": [
            _text(picture, [weighing.by_text[place] for weighing in explanation.weighings], is_stress(explanation))
            for place, picture in enumerate(explanation.pictures)
        ],
        "source": example.source,
    }


def pooler_name(weighing: Weighing, kind: str) -> str:
    """A pooler's name for people; `cls` by the token that it takes."""
    entry = POOLERS[weighing.pooler]
    if kind == "encoder":
        return f"{entry.title} (first token)" if entry.takes_one_token else entry.title
    return entry.title_at("last")


def is_stress(explanation: Explanation) -> bool:
    """Whether the example may hold a signal of the stress test."""
    tasks = [explanation.example.task, *(run.config.task.name for run in explanation.runs)]
    return any(task.startswith("stress") for task in tasks)


def settings(run: Run) -> str:
    """What shapes a run's pooler, in words."""
    pooler, states = run.config.pooler, run.config.states
    entry = pooler.entry
    parts = [entry.title]
    if entry.has_graph:
        parts += [EDGE_RULES[pooler.graph].title.format(**pooler.to_json())]
    if "layers" in entry.settings:
        layers = (
            f"{pooler.layers} × {GNN_LAYERS[pooler.gnn].title}"
            if "gnn" in entry.settings
            else f"{pooler.layers} layers"
        )
        parts += [layers, f"h = {pooler.hidden}"]
    parts += [f"jk {pooler.jk}"] if "jk" in entry.settings else []
    parts += ["mean readout"] if "readout" in entry.settings and pooler.readout == "mean" else []
    parts += [f"{pooler.token_position} token"] if entry.takes_one_token else []
    parts += ["content tokens alone"] if pooler.tokens == "content" else []
    return ", ".join([*parts, f"seed {run.config.train.init_seed}", f"task {run.config.task.name}", states.backbone])


def _facts(explanation: Explanation) -> list[list[str]]:
    config = explanation.drawn.config
    states = config.states
    return [
        ["example", explanation.example.source],
        ["prediction", explanation.predictions[0].answer],
        ["label", explanation.example.label or "not known"],
        ["backbone", f"{states.backbone} ({states.kind}), layer {config.layer} of {states.num_layers}"],
    ]


def _text(picture: TokenPicture, weights: list[np.ndarray], stress: bool) -> dict[str, Any]:
    pieces = readable_pieces(picture.text.tokens, picture.text.special.tolist())
    upper = picture.cosines[np.triu_indices(len(pieces), k=1)]
    return {
        "tokens": [
            {"shown": piece.shown, "raw": raw, "glued": piece.glued, "special": special, "seen": seen, "role": role}
            for piece, raw, special, seen, role in zip(
                pieces,
                picture.text.tokens,
                picture.text.special.tolist(),
                picture.seen.tolist(),
                roles(pieces) if stress else [""] * len(pieces),
                strict=True,
            )
        ],
        # The shortest decimals that are these float32 numbers: the page decides edges as the model does.
        "cosines": [float(number) for number in upper.astype(str)],
        "own": None if picture.own_edges is None else picture.own_edges.tolist(),
        "weights": [[float(f"{weight:.6g}") for weight in column] for column in weights],
    }


def roles(pieces: list[Piece]) -> list[str]:
    """What each token is to the signal of a text of the stress test, see `signal_roles`."""
    found, words = [""] * len(pieces), list(words_of(pieces))
    spelled = ["".join(pieces[place].shown for place in word) for word in words]
    for word, role in zip(words, signal_roles(spelled), strict=True):
        for place in word:
            found[place] = role
    return found
