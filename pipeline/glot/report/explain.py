"""What `glot explain` shows: one HTML page that needs no network, its data inside, and an example as a picture."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glot.corpus.stress import signal_roles
from glot.errors import UsageError
from glot.fit.run_folder import RunConfig
from glot.inference.attribution import Explanation, TextStates, TokenPicture, Weighing
from glot.inference.run_checks import Run
from glot.nn.registry import EDGE_RULES, GNN_LAYERS, POOLERS
from glot.report.figures import save_picture
from glot.report.pieces import Piece, readable_pieces, words_of
from glot.store.files import make_folder, write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ONE_LINE = 72  # characters of a text in the page's title
WIDTH = 12.0  # inches
LINE = 92.0  # characters a line of tokens, about
ROW = 6.0  # height of a line, in characters' widths
WORD = 2.7  # from a node to below its word
MOST_EDGES = 40  # that are drawn of a text: the strongest
MOST_PUSHES = 4  # tokens that the picture names for the answer, and as many against it
LABELLED = 80  # tokens up to which the heat map's axes are labelled
SIGNAL = "#9c3d78"


def write_page(explanations: Sequence[Explanation], out: Path) -> None:
    """Write the page; raises UsageError where `out` cannot be a file, FaultError where it cannot be written."""
    if out.is_dir():
        raise UsageError(f"{out} is a folder: name a file with --out")
    make_folder(out.parent)
    write_text(out, render_page(explanations))


def render_page(explanations: Sequence[Explanation]) -> str:
    """The page's HTML. Strings of the data reach it as JSON and are put in as text, never as HTML."""
    template = files("glot.report").joinpath("templates", "explain.html").read_text(encoding="utf-8")
    data = json.dumps(page_data(explanations), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # The data first: the title is a text of anybody's, and stands before it.
    page = template.replace("{{data}}", data.replace("<", "\\u003c"), 1)
    more = f" and {len(explanations) - 1} more" if len(explanations) > 1 else ""
    return page.replace("{{title}}", html.escape(f"GLOT: {one_line(explanations[0])}{more}"), 1)


def one_line(explanation: Explanation) -> str:
    """The beginning of the (first) text in one line."""
    text = explanation.pictures[0].text
    pieces = pieces_of(text)
    words = ["".join(pieces[place].shown for place in word) for word in words_of(pieces) if not text.special[word[0]]]
    line = " ".join(words)
    return line if len(line) <= ONE_LINE else line[: ONE_LINE - 1].rsplit(" ", 1)[0] + "…"


def pieces_of(text: TextStates) -> list[Piece]:
    """A text's tokens as people read them."""
    return readable_pieces(text.tokens, text.special.tolist())


def page_data(explanations: Sequence[Explanation]) -> dict[str, Any]:
    """What the page is made of, as plain JSON; all explanations are by the same runs."""
    first = explanations[0]
    config = first.drawn.config
    has_graph = config.pooler.entry.has_graph
    return {
        "facts": _facts(first),
        "runs": [{"folder": str(run.folder), "settings": settings(run)} for run in first.runs],
        "drawn": first.runs.index(first.drawn),
        "tau": first.tau,
        "tauName": f"τ of {first.drawn.folder}" if has_graph else "no run has a graph: τ as drawn",
        "ownGraph": config.pooler.graph if has_graph and config.pooler.graph != "cosine" else "",
        "poolers": [
            {
                "name": pooler_name(weighing, config.states.kind),
                "run": weighing.run,
                "colour": POOLERS[weighing.pooler].colour,
            }
            for weighing in first.weighings
        ],
        "examples": [_example(explanation) for explanation in explanations],
    }


def _example(explanation: Explanation) -> dict[str, Any]:
    return {
        "source": explanation.example.source,
        "label": explanation.example.label,
        "line": one_line(explanation),
        "answers": [
            {
                "answer": one.answer,
                "of": one.of,
                "given": list(one.given),
                "shares": {name: round(share, 4) for name, share in one.shares.items()},
                "each_by_itself": run.config.task.target == "labels",
            }
            for run, one in zip(explanation.runs, explanation.predictions, strict=True)
        ],
        "texts": [_text(explanation, place) for place in range(len(explanation.pictures))],
    }


def summary(explanation: Explanation) -> dict[str, Any]:
    """What `--json` says of an example: its tokens, and of each run the answer, and weights and effects by text."""
    count = len(explanation.pictures)
    return {
        "source": explanation.example.source,
        "label": explanation.example.label or None,
        "prediction": explanation.predictions[0].answer,
        "tokens": [picture.text.tokens for picture in explanation.pictures],
        "runs": [
            {
                "run": str(run.folder),
                "prediction": one.answer,
                "of": one.of or None,
                "probabilities": one.shares,
                "weights": [weighing.by_text[place].tolist() for place in range(count)],
                "effects": [lost.tolist() for lost in one.effects],
            }
            for run, one, weighing in zip(
                explanation.runs, explanation.predictions, explanation.weighings, strict=False
            )
        ],
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
    if "gnn_layers" in entry.settings:
        layers = (
            f"{pooler.gnn_layers} × {GNN_LAYERS[pooler.gnn].title}"
            if "gnn" in entry.settings
            else f"{pooler.gnn_layers} layers"
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
        ["backbone", f"{states.backbone} ({states.kind}), {_layers(config)} of {states.num_layers}"],
        *_shares(explanation),
    ]


def _layers(config: RunConfig) -> str:
    if not config.pooler.mixed_layers:
        return f"layer {config.layer}"
    return f"a mix of layers {', '.join(map(str, config.layers))}"


def _shares(explanation: Explanation) -> list[list[str]]:
    """What each layer counts in the drawn run's mix, where it has one."""
    shares = explanation.layer_shares[explanation.runs.index(explanation.drawn)]
    said = ", ".join(f"layer {layer}: {100 * share:.0f} %" for layer, share in shares.items())
    return [["mix", said]] if said else []


def _text(explanation: Explanation, place: int) -> dict[str, Any]:
    picture, stress = explanation.pictures[place], is_stress(explanation)
    pieces = pieces_of(picture.text)
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
        "weights": [_short(weighing.by_text[place]) for weighing in explanation.weighings],
        "effects": [_short(one.effects[place]) for one in explanation.predictions if one.effects],
    }


def _short(numbers: np.ndarray) -> list[float]:
    return [float(f"{number:.6g}") for number in numbers]


def roles(pieces: list[Piece]) -> list[str]:
    """What each token is to the signal of a text of the stress test, see `signal_roles`."""
    found, words = [""] * len(pieces), list(words_of(pieces))
    spelled = ["".join(pieces[place].shown for place in word) for word in words]
    for word, role in zip(words, signal_roles(spelled), strict=True):
        for place in word:
            found[place] = role
    return found


def draw_explanation(explanation: Explanation, out: Path) -> None:
    """Draw the picture: for each text its graph, and below it the weights and the heat map."""
    make_folder(out.parent)
    shown = [_Shown(explanation, place) for place in range(len(explanation.pictures))]
    heights = [size for text in shown for size in (text.graph_inches, text.weights_inches, text.map_inches)]

    def draw(figure: Figure) -> None:
        figure.suptitle(f"{one_line(explanation)}\n{_subtitle(explanation)}".replace("$", r"\$"), fontsize=10)
        axes = iter(figure.subplots(len(heights), height_ratios=heights))
        for text in shown:
            text.draw_graph(next(axes))
            text.draw_weights(next(axes))
            text.draw_cosines(figure, next(axes))

    save_picture(out, (WIDTH, sum(heights) + 0.7), draw)


def _subtitle(explanation: Explanation) -> str:
    label = explanation.example.label
    labelled = f", label {label}" if label else ""
    said = f"prediction {explanation.predictions[0].in_words}"
    return f"{explanation.example.source}: {said}{labelled}\n{_pushes(explanation)}"


def _pushes(explanation: Explanation) -> str:
    """The tokens without which the first run's answer loses or gains most, with what it loses or gains."""
    answer = explanation.predictions[0]
    named = sorted(
        (effect, piece.shown)
        for picture, effects in zip(explanation.pictures, answer.effects, strict=False)  # long texts have no effects
        for piece, effect in zip(pieces_of(picture.text), effects.tolist(), strict=True)
    )
    parts = []
    for name, some in (("towards it", named[::-1]), ("against it", [(-effect, word) for effect, word in named])):
        pushing = [(effect, word) for effect, word in some[:MOST_PUSHES] if effect > 0]
        words = ",  ".join(
            f"{word} {100 * effect:.1f}" if answer.shares else f"{word} {effect:.2g}" for effect, word in pushing
        )
        parts += [f"{name}: {words}"] if words else []
    return ";  ".join(parts)


class _Shown:
    """One text's three drawings."""

    def __init__(self, explanation: Explanation, place: int) -> None:
        self.explanation = explanation
        self.picture: TokenPicture = explanation.pictures[place]
        self.weights = [weighing.by_text[place] for weighing in explanation.weighings]
        self.pieces = pieces_of(self.picture.text)
        # A dollar sign would begin mathematics.
        self.words = [piece.shown.replace("$", r"\$") for piece in self.pieces]
        self.roles = roles(self.pieces) if is_stress(explanation) else [""] * len(self.pieces)
        self.places = self._lay_out()  # (n, 2)
        self.graph_inches = 0.5 + (1 - self.places[-1, 1] / ROW) * ROW * WIDTH / LINE
        self.weights_inches = 0.9 + 0.22 * len(self.weights)
        self.map_inches = float(np.clip(1.6 + 0.22 * len(self.words), 3.0, 7.5))

    def _lay_out(self) -> np.ndarray:
        """(n, 2) places of the tokens in reading order, in lines from the top."""
        places, x, y = [], 0.0, 0.0
        for piece in self.pieces:
            width = max(2.2, 1.05 * len(piece.shown)) + (0 if piece.glued else 1)
            if x + width > LINE and x:
                x, y = 0.0, y - ROW
            places.append((x + width / 2, y))
            x += width
        return np.asarray(places)

    def _edges(self) -> list[tuple[int, int, float]]:
        """(i, j, cosine) of the joined tokens."""
        picture, tau = self.picture, self.explanation.tau
        pairs = picture.own_edges
        if pairs is None:
            upper = np.triu(picture.seen[:, None] & picture.seen, k=1)
            joined = upper & (picture.cosines > np.float32(tau)) & (tau < 1)
            pairs = np.argwhere(joined)
        return [(int(i), int(j), float(picture.cosines[i, j])) for i, j in pairs]

    def draw_graph(self, axes: Axes) -> None:
        """Tokens as words under their nodes, edges as arcs."""
        from matplotlib.collections import PathCollection
        from matplotlib.path import Path as Curve
        from matplotlib.patheffects import withStroke

        edges = self._edges()
        drawn_edges = sorted(edges, key=lambda edge: -edge[2])[:MOST_EDGES]
        curves = [
            Curve(self._arc(i, j), [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]) for i, j, _ in drawn_edges
        ]
        axes.add_collection(PathCollection(curves, facecolors="none", edgecolors="#0072B2", alpha=0.55, linewidths=0.9))
        drawn = self.explanation.runs.index(self.explanation.drawn)  # the runs' weights come first
        size = 160 * self.weights[drawn] / self.weights[drawn].max() + 6
        colour = POOLERS[self.explanation.weighings[drawn].pooler].colour
        across, up = self.places.T
        axes.scatter(across, up, s=size, color=colour, edgecolors="black", linewidths=0.5, zorder=3)
        for (x, y), word, role in zip(self.places, self.words, self.roles, strict=True):
            look: dict[str, Any] = {"color": SIGNAL, "weight": "bold"} if role and role != "filler" else {}
            halo = [withStroke(linewidth=3, foreground="white")]
            axes.text(x, y - 1.0, word, ha="center", va="top", fontsize=10, path_effects=halo, **look)
        axes.set(xlim=(-1, LINE + 1), ylim=(self.places[-1, 1] - 2.6, 4.4))
        axes.axis("off")
        rule = f"τ = {self.explanation.tau:g}" if self.picture.own_edges is None else "the run's own graph"
        joined = f"{len(edges):,} of {self.picture.edges(-1.0)[1]:,} pairs joined"
        joined += f", the {MOST_EDGES} strongest drawn" if len(edges) > MOST_EDGES else ""
        axes.set_title(
            f"{len(self.words)} tokens, {joined} ({rule}); size of a node: its weight", fontsize=9, loc="left"
        )

    def _arc(self, i: int, j: int) -> np.ndarray:
        """(4, 2) control points: an arc above a line, or an S from below a word to a node of a later line."""
        (x1, y1), (x2, y2) = self.places[[i, j]]
        if y1 == y2:
            top = y1 + min(4.2, 1.6 + 0.06 * (x2 - x1))
            return np.asarray([(x1, y1), (x1, top), (x2, top), (x2, y2)])
        y1 -= WORD
        return np.asarray([(x1, y1), (x1, (y1 + y2) / 2), (x2, (y1 + y2) / 2), (x2, y2)])

    def draw_weights(self, axes: Axes) -> None:
        """A line of shaded tokens for each pooler, shaded as on the page: by the weight over the uniform one."""
        kind, count = self.explanation.drawn.config.states.kind, len(self.words)
        matrix = np.stack(self.weights)  # (poolers, n)
        shade = np.sqrt(np.minimum(1, matrix * count / min(8, count)))
        axes.imshow(shade, cmap="Greys", vmin=0, vmax=1.25, aspect="auto", interpolation="nearest")
        names = [pooler_name(weighing, kind) for weighing in self.explanation.weighings]
        axes.set_yticks(range(len(names)), names, fontsize=8)
        self._label(axes, "x", 140)
        for (row, place), weight in np.ndenumerate(matrix):
            if weight * count >= 2 and count <= LABELLED:
                ink = "white" if shade[row, place] > 0.6 else "black"
                axes.text(place, row, f"{100 * weight:.0f}", ha="center", va="center", fontsize=6, color=ink)
        axes.set_title("weights: dark is 8 times the uniform one; numbers in %", fontsize=9, loc="left")

    def draw_cosines(self, figure: Figure, axes: Axes) -> None:
        """The heat map."""
        image = axes.imshow(self.picture.cosines, cmap="cividis", vmax=1.0, interpolation="nearest")
        axes.set_anchor("W")
        bar = figure.colorbar(image, cax=axes.inset_axes((1.04, 0, 0.03, 1)))
        bar.ax.axhline(self.explanation.tau, color="#D55E00", linewidth=2)
        bar.ax.tick_params(labelsize=7)
        axes.tick_params(labelsize=7)
        for axis in "xy":
            self._label(axes, axis)
        axes.set_title("cosines of all pairs; the mark is τ", fontsize=9, loc="left")

    def _label(self, axes: Axes, axis: str, most: int = LABELLED) -> None:
        count = len(self.words)
        if count > most:
            return
        size = {"fontsize": 7 if count <= most / 2 else 5}
        rotation = {"rotation": 90} if axis == "x" else {}
        getattr(axes, f"set_{axis}ticks")(range(count), self.words, **size, **rotation)
        for label, role in zip(getattr(axes, f"get_{axis}ticklabels")(), self.roles, strict=True):
            if role and role != "filler":
                label.set(color=SIGNAL, weight="bold")
