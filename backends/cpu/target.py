"""The host CPU as a target: its datasheet, and building and restoring programs for it."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import fx

from qcompiler.backends.cpu.isa import (
    BEST,
    LEVELS,
    VARIABLE,
    best_level,
    forced_level,
    is_supported,
    named_levels,
    names,
    parse_levels,
    runnable,
    supported_levels,
    wanted_levels,
)
from qcompiler.backends.native.codes import UNSIGNED
from qcompiler.backends.native.emitter import NativeSources, emit, kernel_sources
from qcompiler.backends.native.executable import (
    NativeExecutable,
    NativeTarget,
    plan_of,
    read_files,
)
from qcompiler.backends.native.levels import Isa
from qcompiler.backends.native.limits import measure_limits
from qcompiler.backends.native.prediction import predict_seconds
from qcompiler.backends.native.project import Project
from qcompiler.backends.native.runtime import NativeProgram
from qcompiler.backends.native.toolchain import accepts, build, has_compiler, warm_up
from qcompiler.backends.native.tuning import FAST_SETTINGS, tune
from qcompiler.errors import QCompilerError, counted
from qcompiler.ir.graph import QGraph
from qcompiler.runtime.threads import default_threads
from qcompiler.target.base import Limits
from qcompiler.target.tuning import TuningBudget

BINARY = "program.so"


@dataclass(frozen=True)
class _Library:
    """A shared library, the levels that it carries, and what the user should know of it."""

    binary: bytes
    levels: tuple[Isa, ...]
    notes: tuple[str, ...] = ()
    tuned: str | None = None  # how the choices were measured, None for those of the cost model


class CpuExecutable(NativeExecutable):
    """A shared library of this machine, with the sources and constants that made it.

    Attributes:
        isa: the level that runs.

    Raises:
        OSError: the system cannot map the library.
    """

    def __init__(self, graph: QGraph, sources: NativeSources, library: _Library, isa: Isa) -> None:
        self.isa = isa
        self.sources = sources
        self.graph = graph
        self._library = library
        self._program = NativeProgram(
            graph, sources.ops, library.binary, sources.blob, level=isa.name
        )

    @property
    def program(self) -> NativeProgram:
        """The program in this process."""
        return self._program

    @property
    def level(self) -> Isa:
        """The level that runs."""
        return self.isa

    @property
    def binary(self) -> tuple[str, bytes]:
        """The shared library."""
        return BINARY, self._library.binary

    def notes(self) -> tuple[str, ...]:
        """Returns the level that runs, those that the library carries, and how it came about."""
        running = f"runs at the level {self.isa.name} of {names(self._library.levels)}"
        best = supported_levels()[-1]
        if self.isa != best:
            running += f"; this machine has {best.name}"
        tuned = () if self._library.tuned is None else (self._library.tuned,)
        return tuple(f"cpu: {note}" for note in (running, *tuned, *self._library.notes))

    def limits(self, threads: int) -> Limits | None:
        """Returns the rates of the running level; libraries of older programs measure none."""
        library = self._program.library
        return measure_limits(library, threads) if hasattr(library, "qc_time_peak") else None

    def project(self, name: str, *, weights_array: bool) -> Mapping[str, bytes]:
        """Returns the program as the files of a C project for this family of processors."""
        levels = self._library.levels
        made = Project(
            self.graph,
            UNSIGNED,
            levels,
            "cpu",
            name=name,
            weights_array=weights_array,
            settings={op.node: op.choices for op in self.sources.ops if op.choices},
        )
        return made.files()

    def index(self) -> Mapping[str, Any]:
        """Returns levels and machine of the library, and how its choices were measured."""
        return {
            "levels": [isa.name for isa in self._library.levels],
            "machine": platform.machine(),
            "system": platform.system(),
            "tuned": self._library.tuned,
        }


@dataclass(frozen=True)
class CpuTarget(NativeTarget):
    """The processor of this machine; integer kernels in C, built by the system's compiler.

    Options: ``isa`` names the instruction-set levels that the program carries: one of
    ``qcompiler.backends.cpu.isa``, ``best`` for the fastest one of this machine, several joined by
    ``+``, or ``all``. The fastest one that the machine has runs; the environment variable
    QCOMPILER_ISA forces another one.
    """

    name: ClassVar[str] = "cpu"
    summary: ClassVar[str] = "this machine: portable C, AVX2 or AVX512-VNNI kernels"
    has_choices: ClassVar[bool] = True
    storage: ClassVar[str] = "u8 = code + 128; rank 4 as NHWC, other ranks in logical order"

    isa: str = BEST

    def predict_seconds(self, graph: QGraph, node: fx.Node, bits: int) -> float | None:
        """Returns the time of a call by the cost model; ``bits`` change nothing, see there."""
        return predict_seconds(graph, node, self.is_view(node))

    def warm_up(self) -> None:
        """Compiles the kernel library in the background."""
        with suppress(QCompilerError):
            warm_up(kernel_sources(), self._levels()[0])

    def build(self, graph: QGraph) -> CpuExecutable:
        """Builds a graph at stage TARGETED.

        Raises:
            QCompilerError: QC0502 for an unknown level, QC0804 for one that cannot be built or run,
                QC0801 without a compiler, QC0803 when it refuses the sources.
        """
        return self._build(graph, emit(graph, plan_of(graph)), None)

    def tune(self, graph: QGraph, budget: TuningBudget) -> CpuExecutable:
        """Builds a graph with the choices that are fastest at the level that runs here.

        They count alike on one thread and on as many as a call uses by default.

        Raises:
            QCompilerError: as ``build``, and QC0702 for a wrong QCOMPILER_NUM_THREADS.
        """
        levels, _ = self._levels()
        isa = runnable(levels) or best_level()

        def build_level(sources: NativeSources) -> NativeProgram:
            binary = build(sources.files, (isa,))
            return NativeProgram(graph, sources.ops, binary, sources.blob, level=isa.name)

        threads = default_threads()
        tuning = tune(
            graph,
            plan_of(graph),
            build_level,
            seconds=budget.seconds,
            threads=(1, threads),
            most_settings=FAST_SETTINGS if budget.effort == "fast" else None,
        )
        settings = {node: (setting,) for node, setting in tuning.settings.items()}
        sources = emit(graph, plan_of(graph), tuning.batching, settings)
        note = (
            f"tuned ({budget.effort}) at the level {isa.name} for 1 to"
            f" {counted(threads, 'thread')}: {tuning.changed} of"
            f" {counted(len(settings), 'operator')} with choices depart from the cost model"
        )
        return self._build(graph, sources, note)

    def _build(self, graph: QGraph, sources: NativeSources, tuned: str | None) -> CpuExecutable:
        levels, notes = self._levels()
        library = _Library(build(sources.files, levels), levels, notes, tuned)
        return CpuExecutable(graph, sources, library, runnable(levels) or best_level())

    def _levels(self) -> tuple[tuple[Isa, ...], tuple[str, ...]]:
        """Returns the levels to build, the forced one among them, and what to say of that."""
        levels = parse_levels(self.isa)
        forced = forced_level()
        if forced is None or forced in levels:
            return levels, ()
        note = f"{VARIABLE} adds the level {forced.name} to isa={self.isa}"
        return parse_levels("+".join([*(isa.name for isa in levels), forced.name])), (note,)

    def restore(self, graph: QGraph, files: Mapping[str, bytes]) -> CpuExecutable:
        """Returns the executable of an artifact's files.

        A library that does not fit the machine, or lacks the level that is asked for here, is built
        again from the sources; ``CpuExecutable.notes`` tells why.

        Raises:
            QCompilerError: QC0804 for a wrong QCOMPILER_ISA, QC0801 without a compiler when the
                library must be built, QC0803 when it refuses the sources.
        """
        sources, index, is_same = read_files(
            files, lambda settings: emit(graph, plan_of(graph), settings=settings)
        )
        carried = named_levels(index["levels"])
        reason = self._misfit(f"{index['system']} {index['machine']}", carried)
        if not is_same:
            reason = "another release gave its constants another form"
        if reason is None:
            try:
                library = _Library(files[BINARY], carried, tuned=index.get("tuned"))
                return CpuExecutable(graph, sources, library, runnable(carried) or best_level())
            except OSError as error:
                reason = f"the system cannot map it: {error}"
        levels = self._levels_here()
        note = f"built the artifact's library again: {reason}"
        library = _Library(build(sources.files, levels), levels, (note,), index.get("tuned"))
        return CpuExecutable(graph, sources, library, levels[-1])

    def _misfit(self, made_on: str, carried: tuple[Isa, ...]) -> str | None:
        """Returns why an artifact's library is not the one to run here, None when it is."""
        if made_on != _platform():
            return f"it was built on {made_on}, this is {_platform()}"
        chosen = runnable(carried)
        if chosen is None:
            forced = forced_level()
            lacking = "a level of this machine" if forced is None else forced.name
            return f"it carries {names(carried)} and not {lacking}"
        # A compiler that builds slower levels alone is no reason to leave the faster one.
        if self.isa == BEST and has_compiler() and _is_faster(best_level(), chosen):
            return f"it carries {names(carried)}, this machine has {best_level().name}"
        return None

    def _levels_here(self) -> tuple[Isa, ...]:
        """Returns what this machine has and can build of the levels asked for, else its best."""
        forced = forced_level()
        if forced is not None:
            return parse_levels(forced.name)
        usable = [isa for isa in wanted_levels(self.isa) if is_supported(isa) and accepts(isa)]
        return tuple(usable) or (best_level(),)


def _is_faster(one: Isa, other: Isa) -> bool:
    return LEVELS.index(one) > LEVELS.index(other)


def _platform() -> str:
    return f"{platform.system()} {platform.machine()}"
