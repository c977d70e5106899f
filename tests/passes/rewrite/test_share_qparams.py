"""share-qparams: who shares, who is requantized, and that node order changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx
from torch.nn import functional as F

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import qtype_of, quant_of, update_quant
from qcompiler.ir.graph import QGraph, is_call
from qcompiler.ir.intent import Fixed, SharedWith, Spec
from qcompiler.ir.queries import quantized_values
from qcompiler.ir.verifier import verify_graph
from qcompiler.numerics.ranges import Range
from qcompiler.passes.rewrite.share_qparams import ShareQparams
from qcompiler.passmgr.context import PassContext
from tests.passes.lowering.models import BUNDLES, Function
from tests.passes.quantize import calibrate

IMAGE = (4, 6, 6)
CLAMP = torch.ops.qfloat.clamp.default


def shared(function: Callable[..., Tensor], *scales: float, **options: float) -> QGraph:
    """Returns the graph of a function of inputs of the given scales, with types assigned."""
    source = torch.Generator().manual_seed(0)
    inputs = [torch.randn(4, *IMAGE, generator=source) * s for s in scales]
    graph, context = calibrate(Function(function), inputs)
    ShareQparams(**options).run(graph, context)  # type: ignore[arg-type]  # floats
    return graph


def types(graph: QGraph) -> list[tuple[float, int]]:
    """Returns scale and zero point of every quantized value."""
    return [
        (qtype_of(n).tensor_scale, qtype_of(n).tensor_zero_point) for n in quantized_values(graph)
    ]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.flatten(1),
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x[:, 1:, ::2],
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.interpolate(x, scale_factor=2),
        lambda x: F.pad(x, (1, 1)),
        lambda x: x.flatten(1)[:, None].expand(-1, 3, -1).transpose(1, 2),
    ],
)
def test_movement_shares_with_its_operand(function: Callable[..., Tensor]) -> None:
    graph = shared(function, 1.0)
    assert len(set(types(graph))) == 1
    assert all(isinstance(quant_of(n).intent, SharedWith) for n in graph.calls)


def test_near_operands_of_a_concat_share() -> None:
    assert len(set(types(shared(lambda x, y: torch.cat([x, y], 1), 1.0, 1.3)))) == 1


def test_far_operands_of_a_concat_do_not() -> None:
    graph = shared(lambda x, y: torch.cat([x, y], 1), 1.0, 40.0)
    narrow, wide, joined = types(graph)
    assert narrow != joined
    assert wide == joined
    graph = shared(lambda x, y: torch.cat([x, y], 1), 1.0, 40.0, max_widening=100.0)
    assert len(set(types(graph))) == 1


def test_a_clamp_shares_with_the_producer_that_only_it_reads() -> None:
    graph = shared(lambda x, y: F.relu(x + y), 1.0, 1.0)
    total, clamp = graph.calls
    assert qtype_of(total) == qtype_of(clamp)
    assert qtype_of(clamp).tensor_zero_point == -128


def test_a_clamp_of_a_shared_value_may_have_its_own() -> None:
    graph = shared(lambda x: (F.relu6(x * 40.0), x * 40.0)[0] + x, 1.0, max_widening=1.5)
    clamps = [n for n in graph.calls if is_call(n, CLAMP)]
    assert clamps
    verify_graph(graph)


def test_a_sum_is_never_finer_than_integers_can_say() -> None:
    graph = shared(lambda x, y: (x * 1000.0 + y) - x * 1000.0, 1.0, 1e-3)
    for node in graph.calls:
        if is_call(node, torch.ops.qfloat.add.default, torch.ops.qfloat.sub.default):
            operands = [qtype_of(n).tensor_scale for n in node.all_input_nodes]
            assert max(operands) / qtype_of(node).tensor_scale <= 255.0


def test_a_fixed_output_is_kept_and_shared() -> None:
    graph = shared(lambda x: torch.sigmoid(x).flatten(1), 1.0)
    sigmoid, flat = graph.calls
    assert quant_of(sigmoid).intent == Fixed(1 / 256, -128)
    assert types(graph)[1:] == [(1 / 256, -128)] * 2
    assert qtype_of(flat) == qtype_of(sigmoid)


def test_two_fixed_outputs_of_a_concat_are_requantized() -> None:
    graph = shared(lambda x: torch.cat([torch.sigmoid(x), torch.tanh(x)], 1), 1.0)
    verify_graph(graph)
    sigmoid, tanh, joined = (qtype_of(n) for n in graph.calls)
    assert sigmoid != tanh
    assert joined in (sigmoid, tanh) or joined.tensor_scale >= 1 / 128


def test_contradicting_fixed_parameters_name_both_ends() -> None:
    x = torch.randn(4, *IMAGE)
    graph, context = calibrate(Function(lambda x: x.flatten(1).unsqueeze(1)), [x])
    first, last = graph.inputs[0], graph.calls[-1]
    update_quant(first, intent=Fixed(0.5, 0))
    update_quant(last, intent=Fixed(0.25, 0))
    with pytest.raises(QCompilerError) as caught:
        ShareQparams().run(graph, context)
    assert caught.value.code == "QC0301"
    assert first.name in caught.value.problem
    assert last.name in caught.value.problem


def test_intents_of_the_user_stay() -> None:
    x = torch.randn(4, *IMAGE)
    graph, context = calibrate(Function(lambda x: x * 2.0), [x])
    update_quant(graph.inputs[0], intent=Fixed(1.0, 5))
    ShareQparams().run(graph, context)
    assert types(graph)[0] == (1.0, 5)


def test_symmetric_parameters() -> None:
    graph = shared(lambda x: F.relu(x + 3.0), 1.0, symmetric=True)
    assert {zero for _, zero in types(graph)} == {0}
    assert all(isinstance(quant_of(n).intent, Spec | SharedWith) for n in graph.calls)


# -- order ---------------------------------------------------------------------------------------


def reordered(graph: QGraph, draw: st.DrawFn) -> tuple[QGraph, dict[str, str]]:
    """Returns the graph with its calls in another valid order, under other names."""
    twin = graph.copy()
    order: list[fx.Node] = []
    waiting = [n for n in twin.nodes if n.op in ("call_function", "get_attr")]
    inputs = set(twin.inputs)
    while waiting:
        ready = [n for n in waiting if set(n.all_input_nodes) <= inputs | set(order)]
        chosen = draw(st.sampled_from(ready))
        waiting.remove(chosen)
        order.append(chosen)
    for node in order:
        twin.output.prepend(node)
    letters = draw(st.permutations(range(len(order))))
    names = {n.name: n.name for n in twin.inputs}
    for index, node in zip(letters, order, strict=True):
        names[node.name] = f"v{index}_renamed"
        node.name = f"v{index}_renamed"
    twin.recompile()
    return twin, names


def branches(x: Tensor, y: Tensor) -> Tensor:
    """Concats that share operands, with ranges that are near, far and in between."""
    a, b, c = torch.tanh(x) * 3.0, F.relu(y), x * y
    first = torch.cat([a, b, c], 1)
    second = torch.cat([b, x + y, F.relu6(c)], 1)
    third = torch.cat([a, torch.sigmoid(y), F.max_pool2d(b, 3, 1, 1)], 1)
    return torch.cat([first.flatten(1), second.flatten(1), third.flatten(1) * 0.6], 1)


BRANCHES = calibrate(
    Function(branches),
    [torch.randn(4, *IMAGE, generator=torch.Generator().manual_seed(s)) * (1 + s) for s in (0, 1)],
)[0]


@settings(max_examples=25)
@given(st.data())
def test_parameters_do_not_depend_on_the_order_of_nodes(data: st.DataObject) -> None:
    twin, names = data.draw(st.composite(lambda draw: reordered(BRANCHES, draw))())
    expected = BRANCHES.copy()
    for graph in (twin, expected):
        ShareQparams().run(graph, PassContext())
    for node in quantized_values(expected):
        assert qtype_of(twin.node(names[node.name])) == qtype_of(node), node.name


def test_ranges_of_no_width_share_nothing_wrong() -> None:
    zero = calibrate(Function(lambda x, y: torch.cat([x, y], 1)), [torch.zeros(4, *IMAGE)] * 2)[0]
    ShareQparams().run(zero, PassContext())
    assert set(types(zero)) == {(1.0, 0)}
    assert quant_of(zero.inputs[0]).range == Range.of(0.0, 0.0)


def test_every_small_model_gets_types() -> None:
    for case in BUNDLES["movement"]:
        graph, context = calibrate(case.make(), list(case.inputs(4)))
        ShareQparams().run(graph, context)
        assert all(quant_of(n).qtype is not None for n in quantized_values(graph))
