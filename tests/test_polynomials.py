import pytest
import torch
from torch.testing import assert_close

from attribook.methods import integrated_gradients
from attribook.polynomials import SideBySide, random_polynomial
from attribook.score import Score


def test_side_by_side_each_sample_has_its_own_polynomial(generator):
    polynomials = [random_polynomial(generator, 3, 4) for _ in range(5)]
    points = torch.rand(10, 3, generator=generator, dtype=torch.float64)  # two blocks of the batch
    expected = torch.stack([polynomials[r % 5](points[r : r + 1])[0] for r in range(10)])
    assert_close(SideBySide(polynomials)(points), expected, atol=1e-14, rtol=0)
    together = integrated_gradients(Score(SideBySide(polynomials)), points[:5], n_steps=4)
    alone = [
        integrated_gradients(Score(p), points[k : k + 1], n_steps=4)
        for k, p in enumerate(polynomials)
    ]
    assert_close(together, torch.cat(alone), atol=1e-14, rtol=0)


def test_side_by_side_refuses_rows_it_cannot_share_out(generator):
    two = SideBySide([random_polynomial(generator, 2, 2) for _ in range(2)])
    with pytest.raises(ValueError, match="2 polynomials for 3 rows"):
        two(torch.rand(3, 2, dtype=torch.float64))
