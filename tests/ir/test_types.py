"""Types of values: sizes, symbols and names."""

from __future__ import annotations

import pytest
import sympy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.ir.types import (
    TensorType,
    dtype_name,
    dtype_of_name,
    evaluate_dim,
    simplify_dim,
    symbol,
)

BATCH, WIDTH = symbol("batch"), symbol("width")


def test_a_symbol_is_one_positive_integer_per_name() -> None:
    assert symbol("batch") is BATCH
    assert BATCH.is_positive
    assert BATCH.is_integer
    assert BATCH != WIDTH


def test_static_type() -> None:
    found = TensorType(torch.float32, (2, 3, 4))
    assert (found.rank, found.is_static, found.is_float) == (3, True, True)
    assert (found.numel(), found.nbytes(), found.bind({})) == (24, 96, (2, 3, 4))
    assert isinstance(found.numel(), int)
    assert str(found) == "f32[2,3,4]"


def test_symbolic_type() -> None:
    found = TensorType(torch.int8, (BATCH, 3, 2 * WIDTH - 1))
    assert (found.rank, found.is_static, found.is_float) == (3, False, False)
    assert found.nbytes() == simplify_dim(6 * BATCH * WIDTH - 3 * BATCH)
    assert found.bind({"batch": 2, "width": 5}) == (2, 3, 9)
    assert str(found) == "i8[batch,3,2*width - 1]"


def test_scalar_and_empty_types() -> None:
    assert TensorType(torch.int32, ()).numel() == 1
    assert TensorType(torch.int32, ()).nbytes() == 4
    assert TensorType(torch.int64, (0, 5)).nbytes() == 0
    assert str(TensorType(torch.bool, ())) == "i1[]"


@settings(max_examples=20)
@given(st.lists(st.integers(0, 9), max_size=4), st.integers(1, 9))
def test_number_of_elements_is_that_of_the_tensor(sizes: list[int], batch: int) -> None:
    found = TensorType(torch.int16, (BATCH, *sizes))
    x = torch.empty(batch, *sizes, dtype=torch.int16)
    assert evaluate_dim(found.numel(), {"batch": batch}) == x.numel()
    assert evaluate_dim(found.nbytes(), {"batch": batch}) == x.nbytes


def test_dimensions_that_are_constant_become_numbers() -> None:
    assert simplify_dim(BATCH - BATCH + 4) == 4
    assert isinstance(simplify_dim(sympy.Integer(4)), int)
    assert simplify_dim(2 * (BATCH + 1)) == 2 * BATCH + 2


def test_dimensions_take_the_values_of_symbols() -> None:
    assert evaluate_dim(7, {}) == 7
    half = sympy.floor((BATCH * WIDTH + 1) / 2)
    assert evaluate_dim(half, {"batch": 3, "width": 2, "other": 9}) == 3


def test_each_dtype_has_one_name() -> None:
    names = "f32 f64 f16 bf16 c64 c128 i8 u8 i16 u16 i32 u32 i64 u64 i1".split()
    assert len({dtype_of_name(name) for name in names}) == len(names)
    for name in names:
        assert dtype_name(dtype_of_name(name)) == name
    with pytest.raises(KeyError):
        dtype_of_name("f31")
