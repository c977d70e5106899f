"""OpLowering: what a lowering function uses to turn one operator into launches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from qcompiler.backends.cuda.architectures import Architecture
from qcompiler.backends.cuda.choices import Tiles
from qcompiler.backends.cuda.launch import (
    Constant,
    Launch,
    Packed,
    Pointer,
    Scratch,
    Stride,
    Value,
    Workspace,
)
from qcompiler.backends.cuda.memory import stored
from qcompiler.backends.native.layout import strides_of
from qcompiler.backends.native.packing import Blob
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph, arguments
from qcompiler.ir.types import TensorType

# Elements of a block of the kernels that go element by element.
BLOCK = 1024
_WIDE = 2**31 - BLOCK


class OpLowering:
    """Collects the launches and the constants of one operator, for given sizes.

    Types are bound: all sizes are numbers here. ``tiles`` says how products are cut where not
    by the default.
    """

    def __init__(
        self,
        graph: QGraph,
        node: fx.Node,
        sizes: Mapping[str, int],
        blob: Blob,
        architecture: Architecture,
        tiles: Tiles | None = None,
    ) -> None:
        self.graph = graph
        self.node = node
        self.blob = blob
        self.architecture = architecture
        self.tiles = tiles or {}
        self.args: dict[str, Any] = arguments(node)
        self.launches: list[Launch] = []
        self.workspace = 0
        self.scratch_bytes = 0
        self._sizes = sizes
        self.type = self.bound(node)

    def bound(self, node: fx.Node) -> TensorType:
        """Returns a node's type at the given sizes."""
        kind = type_of(node)
        return TensorType(kind.dtype, kind.bind(self._sizes))

    def type_of(self, name: str) -> TensorType:
        """Returns the type of the tensor argument of the given name."""
        return self.bound(self.args[name])

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Returns the sizes of a tensor argument."""
        return tuple(int(size) for size in self.type_of(name).shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the result."""
        return tuple(int(size) for size in self.type.shape)

    def strides_of(self, name: str) -> tuple[int, ...]:
        """Returns the strides of a tensor argument in storage, in elements."""
        return tuple(int(step) for step in strides_of(self.type_of(name)))

    def strides_of_node(self, node: fx.Node) -> tuple[int, ...]:
        """Returns the strides of a node's value in storage."""
        return tuple(int(step) for step in strides_of(self.bound(node)))

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides of the result in storage."""
        return tuple(int(step) for step in strides_of(self.type))

    def tensor(self, argument: fx.Node | str) -> Pointer:
        """Returns the memory of a tensor argument, given by name or as a node."""
        node = self.args[argument] if isinstance(argument, str) else argument
        if node.op == "get_attr":
            return self.packed(stored(self.graph.constant(node)))
        return Value(node.name, type_of(node).dtype)

    @property
    def out(self) -> Pointer:
        """The memory of the result."""
        return Value(self.node.name, self.type.dtype)

    def input_strides(self, name: str) -> list[Stride | int]:
        """Returns the strides of an argument as the caller gives it, else those of storage."""
        node = self.args[name]
        if node.op == "placeholder":
            return [Stride(node.name, dim) for dim in range(len(self.shape_of(name)))]
        return list(self.strides_of(name))

    def constant(self, name: str) -> torch.Tensor:
        """Returns the tensor of an argument that is a constant."""
        return self.graph.constant(self.args[name])

    def packed(self, values: torch.Tensor) -> Packed:
        """Stores constant data."""
        return Packed(self.blob.add(np.ascontiguousarray(values.numpy())), values.dtype)

    def int32(self, values: torch.Tensor) -> Packed:
        """Stores numbers as int32."""
        return self.packed(values.reshape(-1).to(torch.int32))

    def zeroed(self, count: int) -> Workspace:
        """Reserves int32 memory that is zero before and after each operator."""
        at = self.workspace
        self.workspace += -(-count * 4 // 256) * 256
        return Workspace(at, torch.int32)

    def scratch(self, count: int, dtype: torch.dtype) -> Scratch:
        """Reserves memory that only this operator's launches use."""
        at = self.scratch_bytes
        self.scratch_bytes += -(-count * dtype.itemsize // 256) * 256
        return Scratch(at, dtype)

    def launch(
        self,
        kernel: str,
        grid: Sequence[int],
        arguments: Mapping[str, Pointer | Stride | int],
        constants: Mapping[str, Constant],
        *,
        num_warps: int = 4,
        num_stages: int = 1,
    ) -> None:
        """Adds a launch, none of no blocks."""
        x, y, z = (*grid, 1, 1, 1)[:3]
        if not x * y * z:
            return
        made = Launch(
            self.node.name, kernel, (x, y, z), arguments, constants, num_warps, num_stages
        )
        self.launches.append(made)

    def by_elements(
        self,
        kernel: str,
        count: int,
        arguments: Mapping[str, Pointer | Stride | int],
        constants: Mapping[str, Constant],
        block: int = BLOCK,
    ) -> None:
        """Adds a launch of a kernel that computes ``count`` elements by blocks."""
        if count:
            fixed = {**constants, "WIDE": count >= _WIDE, "BLOCK": block}
            self.launch(kernel, [-(-count // block)], {**arguments, "count": count}, fixed)
