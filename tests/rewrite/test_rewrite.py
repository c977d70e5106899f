"""Rules that fold and fuse, the reasons of those that do not, and rules that never end."""

from __future__ import annotations

import pytest
import torch
from torch import fx

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import Origin, origin_of, set_origin
from qcompiler.ir.graph import QGraph, argument
from qcompiler.ir.verifier import verify_graph
from qcompiler.rewrite.driver import RewriteLog, RewriteRule, rewrite
from qcompiler.rewrite.pattern import (
    Match,
    NoMatch,
    anything,
    const,
    match,
    one_use,
    op,
    where,
)
from tests.ir.build import build

CLAMP = torch.ops.qfloat.clamp.default
CONV = torch.ops.qfloat.conv2d.default
ADD = torch.ops.qfloat.add.default


def clamps(limits: list[tuple[float | None, float | None]]) -> QGraph:
    def body(graph: QGraph, x: fx.Node, out: fx.Node) -> fx.Node:
        for low, high in limits:
            x = graph.call(CLAMP, (x, low, high), before=out)
            set_origin(x, Origin(f"model.py:{low}"))
        return x

    return build(body)


def merge_clamps(graph: QGraph, found: Match) -> fx.Node | NoMatch:
    inner, outer = found.node("inner"), found.root
    low, high = argument(inner, "min"), argument(inner, "max")
    if argument(outer, "max") is not None:
        return NoMatch("{} has an upper limit", (outer,))
    return graph.call(CLAMP, (found["x"], max(low, argument(outer, "min")), high), before=outer)


MERGE = RewriteRule(
    "merge-clamps",
    op(CLAMP, x=one_use(op(CLAMP, x=anything("x")).named("inner"))),
    merge_clamps,
)


def test_merges_chains_to_a_fixed_point() -> None:
    graph, log = clamps([(0.0, 6.0), (1.0, None), (2.0, None)]), RewriteLog()
    x = torch.randn(2, 4, 8, 8) * 4
    (expected,) = graph.run(x)
    assert rewrite(graph, [MERGE], log)
    assert [argument(n, "min") for n in graph.calls] == [2.0]
    assert len(log.applied) == 2
    assert origin_of(graph.calls[0]).source == "model.py:2.0"
    graph.recompile()
    verify_graph(graph, infer_types=True)
    assert torch.equal(graph.run(x)[0], expected)
    assert not rewrite(graph, [MERGE])


def test_tells_why_a_rule_did_not_apply() -> None:
    graph, log = clamps([(0.0, 6.0), (1.0, 5.0)]), RewriteLog()
    assert not rewrite(graph, [MERGE], log)
    first, second = (n.name for n in graph.calls)
    assert log.why_not(second, "merge-clamps") == f"{second} has an upper limit"
    assert (
        log.why_not(first, "merge-clamps") == f"x of {first}: x is no call of qfloat.clamp.default"
    )
    with pytest.raises(KeyError, match="did you mean"):
        log.why_not("clamp_defautl", "merge-clamps")
    with pytest.raises(KeyError, match="no rule 'other' has run"):
        log.why_not(first, "other")


def test_erases_operands_and_constants_that_nothing_reads() -> None:
    def body(graph: QGraph, x: fx.Node, out: fx.Node) -> fx.Node:
        weight = graph.add_constant(torch.randn(4, 4, 1, 1), "weight", out)
        conv = graph.call(CONV, (x, weight, None, [1, 1], [0] * 4, [1, 1], 1), before=out)
        return graph.call(CLAMP, (conv, 0.0, None), before=out)

    drop = RewriteRule(
        "drop", op(CLAMP, x=op(CONV, x=anything("x"), weight=const("w"))), lambda g, m: m["x"]
    )
    graph = build(body)
    assert rewrite(graph, [drop])
    graph.recompile()
    assert [n.op for n in graph.nodes] == ["placeholder", "output"]
    verify_graph(graph)


def test_one_use_equality_and_conditions() -> None:
    def body(graph: QGraph, x: fx.Node, out: fx.Node) -> fx.Node:
        y = graph.call(CLAMP, (x, 0.0, 6.0), before=out)
        return graph.call(ADD, (y, y), before=out)

    graph = build(body)
    clamp, add = graph.calls
    assert isinstance(match(op(CLAMP, min=0.0, max=6.0), clamp), Match)
    assert str(match(op(CLAMP, max=None), clamp)).endswith("6.0 is not None")
    assert isinstance(match(op(ADD, a=anything("y"), b=anything("y")), add), Match)
    x = clamp.args[0]
    assert isinstance(x, fx.Node)
    add.replace_input_with(clamp, x)
    add.args = (x, clamp)
    missed = match(op(ADD, a=anything("y"), b=anything("y")), add)
    assert str(missed) == f"b of {add}: y captured both x and {clamp}"
    assert str(match(op(ADD, a=one_use(anything())), add)) == f"a of {add}: x has 2 users"
    positive = where(anything(), lambda v: v > 0, "positive")
    assert str(match(op(CLAMP, min=positive), clamp)).endswith("positive does not hold for 0.0")
    with pytest.raises(TypeError, match="no argument 'weight'"):
        op(CLAMP, weight=anything())
    with pytest.raises(TypeError, match="which is no node"):
        Match(clamp, {"low": 0.0}).node("low")


def test_rules_that_undo_each_other_are_an_error() -> None:
    grow = RewriteRule(
        "grow", op(CLAMP), lambda g, m: g.call(CLAMP, tuple(m.root.args), before=m.root)
    )
    with pytest.raises(QCompilerError, match=r"QC0511.*grow at"):
        rewrite(clamps([(0.0, 1.0)]), [grow])


def test_a_rule_without_a_result_is_an_error() -> None:
    forgetful = RewriteRule("forgetful", op(CLAMP), lambda g, m: None)  # type: ignore[arg-type,return-value]  # on purpose
    with pytest.raises(QCompilerError, match="QC0511: rule 'forgetful' returned None") as info:
        rewrite(clamps([(0.0, 1.0)]), [forgetful])
    assert 'NoMatch("why")' in info.value.remedy


def test_a_replacement_of_another_type_is_an_error() -> None:
    def quantize(graph: QGraph, found: Match) -> fx.Node:
        target = torch.ops.qcompiler.quantize.default
        return graph.call(target, (found["x"], 1.0, 0, -128, 127), before=found.root)

    pattern = op(CLAMP, x=anything("x"))
    with pytest.raises(QCompilerError, match="QC0504"):
        rewrite(clamps([(0.0, 1.0)]), [RewriteRule("lower", pattern, quantize)])
    graph = clamps([(0.0, 1.0)])
    assert rewrite(graph, [RewriteRule("lower", pattern, quantize, keeps_type=False)])
