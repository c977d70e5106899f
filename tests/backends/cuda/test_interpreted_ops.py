"""Every operator in Triton's interpreter equals the reference, on the cases of the CPU's tests."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tests.backends.cuda.interpreter import check
from tests.backends.helpers import Case
from tests.backends.strategies import FEW, convolutions, linears, matmuls
from tests.backends.test_native_elementwise import (
    borders,
    elementwise,
    wide_borders,
    wide_elementwise,
    wide_windows,
    windows,
)
from tests.backends.test_native_movement import movements, wide_movements


@FEW
@given(st.lists(st.one_of(borders(), wide_borders()), min_size=8, max_size=8))
def test_borders_equal_the_reference(cases: list[Case]) -> None:
    check(cases)


@FEW
@given(st.lists(st.one_of(elementwise(), wide_elementwise()), min_size=12, max_size=12))
def test_elementwise_operators_equal_the_reference(cases: list[Case]) -> None:
    check(cases)


@FEW
@given(st.lists(st.one_of(windows(), windows(), wide_windows()), min_size=8, max_size=8))
def test_pooling_and_resize_equal_the_reference(cases: list[Case]) -> None:
    check(cases)


@FEW
@given(st.lists(st.one_of(movements(), wide_movements()), min_size=15, max_size=15))
def test_movements_equal_the_reference(cases: list[Case]) -> None:
    check(cases)


@FEW
@given(st.lists(convolutions(), min_size=5, max_size=5))
def test_convolutions_equal_the_reference(cases: list[Case]) -> None:
    check(cases)


@FEW
@given(st.lists(convolutions(depthwise=True), min_size=3, max_size=3))
def test_depthwise_convolutions_equal_the_reference(cases: list[Case]) -> None:
    check(cases)


@FEW
@given(st.lists(linears(), min_size=6, max_size=6))
def test_linear_equals_the_reference(cases: list[Case]) -> None:
    check(cases)


@FEW
@given(st.lists(linears(one_row=True), min_size=6, max_size=6))
def test_one_row_equals_the_reference(cases: list[Case]) -> None:
    check(cases)


@FEW
@given(st.lists(matmuls(), min_size=4, max_size=4))
def test_matmul_equals_the_reference(cases: list[Case]) -> None:
    check(cases)
