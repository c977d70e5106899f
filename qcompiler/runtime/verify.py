"""Verification: a built program against the reference interpreter, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import fx

from qcompiler.errors import counted
from qcompiler.ir.annotations import origin_of, quant_of, type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.queries import is_island
from qcompiler.runtime.interpreter import evaluate, operands_of
from qcompiler.target.base import Executable

THREADS = (1, 2, 4)


@dataclass(frozen=True)
class Difference:
    """The first value at which a node differs from the reference."""

    node: str
    source: str | None
    inputs: str
    index: tuple[int, ...]
    expected: float
    actual: float
    count: int

    def __str__(self) -> str:
        place = f" ({self.source})" if self.source else ""
        values = counted(self.count, "value")
        differ = "differs" if self.count == 1 else "differ"
        return (
            f"{self.node}{place}, {self.inputs}: {values} {differ}, the first at "
            f"{self.index}: {self.actual} instead of {self.expected}"
        )


@dataclass(frozen=True)
class VerifyResult:
    """What was compared, and every difference found; true when there is none."""

    checks: int
    values: int
    differences: tuple[Difference, ...]

    def __bool__(self) -> bool:
        return not self.differences

    def __str__(self) -> str:
        if self:
            checks, values = counted(self.checks, "comparison"), counted(self.values, "value")
            return f"equal: {checks}, {values}, no difference"
        lines = [f"{len(self.differences)} of {self.checks} comparisons differ"]
        return "\n".join([*lines, *(str(d) for d in self.differences)])


def verify_executable(
    graph: QGraph,
    executable: Executable,
    inputs: Sequence[torch.Tensor],
    seed: int,
    others: Sequence[Sequence[torch.Tensor]] = (),
) -> VerifyResult:
    """Compares each operator on random and corner operands, and the whole program on inputs.

    Args:
        graph: the program.
        executable: what was built of it.
        inputs: of the whole program; operators get operands of the sizes that follow.
        seed: of the operands.
        others: more inputs of the whole program, of other sizes.
    """
    checks = values = 0
    differences: list[Difference] = []
    random = torch.Generator().manual_seed(seed)
    traced = dict(_sizes(graph, inputs))
    for node in graph.calls:
        if is_island(node):
            continue
        for label, operands in _operands(node, traced, random):
            expected = evaluate(graph, node, operands)
            for threads in THREADS:
                actual = executable.run_op(node.name, operands, threads)
                checks, values = checks + 1, values + expected.numel()
                found = _compare(node, f"{label}, {threads} threads", expected, actual)
                differences += [found] if found else []
    for given in (inputs, *others):
        wanted = graph.run(*given)
        for threads in THREADS:
            label = f"whole program on {[list(x.shape) for x in given]}, {threads} threads"
            results = executable.run(list(given), threads)
            for node, expected, actual in zip(graph.results, wanted, results, strict=True):
                checks, values = checks + 1, values + expected.numel()
                found = _compare(node, label, expected, actual)
                differences += [found] if found else []
    return VerifyResult(checks, values, tuple(differences))


def _sizes(graph: QGraph, inputs: Sequence[torch.Tensor]) -> Iterator[tuple[fx.Node, torch.Size]]:
    for node, value in graph.trace(*inputs):
        if isinstance(value, torch.Tensor):
            yield node, value.shape


def _operands(
    node: fx.Node, shapes: dict[fx.Node, torch.Size], random: torch.Generator
) -> Iterator[tuple[str, list[torch.Tensor]]]:
    """Yields named operand sets: uniform random codes, and both extremes in all combinations."""
    inputs = operands_of(node)
    yield "random operands", [_random(n, shapes[n], random) for n in inputs]
    for label, pick in (("smallest operands", 0), ("largest operands", 1)):
        yield label, [_extreme(n, shapes[n], pick) for n in inputs]
    if len(inputs) > 1:
        yield (
            "opposite operands",
            [_extreme(n, shapes[n], i % 2) for i, n in enumerate(inputs)],
        )


def _limits(node: fx.Node) -> tuple[int, int]:
    dtype = type_of(node).dtype
    if dtype == torch.int32:
        low, high = _proof_of(node)
        return low, high
    info = torch.iinfo(dtype)
    return info.min, info.max


def _proof_of(node: fx.Node) -> tuple[int, int]:
    proof = quant_of(node).proof
    return proof if proof is not None else (-(2**30), 2**30 - 1)


def _random(node: fx.Node, shape: torch.Size, random: torch.Generator) -> torch.Tensor:
    kind = type_of(node)
    if kind.is_float:
        values = torch.randn(shape, generator=random)
        special = torch.tensor([float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1e30])
        flat = values.flatten()
        flat[: min(6, flat.numel())] = special[: min(6, flat.numel())]
        return flat.reshape(shape)
    low, high = _limits(node)
    return torch.randint(low, high + 1, shape, generator=random).to(kind.dtype)


def _extreme(node: fx.Node, shape: torch.Size, pick: int) -> torch.Tensor:
    kind = type_of(node)
    value = (-1e30, 1e30)[pick] if kind.is_float else _limits(node)[pick]
    return torch.full(shape, value, dtype=kind.dtype)


def _compare(
    node: fx.Node, inputs: str, expected: torch.Tensor, actual: torch.Tensor
) -> Difference | None:
    if expected.shape == actual.shape and torch.equal(expected, actual):
        return None
    source = origin_of(node).source
    if expected.shape != actual.shape:
        return Difference(node.name, source, inputs, (), expected.numel(), actual.numel(), 0)
    wrong = expected != actual
    first = tuple(int(i) for i in wrong.nonzero()[0])
    count = int(wrong.sum())
    return Difference(
        node.name, source, inputs, first, expected[first].item(), actual[first].item(), count
    )
