"""assign-scheme: intents by scheme and overrides, and what of them the program has in the end."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

import qcompiler
from qcompiler.capture import capture
from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import origin_of, quant_of
from qcompiler.ir.graph import QGraph, argument
from qcompiler.ir.intent import KeepFloat, Spec
from qcompiler.passes import pipelines
from qcompiler.passes.rewrite.assign_scheme import AssignScheme
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.pipeline import Pipeline


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv2d(8, 8, 3, padding=1), nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.conv(x))
        return x + y


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 10)
        self.blocks = nn.Sequential(Block(), Block(), Block())

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(torch.sigmoid(self.stem(x)))
        x = self.head(x.mean((2, 3)))  # the line of the head
        return x


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


DATA = [torch.randn(4, 3, 10, 10, generator=torch.Generator().manual_seed(i)) for i in range(2)]


def assigned(net: nn.Module, scheme: str = "w8a8", *rules: str) -> QGraph:
    """Returns the normalized graph with intents."""
    graph = capture(net, (DATA[0],))
    Pipeline.parse(pipelines.NORMALIZE).run(graph, PassContext())
    AssignScheme(scheme, rules).run(graph, PassContext())
    return graph


def weights(graph: QGraph) -> dict[str, str]:
    """Returns the wanted form of each weight by its layer's module."""
    found = {}
    for node in graph.calls:
        if str(node.target) in ("qfloat.conv2d.default", "qfloat.linear.default"):
            intent = quant_of(argument(node, "weight")).intent
            if isinstance(intent, Spec):
                group = intent.granularity.group
                assert intent.symmetric
                assert intent.granularity.axis == 0
                pinned = "!" if intent.pinned else ""
                found[origin_of(node).module or ""] = f"{intent.bits}{pinned}" + (
                    f"g{group}" if group else ""
                )
    return found


def values(graph: QGraph) -> dict[str, int]:
    """Returns the wanted bits of values by node, without those left to the pipeline."""
    intents = {n.name: quant_of(n).intent for n in graph.nodes if n.op != "get_attr"}
    return {name: i.bits for name, i in intents.items() if isinstance(i, Spec)}


def test_a_scheme_is_for_all_weights(net: nn.Module) -> None:
    graph = assigned(net, "w4g64a8")
    assert set(weights(graph).values()) == {"4g64"}
    assert len(weights(graph)) == 5
    assert values(graph) == {}
    assert set(values(assigned(net, "w8a4")).values()) == {4}


@pytest.mark.parametrize(
    ("rule", "changed"),
    [
        ("blocks.1=w4", ["blocks.1.conv"]),
        ("blocks.*=w4", ["blocks.0.conv", "blocks.1.conv", "blocks.2.conv"]),
        ("*.conv:weight=w4a8", ["blocks.0.conv", "blocks.1.conv", "blocks.2.conv"]),
        ("op:linear=w4", ["head"]),
        ("between:blocks.1,head=w4", ["blocks.1.conv", "blocks.2.conv", "head"]),
        ("between:x,blocks.0=w4", ["blocks.0.conv", "stem"]),
    ],
)
def test_overrides_of_weights(net: nn.Module, rule: str, changed: list[str]) -> None:
    found = weights(assigned(net, "w6a8", rule))
    assert sorted(name for name, form in found.items() if form == "4!") == changed
    assert {form for form in found.values() if form != "4!"} <= {"6"}


def test_an_override_by_source_line(net: nn.Module) -> None:
    with open(__file__, encoding="utf-8") as text:
        line = next(i for i, row in enumerate(text, 1) if row.rstrip().endswith("of the head"))
    found = weights(assigned(net, "w8a8", f"line:test_assign_scheme.py:{line}=w4"))
    assert [name for name, form in found.items() if form == "4!"] == ["head"]


def test_values_that_must_agree_follow_an_override(net: nn.Module) -> None:
    found = values(assigned(net, "w8a8", "blocks.0.act=a4"))
    assert {name for name, bits in found.items() if bits == 4} == {"conv2d_1", "hardtanh"}
    assert found["x"] == 8


@pytest.mark.parametrize(
    ("rules", "code", "says"),
    [
        (["block.3=w4"], "QC0306", "blocks.2"),
        (["op:conv3d=w4"], "QC0306", "conv2d"),
        (["line:test_assign_scheme.py:1=w4"], "QC0306", "test_assign_scheme.py:"),
        (["between:head,stem=w4"], "QC0306", "no way leads"),
        (["blocks.0.act=w4"], "QC0306", "no operator with a weight"),
        (["head=float", "between:stem,head=w4"], "QC0307", "head=float"),
        (["blocks.*=w4", "blocks.1.conv=w8"], "QC0307", "blocks.1.conv=w8"),
        (["blocks.0.act=a4", "blocks.0.conv=a8"], "QC0307", "share"),
    ],
)
def test_bad_rules_are_named(net: nn.Module, rules: list[str], code: str, says: str) -> None:
    with pytest.raises(QCompilerError, match=code) as caught:
        assigned(net, "w8a8", *rules)
    assert says in str(caught.value)
    assert all(rule.split("=")[0] in str(caught.value) for rule in rules)


def test_rules_that_agree_do_not_contradict(net: nn.Module) -> None:
    found = weights(assigned(net, "w8a8", "blocks.*=w4", "blocks.1.conv=w4a8", "stem=w2"))
    assert (found["blocks.1.conv"], found["stem"], found["head"]) == ("4!", "2!", "8")


def test_tied_weights_get_one_width() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)
            self.two.weight = self.one.weight

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.two(torch.relu(self.one(x)))
            return y

    graph = capture(Tied(), (torch.randn(2, 8),))
    Pipeline.parse(pipelines.NORMALIZE).run(graph, PassContext())
    AssignScheme("w8a8", ("one=w4",)).run(graph, PassContext())
    tied = len({argument(n, "weight").target for n in graph.calls if "linear" in str(n.target)})
    assert list(weights(graph).values()).count("4!") == (2 if tied == 1 else 1)
    if tied == 1:
        with pytest.raises(QCompilerError, match="QC0307"):
            AssignScheme("w8a8", ("one=w4", "two=w8")).run(graph, PassContext())


@pytest.mark.parametrize(
    ("scheme", "overrides"),
    [
        ("w2a4", {}),
        ("w3g32a8", {"head": "float", "stem:activation": "a4"}),
        ("w5a4", {"blocks.1": "w8a8", "mean": "a8"}),
    ],
)
@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_programs_have_the_widths(
    net: nn.Module, target: str, scheme: str, overrides: Mapping[str, str]
) -> None:
    program = qcompiler.compile(net, DATA, target=target, scheme=scheme, overrides=overrides)
    assert program.verify()
    assert f"assign-scheme{{scheme={scheme}" in program.manifest["pipeline"]
    signal = net(DATA[0]).detach()
    noise = signal - program(DATA[0])
    assert float(noise.square().sum()) < 0.02 * float(signal.square().sum())
    bits = {row.module: row.bits for row in program.report().rows}
    weight, _, act = scheme.partition("a")
    if "head" in overrides:
        kept = program.report().islands
        assert [row.module for row in kept] == ["head"]
        assert kept[0].why == "override head=float"
        assert bits["blocks.0.conv"] == f"{weight}a{act}" or bits["blocks.0"] == f"{weight}a{act}"
    codes = {n.name: v for n, v in program.graph.trace(DATA[0]) if v is not None}
    first = next(n for n in program.graph.calls if "quantize" in n.name)
    assert int(codes[first.name].max()) <= 2 ** (int(act) - 1) - 1


def test_an_island_that_nobody_asked_for_stays_an_error(net: nn.Module) -> None:
    graph = assigned(net, "w8a8", "head=float")
    (node,) = (n for n in graph.calls if isinstance(quant_of(n).intent, KeepFloat))
    intent = quant_of(node).intent
    assert isinstance(intent, KeepFloat)
    assert intent.pinned
