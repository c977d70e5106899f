"""The type of a value: element type and shape, with symbolic dimensions as sympy expressions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import sympy
import torch

Dim: TypeAlias = int | sympy.Expr

# The symbol of the batch dimension.
BATCH = "batch"

_SHORT = {
    torch.float32: "f32",
    torch.float64: "f64",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.complex64: "c64",
    torch.complex128: "c128",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.int16: "i16",
    torch.uint16: "u16",
    torch.int32: "i32",
    torch.uint32: "u32",
    torch.int64: "i64",
    torch.uint64: "u64",
    torch.bool: "i1",
}
_DTYPES = {text: dtype for dtype, text in _SHORT.items()}


@cache
def symbol(name: str) -> sympy.Symbol:
    """Returns the positive integer symbol of a dynamic dimension."""
    return sympy.Symbol(name, integer=True, positive=True)


@dataclass(frozen=True)
class SymbolRange:
    """The values that a dynamic dimension may take, both ends included."""

    low: int = 1
    high: int = 2**31 - 1


@dataclass(frozen=True)
class TensorType:
    """Element type and shape of a value; a dimension is an int or a sympy expression of symbols."""

    dtype: torch.dtype
    shape: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        """Whether every dimension is a number."""
        return all(isinstance(d, int) for d in self.shape)

    @property
    def is_float(self) -> bool:
        """Whether elements are floating-point numbers."""
        return self.dtype.is_floating_point

    def numel(self) -> Dim:
        """Returns the number of elements, an int when the shape is static."""
        total: sympy.Expr = sympy.Integer(1)
        for d in self.shape:
            total = total * d
        return int(total) if total.is_Integer else total

    def nbytes(self) -> Dim:
        """Returns the size in bytes of a dense tensor of this type."""
        return simplify_dim(self.numel() * self.dtype.itemsize)

    def bind(self, values: Mapping[str, int]) -> tuple[int, ...]:
        """Returns the shape with symbols replaced by numbers."""
        return tuple(evaluate_dim(d, values) for d in self.shape)

    def __str__(self) -> str:
        return f"{_SHORT[self.dtype]}[{','.join(str(d) for d in self.shape)}]"


def simplify_dim(value: object) -> Dim:
    """Returns an int for a constant dimension, else the expanded sympy expression."""
    expr = sympy.expand(sympy.sympify(value))
    return int(expr) if expr.is_Integer else expr


def evaluate_dim(dim: Dim, values: Mapping[str, int]) -> int:
    """Returns a dimension as a number, given the values of the symbols."""
    if isinstance(dim, int):
        return dim
    return int(dim.subs({symbol(name): value for name, value in values.items()}))


def dtype_name(dtype: torch.dtype) -> str:
    """Returns the short name of a dtype in text IR, as ``i8``."""
    return _SHORT[dtype]


def dtype_of_name(name: str) -> torch.dtype:
    """Returns the dtype with the given short name; raises KeyError for another one."""
    return _DTYPES[name]
