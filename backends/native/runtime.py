"""Loads a built program and runs it on torch tensors."""

from __future__ import annotations

import ctypes
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import sympy
import torch
from torch import fx

from qcompiler.backends.native.emitter import OpDescriptor
from qcompiler.backends.native.layout import empty_storage, from_storage, to_storage
from qcompiler.backends.native.packing import ALIGNMENT
from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.types import TensorType

SLACK = 64
# Arenas of so many sizes are kept for reuse; another size drops them all.
_ARENA_SIZES = 8
_ISLAND_TYPE = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_int64), ctypes.POINTER(ctypes.c_void_p)
)


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
        self._index = {op.node: i for i, op in enumerate(self.ops)}
        self._nodes = {node.name: node for node in graph.nodes}
        self._inputs = [type_of(node) for node in graph.inputs]
        self._outputs = [type_of(node) for node in graph.results]
        self._blob = torch.frombuffer(bytearray(blob), dtype=torch.uint8).clone()
        self._arenas: dict[int, deque[torch.Tensor]] = {}
        self._library = _load(binary, level)
        self._library.qc_arena_size.restype = ctypes.c_int64
        self._library.qc_init(ctypes.c_void_p(self._blob.data_ptr()))
        self._island: object = None
        if hasattr(self._library, "qc_set_island"):
            self._island = _ISLAND_TYPE(self._run_island)
            self._library.qc_set_island(self._island)
        self._failure = threading.local()

    def bind(self, inputs: Sequence[torch.Tensor]) -> dict[str, int]:
        """Returns the symbols' values that the inputs' shapes give.

        Raises:
            QCompilerError: QC0701 when number, rank, dtype or shape of an input differ.
        """
        if len(inputs) != len(self._inputs):
            _reject(f"{len(inputs)} inputs were given, the program takes {len(self._inputs)}")
        values: dict[str, int] = {}
        for i, (given, wanted) in enumerate(zip(inputs, self._inputs, strict=True)):
            fits = given.dtype == wanted.dtype and given.dim() == wanted.rank
            if not fits or given.device.type != "cpu":
                _reject(f"input {i} is {given.dtype} of shape {tuple(given.shape)}, not {wanted}")
            for size, dim in zip(given.shape, wanted.shape, strict=True):
                if isinstance(dim, sympy.Symbol):
                    values.setdefault(str(dim), size)
        for i, (given, wanted) in enumerate(zip(inputs, self._inputs, strict=True)):
            if tuple(given.shape) != wanted.bind(values):
                _reject(f"input {i} has shape {tuple(given.shape)}, not {wanted}")
        return values

    def run(self, inputs: Sequence[torch.Tensor], threads: int = 1) -> list[torch.Tensor]:
        """Runs the program on CPU tensors and returns its results."""
        return self._run(inputs, threads, None)

    def time_ops(
        self, inputs: Sequence[torch.Tensor], threads: int, repeats: int
    ) -> dict[str, float]:
        """Returns each node's least time in microseconds over a number of runs."""
        least = [float("inf")] * len(self.ops)
        for _ in range(repeats):
            ends = (ctypes.c_int64 * (len(self.ops) + 1))()
            before = time.monotonic_ns()
            self._run(inputs, threads, ends)
            starts = [before, *ends]
            for i in range(len(self.ops)):
                least[i] = min(least[i], (ends[i] - starts[i]) / 1000)
        return {op.node: least[i] for i, op in enumerate(self.ops)}

    def _run(
        self,
        inputs: Sequence[torch.Tensor],
        threads: int,
        times: ctypes.Array[ctypes.c_int64] | None,
    ) -> list[torch.Tensor]:
        values = self.bind(inputs)
        symbols = self._symbols(values)
        stored = [_stored_input(x) for x in inputs]
        shapes = [t.bind(values) for t in self._outputs]
        results = [empty_storage(t, s) for t, s in zip(self._outputs, shapes, strict=True)]
        size = int(self._library.qc_arena_size(symbols, threads))
        pool = self._arenas.get(size)
        if pool is None:
            if len(self._arenas) >= _ARENA_SIZES:
                self._arenas.clear()
            pool = self._arenas.setdefault(size, deque(maxlen=64))
        try:
            arena = pool.pop()
        except IndexError:
            arena = torch.empty(size + ALIGNMENT, dtype=torch.uint8)
        start = ctypes.c_void_p(-(-arena.data_ptr() // ALIGNMENT) * ALIGNMENT)
        status = self._library.qc_run(
            symbols, _pointers(stored), _pointers(results), start, threads, times
        )
        pool.append(arena)
        self._check(status)
        triples = zip(results, self._outputs, shapes, strict=True)
        return [from_storage(r, t, s) for r, t, s in triples]

    def run_op(self, node: str, operands: Sequence[torch.Tensor], threads: int = 1) -> torch.Tensor:
        """Runs one operator on logical values, in the order of its descriptor's operands."""
        index = self._index[node]
        values = _solve([type_of(self._nodes[n]) for n in self.ops[index].operands], operands)
        result = type_of(self._nodes[node])
        shape = result.bind(values)
        stored = [_with_slack(to_storage(x)) for x in operands]
        out = empty_storage(result, shape)
        pointers = _pointers([*stored, out])
        self._check(self._library.qc_op(index, self._symbols(values), pointers, threads))
        return from_storage(out, result, shape)

    def _symbols(self, values: Mapping[str, int]) -> ctypes.Array[ctypes.c_int64]:
        numbers = [values.get(name, 0) for name in self.symbols] or [0]
        return (ctypes.c_int64 * len(numbers))(*numbers)

    def _check(self, status: int) -> None:
        if status == 0:
            return
        error: BaseException | None = getattr(self._failure, "error", None)
        self._failure.error = None
        if error is not None:
            raise error
        message = f"the native program failed with status {status}"
        raise MemoryError(message) if status == -2 else RuntimeError(message)

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
            node = self._nodes[op.node]
            held: dict[fx.Node, torch.Tensor] = {}
            for i, name in enumerate(op.operands):
                held[self._nodes[name]] = _view(operands[i], type_of(self._nodes[name]), values)
            result = _call(self.graph, node, held)
            _copy_back(operands[len(op.operands)], type_of(node), result, values)
        except BaseException as error:  # C cannot carry it; _check raises it again
            self._failure.error = error
            return -3
        return 0


def _solve(types: Sequence[TensorType], tensors: Sequence[torch.Tensor]) -> dict[str, int]:
    """Returns the symbols' values for which the types have the tensors' shapes."""
    values: dict[str, int] = {}
    for tensor_type, tensor in zip(types, tensors, strict=True):
        for dim, size in zip(tensor_type.shape, tensor.shape, strict=True):
            if isinstance(dim, int) or len(dim.free_symbols) != 1:
                continue
            (unknown,) = dim.free_symbols
            solutions = [size] if dim == unknown else sympy.solve(dim - size, unknown)
            if str(unknown) not in values and solutions:
                values[str(unknown)] = int(solutions[0])
    return values


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
    """Returns an input in storage; kernels of integers may read a little past the end."""
    return to_storage(x) if x.is_floating_point() else _with_slack(to_storage(x))


def _with_slack(stored: torch.Tensor) -> torch.Tensor:
    """Returns the bytes with the slack after them that kernels may read."""
    flat = stored.reshape(-1).view(torch.uint8)
    return torch.cat([flat, torch.zeros(SLACK, dtype=torch.uint8)])


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


def _reject(problem: str) -> None:
    raise QCompilerError(
        "QC0701", problem, remedy="give CPU tensors of the shapes and dtypes listed by the report"
    )
