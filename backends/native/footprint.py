"""What a C project takes of a machine's memory, and the limits that a user declares for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import fx

from qcompiler.backends.native.emitter import Description
from qcompiler.backends.native.packing import ALIGNMENT
from qcompiler.backends.native.values import SLACK
from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import origin_of, type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.types import TensorType, evaluate_dim
from qcompiler.runtime.memory_liveness import find_liveness
from qcompiler.target.base import Target

# So many contributors are named.
_NAMED = 5


@dataclass(frozen=True)
class Footprint:
    """Bytes of a program for a batch of one: packed constants in flash, the arena in RAM.

    ``constants`` are the unpacked constants of each node, ``alive`` the values in the arena at the
    step that needs most, and the scratch memory of the operator that needs most of that; both the
    largest first, with bytes.
    """

    flash: int
    ram: int
    constants: tuple[tuple[str, int], ...]
    alive: tuple[tuple[str, int], ...]

    def check(self, flash: int | None, ram: int | None, target: str) -> None:
        """Compares with the bytes that a machine has; None is no limit.

        Raises:
            QCompilerError: QC0826 with the largest contributors.
        """
        if flash is not None and self.flash > flash:
            raise _too_large(target, "flash", self.flash, flash, self.constants)
        if ram is not None and self.ram > ram:
            raise _too_large(target, "ram", self.ram, ram, self.alive)


def arena_bytes(described: Description, sizes: Mapping[str, int]) -> int:
    """Returns the bytes of a project's arena on one thread, as model_arena_bytes does."""
    scratch = max((evaluate_dim(size, sizes) for size in described.scratch), default=0)
    total = evaluate_dim(described.arena, sizes) + scratch + 3 * SLACK
    return -(-total // ALIGNMENT) * ALIGNMENT


def footprint(graph: QGraph, described: Description, target: Target) -> Footprint:
    """Returns what a program takes, with dynamic dimensions at their least sizes."""
    sizes = {name: span.low for name, span in graph.symbols.items()}
    scratch = {
        op.node: evaluate_dim(size, sizes)
        for op, size in zip(described.ops, described.scratch, strict=True)
    }
    constants = ((_name(node), _constant_bytes(node)) for node in graph.calls)
    return Footprint(
        len(described.blob),
        arena_bytes(described, sizes),
        _largest(constants),
        _largest(_alive(graph, target, sizes, scratch)),
    )


def _alive(
    graph: QGraph, target: Target, sizes: Mapping[str, int], scratch: Mapping[str, int]
) -> Iterable[tuple[str, int]]:
    """Yields the values in the arena at the step with the most bytes, and the most scratch."""
    buffers = find_liveness(graph, target).buffers
    bytes_of = {b.lifetime.name: evaluate_dim(b.lifetime.size, sizes) for b in buffers}

    def at(step: int) -> list[str]:
        return [b.lifetime.name for b in buffers if b.lifetime.start <= step <= b.lifetime.end]

    steps = {b.lifetime.start for b in buffers}
    peak = max(steps, key=lambda step: sum(bytes_of[n] for n in at(step)), default=0)
    for name in at(peak):
        yield _name(graph.node(name)), bytes_of[name]
    if scratch:
        most = max(scratch, key=scratch.__getitem__)
        yield f"scratch memory of {_name(graph.node(most))}", scratch[most]


def _constant_bytes(node: fx.Node) -> int:
    kinds = [type_of(used) for used in node.all_input_nodes if used.op == "get_attr"]
    return sum(_fixed_bytes(kind) for kind in kinds)


def _fixed_bytes(kind: TensorType) -> int:
    return int(torch.Size(kind.bind({})).numel()) * kind.dtype.itemsize


def _largest(found: Iterable[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted((pair for pair in found if pair[1]), key=lambda pair: -pair[1]))


def _name(node: fx.Node) -> str:
    source = origin_of(node).source
    return f"{node.name} ({source})" if source else node.name


def _too_large(
    target: str, kind: str, needed: int, limit: int, found: tuple[tuple[str, int], ...]
) -> QCompilerError:
    what = {"flash": "constants", "ram": "values and scratch memory"}[kind]
    lines = [f"{count} bytes: {name}" for name, count in found[:_NAMED]]
    remedies = {
        "flash": "use a smaller network, or fewer bits for its weights",
        "ram": "use smaller inputs or fewer channels where the values are largest",
    }
    return QCompilerError(
        "QC0826",
        f"the program needs {needed} bytes of {kind} for its {what}, and {target} has {limit};"
        " the largest:\n    " + "\n    ".join(lines),
        remedy=f"{remedies[kind]}, or raise {kind}",
    )
