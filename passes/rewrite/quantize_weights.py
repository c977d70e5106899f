"""quantize-weights: integer weights with one scale per output channel."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import fx

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import (
    inherit_quant,
    origin_of,
    qtype_of,
    quant_of,
    type_of,
    update_quant,
)
from qcompiler.ir.float_ops import float_op_of
from qcompiler.ir.graph import QGraph, argument, is_constant, operator_of
from qcompiler.ir.intent import DerivedFrom, Spec
from qcompiler.ir.qtypes import Granularity, QType
from qcompiler.ir.queries import is_island
from qcompiler.ir.stages import Stage
from qcompiler.numerics.groups import group_scales, spread_factors
from qcompiler.numerics.rounding import (
    WeightMethod,
    along_axis,
    quantize_tensor,
    weight_scales,
)
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext

# A bias may use half of the accumulator; bias correction later moves it by much less.
_BIAS_LIMIT = 2.0**29
# requantize encodes multipliers from 2**-32 on.
_LEAST_MULTIPLIER = 2.0**-31


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Replaces float weights by int8 constants, symmetric and narrow, one scale per channel.

    The intent of a weight's constant, a ``Spec`` that earlier passes set, says how many bits and
    which granularity it gets; ``bits`` and ``group`` are for weights without one. In groups each
    ``group`` weights of a channel share an integer factor, and the constant holds codes times
    factors (docs/concepts.md). ``method`` auto takes scales that cover the largest
    weight at 8 bits, and those of the least squared error below: few codes are better spent on the
    many weights than on the largest.

    A channel's scale is raised where its bias would not fit the int32 accumulator, or its
    multiplier would not be encodable: both happen to dead channels, whose weights are too small
    to be seen.

    Raises:
        QCompilerError: QC0403 when raising the scale for a bias would visibly change the result.

    Before: ``%y = qfloat.conv2d(%x, %weight, %bias, ...)``
    After: ``%w = qfloat.dequantize_weight(%weight_i8, %scale, 0)``
    ``%y = qfloat.conv2d(%x, %w, %bias, ...)``
    """

    name: ClassVar[str] = "quantize-weights"
    needs: ClassVar[Needs] = Needs(Stage.CALIBRATED, properties=("qparams-assigned",))
    gives: ClassVar[Gives] = Gives(stage=Stage.QUANTIZED)

    bits: int = 8
    method: Literal["auto", "minmax", "mse"] = "auto"
    group: int | None = None

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            message = f"bits={self.bits} is outside [2, 8]"
            raise ValueError(message)
        if self.group is not None and self.group < 2:
            message = f"group={self.group} is below 2"
            raise ValueError(message)

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Quantizes the weight of every operator that has one."""
        for node in graph.calls:
            op = float_op_of(node.target)
            if op is not None and op.weight is not None and not is_island(node):
                self._quantize(node, graph, context, op.weight, op.weight_axis)
        return True

    def _quantize(
        self, node: fx.Node, graph: QGraph, context: PassContext, name: str, axis: int
    ) -> None:
        constant = argument(node, name)
        if not is_constant(constant):
            raise QCompilerError(
                "QC0203",
                f"the {name} of {node.name} is computed at run time",
                node=node.name,
                source=origin_of(node).source,
                remedy="use a parameter, or write the product as a matmul",
            )
        weight, wanted = graph.constant(constant), self._wanted(constant, axis)
        bits, group = wanted.bits, wanted.granularity.group
        scale, factors = self._scales(weight, axis, wanted)
        scale = self._raise_scales(node, graph, weight, scale, factors)
        limit = 2 ** (bits - 1) - 1
        if factors is None:
            codes = quantize_tensor(weight, scale, 0, -limit, limit, axis)
        else:
            steps = along_axis(scale, axis, weight.ndim) * factors
            codes = quantize_tensor(weight.double() / steps, 1.0, 0, -limit, limit) * factors
        suffix = f"_i{bits}" if group is None else f"_i{bits}g{group}"
        codes_node = graph.add_constant(codes.to(torch.int8), f"{constant.target}{suffix}", node)
        scale_node = graph.add_constant(scale, f"{constant.target}_scale", node)
        restored = graph.call(
            torch.ops.qfloat.dequantize_weight.default,
            (codes_node, scale_node, axis),
            before=node,
            origin=node,
        )
        update_quant(
            codes_node,
            qtype=QType(
                bits,
                tuple(scale.tolist()),
                (0,) * scale.numel(),
                granularity=wanted.granularity,
                narrow=True,
            ),
            intent=wanted,
        )
        inherit_quant(restored, codes_node)
        bias = argument(node, "bias")
        if bias is not None:
            update_quant(bias, intent=DerivedFrom((argument(node, "x").name, codes_node.name)))
        context.float_weights[codes_node.name] = weight
        if factors is not None:
            context.weight_factors[codes_node.name] = factors
        node.update_arg(list(_names(node)).index(name), restored)
        if not constant.users:
            graph.erase(constant)

    def _wanted(self, constant: fx.Node, axis: int) -> Spec:
        """Returns what the intent of a float weight asks for, or the options of the pass.

        A group that covers all inputs of a channel is none: the channel's scale does the same.
        """
        intent = quant_of(constant).intent
        wanted = intent if isinstance(intent, Spec) else Spec(self.bits)
        group = wanted.granularity.group if isinstance(intent, Spec) else self.group
        shape = type_of(constant).shape
        if wanted.bits == 8 or group is None or group >= type_of(constant).numel() // shape[axis]:
            group = None
        return replace(wanted, symmetric=True, granularity=Granularity(axis, group))

    def _scales(
        self, weight: torch.Tensor, axis: int, wanted: Spec
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Returns the scale of each channel, and the factor of each weight where it is grouped."""
        bits, group = wanted.bits, wanted.granularity.group
        method: WeightMethod = "minmax" if bits == 8 else "mse"
        if self.method != "auto":
            method = self.method
        if group is None:
            return weight_scales(weight, axis, bits, True, method), None
        rows = weight.movedim(axis, 0).flatten(1)
        scale, factors = group_scales(rows, group, bits, method)
        spread = spread_factors(factors, group, rows.shape[1])
        return scale, spread.view(weight.movedim(axis, 0).shape).movedim(0, axis)

    def _raise_scales(
        self,
        node: fx.Node,
        graph: QGraph,
        weight: torch.Tensor,
        scale: torch.Tensor,
        factors: torch.Tensor | None,
    ) -> torch.Tensor:
        """Returns scales at which the bias fits the accumulator and the multiplier is encodable."""
        x_scale = qtype_of(argument(node, "x")).tensor_scale
        y_scale = qtype_of(node).tensor_scale
        least = torch.full_like(scale, y_scale * _LEAST_MULTIPLIER / x_scale)
        bias_node = argument(node, "bias")
        if bias_node is not None:
            bias = graph.constant(bias_node).to(torch.float64).abs()
            least = torch.maximum(least, bias / (x_scale * _BIAS_LIMIT))
        raised = torch.maximum(scale, least)
        if bool((raised > scale).any()):
            steps = along_axis(raised, 0, weight.ndim) * (1 if factors is None else factors)
            self._check_loss(node, weight.to(torch.float64), raised > scale, steps)
        return raised

    def _check_loss(
        self, node: fx.Node, weight: torch.Tensor, raised: torch.Tensor, steps: torch.Tensor
    ) -> None:
        """Refuses a raised scale whose rounding error could move a result by over one step."""
        rounding = weight - torch.round(weight / steps) * steps
        worst = rounding.abs().flatten(1).sum(1) * 255 * qtype_of(argument(node, "x")).tensor_scale
        lost = raised & (worst > qtype_of(node).tensor_scale)
        if bool(lost.any()):
            channel = int(lost.nonzero()[0])
            raise QCompilerError(
                "QC0403",
                f"the bias of channel {channel} of {node.name} is too large for its weights: at a "
                "scale where it fits 32 bits the weights round away",
                node=node.name,
                source=origin_of(node).source,
                remedy="move the constant into a later operator, or rescale the layer",
            )


def _names(node: fx.Node) -> list[str]:
    return [arg.name for arg in operator_of(node)._schema.arguments]
