"""The inputs of a call: checked against the program's types, with errors that name the input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sympy
import torch

from qcompiler.errors import QCompilerError, counted
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.types import Dim, evaluate_dim, symbol


def check_inputs(
    graph: QGraph,
    inputs: Sequence[Any],
    *,
    may_be_empty: bool = False,
    device: str | None = "cpu",
) -> dict[str, int]:
    """Checks inputs against the program's types and returns the sizes of its dynamic dimensions.

    The outcome depends on ``signature_of`` the inputs alone. ``may_be_empty`` lets a batch have no
    samples where any other number of them would do and each result has a row for each of them.
    ``device`` is the type of device that all inputs are on, the same one; None takes any
    that holds data.

    Raises:
        QCompilerError: QC0701 naming the input, what it is and what it should be.
    """
    wanted = [(n.name, type_of(n)) for n in graph.inputs]
    expected = ", ".join(f"{name}: {kind}" for name, kind in wanted)
    if len(inputs) != len(wanted):
        given_count = counted(len(inputs), "input")
        problem = f"{given_count} {'was' if len(inputs) == 1 else 'were'} given"
        raise rejection(problem, expected, device=device)
    sizes: dict[str, int] = {}
    for (name, kind), given in zip(wanted, inputs, strict=True):
        if not isinstance(given, torch.Tensor):
            problem = f"input {name} is of type {type(given).__name__}"
            raise rejection(problem, expected, name, device)
        if given.layout != torch.strided:
            problem = f"input {name} has the layout {given.layout}"
            raise rejection(problem, expected, name, device)
        if given.dtype != kind.dtype or given.dim() != kind.rank:
            found = f"{given.dtype} of shape {tuple(given.shape)}"
            problem = f"input {name} is {found}"
            raise rejection(problem, expected, name, device)
        if given.is_meta or (device is not None and given.device.type != device):
            problem = f"input {name} is on {given.device}"
            raise rejection(problem, expected, name, device)
        if device is not None and given.device != inputs[0].device:
            problem = f"input {name} is on {given.device}, another one on {inputs[0].device}"
            raise rejection(problem, expected, name, device)
        for size, dim in zip(given.shape, kind.shape, strict=True):
            if isinstance(dim, sympy.Symbol):
                sizes.setdefault(str(dim), size)
    for (name, kind), given in zip(wanted, inputs, strict=True):
        if tuple(given.shape) != kind.bind(sizes):
            problem = f"input {name} has shape {tuple(given.shape)}"
            raise rejection(problem, expected, name, device)
    for name, size in sizes.items():
        span = graph.symbols[name]
        if may_be_empty and size == 0 and span.low == 1 and _is_batch(graph, name, sizes):
            continue
        if not span.low <= size <= span.high:
            problem = f"{name} is {size}, outside [{span.low}, {span.high}]"
            allowed = f"{name} from {span.low} to {span.high}"
            raise rejection(problem, f"{expected}, {allowed}", device=device)
    return sizes


def _is_batch(graph: QGraph, name: str, sizes: Mapping[str, int]) -> bool:
    """Says whether a dimension comes first wherever it is, and no result has elements without it.

    What is computed does not matter then. Sizes that divide by it have no value at 0.
    """
    batch = symbol(name)

    def empties(dim: Dim) -> bool:
        known = isinstance(dim, sympy.Expr) and dim.is_polynomial(batch)
        return known and evaluate_dim(dim, sizes) == 0

    results = [type_of(node).shape for node in graph.results]
    later = [dim for node in graph.inputs for dim in type_of(node).shape[1:]]
    later += [dim for shape in results for dim in shape[1:]]
    if any(isinstance(dim, sympy.Expr) and batch in dim.free_symbols for dim in later):
        return False
    return all(shape and empties(shape[0]) for shape in results)


def empty_results(
    graph: QGraph, sizes: Mapping[str, int], device: torch.device
) -> list[torch.Tensor]:
    """Returns the results for sizes of which one is 0; no result has elements then."""
    types = [type_of(node) for node in graph.results]
    return [torch.empty(t.bind(sizes), dtype=t.dtype, device=device) for t in types]


def signature_of(inputs: Sequence[Any]) -> tuple[object, ...]:
    """Returns what decides whether a program takes the inputs, cheap to compare.

    Raises:
        AttributeError: an input is no tensor.
    """
    return tuple([(type(x), x.shape, x.dtype, x.is_cpu or x.device, x.layout) for x in inputs])


def rejection(
    problem: str, expected: str, name: str | None = None, device: str | None = "cpu"
) -> QCompilerError:
    """Returns the error for inputs that a program does not take."""
    kind = f"{device.upper()} tensors" if device else "tensors"
    return QCompilerError(
        "QC0701", problem, node=name, remedy=f"call the program with {kind} ({expected})"
    )
