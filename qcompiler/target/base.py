"""Target: a datasheet of what a machine computes, and the door through which a backend builds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import torch
from torch import fx

from qcompiler.ir.graph import QGraph, operator_of


@dataclass(frozen=True)
class OpSupport:
    """What a target supports of one integer operator: a line of its datasheet.

    ``name`` is the operator's name, with its namespace unless that is ``qcompiler``; ``values`` the
    types of its operands, ``weights`` the type and granularity of its parameters, ``fuses`` what
    its epilogue takes in, ``note`` a limit in words.
    """

    name: str
    values: str = "i8"
    weights: str = ""
    fuses: tuple[str, ...] = ()
    note: str = ""


# Runs inputs that have been checked, on a number of threads.
Run: TypeAlias = Callable[[Sequence[torch.Tensor], int], list[torch.Tensor]]


class Executable(ABC):
    """A program built for a target: runs as a whole, or one operator at a time for verification."""

    @abstractmethod
    def run(self, inputs: Sequence[torch.Tensor], threads: int) -> list[torch.Tensor]:
        """Returns the program's results for CPU inputs of the compiled types."""

    def prepare(self, sizes: Mapping[str, int]) -> Run:
        """Returns what runs inputs whose dynamic dimensions have the given sizes.

        A program asks once for each signature of inputs: what depends on sizes alone need not be
        computed at each call.
        """
        return lambda inputs, threads: self.run([x.detach() for x in inputs], threads)

    @abstractmethod
    def run_op(self, node: str, operands: Sequence[torch.Tensor], threads: int) -> torch.Tensor:
        """Returns one call's result; operands are its distinct inputs in order, no constants."""

    @abstractmethod
    def files(self) -> dict[str, bytes]:
        """Returns what an artifact keeps of the build, by file name."""

    def kernels(self) -> Mapping[str, str]:
        """Returns the kernel that runs each node; empty where the target has no choice."""
        return {}

    def notes(self) -> tuple[str, ...]:
        """Returns what the report says of the build on this machine, in lines."""
        return ()

    def time_ops(
        self, inputs: Sequence[torch.Tensor], threads: int, repeats: int
    ) -> Mapping[str, float]:
        """Returns the least microseconds of each node over repeats; empty where not measured."""
        return {}


@dataclass(frozen=True)
class Target(ABC):
    """A machine to compile for; the fields of a subclass are its options and round-trip as text.

    The class variables are the datasheet: ``accumulator`` the type of sums, ``rounding`` that of
    requantization, ``storage`` how values lie in memory, ``ops`` one line per operator.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    ops: ClassVar[tuple[OpSupport, ...]]
    accumulator: ClassVar[str] = "int32"
    rounding: ClassVar[str] = "single, half up"
    storage: ClassVar[str] = "i8, in logical order"
    pipeline: ClassVar[str] = "default"

    def why_not(self, node: fx.Node) -> str | None:
        """Returns the reason why the target cannot run a call, None when it can."""
        name = operator_of(node)._schema.name
        if any(
            name == (op.name if "::" in op.name else f"qcompiler::{op.name}") for op in self.ops
        ):
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
