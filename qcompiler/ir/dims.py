"""Dimensions in text IR: sums, products, quotients and functions of symbols, read without eval."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Any

import sympy

from qcompiler.ir.lexer import Line
from qcompiler.ir.types import Dim, simplify_dim, symbol
from qcompiler.torch_compat import FloorDiv, Mod, PythonMod

# Bounds that keep a hostile text from asking for an expression of unbounded size.
_MAX_DEPTH = 50
_MAX_EXPONENT = 8
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "floor": sympy.floor,
    "ceiling": sympy.ceiling,
    "Max": lambda *args: _largest(args),
    "Min": sympy.Min,
    "Mod": Mod,
    "PythonMod": PythonMod,
}


def read_dim(line: Line, symbols: Container[str]) -> Dim:
    """Reads an integer or an expression of the given symbols.

    Raises:
        QCompilerError: QC0601 with line and column.
    """
    column = line.next.column
    try:
        value = _sum(line, symbols, 0)
        dim = value if isinstance(value, (int, sympy.Symbol)) else simplify_dim(value)
    except (ArithmeticError, TypeError, ValueError, AttributeError) as error:
        line.fail(f"not a dimension: {error}", column)
    if not isinstance(dim, int) and dim.has(sympy.zoo, sympy.nan, sympy.oo):
        line.fail(f"not a dimension: {dim}", column)
    return dim


def _largest(args: Sequence[Any]) -> Any:
    """Returns the maximum as it is written; simplifying those of memory plans takes seconds."""
    return sympy.Max(*args, evaluate=all(isinstance(arg, int) for arg in args))


def _sum(line: Line, known: Container[str], depth: int) -> Any:
    if depth > _MAX_DEPTH:
        line.fail("the expression is nested too deeply")
    value = _product(line, known, depth)
    while line.at("+", "-"):
        if line.take().text == "+":
            value = value + _product(line, known, depth)
        else:
            value = value - _product(line, known, depth)
    return value


def _product(line: Line, known: Container[str], depth: int) -> Any:
    value = _factor(line, known, depth)
    while line.at("*", "/", "//", "%"):
        sign, other = line.take().text, _factor(line, known, depth)
        match sign:
            case "*":
                value = value * other
            case "/":
                value = sympy.sympify(value) / other
            case "//":
                value = FloorDiv(value, other)
            case _:
                value = Mod(value, other)
    return value


def _factor(line: Line, known: Container[str], depth: int) -> Any:
    if line.accept("-"):
        return -_factor(line, known, depth + 1)
    value = _atom(line, known, depth)
    if line.accept("**"):
        column = line.next.column
        exponent = line.take_integer()
        if abs(exponent) > _MAX_EXPONENT or sympy.sympify(value).has(sympy.Pow):
            line.fail(f"a power of {exponent} of {value}", column)
        return sympy.sympify(value) ** exponent
    return value


def _atom(line: Line, known: Container[str], depth: int) -> Any:
    if line.accept("("):
        value = _sum(line, known, depth + 1)
        line.expect(")")
        return value
    if line.next.kind == "number":
        return line.take_integer()
    name = line.take("word")
    if not line.accept("("):
        if name.text not in known:
            line.fail(f"the symbol {name.text} is not declared", name.column)
        return symbol(name.text)
    if name.text not in _FUNCTIONS:
        line.fail(f"unknown function {name.text}", name.column)
    args = [_sum(line, known, depth + 1)]
    while line.accept(","):
        args.append(_sum(line, known, depth + 1))
    line.expect(")")
    return _FUNCTIONS[name.text](*args)
