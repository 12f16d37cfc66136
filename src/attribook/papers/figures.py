"""Figures: functions that draw on an Axes and return it, one style, and the way into the book.

Conventions: attribution maps are signed, red for and blue against the score, white at zero;
colours are told apart by colour-blind readers and in grey; a figure is a white card on any page.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count, pairwise

import matplotlib as mpl
import numpy as np
import torch
from cycler import cycler
from IPython import get_ipython
from IPython.display import display
from jaxtyping import Bool, Float, Real
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from PIL import Image
from scipy.optimize import isotonic_regression
from torch import Tensor

from attribook.papers.data import GREY, PIXEL_SCALE, Box

Array = np.ndarray | Tensor
Numbers = Sequence[float | int]
Spread = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]

# Okabe and Ito's colours, darkest contrasts first; the yellow is left out: too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
# Lines differ in grey, too.
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
SIGNED = mpl.colormaps["RdBu_r"].resampled(33)  # odd: zero is white; few: noisy maps stay light
PALE = mpl.colors.LinearSegmentedColormap.from_list("pale", ["#FFFFFF", "#C9C9C9"])  # under lines
ROUNDING = 1e-12  # curves of double precision end here: below, each processor has its own digits
ROUNDED = f"What is below {ROUNDING:g} is rounding, drawn there."  # for such a curve's caption
PERCENTILE = 99.5  # of |attribution|: a few extreme pixels do not wash out the map
DPI = 144
MAP_DPI = 100  # noise does not compress well: grids of maps stay light
TEXT, SMALL_TEXT = 9, 8  # points
FLOW_WIDTH = 7.0  # points, of an edge of weight 1
LANE_WIDTH = 0.03  # between paths over one stretch, as a share of the box
NUMBER = {  # of a leg: in a white disc on it
    "ha": "center",
    "va": "center",
    "fontsize": SMALL_TEXT,
    "bbox": {"boxstyle": "circle,pad=0.02", "facecolor": "white", "edgecolor": "none"},
}
SEGMENT = {"height": 0.72, "linewidth": 0.8, "zorder": 2}
READABLE = 0.45  # the share from which a segment bears its variable's name
MIDDLE = np.array([0.503, 0.498])  # a little beside it: a line through the middle has a side, too
STYLE = {
    "savefig.dpi": "figure",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": TEXT,
    "axes.titlesize": TEXT,
    "axes.labelsize": TEXT,
    "legend.fontsize": SMALL_TEXT,
    "xtick.labelsize": SMALL_TEXT,
    "ytick.labelsize": SMALL_TEXT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.edgecolor": "none",
    "lines.linewidth": 1.6,
    "axes.prop_cycle": cycler(color=COLOURS, linestyle=LINES),
}


@contextmanager
def style() -> Iterator[None]:
    """The house style for the figures made inside the `with` block."""
    with mpl.rc_context(STYLE):
        yield


def subplots(
    rows: int = 1,
    columns: int = 1,
    *,
    size: tuple[float, float] = (4.0, 3.0),
    share: bool = False,
    dpi: int = DPI,
) -> tuple[Figure, np.ndarray]:
    """A figure in house style and its Axes, always an array (rows, columns); `size` is one panel's.

    Nothing global changes: the style enters as the Axes are made and as the figure is presented.
    """
    with style():
        return plt.subplots(
            rows,
            columns,
            figsize=(size[0] * columns, size[1] * rows),
            dpi=dpi,
            squeeze=False,
            sharex=share,
            sharey=share,
        )


def attribution_map(
    ax: Axes,
    attribution: Float[Array, "*channels height width"],
    *,
    limit: float | None = None,
    title: str | None = None,
    colourbar: bool = True,
    unit: str | None = None,
) -> Axes:
    """The Axes with one signed map: red raises the score, blue lowers it, white is zero.

    Channels are added up. `limit` is the value of full colour, for maps that share their unit; by
    default the 99.5th percentile of this map's |attribution|, and beyond it the colour stays full.
    `unit` labels the colour bar.
    """
    values = _array(attribution)
    if values.ndim == 3:
        values = values.sum(0)
    if values.ndim != 2:
        raise ValueError(f"one map at a time, (height, width) or with channels; got {values.shape}")
    _finite(values, "an attribution map")
    limit = symmetric_limit(values) if limit is None else limit
    drawn = ax.imshow(values, SIGNED, vmin=-limit, vmax=limit, interpolation="nearest")
    if colourbar:
        _colourbar(ax, drawn, limit, unit)
    return _bare(ax, title)


def symmetric_limit(*maps: Array) -> float:
    """The value of full colour for maps that share a scale: 99.5 % of all pixels lie within it.

    Where so few pixels differ from zero that this is zero, the largest |attribution|; then 1.
    """
    size = np.concatenate([np.abs(_array(m)).ravel() for m in maps])
    _finite(size, "an attribution map")
    return float(np.percentile(size, PERCENTILE) or size.max() or 1.0)


def photo(
    ax: Axes,
    image: Float[Array, "channels height width"],
    *,
    boxes: Sequence[Box] = (),
    title: str | None = None,
) -> Axes:
    """The Axes with a photo given as (pixel - 127) / 128, and boxes around its subjects."""
    pixels = _array(image).transpose(1, 2, 0) * PIXEL_SCALE + GREY
    ax.imshow(pixels.round().clip(0, 255).astype(np.uint8))
    outline(ax, boxes)
    return _bare(ax, title)


def digit(
    ax: Axes,
    image: Float[Array, "1 height width"],
    *,
    boxes: Sequence[Box] = (),
    title: str | None = None,
) -> Axes:
    """The Axes with a digit (or a garment) as dark ink on white, and boxes around parts of it.

    Values outside [0, 1] are cut off.
    """
    ax.imshow(_array(image)[0], "gray_r", vmin=0, vmax=1, interpolation="nearest")
    outline(ax, boxes)
    return _bare(ax, title)


def outline(ax: Axes, boxes: Sequence[Box]) -> Axes:
    """The Axes with boxes (left, top, right, bottom in pixels), black on white to show on both."""
    for left, top, right, bottom in boxes:
        for colour, width in (("white", 2.6), ("black", 1.2)):
            # imshow puts the centre, not the corner, of a pixel on whole numbers
            corner, size = (left - 0.5, top - 0.5), (right - left, bottom - top)
            ax.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=width))
    return ax


def middle_half(samples: Real[np.ndarray, "samples points"]) -> tuple[np.ndarray, np.ndarray]:
    """The lower and the upper quartile of the samples at each point."""
    low, high = np.percentile(samples, (25, 75), axis=0)
    return low, high


def standard_error(samples: Real[np.ndarray, "samples points"]) -> tuple[np.ndarray, np.ndarray]:
    """The mean at each point, less and plus its standard error."""
    if len(samples) < 2:
        raise ValueError("one sample has no standard error; pass more, or spread=extremes")
    mean, error = samples.mean(0), samples.std(0, ddof=1) / len(samples) ** 0.5
    return mean - error, mean + error


def extremes(samples: Real[np.ndarray, "samples points"]) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and the largest sample at each point."""
    return samples.min(0), samples.max(0)


def curve(
    ax: Axes,
    x: Real[Array, " points"] | Numbers,
    samples: Real[Array, "samples _"],
    *,
    label: str,
    centre: Callable = np.median,
    spread: Spread = middle_half,
) -> Axes:
    """The Axes with the samples' centre as a line and their spread as a band: the middle half of them.

    A sample that is NaN is an error, not a gap. `centre=np.mean` where the paper reports means;
    with it `spread=standard_error`, or `extremes` where the samples are few.
    """
    x, samples = _array(x), _array(samples)
    if samples.ndim != 2 or samples.shape[1] != len(x):
        raise ValueError(f"samples must be (samples, {len(x)}) like x; got {samples.shape}")
    _finite(samples, f'curve "{label}"')
    with style():
        (line,) = ax.plot(x, centre(samples, axis=0), label=label)
    low, high = spread(samples)
    ax.fill_between(x, low, high, color=line.get_color(), alpha=0.18, linewidth=0)
    return ax


def paths_over(
    ax: Axes,
    function: Callable[[Tensor], Tensor],
    paths: dict[str, Real[Array, "_ 2"] | Sequence[Numbers]],
    *,
    box: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 1.0), (0.0, 1.0)),
    title: str | None = None,
) -> Axes:
    """The Axes with a function of two variables in pale grey, the darker the larger, and paths over it.

    Paths are points in order, by label, from a hollow circle to a filled one, with an arrowhead on
    every leg from corner to corner. A straight leg that retraces another is drawn beside it, and
    the legs of a path that returns to one of its corners are numbered. `function`: (rows, 2) ->
    (rows,); `box`: the ends of both variables.
    """
    low, high = np.array(box, dtype=float).T
    _contours(ax, function, low, high)
    points = {label: _inside(path, label, low, high) for label, path in paths.items()}
    legs = {label: _legs((path - low) / (high - low)) for label, path in points.items()}
    lanes = iter(_lanes([leg for own in legs.values() for leg in own]))
    for label, own in legs.items():
        taken = [next(lanes) for _ in own]
        moved = [low + leg * (high - low) for leg in _apart(own, taken)]
        colour = _draw_path(ax, label, points[label][[0, -1]], moved)
        _mark_legs(ax, moved, taken, colour, numbered=_returns(own))
    ax.set(xlabel="$x_1$", ylabel="$x_2$")
    ax.set_box_aspect(1)
    ax.grid(False)
    if title is not None:
        ax.set_title(title)
    return ax


def flow(
    ax: Axes,
    along_x: Float[Array, "cells nodes"],
    along_y: Float[Array, "nodes cells"],
    *,
    title: str | None = None,
) -> Axes:
    """The Axes with a grid on the unit square, its edges as wide as their weights; red dashes below 0.

    `along_x[i, j]` belongs to the edge (i, j) -> (i + 1, j), `along_y[i, j]` to (i, j) -> (i, j + 1),
    as in `ensembles.Recovered`. The width of weight 1 is the same in all flows.
    """
    weights = [_array(along_x), _array(along_y)]
    cells = len(weights[0])
    if weights[0].shape != (cells, cells + 1) or weights[1].shape != (cells + 1, cells):
        raise ValueError(
            "a flow on K x K cells has weights (K, K + 1) and (K + 1, K), got "
            f"{weights[0].shape} and {weights[1].shape}"
        )
    ticks = np.linspace(0, 1, cells + 1)
    ax.hlines(ticks, 0, 1, colors="#DDDDDD", linewidth=0.6)
    ax.vlines(ticks, 0, 1, colors="#DDDDDD", linewidth=0.6)
    for step, of_axis in zip(((1, 0), (0, 1)), weights, strict=True):
        _finite(of_axis, "a flow")
        for node, weight in np.ndenumerate(of_axis):
            if abs(weight) > 1e-9:
                ends = np.array([node, np.add(node, step)]) / cells
                colour, dashes = (COLOURS[0], "-") if weight > 0 else ("#C00000", (0, (1, 0.4)))
                wide = {"linewidth": FLOW_WIDTH * abs(weight), "solid_capstyle": "round"}
                ax.plot(*ends.T, color=colour, linestyle=dashes, zorder=3 - (weight > 0), **wide)
    ax.set(xlabel="$x_1$", ylabel="$x_2$", xticks=[0, 1], yticks=[0, 1])
    ax.set_box_aspect(1)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    if title is not None:
        ax.set_title(title)
    return ax


def matrix(
    ax: Axes,
    values: Real[Array, "rows columns"] | Sequence[Numbers],
    row_labels: Sequence[str],
    column_labels: Sequence[str],
    *,
    title: str | None = None,
    limits: tuple[float, float] | None = None,
) -> Axes:
    """The Axes with a table as a heat map, every number printed to three digits; NaN shows as "-".

    Signed tables are red and blue about zero, others grey; `limits` are the ends of the colours.
    """
    values = _array(values)
    if values.shape != (len(row_labels), len(column_labels)):
        raise ValueError(
            f"values {values.shape} do not fit {len(row_labels)} row labels "
            f"and {len(column_labels)} column labels"
        )
    colours, low, high = _scale(values, limits)
    drawn = ax.imshow(values, colours, vmin=low, vmax=high, aspect="auto", interpolation="nearest")
    for (row, column), value in np.ndenumerate(values):
        ink = _ink(drawn.cmap(drawn.norm(value)) if np.isfinite(value) else "white")
        text = f"{value:.3g}" if np.isfinite(value) else "-"
        ax.text(column, row, text, ha="center", va="center", color=ink, fontsize=SMALL_TEXT)
    ax.set_xticks(range(len(column_labels)), column_labels, rotation=30, ha="right")
    ax.set_yticks(range(len(row_labels)), row_labels)
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    if title is not None:
        ax.set_title(title)
    return ax


def shares(
    ax: Axes,
    weights: Real[Array, "effects variables"] | Sequence[Numbers],
    members: Bool[Array, "effects variables"] | Sequence[Sequence[bool]],
    effect_labels: Sequence[str],
    variable_labels: Sequence[str],
    *,
    title: str | None = None,
) -> Axes:
    """The Axes with a bar for each effect, cut into the shares of it that variables receive.

    Shares above 0 follow each other to the right of 0, those below to the left; the line at 1 is
    the whole effect. White and hatched: given to a variable that is no member of the effect.
    A total other than 1 is printed. `shares_key` explains the signs to the reader.
    """
    weights, members = _array(weights), _array(members)
    wanted = (len(effect_labels), len(variable_labels))
    if weights.shape != wanted or members.shape != wanted or wanted[1] > len(COLOURS):
        raise ValueError(
            f"weights {weights.shape} and members {members.shape} must be (effects, variables) like "
            f"the labels {wanted}, with at most {len(COLOURS)} variables"
        )
    _finite(weights, "shares")
    ends = np.zeros((len(weights), 2))  # of the shares below and above zero
    for (effect, variable), weight in np.ndenumerate(weights):
        if abs(weight) > 1e-9:
            side = int(weight > 0)
            place = {"y": effect, "left": ends[effect, side], "width": weight}
            own = bool(members[effect, variable])
            (bar,) = ax.barh(**place, **SEGMENT, **_segment(variable, own))
            if abs(weight) >= READABLE:
                middle = ends[effect, side] + weight / 2
                middle -= 0.3 * (abs(middle - 1) < 0.2)  # not under the line
                _name(ax, middle, effect, variable_labels[variable], variable if own else None)
            ends[effect, side] += weight
    for effect, total in enumerate(weights.sum(1)):
        if abs(total - 1) > 1e-6:
            beside = {"xytext": (3, 0), "textcoords": "offset points", "va": "center"}
            text = f"{total:.2g}" if abs(total) > 1e-9 else "0"
            ax.annotate(text, (ends[effect, 1], effect), **beside, fontsize=SMALL_TEXT, zorder=5)
    ax.axvline(0, color="#888888", linewidth=0.8, zorder=3)
    ax.axvline(1, color="black", linewidth=1.4, zorder=3)
    low, high = min(ends.min(), 0) - 0.1, max(ends.max(), 1) + 0.5
    if ax.get_autoscalex_on():  # the first of these Axes
        ax.set_xlim(low, high)
    else:
        ax.set_xlim(min(low, ax.get_xlim()[0]), max(high, ax.get_xlim()[1]))
    ax.set_yticks(range(len(effect_labels)), effect_labels)
    ax.set_ylim(len(effect_labels) - 0.5, -0.5)
    ax.xaxis.set_major_locator(mpl.ticker.MultipleLocator(1))
    ax.grid(False)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    if title is not None:
        ax.set_title(title)
    return ax


def shares_key(ax: Axes, variable_labels: Sequence[str]) -> Axes:
    """The Axes with nothing but the key to `shares`."""
    signs = [Patch(**_segment(i, True), linewidth=0.8) for i in range(len(variable_labels))]
    signs += [
        Patch(**_segment(0, False) | {"edgecolor": "#555555"}, linewidth=0.8),
        Line2D([], [], color="black", linewidth=1.4),
        Line2D([], [], color="black", linestyle="", marker="$2$", markersize=6, markeredgewidth=0),
    ]
    texts = [f"to {label}" for label in variable_labels]
    texts += ["to one not in the effect", "the effect, once", "total, if not 1"]
    ax.set_axis_off()
    ax.legend(signs, texts, loc="center", title="share of an effect", title_fontsize=TEXT)
    return ax


def points(
    ax: Axes,
    groups: dict[str, dict[str, Real[Array, " samples"] | Numbers]],
    *,
    ylabel: str,
    log: bool = False,
    centre: Callable = np.mean,
    spread: Spread = standard_error,
    title: str | None = None,
) -> Axes:
    """The Axes with a column of labelled points for each group: a method's centre and its spread.

    `groups` gives each method's samples, by group and method. Labels stand beside the points, as
    near in height as they can without overlap.
    """
    cells = [
        {name: _array(v).astype(float)[:, None] for name, v in g.items()} for g in groups.values()
    ]
    for name, samples in ((n, v) for cell in cells for n, v in cell.items()):
        _finite(samples, f'method "{name}"')
    columns = [
        {n: (float(centre(v, axis=0)[0]), *np.ravel(spread(v))) for n, v in cell.items()}
        for cell in cells
    ]
    drawn = np.array([numbers for column in columns for numbers in column.values()])
    if log and drawn.min() <= 0:
        raise ValueError(
            f"a log scale has no place for {drawn.min():.3g}, a centre or an end of a spread; "
            "pass spread=middle_half or log=False"
        )
    scale = np.log10 if log else np.asarray
    low, high = scale(drawn.min()), scale(drawn.max())
    edge = 0.06 * (high - low) or 0.5
    low, high = low - edge, high + edge
    back = (lambda t: 10**t) if log else (lambda t: t)
    ax.set_yscale("log" if log else "linear")
    if log:  # 0.7 rather than 7 x 10^-1
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_locator(mpl.ticker.LogLocator(subs=(2, 3, 5, 7)))
        short = high - low < 2  # decades: there is room
        ax.yaxis.set_minor_formatter("{x:g}" if short else mpl.ticker.NullFormatter())
    ax.set(xlim=(-0.25, len(groups) - 0.15), ylim=(back(low), back(high)), ylabel=ylabel)
    ax.set_xticks(range(len(groups)), groups)
    inches = ax.figure.get_figheight() * ax.get_position().height
    gap = 1.5 * SMALL_TEXT / 72 / inches * (high - low)
    for x, column in enumerate(columns):
        names = sorted(column, key=lambda name: column[name][0])
        heights = _spaced(scale(np.array([column[n][0] for n in names])), gap, low, high)
        for rank, (name, height) in enumerate(zip(names, heights, strict=True)):
            middle, bottom, top = column[name]
            at = x - 0.14 + 0.06 * (rank % 3)  # neighbours' bars apart
            colour = COLOURS[x % len(COLOURS)]
            ax.vlines(at, bottom, top, colors=colour, linewidth=1.2)
            ax.plot(at, middle, "os^D"[x % 4], color=colour, markersize=5)
            ax.plot(
                [at, x + 0.07],
                [middle, back(height)],
                "-",
                color="#AAAAAA",
                linewidth=0.6,
                zorder=1,
            )
            ax.text(x + 0.08, back(height), name, va="center", fontsize=SMALL_TEXT)
    ax.grid(False, axis="x")
    if title is not None:
        ax.set_title(title)
    return ax


def map_grid(
    inputs: Float[Array, "photos channels height width"],
    maps: dict[str, Float[Array, "photos channels height width"]],
    *,
    row_labels: Sequence[str],
    boxes: Sequence[Sequence[Box]] = (),
    limits: dict[str, float] | None = None,
) -> Figure:
    """A figure with one row an input: the input itself, then its map by each method.

    Every map has its own limit unless `limits` gives one for its method: methods differ in unit,
    so colours compare places within a map, not sizes between maps.
    """
    fig, axes = subplots(len(inputs), 1 + len(maps), size=(1.45, 1.5), dpi=MAP_DPI)
    for i, (row, image) in enumerate(zip(axes, inputs, strict=True)):
        draw = photo if len(image) == 3 else digit
        draw(row[0], image, boxes=boxes[i] if boxes else ())
        row[0].set_ylabel(row_labels[i])
        for ax, (method, attributions) in zip(row[1:], maps.items(), strict=True):
            limit = (limits or {}).get(method)
            attribution_map(ax, attributions[i], limit=limit, colourbar=False)
    for ax, title in zip(axes[0], ["input", *maps], strict=True):
        ax.set_title(title)
    return fig


def present(fig: Figure, *, caption: str, alt: str) -> None:
    """Shows the finished figure with its caption and its alternative text, and closes it.

    The caption says model, data, n, seed and scale; the alternative text what there is to see.
    """
    for name, text in {"caption": caption, "alt": alt}.items():
        if not text.strip():
            raise ValueError(f"a figure needs a {name}, got an empty one; write what it shows")
    data = {"image/png": png(fig), "text/plain": alt}
    plt.close(fig)
    if get_ipython() is None:  # a plain script has nowhere to show an image
        print(f"[figure: {alt}]")
    else:
        display(data, metadata={"attribook": {"caption": caption, "alt": alt}}, raw=True)


def png(fig: Figure) -> bytes:
    """The figure as PNG bytes in 256 colours, without dates or versions: the same on every run."""
    for ax in fig.axes:  # matplotlib sizes these when they are set, outside our style
        ax.title.set_fontsize(TEXT)
        if legend := ax.get_legend():
            legend.get_frame().set_edgecolor("none")
            for text in legend.get_texts():
                text.set_fontsize(SMALL_TEXT)
    drawn, light = io.BytesIO(), io.BytesIO()
    with style():
        fig.savefig(drawn, format="png")
    image = Image.open(drawn).convert("RGB").quantize(256, kmeans=1, dither=Image.Dither.NONE)
    image.save(light, "png", optimize=True)
    return light.getvalue()


def _array(values: Array | Sequence) -> np.ndarray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)


def _bare(ax: Axes, title: str | None) -> Axes:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.grid(False)
    if title is not None:
        ax.set_title(title)
    return ax


def _ink(colour: str | tuple) -> str:
    """Black or white, whichever is read on this colour."""
    red, green, blue = mpl.colors.to_rgb(colour)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def _segment(variable: int, own: bool) -> dict:
    """How a share looks that a variable receives, of an effect of its own or of another."""
    colour = COLOURS[variable]
    if own:
        return {"facecolor": colour, "edgecolor": "white"}
    return {"facecolor": "white", "edgecolor": colour, "hatch": "//////"}


def _name(ax: Axes, x: float, y: float, label: str, variable: int | None) -> None:
    """The name of a variable on its segment, on a white ground where that is hatched."""
    how = {"ha": "center", "va": "center", "fontsize": SMALL_TEXT, "zorder": 4}
    if variable is None:
        ground = {"boxstyle": "round,pad=0.1", "facecolor": "white", "edgecolor": "none"}
        ax.text(x, y, label, **how, bbox=ground)
    else:
        ax.text(x, y, label, **how, color=_ink(COLOURS[variable]))


def _spaced(heights: np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """The nearest heights to these, in order from the lowest, at least `gap` apart, low to high."""
    steps = gap * np.arange(len(heights))
    first, last = low + gap / 2, high - gap / 2
    if len(heights) and last - steps[-1] < first:
        raise ValueError(
            f"{len(heights)} labels do not fit beside each other; make the panel taller"
        )
    return isotonic_regression(heights - steps).x.clip(first, last - steps[-1:]) + steps


def _contours(ax: Axes, function: Callable, low: np.ndarray, high: np.ndarray) -> None:
    """A function's level sets on a box, filled in pale grey and labelled."""
    xs, ys = (np.linspace(*ends, 101) for ends in zip(low, high, strict=True))
    grid = np.stack(np.meshgrid(xs, ys), -1)  # (rows, columns, 2)
    with torch.no_grad():
        values = _array(function(torch.from_numpy(grid.reshape(-1, 2))))
    if values.size != 101**2:
        raise ValueError(
            f"the function must be (rows, 2) -> (rows,); {101**2} rows gave {values.shape}"
        )
    _finite(values, "the function")
    values = values.reshape(101, 101)
    if np.ptp(values) > 1e-9 * np.abs(values).max():  # else a constant, which has no level sets
        filled = ax.contourf(xs, ys, values, levels=6, cmap=PALE)
        within = [level for level in filled.levels if values.min() < level < values.max()]
        lines = ax.contour(xs, ys, values, within, colors="#999999", linestyles="-", linewidths=0.6)
        ax.clabel(lines, fmt="%.3g", colors="#666666", fontsize=SMALL_TEXT - 1)
    (left, bottom), (right, top) = low - 0.05 * (high - low), high + 0.05 * (high - low)
    ax.set(xlim=(left, right), ylim=(bottom, top))


def _inside(path, label: str, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """A path's points, found to be in the box."""
    points = _array(path).astype(float)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) < 2:
        raise ValueError(f'path "{label}" must be two or more points (n, 2), got {points.shape}')
    if not ((points >= low - 1e-9) & (points <= high + 1e-9)).all():  # NaN is not inside
        raise ValueError(f'path "{label}" leaves the box from {low} to {high}; pass a larger box=')
    return points


def _legs(points: np.ndarray) -> list[np.ndarray]:
    """The parts of a path between corners, the points where it turns by 20 degrees or more."""
    stays = np.linalg.norm(np.diff(points, axis=0), axis=1) < 1e-9
    points = points[np.append(True, ~stays)]
    steps = np.diff(points, axis=0)
    along = steps / np.linalg.norm(steps, axis=1, keepdims=True)
    turns = (along[1:] * along[:-1]).sum(1) < np.cos(np.radians(20))
    corners = [0, *np.flatnonzero(turns) + 1, len(points) - 1]
    return [points[a : b + 1] for a, b in pairwise(corners) if a < b]


def _lanes(legs: Sequence[np.ndarray]) -> list[int]:
    """The lane of each leg: the first that no earlier leg over the same stretch has taken."""
    lanes: list[int] = []
    for leg in legs:
        taken = {lane for other, lane in zip(legs, lanes, strict=False) if _overlap(leg, other)}
        lanes.append(next(lane for lane in count() if lane not in taken))
    return lanes


def _overlap(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two legs lie on one straight line and share a stretch of it."""
    start, step = one[0], one[-1] - one[0]
    if np.allclose(step, 0):  # a closed curve
        return False
    along, across = step / np.linalg.norm(step), _normal(one)
    if max(np.abs((leg - start) @ across).max() for leg in (one, other)) > 1e-6:
        return False
    (a, b), (c, d) = (np.sort((leg[[0, -1]] - start) @ along) for leg in (one, other))
    return bool(min(b, d) - max(a, c) > 1e-6)


def _apart(legs: Sequence[np.ndarray], lanes: Sequence[int]) -> list[np.ndarray]:
    """The legs beside each other in their lanes, joined again at the corners."""
    shifts = [
        LANE_WIDTH * lane * _normal(leg) if lane else np.zeros(2)
        for leg, lane in zip(legs, lanes, strict=True)
    ]
    moved = [leg + shift for leg, shift in zip(legs, shifts, strict=True)]
    for i, (one, other) in enumerate(pairwise(legs)):
        sides = np.stack([_normal(one[-2:]), _normal(other[:2])])
        if abs(np.linalg.det(sides)) > 0.1:  # else it turns back: the gap is closed by a short step
            across = (sides * shifts[i : i + 2]).sum(1)
            moved[i][-1] = moved[i + 1][0] = other[0] + np.linalg.solve(sides, across)
    return moved


def _normal(leg: np.ndarray) -> np.ndarray:
    """The unit vector across a leg towards the middle of the unit square, whatever its direction."""
    right, up = leg[-1] - leg[0]
    across = np.array([-up, right]) / np.hypot(right, up)
    return across * np.sign(across @ (MIDDLE - leg[0]))


def _returns(legs: Sequence[np.ndarray]) -> bool:
    """Whether a path comes back to a corner or an end, so that the order of its legs is unclear."""
    corners = np.array([leg[0] for leg in legs] + [leg[-1] for leg in legs[-1:]])
    return len(legs) > 1 and len(np.unique(corners.round(6), axis=0)) < len(corners)


def _draw_path(ax: Axes, label: str, ends: np.ndarray, legs: Sequence[np.ndarray]) -> str:
    """The colour in which the Axes draws a path's legs as one line, with its two ends."""
    with style():
        (line,) = ax.plot(*np.concatenate([ends[:1], *legs, ends[1:]]).T, label=label)
    for end, inside, area in zip(ends, ("white", "black"), (60, 24), strict=True):
        ax.scatter(*end, s=area, facecolor=inside, edgecolor="black", zorder=4)
    return line.get_color()


def _mark_legs(
    ax: Axes, legs: Sequence[np.ndarray], lanes: Sequence[int], colour: str, numbered: bool
) -> None:
    """An arrowhead on each leg and, where wanted, its number; not side by side in neighbouring lanes."""
    head = {"arrowstyle": "-|>", "mutation_scale": 16, "shrinkA": 0, "shrinkB": 0, "linewidth": 0}
    for number, (leg, lane) in enumerate(zip(legs, lanes, strict=True), start=1):
        place = 0.5 + 0.12 * ((lane + 2) % 5 - 2)
        spot, tail, tip = _along(leg, [place - 0.1, place - 0.01, place])
        ax.annotate("", tip, tail, arrowprops=head | {"color": colour})
        if numbered:
            ax.text(*spot, str(number), color=colour, **NUMBER)


def _along(leg: np.ndarray, places: Sequence[float]) -> np.ndarray:
    """The points at these shares of a leg's length."""
    lengths = np.append(0, np.linalg.norm(np.diff(leg, axis=0), axis=1).cumsum())
    return np.stack([np.interp(np.array(places) * lengths[-1], lengths, c) for c in leg.T], 1)


def _finite(values: np.ndarray, what: str) -> None:
    if bad := int((~np.isfinite(values)).sum()):
        raise ValueError(
            f"{what} has {bad} values that are not finite; "
            "find out where they come from, or leave them out and say so"
        )


def _colourbar(ax: Axes, drawn: mpl.image.AxesImage, limit: float, unit: str | None) -> None:
    bar = ax.figure.colorbar(drawn, ax=ax, fraction=0.046, pad=0.03, ticks=[-limit, 0, limit])
    bar.ax.set_yticklabels([f"{-limit:.2g}", "0", f"{limit:.2g}"], fontsize=SMALL_TEXT)
    bar.outline.set_visible(False)
    if unit is not None:
        bar.set_label(unit, fontsize=SMALL_TEXT)


def _scale(
    values: np.ndarray, limits: tuple[float, float] | None
) -> tuple[mpl.colors.Colormap, float, float]:
    """Colours and their ends: about zero where a value is negative, else up from zero."""
    finite = values[np.isfinite(values)]
    low, high = limits or (min(finite.min(initial=0), 0), finite.max(initial=0))
    if low < 0:
        size = max(-low, high)
        return SIGNED, -size, size
    return mpl.colormaps["Greys"], low, high if high > low else low + 1
