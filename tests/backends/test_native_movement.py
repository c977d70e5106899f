"""Data movement in both layouts equals the reference."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.backends.helpers import Case, case, check
from tests.backends.strategies import FEW, Draw, codes, generator

SHAPES = st.lists(st.integers(1, 6), min_size=1, max_size=5).map(tuple)


def value(draw: Draw, shape: tuple[int, ...]) -> torch.Tensor:
    """Returns codes, accumulators or floats."""
    kind = draw(st.sampled_from(["codes", "codes", "int32", "float"]))
    if kind == "codes":
        return codes(draw, shape)
    if kind == "int32":
        return torch.randint(-(2**31), 2**31, shape, generator=generator(draw)).to(torch.int32)
    return torch.randn(shape, generator=generator(draw))


@st.composite
def movements(draw: Draw) -> Case:
    """Draws a call of each movement operator."""
    shape = draw(SHAPES)
    rank = len(shape)
    kind = draw(st.sampled_from(["permute", "slice", "expand", "concat", "pad", "reshape"]))
    dim = draw(st.integers(0, rank - 1))
    if kind == "permute":
        return case("permute", value(draw, shape), draw(st.permutations(range(rank))))
    if kind == "slice":
        start = draw(st.integers(-shape[dim], shape[dim] - 1))
        end = draw(st.sampled_from([2**63 - 1, start + 1 if start >= 0 else 2**63 - 1]))
        return case("slice", value(draw, shape), dim, start, end, draw(st.integers(1, 3)))
    if kind == "expand":
        wide = draw(st.lists(st.integers(1, 3), max_size=5 - rank))
        source = tuple(1 if draw(st.booleans()) else size for size in shape)
        return case("expand", value(draw, source), [*wide, *shape])
    if kind == "pad":
        amounts = [draw(st.integers(0, 3)) for _ in range(2 * draw(st.integers(1, rank)))]
        return case("pad", value(draw, shape), amounts, draw(st.integers(-128, 127)))
    x = value(draw, shape)
    if kind == "concat":
        parts = [x, x[tuple(slice(0, 1 if d == dim else None) for d in range(rank))].clone()]
        return case("concat", [*parts, x.clone()], draw(st.sampled_from([dim, dim - rank])))
    axes = draw(st.permutations(range(rank)))
    cut = sorted(draw(st.sets(st.integers(1, rank), max_size=3)) - {rank})
    pieces = [axes[i:j] for i, j in zip([0, *cut], [*cut, rank], strict=True)]
    target = [int(torch.tensor([shape[a] for a in piece]).prod()) for piece in pieces]
    target[draw(st.integers(0, len(target) - 1))] = -1
    target += [1] * draw(st.integers(0, 4 - len(target))) if len(target) < 4 else []
    return case("reshape", x, target)


@FEW
@given(st.lists(movements(), min_size=60, max_size=60))
def test_movements_equal_the_reference(cases: list[Case]) -> None:
    check(cases)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.float32])
def test_reshapes_between_layouts(dtype: torch.dtype) -> None:
    x = torch.arange(2 * 6 * 4 * 5).reshape(2, 6, 4, 5).to(dtype)
    flat, row = x.reshape(2, -1).clone(), x.reshape(-1).clone()
    cases = [
        case("reshape", x, [0, -1]),
        case("reshape", x, [0, 3, 2, 20]),
        case("reshape", x, [2, 1, 24, 5]),
        case("reshape", x, [-1]),
        case("reshape", flat, [0, 6, 4, 5]),
        case("reshape", flat, [0, -1, 1, 1]),
        case("reshape", row, [1, 6, 8, 5]),
        case("reshape", x, [2, 6, 2, 2, 5]),
    ]
    check(cases)


@st.composite
def wide_movements(draw: Draw) -> Case:
    """Draws movements of sizes on both sides of the blocks of transposition and of vectors."""
    sizes = st.one_of(st.integers(1, 17), st.integers(28, 36), st.integers(62, 70))
    rows, columns = draw(sizes), draw(sizes)
    kind = draw(st.sampled_from(["transpose", "inner", "planes", "flat", "concat", "slice", "pad"]))
    if kind == "transpose":
        return case("permute", value(draw, (rows, columns)), [1, 0])
    if kind == "inner":
        return case("permute", value(draw, (rows, 3, columns)), [2, 1, 0])
    if kind == "planes":
        x = value(draw, (1, draw(st.integers(1, 5)), 9, draw(st.integers(28, 31))))
        return case("reshape", x, [-1])
    x = value(draw, (1, rows, 3, columns))
    if kind == "flat":
        return case("reshape", x, [1, -1])
    if kind == "concat":
        return case("concat", [x, x[:, :1].clone(), x.clone()], 1)
    if kind == "slice":
        return case("slice", x, 1, draw(st.integers(0, rows - 1)), 2**63 - 1, 1)
    return case("pad", x, [draw(st.integers(0, 2)), 1, 1, 0], 3)


@FEW
@given(st.lists(wide_movements(), min_size=60, max_size=60))
def test_wide_movements_equal_the_reference(cases: list[Case]) -> None:
    check(cases)
