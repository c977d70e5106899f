"""fuse-depthwise: which pairs become one operator, and that it returns the pair's integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn import functional as F

import qcompiler
from qcompiler.backends.cpu.target import CpuTarget
from qcompiler.backends.reference.target import ReferenceTarget
from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import quant_of, type_of, update_quant
from qcompiler.ir.graph import QGraph, argument, is_call
from qcompiler.ir.parser import parse_graph
from qcompiler.ir.printer import graph_constants, print_graph
from qcompiler.ir.verifier import verify_graph
from qcompiler.passes import pipelines
from qcompiler.passes.lowering.fuse_depthwise import FuseDepthwise
from qcompiler.passmgr.pipeline import Pipeline
from qcompiler.report.counts import example_sizes, macs_of
from tests.passes.lowering.models import Function
from tests.passes.quantize import INTEGER, run

Q = torch.ops.qcompiler
CHAIN = Q.pointwise_depthwise_requant.default
CONV = Q.conv2d_requant.default
FUSED = f"{INTEGER},fold-requant,fuse-integer-ops"


def fused(model: nn.Module, *inputs: Tensor) -> tuple[QGraph, QGraph]:
    """Returns an integer graph before and after the pass."""
    graph, context = run(model, inputs, FUSED)
    before = graph.copy()
    changed = FuseDepthwise().run(graph, context)
    graph.recompile()
    verify_graph(graph, infer_types=True)
    assert changed == any(is_call(n, CHAIN) for n in graph.calls)
    return before, graph


def calls(graph: QGraph, target: Any) -> list[fx.Node]:
    return [n for n in graph.calls if is_call(n, target)]


def block(
    channels: int = 4, wide: int = 8, kernel: int = 3, stride: int = 1, dilation: int = 1
) -> tuple[nn.Module, nn.Module]:
    """Returns a 1x1 convolution and a depthwise one."""
    torch.manual_seed(wide)
    point = nn.Conv2d(channels, wide, 1)
    reach = kernel // 2 * dilation
    return point, nn.Conv2d(wide, wide, kernel, stride, reach, dilation, groups=wide)


@st.composite
def blocks(draw: Callable[[Any], Any]) -> tuple[nn.Module, Tensor]:
    """Draws the first half of an inverted residual, an activation behind each layer or none."""
    channels, wide = draw(st.integers(1, 5)), draw(st.integers(1, 20))
    kernel, stride = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    layers = block(channels, wide, kernel, stride, dilation=draw(st.integers(1, 2)))
    first, second = (
        draw(st.sampled_from([F.relu6, F.silu, F.relu, lambda y: y])) for _ in range(2)
    )
    model = Function(lambda x, a, b: second(b(first(a(x)))) * 0.5, *layers)
    batch, *size = draw(st.tuples(st.integers(2, 3), st.integers(2, 9), st.integers(2, 9)))
    return model, torch.randn(batch, channels, *size)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(blocks())
def test_the_graph_returns_the_same_integers(drawn: tuple[nn.Module, Tensor]) -> None:
    model, x = drawn
    before, after = fused(model, x)
    assert calls(after, CHAIN)
    for y, z in zip(before.run(x), after.run(x), strict=True):
        assert torch.equal(y, z)


def test_a_block_becomes_one_operator() -> None:
    model = Function(lambda x, a, b: F.relu6(b(F.relu6(a(x)))).mean((2, 3)), *block())
    before, after = fused(model, torch.randn(2, 4, 8, 9))
    first, second = calls(before, CONV)
    (chain,) = calls(after, CHAIN)
    assert not calls(after, CONV)
    assert type_of(chain) == type_of(second)
    for name in ("x", "weight", "bias", "x_zero_point"):
        assert str(argument(chain, name)) == str(argument(first, name))
    for name in ("weight", "bias", "x_zero_point"):
        assert str(argument(chain, f"dw_{name}")) == str(argument(second, name))
    for name in ("zero_point", "qmin", "qmax"):
        assert argument(chain, f"mid_{name}") == argument(first, name)
        assert argument(chain, name) == argument(second, name)
    assert "1x1 convolution layers.0 fused" in str(quant_of(chain).why)
    assert quant_of(chain).stands_for == quant_of(second).stands_for
    sizes = example_sizes(before)
    assert macs_of(chain, example_sizes(after)) == sum(macs_of(n, sizes) for n in (first, second))


def test_the_text_of_a_fused_graph_is_read_back() -> None:
    model = Function(lambda x, a, b: b(F.silu(a(x))).sum((2, 3)), *block(stride=2))
    x = torch.randn(2, 4, 7, 5)
    _, graph = fused(model, x)
    text = print_graph(graph)
    again = parse_graph(text, graph_constants(graph))
    assert print_graph(again) == text
    assert torch.equal(again.run(x)[0], graph.run(x)[0])


def _residual(x: Tensor, point: nn.Module, depth: nn.Module) -> Any:
    return (depth(F.relu6(point(x))) + F.relu6(x)).mean((2, 3))


def _shared(x: Tensor, point: nn.Module, depth: nn.Module) -> Any:
    y = F.relu6(point(x))
    return depth(y).mean((2, 3)) + y.mean((2, 3))


_APART: dict[str, Callable[[], nn.Module]] = {
    "a value that something else reads": lambda: Function(_shared, *block()),
    "a residual add behind the depthwise convolution": lambda: Function(_residual, *block(8, 8)),
    "a stride in the 1x1 convolution": lambda: Function(
        lambda x, a, b: b(a(x)).mean((2, 3)), nn.Conv2d(8, 8, 1, 2), block(8, 8)[1]
    ),
    "a border around the 1x1 convolution": lambda: Function(
        lambda x, a, b: b(a(x)).mean((2, 3)), nn.Conv2d(8, 8, 1, padding=1), block(8, 8)[1]
    ),
    "a larger kernel first": lambda: Function(
        lambda x, a, b: b(a(x)).mean((2, 3)), nn.Conv2d(8, 8, 3), block(8, 8)[1]
    ),
    "groups in the 1x1 convolution": lambda: Function(
        lambda x, a, b: b(a(x)).mean((2, 3)), nn.Conv2d(8, 8, 1, groups=2), block(8, 8)[1]
    ),
    "two filters for each channel": lambda: Function(
        lambda x, a, b: b(a(x)).mean((2, 3)),
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 16, 3, groups=8),
    ),
    "a grouped convolution": lambda: Function(
        lambda x, a, b: b(a(x)).mean((2, 3)), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, groups=4)
    ),
}


@pytest.mark.parametrize("name", _APART)
def test_other_pairs_stay_apart(name: str) -> None:
    torch.manual_seed(0)
    channels = 4 if name.startswith("a value") else 8
    before, after = fused(_APART[name](), torch.randn(2, channels, 8, 9))
    assert len(calls(before, CONV)) == 2
    assert print_graph(before) == print_graph(after)


@dataclass(frozen=True)
class _Older(ReferenceTarget):
    """A target that has no kernel for the fused operator."""

    name: ClassVar[str] = "older"

    def why_not(self, node: fx.Node) -> str | None:
        return "no chains" if is_call(node, CHAIN) else super().why_not(node)


def test_a_target_without_the_operator_keeps_the_pair() -> None:
    model = Function(lambda x, a, b: b(F.relu6(a(x))).mean((2, 3)), *block())
    graph, context = run(model, [torch.randn(2, 4, 8, 9)], FUSED)
    text = print_graph(graph)
    assert not FuseDepthwise().run(graph, replace(context, target=_Older()))
    assert print_graph(graph) == text
    assert FuseDepthwise().run(graph, replace(context, target=CpuTarget()))


def test_both_proofs_are_kept_and_made_again() -> None:
    model = Function(lambda x, a, b: b(F.relu6(a(x))).mean((2, 3)), *block())
    graph, context = run(model, [torch.randn(2, 4, 8, 9)], f"{FUSED},prove-accumulators")
    first, second = (quant_of(n).proof for n in calls(graph, CONV))
    assert first is not None
    assert second is not None
    Pipeline.parse("fuse-depthwise").run(graph, context)
    (chain,) = calls(graph, CHAIN)
    assert (quant_of(chain).inner_proof, quant_of(chain).proof) == (first, second)
    Pipeline.parse("prove-accumulators,legalize-for-target").run(graph, context)
    assert (quant_of(chain).inner_proof, quant_of(chain).proof) == (first, second)


@pytest.mark.parametrize("weight", ["weight", "dw_weight"])
def test_either_sum_may_be_the_one_without_a_proof(weight: str) -> None:
    model = Function(lambda x, a, b: b(F.relu6(a(x))).mean((2, 3)), *block())
    graph, context = run(model, [torch.randn(2, 4, 8, 9)], f"{FUSED},fuse-depthwise")
    (chain,) = calls(graph, CHAIN)
    bias = argument(chain, weight.replace("weight", "bias"))
    graph.set_constant(bias, torch.full_like(graph.constant(bias), 2**31 - 1))
    with pytest.raises(QCompilerError, match="QC0401"):
        Pipeline.parse("prove-accumulators").run(graph, context)


def _constants(**values: Tensor) -> Callable[[QGraph, fx.Node], object]:
    def spoil(graph: QGraph, chain: fx.Node) -> None:
        for name, value in values.items():
            graph.set_constant(argument(chain, name), value)

    return spoil


def _int32(value: int, count: int) -> Tensor:
    return torch.full((count,), value, dtype=torch.int32)


_SPOILS: dict[str, Callable[[QGraph, fx.Node], object]] = {
    "3 multipliers for 8 channels": _constants(dw_multiplier=_int32(9, 3), dw_shift=_int32(9, 3)),
    "1 multipliers and 8 shifts": _constants(multiplier=_int32(9, 1)),
    "a shift of 63": _constants(dw_shift=_int32(63, 8)),
    "a weight of -128": _constants(dw_weight=torch.full((8, 1, 3, 3), -128).to(torch.int8)),
    "as its bias": _constants(dw_bias=torch.zeros(8, dtype=torch.int8)),
    "qmax = 128": lambda _, chain: chain.update_arg(8, 128),
    "has no proof": lambda _, chain: update_quant(chain, inner_proof=None),
    "reaches": lambda _, chain: update_quant(chain, inner_proof=(0, 2**31)),
    "which is empty": lambda _, chain: update_quant(chain, inner_proof=(1, 0)),
}


@pytest.mark.parametrize("problem", _SPOILS)
def test_the_verifier_looks_at_both_halves(problem: str) -> None:
    model = Function(lambda x, a, b: b(F.relu6(a(x))).mean((2, 3)), *block())
    text = f"{FUSED},fuse-depthwise,prove-accumulators,legalize-for-target"
    graph, _ = run(model, [torch.randn(2, 4, 8, 9)], text)
    (chain,) = calls(graph, CHAIN)
    _SPOILS[problem](graph, chain)
    with pytest.raises(QCompilerError, match=problem):
        verify_graph(graph)


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (3, 4, 17, 12)])
def test_the_cpu_program_equals_the_one_with_the_pair(shape: Sequence[int]) -> None:
    model = Function(lambda x, a, b: F.relu6(b(F.relu6(a(x)))), *block(wide=20, kernel=5, stride=2))
    data = [torch.randn(4, *shape[1:])]
    apart = pipelines.DEFAULT.replace("fuse-depthwise,", "")
    one = qcompiler.compile(model.eval(), data, target="cpu")
    two = qcompiler.compile(model.eval(), data, target="cpu", pipeline=apart)
    assert calls(one.graph, CHAIN)
    assert not calls(two.graph, CHAIN)
    x = torch.randn(*shape)
    for threads in (1, 2, 3):
        one.num_threads = threads
        assert torch.equal(one(x), two(x))
    assert one.verify(x)
    (row,) = [r for r in one.report().rows if r.op == "pointwise_depthwise_requant"]
    assert row.kernel.startswith("qc_pointwise_depthwise_u8")
    assert row.bits == "w8a8"
