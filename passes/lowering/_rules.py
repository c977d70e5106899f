"""How each normalized float operator becomes integer operators."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import fx

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import inherit_quant, origin_of, qtype_of, type_of, update_quant
from qcompiler.ir.float_ops import named_params
from qcompiler.ir.graph import is_call
from qcompiler.ir.qtypes import Granularity, QType
from qcompiler.numerics.requant import (
    add_multipliers,
    average_multipliers,
    multiplier_from_scale,
    multipliers_from_scales,
)
from qcompiler.numerics.rounding import round_half_even_exact
from qcompiler.numerics.tables import build_table
from qcompiler.numerics.unary import UNARY
from qcompiler.rewrite.lowering import Lowering, Rule
from qcompiler.torch_compat import OpOverload

INTEGER = torch.ops.qcompiler


def accumulator_scales(x: QType, scales: Sequence[float]) -> list[Fraction]:
    """Returns the exact scale of each channel of an accumulator: input scale times weight scale."""
    return [x.exact_scale * Fraction(s) for s in scales]


def rescale(low: Lowering, node: fx.Node, source: QType, axis: int = 0) -> fx.Node:
    """Requantizes an integer value to the result's type; the same node when the types agree."""
    if (source.scale, source.zero_point) == (low.qtype.scale, low.qtype.zero_point):
        return node
    m, s = multiplier_from_scale(low.ratio(source))
    multiplier, shift = low.constant([m], "multiplier"), low.constant([s], "shift")
    result = low.call(
        INTEGER.requantize.default,
        node,
        multiplier,
        shift,
        axis,
        source.tensor_zero_point,
        *low.limits,
    )
    update_quant(result, qtype=low.qtype, why="the two sides have different scales")
    return result


def _weighted(low: Lowering, target: OpOverload, axis: int, *options: Any) -> fx.Node:
    x, x_type = low.operand("x")
    codes, scale_node, _ = low.args["weight"].args
    weight = low.graph.constant(codes)
    scales = low.graph.constant(scale_node).tolist()
    exact = accumulator_scales(x_type, scales)
    bias = _integer_bias(low, exact)
    kept = low.graph.add_constant(weight, f"{low.node.name}_weight", low.node)
    inherit_quant(kept, codes)
    acc = low.call(target, x, kept, bias, x_type.tensor_zero_point, *options)
    channels = tuple(float(s) for s in exact)
    update_quant(
        acc,
        qtype=QType(32, channels, (0,) * len(channels), granularity=Granularity(axis)),
    )
    ratios = [s / low.qtype.exact_scale for s in exact]
    multipliers, shifts = multipliers_from_scales(ratios)
    return low.call(
        INTEGER.requantize.default,
        acc,
        low.constant(multipliers, "multiplier"),
        low.constant(shifts, "shift"),
        axis,
        0,
        *low.limits,
    )


def _integer_bias(low: Lowering, scales: list[Fraction]) -> fx.Node:
    node = low.args["bias"]
    values = [0.0] * len(scales) if node is None else low.graph.constant(node).tolist()
    codes = [round_half_even_exact(Fraction(v) / s) for v, s in zip(values, scales, strict=True)]
    for channel, code in enumerate(codes):
        if not -(2**31) <= code < 2**31:
            raise QCompilerError(
                "QC0403",
                f"the bias of channel {channel} of {low.node.name} is {code} at the scale of its "
                "accumulator",
                node=low.node.name,
                source=origin_of(low.node).source,
                remedy="run quantize-weights, which raises the scale of such a channel",
            )
    return low.constant(codes, "bias")


def _conv2d(low: Lowering) -> fx.Node:
    names = ("stride", "padding", "dilation", "groups")
    return _weighted(low, INTEGER.conv2d.default, 1, *(low.args[n] for n in names))


def _linear(low: Lowering) -> fx.Node:
    return _weighted(low, INTEGER.linear.default, type_of(low.node).rank - 1)


def _matmul(low: Lowering) -> fx.Node:
    (a, a_type), (b, b_type) = low.operand("a"), low.operand("b")
    acc = low.call(INTEGER.matmul.default, a, b, a_type.tensor_zero_point, b_type.tensor_zero_point)
    scale = a_type.exact_scale * b_type.exact_scale
    update_quant(acc, qtype=QType(32, (float(scale),), (0,)))
    m, s = multiplier_from_scale(low.ratio(a_type, b_type))
    multiplier, shift = low.constant([m], "multiplier"), low.constant([s], "shift")
    return low.call(INTEGER.requantize.default, acc, multiplier, shift, 0, 0, *low.limits)


def _sum(low: Lowering, sign: int) -> fx.Node:
    (a, a_type), (b, b_type) = low.operand("a"), low.operand("b")
    ma, mb, shift = add_multipliers(low.ratio(a_type), sign * low.ratio(b_type))
    za, zb = a_type.tensor_zero_point, b_type.tensor_zero_point
    return low.call(INTEGER.add.default, a, b, za, ma, zb, mb, shift, *low.limits)


def _mul(low: Lowering) -> fx.Node:
    (a, a_type), (b, b_type) = low.operand("a"), low.operand("b")
    m, s = multiplier_from_scale(low.ratio(a_type, b_type))
    za, zb = a_type.tensor_zero_point, b_type.tensor_zero_point
    return low.call(INTEGER.mul.default, a, b, za, zb, m, s, *low.limits)


def _clamp(low: Lowering) -> fx.Node:
    x, x_type = low.operand("x")
    y = rescale(low, x, x_type)
    _, qmin, qmax = low.limits
    low_code, high_code = qmin, qmax
    if low.args["min"] is not None:
        low_code = _code(low, low.args["min"])
    if low.args["max"] is not None:
        high_code = _code(low, low.args["max"])
    if (low_code, high_code) == (qmin, qmax) and not is_call(y, INTEGER.requantize.default):
        return y
    return low.call(INTEGER.clamp.default, y, low_code, high_code)


def _code(low: Lowering, real: float) -> int:
    """Returns the code of a real number in the result's type, saturated."""
    zero_point, qmin, qmax = low.limits
    if real in (float("inf"), float("-inf")):
        return qmax if real > 0 else qmin
    code = round_half_even_exact(Fraction(real) / low.qtype.exact_scale) + zero_point
    return min(max(code, qmin), qmax)


def _unary(low: Lowering) -> fx.Node:
    x, x_type = low.operand("x")
    function = UNARY[low.args["function"]]
    entries = build_table(
        function,
        named_params(function, low.args["params"]),
        x_type.tensor_scale,
        x_type.tensor_zero_point,
        low.qtype.tensor_scale,
        low.qtype.tensor_zero_point,
        low.qtype.qmin,
        low.qtype.qmax,
    )
    table = low.graph.add_constant(entries, f"{low.node.name}_table", low.node)
    return low.call(INTEGER.table.default, x, table)


def _average(low: Lowering, target: OpOverload, count: int, *options: Any) -> fx.Node:
    x, x_type = low.operand("x")
    ratio = low.ratio(x_type)
    multipliers, shifts = average_multipliers(count, None if ratio == 1 else ratio)
    return low.call(
        target,
        x,
        low.constant(multipliers, "multiplier"),
        low.constant(shifts, "shift"),
        *options,
        x_type.tensor_zero_point,
        *low.limits,
    )


def _avg_pool2d(low: Lowering) -> fx.Node:
    kernel = low.args["kernel"]
    options = (kernel, low.args["stride"], low.args["padding"], low.args["counted"])
    return _average(low, INTEGER.avg_pool2d.default, kernel[0] * kernel[1], *options)


def _static(low: Lowering, dims: Sequence[int]) -> list[int]:
    shape = type_of(low.args["x"]).shape
    sizes = [shape[d] for d in dims]
    if not all(isinstance(s, int) for s in sizes):
        problem = f"{low.node.name} averages over a dynamic dimension"
        remedy = "declare that dimension fixed: its size is a divisor known at compile time"
        raise low.error(problem, remedy)
    return [int(s) for s in sizes]


def _adaptive_avg_pool2d(low: Lowering) -> fx.Node:
    size = low.args["output_size"]
    height, width = _static(low, (2, 3))
    tallest = max(-(-(i + 1) * height // size[0]) - i * height // size[0] for i in range(size[0]))
    widest = max(-(-(i + 1) * width // size[1]) - i * width // size[1] for i in range(size[1]))
    return _average(low, INTEGER.adaptive_avg_pool2d.default, tallest * widest, size)


def _mean(low: Lowering) -> fx.Node:
    x, x_type = low.operand("x")
    count = 1
    for size in _static(low, low.args["dims"]):
        count *= size
    ratio = low.ratio(x_type)
    if ratio == 1:
        multipliers, shifts = (values[-1:] for values in average_multipliers(count))
    else:
        multipliers, shifts = average_multipliers(1, ratio / count)
    return low.call(
        INTEGER.mean.default,
        x,
        low.constant(multipliers, "multiplier"),
        low.constant(shifts, "shift"),
        low.args["dims"],
        low.args["keepdim"],
        x_type.tensor_zero_point,
        *low.limits,
    )


def _resize_bilinear(low: Lowering) -> fx.Node:
    x, x_type = low.operand("x")
    scale = low.args["scale"]
    m, s = multiplier_from_scale(low.ratio(x_type) / (scale[0] * scale[2]))
    return low.call(
        INTEGER.resize_bilinear.default,
        x,
        low.constant([m], "multiplier"),
        low.constant([s], "shift"),
        low.args["output_size"],
        scale,
        low.args["offset"],
        x_type.tensor_zero_point,
        *low.limits,
    )


def _concat(low: Lowering) -> fx.Node:
    parts = [rescale(low, low.integer(n), qtype_of(n)) for n in low.args["xs"]]
    return low.call(INTEGER.concat.default, parts, low.args["dim"])


def _pad(low: Lowering) -> fx.Node:
    x = rescale(low, *low.operand("x"))
    value = _code(low, float(low.args["value"]))
    return low.call(INTEGER.pad.default, x, low.args["padding"], value)


def _same(target: OpOverload) -> Rule:
    """Makes the rule of an operator whose integer form has the same arguments."""

    def lower(low: Lowering) -> fx.Node:
        x, _ = low.operand("x")
        return low.call(target, x, *[v for n, v in low.args.items() if n != "x"])

    return lower


RULES: dict[str, Rule] = {
    "qfloat::conv2d": _conv2d,
    "qfloat::linear": _linear,
    "qfloat::matmul": _matmul,
    "qfloat::add": lambda low: _sum(low, 1),
    "qfloat::sub": lambda low: _sum(low, -1),
    "qfloat::mul": _mul,
    "qfloat::clamp": _clamp,
    "qfloat::unary": _unary,
    "qfloat::max_pool2d": _same(INTEGER.max_pool2d.default),
    "qfloat::avg_pool2d": _avg_pool2d,
    "qfloat::adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "qfloat::mean": _mean,
    "qfloat::resize_nearest": _same(INTEGER.resize_nearest.default),
    "qfloat::resize_bilinear": _resize_bilinear,
    "qcompiler::reshape": _same(INTEGER.reshape.default),
    "qcompiler::permute": _same(INTEGER.permute.default),
    "qcompiler::slice": _same(INTEGER.slice.default),
    "qcompiler::expand": _same(INTEGER.expand.default),
    "qcompiler::concat": _concat,
    "qcompiler::pad": _pad,
}
