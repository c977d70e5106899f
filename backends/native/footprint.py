"""What a C project takes of a machine's memory, and the limits that a user declares for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import fx

from qcompiler.backends.native.arena import Arena, find_arena
from qcompiler.backends.native.emitter import Description, Plan
from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import origin_of, type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.types import TensorType, evaluate_dim

# So many contributors are named.
_NAMED = 5


@dataclass(frozen=True)
class Footprint:
    """Bytes of a program for a batch of one: constants and known code in flash, the arena in RAM.

    ``constants`` are the unpacked constants of each node, ``alive`` what the arena holds at
    ``peak``, the operator that needs most of it: values, scratch memory, and the gaps between them;
    both the largest first, with bytes.
    """

    flash: int
    ram: int
    constants: tuple[tuple[str, int], ...]
    alive: tuple[tuple[str, int], ...]
    peak: str
    code: int = 0

    def with_code(self, code: int) -> Footprint:
        """Returns the same where flash holds so many bytes of code, too."""
        constants = _largest([*self.constants, ("code", code)])
        return replace(self, flash=self.flash + code, constants=constants, code=code)

    def check(self, flash: int | None, ram: int | None, target: str) -> None:
        """Compares with the bytes that a machine has; None is no limit.

        Raises:
            QCompilerError: QC0826 with the largest contributors.
        """
        if flash is not None and self.flash > flash:
            raise _too_large(target, "flash", self.flash, flash, self.constants)
        if ram is not None and self.ram > ram:
            raise _too_large(target, "ram", self.ram, ram, self.alive, f" at {self.peak}")


def footprint(graph: QGraph, plan: Plan, described: Description) -> Footprint:
    """Returns what a program takes, with dynamic dimensions at their least sizes."""
    sizes = {name: span.low for name, span in graph.symbols.items()}
    arena = find_arena(graph, plan, described)
    constants = ((_name(node), _constant_bytes(node)) for node in graph.calls)
    peak, alive = at_peak(arena, sizes, lambda name: _name(graph.node(name)))
    return Footprint(len(described.blob), arena.bytes(sizes), _largest(constants), alive, peak)


def at_peak(
    arena: Arena, sizes: Mapping[str, int], name_of: Callable[[str], str]
) -> tuple[str, tuple[tuple[str, int], ...]]:
    """Returns the operator that needs most of the arena, and what that holds, the largest first."""
    step = arena.peak(sizes)
    if step is None:
        return "", ()
    found = []
    for part in step.parts:
        what = "scratch memory of " if part.is_scratch else ""
        found.append((what + name_of(part.node), evaluate_dim(part.size, sizes)))
    end = max((evaluate_dim(part.end, sizes) for part in step.parts), default=0)
    gaps = end - sum(size for _, size in found)
    return step.node, _largest([*found, ("gaps between them", gaps)])


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
    target: str,
    kind: str,
    needed: int,
    limit: int,
    found: tuple[tuple[str, int], ...],
    where: str = "",
) -> QCompilerError:
    has_code = any(name == "code" for name, _ in found)
    what = "values and scratch memory" if kind == "ram" else "constants"
    what += " and code" * has_code
    lines = [f"{count} bytes: {name}" for name, count in found[:_NAMED]]
    remedies = {
        "flash": "use a smaller network, or fewer bits for its weights",
        "ram": "use smaller inputs or fewer channels where the values are largest",
    }
    return QCompilerError(
        "QC0826",
        f"the program needs {needed} bytes of {kind} for its {what}, and {target} has {limit};"
        f" the largest{where}:\n    " + "\n    ".join(lines),
        remedy=f"{remedies[kind]}, or raise {kind}",
    )
