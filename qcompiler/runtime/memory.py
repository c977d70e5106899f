"""The memory planner: offsets of values in one arena, exact for every value of the symbols.

Where values go is decided with numbers for the symbols; the decision is kept as an order, which of
two values alive together lies below the other. The offsets then follow symbolically: a value starts
where the last of those below it ends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import networkx as nx
import sympy

from qcompiler.ir.types import Dim, evaluate_dim, simplify_dim
from qcompiler.runtime.memory_search import Block, arrange, lower_bound
from qcompiler.torch_compat import FloorDiv

ALIGNMENT = 64
# Share of a factor that rounding it alone may add.
_MOST_PADDING = sympy.Rational(1, 16)


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

    ``peak`` is the largest sum of sizes alive at one step, for symbols at their example values;
    values in one place count once. ``aliases`` names, for a value outside of the arena, the input
    or result of the program in whose memory it lies.
    """

    offsets: Mapping[str, Dim]
    size: Dim
    peak: int
    example_size: int
    aliases: Mapping[str, str] = field(default_factory=dict)


def align(size: Dim) -> Dim:
    """Returns a size rounded up to the alignment for every value of its symbols.

    Factors are rounded one by one, which keeps sums comparable, where that adds little: the bytes
    of a sample. Where they are small, as channels are beside symbols of height and width, it would
    multiply the size, and the sum is rounded.
    """
    if isinstance(size, int):
        return -(-size // ALIGNMENT) * ALIGNMENT
    terms = [term.as_coeff_Mul() for term in sympy.Add.make_args(sympy.expand(size))]
    rounded = [(sympy.ceiling(factor / ALIGNMENT) * ALIGNMENT, rest) for factor, rest in terms]
    added = zip(terms, rounded, strict=True)
    if any(up - factor > _MOST_PADDING * abs(factor) for (factor, _), (up, _) in added):
        return ALIGNMENT * sympy.ceiling(sympy.expand(size / ALIGNMENT))
    return simplify_dim(sympy.Add(*(up * rest for up, rest in rounded)))


def plan_memory(
    values: Sequence[Lifetime],
    example: Mapping[str, int],
    others: Sequence[Mapping[str, int]] = (),
) -> MemoryPlan:
    """Places values in one arena so that none alive at the same time overlap.

    Args:
        values: the values to place.
        example: values of the symbols for which the arena is to be small.
        others: further values of the symbols; they decide between plans that the example does not.
    """
    values = sorted(values, key=lambda v: (v.start, v.name))
    sizes = _aligned_sizes(values)
    samples = list(dict.fromkeys(tuple(sorted(s.items())) for s in (example, *others)))
    cases = [_blocks(values, sizes, dict(sample)) for sample in samples]
    bounds = [lower_bound(blocks) for blocks in cases]
    orders = [_order(blocks, arrange(blocks)) for blocks in cases]

    def cost(order: nx.DiGraph[int]) -> tuple[int, float]:
        totals = [_stack(order, blocks) for blocks in cases]
        return totals[0], sum(t / max(b, 1) for t, b in zip(totals, bounds, strict=True))

    offsets, total = _stack_symbolically(min(orders, key=cost), sizes)
    named = {value.name: offset for value, offset in zip(values, offsets, strict=True)}
    return MemoryPlan(named, total, bounds[0], min(map(cost, orders))[0])


def largest(dims: Sequence[Dim]) -> Dim:
    """Returns the maximum of sizes as an int or a sympy expression; 0 for none."""
    left: list[Dim] = []
    for dim in dict.fromkeys(dims):
        if not any(is_at_least(other, dim) for other in left):
            left = [other for other in left if not is_at_least(dim, other)]
            left.append(dim)
    if len(left) < 2:
        return left[0] if left else 0
    # Max would compare all pairs again by slower means: seconds for a network of three symbols.
    return sympy.Max(*left, evaluate=False)


def is_at_least(a: Dim, b: Dim) -> bool:
    """Says whether a >= b is certain; it is quick and does not see every case."""
    if isinstance(a, int) and isinstance(b, int):
        return a >= b
    least = _least(sympy.sympify(a - b))
    return least is not None and least >= 0


@cache
def _least(value: sympy.Expr) -> sympy.Rational | None:
    """Returns a bound below a value for symbols of at least 1, None where a term falls with one."""
    if value.is_Rational:
        return value
    if value.is_Symbol:
        return sympy.Integer(1)
    bounds = [_least(part) for part in value.args]
    known = [bound for bound in bounds if bound is not None]
    if isinstance(value, sympy.Max) and known:
        return max(known)
    if len(known) < len(bounds):
        return None
    match value:
        case sympy.Add():
            return sympy.Add(*known)
        case sympy.floor() | sympy.ceiling():
            return value.func(*known)
        case FloorDiv() if value.args[1].is_Integer and value.args[1] > 0:
            return sympy.floor(known[0] / known[1])
        case sympy.Mul() if all(bound >= 0 for bound in known):
            return sympy.Mul(*known)
        case sympy.Pow() if known[0] >= 0 and value.exp.is_Integer and value.exp > 0:
            return known[0] ** value.exp
    return None


def _sum(a: Dim, b: Dim) -> Dim:
    """Returns the sum of expanded sizes, which is expanded itself."""
    total = a + b
    return int(total) if not isinstance(total, int) and total.is_Integer else total


def _aligned_sizes(values: Sequence[Lifetime]) -> list[Dim]:
    aligned = {size: align(size) for size in dict.fromkeys(v.size for v in values)}
    return [aligned[v.size] for v in values]


def _blocks(
    values: Sequence[Lifetime], sizes: Sequence[Dim], sample: Mapping[str, int]
) -> list[Block]:
    """Returns the values with their sizes for one value of each symbol."""
    numbers = {size: evaluate_dim(size, sample) for size in dict.fromkeys(sizes)}
    return [Block(numbers[size], v.start, v.end) for v, size in zip(values, sizes, strict=True)]


def _order(blocks: Sequence[Block], offsets: Sequence[int]) -> nx.DiGraph[int]:
    """Returns which blocks lie directly below which, from the ground up.

    Of two blocks alive together one is below the other, also where one of them is empty: it need
    not be so for other values of the symbols.
    """
    rising = sorted(range(len(blocks)), key=lambda i: (offsets[i], blocks[i].size, i))
    order: nx.DiGraph[int] = nx.DiGraph()
    order.add_nodes_from(rising)
    order.add_edges_from(
        (low, high)
        for place, high in enumerate(rising)
        for low in rising[:place]
        if blocks[low].meets(blocks[high])
    )
    return nx.transitive_reduction(order)


def _stack(order: nx.DiGraph[int], blocks: Sequence[Block]) -> int:
    """Returns the bytes of blocks that each lie on top of those below them."""
    ends: dict[int, int] = {}
    for i in order:
        ends[i] = max((ends[j] for j in order.predecessors(i)), default=0) + blocks[i].size
    return max(ends.values(), default=0)


def _stack_symbolically(order: nx.DiGraph[int], sizes: Sequence[Dim]) -> tuple[list[Dim], Dim]:
    """Returns the offset of each value on top of those below it, and the bytes of all of them."""
    offsets: list[Dim] = [0] * len(sizes)
    ends: dict[int, Dim] = {}
    for i in order:
        offsets[i] = largest([ends[j] for j in order.predecessors(i)])
        ends[i] = _sum(offsets[i], sizes[i])
    return offsets, largest([ends[i] for i in order if not order.out_degree(i)])
