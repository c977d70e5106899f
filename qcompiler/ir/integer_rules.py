"""Rules of the stages INTEGER and TARGETED: integer operators with sound arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import fx

from qcompiler.ir.annotations import has_type, type_of
from qcompiler.ir.graph import QGraph, argument
from qcompiler.ir.integer_ops import integer_op_of
from qcompiler.ir.integer_ops.base import IntegerOp
from qcompiler.ir.queries import is_island, product_arguments
from qcompiler.ir.rules import Rule, Violation
from qcompiler.ir.stages import Stage
from qcompiler.numerics.requant import MAX_SHIFT, MIN_SHIFT

_I8, _I32 = (torch.int8,), (torch.int32,)
_CODES = (torch.int8, torch.int16, torch.int32)
# The dtypes that a tensor argument may have, by its name in the schema; exceptions by operator.
_DTYPES: Mapping[str, tuple[torch.dtype, ...]] = {
    "x": _I8,
    "a": _I8,
    "b": _I8,
    "residual": _I8,
    "weight": _I8,
    "table": _I8,
    "bias": _I32,
    "multiplier": _I32,
    "shift": _I32,
}
_EXCEPTIONS: Mapping[tuple[str, str], tuple[torch.dtype, ...]] = {
    ("quantize", "x"): (torch.float32,),
    ("requantize", "x"): _CODES,
    ("dequantize", "x"): _CODES,
    ("dequantize_accumulator", "x"): _I32,
    ("dequantize_accumulator", "scale"): (torch.float32,),
}
_TO_FLOAT = ("dequantize", "dequantize_accumulator")
_MOVEMENT = ("reshape", "permute", "slice", "expand", "concat", "pad")
_PER_CHANNEL = ("requantize", "conv2d_requant", "linear_requant", "pointwise_depthwise_requant")
_LOW, _HIGH = -128, 127
# The largest int32 that an 8-bit difference times multipliers may reach in add (5.5).
_REACH = 255

Operands = Mapping[str, Any]


def _calls(graph: QGraph) -> Iterator[tuple[fx.Node, IntegerOp]]:
    """Yields the calls of our integer operators outside float islands."""
    for node in graph.calls:
        op = integer_op_of(node.target)
        if op is not None and op.overload.namespace == "qcompiler" and not is_island(node):
            yield node, op


def _integer_only(graph: QGraph) -> Iterator[Violation]:
    for node in graph.calls:
        if is_island(node):
            continue
        op = integer_op_of(node.target)
        if op is None:
            yield Violation(node, f"%{node.name} calls {node.target}")
        elif op.name not in _TO_FLOAT and has_type(node) and type_of(node).is_float:
            yield Violation(node, f"%{node.name} computes {type_of(node)}")


def _border(graph: QGraph) -> Iterator[Violation]:
    for node, op in _calls(graph):
        source = node.args[0] if op.name == "quantize" else None
        made = integer_op_of(source.target) if isinstance(source, fx.Node) else None
        if made is not None and made.name in _TO_FLOAT:
            yield Violation(node, f"%{node.name} quantizes the dequantized %{node.args[0]}")


def _dtypes(graph: QGraph) -> Iterator[Violation]:
    for node, op in _calls(graph):
        given = (item for part in product_arguments(node) for item in part.items())
        for name, value in given:
            if not isinstance(value, fx.Node) or op.name in _MOVEMENT:
                continue
            allowed = _EXCEPTIONS.get((op.name, name), _DTYPES.get(name))
            if allowed is not None and type_of(value).dtype not in allowed:
                yield Violation(node, f"%{node.name} takes {type_of(value)} as its {name}")


def _argument_rule(find: Callable[[QGraph, Operands], str | None]) -> Callable[..., Any]:
    def check(graph: QGraph) -> Iterator[Violation]:
        for node, _op in _calls(graph):
            for given in product_arguments(node):
                problem = find(graph, given)
                if problem is not None:
                    yield Violation(node, f"%{node.name} has {problem}")

    return check


def _constant(graph: QGraph, value: Any) -> torch.Tensor | None:
    if isinstance(value, fx.Node) and value.op == "get_attr":
        return graph.constant(value)
    return torch.tensor([value]) if isinstance(value, int) else None


def _limits(values: torch.Tensor) -> tuple[int, int]:
    low, high = torch.aminmax(values)
    return int(low), int(high)


def _multipliers(graph: QGraph, given: Operands) -> str | None:
    multiplier = _constant(graph, given.get("multiplier"))
    shift = _constant(graph, given.get("shift"))
    if multiplier is None or shift is None or not multiplier.numel() or not shift.numel():
        return None if "multiplier" not in given else "no constant multiplier and shift"
    if multiplier.numel() != shift.numel():
        return f"{multiplier.numel()} multipliers and {shift.numel()} shifts"
    if _limits(multiplier)[0] < 0:
        return f"the multiplier {_limits(multiplier)[0]}"
    low, high = _limits(shift)
    if low < MIN_SHIFT or high > MAX_SHIFT:
        return f"a shift of {low if low < MIN_SHIFT else high}"
    return None


def _channels(graph: QGraph) -> Iterator[Violation]:
    for node, op in _calls(graph):
        if op.name not in _PER_CHANNEL:
            continue
        for given in product_arguments(node):
            size = (
                type_of(given["weight"]).shape[0]
                if "weight" in given
                else type_of(node).shape[argument(node, "axis")]
            )
            length = type_of(given["multiplier"]).numel()
            if length not in (1, size):
                yield Violation(node, f"%{node.name} has {length} multipliers for {size} channels")


def _codes(_graph: QGraph, given: Operands) -> str | None:
    for name, value in given.items():
        is_code = name.endswith("zero_point") or name in ("qmin", "qmax")
        if is_code and not _LOW <= value <= _HIGH:
            return f"{name} = {value}"
    if "qmin" in given and given["qmin"] > given["qmax"]:
        return f"the empty range [{given['qmin']}, {given['qmax']}]"
    return None


def _additions(_graph: QGraph, given: Operands) -> str | None:
    fused = given.get("add")
    if (given.get("residual") is None) != (fused is None):
        return "a residual without add, or the reverse"
    if fused is not None:
        if len(fused) != 8:
            return f"{len(fused)} numbers in add, not 8"
        first, second, shift = fused[1], fused[3], fused[4]
    elif "a_multiplier" in given:
        first, second, shift = given["a_multiplier"], given["b_multiplier"], given["shift"]
    else:
        return None
    if shift < 1 or _REACH * (abs(first) + abs(second)) + 2 ** (shift - 1) >= 2**31:
        return f"multipliers {first} and {second} with shift {shift}, which can leave int32"
    return None


def _tensors(graph: QGraph, given: Operands) -> str | None:
    weight = given.get("weight")
    if isinstance(weight, fx.Node):
        held = _constant(graph, weight)
        if held is None:
            return "a weight that is no constant"
        if held.numel() and _limits(held)[0] < -_HIGH:
            return f"a weight of {_limits(held)[0]}"
    table = given.get("table")
    if isinstance(table, fx.Node) and type_of(table).shape != (256,):
        return f"a table of type {type_of(table)}"
    return None


INTEGER_RULES: tuple[Rule, ...] = tuple(
    Rule(name, text, remedy, check, since=Stage.INTEGER)
    for name, text, remedy, check in (
        (
            "integer-only",
            "only integer operators run between quantize and dequantize, float islands excepted",
            "lower the operator, or mark it KeepFloat with a reason",
            _integer_only,
        ),
        (
            "no-float-detour",
            "a value is not dequantized to be quantized again",
            "use requantize",
            _border,
        ),
        (
            "operand-dtypes",
            "codes, weights and tables are int8; biases, multipliers and shifts are int32",
            "convert the constant when the operator is built",
            _dtypes,
        ),
        (
            "multipliers",
            f"multipliers are constants >= 0 with shifts of {MIN_SHIFT} to {MAX_SHIFT}",
            "make them with qcompiler.numerics.requant",
            _argument_rule(_multipliers),
        ),
        (
            "multiplier-count",
            "there is one multiplier per tensor or per channel",
            "give one multiplier, or as many as the axis has indices",
            _channels,
        ),
        (
            "codes",
            f"zero points and clamping bounds are codes of [{_LOW}, {_HIGH}]",
            "clamp the zero point and the bounds to the codes",
            _argument_rule(_codes),
        ),
        (
            "additions-fit",
            "the sum of two scaled codes fits int32",
            "make the multipliers with qcompiler.numerics.requant",
            _argument_rule(_additions),
        ),
        (
            "constant-operands",
            "weights are constants of [-127, 127], tables have 256 entries",
            "quantize weights to the narrow range",
            _argument_rule(_tensors),
        ),
    )
)
