"""Prints dimensions, numbers and initializers as C."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sympy
from sympy.printing.c import C99CodePrinter

from qcompiler.ir.types import Dim, simplify_dim


class _DimPrinter(C99CodePrinter):  # type: ignore[misc]  # sympy has no annotations
    """Prints integer expressions of positive symbols with 64-bit integer operations only."""

    def _print_Integer(self, expr: sympy.Integer) -> str:
        return f"INT64_C({int(expr)})"

    def _print_Pow(self, expr: sympy.Pow) -> str:
        base, power = expr.as_base_exp()
        return "(" + " * ".join([self._print(base)] * int(power)) + ")"

    def _print_floor(self, expr: sympy.Expr) -> str:
        numerator, denominator = sympy.fraction(sympy.together(expr.args[0]))
        return f"qc_floor_div({self._print(numerator)}, {self._print(denominator)})"

    def _print_ceiling(self, expr: sympy.Expr) -> str:
        return f"(-{self._print_floor(sympy.floor(-expr.args[0], evaluate=False))})"

    def _print_FloorDiv(self, expr: sympy.Expr) -> str:
        return f"qc_floor_div({self._print(expr.args[0])}, {self._print(expr.args[1])})"

    def _print_Mod(self, expr: sympy.Expr) -> str:
        a, b = (self._print(arg) for arg in expr.args)
        return f"({a} - qc_floor_div({a}, {b}) * {b})"

    def _print_Max(self, expr: sympy.Expr) -> str:
        return self._fold("qc_max", expr.args)

    def _print_Min(self, expr: sympy.Expr) -> str:
        return self._fold("qc_min", expr.args)

    def _fold(self, function: str, args: Sequence[sympy.Expr]) -> str:
        text: str = self._print(args[0])
        for arg in args[1:]:
            text = f"{function}({text}, {self._print(arg)})"
        return text


_PRINTER = _DimPrinter()


def c_dim(value: Dim) -> str:
    """Returns a dimension as a C expression over the local variables of its symbols."""
    simple = simplify_dim(value)
    if isinstance(simple, int):
        return str(simple)
    text: str = _PRINTER.doprint(simple)
    return text


def symbols_in(value: object) -> set[str]:
    """Returns the names of the symbols of a dimension."""
    if not isinstance(value, sympy.Expr):
        return set()
    return {str(s) for s in value.free_symbols}


def c_float(value: float) -> str:
    """Returns the fp32 number nearest to a value as an exact C literal."""
    return f"{float(np.float32(value)).hex()}f"


def c_value(value: Any) -> str:
    """Returns a number, dimension, float, C expression or sequence as a C initializer."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return c_float(value)
    if isinstance(value, (list, tuple)):
        return "{" + ", ".join(c_value(v) for v in value) + "}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f".{k} = {c_value(v)}" for k, v in value.items()) + "}"
    return c_dim(value)


def c_initializer(fields: Mapping[str, Any], indent: str = "        ") -> str:
    """Returns the lines of a designated initializer."""
    return "\n".join(f"{indent}.{name} = {c_value(value)}," for name, value in fields.items())
