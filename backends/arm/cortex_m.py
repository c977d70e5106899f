"""Cortex-M targets: microcontrollers without an operating system, run on machines of qemu."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from qcompiler.backends.arm.bare import (
    STACK_BYTES,
    build_image,
    example_files,
    find_bare_compiler,
    machine_emulator,
    machine_options,
    runner_files,
)
from qcompiler.backends.arm.code_size import code_size
from qcompiler.backends.arm.executable import ArmTarget
from qcompiler.backends.arm.isa import (
    BASELINE,
    HELIUM,
    MACHINES,
    MICROCONTROLLERS,
    Machine,
    Microcontroller,
)
from qcompiler.backends.arm.remote import Launch
from qcompiler.backends.native.codes import SIGNED, CodeForm
from qcompiler.backends.native.emitter import NativeSources
from qcompiler.backends.native.footprint import Footprint
from qcompiler.backends.native.levels import Isa
from qcompiler.backends.native.project import Bare, Project
from qcompiler.errors import QCompilerError, nearest
from qcompiler.ir.graph import QGraph
from qcompiler.passmgr.options import format_pass


@dataclass(frozen=True)
class CortexMTarget(ArmTarget):
    """A Cortex-M processor; one program, one thread, static memory, no C library.

    Programs run on a machine of qemu-system-arm. Options: ``emulate`` names another machine than
    the core's own; ``flash`` and ``ram`` are the bytes that a program for a batch of one may take
    of either.

    Attributes:
        core: whose kernels the program has.
    """

    core: ClassVar[Microcontroller]

    @classmethod
    def facts(cls) -> Mapping[str, str]:
        """Returns what the datasheet says beside its lines for operators."""
        (level,) = cls.levels
        needed = ", ".join(feature.name for feature in level.features)
        machine = cls.core.machine
        own = {
            "instruction sets": f"{level.name} ({' '.join(level.options)}; {needed})",
            "runs under": f"qemu-system-arm -M {machine.name}",
            "threads": "one",
        }
        return {**super().facts(), **own}

    @property
    def machine(self) -> Machine:
        """The machine that programs are linked for and run on.

        Raises:
            QCompilerError: QC0502 for an unknown one.
        """
        name = self.emulate or self.core.machine.name
        if name not in MACHINES:
            raise QCompilerError(
                "QC0502", f"{self.name} runs on no machine {name!r}", remedy=nearest(name, MACHINES)
            )
        return MACHINES[name]

    @property
    def form(self) -> CodeForm:
        """How codes are stored, and weights: Helium takes two columns at a time."""
        products = "columns" if self.levels == (HELIUM,) else "panels"
        return replace(SIGNED, weights=(products, "taps"))

    def footprint(self, graph: QGraph) -> Footprint:
        """Returns what a program takes of flash and RAM, code included where a compiler is there.

        Raises:
            QCompilerError: QC0803 when the compiler refuses the sources.
        """
        found = super().footprint(graph)
        try:
            compiler = find_bare_compiler()
        except QCompilerError as error:
            if error.code != "QC0821":
                raise
            return found
        library = self.project(graph, "model", weights_array=False).library()
        return found.with_code(code_size(library, self.levels[0], compiler))

    def memory(self, graph: QGraph) -> Mapping[str, int]:
        """Returns the bytes of flash, of its constants and code, of the arena, and of the stack."""
        found = self.footprint(graph)
        parts = {"constants": found.flash - found.code, "code": found.code} if found.code else {}
        stack = self.project(graph, "model", weights_array=False).stack
        known = {} if stack is None else {"stack": stack}
        return {"flash": found.flash, **parts, "ram": found.ram, **known}

    def place(self) -> str:
        """Returns in words where programs run."""
        return f"qemu-system-arm -M {self.machine.name}"

    def emit(self, graph: QGraph) -> NativeSources:
        """Returns the library of the C project, and what serves requests on a machine."""
        sources = self.project(graph, "model", weights_array=False).sources()
        sources.files.update(runner_files())
        return sources

    def compile(self, sources: NativeSources) -> bytes:
        """Returns an image for the machine."""
        (level,) = self.levels
        return build_image(sources, level, self.machine, find_bare_compiler())

    def launch(self) -> Launch:
        """Returns the emulator's command."""
        return Launch(machine_emulator(), machine_options(self.machine))

    def project(self, graph: QGraph, name: str, *, weights_array: bool) -> Project:
        """Returns the C project of a program."""
        machine = self.machine
        command = ("qemu-system-arm", *machine_options(machine))
        bare = Bare(machine, STACK_BYTES, example_files(), BASELINE, " ".join(command))
        return Project(
            graph,
            self.form,
            self.levels,
            format_pass(self),
            machine.name,
            name,
            weights_array,
            bare=bare,
        )


def _core(name: str, title: str) -> type[CortexMTarget]:
    """Returns the class of a core, which is what a registry entry names."""
    core = MICROCONTROLLERS[name]
    levels: tuple[Isa, ...] = (core.level,)
    attributes = {
        "__module__": __name__,
        "__doc__": f"{title}: kernels of the level {core.level.name}, no operating system.",
        "name": name,
        "summary": f"{title} without an operating system: {core.level.name} kernels",
        "levels": levels,
        "core": core,
    }
    return type(title.replace("-", ""), (CortexMTarget,), attributes)


CortexM4 = _core("cortex-m4", "Cortex-M4")
CortexM33 = _core("cortex-m33", "Cortex-M33")
CortexM55 = _core("cortex-m55", "Cortex-M55")
