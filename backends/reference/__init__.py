"""The reference interpreter: everything supported, the oracle of the other backends."""

from qcompiler.backends.reference.target import ReferenceTarget

TARGET = ReferenceTarget

__all__ = ["TARGET", "ReferenceTarget"]
