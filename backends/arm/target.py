"""ARM A-profile targets: levels and cores, building and restoring programs for them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib.resources import files
from typing import ClassVar

import torch
from torch import fx

from qcompiler.backends.arm.counting import count_instructions
from qcompiler.backends.arm.cross import LINK_FLAGS, emulator, find_cross_compiler, is_native
from qcompiler.backends.arm.datasheet import DATASHEET
from qcompiler.backends.arm.isa import CORES, DOTPROD, I8MM, LEVELS, NEON, Core
from qcompiler.backends.arm.remote import RemoteProgram
from qcompiler.backends.native.codes import SIGNED, CodeForm
from qcompiler.backends.native.emit_movement import is_view
from qcompiler.backends.native.emitter import (
    ISLAND,
    NativeSources,
    OpDescriptor,
    describe,
    emit,
    kernel_sources,
    plan_sequentially,
    why_not,
)
from qcompiler.backends.native.footprint import Footprint, footprint
from qcompiler.backends.native.levels import Isa
from qcompiler.backends.native.project import Project
from qcompiler.backends.native.toolchain import build, warm_up
from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import origin_of
from qcompiler.ir.graph import QGraph
from qcompiler.passmgr.options import format_pass
from qcompiler.target.base import VIEW, Executable, OpSupport, Run, Target

BINARY, BLOB, INDEX, SOURCES = "program", "constants.bin", "native.json", "src/"
RUNNER = "runner.c"


class ArmExecutable(Executable):
    """A static executable for Linux on 64-bit ARM, with the sources and constants that made it.

    Where no cross-compiler is there, it can be exported but not run.
    """

    def __init__(
        self, graph: QGraph, sources: NativeSources, target: ArmTarget, binary: bytes | None = None
    ) -> None:
        self.sources = sources
        self._graph = graph
        self._target = target
        self._binary = binary
        self._missing: QCompilerError | None = None
        if binary is None:
            try:
                self._binary = _build(sources, target.levels)
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
        return RemoteProgram(
            self._graph,
            self.sources.ops,
            self._built(),
            self.sources.blob,
            form=SIGNED,
            prefix=emulator(self._target.emulated),
        )

    def _built(self) -> bytes:
        if self._binary is None:
            assert self._missing is not None
            raise self._missing
        return self._binary

    def notes(self) -> tuple[str, ...]:
        """Returns how the program runs here, and what is missing for that."""
        name = self._target.name
        if self._missing is not None:
            return (f"{name}: can be exported but not run here: {self._missing.problem}",)
        where = "this processor" if is_native() else f"qemu-aarch64 -cpu {self._target.emulated}"
        carried = ", ".join(isa.name for isa in self._target.levels)
        return (f"{name}: carries the levels {carried}; runs on {where}",)

    def run(self, inputs: Sequence[torch.Tensor], threads: int) -> list[torch.Tensor]:
        """Returns the program's results for CPU inputs of the compiled types."""
        return self.program.run(inputs, threads)

    def prepare(self, sizes: Mapping[str, int]) -> Run:
        """Returns what runs inputs whose dynamic dimensions have the given sizes."""
        return self.program.prepare(sizes)

    def run_op(self, node: str, operands: Sequence[torch.Tensor], threads: int) -> torch.Tensor:
        """Returns one call's result; operands are its distinct inputs in order, no constants."""
        return self.program.run_op(node, operands, threads)

    def time_ops(
        self, inputs: Sequence[torch.Tensor], threads: int, repeats: int
    ) -> Mapping[str, float]:
        """Returns the least microseconds of each node; none under an emulator."""
        return self.program.time_ops(inputs, threads, repeats) if is_native() else {}

    def instructions(self, inputs: Sequence[torch.Tensor]) -> Mapping[str, int]:
        """Returns the instructions that each node executes, counted by qemu; none without it."""
        return {} if is_native() else count_instructions(self._graph, self.program, inputs)

    def kernels(self) -> Mapping[str, str]:
        """Returns the kernel of each node at the level of the target's core."""
        carried = self._target.levels
        level = next((isa for isa in reversed(LEVELS) if isa in carried), carried[0])
        return {
            op.node: op.kernel if op.kernel == VIEW else f"{op.kernel}_{level.name}"
            for op in self.sources.ops
        }

    def project(self, name: str, *, weights_array: bool) -> Mapping[str, bytes]:
        """Returns the program as the files of a C project."""
        target = self._target
        made = Project(
            self._graph,
            target.form,
            target.levels,
            format_pass(target),
            target.emulated,
            name,
            weights_array,
        )
        return made.files()

    def memory(self) -> Mapping[str, int]:
        """Returns the bytes of a C project: ``flash`` of constants, ``ram`` of the arena."""
        found = self._target.footprint(self._graph)
        return {"flash": found.flash, "ram": found.ram}

    def files(self) -> dict[str, bytes]:
        """Returns sources, binary, constants and the index of operators."""
        index = {
            "levels": [isa.name for isa in self._target.levels],
            "ops": [asdict(op) for op in self.sources.ops],
        }
        kept = {SOURCES + name: text for name, text in sorted(self.sources.files.items())}
        kept[BLOB] = self.sources.blob
        kept[INDEX] = json.dumps(index, indent=1, sort_keys=True).encode()
        if self._binary is not None:
            kept[BINARY] = self._binary
        return kept


@dataclass(frozen=True)
class ArmTarget(Target):
    """64-bit ARM processors under Linux; integer kernels in C, built by a cross-compiler.

    Programs run under qemu-aarch64, or at once where this machine is such a processor. Options:
    ``emulate`` is the model of a processor that qemu takes instead of the target's own; ``flash``
    and ``ram`` are the bytes that a program for a batch of one may take of either.

    Attributes:
        levels: instruction sets that a program carries, slowest first; it takes the fastest one
            that the processor has.
        core: whose model of qemu runs programs, and whose schedule predicts cycles.
    """

    ops: ClassVar[tuple[OpSupport, ...]] = DATASHEET
    storage: ClassVar[str] = "s8 = code; rank 4 as NHWC, other ranks in logical order"
    levels: ClassVar[tuple[Isa, ...]]
    core: ClassVar[Core]

    emulate: str = ""
    flash: int | None = None
    ram: int | None = None

    def footprint(self, graph: QGraph) -> Footprint:
        """Returns what a program takes of flash and RAM."""
        plan = graph.memory_plan or plan_sequentially(graph)
        return footprint(graph, plan, describe(graph, plan, form=self.form))

    @classmethod
    def facts(cls) -> Mapping[str, str]:
        """Returns what the datasheet says beside its lines for operators."""
        levels = [
            f"{isa.name} (-march={isa.march}; {', '.join(f.name for f in isa.features)})"
            for isa in cls.levels
        ]
        own = {
            "instruction sets": "; ".join(levels),
            "runs under": f"qemu-aarch64 -cpu {cls.core.qemu}, or on such a processor",
            "cycles by": f"llvm-mca -mcpu={cls.core.scheduling}",
        }
        return {**super().facts(), **own}

    @property
    def form(self) -> CodeForm:
        """How codes are stored, and weights: smmla takes them in another form than the rest."""
        panels = ("panels",) if any(isa != I8MM for isa in self.levels) else ()
        pairs = ("pairs",) if I8MM in self.levels else ()
        return replace(SIGNED, weights=(*panels, *pairs))

    @property
    def emulated(self) -> str:
        """The model of a processor that qemu takes."""
        return self.emulate or self.core.qemu

    def why_not(self, node: fx.Node) -> str | None:
        """Returns the reason why no kernel covers a call, None when one does."""
        return why_not(node)

    def is_view(self, node: fx.Node) -> bool:
        """Says whether a call is a reshape whose result is its operand's bytes."""
        return is_view(node)

    def warm_up(self) -> None:
        """Compiles the kernel library in the background."""
        with suppress(QCompilerError):
            warm_up(kernel_sources(SIGNED), self.levels, find_cross_compiler())

    def build(self, graph: QGraph) -> ArmExecutable:
        """Builds a graph at stage TARGETED.

        Raises:
            QCompilerError: QC0201 for an operator that stays in float, QC0803 when the compiler
                refuses the sources, QC0826 for a program that exceeds ``flash`` or ``ram``.
        """
        sources = emit(graph, graph.memory_plan or plan_sequentially(graph), form=self.form)
        _refuse_islands(graph, sources)
        if self.flash is not None or self.ram is not None:
            self.footprint(graph).check(self.flash, self.ram, self.name)
        sources.files[RUNNER] = (files(__package__) / RUNNER).read_bytes()
        return ArmExecutable(graph, sources, self)

    def restore(self, graph: QGraph, files: Mapping[str, bytes]) -> ArmExecutable:
        """Returns the executable of an artifact's files."""
        index = json.loads(files[INDEX])
        ops = tuple(
            OpDescriptor(op["node"], op["kernel"], tuple(op["operands"]), op["choices"])
            for op in index["ops"]
        )
        texts = {n.removeprefix(SOURCES): t for n, t in files.items() if n.startswith(SOURCES)}
        sources = NativeSources(texts, files[BLOB], ops)
        return ArmExecutable(graph, sources, self, files.get(BINARY))


def _build(sources: NativeSources, levels: Sequence[Isa]) -> bytes:
    return build(sources.files, levels, find_cross_compiler(), LINK_FLAGS)


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


class Armv8Target(ArmTarget):
    """Any 64-bit ARM processor: NEON."""

    name: ClassVar[str] = "armv8-a"
    summary: ClassVar[str] = "64-bit ARM: NEON kernels"
    levels: ClassVar[tuple[Isa, ...]] = (NEON,)
    core: ClassVar[Core] = CORES["cortex-a53"]


class DotprodTarget(ArmTarget):
    """64-bit ARM processors with dot products of bytes: Cortex-A55, A75 and later."""

    name: ClassVar[str] = "armv8.2-a+dotprod"
    summary: ClassVar[str] = "64-bit ARM with sdot: Cortex-A55, A76, Neoverse N1 and later"
    levels: ClassVar[tuple[Isa, ...]] = (DOTPROD,)
    core: ClassVar[Core] = CORES["neoverse-n1"]


class I8mmTarget(ArmTarget):
    """64-bit ARM processors with products of byte matrices."""

    name: ClassVar[str] = "armv8.6-a+i8mm"
    summary: ClassVar[str] = "64-bit ARM with smmla: Cortex-A510, A710, Neoverse V1 and later"
    levels: ClassVar[tuple[Isa, ...]] = (I8MM,)
    core: ClassVar[Core] = CORES["neoverse-v1"]


class FatTarget(ArmTarget):
    """Any 64-bit ARM processor: one program with the kernels of every level.

    The fastest level that the kernel reports of the processor (HWCAP) runs.
    """

    name: ClassVar[str] = "armv8-fat"
    summary: ClassVar[str] = "64-bit ARM: NEON, sdot and smmla kernels, chosen at run time"
    levels: ClassVar[tuple[Isa, ...]] = LEVELS
    core: ClassVar[Core] = CORES["neoverse-v1"]
