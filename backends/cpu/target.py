"""The host CPU as a target: its datasheet, and building and restoring programs for it."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import fx

from qcompiler.backends.cpu.datasheet import DATASHEET
from qcompiler.backends.cpu.isa import Isa, best_level, level, supported_levels
from qcompiler.backends.native.emitter import (
    NativeSources,
    OpDescriptor,
    emit,
    plan_sequentially,
    why_not,
)
from qcompiler.backends.native.runtime import NativeProgram
from qcompiler.backends.native.toolchain import build
from qcompiler.errors import QCompilerError, nearest
from qcompiler.ir.graph import QGraph
from qcompiler.target.base import Executable, OpSupport, Target

BINARY, BLOB, INDEX, SOURCES = "program.so", "constants.bin", "native.json", "src/"
BEST = "best"


class CpuExecutable(Executable):
    """A shared library of this machine, with the sources and constants that made it."""

    def __init__(self, graph: QGraph, sources: NativeSources, isa: Isa, binary: bytes) -> None:
        self.isa = isa
        self._sources = sources
        self._binary = binary
        self._program = NativeProgram(graph, sources.ops, binary, sources.blob)

    def run(self, inputs: Sequence[torch.Tensor], threads: int) -> list[torch.Tensor]:
        """Returns the program's results for CPU inputs of the compiled types."""
        return self._program.run(inputs, threads)

    def run_op(self, node: str, operands: Sequence[torch.Tensor], threads: int) -> torch.Tensor:
        """Returns one call's result; operands are its distinct inputs in order, no constants."""
        return self._program.run_op(node, operands, threads)

    def kernels(self) -> Mapping[str, str]:
        """Returns the kernel of each node with the instruction set that it was built for."""
        return {op.node: f"{op.kernel}_{self.isa.name}" for op in self._sources.ops}

    def time_ops(
        self, inputs: Sequence[torch.Tensor], threads: int, repeats: int
    ) -> Mapping[str, float]:
        """Returns the least microseconds of each node over repeats."""
        return self._program.time_ops(inputs, threads, repeats)

    def files(self) -> dict[str, bytes]:
        """Returns sources, binary, constants and the index of operators."""
        index = {
            "isa": self.isa.name,
            "machine": platform.machine(),
            "system": platform.system(),
            "ops": [asdict(op) for op in self._sources.ops],
        }
        kept = {SOURCES + name: text for name, text in sorted(self._sources.files.items())}
        kept[BLOB] = self._sources.blob
        kept[BINARY] = self._binary
        kept[INDEX] = json.dumps(index, indent=1, sort_keys=True).encode()
        return kept


@dataclass(frozen=True)
class CpuTarget(Target):
    """The processor of this machine; integer kernels in C, built by the system's compiler.

    Options: ``isa`` is one of the levels of ``qcompiler.backends.cpu.isa``, or ``best`` for the
    fastest one of this machine.
    """

    name: ClassVar[str] = "cpu"
    summary: ClassVar[str] = "this machine: portable C, AVX2 or AVX512-VNNI kernels"
    ops: ClassVar[tuple[OpSupport, ...]] = DATASHEET
    storage: ClassVar[str] = "u8 = code + 128; rank 4 as NHWC, other ranks in logical order"

    isa: str = BEST

    def why_not(self, node: fx.Node) -> str | None:
        """Returns the reason why no kernel covers a call, None when one does."""
        return why_not(node)

    def build(self, graph: QGraph) -> CpuExecutable:
        """Builds a graph at stage TARGETED.

        Raises:
            QCompilerError: QC0502 for an unknown or unsupported level, QC0801 without a compiler,
                QC0803 when it refuses the sources.
        """
        isa = self._level()
        sources = emit(graph, graph.memory_plan or plan_sequentially(graph))
        return CpuExecutable(graph, sources, isa, build(sources.files, isa.flags))

    def restore(self, graph: QGraph, files: Mapping[str, bytes]) -> CpuExecutable:
        """Returns the executable of an artifact's files, rebuilt if they do not fit the machine."""
        index = json.loads(files[INDEX])
        ops = tuple(
            OpDescriptor(op["node"], op["kernel"], tuple(op["operands"])) for op in index["ops"]
        )
        texts = {n.removeprefix(SOURCES): t for n, t in files.items() if n.startswith(SOURCES)}
        sources = NativeSources(texts, files[BLOB], ops)
        same_machine = (index["machine"], index["system"]) == (
            platform.machine(),
            platform.system(),
        )
        if same_machine and index["isa"] in {isa.name for isa in supported_levels()}:
            try:
                return CpuExecutable(graph, sources, level(index["isa"]), files[BINARY])
            except OSError:
                pass  # linked against a C library that is not here: build it again
        isa = best_level()
        return CpuExecutable(graph, sources, isa, build(sources.files, isa.flags))

    def _level(self) -> Isa:
        if self.isa == BEST:
            return best_level()
        known = [isa.name for isa in supported_levels()]
        if self.isa not in known:
            raise QCompilerError(
                "QC0502",
                f"this machine has no instruction-set level {self.isa!r}",
                remedy=nearest(self.isa, [*known, BEST]),
            )
        return level(self.isa)
