"""`glot explain --png`: the page's graph, weights and cosines as one picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from glot.inference.attribution import Explanation, TokenPicture
from glot.report.explain_page import is_stress, one_line, pooler_name, roles
from glot.report.figures import save_picture
from glot.report.methods import colour_of
from glot.report.pieces import readable_pieces
from glot.store.files import make_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 12.0  # inches
LINE = 118.0  # characters a line of tokens, about
ROW = 5.0  # height of a line, in characters' widths
MAP_INCHES = 6.5
LABELLED = 80  # tokens up to which the heat map's axes are labelled
SIGNAL = "#9c3d78"


def draw_explanation(explanation: Explanation, out: Path) -> None:
    """Draw the picture: for each text its graph, and below it the weights and the heat map."""
    make_folder(out.parent)
    shown = [_Shown(explanation, place) for place in range(len(explanation.pictures))]
    heights = [size for text in shown for size in (text.graph_inches, text.weights_inches, MAP_INCHES)]

    def draw(figure: Figure) -> None:
        figure.suptitle(f"{one_line(explanation)}\n{_subtitle(explanation)}".replace("$", r"\$"), fontsize=10)
        axes = iter(figure.subplots(len(heights), height_ratios=heights))
        for text in shown:
            text.draw_graph(next(axes))
            text.draw_weights(next(axes))
            text.draw_cosines(figure, next(axes))

    save_picture(out, (WIDTH, sum(heights) + 0.7), draw)


def _subtitle(explanation: Explanation) -> str:
    label = f", label {explanation.example.label}" if explanation.example.label else ""
    return f"{explanation.example.source}: prediction {explanation.predictions[0].answer}{label}"


class _Shown:
    """One text's three drawings."""

    def __init__(self, explanation: Explanation, place: int) -> None:
        self.explanation = explanation
        self.picture: TokenPicture = explanation.pictures[place]
        self.weights = [weighing.by_text[place] for weighing in explanation.weighings]
        text = self.picture.text
        self.pieces = readable_pieces(text.tokens, text.special.tolist())
        # A dollar sign would begin mathematics.
        self.words = [piece.shown.replace("$", r"\$") for piece in self.pieces]
        self.roles = roles(self.pieces) if is_stress(explanation) else [""] * len(self.pieces)
        self.places = self._lay_out()  # (n, 2)
        self.graph_inches = 0.5 + (1 - self.places[-1, 1] / ROW) * ROW * WIDTH / LINE
        self.weights_inches = 0.9 + 0.22 * len(self.weights)

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

        edges = self._edges()
        curves = [Curve(self._arc(i, j), [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]) for i, j, _ in edges]
        alpha = float(np.clip(60 / max(1, len(edges)), 0.12, 0.7))
        axes.add_collection(
            PathCollection(curves, facecolors="none", edgecolors="#0072B2", alpha=alpha, linewidths=0.8)
        )
        drawn = self.explanation.runs.index(self.explanation.drawn)  # the runs' weights come first
        size = 160 * self.weights[drawn] / self.weights[drawn].max() + 6
        colour = colour_of(self.explanation.weighings[drawn].pooler)
        axes.scatter(*self.places.T, s=size, color=colour, edgecolors="black", linewidths=0.5, zorder=3)
        for (x, y), word, role in zip(self.places, self.words, self.roles, strict=True):
            look = {"color": SIGNAL, "weight": "bold"} if role and role != "filler" else {}
            axes.text(x, y - 1.1, word, ha="center", va="top", fontsize=8, **look)
        axes.set(xlim=(-1, LINE + 1), ylim=(self.places[-1, 1] - 2.6, 3.4))
        axes.axis("off")
        rule = f"τ = {self.explanation.tau:g}" if self.picture.own_edges is None else "the run's own graph"
        joined = f"{len(edges):,} of {self.picture.edges(-1.0)[1]:,} pairs joined"
        axes.set_title(
            f"{len(self.words)} tokens, {joined} ({rule}); size of a node: its weight", fontsize=9, loc="left"
        )

    def _arc(self, i: int, j: int) -> np.ndarray:
        """(4, 2) control points: an arc above a line, or an S between two."""
        (x1, y1), (x2, y2) = self.places[[i, j]]
        if y1 == y2:
            top = y1 + min(4.2, 0.8 + 0.09 * abs(x2 - x1))
            return np.asarray([(x1, y1), (x1, top), (x2, top), (x2, y2)])
        middle = (y1 + y2) / 2
        return np.asarray([(x1, y1), (x1, middle), (x2, middle), (x2, y2)])

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
