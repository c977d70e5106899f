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

# The constants of a product's kernel that say how it is cut into blocks.
_CUT = ("BLOCK_M", "BLOCK_N", "BLOCK_K")


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

    def label(self) -> str:
        """Returns the kernel's name, with how a product is cut."""
        cut = [str(self.constants[name]) for name in _CUT if name in self.constants]
        if len(cut) < len(_CUT):
            return self.kernel
        options = f"{'x'.join(cut)} warps={self.num_warps} stages={self.num_stages}"
        split = self.constants.get("SPLIT_K", 1)
        return f"{self.kernel}{{{options}{f' split={split}' if split != 1 else ''}}}"

    def options(self) -> dict[str, Any]:
        """Returns what the compiler is told beside constants.

        A product and a sum are never one instruction with one rounding.
        """
        stages = {"num_warps": self.num_warps, "num_stages": self.num_stages}
        return {**stages, "enable_fp_fusion": False}


@dataclass(frozen=True)
class Island:
    """An operator that stays in floating point: torch computes it on the device.

    Attributes:
        node: whose result it computes.
        operands: its distinct inputs in order, no constants.
        result: where that goes.
    """

    node: str
    operands: tuple[Value, ...]
    result: Value

    def pointers(self) -> list[Pointer]:
        """Returns the memory that the operator reads or writes."""
        return [*self.operands, self.result]

    def label(self) -> str:
        """Returns what runs it."""
        return "torch"


Step: TypeAlias = Launch | Island


@dataclass(frozen=True)
class Lowered:
    """The launches of a program at given sizes, and the memory that they need beside values.

    Attributes:
        steps: launches in order, and operators that torch computes.
        scratch: bytes for what operators keep while they run.
        zeroed: bytes that are zero before each operator.
    """

    steps: tuple[Step, ...]
    scratch: int
    zeroed: int

    @property
    def launches(self) -> list[Launch]:
        """The steps that are launches of kernels."""
        return [step for step in self.steps if isinstance(step, Launch)]
