"""Packing for signed codes: the shifts around SQDMULH, doubled sums, and pairs of columns."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.backends.native.codes import SIGNED
from qcompiler.backends.native.packing import (
    accumulator_bound,
    fits_words,
    pack_pairs,
    pack_panels,
    pack_products,
    vector_shifts,
    without_left_shifts,
)

INT32 = st.integers(-(2**31), 2**31 - 1)
NORMAL = st.one_of(st.just(0), st.integers(2**23, 2**24 - 1).map(lambda m: m << 7))


def saturated(x: int, bits: int) -> int:
    return max(-(1 << bits - 1), min((1 << bits - 1) - 1, x))


def requantized(x: int, m: int, s: int) -> int:
    """The definition: integer semantics, 2.2."""
    return (saturated(x, s) * m + (1 << s - 1)) >> s


def by_vectors(x: int, m: int, left: int, right: int) -> int:
    """What SQSHL, SQDMULH and SRSHL give (Arm Architecture Reference Manual)."""
    high = saturated(2 * saturated(x << left, 32) * m >> 32, 32)
    return (high + (1 << -right - 1)) >> -right


@given(INT32, NORMAL, st.integers(2, 62))
def test_shifts_around_the_doubling_product_give_sr(x: int, m: int, s: int) -> None:
    left, right = vector_shifts(np.array([m], np.int32), np.array([s], np.int32))
    assert right is not None
    shift = 0 if left is None else int(left[0])
    found, wanted = by_vectors(x, m, shift, int(right[0])), requantized(x, m, s)
    for zero_point in (-128, 0, 127):
        assert saturated(found + zero_point, 8) == saturated(wanted + zero_point, 8)


def test_no_shifts_are_given_where_saturation_would_show() -> None:
    m, s = np.array([100], np.int32), np.array([4], np.int32)
    assert requantized(1000, 100, 4) != by_vectors(1000, 100, 28, -1)
    assert vector_shifts(m, s) == (None, None)


@given(st.lists(st.tuples(st.integers(-127, 127), NORMAL, st.integers(2, 40)), min_size=1))
def test_doubled_sums_requantize_alike(channels: list[tuple[int, int, int]]) -> None:
    weight = np.array([w for w, _, _ in channels], np.int8).reshape(-1, 1, 1, 1)
    bias = np.arange(len(channels), dtype=np.int32)
    m, s = (np.array([c[i] for c in channels], np.int32) for i in (1, 2))
    bound = accumulator_bound(weight, bias, 3)
    new_weight, new_bias, new_shift = without_left_shifts(weight, bias, m, s, bound)
    for i in range(len(channels)):
        for code in (-128, 0, 127):
            one = int(bias[i]) + int(weight[i, 0, 0, 0]) * (code - 3)
            other = int(new_bias[i]) + int(new_weight[i, 0, 0, 0]) * (code - 3)
            assert requantized(one, int(m[i]), int(s[i])) == requantized(
                other, int(m[i]), int(new_shift[i])
            )
        if not weight[i].any() and m[i]:
            assert new_shift[i] >= 32


def test_a_channel_without_weights_costs_its_layer_no_shift() -> None:
    weight = torch.tensor([0, 127], dtype=torch.int8).reshape(2, 1, 1, 1)
    bias = torch.tensor([5, 7], dtype=torch.int32)
    requant = torch.tensor([2**30, 2**30], dtype=torch.int32), torch.tensor([31, 40])
    packed = pack_products(weight, bias, requant, 0, 1, "panels", SIGNED)
    assert packed.multiplier is not None
    assert packed.shift is not None
    assert vector_shifts(packed.multiplier, packed.shift)[0] is None


def test_pairs_hold_eight_values_of_two_columns() -> None:
    weight = np.random.default_rng(0).integers(-127, 128, (20, 13, 2, 1), dtype=np.int8)
    pairs = pack_pairs(pack_panels(weight, 1)).reshape(2, 2, 2, 8, 2, 8)
    for n, k, tap in ((0, 0, 0), (17, 12, 1), (19, 7, 0)):
        assert pairs[n // 16, tap, k // 8, n % 16 // 2, n % 2, k % 8] == weight[n, k, tap, 0]
    assert np.abs(pairs).sum(dtype=np.int64) == np.abs(weight).sum(dtype=np.int64)


@given(INT32, NORMAL, st.integers(2, 62))
def test_results_that_fit_in_words_do_so_with_any_zero_point(x: int, m: int, s: int) -> None:
    multiplier, shift = np.array([m], np.int32), np.array([s], np.int32)
    fits = fits_words(multiplier, shift, np.array([abs(x)]))
    result = requantized(x, m, s)
    if fits:
        assert result - 128 >= -(2**15)
        assert result + 127 < 2**15
    else:
        assert abs(x) == 2**31 or abs(x) * m / 2**s + 129 >= 2**15


def test_one_channel_that_does_not_fit_is_enough() -> None:
    multiplier, bound = np.array([2**30, 2**30], np.int32), np.array([2**20, 2**20])
    assert fits_words(multiplier, np.array([36, 36], np.int32), bound)
    assert not fits_words(multiplier, np.array([36, 35], np.int32), bound)
