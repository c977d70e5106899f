"""Loads a built program and runs it on torch tensors."""

from __future__ import annotations

import ctypes
import os
import tempfile
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import fx

from qcompiler.backends.native.emitter import OpDescriptor
from qcompiler.backends.native.layout import empty_storage, from_storage, to_storage
from qcompiler.backends.native.op_calls import OpCalls, failure
from qcompiler.backends.native.packing import ALIGNMENT
from qcompiler.backends.native.values import SLACK, with_slack
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.types import TensorType
from qcompiler.runtime.inputs import check_inputs

# More threads than that are not used; kernels/threads.c has room for as many.
MAX_THREADS = 256
# Memory of so many calls at the same time is kept for reuse.
_FRAMES = 64
_CPU = torch.device("cpu")
_Int = ctypes.c_int64
_ISLAND_TYPE = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_int64), ctypes.POINTER(ctypes.c_void_p)
)


class _Frame:
    """What one running call needs beside its results: pointers to values, and an arena."""

    __slots__ = ("_memory", "arena", "inputs", "inputs_at", "outputs", "outputs_at", "size")

    def __init__(self, inputs: int, outputs: int) -> None:
        self.inputs = (ctypes.c_void_p * max(inputs, 1))()
        self.outputs = (ctypes.c_void_p * max(outputs, 1))()
        self.inputs_at = ctypes.addressof(self.inputs)
        self.outputs_at = ctypes.addressof(self.outputs)
        self.size = -1

    def grow(self, size: int) -> None:
        """Makes the arena so many bytes large, at an aligned address."""
        self._memory = torch.empty(size + ALIGNMENT, dtype=torch.uint8, device=_CPU)
        self.arena = -(-self._memory.data_ptr() // ALIGNMENT) * ALIGNMENT
        self.size = size


class NativeCall:
    """The calls of a program with inputs of given sizes: all that depends on the sizes alone.

    Inputs have been checked. Contiguous floats are read in place; other inputs are converted to
    storage, each at the cost of a copy. Results in floating point are computed in place.
    """

    def __init__(self, program: NativeProgram, sizes: Mapping[str, int]) -> None:
        self._program = program
        self._frames = program.frames
        self._symbols = program.symbols_array(sizes)
        self._symbols_at = ctypes.addressof(self._symbols)
        self._arena_sizes: dict[int, int] = {}
        self._stored = [not t.is_float for t in program.inputs]
        # Of each result: shape and dtype of its storage, and its type where that has another form.
        self._results: list[tuple[tuple[int, ...], torch.dtype, TensorType | None]] = []
        self._shapes = [t.bind(sizes) for t in program.outputs]
        for t, shape in zip(program.outputs, self._shapes, strict=True):
            if t.is_float:
                self._results.append((shape, t.dtype, None))
            else:
                size = torch.Size(shape).numel() * t.dtype.itemsize + SLACK
                self._results.append(((size,), torch.uint8, t))
        self._converted = any(not t.is_float for t in program.outputs)

    def __call__(
        self, inputs: Sequence[torch.Tensor], threads: int, times_at: int | None = None
    ) -> list[torch.Tensor]:
        """Runs the program; adds each operator's nanoseconds to the numbers at an address."""
        threads = min(threads, MAX_THREADS)
        try:
            frame = self._frames.pop()
        except IndexError:
            frame = _Frame(len(self._stored), len(self._results))
        size = self._arena_sizes.get(threads)
        if size is None:
            size = int(self._program.qc_arena_size(self._symbols_at, threads))
            self._arena_sizes[threads] = size
        if frame.size < size:
            frame.grow(size)
        copies = []
        pointers = frame.inputs
        for i, x in enumerate(inputs):
            if self._stored[i] or not x.is_contiguous() or x.is_neg():
                x = _stored_input(x)
                copies.append(x)
            pointers[i] = x.data_ptr()
        pointers = frame.outputs
        results = []
        for i, (shape, dtype, _) in enumerate(self._results):
            result = torch.empty(shape, dtype=dtype, device=_CPU)
            pointers[i] = result.data_ptr()
            results.append(result)
        status = self._program.qc_run(
            self._symbols_at, frame.inputs_at, frame.outputs_at, frame.arena, threads, times_at
        )
        self._frames.append(frame)
        if status:
            self._program.fail(status)
        return self._logical(results) if self._converted else results

    def _logical(self, results: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Returns the results in logical order; integers have another form in storage."""
        return [
            stored if t is None else from_storage(stored, t, shape)
            for stored, (_, _, t), shape in zip(results, self._results, self._shapes, strict=True)
        ]


class NativeProgram:
    """A program in this process: thread-safe, each call with an arena of its own."""

    def __init__(
        self,
        graph: QGraph,
        ops: Sequence[OpDescriptor],
        binary: bytes,
        blob: bytes,
        *,
        level: str,
    ) -> None:
        self.graph = graph
        self.ops = tuple(ops)
        self.symbols = tuple(graph.symbols)
        self.inputs = [type_of(node) for node in graph.inputs]
        self.outputs = [type_of(node) for node in graph.results]
        self.frames: deque[_Frame] = deque(maxlen=_FRAMES)
        self._calls = OpCalls(graph, self.ops)
        self._blob = torch.frombuffer(bytearray(blob), dtype=torch.uint8).clone()
        self.library = library = _load(binary, level)
        pointer, number = ctypes.c_void_p, ctypes.c_int
        library.qc_init.argtypes = [pointer]
        library.qc_arena_size.argtypes = [pointer, number]
        library.qc_arena_size.restype = _Int
        library.qc_run.argtypes = [pointer, pointer, pointer, pointer, number, pointer]
        library.qc_op.argtypes = [number, pointer, pointer, number]
        library.qc_init(self._blob.data_ptr())
        self.qc_arena_size, self.qc_run = library.qc_arena_size, library.qc_run
        self._qc_op = library.qc_op
        if hasattr(library, "qc_set_island"):
            self._island = _ISLAND_TYPE(self._run_island)
            library.qc_set_island(self._island)
        self._failure = threading.local()

    def prepare(self, sizes: Mapping[str, int]) -> NativeCall:
        """Returns what runs checked inputs whose dynamic dimensions have the given sizes."""
        return NativeCall(self, sizes)

    def run(self, inputs: Sequence[torch.Tensor], threads: int = 1) -> list[torch.Tensor]:
        """Runs the program on CPU tensors and returns its results.

        Raises:
            QCompilerError: QC0701 when number, rank, dtype or shape of an input differ.
        """
        return self.prepare(check_inputs(self.graph, inputs))(inputs, threads)

    def time_ops(
        self, inputs: Sequence[torch.Tensor], threads: int, repeats: int
    ) -> dict[str, float]:
        """Returns each node's least time in microseconds over a number of runs.

        Where threads take slices of the batch, that is the time of one thread over its share.
        """
        call = self.prepare(check_inputs(self.graph, inputs))
        runs = []
        for _ in range(repeats):
            spent = (_Int * max(len(self.ops), 1))()
            call(inputs, threads, ctypes.addressof(spent))
            runs.append(spent[: len(self.ops)])
        return self._calls.least(runs)

    def run_op(
        self,
        node: str,
        operands: Sequence[torch.Tensor],
        threads: int = 1,
        *,
        over: int | None = None,
    ) -> torch.Tensor:
        """Runs one operator on logical values, in the order of its descriptor's operands.

        The result is written over a copy of the operand at the place ``over``, or to memory of its
        own.
        """
        call = self._calls.call(node, operands)
        stored = [with_slack(to_storage(x)) for x in operands]
        out = empty_storage(call.kind, call.shape) if over is None else stored[over]
        pointers = _pointers([*stored, out])
        if status := self._qc_op(call.index, self.symbols_array(call.sizes), pointers, threads):
            self.fail(status)
        return from_storage(out, call.kind, call.shape)

    def symbols_array(self, values: Mapping[str, int]) -> ctypes.Array[ctypes.c_int64]:
        """Returns the sizes of the dynamic dimensions as the C functions take them."""
        numbers = [values.get(name, 0) for name in self.symbols] or [0]
        return (_Int * len(numbers))(*numbers)

    def fail(self, status: int) -> NoReturn:
        """Raises what a C function reports."""
        error: BaseException | None = getattr(self._failure, "error", None)
        self._failure.error = None
        if error is not None:
            raise error
        raise failure(status)

    def _run_island(
        self,
        index: int,
        symbols: ctypes._Pointer[ctypes.c_int64],
        operands: ctypes._Pointer[ctypes.c_void_p],
    ) -> int:
        """Evaluates a float operator with torch on the program's own memory."""
        try:
            values = {name: int(symbols[i]) for i, name in enumerate(self.symbols)}
            op = self.ops[index]
            node = self._calls.nodes[op.node]
            held: dict[fx.Node, torch.Tensor] = {}
            for i, name in enumerate(op.operands):
                used = self._calls.nodes[name]
                held[used] = _view(operands[i], type_of(used), values)
            result = _call(self.graph, node, held)
            _copy_back(operands[len(op.operands)], type_of(node), result, values)
        except BaseException as error:  # C cannot carry it; fail raises it again
            self._failure.error = error
            return -3
        return 0


def _call(graph: QGraph, node: fx.Node, held: Mapping[fx.Node, torch.Tensor]) -> torch.Tensor:
    def value(used: fx.Node) -> torch.Tensor:
        return graph.constant(used) if used.op == "get_attr" else held[used]

    function: Any = node.target
    with torch.no_grad():
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), value)
        result: torch.Tensor = function(*args, **kwargs)
    return result


def _bytes_at(address: int, size: int) -> torch.Tensor:
    buffer = (ctypes.c_uint8 * max(size, 1)).from_address(address)
    return torch.frombuffer(buffer, dtype=torch.uint8)[:size]


def _view(address: int, value_type: TensorType, values: Mapping[str, int]) -> torch.Tensor:
    shape = value_type.bind(values)
    size = int(torch.Size(shape).numel()) * value_type.dtype.itemsize
    return from_storage(_bytes_at(address, size).clone(), value_type, shape)


def _copy_back(
    address: int, value_type: TensorType, result: torch.Tensor, values: Mapping[str, int]
) -> None:
    stored = to_storage(result.reshape(value_type.bind(values)).to(value_type.dtype))
    flat = stored.reshape(-1).view(torch.uint8)
    _bytes_at(address, flat.numel()).copy_(flat)


def _stored_input(x: torch.Tensor) -> torch.Tensor:
    """Returns an input in storage; kernels may read a little past the end of integers."""
    stored = to_storage(x.detach().resolve_neg())
    return stored if x.is_floating_point() else with_slack(stored)


def _pointers(tensors: Sequence[torch.Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * max(len(tensors), 1))(*[t.data_ptr() for t in tensors])


def _load(binary: bytes, level: str) -> ctypes.CDLL:
    """Maps the library and chooses its level; its file is gone once it is mapped."""
    handle, path = tempfile.mkstemp(prefix="qcompiler-", suffix=".so")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(binary)
        library = ctypes.CDLL(path)
    finally:
        Path(path).unlink()
    library.qc_select.argtypes = [ctypes.c_char_p]
    if library.qc_select(level.encode()):
        message = f"the library does not run at the level {level} here"
        raise RuntimeError(message)
    return library
