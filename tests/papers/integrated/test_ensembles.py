import numpy as np
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator
from torch.testing import assert_close

from attribook.methods import shapley
from attribook.papers.integrated.ensembles import (
    Interpolant,
    LatticePath,
    Recovered,
    grid_switches,
    lattice_paths,
    on_grid,
    path_measure_exists,
    probes,
    recover,
    superposed,
)
from attribook.papers.integrated.rivals import (
    ensemble_method,
    five_segments,
    gradient_times_difference,
    in_order,
    path_method,
    proportional_share,
    random_monotone,
    rounds,
    stretched,
)
from attribook.paths import (
    path_integral,
    power,
    straight,
    with_corners,
)
from attribook.score import Score, plain_gradient

CELLS = 8
EDGES = 2 * CELLS * (CELLS + 1)


def mixture(*weighted, cells=CELLS, n_steps=2):
    """The ensemble of (weight, make_path) as a method whose quadrature stops at the grid lines."""
    weights, paths = zip(*weighted, strict=True)
    return ensemble_method(weights, [on_grid(path, cells) for path in paths], n_steps)


def random_ensemble(generator, n_paths=12, n_corners=5):
    """Monotone polylines with random corners and random weights."""
    weights = torch.rand(n_paths, generator=generator, dtype=torch.float64)
    weights = (weights / weights.sum()).tolist()
    return [(weight, random_monotone(generator, 2, n_corners)) for weight in weights]


def random_tables(generator, n=100, cells=CELLS):
    return torch.randn(n, cells + 1, cells + 1, generator=generator, dtype=torch.float64)


def evaluated(method, tables):
    """What the method itself says of these tables, from (0, 0) to (1, 1)."""
    baseline = tables.new_zeros(len(tables), 2)
    return method(Score(Interpolant(tables)), baseline + 1, baseline)


def of_the_square(score, inputs, baseline):
    """Integrated gradients of the squared score: dummy, but neither linear nor complete."""
    squared = Score(lambda points: score(points) ** 2)
    return path_integral(squared, on_grid(straight, CELLS)(inputs, baseline), n_steps=4)


ignoring_the_grid = path_method(straight, n_steps=50)
IG = mixture((1.0, straight))
SHAPLEY = mixture((0.5, in_order([0, 1])), (0.5, in_order([1, 0])))
CURVED = mixture((1.0, lambda x, x0: power(x, x0, x.new_tensor([[1.0, 2.5]]))), n_steps=12)


@pytest.mark.parametrize("cells", [1, 3, 8])
def test_an_interpolant_is_the_table_at_the_nodes_and_bilinear_between_them(cells, generator):
    tables = random_tables(generator, 3, cells)
    points = torch.rand(3 * 50, 2, generator=generator, dtype=torch.float64)
    nodes = torch.cartesian_prod(*[torch.arange(cells + 1)] * 2).double() / cells
    axis = np.arange(cells + 1) / cells
    slow = [RegularGridInterpolator((axis, axis), table.numpy()) for table in tables]
    expected = [slow[row % 3](point)[0] for row, point in enumerate(points.numpy())]
    assert_close(Interpolant(tables)(points), torch.tensor(expected), atol=1e-13, rtol=0)
    assert_close(Interpolant(tables[:1])(nodes), tables[0].flatten(), atol=1e-13, rtol=0)


def test_the_gradient_of_an_interpolant_is_exact_inside_cells(generator):
    table = random_tables(generator, 1)
    cells = torch.cartesian_prod(*[torch.arange(CELLS)] * 2)
    points = (cells + torch.rand(len(cells), 2, generator=generator, dtype=torch.float64)) / CELLS
    (i, j), (u, v) = cells.unbind(1), (points * CELLS - cells).unbind(1)
    table_at = lambda di, dj: table[0][i + di, j + dj]  # noqa: E731
    along_x = (1 - v) * (table_at(1, 0) - table_at(0, 0)) + v * (table_at(1, 1) - table_at(0, 1))
    along_y = (1 - u) * (table_at(0, 1) - table_at(0, 0)) + u * (table_at(1, 1) - table_at(1, 0))
    expected = CELLS * torch.stack([along_x, along_y], 1)
    assert_close(plain_gradient(Score(Interpolant(table)), points), expected, atol=1e-12, rtol=0)


def test_an_interpolant_refuses_rows_and_points_that_no_table_is_for(generator):
    function = Interpolant(random_tables(generator, 3))
    with pytest.raises(ValueError, match="3 tables for 4 points"):
        function(torch.zeros(4, 2, dtype=torch.float64))
    for outside in (1.01, -0.01):
        with pytest.raises(ValueError, match="outside"):
            function(torch.full((3, 2), outside, dtype=torch.float64))


@pytest.mark.parametrize("cells", [1, 2, 5])
def test_a_probe_differs_along_one_edge_of_its_axis(cells):
    along_x, along_y = probes(cells).chunk(2)
    one_edge = torch.eye(cells * (cells + 1), dtype=torch.float64)
    assert torch.equal(along_x.diff(dim=1).flatten(1), one_edge)
    assert torch.equal(along_y.diff(dim=2).flatten(1), one_edge)
    assert not along_x[:, 0].any() and not along_y[:, :, 0].any()  # 0 where the ramp begins


def test_the_path_gets_a_corner_at_every_line_it_crosses():
    path = straight(torch.ones(1, 2, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64))
    corners = torch.tensor(with_corners(path, grid_switches(5)).corners)
    for line in range(6):
        assert (corners - line / 5).abs().min() < 1e-12
    assert ((corners * 5 - (corners * 5).round()).abs() < 1e-12).all()


def test_all_edges_are_probed_in_one_call():
    calls = []

    def method(score, inputs, baseline):
        calls.append(len(inputs))
        return IG(score, inputs, baseline)

    recover(method, CELLS)
    assert calls == [EDGES]


def test_integrated_gradients_is_two_lattice_paths(generator):
    recovered = recover(IG, CELLS)
    assert [path.mass for path in lattice_paths(recovered)] == pytest.approx([0.5, 0.5], abs=1e-14)
    tables = random_tables(generator)
    assert_close(recovered.attributions(tables), evaluated(IG, tables), atol=1e-12, rtol=0)


@pytest.mark.parametrize("method", [shapley, SHAPLEY], ids=["by coalitions", "by paths"])
def test_shapley_is_the_two_staircases_of_mass_one_half(method):
    along, up = list(range(CELLS + 1)), [CELLS] * CELLS
    first = list(zip(along + up, [0] * CELLS + along, strict=True))
    found = lattice_paths(recover(method, CELLS))
    assert {tuple(path.nodes) for path in found} == {
        tuple(first),
        tuple((j, i) for i, j in first),
    }
    assert [path.mass for path in found] == pytest.approx([0.5, 0.5], abs=1e-15)


@pytest.mark.parametrize("seed", range(3))
def test_a_monotone_ensemble_is_recovered_as_lattice_paths_that_do_the_same(seed):
    # [integrated, Thm 2]: completeness, linearity, dummy and NDP give the measure
    generator = torch.Generator().manual_seed(seed)
    method, tables = mixture(*random_ensemble(generator)), random_tables(generator)
    recovered = recover(method, CELLS)
    assert recovered.smallest() >= -1e-15
    assert recovered.conservation_gap().abs().max() < 1e-14
    found = lattice_paths(recovered)
    assert len(found) <= EDGES and min(path.mass for path in found) > 0
    assert sum(path.mass for path in found) == pytest.approx(1, abs=1e-12)
    expected = evaluated(method, tables)
    assert_close(recovered.attributions(tables), expected, atol=1e-12, rtol=0)
    assert_close(superposed(found).attributions(tables), expected, atol=1e-11, rtol=0)
    masses, walks = [path.mass for path in found], [stretched(path.points()) for path in found]
    by_integrals = ensemble_method(masses, walks, n_steps=1)  # every edge is a piece of its own
    assert_close(evaluated(by_integrals, tables), expected, atol=1e-11, rtol=0)


def test_a_curved_path_is_recovered_to_quadrature_error(generator):
    tables = random_tables(generator)
    recovered = recover(CURVED, CELLS)
    assert recovered.smallest() >= -1e-15
    found = superposed(lattice_paths(recovered)).attributions(tables)
    assert_close(found, evaluated(CURVED, tables), atol=1e-9, rtol=0)


@pytest.mark.parametrize("share", [1.0, 0.5, 0.2, 0.05, 1e-6])
def test_the_five_segments_leave_an_edge_of_minus_their_share(share):
    # [integrated, Claim 2 and App. E.1]: all axioms but NDP, and no ensemble of monotone paths
    detour = recover(mixture((share, five_segments), (1 - share, straight)), CELLS)
    assert detour.smallest() == pytest.approx(-share, abs=1e-12)
    assert detour.conservation_gap().abs().max() < 1e-13  # complete all the same, up to rounding
    assert not path_measure_exists(detour)
    with pytest.raises(ValueError, match="has weight -.*no ensemble of monotone paths"):
        lattice_paths(detour)


@pytest.mark.parametrize("n", [1, 3, -2])
def test_every_round_of_the_square_takes_one_more_from_an_edge(n):  # [integrated, App. F]
    recovered = recover(mixture((1.0, rounds(n))), CELLS)
    assert recovered.smallest() == pytest.approx(-abs(n), abs=1e-12)


def test_the_error_names_the_edge_with_the_smallest_weight():
    up_down_up = [(0, 0), (0.25, 1), (0.75, 0), (1, 1)]
    right_left_right = [(y, x) for x, y in up_down_up]
    for points, axis in ((up_down_up, 1), (right_left_right, 0)):
        recovered = recover(mixture((1.0, stretched(points))), CELLS)
        flow = (recovered.flow_x, recovered.flow_y)[axis]
        i, j = (flow == recovered.smallest()).nonzero()[0].tolist()
        with pytest.raises(ValueError) as refused:
            lattice_paths(recovered)
        assert f"the edge ({i}, {j}) -> ({i + 1 - axis}, {j + axis}) has" in str(refused.value)


def test_a_detour_on_the_way_it_came_leaves_no_trace():
    around = [(0, 0), (1, 0), (1, 1)]
    there_and_back = [(0, 0), (0, 1), (0, 0), (1, 0), (1, 1), (0, 1), (1, 1)]
    weights = [
        recover(mixture((1.0, stretched(points))), CELLS).weights()
        for points in (around, there_and_back)
    ]
    assert_close(weights[1], weights[0], atol=1e-13, rtol=0)


def test_the_linear_programme_finds_a_measure_for_ensembles(generator):
    random = mixture(*random_ensemble(generator))
    for method in (IG, SHAPLEY, CURVED, random):
        assert path_measure_exists(recover(method, CELLS))


def test_the_linear_programme_sees_mass_that_is_lost_on_the_way():
    complete = recover(IG, CELLS)
    leaking = Recovered(complete.flow_x * 0.999, complete.flow_y)
    assert leaking.smallest() >= 0
    assert not path_measure_exists(leaking)
    with pytest.raises(ValueError, match="not conserved at the node"):
        lattice_paths(leaking)


@pytest.mark.parametrize("method", [proportional_share, of_the_square])
def test_the_weights_do_not_stand_for_a_method_without_linearity_or_dummy(method, generator):
    tables = random_tables(generator)
    gap = recover(method, CELLS).attributions(tables) - evaluated(method, tables)
    assert gap.abs().max() > 0.1


def test_quadrature_that_ignores_the_grid_lines_loses_mass(generator):
    recovered, tables = recover(ignoring_the_grid, CELLS), random_tables(generator)
    assert recovered.conservation_gap().abs().max() > 1e-3
    assert (evaluated(ignoring_the_grid, tables) - evaluated(IG, tables)).abs().max() > 1e-3
    with pytest.raises(ValueError, match="on_grid"):
        lattice_paths(recovered)


def test_a_gradient_at_the_input_is_no_flow():
    with pytest.raises(ValueError, match="not conserved"):
        lattice_paths(recover(gradient_times_difference, CELLS))


def test_a_mixture_of_lattice_paths_is_peeled_off_exactly(generator):
    steps = torch.rand(40, 2 * CELLS, generator=generator).argsort(1) < CELLS
    ends = torch.cat([torch.zeros(40, 1, dtype=torch.long), steps.cumsum(1)], 1)
    nodes = [[(i, n - i) for n, i in enumerate(path)] for path in ends.tolist()]
    given = superposed([LatticePath(1 / 40, path) for path in nodes])
    found = lattice_paths(given)
    assert len(found) <= EDGES
    assert_close(superposed(found).weights(), given.weights(), atol=1e-14, rtol=0)
    assert path_measure_exists(given)


def test_paths_on_one_cell_are_the_two_orders():
    recovered = recover(mixture((1.0, straight), cells=1), 1)
    assert torch.equal(recovered.weights(), torch.full((4,), 0.5, dtype=torch.float64))
    assert path_measure_exists(recovered)


def test_what_cannot_be_answered_is_refused():
    flow = torch.zeros(9, 10, dtype=torch.float64)
    with pytest.raises(ValueError, match="48620 lattice paths"):
        path_measure_exists(Recovered(flow, flow.T))
    with pytest.raises(ValueError, match="one cell or more"):
        recover(IG, 0)
    with pytest.raises(ValueError, match=r"finite attributions of shape \(144, 2\)"):
        recover(lambda score, inputs, baseline: inputs[:, :1], CELLS)
    with pytest.raises(ValueError, match="finite attributions"):
        recover(lambda score, inputs, baseline: inputs / 0, CELLS)
    with pytest.raises(ValueError, match="got none"):
        superposed([])
    two = torch.tensor([[1.0, 1.0], [1.0, 0.5]], dtype=torch.float64)
    with pytest.raises(ValueError, match="rows differ"):
        on_grid(straight, CELLS)(two, torch.zeros_like(two))
