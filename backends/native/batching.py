"""Whether the threads of a call may share the samples of a batch, and how much work there is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import sympy
from torch import fx

from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph, argument, arguments, is_constant
from qcompiler.ir.types import Dim, TensorType, evaluate_dim, simplify_dim, symbol

# Bytes of the values of a slice. Few samples of the first layers fit the cache of a core, all of
# the last ones do, where weights are many: slices of about 4 samples of 224 x 224 were fastest.
SLICE_BYTES = 4 << 20
MAX_SLICE = 8

# Without weights, an element costs about as much as so many multiply-accumulates of a product.
_MACS_PER_ELEMENT = 8

# Operators on [N, C, H, W], and those that compute each element from one element.
_BY_SAMPLE = frozenset(
    (
        *("quantize", "dequantize", "table", "clamp"),
        *("conv2d", "conv2d_requant", "pointwise_depthwise_requant"),
        *("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d"),
        *("resize_nearest", "resize_bilinear"),
    )
)


@dataclass(frozen=True)
class Batching:
    """A batch whose samples are independent: the symbol of its size, and samples of a slice."""

    symbol: str
    slice: int

    def per_sample(self, value_type: TensorType) -> Dim:
        """Returns the bytes of one sample of a value."""
        return simplify_dim(sympy.sympify(value_type.nbytes()) / symbol(self.symbol))


def find_batching(graph: QGraph, arena_size: Dim) -> Batching | None:
    """Returns how to slice the batch; None where a value has none or an operator mixes samples.

    A slice has as many samples as keep its values within ``SLICE_BYTES``, at most ``MAX_SLICE``:
    weights are then read once for several samples.

    Args:
        graph: the program.
        arena_size: bytes of its intermediate values.
    """
    name = _common_symbol([*graph.inputs, *graph.calls, *graph.results])
    if name is None or not all(_is_by_sample(node) for node in graph.calls):
        return None
    sizes = {other: span.low for other, span in graph.symbols.items()} | {name: 1}
    each = max(1, evaluate_dim(arena_size, sizes))
    return Batching(name, min(max(SLICE_BYTES // each, 1), MAX_SLICE))


def _common_symbol(nodes: Sequence[fx.Node]) -> str | None:
    """Returns the symbol that is the first dimension of all values, and part of no other one."""
    names: set[str] = set()
    for node in nodes:
        first, *others = type_of(node).shape or (1,)
        if not isinstance(first, sympy.Symbol) or is_constant(node):
            return None
        if any(isinstance(dim, sympy.Expr) and first in dim.free_symbols for dim in others):
            return None
        names.add(str(first))
    return names.pop() if len(names) == 1 else None


def _is_by_sample(node: fx.Node) -> bool:
    """Says whether each sample of a call's result depends on that sample of its operands alone.

    Result and operands that are no constants have the batch, and nothing of it elsewhere, as
    their first dimension.
    """
    namespace, _, name = str(node.target).removesuffix(".default").partition(".")
    if namespace != "qcompiler":
        return False
    rank = type_of(node).rank
    ranks = [type_of(used).rank for used in node.all_input_nodes if used.op != "get_attr"]
    match name:
        case "requantize":
            return _is_along(node, "multiplier", rank)
        case "dequantize_accumulator":
            return _is_along(node, "scale", rank)
        case "linear" | "linear_requant":
            return rank >= 2
        case "matmul" | "matmul_requant":
            return _multiplies_by_sample(node, rank)
        case "add" | "mul" | "expand":
            return all(given == rank for given in ranks) and _repeats_constants(node, rank)
        case "mean":
            dims = argument(node, "dims")
            return bool(dims) and all(int(dim) % ranks[0] != 0 for dim in dims)
        case "concat" | "slice":
            return int(argument(node, "dim")) % rank != 0 and _repeats_constants(node, rank)
        case "pad":
            return len(argument(node, "padding")) < 2 * rank
        case "permute":
            return int(argument(node, "dims")[0]) % rank == 0
        case "reshape":
            return True  # in row-major order a sample is one run of elements before and after
    return name in _BY_SAMPLE


def _is_along(node: fx.Node, parameter: str, rank: int) -> bool:
    """Says whether a parameter is one for the tensor, or one per index of another axis than 0."""
    per_tensor = bool(type_of(argument(node, parameter)).numel() == 1)
    return per_tensor or int(argument(node, "axis")) % rank != 0


def _repeats_constants(node: fx.Node, rank: int) -> bool:
    """Says whether every constant operand is the same for all samples."""
    shapes = [type_of(n).shape for n in node.all_input_nodes if n.op == "get_attr"]
    return all(len(shape) < rank or shape[0] == 1 for shape in shapes)


def _multiplies_by_sample(node: fx.Node, rank: int) -> bool:
    a, b = argument(node, "a"), argument(node, "b")
    if rank == 2:
        return is_constant(b) and not is_constant(a)
    same = all(is_constant(n) or type_of(n).rank == rank for n in (a, b))
    return same and _repeats_constants(node, rank)


def work_of(node: fx.Node) -> Dim:
    """Returns the multiply-accumulates of a call, or as many as would take about as long."""
    args = arguments(node)
    elements = type_of(node).numel()
    if "matmul" in str(node.target):
        return simplify_dim(elements * type_of(args["a"]).shape[-1])
    weights = [n for k, n in args.items() if k.endswith("weight") and isinstance(n, fx.Node)]
    depth = sum(prod(int(size) for size in type_of(weight).shape[1:]) for weight in weights)
    return simplify_dim(elements * (depth or _MACS_PER_ELEMENT))
