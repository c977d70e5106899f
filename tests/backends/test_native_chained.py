"""A 1x1 convolution fused with a depthwise one equals the reference on every instruction set."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.backends.cpu.target import CpuTarget
from qcompiler.backends.native.emitter import why_not
from tests.backends.helpers import LEVELS, Case, Const, build_graph, case, check
from tests.backends.strategies import (
    FEW,
    RANGES,
    ZERO_POINTS,
    Draw,
    bias,
    codes,
    lookup,
    multipliers,
    usual_depthwise,
)

OP = "pointwise_depthwise_requant"


@st.composite
def chains(draw: Draw) -> Case:
    """Draws chains of all shapes: stride above kernel, dilation, images of one pixel or none."""
    depth, channels = draw(st.integers(1, 40)), draw(st.integers(1, 150))
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    stride = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    largest = 14
    if draw(st.booleans()):
        kernel, stride, dilation = draw(usual_depthwise())
        largest = 34
    padding = [draw(st.integers(0, 4)) for _ in range(4)]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    height = draw(st.integers(max(1, reach[0] - padding[0] - padding[1]), largest))
    width = draw(st.integers(max(1, reach[1] - padding[2] - padding[3]), largest))
    x = codes(draw, (draw(st.sampled_from([0, 1, 1, 3])), depth, height, width))

    def constants(shape: tuple[int, ...]) -> list[object]:
        terms = torch.Size(shape[1:]).numel()
        count = draw(st.sampled_from([1, channels]))
        requant = multipliers(draw, count, 1 / (80 * terms**0.5))
        return [Const(codes(draw, shape, low=-127)), bias(draw, channels), *requant]

    first = [x, *constants((channels, depth, 1, 1)), draw(ZERO_POINTS), draw(ZERO_POINTS)]
    second = [*constants((channels, 1, *kernel)), draw(ZERO_POINTS)]
    geometry = [list(stride), padding, list(dilation), draw(ZERO_POINTS)]
    tables = {n: lookup(draw) for n in ("mid_table", "table") if draw(st.integers(0, 2)) == 0}
    return case(OP, *first, *draw(RANGES), *second, *geometry, *draw(RANGES), **tables)


@FEW
@given(st.lists(chains(), min_size=25, max_size=25))
def test_chains_equal_the_reference(cases: list[Case]) -> None:
    check(cases)


def chain(shape: tuple[int, int, int, int], channels: int, kernel: int, stride: int) -> Case:
    """Returns a chain of an inverted residual block."""
    random = torch.Generator().manual_seed(channels + stride)

    def constants(weight: tuple[int, ...], exponent: int) -> list[Const]:
        held = torch.randint(-127, 128, weight, generator=random).to(torch.int8)
        offsets = torch.randint(-999, 999, (channels,), generator=random).to(torch.int32)
        scale = torch.full((channels,), 2**30 + 128, dtype=torch.int32)
        shift = torch.full((channels,), exponent, dtype=torch.int32)
        return [Const(held), Const(offsets), Const(scale), Const(shift)]

    x = torch.randint(-128, 128, shape, dtype=torch.int8, generator=random)
    first = [x, *constants((channels, shape[1], 1, 1), 41), -9, -128, -128, 127]
    second = [*constants((channels, 1, kernel, kernel), 41), -128]
    geometry = [[stride, stride], [kernel // 2] * 4, [1, 1], 4, -128, 127]
    return case(OP, *first, *second, *geometry)


def test_parts_of_large_chains_meet_without_a_gap() -> None:
    """Chains above the parallel threshold, cut into more parts than one image has strips."""
    check([chain((1, 24, 30, 30), 144, 3, 1), chain((3, 32, 21, 17), 192, 5, 2)])


def test_a_part_holds_several_strips() -> None:
    """Rows of one strip stay for the next one where a thread has more rows than fit its cache."""
    check([chain((1, 8, 60, 300), 96, 3, 1), chain((1, 4, 75, 280), 100, 5, 2)], LEVELS[-1:])


def test_weights_of_a_chain_are_constants() -> None:
    one = chain((1, 8, 6, 6), 16, 3, 1)
    graph, _ = build_graph([one])
    assert CpuTarget().why_not(graph.calls[0]) is None
    bare = [one.args[0], *one.args[1:9], one.args[9].tensor, *one.args[10:]]
    graph, _ = build_graph([case(OP, *bare)])
    assert "dw_weight as a constant" in str(why_not(graph.calls[0]))
