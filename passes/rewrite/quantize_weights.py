"""quantize-weights: integer weights with one scale per output channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import fx

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import inherit_quant, origin_of, qtype_of, quant_of, update_quant
from qcompiler.ir.float_ops import float_op_of
from qcompiler.ir.graph import QGraph, argument, is_constant, operator_of
from qcompiler.ir.intent import DerivedFrom, Spec
from qcompiler.ir.qtypes import Granularity, QType
from qcompiler.ir.queries import is_island
from qcompiler.ir.stages import Stage
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

    The intent of a weight's constant, a ``Spec`` that earlier passes set, says how many bits it
    gets; ``bits`` is for weights without one. ``method`` auto takes scales that cover the largest
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

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            message = f"bits={self.bits} is outside [2, 8]"
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
        weight, bits = graph.constant(constant), self._bits(constant)
        scale = weight_scales(weight, axis, bits, True, self._method(bits))
        scale = self._raise_scales(node, graph, weight, scale)
        limit = 2 ** (bits - 1) - 1
        codes = quantize_tensor(weight, scale, 0, -limit, limit, axis).to(torch.int8)
        codes_node = graph.add_constant(codes, f"{constant.target}_i{bits}", node)
        scale_node = graph.add_constant(scale, f"{constant.target}_scale", node)
        restored = graph.call(
            torch.ops.qfloat.dequantize_weight.default,
            (codes_node, scale_node, axis),
            before=node,
            origin=node,
        )
        granularity = Granularity(axis)
        update_quant(
            codes_node,
            qtype=QType(
                bits,
                tuple(scale.tolist()),
                (0,) * scale.numel(),
                granularity=granularity,
                narrow=True,
            ),
            intent=Spec(bits, symmetric=True, granularity=granularity),
        )
        inherit_quant(restored, codes_node)
        bias = argument(node, "bias")
        if bias is not None:
            update_quant(bias, intent=DerivedFrom((argument(node, "x").name, codes_node.name)))
        context.float_weights[codes_node.name] = weight
        node.update_arg(list(_names(node)).index(name), restored)
        if not constant.users:
            graph.erase(constant)

    def _bits(self, constant: fx.Node) -> int:
        """Returns the bits that the intent of a float weight asks for, or the pass's own."""
        intent = quant_of(constant).intent
        return intent.bits if isinstance(intent, Spec) else self.bits

    def _method(self, bits: int) -> WeightMethod:
        if self.method == "auto":
            return "minmax" if bits == 8 else "mse"
        return self.method

    def _raise_scales(
        self, node: fx.Node, graph: QGraph, weight: torch.Tensor, scale: torch.Tensor
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
        self._check_loss(node, weight, scale, raised, (x_scale, y_scale))
        return raised

    def _check_loss(
        self,
        node: fx.Node,
        weight: torch.Tensor,
        scale: torch.Tensor,
        raised: torch.Tensor,
        scales: tuple[float, float],
    ) -> None:
        """Refuses a raised scale whose rounding error could move a result by over one step."""
        x_scale, y_scale = scales
        flat = weight.to(torch.float64).flatten(1)
        rounding = flat - torch.round(flat / along_axis(raised, 0, 2)) * along_axis(raised, 0, 2)
        worst = rounding.abs().sum(1) * 255 * x_scale
        lost = (raised > scale) & (worst > y_scale)
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
