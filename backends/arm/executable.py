"""What ARM targets share: programs of their own processes, limits of memory, C projects."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch

from qcompiler.backends.arm.counting import count_instructions
from qcompiler.backends.arm.mca import predict
from qcompiler.backends.arm.remote import Launch, RemoteProgram
from qcompiler.backends.native.codes import SIGNED, CodeForm
from qcompiler.backends.native.emitter import ISLAND, NativeSources, describe
from qcompiler.backends.native.executable import (
    BINARY,
    NativeExecutable,
    NativeTarget,
    plan_of,
    read_files,
)
from qcompiler.backends.native.footprint import Footprint, footprint
from qcompiler.backends.native.levels import Isa
from qcompiler.backends.native.project import Project
from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import origin_of
from qcompiler.ir.graph import QGraph
from qcompiler.target.base import Profile


class ArmExecutable(NativeExecutable):
    """A program for an ARM processor, with the sources and constants that made it.

    Where no cross-compiler is there, it can be exported but not run.
    """

    def __init__(
        self, graph: QGraph, sources: NativeSources, target: ArmTarget, built: bytes | None = None
    ) -> None:
        self.sources = sources
        self.graph = graph
        self._target = target
        self._built = built
        self._missing: QCompilerError | None = None
        if built is None:
            try:
                self._built = target.compile(sources)
            except QCompilerError as error:
                if error.code != "QC0821":
                    raise
                self._missing = error

    @cached_property
    def program(self) -> RemoteProgram:
        """The program behind pipes.

        Raises:
            QCompilerError: QC0821 without a cross-compiler, QC0822 without an emulator.
        """
        if self._built is None:
            assert self._missing is not None
            raise self._missing
        sources = self.sources
        return RemoteProgram(
            self.graph,
            sources.ops,
            self._built,
            sources.blob,
            form=SIGNED,
            launch=self._target.launch(),
        )

    @property
    def level(self) -> Isa:
        """The fastest level that the program carries, which its core has."""
        return self._target.levels[-1]

    def notes(self) -> tuple[str, ...]:
        """Returns how the program runs here, and what is missing for that."""
        name = self._target.name
        if self._missing is not None:
            return (f"{name}: can be exported but not run here: {self._missing.problem}",)
        carried = ", ".join(isa.name for isa in self._target.levels)
        return (f"{name}: carries the levels {carried}; runs on {self._target.place()}",)

    def time_ops(
        self, inputs: Sequence[torch.Tensor], threads: int, repeats: int
    ) -> Mapping[str, float]:
        """Returns the least microseconds of each node; none under an emulator."""
        if not self._target.is_native():
            return {}
        return super().time_ops(inputs, threads, repeats)

    def profile(self, inputs: Sequence[torch.Tensor]) -> Profile:
        """Returns counted instructions and predicted cycles of each node; none without qemu."""
        if self._target.is_native():
            return Profile()
        executed = count_instructions(self.graph, self.program, inputs)
        counts = {node: own.instructions for node, own in executed.items()}
        core = self._target.schedule
        if not core:
            note = f"no predicted cycles: llvm-mca has no schedule of {self._target.name}"
            return Profile(counts, note=note)
        try:
            found = predict({node: own.blocks for node, own in executed.items()}, core)
        except QCompilerError as error:
            if error.code != "QC0828":
                raise
            return Profile(counts, note=f"no predicted cycles: {error.problem}; {error.remedy}")
        return Profile(counts, found.cycles, found.note)

    def project(self, name: str, *, weights_array: bool) -> Mapping[str, bytes]:
        """Returns the program as the files of a C project."""
        return self._target.project(self.graph, name, weights_array=weights_array).files()

    def memory(self) -> Mapping[str, int]:
        """Returns the bytes of a C project: ``flash`` and parts of it, ``ram`` of the arena."""
        return self._target.memory(self.graph)

    def index(self) -> Mapping[str, Any]:
        """Returns the levels of the program."""
        return {"levels": [isa.name for isa in self._target.levels]}

    @property
    def binary(self) -> tuple[str, bytes] | None:
        """The program for its processor, None without a cross-compiler."""
        return None if self._built is None else (BINARY, self._built)


@dataclass(frozen=True)
class ArmTarget(NativeTarget):
    """An ARM processor; integer kernels in C with signed codes, built by a cross-compiler.

    Options: ``emulate`` is what qemu emulates instead of the target's own processor; ``flash`` and
    ``ram`` are the bytes that a program for a batch of one may take of either.

    Attributes:
        levels: instruction sets that a program carries, slowest first; it takes the fastest one
            that the processor has.
    """

    storage: ClassVar[str] = "s8 = code; rank 4 as NHWC, other ranks in logical order"
    levels: ClassVar[tuple[Isa, ...]]

    emulate: str = ""
    flash: int | None = None
    ram: int | None = None

    @property
    def form(self) -> CodeForm:
        """How codes and weights are stored."""
        return SIGNED

    @abstractmethod
    def emit(self, graph: QGraph) -> NativeSources:
        """Returns the sources of a program that runs from here."""

    @abstractmethod
    def compile(self, sources: NativeSources) -> bytes:
        """Returns the program.

        Raises:
            QCompilerError: QC0821 without a compiler, QC0803 when it refuses the sources.
        """

    @abstractmethod
    def launch(self) -> Launch:
        """Returns how a program starts.

        Raises:
            QCompilerError: QC0822 where it cannot.
        """

    @abstractmethod
    def place(self) -> str:
        """Returns in words where programs run."""

    @abstractmethod
    def project(self, graph: QGraph, name: str, *, weights_array: bool) -> Project:
        """Returns the C project of a program."""

    @property
    def schedule(self) -> str:
        """The core whose schedule of llvm-mca predicts cycles; empty where there is none."""
        return ""

    def is_native(self) -> bool:
        """Returns whether this machine runs programs itself."""
        return False

    def footprint(self, graph: QGraph) -> Footprint:
        """Returns what a program takes of flash and RAM."""
        plan = plan_of(graph)
        return footprint(graph, plan, describe(graph, plan, form=self.form))

    def memory(self, graph: QGraph) -> Mapping[str, int]:
        """Returns the bytes of flash and RAM by what takes them."""
        found = self.footprint(graph)
        return {"flash": found.flash, "ram": found.ram}

    def build(self, graph: QGraph) -> ArmExecutable:
        """Builds a graph at stage TARGETED.

        Raises:
            QCompilerError: QC0201 for an operator that stays in float, QC0803 when the compiler
                refuses the sources, QC0826 for a program that exceeds ``flash`` or ``ram``.
        """
        sources = self.emit(graph)
        _refuse_islands(graph, sources)
        if self.flash is not None or self.ram is not None:
            self.footprint(graph).check(self.flash, self.ram, self.name)
        return ArmExecutable(graph, sources, self)

    def restore(self, graph: QGraph, files: Mapping[str, bytes]) -> ArmExecutable:
        """Returns the executable of an artifact's files."""
        sources, _, is_same = read_files(files, lambda settings: self.emit(graph))
        return ArmExecutable(graph, sources, self, files.get(BINARY) if is_same else None)


def _refuse_islands(graph: QGraph, sources: NativeSources) -> None:
    for op in sources.ops:
        if op.kernel == ISLAND:
            node = graph.node(op.node)
            raise QCompilerError(
                "QC0201",
                f"{node.target} stays in float, and programs for ARM run without torch",
                node=op.node,
                source=origin_of(node).source,
                remedy="compile with strict=True to see why, or choose the target cpu",
            )
