"""Starts steps of a program on the current stream, with the memory that they point to bound."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, TypeAlias

import torch

from qcompiler.backends.cuda.kernel_table import kernel
from qcompiler.backends.cuda.launch import Island, Launch, Pointer, Step, Stride, Value
from qcompiler.backends.cuda.memory import stored
from qcompiler.backends.native.codes import SIGNED
from qcompiler.backends.native.layout import from_storage
from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph
from qcompiler.runtime.interpreter import operands_of

TensorOf: TypeAlias = Callable[[Pointer], torch.Tensor]
StrideOf: TypeAlias = Callable[[Stride], int]


def start_launch(launch: Launch, tensor_of: TensorOf, stride_of: StrideOf) -> None:
    """Launches a kernel; Triton compiles it at the first time.

    Raises:
        QCompilerError: QC0843 when Triton cannot compile it.
        torch.OutOfMemoryError: the device has no room for its code or its registers.
    """
    bound: dict[str, Any] = {}
    for name, item in launch.arguments.items():
        if isinstance(item, int):
            bound[name] = item
        else:
            bound[name] = stride_of(item) if isinstance(item, Stride) else tensor_of(item)
    try:
        kernel(launch.kernel)[launch.grid](**bound, **launch.constants, **launch.options())
    except Exception as error:
        if is_out_of_memory(error):
            raise torch.OutOfMemoryError(str(error)) from error
        raise failed(launch, "the current device", error) from error


def is_out_of_memory(error: Exception) -> bool:
    """Says whether an error of torch, of Triton or of a recording is that memory has run out."""
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error)


def failed(launch: Launch, where: str, error: Exception) -> QCompilerError:
    """Returns the error for a kernel that did not start; a file that starts it again is kept."""
    from qcompiler.backends.cuda.reproducer import keep

    path = keep(launch)
    numbers = {name: item for name, item in launch.arguments.items() if isinstance(item, int)}
    sizes = ", ".join(f"{name} {item}" for name, item in numbers.items())
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return QCompilerError(
        "QC0843",
        f"{launch.label()}{f' with {sizes}' if sizes else ''} does not compile for {where}:"
        f" {type(error).__name__}: {lines[-1]}",
        node=launch.node,
        remedy=f"report it with {path}, which compiles this kernel alone (python {path} sm_90)",
    )


class Starter:
    """Starts the steps of a graph at given sizes.

    Args:
        graph: whose operators torch computes where they stay in floating point.
        sizes: of its dynamic dimensions.
        device: where that happens.
    """

    def __init__(self, graph: QGraph, sizes: dict[str, int], device: torch.device) -> None:
        self._graph = graph
        self._sizes = sizes
        self._device = device
        self._constants: dict[str, torch.Tensor] = {}

    def __call__(self, step: Step, tensor_of: TensorOf, stride_of: StrideOf) -> None:
        """Starts a step."""
        if isinstance(step, Island):
            self._compute(step, tensor_of)
        else:
            start_launch(step, tensor_of, stride_of)

    def _compute(self, island: Island, tensor_of: TensorOf) -> None:
        node = self._graph.node(island.node)
        given = {}
        for used, value in zip(operands_of(node), island.operands, strict=True):
            given[used] = self._logical(value, tensor_of(value))

        def load(used: torch.fx.Node) -> torch.Tensor:
            return self.constant(used) if used.op == "get_attr" else given[used]

        function: Any = node.target
        with torch.no_grad():
            args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), load)
            result: torch.Tensor = function(*args, **kwargs)
        kind = type_of(node)
        flat = stored(result.reshape(kind.bind(self._sizes)).to(kind.dtype))
        tensor_of(island.result)[: flat.numel()].copy_(flat)

    def _logical(self, value: Value, memory: torch.Tensor) -> torch.Tensor:
        kind = type_of(self._graph.node(value.node))
        shape = kind.bind(self._sizes)
        if tuple(memory.shape) == shape:  # an input, as the caller gave it
            return memory
        flat = memory[: prod(shape)].view(torch.uint8)
        return from_storage(flat, kind, shape, SIGNED)

    def constant(self, node: torch.fx.Node) -> torch.Tensor:
        """Returns a constant of the graph on the device."""
        if node.name not in self._constants:
            self._constants[node.name] = self._graph.constant(node).to(self._device)
        return self._constants[node.name]
