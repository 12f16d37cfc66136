"""How fast Integrated Gradients change with the input, and how fast they may. [integrated, Thm 4]

If grad F is L-Lipschitz and |dF/dx_i| <= M_i on a box, IG_i is Lipschitz in x with the constant
M_i + (b_i - a_i) L / 2. `ig_slopes` measures the left side of that, `steepness` and
`certified_steepness` give M and L for the right.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attribook.paths import gauss_legendre
from attribook.score import Score, plain_gradient

Points = Float[Tensor, "batch features"]
PerFeature = Float[Tensor, " features"]

STEEPEST = {  # the largest first and second derivative of each, in size
    nn.Tanh: (1.0, 4 / 27**0.5),
    nn.Sigmoid: (1 / 4, 1 / 108**0.5),
    nn.Softplus: (1.0, 1 / 4),
}


def ig_slopes(
    score: Score, inputs: Points, baseline: Float[Tensor, "#batch features"], n_steps: int = 64
) -> Float[Tensor, "batch features features"]:
    """dIG_i/dx_j, the Jacobian of Integrated Gradients in the input, the baseline fixed.

    delta_ij int F_i(path(t)) dt + (x_i - x0_i) int t F_ij(path(t)) dt, by differentiating the
    quadrature; F must be twice differentiable. `n_steps` backward passes and as many second ones
    for each feature. The norm of row i is the local Lipschitz constant of IG_i.
    """
    t, weights = (torch.from_numpy(values).to(inputs) for values in gauss_legendre(n_steps))
    gradients = torch.func.vmap(torch.func.grad(lambda point: score(point[None])[0]))

    def attributions(x: Tensor, x0: Tensor) -> Tensor:
        return (x - x0) * (weights @ gradients(x0 + t[:, None] * (x - x0)))

    slopes = torch.func.vmap(torch.func.jacrev(attributions))
    with torch.no_grad():
        return slopes(inputs, baseline.expand_as(inputs))


def steepness(score: Score, points: Points) -> tuple[PerFeature, Float[Tensor, ""]]:
    """M and L as far as the points tell: the largest |dF/dx_i| and the largest norm of the Hessian.

    Both are too small where the points miss the steepest place: a bound that holds with them holds.
    """
    hessian = torch.func.vmap(torch.func.hessian(lambda point: score(point[None])[0]))
    with torch.no_grad():
        curvature = torch.linalg.matrix_norm(hessian(points), ord=2)
    return plain_gradient(score, points).abs().amax(0), curvature.max()


def certified_steepness(net: nn.Sequential) -> tuple[PerFeature, Float[Tensor, ""]]:
    """M and L that no point exceeds, for a network of dense1, act1, dense2 with one output.

    sum_k |w_k W_ki| max|f'| and sum_k |w_k| |W_k|^2 max|f''|; see STEEPEST for f.
    """
    rows, outer = net.dense1.weight.detach(), net.dense2.weight.detach()[0].abs()
    first, second = STEEPEST[type(net.act1)]
    return first * (outer @ rows.abs()), second * (outer @ rows.square().sum(1))
