"""fuse-depthwise: a 1x1 convolution and the depthwise convolution behind it become one operator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from qcompiler.ir.annotations import inherit_quant, origin_of, quant_of, type_of, update_quant
from qcompiler.ir.graph import QGraph, arguments
from qcompiler.ir.stages import Stage
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext
from qcompiler.rewrite.driver import RewriteRule, rewrite
from qcompiler.rewrite.pattern import Match, NoMatch, const, one_use, op, where
from qcompiler.target.base import Target

_CONV = torch.ops.qcompiler.conv2d_requant.default
_CHAIN = torch.ops.qcompiler.pointwise_depthwise_requant.default


@dataclass(frozen=True)
class FuseDepthwise(Pass):
    """Fuses a 1x1 convolution with the depthwise convolution that alone reads it.

    The value between the two, the largest one of an inverted residual block, is then never stored
    whole. The fused operator returns the same integers as the pair, and keeps the proofs of both
    sums where there are some. A pair stays as it is where the target has no kernel for the fused
    operator, and where either convolution ends in a residual add.

    Before::

        %a : i8[1,32,8,8] = qcompiler.conv2d_requant(%x, %w, %b, %m, %s, 3, [1, 1], [0, 0, 0, 0],
            [1, 1], 1, -128, -128, 127)
        %y : i8[1,32,4,4] = qcompiler.conv2d_requant(%a, %w2, %b2, %m2, %s2, -128, [2, 2],
            [1, 1, 1, 1], [1, 1], 32, 5, -128, 127)

    After::

        %y : i8[1,32,4,4] = qcompiler.pointwise_depthwise_requant(%x, %w, %b, %m, %s, 3, -128, -128,
            127, %w2, %b2, %m2, %s2, -128, [2, 2], [1, 1, 1, 1], [1, 1], 5, -128, 127)
    """

    name: ClassVar[str] = "fuse-depthwise"
    needs: ClassVar[Needs] = Needs(Stage.INTEGER)
    gives: ClassVar[Gives] = Gives()

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Changes the graph in place; returns whether it did."""

        def fuse(graph: QGraph, match: Match) -> fx.Node | NoMatch:
            return _fuse(graph, match, context.target)

        return rewrite(graph, [RewriteRule("fuse-depthwise", _PATTERN, fuse)])


def _is_pointwise(node: fx.Node) -> bool:
    return type_of(arguments(node)["weight"]).shape[2:] == (1, 1)


def _is_depthwise(node: fx.Node) -> bool:
    given = arguments(node)
    channels, depth = type_of(given["weight"]).shape[:2]
    return channels == given["groups"] and depth == 1


_POINTWISE = where(
    op(_CONV, weight=const(), stride=[1, 1], padding=[0, 0, 0, 0], groups=1, residual=None),
    _is_pointwise,
    "a kernel of 1x1",
)
_PATTERN = where(
    op(_CONV, x=one_use(_POINTWISE.named("pointwise")), weight=const(), residual=None),
    _is_depthwise,
    "one filter for each channel",
)


def _fuse(graph: QGraph, match: Match, target: Target | None) -> fx.Node | NoMatch:
    inner, outer = match.node("pointwise"), match.root
    first, second = arguments(inner), arguments(outer)
    operands = ("weight", "bias", "multiplier", "shift", "x_zero_point")
    limits = ("zero_point", "qmin", "qmax")
    args = (
        *(first[name] for name in ("x", *operands, *limits)),
        *(second[name] for name in (*operands, "stride", "padding", "dilation", *limits)),
        first["table"],
        second["table"],
    )
    new = graph.call(_CHAIN, args, before=outer, origin=outer)
    if target is not None and (reason := target.why_not(new)):
        graph.erase(new)
        return NoMatch("{}", (reason,))
    inherit_quant(new, outer)
    place = origin_of(inner).module or inner.name
    fused = f"1x1 convolution {place} fused, its result is never stored whole"
    why = quant_of(outer).why
    update_quant(new, inner_proof=quant_of(inner).proof, why=f"{why}; {fused}" if why else fused)
    return new
