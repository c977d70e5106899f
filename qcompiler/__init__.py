"""Compiles PyTorch models to bit-exact integer programs and explains every decision."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qcompiler.api import compile, load
    from qcompiler.budgets import AverageBits, Drop, Latency, Size
    from qcompiler.errors import QCompilerError
    from qcompiler.program import Program

__version__ = "0.1.0"

__all__ = [
    "AverageBits",
    "Drop",
    "Latency",
    "Program",
    "QCompilerError",
    "Size",
    "__version__",
    "compile",
    "load",
]

# Public name -> module that defines it; imported at first use (PEP 562), so that
# `import qcompiler` costs next to nothing.
_HOMES = {
    "AverageBits": "qcompiler.budgets",
    "Drop": "qcompiler.budgets",
    "Latency": "qcompiler.budgets",
    "Size": "qcompiler.budgets",
    "Program": "qcompiler.program",
    "QCompilerError": "qcompiler.errors",
    "compile": "qcompiler.api",
    "load": "qcompiler.api",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        problem = f"module 'qcompiler' has no attribute {name!r}"
        raise AttributeError(problem)
    value: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
