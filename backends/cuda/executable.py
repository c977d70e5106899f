"""CudaExecutable: a program for GPUs, whose kernels are compiled where it runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import torch

from qcompiler.backends.cuda.architectures import Architecture
from qcompiler.backends.cuda.choices import Tile, Tiles
from qcompiler.backends.cuda.devices import check_device, current_device, interprets, require_triton
from qcompiler.backends.cuda.launch import Lowered
from qcompiler.backends.cuda.lowering import lower
from qcompiler.backends.cuda.places import Places
from qcompiler.backends.cuda.runtime import DeviceProgram
from qcompiler.backends.native.emitter import Plan, plan_sequentially
from qcompiler.backends.native.packing import Blob
from qcompiler.ir.graph import QGraph
from qcompiler.runtime.inputs import check_inputs
from qcompiler.target.base import VIEW, Executable, Limits, Run

CHOICES = "cuda.json"


class CudaExecutable(Executable):
    """A program for GPUs of an architecture.

    Args:
        graph: the program.
        architecture: whose kernels run.
        tiles: of products, where tuning found better ones than the default, by the name of
            the architecture that they were measured on.
        tuned: how they were measured, by the same names.
    """

    def __init__(
        self,
        graph: QGraph,
        architecture: Architecture,
        tiles: Mapping[str, Tiles] | None = None,
        tuned: Mapping[str, str] | None = None,
    ) -> None:
        self._graph = graph
        self._architecture = architecture
        self._tiles = dict(tiles or {})
        self._tuned = dict(tuned or {})
        self._programs: dict[torch.device, DeviceProgram] = {}

    @property
    def device(self) -> torch.device:
        """The CUDA device that torch uses now; the processor where Triton interprets kernels.

        Raises:
            QCompilerError: QC0802 without Triton, QC0840 without a device, QC0841 for a device of
                an older architecture.
        """
        require_triton()
        if interprets():
            return torch.device("cpu")
        device = current_device()
        check_device(device, self._architecture)
        return device

    @property
    def plan(self) -> Plan:
        """Where the program's values lie."""
        return self._graph.memory_plan or plan_sequentially(self._graph)

    def program_on(self, device: torch.device) -> DeviceProgram:
        """Returns the program on a device.

        Raises:
            QCompilerError: QC0841 for a device of an older architecture.
        """
        if device not in self._programs:
            if device.type == "cuda":
                check_device(device, self._architecture)
            made = DeviceProgram(self._graph, self.plan, self._architecture, device, self.tiles)
            self._programs.setdefault(device, made)  # another thread may have been faster
        return self._programs[device]

    @property
    def tiles(self) -> Tiles:
        """The tiles of products, where not the default ones."""
        return self._tiles.get(self._architecture.name, {})

    def run(self, inputs: Sequence[torch.Tensor], threads: int) -> list[torch.Tensor]:
        """Returns the program's results for CPU inputs, on the CPU."""
        sizes = check_inputs(self._graph, inputs)
        program = self.program_on(self.device)
        results = program.run([x.to(program.device) for x in inputs], sizes)
        return [result.cpu() for result in results]

    def prepare(self, sizes: Mapping[str, int]) -> Run:
        """Returns what runs inputs of given sizes on the device that they are on."""
        default = self.device

        def run(inputs: Sequence[torch.Tensor], threads: int) -> list[torch.Tensor]:
            device = inputs[0].device if inputs else default
            return self.program_on(device).run(inputs, sizes)

        return run

    def run_op(self, node: str, operands: Sequence[torch.Tensor], threads: int) -> torch.Tensor:
        """Returns one call's result; operands are its distinct inputs in order, no constants."""
        return self.program_on(self.device).run_op(node, operands)

    def synchronize(self) -> None:
        """Waits for the current device."""
        if not interprets():
            torch.cuda.synchronize()

    def place(self, threads: int) -> str:
        """Returns the name of the device."""
        return "Triton's interpreter" if interprets() else torch.cuda.get_device_name(self.device)

    def lowered(self) -> Lowered:
        """Returns the steps at the least sizes of dynamic dimensions; needs no device."""
        return lower(self._graph, self._least(), Blob(), self._architecture, self.tiles)

    def _least(self) -> dict[str, int]:
        return {name: span.low for name, span in self._graph.symbols.items()}

    def kernels(self) -> Mapping[str, str]:
        """Returns the kernels of each node at the least sizes, with how products are cut."""
        places = Places(self._graph, self.plan, self._least())
        found = {node.name: VIEW for node in self._graph.calls if places.is_view(node)}
        for step in self.lowered().steps:
            if found.get(step.node) != VIEW:
                before = [found[step.node]] if step.node in found else []
                found[step.node] = " + ".join([*before, step.label()])
        return found

    def notes(self) -> tuple[str, ...]:
        """Returns the architecture, and where the sizes of tiles come from."""
        arch = self._architecture
        tuned = self._tuned.get(arch.name)
        origin = tuned or f"tiles of {arch.name} are those of a model: {arch.evidence}"
        return (f"cuda: kernels for {arch.name} ({arch.product}); {origin}",)

    def time_ops(
        self, inputs: Sequence[torch.Tensor], threads: int, repeats: int
    ) -> Mapping[str, float]:
        """Returns the least microseconds of each node on the device, none of the interpreter."""
        if interprets():
            return {}
        from qcompiler.backends.cuda.measure import time_steps

        program = self.program_on(inputs[0].device if inputs else self.device)
        sizes = check_inputs(self._graph, inputs, device=program.device.type)
        with program.guard():
            return time_steps(program.recorded(sizes), inputs, repeats)

    def limits(self, threads: int) -> Limits | None:
        """Returns the rates of the current device, None for the interpreter."""
        if interprets():
            return None
        from qcompiler.backends.cuda.measure import measure_limits

        return measure_limits(self.device)

    def files(self) -> dict[str, bytes]:
        """Returns the tiles that tuning chose; kernels are compiled from the graph."""
        if not self._tiles:
            return {}
        kept = {
            arch: {
                "tuned": self._tuned[arch],
                "tiles": {node: asdict(tile) for node, tile in tiles.items()},
            }
            for arch, tiles in self._tiles.items()
        }
        return {CHOICES: json.dumps(kept, indent=1, sort_keys=True).encode()}


def restored(
    graph: QGraph, architecture: Architecture, files: Mapping[str, bytes]
) -> CudaExecutable:
    """Returns the executable of an artifact's files."""
    kept = json.loads(files.get(CHOICES, b"{}"))
    tiles = {
        arch: {node: Tile(**tile) for node, tile in found["tiles"].items()}
        for arch, found in kept.items()
    }
    tuned = {arch: found["tuned"] for arch, found in kept.items()}
    return CudaExecutable(graph, architecture, tiles, tuned)
