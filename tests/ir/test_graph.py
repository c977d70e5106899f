"""QGraph: changing graphs, constants, copies and running."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import fx

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import (
    Origin,
    Quant,
    origin_of,
    quant_of,
    set_origin,
    set_quant,
    type_of,
)
from qcompiler.ir.float_ops import FLOAT_OPS
from qcompiler.ir.graph import (
    QGraph,
    argument,
    arguments,
    is_call,
    is_constant,
    operator_of,
)
from qcompiler.ir.types import TensorType
from tests.ir.build import BATCH, build

CLAMP, ADD, MUL, CONV, LINEAR = (
    FLOAT_OPS[f"qfloat::{name}"].overload for name in ("clamp", "add", "mul", "conv2d", "linear")
)
X = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def relu_and_add() -> QGraph:
    """Returns x + clamp(x, 0)."""

    def body(graph: QGraph, x: fx.Node, out: fx.Node) -> fx.Node:
        relu = graph.call(CLAMP, (x, 0.0, None), before=out)
        return graph.call(ADD, (x, relu), before=out)

    return build(body)


def convolved() -> QGraph:
    """Returns a convolution with a constant weight and bias."""

    def body(graph: QGraph, x: fx.Node, out: fx.Node) -> fx.Node:
        weight = graph.add_constant(torch.ones(2, 4, 3, 3), "layer.weight", out)
        bias = graph.add_constant(torch.zeros(2), "layer.bias", out)
        args = (x, weight, bias, [1, 1], [1, 1, 1, 1], [1, 1], 1)
        return graph.call(CONV, args, before=out)

    return build(body)


def test_reading() -> None:
    graph = relu_and_add()
    assert [n.name for n in graph.nodes] == ["x", "clamp", "add", "output"]
    assert [n.name for n in graph.calls] == ["clamp", "add"]
    assert [n.name for n in graph.inputs] == ["x"]
    assert graph.results == [graph.node("add")]
    assert graph.structure == 0
    with pytest.raises(KeyError):
        graph.node("absent")


def test_calls_have_inferred_types_and_run() -> None:
    graph = convolved()
    assert type_of(graph.results[0]) == TensorType(torch.float32, (BATCH, 2, 8, 8))
    (got,) = graph.run(X)
    wanted = torch.nn.functional.conv2d(X, torch.ones(2, 4, 3, 3), torch.zeros(2), padding=1)
    assert torch.equal(got, wanted)
    assert torch.equal(graph.module(X)[0], wanted)


def test_call_goes_before_or_after_a_node_and_takes_an_origin() -> None:
    graph = relu_and_add()
    relu, total = graph.node("clamp"), graph.node("add")
    set_origin(relu, Origin("model.py:3"))
    set_quant(relu, Quant(why="a test"))
    first = graph.call(CLAMP, (relu, None, 6.0), after=relu, origin=relu, name="upper")
    second = graph.call(MUL, (relu, relu), before=total)
    names = [n.name for n in graph.nodes]
    assert names == ["x", "clamp", "upper", "mul", "add", "output"]
    assert origin_of(first) == Origin("model.py:3")
    assert quant_of(first) == Quant()
    assert origin_of(second) == Origin()


def test_call_with_wrong_arguments_names_the_operator() -> None:
    graph = relu_and_add()
    x = graph.node("x")
    with pytest.raises(QCompilerError, match="QC0504") as caught:
        graph.call(LINEAR, (x, graph.node("clamp"), None), before=graph.output)
    assert "linear" in str(caught.value)


def test_replace_moves_every_use_and_may_use_the_old_node() -> None:
    graph = relu_and_add()
    x, relu = graph.node("x"), graph.node("clamp")
    six = graph.call(CLAMP, (x, 0.0, 6.0), before=relu)
    graph.replace(relu, six)
    graph.recompile()
    assert six.name in [n.name for n in graph.node("add").all_input_nodes]
    assert torch.equal(graph.run(X)[0], X + X.clamp(0, 6))
    assert len(graph.calls) == 2


def test_a_new_node_can_take_the_place_of_its_operand() -> None:
    graph = relu_and_add()
    relu, total = graph.node("clamp"), graph.node("add")
    twice = graph.call(ADD, (relu, relu), after=relu)
    relu.replace_all_uses_with(twice, delete_user_cb=lambda user: user is total)
    graph.recompile()
    assert torch.equal(graph.run(X)[0], X + 2 * X.clamp(0))


def test_replace_of_a_result() -> None:
    graph = relu_and_add()
    old = graph.results[0]
    new = graph.call(MUL, (graph.node("x"), graph.node("clamp")), before=old)
    graph.replace(old, new)
    assert graph.results == [new]
    assert torch.equal(graph.run(X)[0], X * X.clamp(0))


def test_erase_removes_a_constant_with_its_last_reader() -> None:
    graph = convolved()
    conv = graph.results[0]
    weight = conv.args[1]
    assert isinstance(weight, fx.Node)
    with graph.module.graph.inserting_before(conv):
        again = graph.module.graph.get_attr(str(weight.target))
    graph.erase(again)
    assert torch.equal(graph.constant(weight), torch.ones(2, 4, 3, 3))
    with pytest.raises(RuntimeError):
        graph.erase(weight)
    graph.output.args = ((graph.inputs[0],),)
    assert graph.erase_dead() == 3
    assert not dict(graph.module.named_buffers())
    assert [n.name for n in graph.nodes] == ["x", "output"]


def test_erase_dead_follows_chains_and_keeps_inputs() -> None:
    graph = relu_and_add()
    relu = graph.node("clamp")
    one = graph.call(MUL, (relu, relu), before=graph.output)
    graph.call(MUL, (one, one), before=graph.output)
    assert graph.erase_dead() == 2
    graph.output.args = ((),)
    assert graph.erase_dead() == 2
    assert graph.erase_dead() == 0
    assert [n.op for n in graph.nodes] == ["placeholder", "output"]


def test_constants_have_free_names_and_types() -> None:
    graph = relu_and_add()
    first, second = (
        graph.add_constant(torch.full((2,), value), "a.b", graph.output) for value in (1, 2)
    )
    assert (first.target, second.target) == ("a_b", "a_b_1")
    assert type_of(first) == TensorType(torch.int64, (2,))
    assert is_constant(first)
    assert not is_constant(graph.node("x"))
    assert graph.constant(second).tolist() == [2, 2]


def test_constants_do_not_share_memory_with_what_they_are_made_of() -> None:
    graph = relu_and_add()
    source = torch.zeros(2, 3).t()
    node = graph.add_constant(source, "held", graph.output)
    source.fill_(7)
    assert torch.equal(graph.constant(node), torch.zeros(3, 2))
    assert graph.constant(node).is_contiguous()


def test_set_constant_of_one_reader() -> None:
    graph = convolved()
    weight = graph.results[0].args[1]
    assert isinstance(weight, fx.Node)
    graph.set_constant(weight, torch.zeros(2, 4, 3, 3, dtype=torch.float64))
    assert weight.target == "layer_weight"
    assert type_of(weight).dtype == torch.float64


def test_set_constant_leaves_other_readers_of_a_tied_tensor() -> None:
    graph = convolved()
    conv = graph.results[0]
    weight = conv.args[1]
    assert isinstance(weight, fx.Node)
    with graph.module.graph.inserting_before(conv):
        tied = graph.module.graph.get_attr(str(weight.target))
    before = len(graph.nodes)
    graph.set_constant(weight, torch.full((2, 4, 3, 3), 2.0))
    assert len(graph.nodes) == before
    assert weight.target != tied.target
    assert torch.equal(graph.constant(tied), torch.ones(2, 4, 3, 3))
    assert torch.equal(graph.constant(weight), torch.full((2, 4, 3, 3), 2.0))
    graph.recompile()
    ones = torch.ones(2, 4, 3, 3)
    wanted = torch.nn.functional.conv2d(X, 2 * ones, torch.zeros(2), padding=1)
    assert torch.equal(graph.run(X)[0], wanted)


def test_a_copy_is_independent() -> None:
    graph = convolved()
    graph.properties.add("something")
    twin = graph.copy()
    assert (twin.stage, twin.symbols, twin.structure) == (
        graph.stage,
        graph.symbols,
        graph.structure,
    )
    assert twin.properties == {"something"}
    assert [str(type_of(n)) for n in twin.calls] == [str(type_of(n)) for n in graph.calls]
    weight = twin.results[0].args[1]
    assert isinstance(weight, fx.Node)
    twin.set_constant(weight, torch.zeros(2, 4, 3, 3))
    twin.properties.add("more")
    set_quant(twin.results[0], Quant(why="only here"))
    relu = twin.call(CLAMP, (twin.results[0], 0.0, None), before=twin.output)
    twin.output.args = ((relu,),)
    twin.recompile()
    assert not twin.run(X)[0].any()
    assert graph.run(X)[0].any()
    assert len(graph.calls) == 1
    assert graph.properties == {"something"}
    assert quant_of(graph.results[0]) == Quant()


def test_trace_yields_every_node_in_order_with_its_value() -> None:
    graph = relu_and_add()
    seen = [(node.name, value) for node, value in graph.trace(X)]
    assert [name for name, _ in seen] == ["x", "clamp", "add", "output"]
    assert torch.equal(seen[1][1], X.clamp(0))
    assert torch.equal(seen[3][1][0], X + X.clamp(0))


def test_trace_frees_values_after_their_last_use() -> None:
    def body(graph: QGraph, x: fx.Node, out: fx.Node) -> fx.Node:
        first = graph.call(MUL, (x, x), before=out, name="first")
        graph.call(MUL, (first, first), before=out, name="unused")
        second = graph.call(ADD, (first, x), before=out, name="second")
        return graph.call(ADD, (second, second), before=out, name="third")

    graph = build(body)
    alive: dict[str, weakref.ref[torch.Tensor]] = {}
    left: dict[str, set[str]] = {}
    trace = graph.trace(X)
    for node, value in trace:
        left[node.name] = {name for name, ref in alive.items() if ref() is not None}
        if node.op == "call_function":
            alive[node.name] = weakref.ref(value)
        del value
    assert left["unused"] == {"first"}
    assert left["second"] == {"first"}
    assert left["third"] == {"second"}
    assert left["output"] == {"third"}


def test_running_makes_no_gradients() -> None:
    graph = relu_and_add()
    x = X.clone().requires_grad_()
    assert not graph.run(x)[0].requires_grad


def test_several_results() -> None:
    graph = relu_and_add()
    graph.output.args = ((graph.node("clamp"), graph.node("add"), graph.node("clamp")),)
    first, second, third = graph.run(X)
    assert torch.equal(first, third)
    assert torch.equal(second, X + first)
    twin = QGraph(graph.module, graph.stage)
    assert twin.structure == {"tuple": [0, 1, 2]}


def test_arguments_by_name() -> None:
    graph = relu_and_add()
    relu = graph.node("clamp")
    assert argument(relu, "min") == 0.0
    assert arguments(relu) == {"x": graph.node("x"), "min": 0.0, "max": None}
    assert is_call(relu, ADD, CLAMP)
    assert not is_call(graph.node("x"), CLAMP)
    assert operator_of(relu) is CLAMP
    with pytest.raises(KeyError):
        argument(relu, "low")
    with pytest.raises(TypeError):
        operator_of(graph.node("x"))


def test_arguments_left_out_have_their_defaults() -> None:
    def body(graph: QGraph, x: fx.Node, out: fx.Node) -> fx.Node:
        weight = graph.add_constant(torch.ones(2, 8, dtype=torch.int8), "w", out)
        row = graph.add_constant(torch.ones(2, dtype=torch.int32), "b", out)
        shift = graph.add_constant(torch.full((1,), 31, dtype=torch.int32), "s", out)
        args = (x, weight, row, shift, shift, 0, 0, -128, 127)
        return graph.call(torch.ops.qcompiler.linear_requant.default, args, before=out)

    call = build(body, dtype=torch.int8).results[0]
    assert type_of(call) == TensorType(torch.int8, (BATCH, 4, 8, 2))
    assert [argument(call, name) for name in ("table", "residual", "add")] == [None] * 3
