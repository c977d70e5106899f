"""CUDA targets: one per architecture, and the one of the GPU that is there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import fx

from qcompiler.backends.cuda.architectures import ARCHITECTURES, Architecture
from qcompiler.backends.cuda.datasheet import DATASHEET
from qcompiler.backends.cuda.lowering import why_not
from qcompiler.backends.native.emit_movement import is_view
from qcompiler.backends.native.emitter import plan_sequentially
from qcompiler.errors import QCompilerError
from qcompiler.ir.graph import QGraph
from qcompiler.target.base import Executable, OpSupport, Target

if TYPE_CHECKING:
    from qcompiler.backends.cuda.runtime import DeviceProgram


class CudaExecutable(Executable):
    """A program for GPUs: the graph is all there is of it; kernels are compiled where it runs."""

    def __init__(self, graph: QGraph, target: CudaTarget) -> None:
        self._graph = graph
        self._target = target

    @property
    def device(self) -> str:
        """The type of device whose tensors a call takes."""
        return "cpu" if interprets() else "cuda"

    @cached_property
    def program(self) -> DeviceProgram:
        """The program on the current device.

        Raises:
            QCompilerError: QC0802 without Triton, QC0840 without a device, QC0841 for a device of
                another architecture.
        """
        require_triton()
        from qcompiler.backends.cuda.runtime import DeviceProgram

        device = torch.device("cpu") if interprets() else find_device(self._target.architecture)
        plan = self._graph.memory_plan or plan_sequentially(self._graph)
        return DeviceProgram(self._graph, plan, self._target.architecture, device)

    def run(self, inputs: Sequence[torch.Tensor], threads: int) -> list[torch.Tensor]:
        """Returns the program's results on the processor for inputs from there."""
        moved = [x.to(self.program.device) for x in inputs]
        return [result.cpu() for result in self.program.run(moved)]

    def run_op(self, node: str, operands: Sequence[torch.Tensor], threads: int) -> torch.Tensor:
        """Returns one call's result; operands are its distinct inputs in order, no constants."""
        return self.program.run_op(node, operands)

    def files(self) -> dict[str, bytes]:
        """Returns nothing: kernels are compiled from the graph."""
        return {}


@dataclass(frozen=True)
class CudaTarget(Target):
    """NVIDIA GPUs of one architecture."""

    ops: ClassVar[tuple[OpSupport, ...]] = DATASHEET
    storage: ClassVar[str] = "s8 = code; rank 4 as NHWC, other ranks in logical order"
    architecture: ClassVar[Architecture]

    @classmethod
    def facts(cls) -> Mapping[str, str]:
        """Returns what the datasheet says beside its lines for operators."""
        arch = cls.architecture
        own = {
            "architecture": f"{arch.name} (numbers of {arch.product})",
            "matrix units": f"{arch.instruction} of int8, {arch.tops:g} TOPS dense",
            "memory": f"{arch.gigabytes:g} GB/s; {arch.shared_bytes >> 10} KiB shared per block",
        }
        return {**super().facts(), **own}

    def why_not(self, node: fx.Node) -> str | None:
        """Returns the reason why no kernel covers a call, None when one does."""
        return why_not(node)

    def is_view(self, node: fx.Node) -> bool:
        """Says whether a call is a reshape whose result is its operand's bytes."""
        return is_view(node)

    def build(self, graph: QGraph) -> CudaExecutable:
        """Builds a graph at stage TARGETED."""
        return CudaExecutable(graph, self)

    def restore(self, graph: QGraph, files: Mapping[str, bytes]) -> CudaExecutable:
        """Returns the executable of an artifact's files."""
        return CudaExecutable(graph, self)


def interprets() -> bool:
    """Returns whether Triton interprets kernels on the processor (TRITON_INTERPRET=1)."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def require_triton() -> None:
    """Checks that Triton is there.

    Raises:
        QCompilerError: QC0802 when it is not.
    """
    try:
        import triton  # noqa: F401  # to see whether it is there
    except ImportError as error:
        raise QCompilerError(
            "QC0802",
            f"programs for CUDA need Triton, which cannot be imported: {error}",
            remedy="install the extra: pip install 'qcompiler[cuda]'",
        ) from error


def find_device(architecture: Architecture) -> torch.device:
    """Returns the current CUDA device.

    Raises:
        QCompilerError: QC0840 when there is none, QC0841 when it is of another architecture.
    """
    if not torch.cuda.is_available():
        raise QCompilerError(
            "QC0840",
            "this machine has no CUDA device that torch can use",
            remedy="run the program where there is one, with a CUDA build of torch and its driver;"
            " compiling, saving and the reference work without",
        )
    index = torch.cuda.current_device()
    major, minor = torch.cuda.get_device_capability(index)
    if major * 10 + minor < architecture.capability:
        raise QCompilerError(
            "QC0841",
            f"the program is for {architecture.name}, and {torch.cuda.get_device_name(index)} is"
            f" sm_{major}{minor}",
            remedy=f"compile for one of {', '.join(ARCHITECTURES)}",
        )
    return torch.device("cuda", index)


class Sm80Target(CudaTarget):
    """Ampere data-center GPUs."""

    name: ClassVar[str] = "cuda-sm80"
    summary: ClassVar[str] = "NVIDIA Ampere (A100): Triton kernels, one CUDA graph"
    architecture: ClassVar[Architecture] = ARCHITECTURES["sm_80"]


class Sm86Target(CudaTarget):
    """Ampere GPUs for workstations."""

    name: ClassVar[str] = "cuda-sm86"
    summary: ClassVar[str] = "NVIDIA Ampere (RTX 30, A6000): Triton kernels, one CUDA graph"
    architecture: ClassVar[Architecture] = ARCHITECTURES["sm_86"]


class Sm89Target(CudaTarget):
    """Ada GPUs."""

    name: ClassVar[str] = "cuda-sm89"
    summary: ClassVar[str] = "NVIDIA Ada (RTX 40, L40S): Triton kernels, one CUDA graph"
    architecture: ClassVar[Architecture] = ARCHITECTURES["sm_89"]


class Sm90Target(CudaTarget):
    """Hopper GPUs."""

    name: ClassVar[str] = "cuda-sm90"
    summary: ClassVar[str] = "NVIDIA Hopper (H100, H200): Triton kernels, one CUDA graph"
    architecture: ClassVar[Architecture] = ARCHITECTURES["sm_90"]
