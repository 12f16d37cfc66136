import base64
import io

import jupytext
import nbformat
import numpy as np
import pytest
from PIL import Image
from written import SOURCE, cell, claim_output, execute, figure, picture, project, text_output

from attribook.report.agreement import (
    cell_differences,
    defects,
    differences,
    likeness,
    outputs_digest,
    text_differences,
)
from attribook.report.claims import at_most
from attribook.report.normalise import reweave

BARS = (0.2, 0.9, 0.5)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("error 0.1234", "error 0.1235"),  # one unit of the last digit
        ("| a | 1.000 |", "| a | 1.001 |"),
        ("4.9e-15 in all", "8.9e-16 in all"),  # rounding
        ("1,234.5", "1,235.0"),  # within a thousandth
        ("2.46 ± 0.30", "2.47 ± 0.30"),
        ("same", "same"),
    ],
)
def test_text_agrees_within_the_last_digit_or_a_thousandth(old, new):
    assert text_differences(old, new) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("error 0.123", "error 0.125"),
        ("3 of 18 photos", "4 of 18 photos"),  # counts have no tolerance
        ("1,260 rows", "1,261 rows"),
        ("a holds", "a fails"),
        ("1.0 and 2.0", "1.0"),
        ("3.0", "3"),
        ("x -1.5", "x 1.5"),
        ("1e-3", "1e-2"),
        ("- none", "- one"),
        ("ok ✓", "ok ×"),
    ],
)
def test_text_that_moved_is_shown_with_both_lines(old, new):
    assert text_differences(old, new) == [f"-{old}", f"+{new}"]


def test_a_claim_in_a_cell_is_compared_by_its_numbers(record):
    def one(value):
        return cell(claim_output(record("toy.sum", at_most("x", value, 1))))

    assert cell_differences(one(0.5), one(0.5004)) == []
    assert cell_differences(one(0.5), one(0.6)) == ["toy.sum: 'x' was 0.5, is 0.6"]


def test_a_claim_that_only_one_run_records_is_named(record):
    made = cell(claim_output(record("toy.sum", at_most("x", 0.5, 1))))
    assert cell_differences(made, cell()) == ["toy.sum: recorded by the reference only"]
    assert cell_differences(cell(), made) == ["toy.sum: not recorded by the reference"]


def test_outputs_of_another_kind_are_named():
    old, new = cell(text_output("a")), cell(figure(picture(BARS)))
    assert cell_differences(old, new) == ["it showed text, now figure"]
    assert cell_differences(old, cell()) == ["it showed text, now nothing"]


def test_printed_pieces_count_as_one_text():
    assert (
        cell_differences(cell(text_output("a\nb\n")), cell(*map(text_output, ("a\n", "b\n")))) == []
    )


def test_a_figure_may_move_by_little_and_not_by_more():
    old = cell(figure(picture(BARS)))
    assert cell_differences(old, cell(figure(picture((0.2, 0.901, 0.5))))) == []
    (line,) = cell_differences(old, cell(figure(picture((0.9, 0.2, 0.5)))))
    assert "looks different" in line


def test_a_bar_that_grew_by_a_twentieth_of_the_figure_is_told_and_by_a_fiftieth_not():
    old = cell(figure(picture(BARS)))
    assert cell_differences(old, cell(figure(picture((0.2, 0.9, 0.52))))) == []
    (line,) = cell_differences(old, cell(figure(picture((0.2, 0.9, 0.55)))))
    assert "looks different (likeness 0.959, 0.98 wanted)" in line


def test_a_figure_of_another_size_is_another_figure():
    old = cell(figure(picture(BARS, (600, 400))))
    wider = cell(figure(picture(BARS, (603, 400))))  # as wider numbers at an axis make it
    assert cell_differences(old, wider) == []
    assert cell_differences(old, cell(figure(picture(BARS, (700, 400))))) != []


def test_a_figure_that_turns_blank_is_named():
    lines = cell_differences(cell(figure(picture(BARS))), cell(figure(picture(()))))
    assert lines == ["its figure is blank"]


def test_a_caption_and_the_words_for_who_cannot_see_are_compared():
    old = cell(figure(picture(BARS)))
    (caption,) = cell_differences(old, cell(figure(picture(BARS), caption="Bars of 4 photos.")))
    assert caption.startswith("its caption changed") and "4 photos" in caption
    (alt,) = cell_differences(old, cell(figure(picture(BARS), alt="Two bars.")))
    assert alt.startswith("its alt changed")


def test_a_caption_is_found_where_a_finished_notebook_keeps_it():
    fresh = cell(figure(picture(BARS)))
    kept = cell(figure(picture(BARS)), mystnb={"figure": {"caption": "Bars of 3 photos."},
                                               "image": {"alt": "Three bars."}})  # fmt: skip
    kept.outputs[0].metadata = {}
    assert cell_differences(kept, fresh) == []
    kept.metadata.mystnb["figure"]["caption"] = "Bars of 5 photos."
    assert "its caption changed" in cell_differences(kept, fresh)[0]


def test_the_likeness_of_a_figure_with_itself_is_one_on_any_ground():
    png = base64.b64decode(picture(BARS))
    assert likeness(png, png) == 1.0
    clear = Image.open(io.BytesIO(png)).convert("RGBA")
    pixels = np.array(clear)
    pixels[..., 3] = np.where(pixels[..., 0] > 200, 0, 255)  # white becomes transparent
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, format="PNG")
    assert likeness(png, data.getvalue()) == pytest.approx(1.0)


def notebook(*cells):
    return nbformat.v4.new_notebook(cells=list(cells))


def test_runs_of_other_code_are_not_compared():
    assert differences(notebook(cell(source="a")), notebook(cell(source="b"))) == [
        "the reference was made from other code"
    ]


def test_a_difference_tells_the_cell():
    old = notebook(cell(text_output("1\n")), cell(text_output("2\n")))
    new = notebook(cell(text_output("1\n")), cell(text_output("3\n")))
    assert differences(old, new) == ["code cell 2: -2", "code cell 2: +3"]


@pytest.fixture
def executed_by_hand(tmp_path, record):
    path = execute(project(tmp_path), record("toy.sum", at_most("x", 0.5, 1)))
    return path


def flaws(path):
    source = jupytext.reads(path.with_suffix(".md").read_text(), fmt="md:myst")
    return defects(nbformat.read(path, as_version=4), source)


def test_a_reference_as_its_run_wrote_it_has_no_defects(executed_by_hand):
    assert flaws(executed_by_hand) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("<td>0.5</td>", "<td>0.7</td>", "toy.sum: what is shown is not what is recorded"),
        ("toy.sum: reproduced", "toy.sum: refuted", "what is shown is not what is recorded"),
        ('"measured": 0.5', '"measured": 0.6', "its outputs were edited after the run"),
        ("Some prose", "Other prose", "its cells are not its source's"),
        ('claim(\\"toy.sum\\")', 'claim(\\"toy.sun\\")', "its cells are not its source's"),
    ],
)
def test_a_reference_edited_by_hand_is_told(executed_by_hand, old, new, told):
    text = executed_by_hand.read_text()
    assert old in text
    executed_by_hand.write_text(text.replace(old, new))
    assert any(told in line for line in flaws(executed_by_hand))


def test_a_blank_figure_in_a_reference_that_nobody_reran_is_told(executed_by_hand):
    notebook = nbformat.read(executed_by_hand, as_version=4)
    code = [each for each in notebook.cells if each.cell_type == "code"]
    for png, told in ((picture(BARS), None), (picture(()), "its figure is blank"),
                      ("AAAA", "its figure is no image")):  # fmt: skip
        code[1].outputs = [figure(png)]
        notebook.metadata.attribook.outputs = outputs_digest(notebook)
        nbformat.write(notebook, executed_by_hand)
        assert flaws(executed_by_hand) == ([f"code cell 2: {told}"] if told else [])


def test_new_prose_is_woven_into_an_executed_notebook_without_a_run(executed_by_hand):
    path = executed_by_hand.with_suffix(".md")
    path.write_text(
        SOURCE.replace("a tpyo", "no typo").replace("```\n\nSome", "```\n\nMore.\n\n+++\n\nSome")
    )
    assert flaws(executed_by_hand) != []
    old = nbformat.read(executed_by_hand, as_version=4)
    code = [each for each in old.cells if each.cell_type == "code"]
    injected = nbformat.v4.new_code_cell("seed = 0", metadata={"tags": ["injected-parameters"]})
    old.cells.insert(old.cells.index(code[1]) + 1, injected)
    outputs = code[-1].outputs
    reweave(old, jupytext.reads(path.read_text(), fmt="md:myst"))
    kinds = [each.metadata.get("tags", [each.cell_type]) for each in old.cells]
    assert kinds[2:4] == [["parameters", "remove-cell"], ["injected-parameters"]]
    assert old.cells[-1].outputs == outputs and "no typo" in str(old.cells)
    nbformat.write(old, executed_by_hand)
    assert flaws(executed_by_hand) == ["its outputs were edited after the run that made them"]
    del old.cells[3]
    old.metadata.attribook.outputs = outputs_digest(old)
    nbformat.write(old, executed_by_hand)
    assert flaws(executed_by_hand) == []
