"""The kernels by name; importing this imports Triton."""

from __future__ import annotations

from typing import Any

from qcompiler.backends.cuda.kernels import elementwise, movement, products, windows
from qcompiler.backends.cuda.launch import Launch

_MODULES = (products, windows, elementwise, movement)


def kernel_of(launch: Launch) -> Any:
    """Returns the Triton function of a launch."""
    return next(getattr(m, launch.kernel) for m in _MODULES if hasattr(m, launch.kernel))
