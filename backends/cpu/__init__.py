"""The host CPU target: instruction-set levels and the datasheet."""

from qcompiler.backends.cpu.target import CpuTarget

TARGET = CpuTarget

__all__ = ["TARGET", "CpuTarget"]
