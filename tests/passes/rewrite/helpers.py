"""Captures small modules and runs passes on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from qcompiler.capture import capture
from qcompiler.ir.graph import QGraph
from qcompiler.ir.verifier import verify_graph
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.pipeline import Pipeline


class Calls(nn.Module):
    """A module whose forward method is a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        """Calls the function."""
        return self.function(x)


class CallsTwo(Calls):
    """The same for two inputs."""

    def forward(self, x: Tensor, y: Tensor) -> Any:  # type: ignore[override]  # one more input
        """Calls the function."""
        return self.function(x, y)


def trained(norm: nn.Module) -> nn.Module:
    """Gives a batch normalization statistics other than 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    for held in (*norm.parameters(), *norm.buffers()):
        if held.is_floating_point():
            held.data.copy_(torch.rand(held.shape, generator=generator) + 0.5)
    return norm


def inputs_of(shapes: Sequence[Sequence[int]], batch: int) -> list[Tensor]:
    """Returns random inputs of the given shapes without batch dimension."""
    generator = torch.Generator().manual_seed(batch)
    return [torch.randn(batch, *shape, generator=generator) for shape in shapes]


def run_passes(
    model: nn.Module, shapes: Sequence[Sequence[int]], pipeline: str, *, strict: bool = True
) -> QGraph:
    """Captures a module and runs passes on it; the result is verified."""
    dims = {0: torch.export.Dim("batch")}
    inputs = tuple(inputs_of(shapes, 2))
    shapes_by_input = tuple(dims for _ in inputs)
    # The quicker of the two ways of torch.export; tests/test_capture.py has the other.
    program = torch.export.export(
        model.eval(), inputs, dynamic_shapes=shapes_by_input, strict=False
    )
    graph = capture(program)
    verify_graph(graph)
    Pipeline.parse(pipeline).run(graph, PassContext(strict=strict))
    verify_graph(graph, infer_types=True)
    return graph


def flat(value: Any) -> list[Tensor]:
    """Returns the tensors of nested results in order."""
    if isinstance(value, Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value
    return [t for v in values for t in flat(v)]


def check_equal(model: nn.Module, graph: QGraph, shapes: Sequence[Sequence[int]]) -> None:
    """Checks that the graph computes what the module does, at two batch sizes."""
    model.eval()
    for batch in (2, 5):
        inputs = inputs_of(shapes, batch)
        with torch.no_grad():
            expected = flat(model(*(x.clone() for x in inputs)))
        actual = graph.run(*inputs)
        assert len(actual) == len(expected)
        for a, b in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)


def targets(graph: QGraph) -> list[str]:
    """Returns the names of the operators that a graph calls, in order."""
    return [str(n.target).removesuffix(".default") for n in graph.calls]
