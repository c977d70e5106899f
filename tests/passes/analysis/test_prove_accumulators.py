"""prove-accumulators: exact where a sum is, sound everywhere, and a refusal where it must be."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import quant_of, type_of
from qcompiler.ir.graph import QGraph, argument, is_call
from qcompiler.ir.integer_ops import integer_op_of
from qcompiler.passes.analysis.prove_accumulators import IntegerIntervals, ProveAccumulators
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.instruments import Verify
from qcompiler.passmgr.pipeline import Pipeline
from qcompiler.runtime.interpreter import evaluate, operands_of
from tests.passes.lowering.models import BUNDLES, Function
from tests.passes.quantize import INTEGER, run

Q = torch.ops.qcompiler
CASES = {c.name: c for name in ("convolutions", "movement") for c in BUNDLES[name]}


def proven(model: nn.Module, *inputs: Tensor) -> QGraph:
    """Returns the integer graph of a module with proofs."""
    graph, context = run(model, inputs, INTEGER)
    assert ProveAccumulators().run(graph, context)
    return graph


def sums(graph: QGraph) -> list[fx.Node]:
    """Returns the calls that accumulate."""
    found = []
    for node in graph.calls:
        op = integer_op_of(node.target)
        if op is not None and op.accumulator is not None:
            found.append(node)
    return found


def extremes(graph: QGraph, node: fx.Node, codes: tuple[int, int]) -> tuple[int, int]:
    """Returns the extremes of a sum over all operands that hold codes at the ends of a range."""
    (x,) = operands_of(node)
    shape = [1, *(int(s) for s in type_of(x).shape[1:])]
    count = torch.Size(shape).numel()
    low, high = 2**40, -(2**40)
    for chosen in itertools.product(codes, repeat=count):
        value = torch.tensor(chosen, dtype=torch.int8).reshape(shape)
        result = evaluate(graph, node, [value])
        low, high = min(low, int(result.min())), max(high, int(result.max()))
    return low, high


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (lambda: nn.Linear(7, 3), (7,)),
        (lambda: nn.Linear(5, 4, bias=False), (5,)),
        (lambda: nn.Conv2d(1, 3, (2, 4)), (1, 2, 4)),
        (lambda: nn.Conv2d(2, 4, 2, groups=2), (2, 2, 2)),
        (lambda: nn.Conv1d(2, 3, 4, dilation=1), (2, 4)),
    ],
)
def test_the_bound_of_a_product_is_the_extreme_of_brute_force(
    layer: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    graph = proven(layer(), torch.randn(8, *shape) + 0.7)
    (product,) = sums(graph)
    assert quant_of(product).proof == extremes(graph, product, (-128, 127))


def test_the_bound_follows_the_codes_that_the_operand_can_hold() -> None:
    torch.manual_seed(0)
    model = Function(lambda x, layer: layer(torch.sigmoid(x)), nn.Linear(6, 3))
    graph = proven(model, torch.randn(8, 6))
    (product,) = sums(graph)
    intervals = IntegerIntervals().compute(graph)
    bound = intervals[argument(product, "x")]
    assert (int(bound.lo), int(bound.hi)) != (-128, 127)
    # Partial sums are bounded too: a term that is not yet added counts as the zero point.
    zero_point = argument(product, "x_zero_point")
    codes = min(int(bound.lo), zero_point), max(int(bound.hi), zero_point)
    assert quant_of(product).proof == extremes(graph, product, codes)


def test_padding_counts_as_the_zero_point() -> None:
    torch.manual_seed(0)
    model = nn.Conv2d(1, 2, 3, padding=1, bias=False)
    graph = proven(model, torch.rand(8, 1, 2, 3) + 5.0)
    (product,) = sums(graph)
    low, high = extremes(graph, product, (-128, 127))
    proof = quant_of(product).proof
    assert proof is not None
    assert proof[0] <= low
    assert high <= proof[1]


@pytest.mark.parametrize("name", CASES)
def test_no_sum_leaves_its_bound(name: str) -> None:
    case = CASES[name]
    graph, context = run(case.make(), case.inputs(4), INTEGER)
    ProveAccumulators().run(graph, context)
    inputs = case.inputs(3, 5)
    for scale in (1.0, 1e3, -1e6):
        for node, value in graph.trace(*(x * scale for x in inputs)):
            proof = quant_of(node).proof
            if proof is not None and value.dtype == torch.int32:
                assert proof[0] <= int(value.min())
                assert int(value.max()) <= proof[1]
    intervals = IntegerIntervals().compute(graph)
    for node, value in graph.trace(*inputs):
        if node.op == "call_function" and value.dtype == torch.int8:
            assert intervals[node].lo <= int(value.min())
            assert int(value.max()) <= intervals[node].hi


def wide(count: int) -> QGraph:
    """Returns the integer graph of a linear layer of many inputs."""
    model = nn.Linear(count, 1)
    model.weight.data.fill_(1.0)
    return run(model, [torch.randn(2, count)], INTEGER)[0]


def test_a_sum_that_leaves_int32_is_refused() -> None:
    fits = wide(60_000)
    assert ProveAccumulators().run(fits, PassContext())
    graph = wide(140_000)
    with pytest.raises(QCompilerError) as caught:
        ProveAccumulators().run(graph, PassContext())
    assert caught.value.code == "QC0401"
    assert caught.value.node == sums(graph)[0].name
    assert "split the layer" in caught.value.remedy


def test_a_shift_that_its_input_may_leave_is_refused() -> None:
    graph = wide(1000)
    (node,) = [n for n in graph.calls if is_call(n, Q.requantize.default)]
    for name, value in (("multiplier", 3), ("shift", 2)):
        graph.set_constant(argument(node, name), torch.tensor([value], dtype=torch.int32))
    with pytest.raises(QCompilerError) as caught:
        ProveAccumulators().run(graph, PassContext())
    assert caught.value.code == "QC0402"
    assert caught.value.node == node.name


def test_the_verifier_refuses_a_program_without_proofs() -> None:
    graph = wide(10)
    with pytest.raises(QCompilerError, match="needs the property 'accumulators-proven'"):
        Pipeline.parse("legalize-for-target").run(graph, PassContext(), [Verify()])
    graph.properties.add("accumulators-proven")
    with pytest.raises(QCompilerError, match="has no proof"):
        Pipeline.parse("legalize-for-target").run(graph, PassContext(), [Verify()])
