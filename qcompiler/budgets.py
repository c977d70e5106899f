"""Budgets that the bits of weights are allocated under: size, average bits, latency, drop."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qcompiler.errors import QCompilerError

_UNITS = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_TEXT = re.compile(r"\s*(\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)\s*([A-Za-z]*)\s*")


@dataclass(frozen=True)
class Size:
    """Bytes of the packed weights and of the parameters of their channels: 1200000 or "1.2MB"."""

    limit: float | str

    def __post_init__(self) -> None:
        object.__setattr__(self, "limit", _amount(self.limit, _UNITS, "Size", '"1.2MB"'))

    def __str__(self) -> str:
        return f"{self.limit:.12g}B"


@dataclass(frozen=True)
class AverageBits:
    """Mean bits of a weight, over all weights."""

    limit: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "limit", _amount(self.limit, {}, "AverageBits", "4.5"))

    def __str__(self) -> str:
        return f"{self.limit:.12g}"


@dataclass(frozen=True)
class Latency:
    """Predicted time of a call with one sample on one thread: 0.003 or "3ms"."""

    limit: float | str

    def __post_init__(self) -> None:
        object.__setattr__(self, "limit", _amount(self.limit, _SECONDS, "Latency", '"3ms"'))

    def __str__(self) -> str:
        return f"{self.limit:.12g}s"


@dataclass(frozen=True)
class Drop:
    """The smallest program whose score is at most ``limit`` below that of the float model.

    ``evaluate`` takes something that is called like the model, and returns a score of which more is
    better. It is called with the float model first, then with compiled programs, at most
    ``evaluations`` of them.
    """

    limit: float
    evaluate: Callable[[Any], float]
    evaluations: int = 6

    def __post_init__(self) -> None:
        limit: Any = self.limit
        number = isinstance(limit, (int, float)) and not isinstance(limit, bool)
        if not (number and math.isfinite(limit) and limit >= 0):
            raise _refusal("Drop", limit, "0.5")
        evaluate: Any = self.evaluate
        if not callable(evaluate) or self.evaluations < 1:
            raise QCompilerError(
                "QC0323",
                "Drop takes a function of a program, and at least one evaluation",
                remedy="give Drop(0.5, evaluate), where evaluate(program) returns a score",
            )

    def __str__(self) -> str:
        return f"drop of {self.limit:.12g}"


Fixed = Size | AverageBits | Latency
Budget = Size | AverageBits | Latency | Drop


def parse_budget(text: str) -> Fixed:
    """Returns the budget of a text: ``2.6MB``, ``4.5`` (average bits) or ``3ms``.

    Raises:
        QCompilerError: QC0323 for any other text.
    """
    match = _TEXT.fullmatch(text)
    unit = match.group(2) if match else None
    if unit == "":
        return AverageBits(float(text))
    if unit in _UNITS:
        return Size(text)
    if unit in _SECONDS:
        return Latency(text)
    raise _refusal("budget", text, "2.6MB, 4.5 or 3ms")


def _amount(given: Any, units: dict[str, float], what: str, example: str) -> float:
    value = given
    if isinstance(given, str):
        match = _TEXT.fullmatch(given)
        if match is None or match.group(2) not in units:
            raise _refusal(what, given, example)
        value = float(match.group(1)) * units[match.group(2)]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _refusal(what, given, example)
    if not (math.isfinite(value) and value > 0):
        raise _refusal(what, given, example)
    return float(value)


def _refusal(what: str, given: Any, example: str) -> QCompilerError:
    return QCompilerError("QC0323", f"{what} cannot be {given!r}", remedy=f"give it as {example}")
