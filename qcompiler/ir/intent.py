"""Intent: what is asked for a value's quantization before its parameters are known."""

from __future__ import annotations

from dataclasses import dataclass

from qcompiler.ir.qtypes import PER_TENSOR, Granularity


@dataclass(frozen=True)
class Spec:
    """The value gets parameters of its own, from its range.

    ``pinned`` says that the user asked for just these: no pass chooses others.
    """

    bits: int = 8
    signed: bool = True
    symmetric: bool = False
    granularity: Granularity = PER_TENSOR
    pinned: bool = False


@dataclass(frozen=True)
class SharedWith:
    """The value has the parameters of another one; ``hard`` forbids a requantization between."""

    other: str
    hard: bool = True


@dataclass(frozen=True)
class DerivedFrom:
    """The value's scale is the product of other values' scales, as a bias's is; zero point 0."""

    others: tuple[str, ...]
    bits: int = 32


@dataclass(frozen=True)
class Fixed:
    """The value's parameters are given by its meaning, as a sigmoid's 1/256."""

    scale: float
    zero_point: int
    bits: int = 8


@dataclass(frozen=True)
class KeepFloat:
    """The value stays in floating point, for the stated reason.

    ``pinned`` says that the user asked for it, so that it is no error where islands are.
    """

    reason: str
    pinned: bool = False


Intent = Spec | SharedWith | DerivedFrom | Fixed | KeepFloat
