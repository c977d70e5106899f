"""Data movement against its definitions, for codes and for floats (5.6)."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.numerics.intervals import Interval
from tests.ir.calls import BATCHES, Draw, check, codes, operator

SIZES = st.lists(st.integers(1, 3), min_size=1, max_size=3)
END = 2**63 - 1


def value(draw: Draw, shape: tuple[int, ...]) -> torch.Tensor:
    """Draws codes, or the same numbers as floats."""
    x = codes(draw, shape)
    return x.to(draw(st.sampled_from([torch.int8, torch.float32])))


@settings(max_examples=40)
@given(st.data(), BATCHES)
def test_reshape(data: st.DataObject, batch: int) -> None:
    sizes = data.draw(SIZES)
    x = value(data.draw, (batch, *sizes))
    specs: list[list[int]] = [
        [0, -1],
        [0, math.prod(sizes)],
        [0, *sizes[:-1], -1, 1],
        [0, *reversed(sizes)],
        [0] * (1 + len(sizes)),
        [0, 0, -1],
        [-1, *sizes],
        [-1, math.prod(sizes)],
    ]
    check("reshape", x, data.draw(st.sampled_from(specs)), batch=batch)


@pytest.mark.parametrize("spec", [[0, -1], [0, 3, -1], [-1, 12], [0, 0, 2, -1], [0, -1, 4]])
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_reshape_of_an_empty_batch(batch: int, spec: list[int]) -> None:
    got = check("reshape", torch.zeros(batch, 3, 4), spec, batch=batch)
    assert got.shape[0] == batch


@settings(max_examples=25)
@given(st.data(), BATCHES)
def test_permute(data: st.DataObject, batch: int) -> None:
    x = value(data.draw, (batch, *data.draw(SIZES)))
    dims = data.draw(st.permutations(range(x.dim())))
    negative = data.draw(st.booleans())
    got = check("permute", x, [d - x.dim() if negative else d for d in dims], batch=batch)
    assert got.is_contiguous()


@settings(max_examples=40)
@given(st.data(), BATCHES)
def test_slice(data: st.DataObject, batch: int) -> None:
    x = value(data.draw, (batch, data.draw(st.integers(1, 5)), 2))
    start = data.draw(st.integers(-6, 6))
    end = data.draw(st.one_of(st.integers(-6, 6), st.just(END)))
    args: list[Any] = [
        data.draw(st.sampled_from([1, -2])),
        start,
        end,
        data.draw(st.integers(1, 3)),
    ]
    check("slice", x, *args, batch=batch)
    check("slice", x, 0, *args[1:])


@settings(max_examples=25)
@given(st.data(), BATCHES)
def test_expand(data: st.DataObject, batch: int) -> None:
    sizes = data.draw(SIZES)
    kept = [1 if data.draw(st.booleans()) else size for size in sizes]
    x = value(data.draw, (batch, *kept))
    spec = [-1, *(-1 if have == size and data.draw(st.booleans()) else size
                  for have, size in zip(kept, sizes, strict=True))]  # fmt: skip
    check("expand", x, spec, batch=batch)
    check("expand", x, [2, 1, *spec])


@settings(max_examples=30)
@given(st.data(), BATCHES)
def test_concat(data: st.DataObject, batch: int) -> None:
    count, dim = data.draw(st.integers(1, 3)), data.draw(st.integers(-3, 2))
    shapes = [[batch, 2, 3] for _ in range(count)]
    if dim % 3:
        for shape in shapes:
            shape[dim] = data.draw(st.integers(1, 3))
    dtype = data.draw(st.sampled_from([torch.int8, torch.float32]))
    check("concat", [codes(data.draw, s).to(dtype) for s in shapes], dim, batch=batch)


@settings(max_examples=30)
@given(st.data(), BATCHES)
def test_pad(data: st.DataObject, batch: int) -> None:
    x = value(data.draw, (batch, 2, 3))
    pairs = data.draw(st.integers(0, 3))
    padding = data.draw(st.lists(st.integers(0, 2), min_size=2 * pairs, max_size=2 * pairs))
    constant: float = data.draw(st.integers(-128, 127))
    if x.is_floating_point():
        constant = data.draw(st.sampled_from([0.0, -1.5, math.inf, -math.inf]))
    got = check("pad", x, padding, constant, batch=batch)
    assert torch.equal(got, torch.nn.functional.pad(x, padding, value=constant))


def test_results_never_share_memory_with_operands() -> None:
    x = torch.arange(6, dtype=torch.int8).reshape(2, 3)
    ops = torch.ops.qcompiler
    results = [
        ops.reshape(x, [0, 3]),
        ops.permute(x, [0, 1]),
        ops.slice(x, 0, 0, END, 1),
        ops.expand(x, [-1, -1]),
        ops.concat([x], 0),
        ops.pad(x, [], 0),
    ]
    for result in results:
        assert torch.equal(result, x)
        assert result.data_ptr() != x.data_ptr()


def test_ranges_of_movement_are_attained() -> None:
    x, y = Interval(-3, 4), Interval(2, 9)
    for name in ("reshape", "permute", "slice", "expand"):
        assert operator(name).interval({"x": x}) == x
    assert operator("concat").interval({"xs": [x, y]}) == Interval(-3, 9)
    assert operator("pad").interval({"x": y, "value": -1.5}) == Interval(-1.5, 9)
