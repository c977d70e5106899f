"""Target: a datasheet of what a machine computes, and the door through which a backend builds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, TypeAlias

import torch
from torch import fx

from qcompiler.errors import QCompilerError, counted
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph, arguments, operator_of
from qcompiler.target.tuning import TuningBudget


@dataclass(frozen=True)
class OpSupport:
    """What a target supports of one integer operator: a line of its datasheet.

    ``name`` is the operator's name, with its namespace unless that is ``qcompiler``; ``values`` the
    types of its operands, ``weights`` the type and granularity of its parameters, ``fuses`` what
    its epilogue takes in, ``note`` a limit in words. Over the memory of the arguments ``in_place``
    the kernel may write its result, where such an operand has the type of the result: it reads
    each element before it writes the one in its place, on any number of threads.
    """

    name: str
    values: str = "i8"
    weights: str = ""
    fuses: tuple[str, ...] = ()
    note: str = ""
    in_place: tuple[str, ...] = ()

    def covers(self, operator: str) -> bool:
        """Says whether this is the line of an operator, given with its namespace."""
        return operator == (self.name if "::" in self.name else f"qcompiler::{self.name}")


# The kernel of a call that costs nothing: its result is its operand's memory.
VIEW = "view"


@dataclass(frozen=True)
class Limits:
    """What a machine does at best with a number of threads: multiply-accumulates, bytes read."""

    macs_per_second: float
    bytes_per_second: float


@dataclass(frozen=True)
class Profile:
    """What each operator executes on one thread: counted instructions, and predicted cycles.

    ``note`` says by what model cycles are predicted, or why they are not. An operator that the
    model does not know has nan.
    """

    instructions: Mapping[str, int] = field(default_factory=dict)
    cycles: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


# Runs inputs that have been checked, on a number of threads.
Run: TypeAlias = Callable[[Sequence[torch.Tensor], int], list[torch.Tensor]]


class Executable(ABC):
    """A program built for a target: runs as a whole, or one operator at a time for verification."""

    @abstractmethod
    def run(self, inputs: Sequence[torch.Tensor], threads: int) -> list[torch.Tensor]:
        """Returns the program's results for CPU inputs of the compiled types, on the CPU."""

    @property
    def device(self) -> torch.device:
        """Where the inputs and results of a call are.

        Raises:
            QCompilerError: QC0840 and others where the device of the target is not there.
        """
        return torch.device("cpu")

    def synchronize(self) -> None:  # noqa: B027  # nothing to wait for is a fine answer
        """Waits until calls that have returned are done; devices go on behind them."""

    def place(self, threads: int) -> str:
        """Returns what runs a call that may use a number of threads, in words."""
        return counted(threads, "thread")

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

    def project(self, name: str, *, weights_array: bool) -> Mapping[str, bytes]:
        """Returns the program as the files of a C project, by path.

        Args:
            name: of the library.
            weights_array: whether the weights come as a C array, too.

        Raises:
            QCompilerError: QC0825 where the target writes none.
        """
        raise QCompilerError(
            "QC0825",
            "the program's target writes no C projects",
            remedy="compile for cpu, or for an ARM target such as armv8-a",
        )

    def memory(self) -> Mapping[str, int]:
        """Returns the bytes of a C project by kind of memory: ``flash`` of constants, ``ram``."""
        return {}

    def profile(self, inputs: Sequence[torch.Tensor]) -> Profile:
        """Returns what each node executes on one thread, for checked inputs.

        Empty where that is not counted. Where programs run under an emulator it tells more of their
        speed than times do.
        """
        return Profile()

    def limits(self, threads: int) -> Limits | None:
        """Returns the measured rates that operators could reach, None where not measured."""
        return None


@dataclass(frozen=True)
class Target(ABC):
    """A machine to compile for; the fields of a subclass are its options and round-trip as text.

    The class variables are the datasheet: ``accumulator`` the type of sums, ``rounding`` that of
    requantization, ``storage`` how values lie in memory, ``ops`` one line per operator.
    ``has_choices`` says whether kernels leave something open that ``tune`` can measure.
    ``weight_bits``, ``group_sizes`` and ``activation_bits`` are the widths that programs may have;
    ``packed_weight_bits`` are those that kernels read from memory at their width, weights of others
    are unpacked to int8 when a program is built or loaded.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    ops: ClassVar[tuple[OpSupport, ...]]
    accumulator: ClassVar[str] = "int32"
    rounding: ClassVar[str] = "single, half up"
    storage: ClassVar[str] = "i8, in logical order"
    pipeline: ClassVar[str] = "default"
    has_choices: ClassVar[bool] = False
    weight_bits: ClassVar[tuple[int, ...]] = (2, 3, 4, 5, 6, 8)
    group_sizes: ClassVar[tuple[int, ...]] = (32, 64, 128)
    activation_bits: ClassVar[tuple[int, ...]] = (4, 8)
    packed_weight_bits: ClassVar[tuple[int, ...]] = ()

    @classmethod
    def facts(cls) -> Mapping[str, str]:
        """Returns what the datasheet says beside its lines for operators."""
        return {"accumulator": cls.accumulator, "rounding": cls.rounding, "storage": cls.storage}

    def why_not(self, node: fx.Node) -> str | None:
        """Returns the reason why the target cannot run a call, None when it can."""
        name = operator_of(node)._schema.name
        if any(op.covers(name) for op in self.ops):
            return None
        return f"{self.name} has no kernel for {name}"

    def in_place(self, node: fx.Node) -> tuple[str, ...]:
        """Returns the arguments over whose memory a call may write its result.

        Those are the datasheet's, where the operand has the type of the result; that nothing reads
        the operand later is up to the memory planner.
        """
        name = operator_of(node)._schema.name
        line = next((op for op in self.ops if op.covers(name)), None)
        if line is None:
            return ()
        operands = {argument: arguments(node)[argument] for argument in line.in_place}
        return tuple(
            argument
            for argument, operand in operands.items()
            if isinstance(operand, fx.Node) and type_of(operand) == type_of(node)
        )

    def predict_seconds(self, graph: QGraph, node: fx.Node, bits: int) -> float | None:
        """Returns the predicted time of a call on one thread, with weights of so many bits.

        Requantization counts, and so does unpacking where kernels do it at each call. The graph is
        at the stage TARGETED; dynamic sizes count with their least value. None where the target
        has no cost model.
        """
        return None

    def is_view(self, node: fx.Node) -> bool:
        """Says whether a call leaves the bytes of its first operand as they are.

        Both values may then share memory, and the program need not run the call.
        """
        return False

    def resolved(self) -> Target:
        """Returns the target that programs are compiled for and artifacts name.

        That is the target itself, but for one that stands for whatever this machine has.

        Raises:
            QCompilerError: QC0840 and others where the machine has nothing that it stands for.
        """
        return self

    def warm_up(self) -> None:  # noqa: B027  # nothing to do is a fine answer
        """Begins in the background what ``build`` needs; problems are left for it to meet."""

    @abstractmethod
    def build(self, graph: QGraph) -> Executable:
        """Builds a graph at stage TARGETED.

        Raises:
            QCompilerError: QC0801 without a compiler, QC0803 when it refuses the sources.
        """

    def tune(self, graph: QGraph, budget: TuningBudget) -> Executable:
        """Builds a graph with the fastest of the choices that kernels leave open, measured here.

        Targets whose ``has_choices`` is true define it.
        """
        raise NotImplementedError

    @abstractmethod
    def restore(self, graph: QGraph, files: Mapping[str, bytes]) -> Executable:
        """Returns the executable of an artifact's files, rebuilt if they do not fit the machine."""
