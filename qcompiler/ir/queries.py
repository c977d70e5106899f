"""Questions that several passes ask of a graph: operands, absorbing clamps, operand intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import fx

from qcompiler.ir.annotations import quant_of, type_of
from qcompiler.ir.float_ops import float_op_of
from qcompiler.ir.graph import QGraph, argument, arguments, is_call, is_constant, map_nodes
from qcompiler.ir.integer_ops.chained import depthwise_arguments, pointwise_arguments
from qcompiler.ir.intent import KeepFloat
from qcompiler.ir.types import Dim, evaluate_dim
from qcompiler.numerics.intervals import Interval
from qcompiler.numerics.unary import UNARY

# Arguments that hold parameters of an operator rather than values that flow through the program.
PARAMETERS = frozenset(
    "weight bias mean var scale multiplier shift table"
    " dw_weight dw_bias dw_multiplier dw_shift mid_table".split()
)


def is_island(node: fx.Node) -> bool:
    """Says whether a node stays a floating-point operator."""
    return isinstance(quant_of(node).intent, KeepFloat)


def value_operands(node: fx.Node) -> list[fx.Node]:
    """Returns the operands of a call that are values of the program, parameters left out."""
    found: list[fx.Node] = []
    if node.op != "call_function":
        return found
    for name, arg in arguments(node).items():
        if name in PARAMETERS and not is_island(node):
            continue
        map_nodes(arg, found.append)
    return found


def product_arguments(node: fx.Node) -> list[dict[str, Any]]:
    """Returns the arguments of a call; of a chain of two products those of each of the two.

    The latter are arguments of conv2d_requant; the second one has None for its x.
    """
    given = arguments(node)
    if not is_call(node, torch.ops.qcompiler.pointwise_depthwise_requant.default):
        return [given]
    channels = int(type_of(given["dw_weight"]).shape[0])
    return [pointwise_arguments(given), depthwise_arguments(given, channels)]


def absorbing_clamp(node: fx.Node) -> fx.Node | None:
    """Returns the clamp that narrows a call's result before anything else sees it, if any.

    Such a result is never stored: the clamp becomes the limits of the call's requantization.
    """
    op = float_op_of(node.target) if node.op == "call_function" else None
    if op is None or op.sharing != "own" or len(node.users) != 1 or is_island(node):
        return None
    (user,) = node.users
    clamp = torch.ops.qfloat.clamp.default
    return user if is_call(user, clamp) and not is_island(user) else None


def quantized_values(graph: QGraph) -> Iterator[fx.Node]:
    """Yields every node whose value gets quantization parameters, in execution order.

    These are float inputs and call results, and constants that calls take as values.
    """
    for node in graph.nodes:
        if node.op == "placeholder" or (
            node.op == "call_function"
            and node.target is not torch.ops.qfloat.dequantize_weight.default
        ):
            if type_of(node).is_float:
                yield node
        elif is_constant(node) and type_of(node).is_float:
            readers = (user for user in node.users if not is_island(user))
            if any(node in value_operands(user) for user in readers):
                yield node


def fixed_output(node: fx.Node) -> tuple[float, int] | None:
    """Returns the scale and zero point that a function's meaning fixes, as a sigmoid's."""
    op = float_op_of(node.target) if node.op == "call_function" else None
    if op is None or op.name != "unary":
        return None
    return UNARY[argument(node, "function")].fixed_output


def operand_facts(
    node: fx.Node, graph: QGraph, intervals: Mapping[fx.Node, Interval]
) -> dict[str, Any]:
    """Returns the arguments of a call for a range rule: intervals of values, tensors of parameters.

    ``inner_size`` of a matmul and ``elements`` of a mean are added, at their largest when dynamic.
    """

    def fact(name: str, arg: Any) -> Any:
        if isinstance(arg, (list, tuple)):
            return [fact(name, a) for a in arg]
        if not isinstance(arg, fx.Node):
            return arg
        return graph.constant(arg) if name in PARAMETERS and is_constant(arg) else intervals[arg]

    facts = {name: fact(name, arg) for name, arg in arguments(node).items()}
    if "a" in facts and "b" in facts:
        facts["inner_size"] = _largest(type_of(argument(node, "a")).shape[-1], graph)
    if "dims" in facts and "keepdim" in facts:
        shape = type_of(argument(node, "x")).shape
        facts["elements"] = 1
        for dim in facts["dims"]:
            facts["elements"] *= _largest(shape[dim], graph)
    return facts


def _largest(dim: Dim, graph: QGraph) -> int:
    return evaluate_dim(dim, {name: span.high for name, span in graph.symbols.items()})


def constant_interval(tensor: torch.Tensor) -> Interval:
    """Returns the interval of a constant's elements."""
    low, high = tensor.aminmax()
    return Interval(low.item(), high.item())
