"""The stages that a graph passes through, in order."""

from __future__ import annotations

from enum import IntEnum


class Stage(IntEnum):
    """A point on the way from a traced model to a target program; later stages compare greater."""

    TRACED = 0
    NORMALIZED = 1
    CALIBRATED = 2
    QUANTIZED = 3
    INTEGER = 4
    TARGETED = 5

    @property
    def text(self) -> str:
        """The stage's name in text IR."""
        return self.name.lower()
