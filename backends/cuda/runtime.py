"""A program on a device: launches bound to memory, replayed as one CUDA graph per shape."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch

from qcompiler.backends.cuda.architectures import Architecture
from qcompiler.backends.cuda.choices import Tile
from qcompiler.backends.cuda.kernel_table import kernel_of
from qcompiler.backends.cuda.launch import Launch, Packed, Pointer, Scratch, Stride, Value, Workspace
from qcompiler.backends.cuda.lowering import Lowered, lower, lower_node
from qcompiler.backends.cuda.memory import Memory, stored, view
from qcompiler.backends.native.codes import SIGNED
from qcompiler.backends.native.emitter import Plan
from qcompiler.backends.native.layout import from_storage
from qcompiler.backends.native.packing import Blob
from qcompiler.backends.native.values import solve_sizes
from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.types import evaluate_dim
from qcompiler.runtime.inputs import check_inputs
from qcompiler.runtime.interpreter import operands_of

# Shapes, times streams, for which memory and a recorded graph are kept.
_KEPT = 8
# Rank up to which the border kernel reads any strides.
STRIDED_RANK = 4


class DeviceProgram:
    """Runs a graph on one device; the processor stands in for it where kernels are interpreted.

    Several threads and streams may call it; each stream has an arena of its own.

    Args:
        graph: the program.
        plan: places of its values.
        architecture: of the device.
        device: where memory and kernels are.
        tiles: of products by node, where not the default ones.
    """

    def __init__(
        self,
        graph: QGraph,
        plan: Plan,
        architecture: Architecture,
        device: torch.device,
        tiles: Mapping[str, Tile] | None = None,
    ) -> None:
        self.graph = graph
        self.device = device
        self._plan = plan
        self._architecture = architecture
        self._tiles = dict(tiles or {})
        self._blob = Blob()
        self._constants = torch.empty(0, dtype=torch.uint8, device=device)
        self._lowered: dict[tuple[int, ...], Lowered] = {}
        self._kept: OrderedDict[tuple[object, ...], _Recorded] = OrderedDict()
        self._lock = threading.RLock()

    def lowered(self, sizes: Mapping[str, int]) -> Lowered:
        """Returns the launches for given sizes, with their constants on the device."""
        key = tuple(sizes.values())
        with self._lock:
            if key not in self._lowered:
                made = lower(self.graph, sizes, self._blob, self._architecture, self._tiles)
                self._lowered[key] = made
                self._upload()
            return self._lowered[key]

    def _upload(self) -> None:
        """Brings constants to the device that are not there yet."""
        content = self._blob.finish()
        if len(content) != self._constants.numel():
            host = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            self._constants = host.to(self.device)
            self._kept.clear()

    def run(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Runs the program on tensors of its device and returns results there.

        Raises:
            QCompilerError: QC0701 for inputs of another form, QC0842 without memory.
        """
        sizes = check_inputs(self.graph, inputs, device=self.device.type)
        return self.recorded(sizes)(inputs)

    def recorded(self, sizes: Mapping[str, int]) -> _Recorded:
        """Returns what runs inputs of given sizes on the current stream."""
        stream = 0
        if self.device.type == "cuda":
            stream = torch.cuda.current_stream(self.device).cuda_stream
        key = (*sizes.values(), stream)
        with self._lock:
            lowered = self.lowered(sizes)
            if key in self._kept:
                self._kept.move_to_end(key)
            else:
                self._kept[key] = self._record(sizes, lowered)
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
            return self._kept[key]

    def _record(self, sizes: Mapping[str, int], lowered: Lowered) -> _Recorded:
        try:
            memory = Memory(
                self.graph, self._plan, sizes, self._constants, lowered.scratch, lowered.zeroed
            )
        except torch.OutOfMemoryError as error:
            needed = self._needed(sizes, lowered)
            raise QCompilerError(
                "QC0842",
                f"{self.device} has no room for the program's {needed} bytes: {error}",
                remedy="use a smaller batch, or free memory of the device; the program is intact",
            ) from error
        return _Recorded(self.graph, memory, lowered, dict(sizes))

    def _needed(self, sizes: Mapping[str, int], lowered: Lowered) -> int:
        arena = int(evaluate_dim(self._plan.size, sizes))
        return arena + lowered.scratch + lowered.zeroed

    def run_op(self, node: str, operands: Sequence[torch.Tensor]) -> torch.Tensor:
        """Runs one operator on logical values of its distinct inputs and returns its result."""
        call = self.graph.node(node)
        names = [n.name for n in operands_of(call)]
        sizes = solve_sizes([type_of(n) for n in operands_of(call)], operands)
        with self._lock:
            op = lower_node(
                self.graph, call, sizes, self._blob, self._architecture, self._tiles.get(node)
            )
            self._upload()
        shape = type_of(call).bind(sizes)
        out = torch.empty(prod(shape), dtype=type_of(call).dtype, device=self.device)
        logical = dict(zip(names, [x.detach().to(self.device) for x in operands], strict=True))
        values = {**{n: stored(x) for n, x in logical.items()}, node: out}
        spaces = {
            Packed: self._constants,
            Scratch: torch.empty(op.scratch_bytes, dtype=torch.uint8, device=self.device),
            Workspace: torch.zeros(op.workspace, dtype=torch.uint8, device=self.device),
        }

        def tensor_of(item: Pointer) -> torch.Tensor:
            if isinstance(item, Value):
                tensor = values[item.node]
                return logical[item.node] if tensor.is_floating_point() else tensor
            return view(spaces[type(item)], item.offset, item.dtype)

        logical[node] = out
        for launch in op.launches:
            start(launch, tensor_of, lambda stride: logical[stride.node].stride(stride.dim))
        return from_storage(out.view(torch.uint8), type_of(call), shape, SIGNED).cpu()


def start(
    launch: Launch,
    tensor_of: Callable[[Pointer], torch.Tensor],
    stride_of: Callable[[Stride], int],
) -> None:
    """Launches a kernel on the current stream."""
    bound: dict[str, Any] = {}
    for name, item in launch.arguments.items():
        if isinstance(item, int):
            bound[name] = item
        else:
            bound[name] = stride_of(item) if isinstance(item, Stride) else tensor_of(item)
    kernel_of(launch)[launch.grid](**bound, **launch.constants, **launch.options())


class _Recorded:
    """A program at given sizes on one stream.

    Launches that touch a call's inputs or results come first and last, on the call's own tensors;
    those between them are recorded as a graph, whose addresses never change.
    """

    def __init__(
        self, graph: QGraph, memory: Memory, lowered: Lowered, sizes: Mapping[str, int]
    ) -> None:
        self._graph = graph
        self._memory = memory
        self._outputs = [(type_of(node), type_of(node).bind(sizes)) for node in graph.results]
        outside = [i for i, launch in enumerate(lowered.launches) if memory.is_outside(launch)]
        reading = [i for i in outside if not self._writes(lowered.launches[i])]
        first = max(reading, default=-1) + 1
        last = min((i for i in outside if i >= first), default=len(lowered.launches))
        self._before = lowered.launches[:first]
        self._between = lowered.launches[first:last]
        self._after = lowered.launches[last:]
        self._replayed: torch.cuda.CUDAGraph | None = None
        self._runs = 0

    def _writes(self, launch: Launch) -> bool:
        values = [p for p in launch.pointers() if isinstance(p, Value)]
        return any(self._memory.place(value.node)[0] == "output" for value in values)

    def __call__(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Runs the program on checked tensors of the device."""
        memory = self._memory
        given = [_readable(x) for x in inputs]
        device = memory.device
        results = [torch.empty(prod(s), dtype=t.dtype, device=device) for t, s in self._outputs]

        def tensor_of(item: Pointer) -> torch.Tensor:
            return memory.tensor(item, given, results)

        def stride_of(stride: Stride) -> int:
            return given[memory.input_index(stride.node)].stride(stride.dim)

        for launch in self._before:
            start(launch, tensor_of, stride_of)
        self._run_between(tensor_of, stride_of)
        for launch in self._after:
            start(launch, tensor_of, stride_of)
        for i, node in memory.copies(self._graph):
            source = memory.value(node, given, results)
            results[i].copy_(source.reshape(-1)[: results[i].numel()])
        return [
            from_storage(flat.view(torch.uint8), kind, shape, SIGNED)
            for flat, (kind, shape) in zip(results, self._outputs, strict=True)
        ]

    def _run_between(
        self,
        tensor_of: Callable[[Pointer], torch.Tensor],
        stride_of: Callable[[Stride], int],
    ) -> None:
        """Replays the recorded launches; the first run compiles them, the second one records."""
        if self._replayed is not None:
            self._replayed.replay()
            return
        if self._memory.device.type == "cuda" and self._runs and self._between:
            recorded = torch.cuda.CUDAGraph()
            with torch.cuda.graph(recorded):
                for launch in self._between:
                    start(launch, tensor_of, stride_of)
            self._replayed = recorded
            recorded.replay()
            return
        self._runs += 1
        for launch in self._between:
            start(launch, tensor_of, stride_of)


def _readable(x: torch.Tensor) -> torch.Tensor:
    """Returns an input as kernels read it: floats of up to four dimensions at any strides."""
    x = x.detach().resolve_neg()
    if x.is_floating_point() and x.dim() <= STRIDED_RANK:
        return x
    return stored(x)
