"""CUDA targets: one per architecture, and the one of the GPU that is there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import fx

from qcompiler.backends.cuda.architectures import ARCHITECTURES, Architecture
from qcompiler.backends.cuda.datasheet import DATASHEET
from qcompiler.backends.cuda.devices import architecture_here
from qcompiler.backends.cuda.lowering import why_not
from qcompiler.backends.native.emit_movement import is_view
from qcompiler.ir.graph import QGraph
from qcompiler.target.base import OpSupport, Target
from qcompiler.target.tuning import TuningBudget

if TYPE_CHECKING:
    from qcompiler.backends.cuda.executable import CudaExecutable


@dataclass(frozen=True)
class CudaTarget(Target):
    """NVIDIA GPUs: Triton kernels over one arena, replayed as one CUDA graph.

    ``cuda`` stands for the architecture of the current device; programs are compiled for one of
    those that have names of their own, which needs no device.
    """

    name: ClassVar[str] = "cuda"
    summary: ClassVar[str] = "the NVIDIA GPU of this machine: Triton kernels, one CUDA graph"
    ops: ClassVar[tuple[OpSupport, ...]] = DATASHEET
    storage: ClassVar[str] = "s8 = code; rank 4 as NHWC, other ranks in logical order"
    has_choices: ClassVar[bool] = True
    architecture: ClassVar[Architecture | None] = None

    @classmethod
    def facts(cls) -> Mapping[str, str]:
        """Returns what the datasheet says beside its lines for operators."""
        arch = cls.architecture
        if arch is None:
            return {**super().facts(), "architecture": "that of the current device"}
        own = {
            "architecture": f"{arch.name} (numbers of {arch.product})",
            "matrix units": f"{arch.instruction} of int8, {arch.tops:g} TOPS dense",
            "memory": f"{arch.gigabytes:g} GB/s; {arch.shared_bytes >> 10} KiB shared per block",
            "tiles": arch.evidence,
        }
        return {**super().facts(), **own}

    def resolved(self) -> CudaTarget:
        """Returns the target of the architecture; ``cuda`` asks the current device for it.

        Raises:
            QCompilerError: QC0840 without a device, QC0841 for one that is older than all targets.
        """
        if self.architecture is not None:
            return self
        here = architecture_here()
        return next(kind() for kind in TARGETS if kind.architecture == here)

    def why_not(self, node: fx.Node) -> str | None:
        """Returns the reason why no kernel covers a call, None when one does."""
        return why_not(node)

    def is_view(self, node: fx.Node) -> bool:
        """Says whether a call is a reshape whose result is its operand's bytes."""
        return is_view(node)

    def build(self, graph: QGraph) -> CudaExecutable:
        """Builds a graph at stage TARGETED; needs neither a device nor Triton."""
        return self.restore(graph, {})

    def tune(self, graph: QGraph, budget: TuningBudget) -> CudaExecutable:
        """Builds a graph with the tiles that are fastest on the current device.

        Raises:
            QCompilerError: QC0802 without Triton, QC0840 without a device, QC0841 for a device of
                another architecture.
        """
        from qcompiler.backends.cuda.tuning import tune

        return tune(graph, self._architecture(), budget)

    def restore(self, graph: QGraph, files: Mapping[str, bytes]) -> CudaExecutable:
        """Returns the executable of an artifact's files."""
        from qcompiler.backends.cuda.executable import restored

        return restored(graph, self._architecture(), files)

    def _architecture(self) -> Architecture:
        found = self.resolved().architecture
        assert found is not None  # that is what resolved() sees to
        return found


class Sm80Target(CudaTarget):
    """Ampere data-center GPUs."""

    name: ClassVar[str] = "cuda-sm80"
    summary: ClassVar[str] = "NVIDIA Ampere (A100): Triton kernels, one CUDA graph"
    architecture: ClassVar[Architecture | None] = ARCHITECTURES["sm_80"]


class Sm86Target(CudaTarget):
    """Ampere GPUs for workstations."""

    name: ClassVar[str] = "cuda-sm86"
    summary: ClassVar[str] = "NVIDIA Ampere (RTX 30, A6000): Triton kernels, one CUDA graph"
    architecture: ClassVar[Architecture | None] = ARCHITECTURES["sm_86"]


class Sm89Target(CudaTarget):
    """Ada GPUs."""

    name: ClassVar[str] = "cuda-sm89"
    summary: ClassVar[str] = "NVIDIA Ada (RTX 40, L40S): Triton kernels, one CUDA graph"
    architecture: ClassVar[Architecture | None] = ARCHITECTURES["sm_89"]


class Sm90Target(CudaTarget):
    """Hopper GPUs."""

    name: ClassVar[str] = "cuda-sm90"
    summary: ClassVar[str] = "NVIDIA Hopper (H100, H200): Triton kernels, one CUDA graph"
    architecture: ClassVar[Architecture | None] = ARCHITECTURES["sm_90"]


TARGETS: tuple[type[CudaTarget], ...] = (Sm80Target, Sm86Target, Sm89Target, Sm90Target)
