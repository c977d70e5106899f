"""Hypothesis strategies for calls of integer operators; tensors come from a drawn seed."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from tests.backends.helpers import Case, Const, case

# A failing example names its call, so shrinking (a compilation per step) is left out. What the
# compiler does under sanitizers takes so long that one example is enough.
FEW = settings(
    max_examples=1 if "QCOMPILER_CFLAGS" in os.environ else 3,
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)

Draw = Callable[[st.SearchStrategy[Any]], Any]
ZERO_POINTS = st.sampled_from([-128, -3, 0, 17, 127])
BATCHES = st.sampled_from([0, 1, 1, 1, 1, 3, 3])
RANGES = st.sampled_from([(-128, 127), (-128, 5), (-20, 60), (0, 0)])


def generator(draw: Draw) -> torch.Generator:
    """Returns a torch generator with a drawn seed."""
    return torch.Generator().manual_seed(draw(st.integers(0, 2**31)))


def codes(draw: Draw, shape: tuple[int, ...], low: int = -128) -> torch.Tensor:
    """Returns random int8 values, or now and then only the two extremes."""
    random = generator(draw)
    if draw(st.integers(0, 3)) == 0:
        picks = torch.randint(0, 2, shape, generator=random)
        return torch.where(picks == 1, 127, low).to(torch.int8)
    return torch.randint(low, 128, shape, dtype=torch.int8, generator=random)


def multipliers(draw: Draw, count: int, real: float) -> tuple[Const, Const]:
    """Returns multipliers near a real value: normal form, powers of two, full 31 bits or zeros."""
    random = generator(draw)
    kind = draw(st.sampled_from(["normal", "normal", "power", "full", "zero", "large"]))
    mantissa = torch.randint(2**23, 2**24, (count,), generator=random, dtype=torch.int64) * 128
    exponent = int(torch.tensor(real).log2().floor()) + 1
    shift = 31 - exponent + torch.randint(-1, 3, (count,), generator=random)
    if kind == "power":
        mantissa = torch.full_like(mantissa, 2**30)
    elif kind == "full":
        mantissa = torch.randint(2**30, 2**31, (count,), generator=random, dtype=torch.int64)
    elif kind == "zero":
        mantissa = mantissa * torch.randint(0, 2, (count,), generator=random)
    elif kind == "large":
        shift = torch.randint(2, 33, (count,), generator=random)
    shift = shift.clamp(2, 62)
    return Const(mantissa.to(torch.int32)), Const(shift.to(torch.int32))


def lookup(draw: Draw) -> Const:
    """Returns a random table of 256 codes."""
    return Const(codes(draw, (256,)))


def add_parameters(draw: Draw) -> list[int]:
    """Returns the parameters of a residual addition, now and then of a subtraction."""
    sign = draw(st.sampled_from([1, 1, -1]))
    shift = draw(st.integers(12, 30))
    low, high = draw(RANGES)
    ma, mb = draw(st.integers(0, 2**21)), sign * draw(st.integers(0, 2**21))
    return [draw(ZERO_POINTS), ma, draw(ZERO_POINTS), mb, shift, draw(ZERO_POINTS), low, high]


def bias(draw: Draw, count: int) -> Const:
    """Returns random int32 biases."""
    values = torch.randint(-(2**16), 2**16, (count,), generator=generator(draw))
    return Const(values.to(torch.int32))


@st.composite
def usual_depthwise(draw: Draw) -> tuple[tuple[int, int], ...]:
    """Draws kernel, stride and dilation of a depthwise convolution that has a kernel of its own."""
    kernel, stride = draw(st.sampled_from([3, 5])), draw(st.sampled_from([1, 2]))
    return (kernel, kernel), (stride, stride), (1, 1)


@st.composite
def convolutions(draw: Draw, *, depthwise: bool = False) -> Case:
    """Draws conv2d and conv2d_requant of all shapes.

    Images may be as small as the kernel lets them or absent, strides larger than the kernel.
    """
    groups = draw(st.integers(1, 100) if depthwise else st.sampled_from([1, 1, 1, 2, 3, 12, 32]))
    widest = 1 if depthwise else 9 if groups > 3 else 40
    depth, per_group = draw(st.integers(1, widest)), draw(st.integers(1, widest))
    out_channels = groups * per_group
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    usual = depthwise and draw(st.booleans())
    if usual:
        kernel, stride, dilation = draw(usual_depthwise())
    elif draw(st.integers(0, 4)) == 0:
        stride = (kernel[0] + draw(st.integers(1, 2)), kernel[1] + draw(st.integers(1, 2)))
    padding = [draw(st.integers(0, 3)) for _ in range(4)]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    least = [max(1, r - sum(padding[2 * i : 2 * i + 2])) for i, r in enumerate(reach)]
    spare = (30 if usual else 11) * draw(st.sampled_from([0, 1, 1, 1]))
    height, width = (draw(st.integers(low, max(low, spare))) for low in least)
    batch = draw(BATCHES)
    x = codes(draw, (batch, groups * depth, height, width))
    weight = Const(codes(draw, (out_channels, depth, *kernel), low=-127))
    zero_point = draw(ZERO_POINTS)
    geometry = [zero_point, list(stride), padding, list(dilation), groups]
    offsets = bias(draw, out_channels)
    if draw(st.integers(0, 4)) == 0:
        return case("conv2d", x, weight, offsets, *geometry)
    terms = depth * kernel[0] * kernel[1]
    count = draw(st.sampled_from([1, out_channels]))
    requant = multipliers(draw, count, 1 / (80 * terms**0.5))
    limits = (draw(ZERO_POINTS), *draw(RANGES))
    extras: dict[str, Any] = {}
    if draw(st.integers(0, 3)) == 0:
        extras["table"] = lookup(draw)
    if draw(st.integers(0, 2)) == 0:
        out_height = (height + padding[0] + padding[1] - reach[0]) // stride[0] + 1
        out_width = (width + padding[2] + padding[3] - reach[1]) // stride[1] + 1
        extras["residual"] = codes(draw, (batch, out_channels, out_height, out_width))
        extras["add"] = add_parameters(draw)
    return case("conv2d_requant", x, weight, offsets, *requant, *geometry, *limits, **extras)


@st.composite
def linears(draw: Draw, *, one_row: bool = False) -> Case:
    """Draws linear and linear_requant on values of rank 1 to 4, or on one row of any depth."""
    shape = (draw(BATCHES), *draw(st.lists(st.integers(1, 7), max_size=2)))
    shape = shape[draw(st.sampled_from([0, 0, 0, 0, len(shape)])) :]
    depth, columns = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    if one_row:
        shape = (1,) * len(shape)
        depth, columns = (n * draw(st.sampled_from([1, 1, 9])) for n in (depth, columns))
    x = codes(draw, (*shape, depth))
    weight = Const(codes(draw, (columns, depth), low=-127))
    head = [x, weight, bias(draw, columns)]
    if draw(st.integers(0, 3)) == 0:
        return case("linear", *head, draw(ZERO_POINTS))
    requant = multipliers(draw, draw(st.sampled_from([1, columns])), 1 / (80 * depth**0.5))
    limits = (draw(ZERO_POINTS), draw(ZERO_POINTS), *draw(RANGES))
    extras: dict[str, Any] = {}
    if draw(st.booleans()):
        extras["table"] = lookup(draw)
    if draw(st.booleans()):
        extras["residual"] = codes(draw, (*shape, columns))
        extras["add"] = add_parameters(draw)
    return case("linear_requant", *head, *requant, *limits, **extras)


@st.composite
def matmuls(draw: Draw) -> Case:
    """Draws matmul and matmul_requant: broadcast batches, heads, one row, empty ones."""
    batch = draw(st.lists(st.sampled_from([0, 1, 1, 2, 3]), max_size=2))
    if draw(st.booleans()):
        batch = [draw(st.integers(1, 2)), draw(st.integers(1, 20))]
    rows = draw(st.sampled_from([1, draw(st.integers(1, 40)), draw(st.integers(90, 200))]))
    depth, columns = draw(st.integers(1, 150)), draw(st.integers(1, 150))
    if len(batch) == 2 and rows * columns > 4000:
        columns = 1 + columns % 20
    keep = draw(st.integers(0, len(batch)))
    other = [1 if draw(st.booleans()) else size for size in batch[keep:]]
    a, b = codes(draw, (*batch, rows, depth)), codes(draw, (*other, depth, columns))
    zeros = [draw(ZERO_POINTS), draw(ZERO_POINTS)]
    if draw(st.booleans()):
        return case("matmul", a, b, *zeros)
    requant = multipliers(draw, draw(st.sampled_from([1, columns])), 1 / (5000 * depth**0.5))
    return case("matmul_requant", a, b, *requant, *zeros, draw(ZERO_POINTS), *draw(RANGES))
