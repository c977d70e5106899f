"""The memory planner: offsets of values in one arena, exact for every value of the symbols.

Values are placed in order of decreasing size at the lowest offset that is free of every value
alive at the same time (the greedy rule of TFLite's arena planner). The choice is made with example
sizes; the offsets are then computed symbolically: a value starts after all values placed below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sympy

from qcompiler.ir.types import Dim, evaluate_dim, simplify_dim

ALIGNMENT = 64


@dataclass(frozen=True)
class Lifetime:
    """A value's size in bytes and the first and last step at which it is alive."""

    name: str
    size: Dim
    start: int
    end: int

    def overlaps(self, other: Lifetime) -> bool:
        """Says whether both values are alive at some step."""
        return self.start <= other.end and other.start <= self.end


@dataclass(frozen=True)
class MemoryPlan:
    """Byte offsets of values, the arena's size, and the least size that any plan could have.

    ``peak`` is the largest sum of sizes alive at one step, for symbols at their example values.
    """

    offsets: Mapping[str, Dim]
    size: Dim
    peak: int
    example_size: int


def align(size: Dim) -> Dim:
    """Returns a size rounded up to the alignment for every value of its symbols."""
    if isinstance(size, int):
        return -(-size // ALIGNMENT) * ALIGNMENT
    terms = []
    for term in sympy.Add.make_args(sympy.expand(size)):
        factor, rest = term.as_coeff_Mul()
        terms.append(sympy.ceiling(factor / ALIGNMENT) * ALIGNMENT * rest)
    return simplify_dim(sympy.Add(*terms))


def plan_memory(values: Sequence[Lifetime], example: Mapping[str, int]) -> MemoryPlan:
    """Places values in one arena so that none alive at the same time overlap.

    Args:
        values: the values to place.
        example: values of the symbols for which the placement is tuned.
    """
    sizes = {v.name: align(v.size) for v in values}
    bytes_of = {name: evaluate_dim(size, example) for name, size in sizes.items()}
    order = sorted(values, key=lambda v: (-bytes_of[v.name], v.start, v.name))
    spot: dict[str, int] = {}
    symbolic: dict[str, Dim] = {}
    placed: list[Lifetime] = []
    for value in order:
        rivals = sorted(
            (r for r in placed if r.overlaps(value)), key=lambda r: (spot[r.name], r.name)
        )
        offset = _lowest_gap(bytes_of[value.name], rivals, spot, bytes_of)
        spot[value.name] = offset
        placed.append(value)
    # A value that is empty at the example shares its spot with others and goes below them.
    for value in sorted(placed, key=lambda v: (spot[v.name], bytes_of[v.name], v.name)):
        below = [
            simplify_dim(sympy.sympify(symbolic[r.name]) + sizes[r.name])
            for r in placed
            if r.name in symbolic and r.overlaps(value)
        ]
        symbolic[value.name] = largest(below)
    ends = [simplify_dim(sympy.sympify(symbolic[v.name]) + sizes[v.name]) for v in values]
    total = largest(ends)
    return MemoryPlan(symbolic, total, _peak(values, bytes_of), evaluate_dim(total, example))


def _lowest_gap(
    size: int, rivals: Sequence[Lifetime], spot: Mapping[str, int], bytes_of: Mapping[str, int]
) -> int:
    offset = 0
    for rival in rivals:
        if offset + size <= spot[rival.name]:
            break
        offset = max(offset, spot[rival.name] + bytes_of[rival.name])
    return offset


def largest(dims: Sequence[Dim]) -> Dim:
    """Returns the maximum of sizes as an int or a sympy expression; 0 for none."""
    distinct = set(dims)
    if not distinct:
        return 0
    if all(isinstance(d, int) for d in distinct):
        return max(d for d in distinct if isinstance(d, int))
    return simplify_dim(sympy.Max(*distinct))


def _peak(values: Sequence[Lifetime], bytes_of: Mapping[str, int]) -> int:
    last = max((v.end for v in values), default=-1)
    totals = [0] * (last + 2)
    for value in values:
        totals[value.start] += bytes_of[value.name]
        totals[value.end + 1] -= bytes_of[value.name]
    peak = running = 0
    for change in totals:
        running += change
        peak = max(peak, running)
    return peak
