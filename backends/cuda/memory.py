"""The memory of a program on a device: arena, constants, and what launches point to."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from qcompiler.backends.cuda.launch import Lowered, Packed, Pointer, Scratch, Step, Value, Workspace
from qcompiler.backends.cuda.places import Places
from qcompiler.backends.native.codes import SIGNED
from qcompiler.backends.native.layout import to_storage

# Room to begin the arena at an address that is a multiple of what tensors are aligned to.
ALIGNMENT = 64


class Memory:
    """What the launches of a program at given sizes point to.

    Inputs and results belong to a call; everything else is here, and its addresses never change.
    """

    def __init__(self, places: Places, lowered: Lowered, constants: torch.Tensor) -> None:
        self.places = places
        self.device = device = constants.device
        self._constants = constants
        self._views: dict[Pointer, torch.Tensor] = {}
        # Memory of the inference mode could not be written outside of it.
        with torch.inference_mode(False):
            self._arena = _bytes(places.arena_bytes + ALIGNMENT, device)
            self._scratch = _bytes(lowered.scratch, device)
            self._zeroed = _bytes(lowered.zeroed, device).zero_()

    def is_outside(self, step: Step) -> bool:
        """Says whether a step touches an input or a result."""
        return any(self.kind(item) in ("input", "output") for item in step.pointers())

    def writes_results(self, step: Step) -> bool:
        """Says whether a step touches a result."""
        return any(self.kind(item) == "output" for item in step.pointers())

    def kind(self, item: Pointer) -> str:
        """Returns where a pointer points: ``input``, ``output``, ``constant`` or ``arena``."""
        return self.places.of(item.node)[0] if isinstance(item, Value) else "arena"

    def tensor(
        self,
        item: Pointer,
        inputs: Sequence[torch.Tensor] = (),
        outputs: Sequence[torch.Tensor] = (),
    ) -> torch.Tensor:
        """Returns a tensor that begins where a pointer points."""
        if item in self._views:
            return self._views[item]
        kind, at = self.places.of(item.node) if isinstance(item, Value) else ("arena", 0)
        if kind == "input":
            return inputs[at]
        if kind == "output":
            return outputs[at]
        # Made once: a call's time on the host counts where batches are small.
        with torch.inference_mode(False):
            self._views[item] = made = self._view(item, at)
        return made

    def _view(self, item: Pointer, at: int) -> torch.Tensor:
        if isinstance(item, Packed):
            return view(self._constants, item.offset, item.dtype)
        if isinstance(item, Scratch):
            return view(self._scratch, item.offset, item.dtype)
        if isinstance(item, Workspace):
            return view(self._zeroed, item.offset, item.dtype)
        return view(self._arena, at, item.dtype)


def _bytes(count: int, device: torch.device) -> torch.Tensor:
    return torch.empty(count, dtype=torch.uint8, device=device)


def stored(value: torch.Tensor) -> torch.Tensor:
    """Returns a logical value as it lies in memory, its elements in a row."""
    return to_storage(value, SIGNED).reshape(-1).view(value.dtype)


def view(memory: torch.Tensor, offset: int, dtype: torch.dtype) -> torch.Tensor:
    """Returns the memory from an offset on as elements of a type."""
    size = (memory.numel() - offset) // dtype.itemsize * dtype.itemsize
    return memory[offset : offset + size].view(dtype)
