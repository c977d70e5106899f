"""What an operator has to do: multiply-accumulates and bytes, at given sizes."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph, argument, arguments, operator_of
from qcompiler.ir.types import evaluate_dim, simplify_dim

# Size of dynamic dimensions that nobody states.
EXAMPLE = 1


def example_sizes(graph: QGraph) -> dict[str, int]:
    """Returns a size for each dynamic dimension: 1, or the least that it may have."""
    return {name: max(EXAMPLE, span.low) for name, span in graph.symbols.items()}


def bytes_moved(node: fx.Node, sizes: Mapping[str, int]) -> int:
    """Returns the bytes of a call's operands, parameters and result, each once."""
    touched = [node, *node.all_input_nodes]
    return sum(evaluate_dim(type_of(n).nbytes(), sizes) for n in touched)


def macs_of(node: fx.Node, sizes: Mapping[str, int]) -> int:
    """Returns the multiply-accumulates of a product, 0 for other operators."""
    options = arguments(node)
    results = evaluate_dim(type_of(node).numel(), sizes)
    if "dw_weight" in options:
        filters, taps = type_of(options["weight"]), type_of(options["dw_weight"]).shape[2:]
        n, _, h, w = type_of(options["x"]).shape
        pixels = evaluate_dim(simplify_dim(n * h * w), sizes)
        each = evaluate_dim(filters.numel(), sizes)
        return pixels * each + results * int(taps[0]) * int(taps[1])
    if isinstance(options.get("weight"), fx.Node):
        weight = type_of(options["weight"])
        return results * evaluate_dim(weight.numel(), sizes) // int(weight.shape[0])
    if "matmul" in operator_of(node)._schema.name:
        return results * evaluate_dim(type_of(argument(node, "a")).shape[-1], sizes)
    return 0
