"""collect-statistics and propagate-ranges: what is seen, what follows, and degenerate states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from qcompiler.calibration import CalibrationData
from qcompiler.capture import capture
from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import quant_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.queries import quantized_values
from qcompiler.ir.stages import Stage
from qcompiler.numerics.observers import ChannelMeans, MinMax, MovingAverage
from qcompiler.numerics.ranges import Range, RangeState
from qcompiler.passes.analysis import collect_statistics
from qcompiler.passes.analysis.collect_statistics import CollectStatistics, slices
from qcompiler.passes.analysis.propagate_ranges import FloatIntervals, PropagateRanges
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.statistics import StatisticRequest
from qcompiler.testing import run_pass
from tests.passes.lowering.models import Function
from tests.passes.quantize import RANGES, calibrate, run

X = torch.randn(8, 4, 6, generator=torch.Generator().manual_seed(0))


def ranges(function: Callable[..., Any], *inputs: Tensor, options: str = "") -> list[Range]:
    """Returns the ranges of the inputs and calls of a function."""
    text = RANGES.replace("propagate-ranges", f"propagate-ranges{options}")
    graph, _ = run(Function(function), inputs or (X,), text)
    assert graph.stage == Stage.CALIBRATED
    found = [quant_of(n).range for n in (*graph.inputs, *graph.calls)]
    assert None not in found
    return [r for r in found if r is not None]


def test_calibrated_values_have_the_extremes_that_were_seen() -> None:
    x, y = ranges(lambda x: x * x)
    assert (x.lo, x.hi) == (float(X.min()), float(X.max()))
    assert (y.lo, y.hi) == (float((X * X).min()), float((X * X).max()))


def test_bounds_of_operators_narrow_what_was_seen() -> None:
    _, y = ranges(lambda x: torch.sigmoid(x * 50.0)[:, :2])[-2:]
    assert (y.lo, y.hi) == (0.0, 255 / 256)


def test_movement_keeps_the_range_and_padding_adds_its_value() -> None:
    x, flat = ranges(lambda x: x.flatten(1))
    assert x == flat
    x, padded = ranges(lambda x: F.pad(x + 9.0, (1, 1)))[1:]
    assert (padded.lo, padded.hi) == (0.0, x.hi)


def test_a_clamped_result_takes_the_range_of_its_clamp() -> None:
    _, total, clamp = ranges(lambda x: F.relu6(x * x + x))[-3:]
    assert total == clamp
    assert clamp.lo == 0.0


def test_a_value_that_is_used_elsewhere_keeps_its_own() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * x - 1.0
        return F.relu(y), y

    *_, y, clamp = ranges(function)
    assert y.lo < 0.0 == clamp.lo


@pytest.mark.parametrize(
    ("value", "state"),
    [(0.0, RangeState.ZERO), (2.0, RangeState.CONSTANT), (-1e-30, RangeState.CONSTANT)],
)
def test_values_that_never_change(value: float, state: RangeState) -> None:
    x, y = ranges(lambda x: x.flatten(1), torch.full((4, 2, 3), value))
    assert x.state == y.state == state


def test_a_percentile_leaves_outliers_out() -> None:
    x = torch.cat([X.flatten(), torch.tensor([1000.0])])[:, None].expand(-1, 8)
    wide = ranges(lambda x: x * 2.0, x)[0]
    narrow = ranges(lambda x: x * 2.0, x, options="{method=percentile q=99.0}")[0]
    assert wide.hi == 1000.0
    assert narrow.hi < 10.0


def test_unbounded_activations_are_refused() -> None:
    with pytest.raises(QCompilerError, match="NaN or infinite") as caught:
        ranges(lambda x: torch.exp(x * 1e4) * 2.0)
    assert caught.value.code == "QC0106"


def test_a_value_without_statistics_is_refused() -> None:
    graph, context = run(Function(lambda x: x * x), [X], RANGES.rpartition(",")[0])
    with pytest.raises(QCompilerError, match="no statistics of inputs_0") as caught:
        run_pass("propagate-ranges", graph, context)
    assert caught.value.code == "QC0503"
    assert "collect-statistics" in caught.value.remedy
    requests = PropagateRanges().statistics(graph)
    context.statistics = {r: r.statistic.observe().result() for r in requests}
    with pytest.raises(QCompilerError, match="no calibration sample reached inputs_0") as caught:
        run_pass("propagate-ranges", graph, context)
    assert (caught.value.code, caught.value.node) == ("QC0302", "inputs_0")


def test_intervals_contain_all_values() -> None:
    def function(x: Tensor) -> Tensor:
        y = torch.tanh(x) * 3.0
        return F.avg_pool2d(F.relu(y[:, None]) + torch.sigmoid(x)[:, None], 2)

    graph, _ = calibrate(Function(function), [X])
    intervals = FloatIntervals().compute(graph)
    for node, value in graph.trace(X * 100.0):
        if node.op == "call_function":
            assert intervals[node].lo <= float(value.min())
            assert float(value.max()) <= intervals[node].hi


# -- slices --------------------------------------------------------------------------------------


def two_inputs() -> QGraph:
    """Returns a graph of a batch of rows and a table that is shared by all."""
    model = Function(lambda x, table: x @ table)
    shapes = (({0: torch.export.Dim("batch")}, None),)
    inputs = torch.randn(4, 6), torch.randn(6, 3)
    exported = torch.export.export(model, inputs, dynamic_shapes=shapes, strict=False)
    return run_pass("normalize-ops", capture(exported))


def test_only_batched_inputs_are_cut() -> None:
    graph = two_inputs()
    batch = torch.randn(11, 6), torch.randn(6, 3)
    parts = list(slices(graph, batch, 4))
    assert [p[0].shape[0] for p in parts] == [4, 4, 3]
    assert all(p[1] is batch[1] for p in parts)
    parts = list(slices(graph, batch, 4, [-3, 0, 5, 11, 20]))
    assert [p[0].shape[0] for p in parts] == [4, 1, 3, 3]
    assert torch.equal(torch.cat([p[0] for p in parts]), batch[0])


@pytest.mark.parametrize("node", [0, 1, 2])
@pytest.mark.parametrize("samples", [None, 3, 7, 10])
@pytest.mark.parametrize("threads", [1, 3])
def test_statistics_are_over_exactly_the_samples_asked_for(
    node: int, samples: int | None, threads: int
) -> None:
    graph = two_inputs()
    batches = [(torch.randn(n, 6), torch.randn(6, 3)) for n in (5, 5)]
    data = CalibrationData(batches)
    data.bind(graph)
    place = [*graph.inputs, graph.calls[0]][node]
    request = StatisticRequest(place.name, ChannelMeans(1), samples)
    context = PassContext(data=data, requests=[request], threads=threads)
    CollectStatistics(chunk=2).run(graph, context)
    found = context.statistics[request].mean
    if node == 1:
        return  # the table is no sample: it counts once for each slice
    x = torch.cat([b[0] if node == 0 else b[0] @ b[1] for b in batches])[:samples]
    torch.testing.assert_close(found, x.double().mean(0), rtol=1e-5, atol=1e-6)


def test_a_moving_average_makes_a_step_for_each_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect_statistics, "_CACHED", 2)
    graph = two_inputs()
    x = torch.randn(9, 6)
    data = CalibrationData([(x, torch.randn(6, 3))])
    data.bind(graph)
    found = {}
    for statistics in ((MinMax(),), (MinMax(), MovingAverage(0.5))):
        requests = [StatisticRequest(graph.inputs[0].name, s) for s in statistics]
        seen: list[int | None] = []

        def record(what: str, done: int | None, seen: list[int | None] = seen) -> None:
            seen.append(done)

        context = PassContext(data=data, requests=requests, progress=record)
        CollectStatistics(chunk=4).run(graph, context)
        found[len(statistics)] = seen, [context.statistics[r] for r in requests]
    assert found[1][0] == [2, 4, 6, 8, 9]
    assert found[2][0] == [4, 8, 9]
    extremes, average = found[2][1]
    assert found[1][1] == [extremes]
    highs = [float(part.max()) for part in x.split(4)]
    assert average.high == pytest.approx(highs[0] / 4 + highs[1] / 4 + highs[2] / 2)


def test_the_chunk_does_not_change_ranges() -> None:
    seen = []
    for chunk in (1, 3, 8):
        text = RANGES.replace("collect-statistics", f"collect-statistics{{chunk={chunk}}}")
        graph, _ = run(Function(lambda x: (x * x + x).flatten(1)), [X], text)
        seen.append([quant_of(n).range for n in quantized_values(graph)])
    assert seen[0] == seen[1] == seen[2]
