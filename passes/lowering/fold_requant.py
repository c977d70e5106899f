"""fold-requant: one requantization where two follow each other, none where it changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import torch
from torch import fx

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import qtype_of, quant_of, type_of, update_quant
from qcompiler.ir.graph import QGraph, argument, is_call
from qcompiler.ir.stages import Stage
from qcompiler.numerics.requant import multipliers_from_scales
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext

_Q = torch.ops.qcompiler
_REQUANTIZE = _Q.requantize.default
_PRODUCTS = (_Q.conv2d.default, _Q.linear.default, _Q.matmul.default)


@dataclass(frozen=True)
class FoldRequant(Pass):
    """Merges a rescale into the requantization of the accumulator that it follows.

    The value is then rounded once instead of twice. The limits of the inner requantization carry
    no meaning of their own: a clamp is still a call at this point. Scales are folded as exact
    rationals before the multiplier is encoded again. A result of the program that is an
    accumulator's requantization is dequantized from the int32 accumulator itself, which costs
    nothing and rounds less (``results=False`` keeps 8-bit results).

    Before: ``%a = qcompiler.requantize(%acc, ...)``; ``%b = qcompiler.requantize(%a, ...)``
    After: ``%b = qcompiler.requantize(%acc, ...)``
    """

    name: ClassVar[str] = "fold-requant"
    needs: ClassVar[Needs] = Needs(Stage.INTEGER)
    gives: ClassVar[Gives] = Gives()

    results: bool = True

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Folds every pair of requantizations whose inner result has no other user."""
        changed = False
        for outer in graph.calls:
            if not is_call(outer, _REQUANTIZE):
                continue
            inner = argument(outer, "x")
            if is_call(inner, _REQUANTIZE) and len(inner.users) == 1:
                acc = argument(inner, "x")
                if is_call(acc, *_PRODUCTS):
                    changed |= _fold(outer, inner, acc, graph)
        for node in graph.calls if self.results else ():
            changed |= _read_accumulator(node, graph)
        return changed


def _read_accumulator(node: fx.Node, graph: QGraph) -> bool:
    """Dequantizes an accumulator directly where only the program's result is made of it."""
    if not is_call(node, _Q.dequantize.default):
        return False
    inner = argument(node, "x")
    if not is_call(inner, _REQUANTIZE) or len(inner.users) > 1:
        return False
    acc = argument(inner, "x")
    if not is_call(acc, *_PRODUCTS) or set(node.users) != {graph.output}:
        return False
    scale = torch.tensor([float(s) for s in _scales(acc, graph)], dtype=torch.float32)
    constant = graph.add_constant(scale, f"{node.name}_scale", node)
    args = (acc, constant, argument(inner, "axis"))
    new = graph.call(_Q.dequantize_accumulator.default, args, before=node, origin=node)
    update_quant(new, stands_for=quant_of(inner).stands_for, why="read from the accumulator")
    parameters = [argument(inner, "multiplier"), argument(inner, "shift")]
    graph.replace(node, new)
    graph.erase(inner)
    graph.erase_unused(parameters)
    return True


def _fold(outer: fx.Node, inner: fx.Node, acc: fx.Node, graph: QGraph) -> bool:
    scale = qtype_of(outer).exact_scale
    try:
        multipliers, shifts = multipliers_from_scales([s / scale for s in _scales(acc, graph)])
    except QCompilerError:  # the joint multiplier is not encodable; the two separate ones are
        return False
    replaced = [
        graph.add_constant(torch.tensor(v, dtype=torch.int32), f"{outer.name}_{n}", outer)
        for v, n in ((multipliers, "multiplier"), (shifts, "shift"))
    ]
    old = [argument(outer, "multiplier"), argument(outer, "shift")]
    axis = argument(inner, "axis")
    outer.args = (acc, *replaced, axis, 0, *outer.args[5:])
    old += [argument(inner, "multiplier"), argument(inner, "shift")]
    graph.erase(inner)
    graph.erase_unused(old)
    return True


def _scales(acc: fx.Node, graph: QGraph) -> list[Fraction]:
    """Returns the accumulator's exact scale of each channel from its operands' scales."""
    if is_call(acc, torch.ops.qcompiler.matmul.default):
        a, b = argument(acc, "a"), argument(acc, "b")
        return [qtype_of(a).exact_scale * qtype_of(b).exact_scale]
    x_scale = qtype_of(argument(acc, "x")).exact_scale
    weight = argument(acc, "weight")
    found = quant_of(weight).qtype
    if found is None:
        message = f"the weight of {acc.name}, {type_of(weight)}, has lost its scales"
        raise ValueError(message)
    return [x_scale * Fraction(s) for s in found.scale]
