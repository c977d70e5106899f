"""Compares calls of integer operators with their plain definitions, fake kernels and ranges."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from hypothesis import strategies as st

from qcompiler.ir.integer_ops import INTEGER_OPS, IntegerOp
from qcompiler.ir.queries import PARAMETERS
from qcompiler.ir.types import SymbolRange, TensorType, symbol
from qcompiler.numerics.intervals import Interval
from qcompiler.torch_compat import ShapeInference
from tests.ir import plain, plain_movement, plain_windows
from tests.ir.plain import Array, array

Draw = Callable[[st.SearchStrategy[Any]], Any]

_ARITHMETIC = (
    "quantize dequantize dequantize_accumulator requantize conv2d linear matmul conv2d_requant"
    " pointwise_depthwise_requant linear_requant matmul_requant add mul table clamp"
).split()
_WINDOWS = ("max_pool2d avg_pool2d adaptive_avg_pool2d mean resize_nearest resize_bilinear").split()
DEFINITIONS: Mapping[str, Callable[..., Array]] = {
    **{name: getattr(plain, name) for name in _ARITHMETIC},
    **{name: getattr(plain_windows, name) for name in _WINDOWS},
    "reshape": plain_movement.reshape,
    "permute": plain_movement.permute,
    "slice": plain_movement.slice_,
    "expand": plain_movement.expand,
    "concat": plain_movement.concat,
    "pad": plain_movement.pad,
}
# The exact sum inside an operator, of the same arguments.
SUMS: Mapping[str, Callable[..., Array]] = {
    "conv2d": plain.conv2d_sums,
    "linear": plain.linear_sums,
    "matmul": plain.matmul_sums,
    "conv2d_requant": lambda x, w, b, m, s, *rest: plain.conv2d_sums(x, w, b, *rest[:5]),
    "pointwise_depthwise_requant": plain.pointwise_depthwise_sums,
    "linear_requant": lambda x, w, b, m, s, z, *rest: plain.linear_sums(x, w, b, z),
    "matmul_requant": lambda a, b, m, s, za, zb, *rest: plain.matmul_sums(a, b, za, zb),
    "add": plain.add_sums,
    "mul": plain.mul_sums,
    "avg_pool2d": plain_windows.avg_pool2d_sums,
    "adaptive_avg_pool2d": plain_windows.adaptive_avg_pool2d_sums,
    "mean": plain_windows.mean_sums,
    "resize_bilinear": plain_windows.resize_bilinear_sums,
}
# The exact sum of the first product of a chain of two.
INNER_SUMS: Mapping[str, Callable[..., Array]] = {
    "pointwise_depthwise_requant": plain.pointwise_sums,
}
_MOVEMENT = ("reshape", "permute", "slice", "expand", "concat", "pad")
_DTYPES = {
    "conv2d": torch.int32,
    "linear": torch.int32,
    "matmul": torch.int32,
    "dequantize": torch.float32,
    "dequantize_accumulator": torch.float32,
}
_BATCH = symbol("batch")
_SHAPES = ShapeInference({"batch": SymbolRange()})

BATCHES = st.sampled_from([0, 1, 1, 3])
ZERO_POINTS = st.sampled_from([-128, -5, 0, 19, 127])
RANGES = st.sampled_from([(-128, 127), (-128, 127), (-128, 6), (-19, 60), (0, 0)])


def operator(name: str) -> IntegerOp:
    """Returns an integer operator of our own namespace."""
    return INTEGER_OPS[f"qcompiler::{name}"]


def check(name: str, *args: Any, batch: int | None = None) -> torch.Tensor:
    """Compares a call with its definition; with a batch also its type for a symbolic batch.

    The batch is the first dimension of every activation of the largest rank. The result and the
    sum inside have to lie in the ranges that follow from the operands' ranges.
    """
    op = operator(name)
    real: torch.Tensor = op.overload(*args)
    plains = _map(args, array)
    dtype = _DTYPES.get(name, torch.int8)
    if name in _MOVEMENT:
        first = args[0][0] if isinstance(args[0], list) else args[0]
        dtype = first.dtype
    expected = DEFINITIONS[name](*plains).tensor(dtype)
    assert real.dtype == dtype
    assert torch.equal(real, expected), f"{name}{args} gives {real}, not {expected}"
    _check_fake(op, args, real, batch)
    facts = operand_facts(op, args)
    sums = SUMS[name](*plains).items if op.accumulator is not None else []
    # A range that leaves int32 is that of the exact sum; the result itself wraps.
    _check_range(op.interval(facts), sums if dtype == torch.int32 else real.flatten().tolist())
    if op.accumulator is not None:
        _check_range(op.accumulator(facts), sums)
    if op.inner_accumulator is not None:
        _check_range(op.inner_accumulator(facts), INNER_SUMS[name](*plains).items)
    return real


def operand_facts(op: IntegerOp, args: Sequence[Any]) -> dict[str, Any]:
    """Returns what a range function sees: the tightest interval of each activation."""
    declared = op.overload._schema.arguments
    facts: dict[str, Any] = {}
    for place, arg in enumerate(declared):
        value = args[place] if place < len(args) else arg.default_value
        facts[arg.name] = value if arg.name in PARAMETERS else _map(value, _interval)
    if op.name.startswith("matmul"):
        facts["inner_size"] = args[0].shape[-1]
    if op.name == "mean":
        facts["elements"] = math.prod(args[0].shape[d] for d in args[3])
    return facts


def _interval(x: torch.Tensor) -> Interval:
    numbers = x[~torch.isnan(x)]
    return (
        Interval(*(end.item() for end in numbers.aminmax())) if numbers.numel() else Interval(0, 0)
    )


def _check_range(found: Interval, values: Sequence[float]) -> None:
    outside = [value for value in values if not found.contains(value)]
    assert not outside, f"{outside[0]} is not in {found}"


def _check_fake(op: IntegerOp, args: Sequence[Any], real: torch.Tensor, batch: int | None) -> None:
    declared = op.overload._schema.arguments
    rank = max((t.dim() for a in args for t in _tensors(a)), default=0)

    def stands_for(name: str) -> Callable[[torch.Tensor], TensorType]:
        def type_of(tensor: torch.Tensor) -> TensorType:
            shape = tuple(tensor.shape)
            batched = name not in PARAMETERS and tensor.dim() == rank and rank > 0
            if batch is not None and batched and shape[0] == batch:
                return TensorType(tensor.dtype, (_BATCH, *shape[1:]))
            return TensorType(tensor.dtype, shape)

        return type_of

    given = [_map(value, stands_for(arg.name)) for arg, value in zip(declared, args, strict=False)]
    found = _SHAPES.infer(op.overload, given, {})
    assert found is not None
    assert found.dtype == real.dtype
    assert found.bind({} if batch is None else {"batch": batch}) == tuple(real.shape)


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _tensors(item)]
    return [value] if isinstance(value, torch.Tensor) else []


def _map(value: Any, function: Callable[[torch.Tensor], Any]) -> Any:
    """Returns nested arguments with each tensor replaced."""
    if isinstance(value, torch.Tensor):
        return function(value)
    if isinstance(value, (list, tuple)):
        return [_map(item, function) for item in value]
    return value


# Strategies.


def codes(draw: Draw, shape: Sequence[int], low: int = -128) -> torch.Tensor:
    """Draws int8 values in a drawn interval, now and then only its ends."""
    first, last = sorted((draw(st.integers(low, 127)), draw(st.integers(low, 127))))
    if draw(st.booleans()):
        first, last = low, 127
    seed = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = torch.randint(first, last + 1, tuple(shape), generator=seed)
    if draw(st.integers(0, 3)) == 0:
        values = torch.where(values * 2 > first + last, last, first)
    return values.to(torch.int8)


def weights(draw: Draw, shape: Sequence[int]) -> torch.Tensor:
    """Draws weights of [-127, 127]."""
    return codes(draw, shape, low=-127)


def biases(draw: Draw, count: int) -> torch.Tensor:
    """Draws int32 biases, now and then at the ends of int32, where sums wrap."""
    size = draw(st.sampled_from([10, 2**12, 2**31 - 1]))
    values = draw(st.lists(st.integers(-size, size), min_size=count, max_size=count))
    return torch.tensor(values, dtype=torch.int32)


def scales(draw: Draw, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws multipliers and shifts: normal form, powers of two (ties), 31 bits and zero."""
    kinds = st.one_of(
        st.integers(2**23, 2**24 - 1).map(lambda m: m << 7),
        st.just(2**30),
        st.sampled_from([0, 1, 2**31 - 128, 2**31 - 1]),
        st.integers(0, 2**31 - 1),
    )
    near = st.one_of(st.integers(30, 42), st.integers(2, 62))
    m = draw(st.lists(kinds, min_size=count, max_size=count))
    s = draw(st.lists(near, min_size=count, max_size=count))
    return torch.tensor(m, dtype=torch.int32), torch.tensor(s, dtype=torch.int32)


def limits(draw: Draw) -> tuple[int, int, int]:
    """Draws an output's zero point and clamping range."""
    return (draw(ZERO_POINTS), *draw(RANGES))


def addition(draw: Draw) -> list[int]:
    """Draws the parameters of an addition or a subtraction that fit int32 (5.5)."""
    shift = draw(st.integers(12, 30))
    factor = st.one_of(st.integers(0, 2**21), st.sampled_from([0, 2**20, 2**21, 1 << (shift - 10)]))
    sign = draw(st.sampled_from([1, 1, -1]))
    numbers = [draw(ZERO_POINTS), draw(factor), draw(ZERO_POINTS), sign * draw(factor), shift]
    return [*numbers, *limits(draw)]
