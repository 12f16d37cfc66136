"""Attributions of hidden neurons, and of neurons to a patch of the input. [integrated, Sec. 6]

IG_{i,j} is the part of IG_i that flows through neuron j. Summed over inputs it is the conductance
of j, summed over a patch S of inputs it is IG_{S,j}; both come from one path integral in the layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attribook.numerics import at_once, over
from attribook.paths import (
    Rule,
    check_mask,
    gauss_legendre,
    image,
    path_integral,
    right,
    straight,
)
from attribook.score import Score, check_inputs, plain_gradient

Inputs = Float[Tensor, "batch *features"]
Baseline = Float[Tensor, "#batch *features"]
Neurons = Float[Tensor, "batch *neurons"]
Patch = Bool[Tensor, "..."]
# d, N -> from where and to where the difference is taken (None: from the node itself), its factor
Differences = tuple[Tensor | None, Tensor, Tensor]
Step = Callable[[Tensor, int], Differences]

MOST_FLOWS = 5_000_000


def conductance(
    score: Score,
    inputs: Inputs,
    layer: str,
    baseline: Baseline | None = None,
    patch: Patch | None = None,
    n_steps: int = 50,
    rule: Rule | None = None,
) -> Neurons:
    """The conductance of every neuron of a layer, or with `patch` its attribution to that patch.

    IG_{S,j} = int_0^1 dG/dH_j(H(path)) [J_H (x - x0)_S]_j dt for score = G o H [integrated, Eq. 6, 7];
    without a patch, S is all of the input. `patch` is a boolean mask of one input's shape, or one
    that broadcasts over its channels. Over all neurons the attributions add up to what Integrated
    Gradients with the same nodes gives inside the patch. The derivative along the path is exact
    (forward mode), with no step to choose, and costs each node one pass of the head with tangents,
    about two plain ones, and one forward and backward pass of the tail: for all neurons together.
    """
    inputs, baseline = check_inputs(inputs, baseline)
    head, tail = score.split(layer)
    path = image(head, straight(inputs, baseline), patch)
    return path_integral(tail, path, n_steps=n_steps, rule=rule)


def conductance_by_differences(
    score: Score,
    inputs: Inputs,
    layer: str,
    baseline: Baseline | None = None,
    patch: Patch | None = None,
    n_steps: int = 256,
    step: Step | None = None,
) -> Neurons:
    """IG_{S,j} as the paper computes it, by finite differences along the patch's direction.

    |d| sum_k dG/dH_j(H(p_k)) (H_j(p_k + d / (|d| N)) - H_j(p_k)), p_k = path(k / N), d = (x - x0)_S
    [integrated, Eq. 8, `unit_step`]; `path_step` is what the authors' program does. First order in
    1 / N; kept to be compared with `conductance`. Where d = 0 the result is 0. Each of the N nodes
    costs two forward passes of the head and one forward and backward pass of the tail.
    """
    inputs, baseline = check_inputs(inputs, baseline)
    head, tail = score.split(layer)
    difference = inputs - baseline
    mask = 1 if patch is None else check_mask(patch, inputs).to(inputs)
    before, after, factor = (step or unit_step)(difference * mask, n_steps)
    with torch.no_grad():
        total = torch.zeros_like(head(inputs.clone()), dtype=torch.float64)
    together = at_once(max(inputs.numel(), total.numel()))
    for t in torch.from_numpy(right(n_steps)[0]).to(inputs).split(together):
        points = baseline + t.view(-1, *[1] * inputs.dim()) * difference
        with torch.no_grad():
            ahead = head((points + after).flatten(0, 1))
            back = None if before is None else head((points + before).flatten(0, 1))
            hidden = head(points.flatten(0, 1))  # the last, for a head may work in place
        terms = plain_gradient(tail, hidden) * (ahead - (hidden if back is None else back))
        total += terms.unflatten(0, (len(t), -1)).sum(0, dtype=torch.float64)
    return total.to(inputs) * factor.view(-1, *[1] * (total.dim() - 1))


def unit_step(direction: Tensor, n_steps: int) -> Differences:
    """Ahead by 1 / N in the direction's unit vector, and the factor |d|. [integrated, Eq. 8]"""
    size = direction.flatten(1).norm(dim=1)
    unit = over(direction, size.view(-1, *[1] * (direction.dim() - 1)))
    return None, unit / n_steps, size


def path_step(direction: Tensor, n_steps: int) -> Differences:
    """Ahead by the path's own step, d / N, with no factor: as the authors' program does.

    That program takes dG/dH_j at the end of the step, where Eq. 8 takes it at the start.
    """
    return None, direction / n_steps, direction.new_ones(len(direction))


def central_step(direction: Tensor, n_steps: int) -> Differences:
    """Half the path's step back and half ahead: second order in the difference alone."""
    half = direction / (2 * n_steps)
    return -half, half, direction.new_ones(len(direction))


def neuron_flow(
    score: Score,
    inputs: Inputs,
    layer: str,
    baseline: Baseline | None = None,
    n_steps: int = 50,
    rule: Rule | None = None,
) -> Float[Tensor, "batch inputs neurons"]:
    """IG_{i,j}, how much of input i's attribution flows through neuron j, all i and j flattened.

    (x_i - x0_i) int_0^1 dG/dH_j dH_j/dx_i dt [integrated, Eq. 4], by the full Jacobian: as many
    backward passes of the head as the layer has neurons, at every node. For small networks.
    """
    inputs, baseline = check_inputs(inputs, baseline)
    head, tail = score.split(layer)
    with torch.no_grad():
        neurons = head(inputs[:1].clone()).numel()
    if (size := inputs[0].numel() * neurons) > MOST_FLOWS:
        raise ValueError(
            f"{inputs[0].numel()} inputs times {neurons} neurons are {size} flows, at most"
            f" {MOST_FLOWS}; conductance() with a patch gives sums of them without the Jacobian"
        )
    jacobian = torch.func.vmap(torch.func.jacrev(lambda x: head(x[None].clone())[0].flatten()))
    difference, total = inputs - baseline, 0
    for t, weight in zip(*(rule or gauss_legendre)(n_steps), strict=True):
        point = baseline + float(t) * difference
        with torch.no_grad():
            slopes = jacobian(point).flatten(2)  # (batch, neurons, inputs)
            hidden = head(point)
        gradient = plain_gradient(tail, hidden).flatten(1)
        total = total + float(weight) * gradient[:, :, None] * slopes
    return (total * difference.flatten(1)[:, None]).transpose(1, 2)


class Passage(NamedTuple):
    """One input's straight path in a hidden layer: its nodes, how patches move them, the weights."""

    nodes: Float[Tensor, "nodes *neurons"]
    moves: Float[Tensor, "patches nodes *neurons"]
    weights: Float[Tensor, " nodes"]


def passage(
    head: Callable[[Tensor], Tensor],
    inputs: Inputs,
    patches: Bool[Tensor, "patches ..."],
    baseline: Baseline | None = None,
    n_steps: int = 50,
    rule: Rule | None = None,
) -> Passage:
    """What any number of tails needs to know of the head: H and J_H (x - x0)_S along the path.

    The costly half of IG_{S,j} [integrated, Eq. 7], computed once; `patch_attributions` adds the
    rest of a network. Each node costs the head one forward pass with tangents a patch.
    """
    inputs, baseline = check_inputs(inputs, baseline)
    if len(inputs) != 1:
        raise ValueError(f"a passage is that of one input, got {len(inputs)}; pass x[i : i + 1]")
    missing = [1] * (inputs.dim() - patches.dim())  # channels, over which a patch broadcasts
    patches = patches.view(len(patches), *missing, *patches.shape[1:])
    path = image(head, straight(inputs.expand(len(patches), *inputs.shape[1:]), baseline), patches)
    t, weights = map(torch.from_numpy, (rule or gauss_legendre)(n_steps))
    pieces = [path.at(some) for some in t.split(at_once(path.numbers))]
    nodes = torch.cat([points[:, 0] for points, _ in pieces])
    moves = torch.cat([velocities for _, velocities in pieces])  # (nodes, patches, *neurons)
    return Passage(nodes, moves.transpose(0, 1), weights.to(inputs.device))


def patch_attributions(tail: Score, passage: Passage) -> Float[Tensor, "patches *neurons"]:
    """IG_{S,j} of every neuron j to every patch S of the passage, with this tail. [integrated, Eq. 7]

    Over the neurons they add up to the Integrated Gradients, with the same nodes, inside the patch:
    of the whole network, or of the pruned one where the tail is pruned. Costs one forward and
    backward pass of the tail a node, for all patches together.
    """
    rows = passage.nodes.split(at_once(passage.nodes[0].numel()))
    gradient = torch.cat([plain_gradient(tail, some) for some in rows])
    terms = (gradient * passage.moves).to(torch.float64)
    return torch.einsum("k,sk...->s...", passage.weights, terms).to(gradient)
