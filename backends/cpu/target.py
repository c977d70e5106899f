"""The host CPU as a target: its datasheet, and building and restoring programs for it."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import fx

from qcompiler.backends.cpu.datasheet import DATASHEET
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
from qcompiler.backends.native.choices import Setting
from qcompiler.backends.native.codes import UNSIGNED
from qcompiler.backends.native.emit_movement import is_view
from qcompiler.backends.native.emitter import (
    NativeSources,
    OpDescriptor,
    Plan,
    emit,
    kernel_sources,
    plan_sequentially,
    why_not,
)
from qcompiler.backends.native.levels import Isa
from qcompiler.backends.native.limits import measure_limits
from qcompiler.backends.native.project import Project
from qcompiler.backends.native.runtime import NativeProgram
from qcompiler.backends.native.toolchain import accepts, build, has_compiler, warm_up
from qcompiler.backends.native.tuning import FAST_SETTINGS, tune
from qcompiler.errors import QCompilerError, counted
from qcompiler.ir.graph import QGraph
from qcompiler.runtime.threads import default_threads
from qcompiler.target.base import VIEW, Executable, Limits, OpSupport, Run, Target
from qcompiler.target.tuning import TuningBudget

BINARY, BLOB, INDEX, SOURCES = "program.so", "constants.bin", "native.json", "src/"


@dataclass(frozen=True)
class _Library:
    """A shared library, the levels that it carries, and what the user should know of it."""

    binary: bytes
    levels: tuple[Isa, ...]
    notes: tuple[str, ...] = ()
    tuned: str | None = None  # how the choices were measured, None for those of the cost model


class CpuExecutable(Executable):
    """A shared library of this machine, with the sources and constants that made it.

    Attributes:
        isa: the level that runs.

    Raises:
        OSError: the system cannot map the library.
    """

    def __init__(self, graph: QGraph, sources: NativeSources, library: _Library, isa: Isa) -> None:
        self.isa = isa
        self._graph = graph
        self._sources = sources
        self._library = library
        self._program = NativeProgram(
            graph, sources.ops, library.binary, sources.blob, level=isa.name
        )

    def notes(self) -> tuple[str, ...]:
        """Returns the level that runs, those that the library carries, and how it came about."""
        running = f"runs at the level {self.isa.name} of {names(self._library.levels)}"
        best = supported_levels()[-1]
        if self.isa != best:
            running += f"; this machine has {best.name}"
        tuned = () if self._library.tuned is None else (self._library.tuned,)
        return tuple(f"cpu: {note}" for note in (running, *tuned, *self._library.notes))

    def run(self, inputs: Sequence[torch.Tensor], threads: int) -> list[torch.Tensor]:
        """Returns the program's results for CPU inputs of the compiled types."""
        return self._program.run(inputs, threads)

    def prepare(self, sizes: Mapping[str, int]) -> Run:
        """Returns what runs inputs whose dynamic dimensions have the given sizes."""
        return self._program.prepare(sizes)

    def run_op(self, node: str, operands: Sequence[torch.Tensor], threads: int) -> torch.Tensor:
        """Returns one call's result; operands are its distinct inputs in order, no constants."""
        return self._program.run_op(node, operands, threads)

    def kernels(self) -> Mapping[str, str]:
        """Returns the kernel of each node with its instruction set and what it left open.

        The latter stands in braces, as in ``{widest=4 block_rows=200}``; backends/native/choices.py
        explains the names.
        """
        return {
            op.node: op.kernel
            if op.kernel == VIEW
            else f"{op.kernel}_{self.isa.name}{_options(op.choices)}"
            for op in self._sources.ops
        }

    def time_ops(
        self, inputs: Sequence[torch.Tensor], threads: int, repeats: int
    ) -> Mapping[str, float]:
        """Returns the least microseconds of each node over repeats."""
        return self._program.time_ops(inputs, threads, repeats)

    def limits(self, threads: int) -> Limits | None:
        """Returns the rates of the running level; libraries of older programs measure none."""
        library = self._program.library
        return measure_limits(library, threads) if hasattr(library, "qc_time_peak") else None

    def project(self, name: str, *, weights_array: bool) -> Mapping[str, bytes]:
        """Returns the program as the files of a C project for this family of processors."""
        levels = self._library.levels
        made = Project(
            self._graph,
            UNSIGNED,
            levels,
            "cpu",
            name=name,
            weights_array=weights_array,
            settings={op.node: op.choices for op in self._sources.ops if op.choices},
        )
        return made.files()

    def files(self) -> dict[str, bytes]:
        """Returns sources, binary, constants and the index of operators."""
        index = {
            "levels": [isa.name for isa in self._library.levels],
            "machine": platform.machine(),
            "system": platform.system(),
            "ops": [asdict(op) for op in self._sources.ops],
            "tuned": self._library.tuned,
        }
        kept = {SOURCES + name: text for name, text in sorted(self._sources.files.items())}
        kept[BLOB] = self._sources.blob
        kept[BINARY] = self._library.binary
        kept[INDEX] = json.dumps(index, indent=1, sort_keys=True).encode()
        return kept


@dataclass(frozen=True)
class CpuTarget(Target):
    """The processor of this machine; integer kernels in C, built by the system's compiler.

    Options: ``isa`` names the instruction-set levels that the program carries: one of
    ``qcompiler.backends.cpu.isa``, ``best`` for the fastest one of this machine, several joined by
    ``+``, or ``all``. The fastest one that the machine has runs; the environment variable
    QCOMPILER_ISA forces another one.
    """

    name: ClassVar[str] = "cpu"
    summary: ClassVar[str] = "this machine: portable C, AVX2 or AVX512-VNNI kernels"
    ops: ClassVar[tuple[OpSupport, ...]] = DATASHEET
    has_choices: ClassVar[bool] = True
    storage: ClassVar[str] = "u8 = code + 128; rank 4 as NHWC, other ranks in logical order"

    isa: str = BEST

    def why_not(self, node: fx.Node) -> str | None:
        """Returns the reason why no kernel covers a call, None when one does."""
        return why_not(node)

    def is_view(self, node: fx.Node) -> bool:
        """Says whether a call is a reshape whose result is its operand's bytes."""
        return is_view(node)

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
        return self._build(graph, emit(graph, _plan(graph)), None)

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
            _plan(graph),
            build_level,
            seconds=budget.seconds,
            threads=(1, threads),
            most_settings=FAST_SETTINGS if budget.effort == "fast" else None,
        )
        settings = {node: (setting,) for node, setting in tuning.settings.items()}
        sources = emit(graph, _plan(graph), tuning.batching, settings)
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
        index = json.loads(files[INDEX])
        ops = tuple(
            OpDescriptor(op["node"], op["kernel"], tuple(op["operands"]), op.get("choices", {}))
            for op in index["ops"]
        )
        texts = {n.removeprefix(SOURCES): t for n, t in files.items() if n.startswith(SOURCES)}
        sources = NativeSources(texts, files[BLOB], ops)
        carried = named_levels(index["levels"])
        reason = self._misfit(f"{index['system']} {index['machine']}", carried)
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


def _plan(graph: QGraph) -> Plan:
    return graph.memory_plan or plan_sequentially(graph)


def _options(choices: Setting) -> str:
    return f"{{{' '.join(f'{n}={v}' for n, v in sorted(choices.items()))}}}" if choices else ""


def _platform() -> str:
    return f"{platform.system()} {platform.machine()}"
