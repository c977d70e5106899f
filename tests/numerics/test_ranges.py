"""The range lattice and the lowering of each of its states."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.errors import QCompilerError
from qcompiler.numerics.intervals import Interval
from qcompiler.numerics.ranges import (
    MAX_SCALE,
    MIN_SCALE,
    Range,
    RangeState,
    qparams,
    representable,
)

FINITE = st.floats(-1e30, 1e30)
RANGES = st.one_of(
    st.just(Range.unobserved()),
    st.tuples(FINITE, FINITE, st.booleans()).map(lambda t: Range.of(min(t[:2]), max(t[:2]), t[2])),
)


def test_states_follow_from_the_numbers() -> None:
    assert Range.of(0.0, -0.0).state is RangeState.ZERO
    assert Range.of(2.0, 2.0).state is RangeState.CONSTANT
    assert Range.of(-1.0, 2.0).state is RangeState.FINITE
    assert Range.of(-1.0, 2.0, has_nonfinite=True).state is RangeState.NONFINITE
    for bad in ((1.0, 0.0), (0.0, math.inf), (math.nan, 0.0)):
        with pytest.raises(ValueError, match="no finite range"):
            Range.of(*bad)


@given(RANGES, RANGES, RANGES)
def test_join_is_a_semilattice(a: Range, b: Range, c: Range) -> None:
    assert a.join(a) == a
    assert a.join(b) == b.join(a)
    assert a.join(b).join(c) == a.join(b.join(c))
    assert a.join(Range.unobserved()) == a
    assert a.join(b).has_nonfinite == (a.has_nonfinite or b.has_nonfinite)


def test_meet_clips_to_a_proven_interval() -> None:
    assert Range.of(-1.0, 9.0).meet(Interval(0.0, 6.0)) == Range.of(0.0, 6.0)
    assert Range.of(-1.0, 9.0, True).meet(Interval(0, 6)) == Range.of(0.0, 6.0, True)
    assert Range.of(7.0, 9.0).meet(Interval(0.0, 6.0)) == Range.of(6.0, 6.0)
    assert Range.unobserved().meet(Interval(0, 6)) == Range.of(0.0, 6.0)
    assert not Range.unobserved().meet(Interval(0.0, math.inf)).is_observed


@given(
    st.tuples(FINITE, FINITE).map(lambda t: Range.of(min(t), max(t))),
    st.integers(2, 16),
    st.booleans(),
    st.booleans(),
)
def test_parameters_represent_the_range(
    range_: Range, num_bits: int, signed: bool, symmetric: bool
) -> None:
    scale, zero_point = qparams(range_, num_bits, signed, symmetric)
    assert MIN_SCALE <= scale <= MAX_SCALE
    covered = representable(scale, zero_point, num_bits, signed)
    assert covered.contains(0)
    slack = scale * (0.51 if not symmetric else 1e-9)
    if scale < MAX_SCALE:
        wide = range_.with_zero()
        assert covered.lo <= wide.lo + slack
        assert covered.hi >= wide.hi - slack


def test_each_degenerate_state_has_one_lowering() -> None:
    with pytest.raises(QCompilerError, match="QC0302"):
        qparams(Range.unobserved())
    assert qparams(Range.of(0.0, 0.0)) == (1.0, 0)
    assert qparams(Range.of(0.0, 0.0), signed=False) == (1.0, 0)
    assert qparams(Range.of(0.0, 0.0), signed=False, symmetric=True) == (1.0, 128)
    assert qparams(Range.of(51.0, 51.0)) == (0.2, -128)
    assert qparams(Range.of(-51.0, -51.0)) == (0.2, 127)
    assert qparams(Range.of(-1.0, 2.0, True)) == qparams(Range.of(-1.0, 2.0))
    assert qparams(Range.of(0.0, 1e-30)) == (MIN_SCALE, -128)
    assert qparams(Range.of(-3.4e38, 3.4e38))[0] == MAX_SCALE


def test_plain_parameters() -> None:
    assert qparams(Range.of(0.0, 25.5)) == (0.1, -128)
    assert qparams(Range.of(-1.0, 63.5), symmetric=True) == (0.5, 0)
    assert qparams(Range.of(-127.5, 127.5)) == (1.0, 0)
    assert qparams(Range.of(-126.5, 128.5)) == (1.0, -2)
    assert qparams(Range.of(2.0, 25.5), signed=False) == (0.1, 0)
