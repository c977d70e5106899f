"""The kernels by name."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

_PACKAGE = "qcompiler.backends.cuda.kernels"
_MODULES = ("products", "windows", "elementwise", "movement")


@cache
def kernel(name: str) -> Any:
    """Returns the Triton function of a name; the first call imports Triton."""
    modules = (import_module(f"{_PACKAGE}.{module}") for module in _MODULES)
    return next(getattr(module, name) for module in modules if hasattr(module, name))
