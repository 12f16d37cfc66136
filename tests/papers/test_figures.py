"""Figures: what is drawn where, in which colour, and how it reaches the book."""

import io

import matplotlib as mpl
import nbformat
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from nbclient import NotebookClient
from PIL import Image

from attribook.papers import figures


@pytest.fixture
def ax():
    fig, axes = figures.subplots()
    yield axes[0, 0]
    plt.close(fig)


def colours_of(ax):
    """The colours of an image as drawn: (rows, columns, RGB)."""
    (drawn,) = ax.images
    return drawn.cmap(drawn.norm(drawn.get_array()))[..., :3]


def test_positive_is_red_negative_is_blue_and_zero_is_white(ax):
    assert figures.attribution_map(ax, torch.tensor([[1.0, -1.0], [0.0, 0.5]])) is ax
    red, _, blue = np.moveaxis(colours_of(ax), -1, 0)
    assert red[0, 0] > blue[0, 0] + 0.2 and blue[0, 1] > red[0, 1] + 0.2
    assert colours_of(ax)[1, 0].min() > 0.95
    assert red[1, 1] > red[0, 0]  # half as much is paler


def test_a_map_sums_channels_and_centres_its_colours_on_zero(ax):
    attribution = torch.zeros(3, 20, 20)
    attribution[:, 3, 4] = torch.tensor([1.0, 2.0, -7.0])
    figures.attribution_map(ax, attribution, title="gradient", unit="logits")
    (drawn,) = ax.images
    assert drawn.get_array()[3, 4] == -4
    assert drawn.get_clim() == (-4, 4)  # the percentile is zero here: the largest value
    assert ax.get_title() == "gradient"
    assert ax.figure.axes[1].get_ylabel() == "logits"


def test_one_huge_pixel_does_not_wash_out_a_map(ax):
    values = torch.ones(100, 100)
    values[0, 0] = 1e6
    assert figures.symmetric_limit(values) == 1
    assert figures.symmetric_limit(values, 3 * torch.ones(100, 100)) == 3
    assert figures.symmetric_limit(torch.zeros(3, 3)) == 1
    figures.attribution_map(ax, values, limit=5.0, colourbar=False)
    assert ax.images[0].get_clim() == (-5, 5)
    assert len(ax.figure.axes) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_map_that_is_not_finite_is_refused_and_not_drawn_white(ax, bad):
    with pytest.raises(ValueError, match="1 values that are not finite"):
        figures.attribution_map(ax, torch.tensor([[1.0, bad]]), limit=1.0)
    with pytest.raises(ValueError, match=r"one map at a time.*\(2, 3, 4, 4\)"):
        figures.attribution_map(ax, np.zeros((2, 3, 4, 4)))


def test_a_photo_shows_the_pixels_it_was_made_from(ax):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = (torch.from_numpy(pixels).float().permute(2, 0, 1) - 127) / 128
    assert figures.photo(ax, image, boxes=[(2, 1, 6, 8)]) is ax
    assert np.array_equal(ax.images[0].get_array(), pixels)
    outer, inner = ax.patches
    assert outer.get_linewidth() > inner.get_linewidth()
    assert inner.get_bbox().extents.tolist() == [1.5, 0.5, 5.5, 7.5]  # edges of pixels, not centres


def test_a_digit_is_dark_on_white(ax):
    figures.digit(ax, torch.tensor([[[0.0, 1.0]]]))
    assert colours_of(ax)[0].mean(-1).tolist() == [1.0, 0.0]


def test_a_box_on_a_garment_and_on_its_map_runs_along_the_same_pixels(ax):
    heel = (20, 8, 28, 20)
    figures.digit(ax, torch.rand(1, 28, 28), boxes=[heel])
    figures.outline(figures.attribution_map(ax, torch.randn(1, 28, 28), colourbar=False), [heel])
    assert [p.get_bbox().extents.tolist() for p in ax.patches] == [[19.5, 7.5, 27.5, 19.5]] * 4
    assert [p.get_edgecolor()[:3] for p in ax.patches] == [(1, 1, 1), (0, 0, 0)] * 2


def test_a_curve_is_the_median_with_the_middle_half_around_it(ax):
    samples = torch.tensor([[0.0, 10.0], [1.0, 11.0], [2.0, 12.0], [3.0, 13.0], [100.0, 14.0]])
    assert figures.curve(ax, [1, 2], samples, label="lrp") is ax
    (line,) = ax.lines
    assert line.get_ydata().tolist() == [2, 12] and line.get_label() == "lrp"
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == 1 and band[:, 1].max() == 13
    figures.curve(ax, [1, 2], samples, label="mean", centre=np.mean)
    assert ax.lines[1].get_ydata()[0] == pytest.approx(21.2)


def test_a_band_is_what_its_function_of_the_samples_says(ax):
    samples = np.array([[1.0, 5.0], [2.0, 5.0], [6.0, 5.0]])
    for spread in (figures.extremes, figures.standard_error):
        figures.curve(ax, [0, 1], samples, label="a", centre=np.mean, spread=spread)
    extremes, error = (band.get_paths()[0].vertices[:, 1] for band in ax.collections)
    assert (extremes.min(), extremes.max()) == (1, 6)
    assert error.min() == pytest.approx(3 - (7 / 3) ** 0.5)  # variance 7 of three samples
    assert error.max() == 5 == ax.lines[1].get_ydata()[1]
    with pytest.raises(ValueError, match="one sample has no standard error"):
        figures.curve(ax, [0, 1], samples[:1], label="a", spread=figures.standard_error)


def test_curves_differ_in_colour_and_in_dashes(ax):
    for i in range(len(figures.COLOURS)):
        figures.curve(ax, np.arange(3), np.full((2, 3), i), label=str(i))
    assert len({line.get_color() for line in ax.lines}) == len(figures.COLOURS)
    assert len({str(line._dash_pattern) for line in ax.lines}) == len(figures.LINES)


def test_a_curve_refuses_what_it_cannot_draw(ax):
    with pytest.raises(ValueError, match=r"must be \(samples, 3\) like x; got \(3, 2\)"):
        figures.curve(ax, np.arange(3), np.zeros((3, 2)), label="a")
    with pytest.raises(ValueError, match='curve "a" has 2 values that are not finite'):
        figures.curve(ax, np.arange(2), np.array([[np.nan, 1], [np.inf, 1]]), label="a")


SQUARE = [(0, 0), (0, 1), (1, 1), (1, 0)]


def product(points):
    return points[:, 0] * points[:, 1]


def heads_of(ax):
    """The arrowheads as drawn: (heads, tail and tip, 2)."""
    heads = [note for note in ax.texts if getattr(note, "arrow_patch", None)]
    return np.array([[head.xyann, head.xy] for head in heads])


def numbers_of(ax):
    """The numbers on legs and their places."""
    return {t.get_text(): t.get_position() for t in ax.texts if t.get_text().isdigit()}


def test_paths_are_drawn_through_their_points_with_hollow_starts_and_filled_ends(ax):
    t = torch.linspace(0, 1, 50)
    curved = torch.stack([t, t**3], 1)
    paths = {"axes": [(0, 0), (1, 0), (1, 1)], "straight": [(0, 0), (1, 1)], "curved": curved}
    assert figures.paths_over(ax, product, paths, title="three paths") is ax
    assert [line.get_label() for line in ax.lines] == list(paths)
    assert len({line.get_color() for line in ax.lines}) == 3
    for line, points in zip(ax.lines, paths.values(), strict=True):
        assert np.allclose(np.unique(line.get_xydata(), axis=0), np.unique(points, axis=0))
    starts, ends = ax.collections[-2:]
    assert starts.get_offsets().tolist() == [[0, 0]] and ends.get_offsets().tolist() == [[1, 1]]
    assert starts.get_facecolor()[0, 0] == 1 and ends.get_facecolor()[0, 0] == 0
    assert ax.get_title() == "three paths" and ax.get_xlabel() == "$x_1$"


def test_every_leg_has_an_arrowhead_along_it(ax):
    t = np.linspace(0, 1, 50)
    figures.paths_over(ax, product, {"detour": SQUARE, "curved": np.stack([t, t**3], 1)})
    ways = np.diff(heads_of(ax), axis=1)[:, 0]
    ways /= np.linalg.norm(ways, axis=1, keepdims=True)
    assert np.allclose(ways[:3], [(0, 1), (1, 0), (0, -1)])
    assert len(ways) == 4 and (ways[3] > 0.3).all()  # one for the whole curve
    assert not numbers_of(ax)


def test_legs_are_numbered_where_their_order_could_not_be_seen(ax):
    five = [(0, 0), (1, 0), (1, 1), (0, 1), (0, 0), (1, 1)]
    figures.paths_over(ax, product, {"five segments": five})
    numbers = numbers_of(ax)
    assert list(numbers) == ["1", "2", "3", "4", "5"]
    for (x, y), one, other in zip(numbers.values(), five, five[1:], strict=False):
        assert min(one[0], other[0]) <= x <= max(one[0], other[0])
        assert min(one[1], other[1]) <= y <= max(one[1], other[1])


def test_rounds_over_the_same_edges_are_a_spiral(ax):
    figures.paths_over(ax, product, {"three rounds": [*SQUARE * 3, (0, 0), (1, 1)]})
    drawn = ax.lines[0].get_xydata()
    assert drawn[0].tolist() == [0, 0] and drawn[-1].tolist() == [1, 1]
    assert ((drawn >= 0) & (drawn <= 1)).all()  # inwards
    assert list(numbers_of(ax)) == [str(n) for n in range(1, 14)]
    left = np.unique(drawn[drawn[:, 0] < 0.2][:, 0].round(9))
    assert np.allclose(left, figures.LANE_WIDTH * np.arange(3))
    steps = np.diff(drawn, axis=0)
    slanted = np.abs(steps).min(1) > 1e-9
    assert slanted.sum() == 1 and np.allclose(
        *steps[slanted][0]
    )  # the diagonal alone, still at 45°


@pytest.mark.parametrize(
    "points, lanes",
    [
        ([(0, 0.5), (1, 0.5), (0.2, 0.5), (0.6, 0.5)], [0, 1, 2]),  # there, back and there
        (
            [(0, 0), (0.4, 0), (0.4, 1), (0.5, 1), (0.5, 0), (1, 0)],
            [0, 0, 0, 0, 0],
        ),  # they meet not
        ([(0, 0), (1, 0), (1, 1), (0, 0), (0.5, 0.5)], [0, 0, 0, 1]),  # through the middle
        (SQUARE * 2, [0, 0, 0, 0, 1, 1, 1]),
        ([(0, 0), (0.5, 0), (1, 0), (1, 1)], [0, 0]),  # no corner at (0.5, 0)
        ([(0, 0), (0, 0), (1, 0), (1, 0)], [0]),
        ([(1, 1), (1, 1)], []),  # it stays where it is
    ],
)
def test_legs_over_one_stretch_take_lanes_of_their_own(ax, points, lanes):
    assert figures._lanes(figures._legs(np.array(points, dtype=float))) == lanes
    figures.paths_over(ax, product, {"path": points})
    assert len(heads_of(ax)) == len(lanes)
    drawn = ax.lines[0].get_xydata()
    assert np.isfinite(drawn).all()
    assert (drawn[[0, -1]] == [points[0], points[-1]]).all()


def test_paths_make_way_for_each_other_and_keep_their_distance_in_any_box(ax):
    box = ((-20, 20), (0, 1))
    level = [(-20, 0), (20, 0)]
    figures.paths_over(ax, product, {"one": level, "other": level[::-1]}, box=box)
    one, other = (line.get_xydata() for line in ax.lines)
    assert (one[:, 1] == 0).all()
    assert other[1:-1, 1] == pytest.approx(figures.LANE_WIDTH)


def test_a_closed_curve_has_no_lane_to_leave(ax):
    angle = np.linspace(0, 2 * np.pi, 100)
    circle = 0.5 + 0.4 * np.stack([np.cos(angle), np.sin(angle)], 1)
    figures.paths_over(ax, product, {"circle": circle, "again": circle})
    assert np.allclose(ax.lines[0].get_xydata()[1:-1], circle)
    assert len(heads_of(ax)) == 2 and not numbers_of(ax)


def test_the_function_is_pale_and_darker_where_it_is_larger(ax):
    figures.paths_over(ax, product, {"path": [(0, 0), (1, 1)]})
    fills = ax.collections[0].get_facecolor()[:, :3].mean(1)
    assert (np.diff(fills) < 0).all() and fills.min() > 0.75
    lines = [mpl.colors.to_rgb(colour) for colour in figures.COLOURS]
    assert max(np.dot(rgb, [0.299, 0.587, 0.114]) for rgb in lines) < 0.7  # seen in grey, too
    before = len(ax.collections)
    figures.paths_over(ax, lambda points: 0 * points[:, 0], {"path": [(0, 0), (1, 1)]})
    assert len(ax.collections) == before + 2  # a constant has no level sets; start and end


def test_paths_that_cannot_be_drawn_are_refused(ax):
    with pytest.raises(ValueError, match='path "a" leaves the box .* pass a larger box='):
        figures.paths_over(ax, product, {"a": [(0, 0), (1, 1.1)]})
    with pytest.raises(ValueError, match='path "a" leaves the box'):
        figures.paths_over(ax, product, {"a": [(0, 0), (1, np.nan)]})
    with pytest.raises(ValueError, match=r'"a" must be two or more points \(n, 2\), got \(1, 2\)'):
        figures.paths_over(ax, product, {"a": [(0, 0)]})
    with pytest.raises(ValueError, match=r"\(rows, 2\) -> \(rows,\); 10201 rows gave \(10201, 2\)"):
        figures.paths_over(ax, lambda points: points, {"a": [(0, 0), (1, 1)]})
    with pytest.raises(ValueError, match="the function has 101 values that are not finite"):
        figures.paths_over(ax, lambda points: 1 / points[:, 0], {"a": [(0, 0), (1, 1)]})


def test_a_matrix_prints_three_digits_and_a_dash_for_nan(ax):
    values = np.array([[1, 0.123456, np.nan], [2e-9, 0.5, 1234.5]])
    assert figures.matrix(ax, values, ["a", "b"], ["x", "y", "z"], title="table") is ax
    assert [t.get_text() for t in ax.texts] == ["1", "0.123", "-", "2e-09", "0.5", "1.23e+03"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["x", "y", "z"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]


def test_a_matrix_prints_readable_ink_and_centres_signed_values(ax):
    figures.matrix(ax, [[1.0, -0.5, 0.0]], ["a"], ["x", "y", "z"])
    assert ax.images[0].get_clim() == (-1, 1)
    assert [t.get_color() for t in ax.texts] == ["white", "black", "black"]


@pytest.mark.parametrize(
    "values, limits, expected",
    [
        ([[0.2, 0.8]], None, (0, 0.8)),
        ([[0.2, 0.8]], (0.1, 1.0), (0.1, 1.0)),
        ([[0.0, 0.0]], None, (0, 1)),
        ([[np.nan, np.nan]], None, (0, 1)),
    ],
)
def test_the_colours_of_a_matrix_start_at_zero_unless_told(ax, values, limits, expected):
    figures.matrix(ax, values, ["a"], ["x", "y"], limits=limits)
    assert ax.images[0].get_clim() == expected


def test_a_matrix_needs_a_label_for_each_row_and_column(ax):
    with pytest.raises(ValueError, match=r"\(2, 2\) do not fit 1 row labels and 2 column"):
        figures.matrix(ax, np.zeros((2, 2)), ["a"], ["x", "y"])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_has_a_row_for_each_input_and_a_column_for_each_method(channels):
    inputs = torch.rand(2, channels, 8, 8)
    maps = {"gradient": torch.randn(2, channels, 8, 8), "lrp": torch.randn(2, channels, 8, 8)}
    fig = figures.map_grid(
        inputs, maps, row_labels=["cat", "dog"], boxes=[[(0, 0, 4, 4)], []], limits={"lrp": 9.0}
    )
    axes = np.array(fig.axes).reshape(2, 3)
    assert [ax.get_title() for ax in axes[0]] == ["input", "gradient", "lrp"]
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["cat", "dog"]
    assert [ax.images[0].get_clim()[1] for ax in axes[:, 2]] == [9, 9]
    assert len(axes[0, 0].patches) == 2 and not axes[1, 0].patches  # white and black, once
    expected = maps["gradient"][1].sum(0)
    assert np.allclose(axes[1, 1].images[0].get_array(), expected)
    plt.close(fig)


def test_the_same_figure_gives_the_same_light_bytes():
    noise = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    first, second = (
        figures.png(figures.map_grid(noise.clamp(-1, 1), {"m": noise}, row_labels="abc"))
        for _ in range(2)
    )
    plt.close("all")
    assert first == second
    assert len(first) < 100_000  # three photos and three maps of pure noise, the worst there is
    with Image.open(io.BytesIO(first)) as image:
        assert not image.info  # no date, no version
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_titles_and_legends_are_in_house_style_whoever_sets_them(ax):
    figures.curve(ax, [0, 1], np.zeros((1, 2)), label="a")
    ax.set_title("set by the notebook")
    ax.legend()
    figures.png(ax.figure)
    assert ax.title.get_fontsize() == figures.TEXT
    assert ax.get_legend().get_texts()[0].get_fontsize() == figures.SMALL_TEXT


def test_the_style_stays_with_the_figure():
    before = dict(mpl.rcParams)
    fig, axes = figures.subplots(2, 3, size=(2.0, 1.0))
    assert axes.shape == (2, 3) and fig.get_size_inches().tolist() == [6, 2]
    assert not axes[0, 0].spines["top"].get_visible()
    figures.png(fig)
    plt.close(fig)
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("texts", [{"caption": " ", "alt": "a"}, {"caption": "c", "alt": ""}])
def test_a_figure_without_words_is_refused(ax, texts):
    with pytest.raises(ValueError, match="needs a (caption|alt), got an empty one"):
        figures.present(ax.figure, **texts)


def test_a_script_sees_the_alternative_text_and_the_figure_is_closed(capsys):
    fig, _ = figures.subplots()
    assert figures.present(fig, caption="Empty axes.", alt="axes without a curve") is None
    assert capsys.readouterr().out == "[figure: axes without a curve]\n"
    assert not plt.fignum_exists(fig.number)


def test_a_notebook_shows_the_figure_once_with_its_words(tmp_path):
    source = (
        "from attribook.papers import figures\n"
        "fig, axes = figures.subplots()\n"
        "figures.present(fig, caption='Empty axes.', alt='axes without a curve')"
    )
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    NotebookClient(notebook, kernel_name="python3", timeout=120).execute()
    (output,) = notebook.cells[0].outputs
    assert output.output_type == "display_data"
    assert output.metadata == {
        "attribook": {"caption": "Empty axes.", "alt": "axes without a curve"}
    }
    assert set(output.data) == {"image/png", "text/plain"}
    assert output.data["image/png"].startswith("iVBORw0KGgo")  # base64 of a PNG's first bytes
    assert output.data["text/plain"] == "axes without a curve"


def test_a_flow_draws_the_edges_that_carry_weight_as_wide_as_it(ax):
    along_x, along_y = np.zeros((2, 3)), np.zeros((3, 2))
    along_x[0, 0], along_x[1, 2], along_y[1, 0] = 1.0, -0.5, 0.25
    figures.flow(ax, along_x, torch.from_numpy(along_y), title="flow")
    edges = {tuple(line.get_xydata().flatten()): line for line in ax.lines}
    assert set(edges) == {(0, 0, 0.5, 0), (0.5, 1, 1, 1), (0.5, 0, 0.5, 0.5)}
    widths = [edges[ends].get_linewidth() for ends in ((0, 0, 0.5, 0), (0.5, 1, 1, 1))]
    assert widths == [figures.FLOW_WIDTH, figures.FLOW_WIDTH / 2]
    colours = {line.get_color() for line in edges.values()}
    assert len(colours) == 2
    assert edges[0.5, 1, 1, 1].is_dashed()  # told apart without colour, too
    assert ax.get_title() == "flow"


def test_a_flow_refuses_weights_that_do_not_fit_a_grid(ax):
    with pytest.raises(ValueError, match=r"got \(2, 2\) and \(2, 2\)"):
        figures.flow(ax, np.zeros((2, 2)), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="not finite"):
        figures.flow(ax, np.full((1, 2), np.nan), np.zeros((2, 1)))


def bars_of(ax):
    """The segments of shares: row, left end and width, in the order drawn."""
    return [(round(b.get_y() + b.get_height() / 2), b.get_x(), b.get_width()) for b in ax.patches]


def test_shares_follow_each_other_on_their_side_of_zero(ax):
    weights = torch.tensor([[2.0, -1.0, 0.0], [0.25, 0.5, 0.25], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    members = torch.tensor([[1, 0, 0], [1, 1, 1], [0, 1, 1], [1, 1, 0]]).bool()
    effects = ["a", "b", "c", "d"]
    assert figures.shares(ax, weights, members, effects, ["x", "y", "z"], title="LRP") is ax
    assert bars_of(ax) == [
        (0, 0, 2),
        (0, 0, -1),
        (1, 0, 0.25),
        (1, 0.25, 0.5),
        (1, 0.75, 0.25),
        (3, 0, 1),
        (3, 1, 1),
    ]
    assert [b.get_hatch() is not None for b in ax.patches] == [False, True] + 5 * [False]
    assert len({b.get_facecolor() for b in ax.patches[2:5]}) == 3
    totals = {t.xy[1]: t.get_text() for t in ax.texts if hasattr(t, "xy")}
    assert totals == {2: "0", 3: "2"}  # 1 is the line
    assert [line.get_xdata()[0] for line in ax.lines] == [0, 1]
    assert [t.get_text() for t in ax.get_yticklabels()] == effects and ax.yaxis_inverted()
    assert ax.get_title() == "LRP"
    low, high = ax.get_xlim()
    assert low < -1 and high > 2


def test_panels_of_shares_have_one_scale_and_their_key_leaves_it_alone():
    fig, axes = figures.subplots(1, 3, share=True)
    for ax, weight in zip(axes[0], (3.0, -2.0), strict=False):
        figures.shares(ax, [[weight]], [[True]], ["a"], ["x"])
    figures.shares_key(axes[0, 2], ["x"])
    low, high = axes[0, 0].get_xlim()
    assert (low, high) == axes[0, 1].get_xlim() and low < -2 and high > 3
    assert [t.get_text() for t in axes[0, 0].get_yticklabels()] == ["a"]
    texts = [t.get_text() for t in axes[0, 2].get_legend().get_texts()]
    assert texts == ["to x", "to one not in the effect", "the effect, once", "total, if not 1"]
    plt.close(fig)


def test_shares_refuse_what_does_not_fit(ax):
    with pytest.raises(ValueError, match=r"weights \(1, 2\) and members \(1, 1\) must be"):
        figures.shares(ax, [[1, 0]], [[True]], ["a"], ["x", "y"])
    with pytest.raises(ValueError, match="shares has 1 values that are not finite"):
        figures.shares(ax, [[np.nan]], [[True]], ["a"], ["x"])


def test_points_stand_at_their_centres_with_their_spread_and_labels_apart(ax):
    samples = {f"m{i}": [1.0 + 0.001 * i, 3.0 + 0.001 * i] for i in range(6)}
    groups = {"all": samples, "not all": {"far": torch.tensor([7.0, 9.0])}}
    assert figures.points(ax, groups, ylabel="infidelity", title="MLP") is ax
    marks = [line for line in ax.lines if line.get_marker() != "None"]
    assert [line.get_ydata()[0] for line in marks] == pytest.approx(
        [2 + 0.001 * i for i in range(6)] + [8]
    )
    assert len({(line.get_marker(), line.get_color()) for line in marks}) == 2
    bars = [bar.get_segments()[0][:, 1].tolist() for bar in ax.collections]
    assert bars[6] == [7, 9] and bars[0] == [1, 3]  # the mean, less and plus its error of 1
    figures.png(ax.figure)
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["all", "not all"]
    assert ax.get_ylabel() == "infidelity" and ax.get_title() == "MLP"


def test_points_on_a_log_scale_keep_their_labels_inside(ax):
    groups = {"all": {"a": [1e-3] * 2, "b": [1.1e-3] * 2}, "not all": {"c": [1e3] * 2}}
    figures.points(ax, groups, ylabel="infidelity", log=True)
    low, high = ax.get_ylim()
    assert ax.get_yscale() == "log"
    assert all(low < text.get_position()[1] < high for text in ax.texts)
    ax.figure.canvas.draw()
    assert {"0.001", "1", "1000"} <= {label.get_text() for label in ax.get_yticklabels()}
    with pytest.raises(ValueError, match="a log scale has no place for -1"):
        figures.points(ax, {"all": {"a": [0.0, 2.0, -2.0]}}, ylabel="y", log=True, spread=low_high)
    with pytest.raises(ValueError, match="50 labels do not fit"):
        figures.points(ax, {"all": {str(i): [i, i] for i in range(50)}}, ylabel="y")
    with pytest.raises(ValueError, match='method "a" has 1 values that are not finite'):
        figures.points(ax, {"all": {"a": [np.nan, 1.0]}}, ylabel="y")


def low_high(samples):
    return samples.mean(0) - 1, samples.mean(0) + 1
