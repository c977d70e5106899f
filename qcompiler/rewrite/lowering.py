"""Lowerings: how one call of a normalized float operator is written with integer operators.

A lowering is a function from the call to the integer node of its result, in the result's QType.
Packages add theirs as entry points of the group ``qcompiler.lowerings`` under the float operator's
name, as ``mylib::swish``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import torch
from torch import fx

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import origin_of, qtype_of
from qcompiler.ir.graph import QGraph, arguments
from qcompiler.ir.qtypes import QType
from qcompiler.torch_compat import OpOverload


class Lowering:
    """One float call on its way to integer operators, and the tools to build them."""

    def __init__(self, node: fx.Node, graph: QGraph, integers: dict[fx.Node, fx.Node]) -> None:
        self.node = node
        self.graph = graph
        self._integers = integers
        self.args = arguments(node)

    @property
    def qtype(self) -> QType:
        """The QType of the call's result."""
        return qtype_of(self.node)

    @property
    def limits(self) -> tuple[int, int, int]:
        """The result's zero point and its smallest and largest code."""
        return self.qtype.tensor_zero_point, self.qtype.qmin, self.qtype.qmax

    def operand(self, name: str) -> tuple[fx.Node, QType]:
        """Returns an operand's integer node and QType."""
        node = self.args[name]
        return self.integer(node), qtype_of(node)

    def integer(self, node: fx.Node) -> fx.Node:
        """Returns the integer node that stands for a float node."""
        return self._integers[node]

    def call(self, target: OpOverload, *args: Any) -> fx.Node:
        """Inserts an integer call before the float one."""
        return self.graph.call(target, args, before=self.node, origin=self.node)

    def constant(
        self, values: Sequence[int], name: str, dtype: torch.dtype = torch.int32
    ) -> fx.Node:
        """Inserts an integer constant."""
        tensor = torch.tensor(values, dtype=dtype)
        return self.graph.add_constant(tensor, f"{self.node.name}_{name}", self.node)

    def ratio(self, *numerator: QType) -> Fraction:
        """Returns the product of per-tensor scales over the result's scale, exactly."""
        product = Fraction(1)
        for qtype in numerator:
            product *= qtype.exact_scale
        return product / self.qtype.exact_scale

    def error(self, problem: str, remedy: str) -> QCompilerError:
        """Returns the coded error for arguments that have no integer form."""
        return QCompilerError(
            "QC0203",
            problem,
            node=self.node.name,
            source=origin_of(self.node).source,
            remedy=remedy,
        )


Rule = Callable[[Lowering], fx.Node]
