"""Target: a datasheet of what a machine computes, and the door through which a backend builds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from qcompiler.ir.graph import QGraph, operator_of


@dataclass(frozen=True)
class OpSupport:
    """What a target supports of one integer operator, in words for the datasheet.

    ``name`` is the operator's name without namespace; ``kernels`` names the kernel families.
    """

    name: str
    kernels: tuple[str, ...] = ()
    note: str = ""


class Executable(ABC):
    """A program built for a target: runs as a whole, or one operator at a time for verification."""

    @abstractmethod
    def run(self, inputs: Sequence[torch.Tensor], threads: int) -> list[torch.Tensor]:
        """Returns the program's results for CPU inputs of the compiled types."""

    @abstractmethod
    def run_op(self, node: str, operands: Sequence[torch.Tensor], threads: int) -> torch.Tensor:
        """Returns one call's result; operands are its distinct inputs in order, no constants."""

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """Returns what an artifact keeps of the build, by file name."""

    def kernels(self) -> Mapping[str, str]:
        """Returns the kernel that runs each node; empty where the target has no choice."""
        return {}

    def time_ops(
        self, inputs: Sequence[torch.Tensor], threads: int, repeats: int
    ) -> Mapping[str, float]:
        """Returns the least microseconds of each node over repeats; empty where not measured."""
        return {}


@dataclass(frozen=True)
class Target(ABC):
    """A machine to compile for; the fields of a subclass are its options and round-trip as text."""

    name: ClassVar[str]
    summary: ClassVar[str]
    ops: ClassVar[tuple[OpSupport, ...]]
    pipeline: ClassVar[str] = "default"

    def why_not(self, node: fx.Node) -> str | None:
        """Returns the reason why the target cannot run a call, None when it can."""
        name = operator_of(node)._schema.name.split("::")[1]
        if any(op.name == name for op in self.ops):
            return None
        return f"{self.name} has no kernel for {name}"

    @abstractmethod
    def build(self, graph: QGraph) -> Executable:
        """Builds a graph at stage TARGETED.

        Raises:
            QCompilerError: QC0801 without a compiler, QC0803 when it refuses the sources.
        """

    @abstractmethod
    def restore(self, graph: QGraph, files: Mapping[str, bytes]) -> Executable:
        """Returns the executable of an artifact's files, rebuilt if they do not fit the machine."""
