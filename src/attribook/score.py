"""The one number that is explained, and its plain gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attribook.numerics import refuse_not_finite


class Score:
    """One number a sample: column `target` of what the model returns, or the model's own number.

    S_c(x) of [gradient, Sec. 2]. `target` is one class for all samples or one each, shape (batch,);
    leave it out when the model returns shape (rows,). The score is the logit unless `output` is
    "probability" (softmax over classes). A mechanism may pass k * batch rows, sample by sample
    within each of the k blocks; a target for each sample is tiled accordingly.
    """

    def __init__(
        self,
        model: Callable[[Tensor], Tensor],
        target: int | Tensor | None = None,
        output: str = "logit",
    ):
        if output not in ("logit", "probability"):
            raise ValueError(f'output is "logit" or "probability", got {output!r}')
        self.model = model
        self.target = target
        self.output = output
        self._parts = dict(model.named_modules()) if isinstance(model, nn.Module) else {}
        self.outputs_are_fixed()

    def __call__(self, inputs: Float[Tensor, "rows *features"]) -> Float[Tensor, " rows"]:
        """One forward pass."""
        self.outputs_are_fixed()
        return self.select(self.model(inputs))

    def outputs_are_fixed(self) -> None:
        """Raise if a part of the model is in training mode."""
        for name, module in self._parts.items():
            if module.training:
                raise ValueError(
                    f"{name or 'the model'} is in training mode, where outputs depend on the batch or"
                    " on chance; call model.eval() first"
                )

    def select(self, outputs: Tensor) -> Float[Tensor, " rows"]:
        """The score, read from what the model returned."""
        if self.target is None:
            if outputs.dim() != 1:
                raise ValueError(
                    f"the model returns shape {tuple(outputs.shape)}; pass target=, the class to explain"
                )
            return outputs
        if outputs.dim() != 2:
            raise ValueError(
                f"a target needs outputs of shape (rows, classes), got {tuple(outputs.shape)}"
            )
        if self.output == "probability":
            outputs = outputs.softmax(1)
        if isinstance(self.target, int) and 0 <= self.target < outputs.shape[1]:
            return outputs[:, self.target]
        return outputs.gather(1, self._column(outputs)[:, None]).squeeze(1)

    def split(self, layer: str) -> tuple[nn.Sequential, Score]:
        """The part of the model up to and including `layer`, and the score as a function of its output.

        Any method applies to `(tail, head(inputs))`. Needs a model made of named stages in order
        (`nn.Sequential`, nested ones addressed by dotted names).
        """
        if not isinstance(self.model, nn.Sequential):
            raise ValueError(
                f"only nn.Sequential models of named stages split, got {type(self.model).__name__};"
                " wrap the two parts by hand: head = ..., tail = Score(rest, target)"
            )
        head, rest = _split(self.model, layer.split("."), layer)
        return head.eval(), Score(rest.eval(), self.target, self.output)

    def _column(self, outputs: Tensor) -> Tensor:
        rows, classes = outputs.shape
        target = torch.as_tensor(self.target, device=outputs.device).reshape(-1)
        if target.is_floating_point() or int(target.min()) < 0 or int(target.max()) >= classes:
            raise ValueError(f"target must name one of {classes} classes, got {self.target}")
        if rows % len(target):
            raise ValueError(
                f"{len(target)} targets for {rows} rows; pass one target, or one for each sample"
            )
        return target.repeat(rows // len(target))


def plain_gradient(
    score: Score, inputs: Float[Tensor, "rows *features"]
) -> Float[Tensor, "rows *features"]:
    """dS/dx for each row: one forward and one backward pass."""
    with differentiable():
        leaf = inputs.detach().clone().requires_grad_()
        values = score(leaf.view_as(leaf))  # a non-leaf, so that in-place first layers may run
        return grad_of(values, leaf)


@contextmanager
def differentiable() -> Iterator[None]:
    """Gradients on, whatever the caller has switched off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def grad_of(values: Tensor, leaf: Tensor) -> Tensor:
    """The gradient of the summed values; a clear error when the leaf does not reach them."""
    reached = values.requires_grad
    if reached:
        (gradient,) = torch.autograd.grad(values.sum(), leaf, allow_unused=True)
        reached = gradient is not None
    if not reached:
        raise ValueError(
            "the score has no gradient with respect to its inputs (a black box, or detached inside);"
            " use a perturbation method: occlusion, shapley"
        )
    return gradient


@dataclass
class Passes:
    """What went through a model: calls and rows forward, rows backward."""

    forward_calls: int = 0
    forward_rows: int = 0
    backward_calls: int = 0
    backward_rows: int = 0


@contextmanager
def count_passes(model: nn.Module) -> Iterator[Passes]:
    """Counts the passes made through the model inside the block; leaves no hook behind."""
    passes = Passes()

    def backward(grad: Tensor) -> None:
        passes.backward_calls += 1
        passes.backward_rows += len(grad)

    def forward(module: nn.Module, args: tuple, output: Tensor) -> None:
        passes.forward_calls += 1
        passes.forward_rows += len(output)
        if output.requires_grad:
            output.register_hook(backward)

    handle = model.register_forward_hook(forward)
    try:
        yield passes
    finally:
        handle.remove()


def check_inputs(inputs: Tensor, baseline: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Inputs and baseline, found usable and cut from any graph; zeros of one row for None."""
    check_finite(inputs, "inputs")
    if baseline is None:
        return inputs.detach(), torch.zeros_like(inputs[:1])
    check_finite(baseline, "baseline")
    if baseline.shape[1:] != inputs.shape[1:] or len(baseline) not in (1, len(inputs)):
        raise ValueError(
            f"baseline has shape {tuple(baseline.shape)}; for inputs of shape {tuple(inputs.shape)} it"
            f" must be {(1, *inputs.shape[1:])}, or one for each sample"
        )
    return inputs.detach(), baseline.detach().to(inputs)


def check_finite(tensor: Tensor, what: str) -> None:
    """Raises unless this is a non-empty batch of finite floating-point numbers."""
    if not (isinstance(tensor, Tensor) and tensor.is_floating_point()):
        kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{what} must be a floating-point tensor, got {kind}")
    if tensor.dim() < 2 or not len(tensor):
        raise ValueError(
            f"{what} must have shape (batch, *features) with batch >= 1, got {tuple(tensor.shape)};"
            " add a batch dimension with x[None]"
        )
    refuse_not_finite(
        tensor, f"{what} must be finite, got NaN or infinity; attributions would be, too"
    )


def _split(stages: nn.Sequential, path: list[str], layer: str):
    names = list(stages._modules)
    if path[0] not in names:
        raise ValueError(f"no layer {layer!r}: {path[0]!r} is not among {names}")
    at = names.index(path[0])
    head = {name: stages._modules[name] for name in names[:at]}
    rest = {name: stages._modules[name] for name in names[at + 1 :]}
    here = stages._modules[path[0]]
    if len(path) == 1:
        return _sequential({**head, path[0]: here}), _sequential(rest)
    if not isinstance(here, nn.Sequential):
        raise ValueError(f"no layer {layer!r}: {path[0]!r} has no stages of its own")
    inner_head, inner_rest = _split(here, path[1:], layer)
    return _sequential({**head, path[0]: inner_head}), _sequential({path[0]: inner_rest, **rest})


def _sequential(stages: dict[str, nn.Module]) -> nn.Sequential:
    part = nn.Sequential()
    for name, stage in stages.items():
        part.add_module(name, stage)
    return part
