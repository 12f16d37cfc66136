"""Seeing every call a model makes on its inputs, in whatever spelling, to give each its rule.

A TorchFunctionMode sees functions, methods, operators and modules alike: `F.relu(x)`, `x.relu_()` and
a reused `nn.ReLU()` are all the call "relu", and `nn.ReLU6` is "hardtanh". What depends on the inputs
is tracked tensor by tensor; a call on such a tensor has a rule, is affine, moves values about, or is
refused. Inputs and references run as one batch, so a rule sees both sides of a call at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from attribook.score import Score

Pull = Callable[[Tensor], Tensor]  # gradient with respect to the output -> to the input

ELEMENTWISE = frozenset(
    "relu relu6 hardtanh leaky_relu prelu elu selu celu softplus silu gelu mish hardswish hardsigmoid"
    " tanh sigmoid expit logsigmoid log_sigmoid softsign sqrt clamp clamp_min clamp_max clip".split()
)
WEIGHTED = frozenset(  # (input, weight, bias, ...)
    "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d".split()
)
BILINEAR = frozenset("mul multiply rmul matmul rmatmul mm bmm mv dot einsum".split())
DIVISION = frozenset("div divide true_divide".split())
AVERAGES = frozenset(
    "sum mean avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d"
    " adaptive_avg_pool3d".split()
)
SUMS = frozenset("add radd sub subtract rsub".split())
WINDOWS = {f"{kind}max_pool{n}d": n for n in (1, 2, 3) for kind in ("", "adaptive_")}
STAYING = frozenset(  # they cannot take a row from its place
    "reshape view view_as reshape_as flatten unflatten contiguous clone to type type_as float double"
    " half bfloat16 cpu cuda expand_as pad pixel_shuffle pixel_unshuffle channel_shuffle neg negative"
    " positive".split()
)
MOVING = frozenset(
    "transpose permute T mT H mH t swapaxes swapdims movedim moveaxis adjoint squeeze unsqueeze"
    " expand broadcast_to broadcast_tensors getitem setitem copy index_select gather take_along_dim"
    " narrow select split chunk unbind tensor_split cat concat concatenate stack hstack vstack dstack"
    " repeat repeat_interleave tile roll flip".split()
)
DROPOUT = frozenset(
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_dropout feature_alpha_dropout".split()
)
CONSTANTS = frozenset(  # made from a tensor's shape and type, not from its values
    "new_tensor new_zeros new_ones new_full new_empty zeros_like ones_like full_like empty_like".split()
)
LIKE = frozenset("to type_as view_as reshape_as expand_as".split())  # shape and type of the second
EXTRACTION = frozenset("item tolist numpy bool float int array index".split())

_ATTENTION = "attention mixes its inputs multiplicatively; use integrated_gradients or occlusion"
_FUSED = "a fused kernel hides its nonlinearities; write the cell out with torch.tanh and the like"
_SOFTMAX = "softmax is not elementwise; explain the logit (leave the softmax off the model)"
WAY_OUT = {
    **dict.fromkeys(("softmax", "log_softmax", "softmin"), _SOFTMAX),
    **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu"), _FUSED),
    **dict.fromkeys(("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"), _FUSED),
    **dict.fromkeys(("multi_head_attention_forward", "scaled_dot_product_attention"), _ATTENTION),
    **dict.fromkeys(("pow", "square"), "write x * x, and choose product="),
    **dict.fromkeys(
        ("batch_norm", *DROPOUT), "it is in training mode; call it with training=False"
    ),
}
OPAQUE = {
    torch.jit.ScriptModule: "it hides its calls; pass the original Python module",
    torch.nn.MultiheadAttention: _ATTENTION,
}


class UnsupportedOperation(ValueError):
    """A call that the modified chain rule is not defined for."""


@dataclass(frozen=True)
class Site:
    """One call y = f(z) of an elementwise nonlinearity, and the same at the reference (or None).

    `by_entry` says that f does not mind where an entry stands, so that it applies to a choice of them.
    """

    f: Callable[[Tensor], Tensor]
    z: Tensor
    y: Tensor
    z0: Tensor | None
    y0: Tensor | None
    by_entry: bool = False


@dataclass(frozen=True)
class Affine:
    """One affine call: `run()` makes it; `plus` and `minus` are its parts without bias.

    plus(*operands) + minus(*operands) is the linear part, with the weights split by their sign;
    `bias` is what `run` adds to it, None where only a run would tell. A diagonal map scales or
    shifts: each output has one contribution, with nothing to share out.
    """

    run: Callable[[], Tensor]
    plus: Callable[..., Tensor]
    minus: Callable[..., Tensor | float]
    operands: tuple[Tensor, ...]
    bias: Tensor | float | None = 0.0
    diagonal: bool = False


@dataclass(frozen=True)
class Rows:
    """How a batch divides: inputs first, references last; each may have become k rows on the way."""

    inputs: int
    references: int

    def split(self, z: Tensor) -> tuple[Tensor, Tensor | None]:
        """The inputs' rows and, aligned with them (or one row for all), the references' rows."""
        if not self.references:
            return z, None
        k, rest = divmod(len(z) if z.dim() else 0, self.inputs + self.references)
        if rest or not k:
            raise UnsupportedOperation(
                f"a tensor of shape {tuple(z.shape)} does not keep {self.inputs} inputs and"
                f" {self.references} references apart in its first dimension; keep the batch first"
            )
        here, there = z[: self.inputs * k], z[self.inputs * k :]
        block = self.inputs // self.references
        if block > 1 and (self.references > 1 or k > 1):
            shape = (self.references, block, k, *there.shape[1:])
            there = there.unflatten(0, (self.references, 1, k)).expand(shape).flatten(0, 2)
        return here, there

    def widen(self, pull: Pull) -> Pull:
        """A pull for the inputs' rows as one for all rows; the references get no gradient."""
        if not self.references:
            return pull

        def wide(grad: Tensor) -> Tensor:
            here, there = grad.split([n := len(grad) * self.inputs // self.total, len(grad) - n])
            inner = pull(here)
            one = there[:1] if there.shape[1:] == inner.shape[1:] else inner[:1]
            nothing = torch.zeros_like(one.expand(len(there), *inner.shape[1:]))
            return torch.cat([inner, nothing])  # zeros that lie in memory as the rest, so no copy

        return wide

    def numbers(self, like: Tensor) -> Tensor:
        """The number of the row that each entry belongs to, shaped like this tensor."""
        k = len(like) // self.total
        rows = torch.arange(len(like), dtype=torch.float64, device=like.device) // k
        return rows.view(-1, *[1] * (like.dim() - 1)).expand(like.shape)

    @property
    def total(self) -> int:
        """Inputs and references together."""
        return self.inputs + self.references


@dataclass(frozen=True)
class MaxPool:
    """One max-pooling call: the largest entry of each window."""

    run: Callable[[], Tensor]
    operand: Tensor
    winners: Callable[[Tensor], tuple[Tensor, Tensor]]  # z -> (largest values, where they are)
    scatter: Callable[[Tensor, Tensor], Tensor]  # (values, where) -> their sums, shaped like z
    rows: Rows

    @property
    def z(self) -> Tensor:
        return self.rows.split(self.operand.detach())[0]

    @property
    def z0(self) -> Tensor | None:
        return self.rows.split(self.operand.detach())[1]

    def swapped(self, pull: Pull) -> Tensor:
        """The pooled values, with this pull in place of the routing to the winner."""
        value, _ = self.winners(self.operand.detach())
        wide = self.rows.widen(pull)
        return swap(value, lambda grad: (wide(grad),), self.operand)


@dataclass(frozen=True)
class Product:
    """One product u v (elementwise, of matrices, einsum) of two tensors that depend on the inputs."""

    run: Callable[..., Tensor]
    operands: tuple[Tensor, Tensor]
    rows: Rows

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """(u, u0) and (v, v0)."""
        pairs = [self.rows.split(operand.detach()) for operand in self.operands]
        if not self.rows.references:
            raise ValueError("this product rule compares with a reference; pass baseline=")
        return pairs

    def swapped_at(self, points: list[Tensor]) -> Tensor:
        """The product, with its derivative taken at these points instead."""

        def pulls(grad: Tensor) -> tuple[Tensor, ...]:
            here = grad[: len(grad) * self.rows.inputs // self.rows.total]
            with torch.enable_grad():
                leaves = [point.detach().requires_grad_() for point in points]
                inner = torch.autograd.grad(self.run(*leaves), leaves, here)
            return tuple(self.rows.widen(lambda _, g=g: g)(grad) for g in inner)

        return swap(self.run(*(x.detach() for x in self.operands)), pulls, *self.operands)


class _Swap(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value, pulls, *operands):
        ctx.pulls = pulls
        return value[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return None, None, *ctx.pulls(grad)


def swap(value: Tensor, pulls: Callable[[Tensor], tuple[Tensor, ...]], *operands: Tensor) -> Tensor:
    """`value` forward; backward, `pulls` turns its gradient into one for each operand."""
    return _Swap.apply(
        [value], pulls, *operands
    )  # in a list: a tensor argument would become a view


@dataclass(frozen=True)
class Call:
    """A torch call as the mode sees it, under one name for all its spellings."""

    func: Callable
    args: tuple
    kwargs: dict

    @classmethod
    def of(cls, func: Callable, args: tuple, kwargs: dict) -> Call:
        """The call with its first argument first, also when it was passed as `input=`."""
        if not args and "input" in kwargs:
            kwargs = dict(kwargs)
            args = (kwargs.pop("input"),)
        return cls(func, args, kwargs)

    @cached_property
    def spelled(self) -> str:
        name = getattr(self.func, "__name__", str(self.func))
        return self.func.__self__.__name__ if name == "__get__" else name

    @cached_property
    def name(self) -> str:
        return self.spelled.strip("_")

    @cached_property
    def in_place(self) -> bool:
        spelled = self.spelled
        return bool(self.kwargs.get("inplace")) or (spelled[-1] == "_" and spelled[0] != "_")

    @property
    def tensors(self) -> list[Tensor]:
        return list(_tensors((*self.args, *self.kwargs.values())))

    def run(self):
        return self.func(*self.args, **self.kwargs)

    def anew(self, *first) -> Tensor:
        """The same call, never in place, on other leading arguments."""
        func, kwargs = self.func, self.kwargs
        if "inplace" in kwargs:
            kwargs = {**kwargs, "inplace": False}
        elif self.in_place:
            func = next(getattr(ns, self.name) for ns in (Tensor, F) if hasattr(ns, self.name))
        return func(*first, *self.args[len(first) :], **kwargs)

    def argument(self, position: int, name: str, default=None):
        return self.args[position] if position < len(self.args) else self.kwargs.get(name, default)


class Chain(TorchFunctionMode):
    """The rules of one modified chain rule, applied to every call made while `watching`."""

    def __init__(self, nonlinear, linear, max_pool, product, elementwise, strict):
        super().__init__()
        self.nonlinear, self.linear = nonlinear, linear
        self.max_pool, self.product = max_pool, product
        self.elementwise = ELEMENTWISE | {f.__name__ for f in elementwise}
        self.strict = strict

    @contextmanager
    def watching(self, model, leaf: Tensor, inputs: int, references: int) -> Iterator[Tensor]:
        """Yields the rows to pass to the model: a copy of the leaf that in-place calls may change."""
        for name, module in model.named_modules() if isinstance(model, torch.nn.Module) else ():
            for kind, way_out in OPAQUE.items():
                if self.strict and isinstance(module, kind):
                    raise UnsupportedOperation(f"no rule for {kind.__name__} {name!r}: {way_out}")
        self.counts: Counter[str] = Counter()
        self.rows = Rows(inputs, references)
        self._seen = WeakIdKeyDictionary()  # tensor -> whether it depends on the inputs
        rows = leaf.clone()
        self._seen[rows] = True
        with self:
            yield rows

    def refuse_unseen(self, outputs: Tensor, score: Score) -> None:
        """Raise if the outputs were not computed from the inputs by calls that were seen."""
        if self.strict and score.output != "logit":
            raise UnsupportedOperation(f"no rule for softmax: {_SOFTMAX}")
        if self.strict and not self._depends(outputs):
            raise UnsupportedOperation(
                "the score was not computed from the inputs by torch calls that could be seen"
                " (TorchScript, numpy, a constant); pass plain PyTorch code"
            )
        if len(outputs) != self.rows.total:
            raise ValueError(f"the model made {len(outputs)} rows of {self.rows.total}")

    def __torch_function__(self, func, types, args=(), kwargs=None):
        call = Call.of(func, args, kwargs or {})
        operands = [tensor for tensor in call.tensors if self._depends(tensor)]
        if call.name in LIKE:
            operands = [tensor for tensor in operands if tensor is call.args[0]]
        elif call.name in CONSTANTS:
            operands = []
        result = self._apply(call, operands) if operands else call.run()
        made = [result, call.args[0]] if call.name == "setitem" else [result]
        for tensor in _tensors(made):
            self._seen[tensor] = bool(operands) or self._seen.get(tensor, False)
        return result

    def _depends(self, tensor: Tensor) -> bool:
        if tensor not in self._seen and tensor.grad_fn is not None and self.strict:
            raise UnsupportedOperation(
                f"a tensor made by {type(tensor.grad_fn).__name__} came from a call that could not be"
                " seen (a TorchScript or custom autograd function); write it in plain PyTorch"
            )
        return self._seen.get(tensor, False)

    def _apply(self, call: Call, operands: list[Tensor]):
        if not torch.is_grad_enabled():
            return self._refuse_unless_plain(
                call, "it runs without gradient (torch.no_grad, or a custom autograd function)"
            )
        name, alone = call.name, len(operands) == 1
        if name in self.elementwise and alone and call.args and operands[0] is call.args[0]:
            return self._write(call, self._elementwise(call))
        if name in WINDOWS and not call.kwargs.get("return_indices"):
            return self._pool(_window(call, self.rows))
        if name in ("maximum", "max") and len(operands) == 2:
            return self._pool(_larger(operands, self.rows))
        if name in BILINEAR and len(operands) == 2:
            return self._write(call, self._product(call, operands))
        if (name in WEIGHTED or name in BILINEAR) and alone:
            return self._write(call, self._affine(_by_sign, call, operands))
        if name in DIVISION and alone and operands[0] is call.args[0]:
            return self._write(call, self._affine(_by_sign, call, operands))
        if name in SUMS:
            return self._write(call, self._affine(_terms, call, operands))
        if name in AVERAGES:
            if name in ("sum", "mean") and _reduces_batch(call):
                return self._refuse(call, call.run(), "it mixes the samples of a batch; pass dim=")
            return self._affine(_average, call, operands)
        if name == "batch_norm" and not call.argument(5, "training", False):
            return self._affine(_normalisation, call, operands)
        stays = name in STAYING or (name in DROPOUT and not call.argument(2, "training", True))
        if stays or name in MOVING:
            return self._route(call, operands)
        return self._refuse_unless_plain(call)

    # What each kind of call becomes. A mechanism that carries more than one value overrides these.

    def _elementwise(self, call: Call) -> Tensor:
        operand = call.args[0]
        z = operand.detach().clone() if call.in_place else operand.detach()
        y = call.anew(z)
        (z_here, z0), (y_here, y0) = self.rows.split(z), self.rows.split(y)
        by_entry = call.name != "prelu"  # which has a weight for each channel
        pull = self.rows.widen(self.nonlinear(Site(call.anew, z_here, y_here, z0, y0, by_entry)))
        self.counts[call.spelled] += 1
        return swap(y, lambda grad: (pull(grad),), operand)

    def _affine(
        self, parts: Callable[[Call, list[Tensor]], Affine], call: Call, operands
    ) -> Tensor:
        if self.linear is None:
            return call.anew(*call.args)
        if call.in_place:  # the rule looks at the value before the change
            before = call.args[0].clone()
            operands = [before if x is call.args[0] else x for x in operands]
            call = replace(call, args=(before, *call.args[1:]))
        return self.linear(parts(call, operands))

    def _route(self, call: Call, operands: list[Tensor]):
        if self.rows.references and call.name in MOVING and not self._keeps_rows(call):
            self._refuse(call, None, "it moves the batch, which must stay in the first dimension")
        return call.run()

    def _keeps_rows(self, call: Call) -> bool:
        """Whether the call leaves every row in its place, tried out on the rows' numbers."""

        def numbered(value):
            if isinstance(value, (list, tuple)):
                return type(value)(numbered(entry) for entry in value)
            if not isinstance(value, Tensor) or not value.is_floating_point():
                return value
            if not self._seen.get(value, False):
                return torch.full_like(value, torch.nan)
            numbers = self.rows.numbers(value)
            return numbers.clone() if call.in_place or call.name == "setitem" else numbers

        tried = replace(call, args=numbered(call.args))
        result = tried.run()
        if call.name == "setitem":
            result = tried.args[0]
        for moved in _tensors([result]):
            k, rest = divmod(len(moved) if moved.dim() else 0, self.rows.total)
            if rest or not k:
                return False
            if not (moved.isnan() | (moved == self.rows.numbers(moved))).all():
                return False
        return True

    def _pool(self, call: MaxPool) -> Tensor:
        return self.max_pool(call) if self.max_pool else call.run()

    def _product(self, call: Call, operands: list[Tensor]) -> Tensor:
        if self.product is None:
            way_out = "Eq. 16 has no products; pass product=averaged_product or plain_product"
            return self._refuse(call, call.anew(*call.args), way_out)
        at = [i for i, arg in enumerate(call.args) if isinstance(arg, Tensor)][:2]
        factors = [call.args[i] for i in at]
        if call.in_place:  # the derivative needs the value before the change
            factors[0] = factors[0].clone()

        def run(u: Tensor, v: Tensor) -> Tensor:
            args = list(call.args)
            args[at[0]], args[at[1]] = u, v
            return call.anew(*args)

        return self.product(Product(run, tuple(factors), self.rows))

    def _write(self, call: Call, value: Tensor) -> Tensor:
        """Later readers of a tensor changed in place see the new value."""
        return call.args[0].copy_(value) if call.in_place else value

    def _refuse_unless_plain(self, call: Call, way_out: str = ""):
        result = call.run()
        if next(_tensors([result]), None) is None and call.name not in EXTRACTION:
            return result  # a shape, a dtype, a device
        return self._refuse(call, result, way_out)

    def _refuse(self, call: Call, result, way_out: str = ""):
        if not self.strict:
            return result
        way_out = (
            way_out
            or WAY_OUT.get(call.name)
            or (
                "use a method that needs the function only (integrated_gradients, occlusion),"
                f" pass elementwise=(torch.{call.name},) if it acts on each element by itself,"
                " or strict=False to keep its ordinary derivative"
            )
        )
        raise UnsupportedOperation(f"no rule for {call.spelled}: {way_out}")


def _tensors(values) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from _tensors(value)


def _reduces_batch(call: Call) -> bool:
    """Whether a sum or mean runs over the first dimension."""
    dims = call.argument(1, "dim")
    dims = (dims,) if isinstance(dims, int) else dims
    return not dims or any(dim in (0, -call.args[0].dim()) for dim in dims)


def _average(call: Call, operands: list[Tensor]) -> Affine:
    """A sum, mean or average pooling: all weights are positive."""
    return Affine(call.run, call.anew, lambda *operands: 0.0, tuple(operands))


def _by_sign(call: Call, operands: list[Tensor]) -> Affine:
    """An affine call with its weights split by sign: linear, convolution, product with a constant."""
    (x,) = operands
    bias = 0.0
    if call.name in WEIGHTED:
        weight, rest = call.argument(1, "weight"), call.args[3:]
        if (constant := call.argument(2, "bias")) is not None:
            bias = constant.detach().view(-1, *[1] * (weight.dim() - 2))  # channels, *places
        options = {k: v for k, v in call.kwargs.items() if k not in ("input", "weight", "bias")}

        def apply(x: Tensor, weight: Tensor) -> Tensor:
            return call.func(x, weight, None, *rest, **options)
    elif call.name in DIVISION:
        weight, apply = 1 / torch.as_tensor(call.args[1]).to(x), torch.mul
    else:
        at = next(i for i, arg in enumerate(call.args) if arg is x)
        other = next(
            i for i in range(len(call.args)) if i != at and not isinstance(call.args[i], str)
        )
        weight = torch.as_tensor(call.args[other]).to(x)

        def apply(x: Tensor, weight: Tensor) -> Tensor:
            args = list(call.args)
            args[at], args[other] = x, weight
            return call.anew(*args)

    above, below = weight.clamp(min=0), weight.clamp(max=0)
    return Affine(
        run=lambda: call.anew(*call.args),
        plus=lambda x: apply(x, above),
        minus=lambda x: apply(x, below) if below.any() else 0.0,
        operands=(x,),
        bias=bias,
        diagonal=call.name in DIVISION or call.name in ("mul", "multiply", "rmul"),
    )


def _terms(call: Call, operands: list[Tensor]) -> Affine:
    """A sum or difference; a constant term is the bias."""
    signs = {"sub": (1, -1), "subtract": (1, -1), "rsub": (-1, 1)}.get(call.name, (1, 1))
    scale = (1, call.kwargs.get("alpha", 1))
    weights = [
        sign * by
        for arg, sign, by in zip(call.args, signs, scale, strict=False)
        if any(arg is operand for operand in operands)
    ]

    def part(keep: Callable[[float], bool]) -> Callable[..., Tensor | float]:
        return lambda *xs: sum(w * x for w, x in zip(weights, xs, strict=True) if keep(w))

    return Affine(
        run=lambda: call.anew(*call.args),
        plus=part(lambda w: w > 0),
        minus=part(lambda w: w < 0),
        operands=tuple(operands),
        bias=0.0 if len(operands) > 1 else None,
        diagonal=len(operands) == 1,
    )


def _normalisation(call: Call, operands: list[Tensor]) -> Affine:
    """Batch normalisation with fixed statistics: a scale for each channel, and a bias."""
    (x,) = operands
    mean, variance = call.argument(1, "running_mean"), call.argument(2, "running_var")
    if mean is None or variance is None:
        raise UnsupportedOperation(
            "batch_norm without running statistics depends on the batch; load or track them first"
        )
    scale = (variance + call.argument(7, "eps", 1e-5)).rsqrt()
    if (gamma := call.argument(3, "weight")) is not None:
        scale = scale * gamma
    scale = scale.view(1, -1, *[1] * (x.dim() - 2))
    above, below = scale.clamp(min=0), scale.clamp(max=0)
    return Affine(call.run, lambda x: x * above, lambda x: x * below, (x,), None, diagonal=True)


def _window(call: Call, rows: Rows) -> MaxPool:
    operand, dims = call.args[0], WINDOWS[call.name]
    with_indices = getattr(F, call.name)
    kwargs = {k: v for k, v in call.kwargs.items() if k != "return_indices"}

    def winners(z: Tensor) -> tuple[Tensor, Tensor]:
        return with_indices(z, *call.args[1:], **kwargs, return_indices=True)

    def scatter(values: Tensor, at: Tensor) -> Tensor:
        flat = values.new_zeros(*values.shape[:-dims], operand.shape[-dims:].numel())
        flat.scatter_add_(-1, at.flatten(-dims), values.flatten(-dims))
        return flat.unflatten(-1, operand.shape[-dims:])

    return MaxPool(call.run, operand, winners, scatter, rows)


def _larger(operands: list[Tensor], rows: Rows) -> MaxPool:
    """The larger of two tensors: a window of two."""
    both = torch.stack(torch.broadcast_tensors(*operands), dim=-1)

    def scatter(values: Tensor, at: Tensor) -> Tensor:
        zeros = values.new_zeros(*values.shape, 2)
        return zeros.scatter_add_(-1, at[..., None], values[..., None])

    return MaxPool(lambda: torch.maximum(*operands), both, lambda z: z.max(dim=-1), scatter, rows)
