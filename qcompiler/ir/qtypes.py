"""QType: how the integers of a value map to real numbers."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import torch


@dataclass(frozen=True)
class Granularity:
    """How many scales a value has: one, one per index of an axis, or two levels of them.

    ``axis`` is None for one scale per tensor. With ``group`` each run of so many neighbouring
    elements of an index of the axis, the last one maybe shorter, has an integer factor beside the
    scale of the index. Factors are contained in the integers, which are then multiples of them; the
    bits of a type are those of the codes without them.
    """

    axis: int | None = None
    group: int | None = None

    def __str__(self) -> str:
        if self.axis is None:
            return "tensor"
        return f"channel:{self.axis}" if self.group is None else f"group:{self.axis}:{self.group}"


PER_TENSOR = Granularity()


@dataclass(frozen=True)
class QType:
    """A quantized type: ``real = (integer - zero_point) * scale``.

    ``scale`` holds exact float64 numbers, one per tensor or per channel or group; ``zero_point``
    has the same length. ``narrow`` drops the lowest code, so that the range is symmetric.
    """

    bits: int
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    signed: bool = True
    granularity: Granularity = PER_TENSOR
    narrow: bool = False

    @property
    def qmin(self) -> int:
        """Smallest code."""
        low = -(1 << (self.bits - 1)) if self.signed else 0
        return low + 1 if self.narrow else low

    @property
    def qmax(self) -> int:
        """Largest code."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def dtype(self) -> torch.dtype:
        """The torch dtype that stores the codes."""
        if self.bits <= 8:
            return torch.int8 if self.signed else torch.uint8
        return torch.int16 if self.bits <= 16 else torch.int32

    @property
    def tensor_scale(self) -> float:
        """The scale of a per-tensor type; raises ValueError for any other granularity."""
        (scale,) = self.scale
        return scale

    @property
    def tensor_zero_point(self) -> int:
        """The zero point of a per-tensor type; raises ValueError for any other granularity."""
        (zero_point,) = self.zero_point
        return zero_point

    @property
    def exact_scale(self) -> Fraction:
        """The scale of a per-tensor type as an exact rational."""
        return Fraction(self.tensor_scale)

    def __str__(self) -> str:
        sign = "s" if self.signed else "u"
        narrow = "n" if self.narrow else ""
        return f"{sign}{self.bits}{narrow}:{self.granularity}"
