"""The closed set of normalized float operators, namespace ``qfloat``, and data movement.

Each entry states how the result's range follows from its operands' and how the result's
quantization parameters relate to them; the passes read these facts instead of knowing operators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F

from qcompiler.ir.integer_ops import INTEGER_OPS
from qcompiler.ir.integer_ops.base import counted_elements, pad_image
from qcompiler.numerics.intervals import Interval
from qcompiler.numerics.unary import UNARY, UnaryFunction
from qcompiler.torch_compat import OpOverload

NAMESPACE = "qfloat"
LIBRARY = torch.library.Library(NAMESPACE, "DEF")

# own: parameters from the result's own range; hard: the same as every activation operand's;
# soft: the same where that is cheap, a requantization otherwise.
Sharing = Literal["own", "hard", "soft"]
# float32 evaluation may leave an exactly computed bound by rounding; bounds grow by this fraction.
_SLACK = 1e-5

RangeRule = Callable[[Mapping[str, Any]], Interval]


@dataclass(frozen=True)
class FloatOp:
    """A normalized float operator: its eager form, its range rule and its sharing rule."""

    name: str
    schema: str
    summary: str
    overload: OpOverload
    eager: Callable[..., torch.Tensor]
    interval: RangeRule
    sharing: Sharing = "own"
    weight: str | None = None
    weight_axis: int = 0


FLOAT_OPS: dict[str, FloatOp] = {}


def float_op(
    schema: str,
    *,
    interval: RangeRule,
    sharing: Sharing = "own",
    weight: str | None = None,
    library: torch.library.Library = LIBRARY,
    namespace: str = NAMESPACE,
) -> Callable[[Callable[..., torch.Tensor]], Callable[..., torch.Tensor]]:
    """Defines a normalized float operator: the decorated function is its eager form."""

    def define(eager: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        name = schema.split("(", 1)[0]
        library.define(schema)
        library.impl(name, eager, "CompositeImplicitAutograd")
        overload = getattr(getattr(torch.ops, namespace), name).default
        summary = (eager.__doc__ or "").strip().splitlines()[0]
        FLOAT_OPS[f"{namespace}::{name}"] = FloatOp(
            name, schema, summary, overload, eager, interval, sharing, weight
        )
        return eager

    return define


def float_op_of(target: object) -> FloatOp | None:
    """Returns the definition behind a call's target, None for other operators."""
    if not isinstance(target, OpOverload):
        return None
    return FLOAT_OPS.get(target._schema.name)


def _same(operands: Mapping[str, Any]) -> Interval:
    found: Interval = operands["x"]
    return found


def _weighted(operands: Mapping[str, Any]) -> Interval:
    """Bounds sum(w*x) + b for x in an interval that padding extends by zero."""
    x, weight, bias = operands["x"], operands["weight"], operands["bias"]
    if not x.is_bounded:
        return Interval.everything()
    flat = weight.to(torch.float64).flatten(1)
    up, down = flat.clamp(min=0).sum(1), flat.clamp(max=0).sum(1)
    low, high = min(x.lo, 0.0), max(x.hi, 0.0)
    offset = bias.to(torch.float64) if isinstance(bias, torch.Tensor) else torch.zeros_like(up)
    least, most = up * low + down * high + offset, up * high + down * low + offset
    return Interval(float(least.min()), float(most.max())).widen(_SLACK)


def _matmul_range(operands: Mapping[str, Any]) -> Interval:
    product: Interval = operands["a"].mul(operands["b"])
    return product.scale(operands["inner_size"]).widen(_SLACK)


def _batch_norm_range(operands: Mapping[str, Any]) -> Interval:
    x = operands["x"]
    if not x.is_bounded:
        return Interval.everything()
    gain = torch.rsqrt(operands["var"].double() + operands["eps"])
    if operands["weight"] is not None:
        gain = gain * operands["weight"].double()
    offset = -operands["mean"].double() * gain
    if operands["bias"] is not None:
        offset = offset + operands["bias"].double()
    ends = torch.stack([gain * x.lo + offset, gain * x.hi + offset])
    return Interval(float(ends.min()), float(ends.max())).widen(_SLACK)


def _clamp_range(operands: Mapping[str, Any]) -> Interval:
    x, low, high = operands["x"], operands["min"], operands["max"]
    low = float("-inf") if low is None else low
    high = float("inf") if high is None else high
    return Interval(min(max(x.lo, low), high), min(max(x.hi, low), high))


def _unary_range(operands: Mapping[str, Any]) -> Interval:
    function = UNARY[operands["function"]]
    return function.image(operands["x"], named_params(function, operands["params"]))


def named_params(function: UnaryFunction, params: Sequence[float]) -> dict[str, float]:
    """Returns a unary function's parameters, given in declared order, by name."""
    return dict(zip((name for name, _ in function.defaults), params, strict=True))


def _with_zero(operands: Mapping[str, Any]) -> Interval:
    joined: Interval = operands["x"].union(Interval(0.0, 0.0))
    return joined


@float_op(
    "conv2d(Tensor x, Tensor weight, Tensor? bias, int[2] stride, int[4] padding,"
    " int[2] dilation, int groups) -> Tensor",
    interval=_weighted,
    weight="weight",
)
def conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> torch.Tensor:
    """Convolves in two dimensions with zero padding (top, bottom, left, right)."""
    top, bottom, left, right = padding
    if top == bottom and left == right:
        return F.conv2d(x, weight, bias, stride, (top, left), dilation, groups)
    return F.conv2d(pad_image(x, padding, 0.0), weight, bias, stride, 0, dilation, groups)


@float_op(
    "linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor", interval=_weighted, weight="weight"
)
def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Multiplies the last dimension by the transposed weight and adds the bias."""
    return F.linear(x, weight, bias)


@float_op(
    "dequantize_weight(Tensor weight, Tensor scale, int axis) -> Tensor",
    interval=lambda _: Interval.everything(),
)
def dequantize_weight(weight: torch.Tensor, scale: torch.Tensor, axis: int) -> torch.Tensor:
    """Multiplies integer weights by the float64 scale of each index of an axis, giving float32."""
    shape = [1] * weight.dim()
    shape[axis] = -1
    return (weight.to(torch.float64) * scale.reshape(shape)).to(torch.float32)


@float_op("matmul(Tensor a, Tensor b) -> Tensor", interval=_matmul_range)
def matmul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Multiplies two matrices of activations; leading dimensions broadcast."""
    return torch.matmul(a, b)


@float_op(
    "batch_norm(Tensor x, Tensor? weight, Tensor? bias, Tensor mean, Tensor var, float eps)"
    " -> Tensor",
    interval=_batch_norm_range,
)
def batch_norm(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    mean: torch.Tensor,
    var: torch.Tensor,
    eps: float,
) -> torch.Tensor:
    """Normalizes channels (dimension 1) by stored statistics."""
    return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)


@float_op("add(Tensor a, Tensor b) -> Tensor", interval=lambda o: o["a"].add(o["b"]).widen(_SLACK))
def add(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Adds two values."""
    return a + b


@float_op("sub(Tensor a, Tensor b) -> Tensor", interval=lambda o: o["a"].sub(o["b"]).widen(_SLACK))
def sub(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Subtracts two values."""
    return a - b


@float_op("mul(Tensor a, Tensor b) -> Tensor", interval=lambda o: o["a"].mul(o["b"]).widen(_SLACK))
def mul(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Multiplies two values element by element."""
    return a * b


@float_op(
    "clamp(Tensor x, float? min, float? max) -> Tensor", interval=_clamp_range, sharing="soft"
)
def clamp(x: torch.Tensor, min: float | None, max: float | None) -> torch.Tensor:
    """Limits values to a range; relu and relu6 are this."""
    return torch.clamp(x, min, max)


@float_op("unary(Tensor x, str function, float[] params) -> Tensor", interval=_unary_range)
def unary(x: torch.Tensor, function: str, params: list[float]) -> torch.Tensor:
    """Applies a named elementwise function of the table of unary functions."""
    return UNARY[function].floating(x, *params)


@float_op(
    "max_pool2d(Tensor x, int[2] kernel, int[2] stride, int[4] padding, int[2] dilation) -> Tensor",
    interval=_same,
    sharing="hard",
)
def max_pool2d(
    x: torch.Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int]
) -> torch.Tensor:
    """Takes the largest element of each window."""
    return F.max_pool2d(pad_image(x, padding, float("-inf")), kernel, stride, 0, dilation)


@float_op(
    "avg_pool2d(Tensor x, int[2] kernel, int[2] stride, int[4] padding, int[4] counted) -> Tensor",
    interval=_with_zero,
)
def avg_pool2d(
    x: torch.Tensor, kernel: list[int], stride: list[int], padding: list[int], counted: list[int]
) -> torch.Tensor:
    """Averages each window; ``counted`` is the part of the padding that counts as elements."""
    total = F.avg_pool2d(pad_image(x, padding, 0.0), kernel, stride, divisor_override=1)
    if padding == counted:
        return total / (kernel[0] * kernel[1])
    rows, columns = total.shape[2], total.shape[3]
    down = counted_elements(
        x.shape[2], rows, kernel[0], stride[0], padding[0], (counted[0], counted[1])
    )
    across = counted_elements(
        x.shape[3], columns, kernel[1], stride[1], padding[2], (counted[2], counted[3])
    )
    return total / (down[:, None] * across[None, :])


@float_op("adaptive_avg_pool2d(Tensor x, int[2] output_size) -> Tensor", interval=_same)
def adaptive_avg_pool2d(x: torch.Tensor, output_size: list[int]) -> torch.Tensor:
    """Averages windows that divide the image into a fixed number of parts."""
    return F.adaptive_avg_pool2d(x, (output_size[0], output_size[1]))


@float_op("mean(Tensor x, int[] dims, bool keepdim) -> Tensor", interval=_same)
def mean(x: torch.Tensor, dims: list[int], keepdim: bool) -> torch.Tensor:
    """Averages over dimensions."""
    return x.mean(dims, keepdim)


def _positions(outputs: int, n: int, d: int, offset: int) -> torch.Tensor:
    return torch.arange(outputs) * d + offset


@float_op(
    "resize_nearest(Tensor x, int[2] output_size, int[4] scale, int[2] offset) -> Tensor",
    interval=_same,
    sharing="hard",
)
def resize_nearest(
    x: torch.Tensor, output_size: list[int], scale: list[int], offset: list[int]
) -> torch.Tensor:
    """Copies the element at ``floor((o * d + offset) / n)`` of each axis."""
    for axis in (0, 1):
        n, d = scale[2 * axis], scale[2 * axis + 1]
        index = _positions(output_size[axis], n, d, offset[axis]) // n
        x = x.index_select(2 + axis, index.clamp(0, x.shape[2 + axis] - 1))
    return x


@float_op(
    "resize_bilinear(Tensor x, int[2] output_size, int[4] scale, int[2] offset) -> Tensor",
    interval=_same,
)
def resize_bilinear(
    x: torch.Tensor, output_size: list[int], scale: list[int], offset: list[int]
) -> torch.Tensor:
    """Blends the four neighbours of the position ``(o * d + offset) / n`` of each axis."""
    for axis in (0, 1):
        n, d = scale[2 * axis], scale[2 * axis + 1]
        position = _positions(output_size[axis], n, d, offset[axis])
        index = position // n
        far = (position - index * n).to(x.dtype) / n
        shape = [-1, 1] if axis == 0 else [-1]
        last = x.shape[2 + axis] - 1
        a = x.index_select(2 + axis, index.clamp(0, last))
        b = x.index_select(2 + axis, (index + 1).clamp(0, last))
        x = a + (b - a) * far.reshape(shape)
    return x


for _name in ("reshape", "permute", "slice", "expand", "concat", "pad"):
    _moves = INTEGER_OPS[f"qcompiler::{_name}"]
    FLOAT_OPS[f"qcompiler::{_name}"] = FloatOp(
        _name,
        _moves.schema,
        _moves.summary,
        _moves.overload,
        _moves.reference,
        _moves.interval,
        "soft" if _name in ("concat", "pad") else "hard",
    )
