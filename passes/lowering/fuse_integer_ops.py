"""fuse-integer-ops: clamps, tables and residual adds become part of the operator before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from qcompiler.ir.annotations import inherit_quant, qtype_of, quant_of, type_of, update_quant
from qcompiler.ir.graph import QGraph, argument, arguments, is_call, operator_of
from qcompiler.ir.stages import Stage
from qcompiler.numerics.requant import requant_reference
from qcompiler.numerics.tables import compose_tables
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext

_Q = torch.ops.qcompiler
_REQUANTIZE = _Q.requantize.default
_FUSED = {
    _Q.conv2d.default: _Q.conv2d_requant.default,
    _Q.linear.default: _Q.linear_requant.default,
    _Q.matmul.default: _Q.matmul_requant.default,
}
_WITH_EPILOGUE = (_Q.conv2d_requant.default, _Q.linear_requant.default)
_CODES = torch.arange(-128, 128, dtype=torch.int64)


@dataclass(frozen=True)
class FuseIntegerOps(Pass):
    """Fuses products with their requantization, clamps into limits, tables and residual adds.

    A fused operator returns the same integers as the sequence that it replaces (integer semantics
    5.14). Each rule applies only where the inner value has no other user.

    Before: ``%acc = qcompiler.conv2d(...)``; ``%y = qcompiler.requantize(%acc, ...)``;
    ``%z = qcompiler.clamp(%y, 0, 100)``
    After: ``%z = qcompiler.conv2d_requant(..., 0, 100)``
    """

    name: ClassVar[str] = "fuse-integer-ops"
    needs: ClassVar[Needs] = Needs(Stage.INTEGER)
    gives: ClassVar[Gives] = Gives()

    residual: bool = True

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Applies the fusions in one walk per rule, in execution order."""
        changed = False
        for rule in (_fuse_product, _tabulate, _join_tables, _fold_clamp, _fuse_table):
            for node in graph.calls:
                changed |= rule(node, graph)
        if self.residual:
            for node in graph.calls:
                changed |= _fuse_residual(node, graph)
        return changed


def _sole(node: Any, user: fx.Node) -> bool:
    """Says whether a node's value is used by one call only."""
    return isinstance(node, fx.Node) and list(node.users) == [user]


def _supersede(old: fx.Node, inner: fx.Node, new: fx.Node, graph: QGraph) -> None:
    """Puts a fused call in the place of two calls and drops constants that nobody reads."""
    inherit_quant(new, old)
    operands = [n for n in (*old.all_input_nodes, *inner.all_input_nodes) if n.op == "get_attr"]
    graph.replace(old, new)
    graph.erase(inner)
    graph.erase_unused(operands)


def _fuse_product(node: fx.Node, graph: QGraph) -> bool:
    """Fuses an accumulator with its requantization."""
    if not is_call(node, _REQUANTIZE):
        return False
    acc = argument(node, "x")
    if not is_call(acc, *_FUSED) or not _sole(acc, node):
        return False
    operands = 2 if is_call(acc, _Q.matmul.default) else 3
    limits = [argument(node, n) for n in ("zero_point", "qmin", "qmax")]
    scaling = [argument(node, "multiplier"), argument(node, "shift")]
    args = (*acc.args[:operands], *scaling, *acc.args[operands:], *limits)
    new = graph.call(_FUSED[operator_of(acc)], args, before=node, origin=acc)
    _supersede(node, acc, new, graph)
    return True


def _tabulate(node: fx.Node, graph: QGraph) -> bool:
    """Turns the rescale of 8-bit codes into a table."""
    if not is_call(node, _REQUANTIZE):
        return False
    x = argument(node, "x")
    multiplier = graph.constant(argument(node, "multiplier"))
    if type_of(x).dtype != torch.int8 or multiplier.numel() != 1:
        return False
    shift = graph.constant(argument(node, "shift"))
    centred = _CODES - argument(node, "x_zero_point")
    limits = [argument(node, n) for n in ("zero_point", "qmin", "qmax")]
    entries = requant_reference(centred, multiplier, shift, *limits).to(torch.int8)
    table = graph.add_constant(entries, f"{node.name}_table", node)
    new = graph.call(_Q.table.default, (x, table), before=node, origin=node)
    inherit_quant(new, node)
    constants = [argument(node, "multiplier"), argument(node, "shift")]
    graph.replace(node, new)
    graph.erase_unused(constants)
    return True


def _join_tables(node: fx.Node, graph: QGraph) -> bool:
    """Joins a chain of tables and clamps into one table."""
    if not is_call(node, _Q.table.default):
        return False
    inner = argument(node, "x")
    if not is_call(inner, _Q.table.default, _Q.clamp.default) or not _sole(inner, node):
        return False
    first = (
        graph.constant(argument(inner, "table"))
        if is_call(inner, _Q.table.default)
        else _CODES.clamp(argument(inner, "qmin"), argument(inner, "qmax")).to(torch.int8)
    )
    entries = compose_tables(first, graph.constant(argument(node, "table")))
    table = graph.add_constant(entries, f"{node.name}_table", node)
    new = graph.call(_Q.table.default, (argument(inner, "x"), table), before=node, origin=node)
    _supersede(node, inner, new, graph)
    return True


def _fold_clamp(node: fx.Node, graph: QGraph) -> bool:
    """Narrows the limits of the call that a clamp follows."""
    if not is_call(node, _Q.clamp.default):
        return False
    inner = argument(node, "x")
    if not isinstance(inner, fx.Node) or inner.op != "call_function" or not _sole(inner, node):
        return False
    low, high = argument(node, "qmin"), argument(node, "qmax")
    if is_call(inner, _Q.table.default):
        entries = graph.constant(argument(inner, "table")).clamp(low, high)
        table = graph.add_constant(entries, f"{node.name}_table", inner)
        new = graph.call(_Q.table.default, (inner.args[0], table), before=node, origin=inner)
    else:
        options = arguments(inner)
        finished = options.get("table") is not None or options.get("add") is not None
        if "qmin" not in options or finished or is_call(inner, _Q.clamp.default):
            return False
        qmin = min(max(options["qmin"], low), high)
        qmax = min(max(options["qmax"], low), high)
        args = [qmin if n == "qmin" else qmax if n == "qmax" else v for n, v in options.items()]
        new = graph.call(operator_of(inner), args, before=node, origin=inner)
    _supersede(node, inner, new, graph)
    update_quant(new, why=_join_reasons(quant_of(new).why, "clamp folded into the limits"))
    return True


def _fuse_table(node: fx.Node, graph: QGraph) -> bool:
    """Makes a table the last step of the product before it."""
    if not is_call(node, _Q.table.default):
        return False
    inner = argument(node, "x")
    if not is_call(inner, *_WITH_EPILOGUE) or not _sole(inner, node):
        return False
    options = arguments(inner)
    if options["table"] is not None or options["add"] is not None:
        return False
    options["table"] = argument(node, "table")
    new = graph.call(operator_of(inner), list(options.values()), before=node, origin=inner)
    _supersede(node, inner, new, graph)
    update_quant(new, why=_join_reasons(quant_of(new).why, "unary function fused as a table"))
    return True


def _fuse_residual(node: fx.Node, graph: QGraph) -> bool:
    """Makes a residual add the last step of the product that feeds it last."""
    if not is_call(node, _Q.add.default):
        return False
    options = arguments(node)
    if options["a"] is options["b"]:
        return False
    order = {n: i for i, n in enumerate(graph.nodes)}
    sides = sorted(("a", "b"), key=lambda side: -order[options[side]])
    for side in sides:
        inner, other = options[side], options["b" if side == "a" else "a"]
        if not is_call(inner, *_WITH_EPILOGUE) or not _sole(inner, node):
            continue
        fused = arguments(inner)
        same_shape = type_of(inner).shape == type_of(other).shape
        if fused["add"] is not None or not same_shape or other.op == "get_attr":
            continue
        first, second = (side, "b" if side == "a" else "a")
        fused["residual"] = other
        fused["add"] = [
            options[f"{first}_zero_point"],
            options[f"{first}_multiplier"],
            options[f"{second}_zero_point"],
            options[f"{second}_multiplier"],
            *(options[n] for n in ("shift", "zero_point", "qmin", "qmax")),
        ]
        new = graph.call(operator_of(inner), list(fused.values()), before=node, origin=inner)
        _supersede(node, inner, new, graph)
        update_quant(
            new, qtype=qtype_of(new), why=_join_reasons(quant_of(new).why, "residual add fused")
        )
        return True
    return False


def _join_reasons(old: str | None, new: str) -> str:
    return f"{old}; {new}" if old else new
