"""The integer operators, each with its exact definition, fake kernel and range function."""

from __future__ import annotations

from qcompiler.ir.integer_ops import (
    border,
    chained,
    elementwise,
    movement,
    pooling,
    products,
    resize,
)
from qcompiler.ir.integer_ops.base import INTEGER_OPS, IntegerOp, integer_op, integer_op_of

__all__ = [
    "INTEGER_OPS",
    "IntegerOp",
    "border",
    "chained",
    "elementwise",
    "integer_op",
    "integer_op_of",
    "movement",
    "pooling",
    "products",
    "resize",
]
