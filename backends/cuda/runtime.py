"""A program on a device: lowered, placed in memory and recorded, per shape and stream."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import prod

import torch

from qcompiler.backends.cuda.architectures import Architecture
from qcompiler.backends.cuda.choices import Tiles
from qcompiler.backends.cuda.launch import Lowered, Packed, Pointer, Scratch, Value, Workspace
from qcompiler.backends.cuda.lowering import lower, lower_node
from qcompiler.backends.cuda.memory import Memory, stored, view
from qcompiler.backends.cuda.places import Places
from qcompiler.backends.cuda.replay import Recorded
from qcompiler.backends.cuda.starting import is_out_of_memory, start_launch
from qcompiler.backends.native.codes import SIGNED
from qcompiler.backends.native.emitter import Plan
from qcompiler.backends.native.layout import from_storage
from qcompiler.backends.native.packing import Blob
from qcompiler.backends.native.values import solve_sizes
from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph
from qcompiler.runtime.interpreter import operands_of

# Shapes, times streams, for which memory and a recorded graph are kept.
_KEPT = 8


class DeviceProgram:
    """Runs a graph on one device; the processor stands in for it where kernels are interpreted.

    Several threads and streams may call it; each stream has an arena of its own.

    Args:
        graph: the program.
        plan: places of its values.
        architecture: whose kernels run.
        device: where memory and kernels are.
        tiles: of products, where not the default ones.
    """

    def __init__(
        self,
        graph: QGraph,
        plan: Plan,
        architecture: Architecture,
        device: torch.device,
        tiles: Tiles | None = None,
    ) -> None:
        self.graph = graph
        self.device = device
        self._plan = plan
        self._architecture = architecture
        self._tiles: Tiles = tiles or {}
        self._blob = Blob()
        self._constants = torch.empty(0, dtype=torch.uint8, device=device)
        self._lowered: OrderedDict[tuple[int, ...], Lowered] = OrderedDict()
        self._kept: OrderedDict[tuple[int, ...], Recorded] = OrderedDict()
        self._lock = threading.RLock()

    def run(self, inputs: Sequence[torch.Tensor], sizes: Mapping[str, int]) -> list[torch.Tensor]:
        """Runs the program on checked tensors of its device and returns results there.

        Nothing waits for the device: results are there once the current stream is.

        Raises:
            QCompilerError: QC0842 without memory, QC0843 for a kernel that does not compile.
        """
        try:
            with self.guard():
                return self.recorded(sizes)(inputs)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise self._too_large(sizes, error) from error

    def guard(self) -> AbstractContextManager[object]:
        """Returns what makes the program's device the current one for a while."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def lowered(self, sizes: Mapping[str, int]) -> Lowered:
        """Returns the steps for given sizes, with their constants on the device."""
        key = tuple(sizes.values())
        with self._lock:
            if key not in self._lowered:
                while len(self._lowered) >= _KEPT:
                    self._lowered.popitem(last=False)
                made = lower(self.graph, sizes, self._blob, self._architecture, self._tiles)
                self._lowered[key] = made
                self._upload()
            return self._lowered[key]

    def recorded(self, sizes: Mapping[str, int]) -> Recorded:
        """Returns what runs inputs of given sizes on the current stream of the device."""
        stream = 0
        if self.device.type == "cuda":
            if torch.cuda.is_current_stream_capturing():
                return self._record(sizes)  # its memory is that of the caller's recording
            stream = torch.cuda.current_stream(self.device).cuda_stream
        key = (*sizes.values(), stream)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            while len(self._kept) >= _KEPT:
                self._kept.popitem(last=False)[1].close()
            made = self._record(sizes)
            self._kept[key] = made
            return made

    def _record(self, sizes: Mapping[str, int]) -> Recorded:
        places = Places(self.graph, self._plan, sizes)
        try:
            lowered = self.lowered(sizes)
            memory = Memory(places, lowered, self._constants)
        except torch.OutOfMemoryError as error:
            self._lowered.pop(tuple(sizes.values()), None)  # its constants are not all there
            raise self._too_large(sizes, error) from error
        return Recorded(self.graph, memory, lowered.steps, dict(sizes))

    def _too_large(self, sizes: Mapping[str, int], error: Exception) -> QCompilerError:
        places = Places(self.graph, self._plan, sizes)
        return QCompilerError(
            "QC0842",
            f"{self.device} has no room for an arena of {places.arena_bytes} bytes and"
            f" {len(self._blob.finish())} bytes of constants: {error}",
            remedy="use a smaller batch, or free memory of the device; the program is intact, and"
            " calls that fit still run",
        )

    def _upload(self) -> None:
        """Brings constants to the device that are not there yet."""
        content = self._blob.finish()
        if len(content) != self._constants.numel():
            host = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            with torch.inference_mode(False):
                self._constants = host.to(self.device)

    def run_op(self, node: str, operands: Sequence[torch.Tensor]) -> torch.Tensor:
        """Runs one operator on logical values of its distinct inputs and returns its result."""
        call = self.graph.node(node)
        shape = type_of(call).bind(solve_sizes([type_of(n) for n in operands_of(call)], operands))
        start, out = self.bind_op(node, operands, self._tiles)
        with self.guard():
            start()
        return from_storage(out.view(torch.uint8), type_of(call), shape, SIGNED).cpu()

    def bind_op(
        self, node: str, operands: Sequence[torch.Tensor], tiles: Tiles
    ) -> tuple[Callable[[], None], torch.Tensor]:
        """Returns what starts one operator on operands, and the memory of its result."""
        call = self.graph.node(node)
        names = [n.name for n in operands_of(call)]
        sizes = solve_sizes([type_of(n) for n in operands_of(call)], operands)
        with self._lock:
            op = lower_node(self.graph, call, sizes, self._blob, self._architecture, tiles)
            self._upload()
            constants = self._constants
        shape = type_of(call).bind(sizes)
        out = torch.empty(prod(shape), dtype=type_of(call).dtype, device=self.device)
        given = dict(zip(names, [x.detach().to(self.device) for x in operands], strict=True))
        values = {n: x if x.is_floating_point() else stored(x) for n, x in given.items()}
        values[node] = out
        spaces = {
            Packed: constants,
            Scratch: torch.empty(op.scratch_bytes, dtype=torch.uint8, device=self.device),
            Workspace: torch.zeros(op.workspace, dtype=torch.uint8, device=self.device),
        }

        def tensor_of(item: Pointer) -> torch.Tensor:
            if isinstance(item, Value):
                return values[item.node]
            return view(spaces[type(item)], item.offset, item.dtype)

        def start() -> None:
            for launch in op.launches:
                start_launch(launch, tensor_of, lambda s: given[s.node].stride(s.dim))

        return start, out
