"""What a program does on the device: launches of kernels on places in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

Constant: TypeAlias = int | float | bool | tuple[int, ...]


@dataclass(frozen=True)
class Value:
    """The memory of a node's value: of an input, of a result, or of a place in the arena."""

    node: str
    dtype: torch.dtype


@dataclass(frozen=True)
class Packed:
    """Constant data at a byte offset of the blob on the device."""

    offset: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Workspace:
    """Zeroed memory that kernels leave zeroed, at a byte offset."""

    offset: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Scratch:
    """Memory of one operator while it runs, at a byte offset."""

    offset: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Stride:
    """A stride of an input, in elements, as the caller's tensor has it."""

    node: str
    dim: int


Pointer: TypeAlias = Value | Packed | Workspace | Scratch


@dataclass(frozen=True)
class Launch:
    """One kernel launch.

    Attributes:
        node: whose result it computes.
        kernel: name of a function of ``qcompiler.backends.cuda.kernels``.
        grid: blocks in three dimensions.
        arguments: pointers and numbers that are known when the program runs.
        constants: what the machine code is specialized for.
        num_warps: of a block.
        num_stages: of the loads that are under way in a loop.
    """

    node: str
    kernel: str
    grid: tuple[int, int, int]
    arguments: Mapping[str, Pointer | Stride | int]
    constants: Mapping[str, Constant] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 1

    def pointers(self) -> list[Pointer]:
        """Returns the memory that the launch reads or writes."""
        kinds = (Value, Packed, Workspace, Scratch)
        return [item for item in self.arguments.values() if isinstance(item, kinds)]

    def options(self) -> dict[str, Any]:
        """Returns what the compiler is told beside constants."""
        return {"num_warps": self.num_warps, "num_stages": self.num_stages}
