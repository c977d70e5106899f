"""measure-sensitivity: groups, metrics against slow definitions, state on disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import update_quant
from qcompiler.ir.graph import QGraph, argument
from qcompiler.ir.intent import SharedWith, Spec
from qcompiler.passes.analysis._groups import CHANNEL_BYTES, decision_groups
from qcompiler.passes.analysis._metrics import OutputNoise
from qcompiler.passes.analysis._probe import Probe, restored_weight
from qcompiler.passes.analysis.measure_sensitivity import MeasureSensitivity
from qcompiler.passmgr.context import PassContext
from qcompiler.runtime.simulate import Simulation
from tests.passes.quantize import QUANTIZED, TYPED, run

METRICS = ("output", "fisher", "hessian", "label-free")


class Small(nn.Module):
    """Two convolutions and two linears, one of them used twice, with a branch that joins."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 1)
        self.twice = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        y = (y + self.second(y)).relu().mean((2, 3))
        out: Tensor = self.head(self.twice(self.twice(y).relu()).relu())
        return out


@cache
def _made(text: str) -> tuple[QGraph, PassContext]:
    torch.manual_seed(0)
    return run(Small(), [torch.randn(8, 3, 6, 6)], text)


def small(text: str = TYPED, threads: int = 1) -> tuple[QGraph, PassContext]:
    graph, context = _made(text)
    return graph.copy(), replace(context, notes=[], threads=threads)


def measured(
    graph: QGraph, context: PassContext, state: str | None = None, **options: Any
) -> list[tuple[float, ...]]:
    step = MeasureSensitivity(state=state, **options)
    return [found.errors for found in step.measure(step.probe(graph, context))]


def test_tied_weights_decide_together() -> None:
    graph, _ = small()
    groups = decision_groups(graph)
    assert [len(g.layers) for g in groups] == [1, 1, 2, 1]
    assert [g.elements for g in groups] == [216, 64, 128, 32]
    assert groups[0].bytes_at(3) == 81 + 8 * CHANNEL_BYTES


def test_intents_join_groups_and_pin_them() -> None:
    graph, _ = small()
    first, second, *_ = decision_groups(graph)
    weight = second.layers[0].weight
    update_quant(weight, intent=SharedWith(first.layers[0].weight.name))
    assert len(decision_groups(graph)) == 3
    update_quant(weight, intent=Spec(5, pinned=True))
    assert [g.pinned for g in decision_groups(graph)] == [None, 5, None, None]
    update_quant(weight, intent=Spec(5))
    assert [g.pinned for g in decision_groups(graph)] == [None] * 4


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weights_are_those_that_quantize_weights_makes(bits: int) -> None:
    graph, _ = small()
    lowered, _ = small(QUANTIZED.replace("quantize-weights", f"quantize-weights{{bits={bits}}}"))
    for layer in (layer for group in decision_groups(graph) for layer in group.layers):
        node = next(n for n in lowered.calls if n.name == layer.node.name)
        expected = Simulation(lowered, []).operand(argument(node, "weight"), 0)
        made = restored_weight(graph.constant(layer.weight), layer.axis, bits)
        torch.testing.assert_close(made, expected, rtol=1e-6, atol=0)


def test_output_noise_is_that_of_a_whole_run_with_one_group_rounded() -> None:
    """Without bias correction, which the definition below does not have, in a purely linear net."""
    torch.manual_seed(1)
    layers = [nn.Linear(6, 5), nn.Linear(5, 4)]
    model = nn.Sequential(*layers)
    x = torch.randn(16, 6)
    graph, context = run(model, [x], TYPED)
    step = MeasureSensitivity(widths=(2, 4), samples=16, state=None)
    found = [e.errors for e in step.measure(step.probe(graph, context))]
    expected = model(x).detach().double()
    for place in (0, 1):
        for column, bits in enumerate((2, 4)):
            layer = layers[place]
            kept = layer.weight.detach().clone()
            layer.weight.data = restored_weight(kept, 0, bits)
            moved = model(x).detach().double() - expected
            layer.weight.data = kept
            moved -= moved.mean(0)
            noise = float(moved.square().sum() / expected.square().sum())
            assert found[place][column] == pytest.approx(noise, rel=1e-4)


@pytest.mark.parametrize("metric", METRICS)
def test_fewer_bits_err_more_and_threads_change_nothing(metric: str) -> None:
    found = measured(*small(), metric=metric)
    assert found == measured(*small(threads=3), metric=metric)
    assert all(e[0] > e[2] > e[-1] >= 0 for e in found)


@pytest.mark.parametrize("metric", METRICS)
def test_a_layer_that_matters_more_errs_more(metric: str) -> None:
    """Two equal branches, of which the result takes one a hundred times as much."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loud, self.quiet = nn.Linear(8, 4, bias=False), nn.Linear(8, 4, bias=False)
            self.quiet.weight.data = self.loud.weight.data.flip(0).clone()

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.loud(x) + 0.01 * self.quiet(x)
            return out

    torch.manual_seed(2)
    loud, quiet = measured(*run(Branches(), [torch.randn(8, 8)], TYPED), metric=metric)
    # A trace of few draws is no smaller than its standard error.
    assert loud[1] > (5 if metric == "hessian" else 100) * quiet[1] > 0


@pytest.mark.parametrize("metric", METRICS)
def test_dead_and_constant_layers_are_insensitive(metric: str) -> None:
    torch.manual_seed(3)
    first, second = nn.Linear(4, 6), nn.Linear(6, 6)
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(6, 3))
    first.weight.data[2] = 0.0
    second.weight.data.zero_()
    found = measured(*run(model, [torch.randn(8, 4)], TYPED), metric=metric)
    assert found[1] == (0.0,) * 6
    assert all(torch.isfinite(torch.tensor(e)).all() for e in found)


def test_a_hessian_of_one_sample_falls_back_and_says_so() -> None:
    graph, context = small()
    step = MeasureSensitivity("hessian", samples=1, state=None)
    probe = step.probe(graph, context)
    noise = MeasureSensitivity("output", samples=1, state=None)
    assert [e.errors for e in step.measure(probe)] == [
        e.errors for e in noise.measure(noise.probe(graph, context))
    ]
    assert "no Hessian (1 of 2 samples): output noise was measured instead" in probe.notes


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(QCompilerError, match="label-free"):
        measured(*small(), metric="label-fre")


def test_an_interrupted_measurement_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = measured(*small(), state=str(tmp_path / "whole"))
    original: Callable[..., Any] = OutputNoise.measure

    def interrupted(self: OutputNoise, probe: Probe, wanted: Any) -> Any:
        for place, found in original(self, probe, wanted):
            if place == 2:
                raise KeyboardInterrupt
            yield place, found

    with monkeypatch.context() as patch:
        patch.setattr(OutputNoise, "measure", interrupted)
        with pytest.raises(KeyboardInterrupt):
            measured(*small(), state=str(tmp_path / "parts"))
    asked: list[list[int]] = []

    def counted(self: OutputNoise, probe: Probe, wanted: Any) -> Any:
        asked.append(list(wanted))
        return original(self, probe, wanted)

    monkeypatch.setattr(OutputNoise, "measure", counted)
    assert measured(*small(), state=str(tmp_path / "parts")) == expected
    assert asked == [[2, 3]]
    assert measured(*small(), state=str(tmp_path / "parts")) == expected
    assert asked == [[2, 3]]
    damaged = next((tmp_path / "parts").rglob("group0001.errors"))
    damaged.write_bytes(damaged.read_bytes()[:-3])
    assert measured(*small(), state=str(tmp_path / "parts")) == expected
    assert asked == [[2, 3], [1]]


def test_other_weights_or_samples_have_a_state_of_their_own(tmp_path: Path) -> None:
    measured(*small(), state=str(tmp_path))
    measured(*small(), state=str(tmp_path), samples=4)
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(QCompilerError) as caught:
        measured(*small(), state=str(tmp_path / "file" / "state"))
    assert caught.value.code == "QC0604"
