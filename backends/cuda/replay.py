"""A program at given sizes on one stream: a CUDA graph between what touches a call's tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from math import prod

import torch

from qcompiler.backends.cuda.launch import Pointer, Step, Stride
from qcompiler.backends.cuda.memory import Memory, stored
from qcompiler.backends.cuda.starting import Starter
from qcompiler.backends.native.codes import SIGNED
from qcompiler.backends.native.layout import from_storage
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph

# Rank up to which the border kernel reads any strides.
STRIDED_RANK = 4
# What the addresses of codes are multiples of.
WORD_BYTES = 16


class Recorded:
    """Runs the steps of a program.

    Those that touch a call's inputs or results come first and last, on the call's own tensors:
    nothing is copied. Those between them are recorded as a graph, whose addresses never change. The
    first call starts them one by one, which compiles their kernels, the second one records.
    """

    def __init__(
        self, graph: QGraph, memory: Memory, steps: Sequence[Step], sizes: dict[str, int]
    ) -> None:
        self._graph = graph
        self._memory = memory
        self._start = Starter(graph, sizes, memory.device)
        self._outputs = [(type_of(node), type_of(node).bind(sizes)) for node in graph.results]
        self._inputs = {node.name: i for i, node in enumerate(graph.inputs)}
        self._strided = [all(_is_quantize(user) for user in node.users) for node in graph.inputs]
        calls = {node.name: node for node in graph.calls}
        places = memory.places
        self.steps = [step for step in steps if not places.is_view(calls[step.node])]
        outside = [i for i, step in enumerate(self.steps) if memory.is_outside(step)]
        reading = [i for i in outside if not memory.writes_results(self.steps[i])]
        first = max(reading, default=-1) + 1
        last = min((i for i in outside if i >= first), default=len(self.steps))
        self._first, self._last = first, last
        self._graph_of_steps: torch.cuda.CUDAGraph | None = None
        self._stream: torch.cuda.Stream | None = None
        self._has_run = False
        # Calls of several threads on one stream share the arena: they start one after the other.
        self._lock = threading.Lock()

    def __call__(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Starts the program on checked tensors of the device."""
        bound = self.bind(inputs)
        with self._lock:
            bound.start(*self.steps[: self._first])
            self._run_between(bound)
            bound.start(*self.steps[self._last :])
            self._copy_results(bound)
        return [
            from_storage(flat.view(torch.uint8), kind, shape, SIGNED)
            for flat, (kind, shape) in zip(bound.results, self._outputs, strict=True)
        ]

    def close(self) -> None:
        """Waits for the last replay, so that its graph may be freed."""
        with self._lock:
            if self._graph_of_steps is not None and self._stream is not None:
                self._stream.synchronize()
                self._graph_of_steps = None

    def bind(self, inputs: Sequence[torch.Tensor]) -> Bound:
        """Returns what starts steps on inputs and on new results."""
        device = self._memory.device
        given = [_readable(x, s) for x, s in zip(inputs, self._strided, strict=True)]
        results = [torch.empty(prod(s), dtype=t.dtype, device=device) for t, s in self._outputs]
        return Bound(self._memory, self._start, given, results, self._inputs)

    def _run_between(self, bound: Bound) -> None:
        on_device = self._memory.device.type == "cuda"
        steps = self.steps[self._first : self._last]
        # A caller's own recording takes launches in, but no replay of another one.
        nested = on_device and torch.cuda.is_current_stream_capturing()
        if on_device and steps and self._has_run and not nested:
            if self._graph_of_steps is None:
                self._graph_of_steps = record(lambda: bound.start(*steps))
                self._stream = torch.cuda.current_stream(self._memory.device)
            self._graph_of_steps.replay()
            return
        bound.start(*steps)
        self._has_run = True

    def _copy_results(self, bound: Bound) -> None:
        """Copies results that are an input, a constant, or another result."""
        for i, node in self._memory.places.copies:
            result = bound.results[i]
            kind, at = self._memory.places.of(node.name)
            if kind == "constant":
                result.copy_(stored(self._start.constant(node)))
            elif kind == "input":
                result.copy_(_flat(bound.inputs[at]))
            else:
                result.copy_(bound.results[at])


class Bound:
    """Starts steps on the inputs and results of one call."""

    def __init__(
        self,
        memory: Memory,
        start: Starter,
        inputs: Sequence[torch.Tensor],
        results: Sequence[torch.Tensor],
        positions: dict[str, int],
    ) -> None:
        self.inputs = inputs
        self.results = results
        self._memory = memory
        self._start = start
        self._positions = positions

    def start(self, *steps: Step) -> None:
        """Starts steps on the current stream."""
        for step in steps:
            self._start(step, self._tensor, self._stride)

    def _tensor(self, item: Pointer) -> torch.Tensor:
        return self._memory.tensor(item, self.inputs, self.results)

    def _stride(self, stride: Stride) -> int:
        return self.inputs[self._positions[stride.node]].stride(stride.dim)


def record(run: Callable[[], object]) -> torch.cuda.CUDAGraph:
    """Returns a graph of what a function starts; other threads may go on meanwhile."""
    made = torch.cuda.CUDAGraph()
    with torch.cuda.graph(made, capture_error_mode="thread_local"):
        run()
    return made


def _flat(x: torch.Tensor) -> torch.Tensor:
    """Returns a readable input as it lies in storage; integers do already."""
    return stored(x) if x.is_floating_point() else x


def _is_quantize(node: torch.fx.Node) -> bool:
    return str(node.target) == "qcompiler.quantize.default"


def _readable(x: torch.Tensor, strided: bool) -> torch.Tensor:
    """Returns an input as kernels read it: floats that are only quantized at any strides."""
    x = x.detach().resolve_neg()
    if x.is_floating_point():
        return x if strided and x.dim() <= STRIDED_RANK else x.contiguous()
    flat = stored(x)
    # A view into the caller's memory may begin anywhere; products load 16 codes at once.
    return flat if flat.data_ptr() % WORD_BYTES == 0 else flat.clone()
