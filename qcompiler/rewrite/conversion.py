"""Conversions: how one call of a traced operator is written with the normalized float operators.

A conversion is a function from the place of the call to the node that stands for its result (a
tuple of nodes for an operator with several results). Packages add theirs as entry points of the
group ``qcompiler.ops`` under the operator's full name, as ``mylib.swish.default``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import fx

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import type_of
from qcompiler.ir.float_ops import FLOAT_OPS
from qcompiler.ir.graph import QGraph, argument, is_constant
from qcompiler.ir.types import Dim, TensorType


class NotConvertible(Exception):
    """The call's arguments are outside of what the conversion covers; the message is the reason."""


def refuse(reason: str) -> NoReturn:
    """Ends a conversion that does not cover its call, for a reason that continues "because"."""
    raise NotConvertible(reason)


@dataclass(frozen=True)
class Site:
    """A call that is being converted; new nodes are inserted before it and inherit its origin."""

    graph: QGraph
    node: fx.Node

    def arg(self, name: str) -> Any:
        """Returns an argument by its name in the operator's schema, default included."""
        return argument(self.node, name)

    def tensor(self, name: str) -> fx.Node:
        """Returns an argument that is a float32 tensor."""
        value = self.arg(name)
        if not isinstance(value, fx.Node):
            refuse(f"its argument {name!r} is no tensor")
        return self.floating(value)

    def floating(self, node: fx.Node) -> fx.Node:
        """Returns a node of type float32; a constant of another type is converted."""
        dtype = type_of(node).dtype
        if dtype == torch.float32:
            return node
        if not is_constant(node):
            refuse(f"it computes with {str(dtype).removeprefix('torch.')}")
        return self.constant(self.graph.constant(node).to(torch.float32), str(node.target))

    def number(self, value: Any) -> float | None:
        """Returns a Python number or a constant of one element as a float, else None."""
        if isinstance(value, (bool, int, float)):
            return float(value)
        if isinstance(value, fx.Node) and is_constant(value):
            held = self.graph.constant(value)
            return float(held) if held.numel() == 1 else None
        return None

    def held(self, name: str) -> torch.Tensor | None:
        """Returns the tensor of an argument that must be a constant; None where it is absent."""
        value = self.arg(name)
        if value is None:
            return None
        if not is_constant(value):
            refuse(f"its argument {name!r} is computed, not constant")
        return self.graph.constant(value)

    def ints(self, name: str, count: int) -> list[int]:
        """Returns a list of numbers; a single number stands for all."""
        value = self.arg(name)
        listed = [value] if isinstance(value, int) else list(value)
        if not all(isinstance(v, int) for v in listed):
            refuse(f"its argument {name!r} depends on a dynamic dimension")
        return [int(v) for v in listed] * (count if len(listed) == 1 else 1)

    def dim(self, value: Any, rank: int) -> int:
        """Returns a dimension counted from the front."""
        return int(value) % max(rank, 1)

    @property
    def result(self) -> TensorType:
        """The type of the call's result."""
        return type_of(self.node)

    def constant(self, tensor: torch.Tensor, name: str) -> fx.Node:
        """Stores a constant and returns the node that reads it."""
        return self.graph.add_constant(tensor, name, self.node)

    def emit(self, op: str, *args: Any) -> fx.Node:
        """Inserts a call of a normalized operator, named as ``qfloat::conv2d``."""
        overload = FLOAT_OPS[op].overload
        return self.graph.call(overload, args, before=self.node, origin=self.node)

    def unary(self, x: fx.Node, function: str, *params: float) -> fx.Node:
        """Inserts an elementwise function."""
        return self.emit("qfloat::unary", x, function, list(params))

    def affine(self, x: fx.Node, factor: float, offset: float) -> fx.Node:
        """Inserts ``x * factor + offset``, nothing where that is x."""
        if (factor, offset) == (1.0, 0.0):
            return x
        return self.unary(x, "affine", factor, offset)

    def reshape(self, x: fx.Node, shape: Sequence[Dim]) -> fx.Node:
        """Inserts a change of shape; at most one dynamic dimension may be new at its place."""
        old = type_of(x).shape
        if tuple(old) == tuple(shape):
            return x
        spec: list[int] = []
        for place, dim in enumerate(shape):
            if isinstance(dim, int):
                spec.append(dim)
            elif place < len(old) and old[place] == dim:
                spec.append(0)
            else:
                spec.append(-1)
        if spec.count(-1) > 1 or 0 in shape:
            refuse("it moves several dynamic dimensions at once")
        return self.emit("qcompiler::reshape", x, spec)

    def permute(self, x: fx.Node, dims: Sequence[int]) -> fx.Node:
        """Inserts a reordering of the dimensions, nothing where they keep their places."""
        if list(dims) == list(range(len(dims))):
            return x
        return self.emit("qcompiler::permute", x, list(dims))

    def slice(self, x: fx.Node, dim: int, start: int, end: int, step: int = 1) -> fx.Node:
        """Inserts a slice, nothing where it is the whole."""
        size = type_of(x).shape[dim]
        if (
            start == 0
            and step == 1
            and (end == size or (end >= _END and not isinstance(size, int)))
        ):
            return x
        return self.emit("qcompiler::slice", x, dim, start, end, step)


_END = 2**31 - 1

Converted = fx.Node | Sequence[fx.Node] | None
Conversion = Callable[[Site], Converted]


class ConversionTable:
    """Conversions by the full name of their operators."""

    def __init__(self) -> None:
        self.entries: dict[str, Conversion] = {}

    def add(self, *names: str) -> Callable[[Conversion], Conversion]:
        """Enters the decorated function under the operators' names."""

        def enter(conversion: Conversion) -> Conversion:
            for name in names:
                if name in self.entries:
                    raise QCompilerError(
                        "QC0505", f"{name} has two conversions", remedy="remove one of them"
                    )
                self.entries[name] = conversion
            return conversion

        return enter
