"""Turns a TARGETED graph into kernel launches for given sizes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from torch import fx

from qcompiler.backends.cuda import lower_elementwise as elementwise
from qcompiler.backends.cuda import lower_movement as movement
from qcompiler.backends.cuda import lower_products as products
from qcompiler.backends.cuda import lower_windows as windows
from qcompiler.backends.cuda.architectures import Architecture
from qcompiler.backends.cuda.choices import Tiles
from qcompiler.backends.cuda.launch import Island, Lowered, Step, Value
from qcompiler.backends.cuda.op_lowering import OpLowering
from qcompiler.backends.native.packing import Blob
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph, arguments
from qcompiler.ir.queries import is_island
from qcompiler.runtime.interpreter import operands_of

LOWERINGS: dict[str, Callable[[OpLowering], None]] = {
    "quantize": elementwise.lower_quantize,
    "dequantize": elementwise.lower_dequantize,
    "dequantize_accumulator": elementwise.lower_dequantize_accumulator,
    "requantize": elementwise.lower_requantize,
    "conv2d": products.lower_conv2d,
    "conv2d_requant": products.lower_conv2d,
    "linear": products.lower_linear,
    "linear_requant": products.lower_linear,
    "matmul": products.lower_matmul,
    "matmul_requant": products.lower_matmul,
    "add": elementwise.lower_add,
    "mul": elementwise.lower_mul,
    "table": elementwise.lower_table,
    "clamp": elementwise.lower_clamp,
    "max_pool2d": windows.lower_max_pool2d,
    "avg_pool2d": windows.lower_avg_pool2d,
    "adaptive_avg_pool2d": windows.lower_adaptive_avg_pool2d,
    "mean": windows.lower_mean,
    "resize_nearest": windows.lower_resize_nearest,
    "resize_bilinear": windows.lower_resize_bilinear,
    "reshape": movement.lower_reshape,
    "permute": movement.lower_permute,
    "slice": movement.lower_slice,
    "expand": movement.lower_expand,
    "concat": movement.lower_concat,
    "pad": movement.lower_pad,
}
# Terms of a product of any codes and weights that int32 holds. The `mma.sync` that Triton makes
# saturates each partial sum: wrap-around, with which a sum that fits comes out right whatever its
# parts were, does not hold there, so the parts must fit as well (integer semantics, 7.2). Zero
# points are taken out after the products, and ranges that prove a sum say nothing of its parts.
MOST_DEPTH = (2**31 - 1) // (128 * 128)
_CONSTANTS = ("weight", "bias", "multiplier", "shift", "table", "scale")


def operator_name(node: fx.Node) -> str:
    """Returns the name of a call's operator without its namespace, empty for other namespaces."""
    namespace, _, name = str(node.target).partition(".")
    return name.removesuffix(".default") if namespace == "qcompiler" else ""


def why_not(node: fx.Node) -> str | None:
    """Returns the reason why no kernel covers a call, None when one does."""
    name = operator_name(node)
    if name not in LOWERINGS:
        return f"there is no kernel for {node.target}"
    args = arguments(node)
    for parameter in _CONSTANTS:
        value = args.get(parameter)
        if isinstance(value, fx.Node) and value.op != "get_attr":
            return f"{name} takes its {parameter} as a constant only"
    residual = args.get("residual")
    if residual is not None and type_of(residual).shape != type_of(node).shape:
        return f"the residual of {name} has another shape than the result"
    if (depth := _depth(name, args)) > MOST_DEPTH:
        return f"{name} over {depth} elements could saturate; {MOST_DEPTH} are the most"
    if name == "matmul_requant" and not isinstance(type_of(node).shape[-1], int):
        return "matmul_requant needs a fixed number of columns"
    return None


def _depth(name: str, args: Mapping[str, Any]) -> int:
    """Returns the terms of a product's sums, 0 for other operators and dynamic sizes."""
    if name.startswith(("conv2d", "linear")):
        return prod(int(size) for size in type_of(args["weight"]).shape[1:])
    depth = type_of(args["a"]).shape[-1] if name.startswith("matmul") else 0
    return depth if isinstance(depth, int) else 0


def lower(
    graph: QGraph,
    sizes: Mapping[str, int],
    blob: Blob,
    architecture: Architecture,
    tiles: Tiles | None = None,
) -> Lowered:
    """Lowers every call of a graph.

    Args:
        graph: the program.
        sizes: of its dynamic dimensions.
        blob: takes the constants; several lowerings of one graph share it.
        architecture: to choose tiles for.
        tiles: of products, where not the default ones.
    """
    steps: list[Step] = []
    scratch = zeroed = 0
    for node in graph.calls:
        if is_island(node):
            steps.append(_island(node))
            continue
        op = lower_node(graph, node, sizes, blob, architecture, tiles)
        steps += op.launches
        scratch, zeroed = max(scratch, op.scratch_bytes), max(zeroed, op.workspace)
    return Lowered(tuple(steps), scratch, zeroed)


def _island(node: fx.Node) -> Island:
    operands = (Value(n.name, type_of(n).dtype) for n in operands_of(node))
    return Island(node.name, tuple(operands), Value(node.name, type_of(node).dtype))


def lower_node(
    graph: QGraph,
    node: fx.Node,
    sizes: Mapping[str, int],
    blob: Blob,
    architecture: Architecture,
    tiles: Tiles | None = None,
) -> OpLowering:
    """Lowers one call; its launches and memory are on what is returned."""
    op = OpLowering(graph, node, sizes, blob, architecture, tiles)
    LOWERINGS[operator_name(node)](op)
    return op
