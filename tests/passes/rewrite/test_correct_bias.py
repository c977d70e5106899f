"""correct-bias: the mean of each channel after its clamp becomes that of the float model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qcompiler.ir.graph import QGraph
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.pipeline import Pipeline
from qcompiler.runtime.simulate import Simulation
from tests.passes.quantize import QUANTIZED, run

X = torch.randn(48, 4, 8, 8, generator=torch.Generator().manual_seed(0)) + 0.3


def net(*last: nn.Module, bias: bool = True) -> nn.Module:
    """Returns two layers whose 4-bit weights shift the means of channels."""
    torch.manual_seed(0)
    layers = nn.Conv2d(4, 8, 3, bias=bias), nn.ReLU6(), nn.Conv2d(8, 6, 3, bias=bias)
    return nn.Sequential(*layers, *last)


def corrected(model: nn.Module, x: Tensor = X, options: str = "") -> tuple[QGraph, QGraph]:
    """Returns the graph with weights of 4 bits without and with corrected biases."""
    text = QUANTIZED.replace("quantize-weights", "quantize-weights{bits=4}")
    graph, _ = run(model, [x], text)
    after, _ = run(model, [x], f"{text},correct-bias{options}")
    return graph, after


def shift(graph: QGraph, model: nn.Module, x: Tensor = X) -> Tensor:
    """Returns the mean error of each channel of the simulated result."""
    simulation = Simulation(graph, [[x]])
    result = graph.results[0]
    for _ in simulation.steps():
        pass
    with torch.no_grad():
        error: Tensor = simulation.operand(result, 0) - model(x)
    return error.transpose(0, 1).flatten(1).mean(1).abs()


@pytest.mark.parametrize("last", [(), (nn.ReLU(),), (nn.Flatten(), nn.Linear(96, 7))])
@pytest.mark.parametrize("bias", [True, False])
def test_the_mean_error_of_channels_nearly_vanishes(
    last: tuple[nn.Module, ...], bias: bool
) -> None:
    model = net(*last, bias=bias)
    before, after = corrected(model)
    assert float(shift(after, model).mean()) < 0.2 * float(shift(before, model).mean())


def test_nothing_but_biases_changes() -> None:
    before, after = corrected(net())
    assert [str(n.target) for n in before.calls] == [str(n.target) for n in after.calls]
    for graph in (before, after):
        assert (
            sum(graph.constant(n).dtype == torch.int8 for n in graph.nodes if n.op == "get_attr")
            == 2
        )
    held = [[g.constant(n) for n in g.nodes if n.op == "get_attr"] for g in (before, after)]
    changed = [not torch.equal(a, b) for a, b in zip(*held, strict=True)]
    assert changed.count(True) == 2


def test_slices_and_threads_change_nothing_that_is_seen() -> None:
    model = net()
    found = [corrected(model, options=f"{{chunk={chunk}}}")[1] for chunk in (4, 48)]
    biases = [
        [
            g.constant(n)
            for n in g.nodes
            if n.op == "get_attr" and g.constant(n).shape in ((8,), (6,))
        ]
        for g in found
    ]
    for a, b in zip(*biases, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_nothing_depends_on_the_number_of_threads() -> None:
    text = f"{QUANTIZED},round-weights,correct-bias"
    graphs = [run(net(), [X], text, threads)[0] for threads in (1, 2, 3)]
    first, *others = ([g.constant(n) for n in g.nodes if n.op == "get_attr"] for g in graphs)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_fewer_samples_are_compared_with_the_same_samples() -> None:
    model = net()
    skewed = torch.cat([X[:5], X[5:] * 3.0 + 2.0])
    _, after = corrected(model, skewed, "{samples=5}")
    before, _ = corrected(model, skewed)
    first = skewed[:5]
    assert float(shift(after, model, first).mean()) < 0.3 * float(
        shift(before, model, first).mean()
    )


def test_a_channel_that_its_clamp_never_passes_is_left_alone() -> None:
    model: nn.Sequential = nn.Sequential(nn.Conv2d(4, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1))
    first = model[0]
    assert isinstance(first, nn.Conv2d)
    assert first.bias is not None
    first.bias.data[1] = -100.0
    _, after = corrected(model)
    kept = [after.constant(n) for n in after.nodes if n.op == "get_attr"]
    assert any(t.shape == (3,) and float(t[1]) == -100.0 for t in kept)


def test_it_needs_the_statistics_of_the_run() -> None:
    graph, _ = run(net(), [X], QUANTIZED)
    graph.properties.discard("statistics-collected")
    with pytest.raises(Exception, match="collect-statistics"):
        Pipeline.parse("correct-bias").run(graph, PassContext())
