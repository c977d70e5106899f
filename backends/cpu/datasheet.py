"""The cpu target's datasheet: every operator that has a kernel in C."""

from __future__ import annotations

from qcompiler.backends.native.datasheet import NATIVE_OPS

DATASHEET = NATIVE_OPS
