"""An integer graph as MLIR for IREE: linalg on tensors in NHWC, the same sums and rescales.

What IREE would otherwise have to find is given to it: zero points of operands are folded into
biases, 1x1 convolutions are matrix products, filters have the order of linalg's operators, and a
requantization with the bias before it and the addition after it are one elementwise operator.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph, arguments
from qcompiler.ir.queries import product_arguments

RESCALES = ("high", "wide")
# The high half of a product of 32 bits needs shifts of at least so much.
_LEAST_SHIFT = 33
_TYPES = {torch.int8: "i8", torch.int32: "i32", torch.int64: "i64"}


@dataclass(frozen=True)
class Value:
    """A value of the function: its name, shape and type of element."""

    name: str
    shape: tuple[int, ...]
    element: str

    @property
    def type(self) -> str:
        """The tensor's type."""
        return f"tensor<{'x'.join(map(str, self.shape))}x{self.element}>"


class IntegerModule:
    """Writes ``main``: the graph between its quantize and its dequantize, for one image.

    Takes int8 codes [1, H, W, C] and returns the int32 sums of the last layer.

    Args:
        graph: a graph at stage TARGETED for a network of convolutions.
        rescale: how 32-bit sums times 32-bit multipliers are written: ``wide`` in 64 bits, or
            ``high`` with the high half of the product, which needs fewer instructions and gives the
            same integers for shifts of at least 33.
    """

    def __init__(self, graph: QGraph, rescale: str) -> None:
        self._graph = graph
        self._rescale = rescale
        self._lines: list[str] = []
        self._values: dict[fx.Node, Value] = {}
        self._count = 0
        for node in graph.calls:
            self._call(node)

    def text(self) -> str:
        """Returns the module."""
        body = "\n".join(f"    {line}" for line in self._lines)
        taken, given = self._taken.type, self._given.type
        head = f"  func.func @main({self._taken.name}: {taken}) -> {given} {{"
        last = f"    return {self._given.name} : {given}"
        return "\n".join(["module {", head, body, last, "  }", "}", ""])

    # -- operators -----------------------------------------------------------------------------

    def _call(self, node: fx.Node) -> None:
        name = str(node.target).split(".")[1]
        given = arguments(node)
        if name == "quantize":
            batch, channels, height, width = map(_size, type_of(node).shape)
            self._taken = Value("%image", (batch, height, width, channels), "i8")
            self._values[node] = self._taken
        elif name in ("conv2d_requant", "pointwise_depthwise_requant"):
            x = None
            for product in product_arguments(node):
                x = self._convolution(x or self._values[product["x"]], product)
            assert x is not None
            self._values[node] = x
        elif name == "mean":
            self._values[node] = self._mean(self._values[given["x"]], given)
        elif name == "reshape":
            x = self._values[given["x"]]
            self._values[node] = self._flat(x, 1)
        elif name == "linear":
            self._values[node] = self._given = self._linear(self._values[given["x"]], given)
        elif name != "dequantize_accumulator":
            message = f"{node.name}: {name} is not written for IREE"
            raise NotImplementedError(message)

    def _convolution(self, x: Value, given: dict[str, Any]) -> Value:
        weight, bias = self._folded(given)
        channels, depth, height, width = weight.shape
        top, bottom, left, right = given["padding"]
        depthwise = given["groups"] == channels and depth == 1
        if not depthwise and given["groups"] != 1:
            message = "convolutions with groups are not written for IREE"
            raise NotImplementedError(message)
        if any(given["padding"]):
            x = self._padded(x, (top, bottom, left, right), given["x_zero_point"])
        rows = (x.shape[1] - height) // given["stride"][0] + 1
        columns = (x.shape[2] - width) // given["stride"][1] + 1
        shape = (1, rows, columns, channels)
        if not depthwise and height == width == 1 and list(given["stride"]) == [1, 1]:
            filters = self._constant(weight.reshape(channels, depth).t())
            flat = self._flat(x, 3)
            sums = self._product("linalg.matmul", flat, filters, (rows * columns, channels), "")
            residual = None
            if given.get("residual") is not None:
                residual = self._flat(self._values[given["residual"]], 3)
            return self._unflat(self._requantized(sums, bias, given, residual), shape)
        strides = f"strides = dense<[{given['stride'][0]}, {given['stride'][1]}]>"
        attributes = f" {{dilations = dense<1> : tensor<2xi64>, {strides} : tensor<2xi64>}}"
        if depthwise:
            filters = self._constant(weight.reshape(channels, height, width).permute(1, 2, 0))
            operator = "linalg.depthwise_conv_2d_nhwc_hwc"
        else:
            filters = self._constant(weight.permute(2, 3, 1, 0))
            operator = "linalg.conv_2d_nhwc_hwcf"
        sums = self._product(operator, x, filters, shape, attributes)
        residual = self._values[given["residual"]] if given.get("residual") is not None else None
        return self._requantized(sums, bias, given, residual)

    def _folded(self, given: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Returns weight and bias for operands that keep their zero point."""
        weight = self._graph.constant(given["weight"])
        bias = self._graph.constant(given["bias"]).to(torch.int64)
        sums = weight.to(torch.int64).flatten(1).sum(1)
        return weight, (bias - given["x_zero_point"] * sums).to(torch.int32)

    def _linear(self, x: Value, given: dict[str, Any]) -> Value:
        weight, bias = self._folded(given)
        shape = (x.shape[0], weight.shape[0])
        sums = self._product("linalg.matmul", x, self._constant(weight.t()), shape, "")
        body = ["%r = arith.addi %i0, %i1 : i32", "linalg.yield %r : i32"]
        return self._elementwise([sums], [self._constant(bias)], body, "i32")

    def _mean(self, x: Value, given: dict[str, Any]) -> Value:
        shape = (1, 1, 1, x.shape[3])
        places = ("n, h, w, c", "n, 0, 0, c")
        maps = ", ".join(f"affine_map<(n, c, h, w) -> ({place})>" for place in places)
        kinds = '"parallel", "parallel", "reduction", "reduction"'
        zero = self._filled(shape)
        sums = Value(self._name(), shape, "i32")
        self._lines += [
            f"{sums.name} = linalg.generic {{indexing_maps = [{maps}],"
            f" iterator_types = [{kinds}]}} ins({x.name} : {x.type})"
            f" outs({zero.name} : {zero.type}) {{",
            "^bb0(%i0: i8, %o: i32):",
            "  %v = arith.extsi %i0 : i8 to i32",
            "  %r = arith.addi %v, %o : i32",
            "  linalg.yield %r : i32",
            f"}} -> {sums.type}",
        ]
        elements = x.shape[1] * x.shape[2]
        bias = torch.full((x.shape[3],), -given["x_zero_point"] * elements, dtype=torch.int32)
        return self._requantized(sums, bias, given, None)

    def _requantized(
        self, sums: Value, bias: Tensor, given: dict[str, Any], residual: Value | None
    ) -> Value:
        """Returns clamp(((sums + bias) * multiplier + half) >> shift, and an addition to that."""
        channels = sums.shape[-1]
        multiplier = self._graph.constant(given["multiplier"]).to(torch.int64).expand(channels)
        shift = self._graph.constant(given["shift"]).to(torch.int64).expand(channels)
        body = [
            "%s = arith.addi %i0, %i1 : i32",
            "%s64 = arith.extsi %s : i32 to i64",
            "%m64 = arith.extsi %i2 : i32 to i64",
            "%p = arith.muli %s64, %m64 : i64",
        ]
        if self._rescale == "high":
            bias, multiplier, shift = _with_large_shifts(
                given, self._graph, bias, multiplier, shift
            )
            less = (shift - 32).to(torch.int32)
            constants = [bias, multiplier.to(torch.int32), 1 << (less - 1), less]
            body += [
                "%half = arith.constant 32 : i64",
                "%p32 = arith.shrsi %p, %half : i64",
                "%high = arith.trunci %p32 : i64 to i32",
                "%t = arith.addi %high, %i3 : i32",
                "%q = arith.shrsi %t, %i4 : i32",
            ]
        else:
            constants = [bias, multiplier.to(torch.int32), torch.ones_like(shift) << (shift - 1)]
            constants.append(shift)
            body += [
                "%t = arith.addi %p, %i3 : i64",
                "%q64 = arith.shrsi %t, %i4 : i64",
                "%q = arith.trunci %q64 : i64 to i32",
            ]
        limits = (given["zero_point"], given["qmin"], given["qmax"])
        body += _clamped("%q", "%y", *limits)
        operands, last = [sums], "%y"
        if residual is not None:
            operands.append(residual)
            za, ma, zb, mb, places, zero_point, qmin, qmax = given["add"]
            rest = (1 << (places - 1)) - za * ma - zb * mb
            body += [
                "%r = arith.extsi %j0 : i8 to i32",
                f"%ma = arith.constant {ma} : i32",
                f"%mb = arith.constant {mb} : i32",
                f"%rest = arith.constant {rest} : i32",
                f"%places = arith.constant {places} : i32",
                "%ya = arith.muli %y, %ma : i32",
                "%rb = arith.muli %r, %mb : i32",
                "%a0 = arith.addi %ya, %rb : i32",
                "%a1 = arith.addi %a0, %rest : i32",
                "%a2 = arith.shrsi %a1, %places : i32",
                *_clamped("%a2", "%z", zero_point, qmin, qmax),
            ]
            last = "%z"
        body += [f"%b = arith.trunci {last} : i32 to i8", "linalg.yield %b : i8"]
        return self._elementwise(operands, [self._constant(c) for c in constants], body, "i8")

    # -- text ----------------------------------------------------------------------------------

    def _elementwise(
        self, operands: list[Value], vectors: list[Value], body: list[str], element: str
    ) -> Value:
        """Writes an operator over values of one shape, and vectors along the last dimension.

        The body knows the first operand as i0, the vectors as i1, i2, ..., a second operand as j0.
        """
        first, *others = operands
        rank = len(first.shape)
        dims = ", ".join(f"d{i}" for i in range(rank))
        whole, along = f"affine_map<({dims}) -> ({dims})>", f"affine_map<({dims}) -> (d{rank - 1})>"
        ins = [first, *vectors, *others]
        maps = [whole, *[along] * len(vectors), *[whole] * len(others), whole]
        names = [f"%i{i}" for i in range(len(vectors) + 1)] + [f"%j{i}" for i in range(len(others))]
        arguments_ = [f"{n}: {v.element}" for n, v in zip(names, ins, strict=True)]
        kinds = ", ".join(['"parallel"'] * rank)
        empty = Value(self._name(), first.shape, element)
        out = Value(self._name(), first.shape, element)
        self._lines += [
            f"{empty.name} = tensor.empty() : {empty.type}",
            f"{out.name} = linalg.generic {{indexing_maps = [{', '.join(maps)}], iterator_types ="
            f" [{kinds}]}} ins({', '.join(v.name for v in ins)} :"
            f" {', '.join(v.type for v in ins)}) outs({empty.name} : {empty.type}) {{",
            f"^bb0({', '.join(arguments_)}, %o: {element}):",
            *[f"  {line}" for line in body],
            f"}} -> {out.type}",
        ]
        return out

    def _product(
        self, operator: str, x: Value, weight: Value, shape: tuple[int, ...], attributes: str
    ) -> Value:
        zero = self._filled(shape)
        out = Value(self._name(), shape, "i32")
        self._lines.append(
            f"{out.name} = {operator}{attributes} ins({x.name}, {weight.name} : {x.type},"
            f" {weight.type}) outs({zero.name} : {zero.type}) -> {out.type}"
        )
        return out

    def _filled(self, shape: tuple[int, ...]) -> Value:
        zero, empty, out = self._name(), Value(self._name(), shape, "i32"), self._name()
        self._lines += [
            f"{zero} = arith.constant 0 : i32",
            f"{empty.name} = tensor.empty() : {empty.type}",
            f"{out} = linalg.fill ins({zero} : i32) outs({empty.name} : {empty.type})"
            f" -> {empty.type}",
        ]
        return Value(out, shape, "i32")

    def _padded(self, x: Value, padding: tuple[int, int, int, int], code: int) -> Value:
        top, bottom, left, right = padding
        n, h, w, c = x.shape
        out = Value(self._name(), (n, h + top + bottom, w + left + right, c), "i8")
        pad = self._name()
        self._lines += [
            f"{pad} = arith.constant {code} : i8",
            f"{out.name} = tensor.pad {x.name} low[0, {top}, {left}, 0]"
            f" high[0, {bottom}, {right}, 0] {{",
            "^bb0(%p0: index, %p1: index, %p2: index, %p3: index):",
            f"  tensor.yield {pad} : i8",
            f"}} : {x.type} to {out.type}",
        ]
        return out

    def _flat(self, x: Value, leading: int) -> Value:
        """Merges the leading dimensions, and the rest."""
        groups = [list(range(leading)), list(range(leading, len(x.shape)))]
        shape = tuple(prod(x.shape[i] for i in group) for group in groups)
        out = Value(self._name(), shape, x.element)
        self._lines.append(
            f"{out.name} = tensor.collapse_shape {x.name} {groups} : {x.type} into {out.type}"
        )
        return out

    def _unflat(self, x: Value, shape: tuple[int, int, int, int]) -> Value:
        out = Value(self._name(), shape, x.element)
        self._lines.append(
            f"{out.name} = tensor.expand_shape {x.name} [[0, 1, 2], [3]] output_shape"
            f" {list(shape)} : {x.type} into {out.type}"
        )
        return out

    def _constant(self, tensor: Tensor) -> Value:
        out = Value(self._name(), tuple(tensor.shape), _TYPES[tensor.dtype])
        data = tensor.contiguous().numpy().tobytes()
        self._lines.append(f'{out.name} = arith.constant dense<"0x{data.hex()}"> : {out.type}')
        return out

    def _name(self) -> str:
        self._count += 1
        return f"%v{self._count}"


def _size(dim: object) -> int:
    """Returns a size, 1 for a dynamic one: that of the batch."""
    return dim if isinstance(dim, int) else 1


def _clamped(value: str, result: str, zero_point: int, low: int, high: int) -> list[str]:
    names = [f"{result}_{part}" for part in ("z", "low", "high", "sum", "most")]
    constants = zip(names, (zero_point, low, high), strict=False)
    return [
        *[f"{name} = arith.constant {number} : i32" for name, number in constants],
        f"{names[3]} = arith.addi {value}, {names[0]} : i32",
        f"{names[4]} = arith.minsi {names[3]}, {names[2]} : i32",
        f"{result} = arith.maxsi {names[4]}, {names[1]} : i32",
    ]


def _with_large_shifts(
    given: dict[str, Any], graph: QGraph, bias: Tensor, multiplier: Tensor, shift: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the same rescale with shifts of at least 33.

    The channels concerned have no weights: their sum is the bias, which takes what a shift lacks.
    """
    less = (_LEAST_SHIFT - shift).clamp(min=0)
    if int(less.max()) > 0:
        weight = graph.constant(given["weight"]).flatten(1)
        if bool(weight[less > 0].any()):
            message = "a channel with weights has a shift below 33"
            raise NotImplementedError(message)
    return (bias << less).to(torch.int32), multiplier, shift + less
