"""allocate-bits: budgets met, better than uniform, pinned weights, refusals."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from qcompiler.allocation import Allocation
from qcompiler.api import resolve_target
from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import quant_of, update_quant
from qcompiler.ir.graph import QGraph
from qcompiler.ir.intent import Spec
from qcompiler.passes.analysis._groups import decision_groups
from qcompiler.passes.analysis.measure_sensitivity import MeasureSensitivity
from qcompiler.passes.rewrite._refine import joint_error
from qcompiler.passes.rewrite.allocate_bits import AllocateBits
from qcompiler.passmgr.analyses import AnalysisCache
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.pipeline import Pipeline
from tests.passes.quantize import TYPED, run


@cache
def _made() -> tuple[QGraph, PassContext]:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()]
    layers += [nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.ReLU()]
    for inputs, outputs in ((16, 48), (48, 32), (32, 32), (32, 32), (32, 48), (48, 32)):
        layers += [nn.Conv2d(inputs, outputs, 1), nn.ReLU()]
    layers += [nn.Conv2d(32, 10, 1)]
    return run(nn.Sequential(*layers), [torch.randn(8, 3, 10, 10)], TYPED)


def net() -> tuple[QGraph, PassContext]:
    """Returns layers of different sizes, of which the small first ones matter most."""
    graph, context = _made()
    twin = replace(context, notes=[], float_weights={}, analyses=AnalysisCache())
    return graph.copy(), twin


def allocated(graph: QGraph, context: PassContext, *budget: str, **options: object) -> Allocation:
    step = AllocateBits(budget, state=None, **options)  # type: ignore[arg-type]
    step.run(graph, context)
    assert context.allocation is not None
    return context.allocation


@pytest.mark.parametrize("metric", ["output", "fisher", "hessian", "label-free"])
@pytest.mark.parametrize("bits", [3, 5.5])
def test_average_bits_are_met_and_uniform_is_beaten(metric: str, bits: float) -> None:
    graph, context = net()
    found = allocated(graph, context, str(bits), metric=metric)
    # A step of the largest of these few layers is a fifth of a bit on average.
    assert 0.97 * bits <= found.average_bits <= bits
    probe = MeasureSensitivity(state=None).probe(graph, context)
    mixed = [g.bits for g in found.groups]
    uniform = [int(bits)] * len(mixed)
    assert joint_error(probe, mixed) <= joint_error(probe, uniform)
    if metric == "output":
        assert joint_error(probe, mixed) < joint_error(probe, uniform)
        assert found.joint_error == pytest.approx(joint_error(probe, mixed))


def test_a_size_is_met() -> None:
    groups = decision_groups(net()[0])
    for bits in (3, 4, 6):
        size = sum(g.bytes_at(bits) for g in groups)
        found = allocated(*net(), f"{size}B")
        assert 0.99 * size <= found.bytes <= size
    assert found.is_optimal


def test_intents_and_reasons_are_set_and_followed() -> None:
    graph, context = net()
    found = allocated(graph, context, "4")
    for group, row in zip(decision_groups(graph), found.groups, strict=True):
        intent = quant_of(group.layers[0].weight).intent
        assert isinstance(intent, Spec)
        assert intent.bits == row.bits
        assert "B" in row.why
    Pipeline.parse("quantize-weights").run(graph, context)
    made = [quant_of(n).qtype for n in graph.nodes if "_i" in n.name and n.op == "get_attr"]
    assert sorted(q.bits for q in made if q) == sorted(g.bits for g in found.groups)


def test_the_front_falls_and_contains_the_ends() -> None:
    found = allocated(*net(), "4")
    sizes, errors = [p.bytes for p in found.front], [p.error for p in found.front]
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert found.front[0].average_bits == 2
    assert Allocation.from_json(found.to_json()) == found


def test_pinned_weights_keep_their_bits() -> None:
    graph, context = net()
    last = decision_groups(graph)[-1].layers[0].weight
    update_quant(last, intent=Spec(7, pinned=True))
    found = allocated(graph, context, "4")
    assert found.groups[-1].bits == 7
    assert found.groups[-1].why == "asked for"
    assert quant_of(last).intent == Spec(7, pinned=True)


def test_a_budget_that_overrides_leave_no_room_for_names_both() -> None:
    graph, context = net()
    group = max(decision_groups(graph), key=lambda g: g.elements)
    update_quant(group.layers[0].weight, intent=Spec(8, pinned=True))
    with pytest.raises(QCompilerError) as caught:
        allocated(graph, context, "3")
    assert caught.value.code == "QC0322"
    assert "budget 3 contradicts" in caught.value.problem
    assert f"{group.name} at 8 bits" in caught.value.problem


@pytest.mark.parametrize("budget", ["1.5", "3000B", "0.001us"])
def test_an_infeasible_budget_says_the_least_achievable(budget: str) -> None:
    graph, context = net()
    context.target = resolve_target("cpu")
    with pytest.raises(QCompilerError) as caught:
        allocated(graph, context, budget)
    assert caught.value.code == "QC0321"
    least = caught.value.remedy.split()[4].rstrip(",")
    assert allocated(*net(), least).bytes if "ms" not in least else float(least[:-2]) > 0


def test_a_target_without_a_cost_model_takes_no_latency() -> None:
    graph, context = net()
    with pytest.raises(QCompilerError) as caught:
        allocated(graph, context, "3ms")
    assert caught.value.code == "QC0324"


def test_a_generous_latency_on_the_cpu_leaves_eight_bits() -> None:
    graph, context = net()
    context.target = resolve_target("cpu")
    found = allocated(graph, context, "1s")
    assert {g.bits for g in found.groups} == {8}
    assert found.seconds is not None
    assert 0 < found.seconds < 1


def test_two_budgets_hold_together() -> None:
    graph, context = net()
    size = sum(g.bytes_at(4) for g in decision_groups(graph))
    found = allocated(graph, context, f"{size}B", "3.5")
    assert found.bytes <= size
    assert found.average_bits <= 3.5


def test_out_of_time_the_best_found_is_taken() -> None:
    found = allocated(*net(), "4", time_limit=1e-9)
    assert found.average_bits <= 4


def test_the_same_seed_gives_the_same_choice() -> None:
    assert allocated(*net(), "4.2") == allocated(*net(), "4.2")


def test_a_graph_without_weights_has_nothing_to_allocate() -> None:
    class Plain(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu()

    graph, context = run(Plain(), [torch.randn(2, 4)], TYPED)
    assert not AllocateBits(("4",), state=None).run(graph, context)
    assert context.notes == ["no weights to allocate bits to"]


def test_options_round_trip_as_text() -> None:
    text = "allocate-bits{budget=2.6MB,4.5 metric=fisher rounds=2}"
    assert str(Pipeline.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["budget=()", "budget=4 widths=8,4", "budget=4 widths=1,4", "budget=4 samples=0"]
)
def test_bad_options_are_refused(text: str) -> None:
    with pytest.raises(QCompilerError) as caught:
        Pipeline.parse(f"allocate-bits{{{text}}}")
    assert caught.value.code == "QC0502"
