"""fold-constant-channels: channels whose every result is the same become that constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from qcompiler.ir.graph import QGraph, arguments, is_call, is_constant
from qcompiler.ir.queries import operand_facts
from qcompiler.ir.stages import Stage
from qcompiler.numerics.intervals import accumulator_bounds
from qcompiler.numerics.requant import requant_reference
from qcompiler.passes.analysis.prove_accumulators import IntegerIntervals
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext

_Q = torch.ops.qcompiler
_PRODUCTS = (_Q.conv2d_requant.default, _Q.linear_requant.default)
# SR(2 * v, _MULTIPLIER, _SHIFT) = v: one half, the largest multiplier of the fp32 epilogue.
_MULTIPLIER, _SHIFT = 1 << 30, 31


@dataclass(frozen=True)
class FoldConstantChannels(Pass):
    """Replaces the weights of a channel by zeros where no input changes its result.

    Batch normalization leaves such channels behind: their weights are close to nothing, so in the
    units of the weights their bias is huge. Over the interval of the input the smallest and the
    largest sum then requantize to the same code c, and the channel becomes zero weights, the bias
    2 * (c - zero_point) and the multiplier 1/2, with the same results. A sum as large as before
    would keep the whole layer from the fp32 epilogue, which is exact up to 2**24 (integer semantics
    section 4).

    Before: ``weight[3] = [0, 1, 0], bias[3] = -35592179, multiplier[3] * 2**-shift[3] = 2**-20``
    After: ``weight[3] = [0, 0, 0], bias[3] = 0, multiplier[3] * 2**-shift[3] = 2**-1``
    """

    name: ClassVar[str] = "fold-constant-channels"
    needs: ClassVar[Needs] = Needs(Stage.INTEGER)
    gives: ClassVar[Gives] = Gives()

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Folds the channels of every fused product; the intervals are those before the pass."""
        intervals = context.analysis(IntegerIntervals(), graph)
        products = [node for node in graph.calls if is_call(node, *_PRODUCTS)]
        facts = [operand_facts(node, graph, intervals) for node in products]
        return any([_fold(node, fact, graph) for node, fact in zip(products, facts, strict=True)])


def _fold(node: fx.Node, facts: dict[str, Any], graph: QGraph) -> bool:
    given = arguments(node)
    names = ("weight", "bias", "multiplier", "shift")
    if not all(is_constant(given[name]) for name in names) or facts["weight"].numel() == 0:
        return False
    weight, bias = facts["weight"], facts["bias"].to(torch.int64)
    multiplier, shift = (facts[n].reshape(-1).expand(len(bias)) for n in names[2:])
    x, z, zero_point = facts["x"], facts["x_zero_point"], facts["zero_point"]
    reach = min(x.lo - z, 0), max(x.hi - z, 0)  # a padded tap counts as zero
    ends = [
        requant_reference(end, multiplier, shift, zero_point, facts["qmin"], facts["qmax"])
        for end in accumulator_bounds(weight, bias, *reach)
    ]
    folded_bias = 2 * (ends[0] - zero_point)
    constant = ends[0] == ends[1]
    done = (weight == 0).flatten(1).all(1) & (bias == folded_bias) & (multiplier == _MULTIPLIER)
    constant &= ~(done & (shift == _SHIFT))
    if not bool(constant.any()):
        return False
    column = constant.reshape(-1, *[1] * (weight.dim() - 1))
    replaced = (
        weight.masked_fill(column, 0),
        torch.where(constant, folded_bias, bias).to(torch.int32),
        multiplier.masked_fill(constant, _MULTIPLIER).to(torch.int32),
        shift.masked_fill(constant, _SHIFT).to(torch.int32),
    )
    for name, value in zip(names, replaced, strict=True):
        graph.set_constant(given[name], value)
    return True
