"""One style for all figures: 1000 units wide, lines named where they end, colours that all eyes tell apart."""

from collections.abc import Callable, Mapping
from functools import wraps
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from gan.lab.experiment import Result

if TYPE_CHECKING:  # matplotlib takes a second to load: only who draws pays
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe & Ito's colours for all kinds of vision, without the yellow and a shade darker, for letters on white.
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK = COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#B0569B",
    "#D08700",
    "#4AA5DD",
    "#222222",
)
INK, FAINT, GRID = "#222222", "#666666", "#E4E4E4"

STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlepad": 10,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "figure.facecolor": "white",
    "image.cmap": "cividis",
    "svg.hashsalt": "gan",  # the same file for the same data
}


def styled(draw: Callable[[Result], "Figure"]) -> Callable[[Result], "Figure"]:
    """Makes a function that draws a figure do it in the common style."""

    @wraps(draw)
    def drawn(result: Result) -> "Figure":
        from matplotlib import rc_context

        with rc_context(STYLE):
            return draw(result)

    return drawn


def panels(rows: int = 1, columns: int = 1, height: float = 4.2, **options: Any) -> tuple["Figure", np.ndarray]:
    """A figure 10 inches wide, and its axes: an array (rows, columns), without the dimensions that are 1.

    Args:
        rows: Of panels.
        columns: Of panels.
        height: In inches.
        options: Those of `Figure.subplots`, such as `sharey=True`.
    """
    figure = sheet(height)
    return figure, figure.subplots(rows, columns, **options)


def sheet(height: float) -> "Figure":
    """A figure 10 inches wide and empty: for panels of unlike sizes, take `subfigures` of it."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    return Figure(figsize=(10, height), layout=ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1))


def label_lines(axes: "Axes", size: float = 9) -> None:
    """Writes the label of each line where it ends, in its colour, instead of a legend; call it last.

    Lines that reach the right edge are named beyond it, one below the other; others beside their last point.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # lays out, so that heights are known
    to_fraction = axes.transData + axes.transAxes.inverted()
    at_edge = []
    for line in axes.get_lines():
        label = str(line.get_label())
        if label.startswith("_"):
            continue
        points = to_fraction.transform(np.column_stack([line.get_xdata(), line.get_ydata()]).astype(float))
        points = points[np.isfinite(points).all(1) & (points[:, 0] > -1e-6) & (points[:, 0] < 1 + 1e-6)]
        if not len(points):
            continue
        x, y = points[-1]
        if x > 0.9:
            # Of lines that have left below, the first to leave is the lowest; above, the highest.
            inside = points[(points[:, 1] > 0) & (points[:, 1] < 1), 0].max(initial=0)
            at_edge.append((min(max(y, 0.0), 1.0), inside if y <= 0 else -inside, label, line.get_color()))
        else:
            axes.annotate(label, (x, min(max(y, 0.0), 1.0)), xycoords="axes fraction", xytext=(5, 0),
                          textcoords="offset points", va="center", color=line.get_color(), size=size)  # fmt: skip
    gap = 1.3 * size / 72 / (axes.get_window_extent().height / figure.dpi)
    at_edge.sort(key=itemgetter(0, 1))
    for y, (end, _, label, colour) in zip(spread([end for end, *_ in at_edge], gap), at_edge, strict=True):
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "alpha": 0.6, "shrinkA": 1, "shrinkB": 1}
        axes.annotate(label, (1, end), (1.035, y), xycoords="axes fraction", textcoords="axes fraction",
                      va="center", color=colour, size=size, arrowprops=leader | {"relpos": (0, 0.5)})  # fmt: skip


def spread(places: list[float], gap: float) -> list[float]:
    """Places from 0 to 1 in ascending order, moved as little as it takes to be `gap` apart."""
    blocks: list[list[float]] = []  # of neighbours that touch: the sum of where each would put the first, their number
    for place in places:
        blocks.append([place, 1])
        while len(blocks) > 1 and blocks[-2][0] / blocks[-2][1] + blocks[-2][1] * gap > blocks[-1][0] / blocks[-1][1]:
            total, members = blocks.pop()
            blocks[-1][0] += total - members * blocks[-1][1] * gap
            blocks[-1][1] += members
    moved = [total / members + place * gap for total, members in blocks for place in range(int(members))]
    moved = [min(place, 1 - gap * rest) for rest, place in zip(reversed(range(len(moved))), moved, strict=True)]
    return [max(place, gap * rest) for rest, place in enumerate(moved)]


def key(where: "Figure | Axes", colours: Mapping[str, str], corner: str = "upper left") -> None:
    """Names of colours: in a row above all panels of a figure where they mean the same in each, or in one's corner."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], color=colour, label=name, linewidth=2.5) for name, colour in colours.items()]
    place: dict[str, Any] = {"loc": corner, "fontsize": 9}
    if isinstance(where, Figure):
        place = {"loc": "outside upper left", "ncols": len(handles), "columnspacing": 1.8}
    where.legend(handles=handles, **place, handlelength=1.2)
