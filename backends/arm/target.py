"""ARM A-profile targets: levels and cores, building and restoring programs for them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import ClassVar

from qcompiler.backends.arm.cross import LINK_FLAGS, emulator, find_cross_compiler, is_native
from qcompiler.backends.arm.executable import ArmTarget
from qcompiler.backends.arm.isa import CORES, DOTPROD, I8MM, LEVELS, NEON, Core
from qcompiler.backends.arm.remote import Launch
from qcompiler.backends.native.codes import SIGNED, CodeForm
from qcompiler.backends.native.emitter import NativeSources, emit, kernel_sources
from qcompiler.backends.native.executable import plan_of
from qcompiler.backends.native.levels import Isa
from qcompiler.backends.native.project import Project
from qcompiler.backends.native.toolchain import build, warm_up
from qcompiler.errors import QCompilerError
from qcompiler.ir.graph import QGraph
from qcompiler.passmgr.options import format_pass

_RUNNER = ("runner.c", "runner.h", "runner_host.c")


def runner_files() -> dict[str, bytes]:
    """Returns what serves requests for a program, as files to compile with it."""
    return {name: (files(__package__) / name).read_bytes() for name in _RUNNER}


@dataclass(frozen=True)
class AProfileTarget(ArmTarget):
    """64-bit ARM processors under Linux; integer kernels in C, built by a cross-compiler.

    Programs run under qemu-aarch64, or at once where this machine is such a processor. Options:
    ``emulate`` is the model of a processor that qemu takes instead of the target's own; ``flash``
    and ``ram`` are the bytes that a program for a batch of one may take of either.

    Attributes:
        core: whose model of qemu runs programs, and whose schedule predicts cycles.
    """

    core: ClassVar[Core]

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
    def schedule(self) -> str:
        """The core whose schedule of llvm-mca predicts cycles."""
        return self.core.scheduling

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

    def is_native(self) -> bool:
        """Returns whether this machine is such a processor."""
        return is_native()

    def place(self) -> str:
        """Returns in words where programs run."""
        return "this processor" if is_native() else f"qemu-aarch64 -cpu {self.emulated}"

    def emit(self, graph: QGraph) -> NativeSources:
        """Returns the program with its threads, and what serves requests."""
        sources = emit(graph, plan_of(graph), form=self.form)
        sources.files.update(runner_files())
        return sources

    def compile(self, sources: NativeSources) -> bytes:
        """Returns a static executable for Linux."""
        return build(sources.files, self.levels, find_cross_compiler(), LINK_FLAGS)

    def launch(self) -> Launch:
        """Returns the emulator's command, an empty one on an ARM machine."""
        return Launch(emulator(self.emulated))

    def project(self, graph: QGraph, name: str, *, weights_array: bool) -> Project:
        """Returns the C project of a program."""
        return Project(
            graph, self.form, self.levels, format_pass(self), self.emulated, name, weights_array
        )

    def warm_up(self) -> None:
        """Compiles the kernel library in the background."""
        with suppress(QCompilerError):
            warm_up(kernel_sources(SIGNED), self.levels, find_cross_compiler())


class Armv8Target(AProfileTarget):
    """Any 64-bit ARM processor: NEON."""

    name: ClassVar[str] = "armv8-a"
    summary: ClassVar[str] = "64-bit ARM: NEON kernels"
    levels: ClassVar[tuple[Isa, ...]] = (NEON,)
    core: ClassVar[Core] = CORES["cortex-a53"]


class DotprodTarget(AProfileTarget):
    """64-bit ARM processors with dot products of bytes: Cortex-A55, A75 and later."""

    name: ClassVar[str] = "armv8.2-a+dotprod"
    summary: ClassVar[str] = "64-bit ARM with sdot: Cortex-A55, A76, Neoverse N1 and later"
    levels: ClassVar[tuple[Isa, ...]] = (DOTPROD,)
    core: ClassVar[Core] = CORES["neoverse-n1"]


class I8mmTarget(AProfileTarget):
    """64-bit ARM processors with products of byte matrices."""

    name: ClassVar[str] = "armv8.6-a+i8mm"
    summary: ClassVar[str] = "64-bit ARM with smmla: Cortex-A510, A710, Neoverse V1 and later"
    levels: ClassVar[tuple[Isa, ...]] = (I8MM,)
    core: ClassVar[Core] = CORES["neoverse-v1"]


class FatTarget(AProfileTarget):
    """Any 64-bit ARM processor: one program with the kernels of every level.

    The fastest level that the kernel reports of the processor (HWCAP) runs.
    """

    name: ClassVar[str] = "armv8-fat"
    summary: ClassVar[str] = "64-bit ARM: NEON, sdot and smmla kernels, chosen at run time"
    levels: ClassVar[tuple[Isa, ...]] = LEVELS
    core: ClassVar[Core] = CORES["neoverse-v1"]
