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

from attribook import plots


@pytest.fixture
def ax():
    fig, axes = plots.subplots()
    yield axes[0, 0]
    plt.close(fig)


def colours_of(ax):
    """The colours of an image as drawn: (rows, columns, RGB)."""
    (drawn,) = ax.images
    return drawn.cmap(drawn.norm(drawn.get_array()))[..., :3]


def test_positive_is_red_negative_is_blue_and_zero_is_white(ax):
    assert plots.attribution_map(ax, torch.tensor([[1.0, -1.0], [0.0, 0.5]])) is ax
    red, _, blue = np.moveaxis(colours_of(ax), -1, 0)
    assert red[0, 0] > blue[0, 0] + 0.2 and blue[0, 1] > red[0, 1] + 0.2
    assert colours_of(ax)[1, 0].min() > 0.95
    assert red[1, 1] > red[0, 0]  # half as much is paler


def test_a_map_sums_channels_and_centres_its_colours_on_zero(ax):
    attribution = torch.zeros(3, 20, 20)
    attribution[:, 3, 4] = torch.tensor([1.0, 2.0, -7.0])
    plots.attribution_map(ax, attribution, title="gradient", unit="logits")
    (drawn,) = ax.images
    assert drawn.get_array()[3, 4] == -4
    assert drawn.get_clim() == (-4, 4)  # the percentile is zero here: the largest value
    assert ax.get_title() == "gradient"
    assert ax.figure.axes[1].get_ylabel() == "logits"


def test_one_huge_pixel_does_not_wash_out_a_map(ax):
    values = torch.ones(100, 100)
    values[0, 0] = 1e6
    assert plots.symmetric_limit(values) == 1
    assert plots.symmetric_limit(values, 3 * torch.ones(100, 100)) == 3
    assert plots.symmetric_limit(torch.zeros(3, 3)) == 1
    plots.attribution_map(ax, values, limit=5.0, colourbar=False)
    assert ax.images[0].get_clim() == (-5, 5)
    assert len(ax.figure.axes) == 1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_map_that_is_not_finite_is_refused_and_not_drawn_white(ax, bad):
    with pytest.raises(ValueError, match="1 values that are not finite"):
        plots.attribution_map(ax, torch.tensor([[1.0, bad]]), limit=1.0)
    with pytest.raises(ValueError, match=r"one map at a time.*\(2, 3, 4, 4\)"):
        plots.attribution_map(ax, np.zeros((2, 3, 4, 4)))


def test_a_photo_shows_the_pixels_it_was_made_from(ax):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = (torch.from_numpy(pixels).float().permute(2, 0, 1) - 127) / 128
    assert plots.photo(ax, image, boxes=[(2, 1, 6, 8)]) is ax
    assert np.array_equal(ax.images[0].get_array(), pixels)
    outer, inner = ax.patches
    assert outer.get_linewidth() > inner.get_linewidth()
    assert inner.get_bbox().extents.tolist() == [1.5, 0.5, 5.5, 7.5]  # edges of pixels, not centres


def test_a_digit_is_dark_on_white(ax):
    plots.digit(ax, torch.tensor([[[0.0, 1.0]]]))
    assert colours_of(ax)[0].mean(-1).tolist() == [1.0, 0.0]


def test_a_curve_is_the_median_with_the_middle_half_around_it(ax):
    samples = torch.tensor([[0.0, 10.0], [1.0, 11.0], [2.0, 12.0], [3.0, 13.0], [100.0, 14.0]])
    assert plots.curve(ax, [1, 2], samples, label="lrp") is ax
    (line,) = ax.lines
    assert line.get_ydata().tolist() == [2, 12] and line.get_label() == "lrp"
    band = ax.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == 1 and band[:, 1].max() == 13
    plots.curve(ax, [1, 2], samples, label="mean", centre=np.mean)
    assert ax.lines[1].get_ydata()[0] == pytest.approx(21.2)


def test_curves_differ_in_colour_and_in_dashes(ax):
    for i in range(len(plots.COLOURS)):
        plots.curve(ax, np.arange(3), np.full((2, 3), i), label=str(i))
    assert len({line.get_color() for line in ax.lines}) == len(plots.COLOURS)
    assert len({str(line._dash_pattern) for line in ax.lines}) == len(plots.LINES)


def test_a_curve_refuses_what_it_cannot_draw(ax):
    with pytest.raises(ValueError, match=r"must be \(samples, 3\) like x; got \(3, 2\)"):
        plots.curve(ax, np.arange(3), np.zeros((3, 2)), label="a")
    with pytest.raises(ValueError, match='curve "a" has 2 values that are not finite'):
        plots.curve(ax, np.arange(2), np.array([[np.nan, 1], [np.inf, 1]]), label="a")


def test_a_matrix_prints_three_digits_and_a_dash_for_nan(ax):
    values = np.array([[1, 0.123456, np.nan], [2e-9, 0.5, 1234.5]])
    assert plots.matrix(ax, values, ["a", "b"], ["x", "y", "z"], title="table") is ax
    assert [t.get_text() for t in ax.texts] == ["1", "0.123", "-", "2e-09", "0.5", "1.23e+03"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["x", "y", "z"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]


def test_a_matrix_prints_readable_ink_and_centres_signed_values(ax):
    plots.matrix(ax, [[1.0, -0.5, 0.0]], ["a"], ["x", "y", "z"])
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
    plots.matrix(ax, values, ["a"], ["x", "y"], limits=limits)
    assert ax.images[0].get_clim() == expected


def test_a_matrix_needs_a_label_for_each_row_and_column(ax):
    with pytest.raises(ValueError, match=r"\(2, 2\) do not fit 1 row labels and 2 column"):
        plots.matrix(ax, np.zeros((2, 2)), ["a"], ["x", "y"])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_grid_has_a_row_for_each_input_and_a_column_for_each_method(channels):
    inputs = torch.rand(2, channels, 8, 8)
    maps = {"gradient": torch.randn(2, channels, 8, 8), "lrp": torch.randn(2, channels, 8, 8)}
    fig = plots.map_grid(
        inputs, maps, row_labels=["cat", "dog"], boxes=[[(0, 0, 4, 4)], []], limits={"lrp": 9.0}
    )
    axes = np.array(fig.axes).reshape(2, 3)
    assert [ax.get_title() for ax in axes[0]] == ["input", "gradient", "lrp"]
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["cat", "dog"]
    assert [ax.images[0].get_clim()[1] for ax in axes[:, 2]] == [9, 9]
    assert len(axes[0, 0].patches) == (2 if channels == 3 else 0)
    expected = maps["gradient"][1].sum(0)
    assert np.allclose(axes[1, 1].images[0].get_array(), expected)
    plt.close(fig)


def test_the_same_figure_gives_the_same_light_bytes():
    noise = torch.randn(3, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    first, second = (
        plots.png(plots.map_grid(noise.clamp(-1, 1), {"m": noise}, row_labels="abc"))
        for _ in range(2)
    )
    plt.close("all")
    assert first == second
    assert len(first) < 100_000  # three photos and three maps of pure noise, the worst there is
    with Image.open(io.BytesIO(first)) as image:
        assert not image.info  # no date, no version
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_titles_and_legends_are_in_house_style_whoever_sets_them(ax):
    plots.curve(ax, [0, 1], np.zeros((1, 2)), label="a")
    ax.set_title("set by the notebook")
    ax.legend()
    plots.png(ax.figure)
    assert ax.title.get_fontsize() == plots.TEXT
    assert ax.get_legend().get_texts()[0].get_fontsize() == plots.SMALL_TEXT


def test_the_style_stays_with_the_figure():
    before = dict(mpl.rcParams)
    fig, axes = plots.subplots(2, 3, size=(2.0, 1.0))
    assert axes.shape == (2, 3) and fig.get_size_inches().tolist() == [6, 2]
    assert not axes[0, 0].spines["top"].get_visible()
    plots.png(fig)
    plt.close(fig)
    assert dict(mpl.rcParams) == before


@pytest.mark.parametrize("texts", [{"caption": " ", "alt": "a"}, {"caption": "c", "alt": ""}])
def test_a_figure_without_words_is_refused(ax, texts):
    with pytest.raises(ValueError, match="needs a (caption|alt), got an empty one"):
        plots.present(ax.figure, **texts)


def test_a_script_sees_the_alternative_text_and_the_figure_is_closed(capsys):
    fig, _ = plots.subplots()
    assert plots.present(fig, caption="Empty axes.", alt="axes without a curve") is None
    assert capsys.readouterr().out == "[figure: axes without a curve]\n"
    assert not plt.fignum_exists(fig.number)


def test_a_notebook_shows_the_figure_once_with_its_words(tmp_path):
    source = (
        "from attribook import plots\n"
        "fig, axes = plots.subplots()\n"
        "plots.present(fig, caption='Empty axes.', alt='axes without a curve')"
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
