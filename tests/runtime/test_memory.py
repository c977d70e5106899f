"""The memory planner: exact for every value of the symbols, and tight where it can be."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from unittest import mock

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.ir.types import Dim, evaluate_dim, simplify_dim, symbol
from qcompiler.runtime import memory_search
from qcompiler.runtime.memory import (
    ALIGNMENT,
    Lifetime,
    MemoryPlan,
    align,
    largest,
    plan_memory,
)
from qcompiler.runtime.memory_search import Block, arena_size, arrange, lower_bound

BATCH, WIDTH = symbol("batch"), symbol("width")
BINDINGS = [
    {"batch": batch, "width": width}
    for batch, width in ((1, 1), (1, 224), (2, 5), (7, 1), (64, 33))
]
COUNT = st.integers(1, 300)
SIZES: st.SearchStrategy[Dim] = st.one_of(
    st.integers(0, 5000),
    COUNT.map(lambda c: c * BATCH),
    st.tuples(COUNT, COUNT).map(lambda c: c[0] * BATCH + c[1]),
    st.tuples(COUNT, COUNT).map(lambda c: c[0] * BATCH * WIDTH + c[1] * WIDTH),
    COUNT.map(lambda c: simplify_dim(c * (BATCH - 1))),
    COUNT.map(lambda c: simplify_dim(c * BATCH * (2 * WIDTH - 1))),
    COUNT.map(lambda c: simplify_dim(c * BATCH * sympy.floor((WIDTH + 1) / 2))),
)


@st.composite
def lifetimes(draw: st.DrawFn) -> list[Lifetime]:
    """Draws values of a program of ten steps."""
    count = draw(st.integers(0, 5))
    spans = [sorted(draw(st.tuples(*[st.integers(0, 9)] * 2))) for _ in range(count)]
    return [Lifetime(f"v{i}", draw(SIZES), *span) for i, span in enumerate(spans)]


def sizes_at(values: Sequence[Lifetime], binding: dict[str, int]) -> dict[str, int]:
    """Returns the size of each value, rounded up to the alignment."""
    sizes = {v.name: evaluate_dim(v.size, binding) for v in values}
    return {name: -(-size // ALIGNMENT) * ALIGNMENT for name, size in sizes.items()}


def peak(values: Sequence[Lifetime], sizes: dict[str, int]) -> int:
    """Returns the largest sum of sizes alive at one step."""
    steps = range(1 + max((v.end for v in values), default=0))
    return max(sum(sizes[v.name] for v in values if v.start <= t <= v.end) for t in steps)


def check(values: Sequence[Lifetime], plan: MemoryPlan, binding: dict[str, int]) -> None:
    """Checks a plan for one value of each symbol."""
    offsets = {name: evaluate_dim(offset, binding) for name, offset in plan.offsets.items()}
    total = evaluate_dim(plan.size, binding)
    sizes = {v.name: evaluate_dim(v.size, binding) for v in values}
    assert offsets.keys() == sizes.keys()
    for v in values:
        assert offsets[v.name] % ALIGNMENT == 0
        assert 0 <= offsets[v.name] <= offsets[v.name] + sizes[v.name] <= total
    for a, b in itertools.combinations(values, 2):
        if a.start <= b.end and b.start <= a.end and sizes[a.name] and sizes[b.name]:
            apart = (
                offsets[a.name] + sizes[a.name] <= offsets[b.name]
                or offsets[b.name] + sizes[b.name] <= offsets[a.name]
            )
            assert apart, f"{a} and {b} overlap for {binding}"
    assert total >= peak(values, sizes)


@settings(max_examples=25)
@given(lifetimes(), st.sampled_from(BINDINGS))
def test_values_alive_together_never_overlap(
    values: list[Lifetime], example: dict[str, int]
) -> None:
    plan = plan_memory(values, example)
    for binding in BINDINGS:
        check(values, plan, binding)
    assert plan.example_size == evaluate_dim(plan.size, example)
    assert plan.example_size >= plan.peak


@settings(max_examples=25)
@given(lifetimes())
def test_peak_of_numbers_is_that_of_the_definition(values: list[Lifetime]) -> None:
    numbers = [Lifetime(v.name, evaluate_dim(v.size, BINDINGS[2]), v.start, v.end) for v in values]
    plan = plan_memory(numbers, {})
    assert plan.peak == peak(numbers, sizes_at(numbers, {}))
    assert isinstance(plan.size, int)
    assert plan.size == plan.example_size >= plan.peak


@settings(max_examples=25)
@given(st.lists(st.integers(1, 9999), min_size=1, max_size=40), st.booleans())
def test_chains_reach_the_peak(counts: list[int], symbolic: bool) -> None:
    values = [
        Lifetime(f"v{i}", count * 64 * (BATCH if symbolic else 1), i, i + 1)
        for i, count in enumerate(counts)
    ]
    plan = plan_memory(values, {"batch": 3})
    assert plan.example_size == plan.peak
    if symbolic:
        for batch in (1, 2, 50):
            sizes = sizes_at(values, {"batch": batch})
            assert evaluate_dim(plan.size, {"batch": batch}) == peak(values, sizes)


@settings(max_examples=25)
@given(st.lists(st.tuples(*[st.integers(0, 9)] * 3), max_size=30))
def test_arranged_blocks_are_apart_and_close_together(drawn: list[tuple[int, ...]]) -> None:
    blocks = [Block(64 * size, start, start + length) for size, start, length in drawn]
    offsets = arrange(blocks)
    assert len(offsets) == len(blocks)
    for (a, at), (b, bt) in itertools.combinations(zip(blocks, offsets, strict=True), 2):
        if a.start <= b.end and b.start <= a.end and a.size and b.size:
            assert at + a.size <= bt or bt + b.size <= at
    bound = max(sum(b.size for b in blocks if b.start <= t <= b.end) for t in range(20))
    assert lower_bound(blocks) == bound
    assert bound <= arena_size(blocks, offsets) <= sum(b.size for b in blocks)
    assert arrange(blocks) == offsets


CHAIN = [8, 7, 5, 8, 6]


def test_the_search_finds_what_no_greedy_order_does() -> None:
    blocks = [Block(64 * size, step, step + 1) for step, size in enumerate(CHAIN)]
    assert arena_size(blocks, arrange(blocks)) == lower_bound(blocks) == 64 * 15
    with mock.patch.object(memory_search, "_MOST_VALUES", 0):
        assert arena_size(blocks, arrange(blocks)) > lower_bound(blocks)


def test_further_sizes_decide_where_the_example_does_not() -> None:
    sizes = [2 * WIDTH, WIDTH, 5 * WIDTH, 8, 2]
    values = [Lifetime(f"v{step}", 64 * size, step, step + 1) for step, size in enumerate(sizes)]
    narrow, wide = {"width": 1}, {"width": 50}
    plans = plan_memory(values, narrow), plan_memory(values, narrow, [wide])
    assert [plan.example_size for plan in plans] == [64 * 13, 64 * 13]
    totals = [evaluate_dim(plan.size, wide) for plan in plans]
    assert totals[0] > totals[1] == peak(values, sizes_at(values, wide))


@settings(max_examples=10)
@given(lifetimes(), st.randoms(use_true_random=False))
def test_plan_does_not_depend_on_the_order_of_values(
    values: list[Lifetime], shuffler: random.Random
) -> None:
    plan = plan_memory(values, BINDINGS[0])
    assert plan_memory(values, BINDINGS[0]) == plan
    mixed = list(values)
    shuffler.shuffle(mixed)
    assert plan_memory(mixed, BINDINGS[0]) == plan


def test_a_value_that_is_empty_at_the_example_gets_room() -> None:
    values = [
        Lifetime("all", 640 * BATCH, 0, 2),
        Lifetime("rest", simplify_dim(640 * (BATCH - 1)), 1, 3),
        Lifetime("again", simplify_dim(64 * (BATCH - 1)), 1, 3),
    ]
    plan = plan_memory(values, {"batch": 1})
    for batch in (1, 2, 9):
        check(values, plan, {"batch": batch})


def test_values_of_other_times_share_their_place() -> None:
    values = [Lifetime("a", 100, 0, 1), Lifetime("b", 128, 2, 3), Lifetime("c", 65, 1, 2)]
    plan = plan_memory(values, {})
    assert plan.offsets == {"a": 0, "b": 0, "c": 128}
    assert (plan.size, plan.peak, plan.example_size) == (256, 256, 256)


def test_a_plan_of_nothing_is_empty() -> None:
    assert plan_memory([], {}) == MemoryPlan({}, 0, 0, 0)


def test_lifetimes_overlap_when_they_share_a_step() -> None:
    first = Lifetime("a", 1, 2, 4)
    assert [
        first.overlaps(Lifetime("b", 1, s, e)) for s, e in ((0, 1), (0, 2), (3, 3), (4, 9))
    ] == [
        False,
        True,
        True,
        True,
    ]
    assert not first.overlaps(Lifetime("b", 1, 5, 5))


@settings(max_examples=50)
@given(SIZES)
def test_align_rounds_up_for_every_value(size: Dim) -> None:
    aligned = align(size)
    for binding in BINDINGS:
        have, got = evaluate_dim(size, binding), evaluate_dim(aligned, binding)
        assert got % ALIGNMENT == 0
        assert have <= got < 1.25 * have + ALIGNMENT


@pytest.mark.parametrize(("size", "wanted"), [(0, 0), (1, 64), (64, 64), (65, 128)])
def test_align_of_numbers(size: int, wanted: int) -> None:
    assert align(size) == wanted


def test_largest_of_sizes() -> None:
    assert largest([]) == 0
    assert largest([3, 7, 7]) == 7
    assert largest([BATCH, 2 * BATCH]) == 2 * BATCH
    found = largest([100, 3 * BATCH])
    assert [evaluate_dim(found, {"batch": b}) for b in (1, 33, 34)] == [100, 100, 102]
