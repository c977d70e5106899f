"""Text IR: random graphs survive print and parse; each wrong text is refused with its place."""

from __future__ import annotations

import re
from contextlib import suppress
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import (
    Origin,
    Quant,
    has_type,
    origin_of,
    quant_of,
    set_origin,
    set_quant,
    type_of,
)
from qcompiler.ir.graph import QGraph
from qcompiler.ir.intent import DerivedFrom, Fixed, KeepFloat, SharedWith, Spec
from qcompiler.ir.parser import parse_graph
from qcompiler.ir.printer import graph_constants, print_graph, print_node
from qcompiler.ir.qtypes import Granularity, QType
from qcompiler.ir.stages import Stage
from qcompiler.ir.structure import Structure
from qcompiler.ir.types import SymbolRange, TensorType, symbol
from qcompiler.ir.verifier import verify_graph
from qcompiler.numerics.ranges import Range
from qcompiler.runtime.memory import MemoryPlan
from tests.ir.build import BATCH, build

ATEN, QFLOAT, QC = torch.ops.aten, torch.ops.qfloat, torch.ops.qcompiler

FLOATS = st.floats(allow_nan=False)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.text(max_size=12)
GRANULARITIES = st.sampled_from([Granularity(), Granularity(1), Granularity(0, 32)])
QTYPES = st.builds(
    QType,
    st.integers(2, 16),
    st.lists(st.floats(1e-30, 1e30), max_size=6).map(tuple),
    st.lists(st.integers(-128, 127), max_size=6).map(tuple),
    st.booleans(),
    GRANULARITIES,
    st.booleans(),
)
INTENTS = st.one_of(
    st.builds(Spec, st.integers(2, 16), st.booleans(), st.booleans(), GRANULARITIES),
    st.builds(SharedWith, WORDS, st.booleans()),
    st.builds(DerivedFrom, st.lists(WORDS, max_size=6).map(tuple)),
    st.builds(Fixed, FINITE, st.integers()),
    st.builds(KeepFloat, WORDS),
)
RANGES = st.builds(lambda a, b, c: Range.of(min(a, b), max(a, b), c), FINITE, FINITE, st.booleans())
QUANTS = st.builds(
    Quant,
    st.none() | RANGES | st.just(Range.unobserved()),
    st.none() | INTENTS,
    st.none() | QTYPES,
    st.none() | st.tuples(st.integers(), st.integers()),
    st.none() | st.tuples(st.integers(), st.integers()),
    st.none() | WORDS,
)
ORIGINS = st.builds(Origin, st.none() | WORDS, st.none() | WORDS, st.none() | WORDS)
PLANS = st.builds(
    MemoryPlan,
    st.dictionaries(WORDS, st.sampled_from([0, 64, 128 * BATCH, 64 * BATCH + 64]), max_size=3),
    st.sampled_from([0, 256 * BATCH]),
    st.integers(0, 10**9),
    st.integers(0, 10**9),
    st.dictionaries(WORDS, WORDS, max_size=2),
)

STRUCTURES: st.SearchStrategy[Structure] = st.sampled_from(
    [0, {"tuple": [0]}, {"dict": [["a", 0], ["b", {"value": None}]]}]
)


@st.composite
def graphs(draw: st.DrawFn) -> QGraph:
    def one(graph: QGraph, x: fx.Node, out: fx.Node) -> fx.Node:
        match draw(st.integers(0, 7)):
            case 0:
                dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bool]))
                weight = graph.add_constant(torch.ones(4, 1, 1, dtype=dtype), "w", out)
                return graph.call(QFLOAT.mul.default, (x, weight), before=out)
            case 1:
                return graph.call(QFLOAT.clamp.default, (x, draw(FLOATS), None), before=out)
            case 2:
                args = (x, draw(WORDS), draw(st.lists(FLOATS, max_size=7)))
                return _unary(graph, args, out)
            case 3:
                wanted = {"dtype": torch.float32, "memory_format": torch.channels_last}
                return graph.call(ATEN._to_copy.default, (x,), wanted, before=out)
            case 4:
                return graph.call(
                    QC.concat.default, ([x, x], draw(st.sampled_from([0, 2, -1]))), before=out
                )
            case 5:
                return graph.call(QC.slice.default, (x, 0, 0, 2**63 - 1, 2), before=out)
            case 6:
                return graph.call(QC.pad.default, (x, [1, 0, 2, 0], draw(st.just(0.5))), before=out)
            case _:
                moved = graph.call(QC.permute.default, (x, [0, 1, 3, 2]), before=out)
                return graph.call(ATEN.add.Tensor, (x, x), {"alpha": 2}, before=moved)

    def body(graph: QGraph, x: fx.Node, out: fx.Node) -> fx.Node:
        for _ in range(draw(st.integers(0, 5))):
            x = one(graph, x, out)
        return x

    graph = build(body, stage=draw(st.sampled_from(Stage)))
    for node in graph.nodes:
        if draw(st.booleans()):
            set_quant(node, draw(QUANTS))
        if draw(st.booleans()):
            set_origin(node, draw(ORIGINS))
    graph.properties = set(draw(st.lists(WORDS, max_size=2)))
    graph.memory_plan = draw(st.none() | PLANS)
    graph.structure = draw(STRUCTURES)
    return graph


def _unary(graph: QGraph, args: tuple[Any, ...], out: fx.Node) -> fx.Node:
    """Calls a function whose name and parameters are arbitrary; its type is that of its input."""
    node = graph.call(QFLOAT.unary.default, (args[0], "relu", []), before=out)
    node.args = args
    return node


@settings(max_examples=30, deadline=None)
@given(graphs())
def test_print_and_parse_are_inverse(graph: QGraph) -> None:
    text = print_graph(graph)
    found = parse_graph(text, graph_constants(graph))
    assert print_graph(found) == text
    assert len(text.split("\n")) == len(text.splitlines()) + 1
    assert (found.stage, found.properties) == (graph.stage, graph.properties)
    assert (found.symbols, found.structure) == (graph.symbols, graph.structure)
    assert found.memory_plan == graph.memory_plan
    for new, old in zip(found.nodes, graph.nodes, strict=True):
        assert (new.name, new.op, new.target) == (old.name, old.op, old.target)
        assert (quant_of(new), origin_of(new)) == (quant_of(old), origin_of(old))
        assert has_type(new) == has_type(old)
        assert not has_type(old) or type_of(new) == type_of(old)


def test_reads_well() -> None:
    def body(graph: QGraph, x: fx.Node, out: fx.Node) -> fx.Node:
        w = graph.add_constant(torch.zeros(2, 4, 1, 1), "w", out)
        args = (x, w, None, [1, 1], [0, 0, 0, 0], [1, 1], 1)
        y = graph.call(QFLOAT.conv2d.default, args, before=out, name="conv")
        qtype = QType(8, (0.5,) * 5, (3,) * 5)
        set_quant(y, Quant(Range.of(-1, 2), SharedWith("x", hard=False), qtype, why="it is"))
        set_origin(y, Origin("net.py:3", "stem.conv"))
        return y

    text = print_graph(build(body))
    digest = "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925"
    assert text == (
        "qcir 1\n"
        "stage normalized\n"
        "symbol batch in [1, 64]\n"
        f"constant @w : f32[2,4,1,1] sha256 {digest}\n"
        "\n"
        "%x : f32[batch,4,8,8] = input\n"
        "%w : f32[2,4,1,1] = constant @w\n"
        "%conv : f32[batch,2,8,8] = qfloat.conv2d(%x, %w, none, [1, 1], [0, 0, 0, 0], [1, 1], 1)"
        ' {range=range(-1.0, 2.0, finite), intent=shared_with("x", hard=false),'
        ' qtype=qtype(8, $0, $1), why="it is", source="net.py:3", module="stem.conv"}\n'
        "return (%conv)\n"
        "\n"
        "$0 = [0.5, 0.5, 0.5, 0.5, 0.5]\n"
        "$1 = [3, 3, 3, 3, 3]\n"
    )


@pytest.mark.parametrize(
    ("size", "at_8"),
    [
        ("batch", 8),
        ("2*batch + 1", 17),
        ("(((batch - 1)//2)) + 1", 4),
        ("batch**2 - 3", 61),
        ("floor(batch/3)", 2),
        ("ceiling(3*batch/5)", 5),
        ("Mod(batch, 3)", 2),
        ("Max(9, batch) - Min(7, batch)", 2),
        ("((batch + 1)//2)*batch", 32),
        ("-(-3)**3 + 2*(1 - batch)", 13),
        ("7", 7),
    ],
)
def test_symbolic_sizes_survive(size: str, at_8: int) -> None:
    text = f"qcir 1\nstage traced\nsymbol batch in [1, 9]\n%x : i8[{size}] = input\nreturn (%x)"
    graph = parse_graph(text, {})
    assert print_graph(parse_graph(print_graph(graph), {})) == print_graph(graph)
    assert type_of(graph.inputs[0]).bind({"batch": 8}) == (at_8,)


def test_floor_division_from_torch_survives() -> None:
    graph = build(lambda g, x, out: g.call(QC.slice.default, (x, 0, 0, 2**63 - 1, 2), before=out))
    found = parse_graph(print_graph(graph), {})
    assert type_of(found.results[0]) == type_of(graph.results[0])
    assert "batch" in str(type_of(found.results[0]))
    verify_graph(found, infer_types=True)


HEAD = "qcir 1\nstage traced\n"
BODY = "%x : f32[2] = input\nreturn (%x)\n"


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("", "1, column 1", "expected 'qcir'"),
        ("qcir 2\n", "1, column 6", "this release reads qcir 1"),
        ("qcir 1\nstage trace\n", "2, column 7", "no stage 'trace'"),
        (HEAD + "%x : f32[2] = input\n", "4, column 1", "the graph returns nothing"),
        (HEAD + "%x : f33[2] = input\n", "3, column 6", "unknown element type 'f33'"),
        (HEAD + "%x : f32[n] = input\n", "3, column 10", "the symbol n is not declared"),
        (HEAD + "%x : f32[sin(2)] = input\n", "3, column 10", "unknown function sin"),
        (HEAD + "%x : f32[9**9] = input\n", "3, column 13", "a power of 9"),
        (HEAD + "%x : f32[2//0] = input\n", "3, column 10", "not a dimension"),
        (HEAD + "%x : f32[2/0] = input\n", "3, column 10", "not a dimension"),
        (HEAD + "%x : f32[" + "(" * 999 + "2] = input\n", "3, column 61", "nested too deeply"),
        (HEAD + "%x : f32[2] = input; \n", "3, column 20", "cannot read '; '"),
        (HEAD + "%x : f32[2] = input 3\n", "3, column 21", "'3' is left over"),
        (HEAD + "%while : f32[2] = input\n", "3, column 1", "is a word of Python"),
        (HEAD + BODY + "%x : f32[2] = input\n", "5, column 1", "%x is taken"),
        (HEAD + "%y = aten.relu.default(%x)\n", "3, column 24", "%x is not defined above"),
        (HEAD + "%y = os.system(\"ls\")\n", "3, column 6", "os.system is not registered"),
        (HEAD + "%y = aten.from_file(\"x\")\n", "3, column 6", "aten.from_file is not registered"),
        (HEAD + "%y = aten.relu.other()\n", "3, column 6", "there is no operator"),
        (HEAD + "%y = prim.device()\n", "3, column 6", "prim.device is not registered"),
        (HEAD + "%y = aten.__class__()\n", "3, column 6", "there is no operator aten.__class__"),
        (HEAD + "%y = qfloat.__getattr__()\n", "3, column 6", "there is no operator"),
        (HEAD + "%y = a.b.c.d()\n", "3, column 6", "a.b.c.d is no operator"),
        (HEAD + "%y = aten.relu(1", "3, column 17", "expected ')'"),
        (HEAD + "%y = aten.relu(other=1, 2)\n", "3, column 25", "a value without a name"),
        (HEAD + "%y = aten.relu(a=1, a=2)\n", "3, column 21", "a stands twice"),
        (HEAD + "%y = aten.relu(torch.save)\n", "3, column 16", "unknown word torch.save"),
        (HEAD + "%y = aten.relu(device(\"moon\"))\n", "3, column 23", "unknown device"),
        (HEAD + "%y = aten.relu(eval)\n", "3, column 16", "unknown word 'eval'"),
        (HEAD + "%y = aten.relu(\"\\q\")\n", "3, column 16", "not quoted as in JSON"),
        (HEAD + "%y = aten.relu(" + "[" * 999 + "\n", "3, column 67", "nested too deeply"),
        (HEAD + "%y = aten.relu(" + "9" * 999 + ")\n", "3, column 16", "an integer of 999 digits"),
        (HEAD + "%y = constant @w\n", "3, column 15", "no line declares the constant @w"),
        (HEAD + "constant @w : f32[2] sha256 " + "0" * 64, "3, column 10", "is not given"),
        (HEAD + "constant @c : f32[2] sha256 " + "0" * 64, "3, column 10", "@c is f32[1], not"),
        (HEAD + "constant @c : f32[1] sha256 " + "0" * 64, "3, column 10", "has another sha256"),
        (HEAD + "constant @training : f32[1] sha256 " + "0" * 64, "3, column 10", "is taken"),
        (HEAD + "constant @c : f32[1] sha256 12", "3, column 28", "hexadecimal digits"),
        (HEAD + "return (1)\n", "3, column 11", "a graph returns nodes"),
        (HEAD + "%x = input {who=1}\n", "3, column 13", "there is no fact 'who'"),
        (HEAD + "%x = input {1}\n", "3, column 13", "a fact has no name"),
        (HEAD + "%x = input {range=range(1.0)}\n", "3, column 19", "Range takes 3 values, not 1"),
        (HEAD + "%x = input {why=3}\n", "3, column 13", "why of Quant cannot be 3"),
        (HEAD + "%x = input {qtype=qtype(8, [1], [0])}\n", "3, column 19", "scale of QType cannot"),
        (HEAD + "%x = input {intent=spec(bit=8)}\n", "3, column 20", "Spec has no option bit"),
        (HEAD + "%x = input {why=$0}\n", "3, column 17", "$0 is not defined above"),
        (HEAD + "$0 = 3\n", "3, column 6", "expected a list"),
        (HEAD + "hello\n", "3, column 1", "a line cannot start with 'hello'"),
        (HEAD + "results 1\n" + BODY, "3, column 9", "does not nest the results"),
        (HEAD + 'results {"dict": [0]}\n' + BODY, "3, column 9", "does not nest the results"),
        (HEAD + "results {\n" + BODY, "3, column 9", "no JSON"),
    ],
)  # fmt: skip
def test_wrong_texts_are_refused(text: str, place: str, problem: str) -> None:
    with pytest.raises(QCompilerError, match=re.escape(problem)) as caught:
        parse_graph(text, {"c": torch.zeros(1)})
    assert caught.value.code == "QC0601"
    assert f"line {place}:" in caught.value.problem


@cache
def _sample() -> str:
    graph = build(lambda g, x, out: g.call(QFLOAT.clamp.default, (x, 0.0, None), before=out))
    set_quant(graph.inputs[0], Quant(Range.of(-1, 2), Spec(), QType(8, (0.5,), (3,))))
    return print_graph(graph)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_spoilt_texts_give_coded_errors(data: st.DataObject) -> None:
    text = _sample()
    start = data.draw(st.integers(0, len(text)))
    stop = data.draw(st.integers(start, min(start + 4, len(text))))
    spoilt = text[:start] + data.draw(st.text(max_size=3)) + text[stop:]
    with suppress(QCompilerError):  # and nothing else
        parse_graph(spoilt, {})


def test_values_without_a_text_form_are_an_error() -> None:
    graph = build(lambda g, x, out: g.call(QFLOAT.clamp.default, (x, 0.0, None), before=out))
    node = graph.calls[0]
    first = node.args[0]
    node.args = (first, 1j, None)
    with pytest.raises(TypeError, match="has no text form"):
        print_node(node)
    node.args, node.target = (first,), print
    with pytest.raises(TypeError, match="has no name in text IR"):
        print_node(node)


def test_symbols_are_restored() -> None:
    graph = build(lambda g, x, out: x)
    graph.symbols["length"] = SymbolRange(3, 77)
    assert parse_graph(print_graph(graph), {}).symbols == graph.symbols
    assert type_of(graph.inputs[0]) == TensorType(torch.float32, (symbol("batch"), 4, 8, 8))
