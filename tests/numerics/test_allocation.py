"""allocate: against brute force on small instances, proven on large ones, honest out of time."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.numerics.allocation import Options, Solution, allocate, front, least, total

COST = st.integers(0, 40)
ERROR = st.one_of(st.integers(0, 20).map(float), st.floats(0.0, 1e6))


@st.composite
def groups_of(draw: st.DrawFn, costs: tuple[str, ...] = ("size",)) -> list[Options]:
    groups = []
    for _ in range(draw(st.integers(1, 5))):
        count = draw(st.integers(1, 4))
        many = st.lists(COST.map(float), min_size=count, max_size=count).map(tuple)
        errors = tuple(draw(st.lists(ERROR, min_size=count, max_size=count)))
        groups.append(Options(errors, {name: draw(many) for name in costs}))
    return groups


def brute_force(groups: list[Options], limits: dict[str, float]) -> float | None:
    places = itertools.product(*(range(len(g.errors)) for g in groups))
    fitting = [c for c in places if all(total(groups, c, name) <= limits[name] for name in limits)]
    return min((total(groups, c) for c in fitting), default=None)


def check(groups: list[Options], limits: dict[str, float]) -> None:
    found, best = allocate(groups, limits), brute_force(groups, limits)
    if best is None:
        assert found is None
        return
    assert found is not None
    assert found.error == pytest.approx(best, rel=2e-6, abs=1e-12)
    assert found.error == total(groups, found.chosen)
    assert found.bound <= found.error
    assert all(total(groups, found.chosen, name) <= limit for name, limit in limits.items())


@settings(max_examples=150, deadline=None)
@given(groups=groups_of(), share=st.floats(0.0, 1.2))
def test_one_limit_is_met_as_by_brute_force(groups: list[Options], share: float) -> None:
    low, high = least(groups, "size"), sum(max(g.costs["size"]) for g in groups)
    check(groups, {"size": float(int(low + share * (high - low)))})


@settings(max_examples=100, deadline=None)
@given(groups=groups_of(("size", "seconds")), limits=st.tuples(COST, COST))
def test_two_limits_are_met_as_by_brute_force(
    groups: list[Options], limits: tuple[int, int]
) -> None:
    check(groups, {"size": 2.0 * limits[0], "seconds": 2.0 * limits[1]})


@settings(max_examples=60, deadline=None)
@given(count=st.integers(2, 6), seed=st.integers(0, 1000))
def test_equal_ratios_leave_no_good_order(count: int, seed: int) -> None:
    """Error and size add up to a constant: every order of gains is as good, few sums fit."""
    source = np.random.default_rng(seed)
    groups = []
    for _ in range(count):
        size = np.cumsum(source.integers(1, 100, 3)).astype(float)
        groups.append(Options(tuple(300.0 - size), {"size": tuple(size)}))
    low, high = least(groups, "size"), sum(max(g.costs["size"]) for g in groups)
    check(groups, {"size": (low + high) // 2})


def test_small_errors_count_beside_huge_ones() -> None:
    """A width that nobody wants must not hide differences of the others."""
    huge = Options((1e12, 1e-6, 1e-9), {"size": (0.0, 5.0, 6.0)})
    small = Options((3e-9, 2e-9, 1e-9), {"size": (1.0, 2.0, 4.0)})
    for limit in range(6, 12):
        check([huge, small, small], {"size": float(limit)})


def _instance(kind: str, seed: int) -> tuple[list[Options], dict[str, float]]:
    source = np.random.default_rng(seed)
    widths = np.array([2.0, 3.0, 4.0, 6.0, 8.0])
    if kind == "layers":
        size = np.ceil(source.integers(100, 10**6, 200)[:, None] * widths / 8)
        error = source.lognormal(0, 3, (200, 1)) * 4.0**-widths * source.uniform(0.7, 1.3, (200, 5))
    elif kind == "equal layers":
        size = np.tile(widths * 1000, (200, 1))
        error = 4.0**-widths * source.uniform(0.99, 1.01, (200, 1))
    elif kind == "correlated":
        size = np.cumsum(source.integers(1000, 2000, (200, 5)), 1).astype(float)
        error = 1e4 - size + source.integers(0, 10, (200, 5))
    else:
        size = np.cumsum(source.integers(10**5, 10**6, (200, 5)), 1).astype(float)
        error = size.max() - size
    groups = [
        Options(tuple(e), {"size": tuple(s)})
        for e, s in zip(error.tolist(), size.tolist(), strict=True)
    ]
    return groups, {"size": float(np.floor(0.6 * size[:, 1].sum() + 0.4 * size[:, 3].sum()))}


@pytest.mark.parametrize("kind", ["layers", "equal layers", "correlated", "sums of subsets"])
def test_200_groups_of_5_widths_are_proven_optimal_in_10_s(kind: str) -> None:
    groups, limits = _instance(kind, 0)
    start = time.process_time()  # other processes may leave little of a core
    found = allocate(groups, limits, time_limit=60.0)
    assert time.process_time() - start < 10
    assert found is not None
    assert found.is_optimal
    assert found.error - found.bound <= 2e-6 * found.error


def test_out_of_time_the_best_found_is_returned() -> None:
    groups, limits = _instance("correlated", 3)
    found = allocate(groups, limits, time_limit=1e-9)
    assert found is not None
    assert total(groups, found.chosen, "size") <= limits["size"]
    cheapest = [int(np.argmin(g.costs["size"])) for g in groups]
    assert found.error < total(groups, cheapest)


def test_no_choice_fits() -> None:
    groups = [Options((1.0, 0.0), {"size": (2.0, 3.0)})] * 3
    assert allocate(groups, {"size": 5.0}) is None
    found = allocate(groups, {"size": 6.0})
    assert found is not None
    assert found.chosen == (0, 0, 0)


def test_groups_without_error_or_cost() -> None:
    dead = Options((0.0, 0.0), {"size": (1.0, 2.0)})
    empty = Options((1.0, 0.5), {"size": (0.0, 0.0)})
    found = allocate([dead, empty], {"size": 1.0})
    assert found is not None
    assert found.chosen == (0, 1)
    assert allocate([], {"size": 0.0}) == Solution((), 0.0, 0.0, True)


def test_the_front_falls_and_has_no_point_twice() -> None:
    groups, _ = _instance("layers", 5)
    low, high = least(groups, "size"), sum(max(g.costs["size"]) for g in groups)
    limits = np.linspace(low, high, 9)
    points = list(front(groups, "size", [*limits, high], 20.0))
    sizes, errors = [p[0] for p in points], [p[1].error for p in points]
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert len({p[1].chosen for p in points}) == len(points) == 9
