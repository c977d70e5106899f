"""round-weights on small layers: what changes, how much less the results err, and what it sees."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qcompiler.calibration import CalibrationData
from qcompiler.capture import capture
from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import qtype_of
from qcompiler.ir.graph import QGraph, argument
from qcompiler.ir.verifier import verify_graph
from qcompiler.numerics.error_feedback import round_with_feedback
from qcompiler.passes.rewrite import round_weights
from qcompiler.passes.rewrite.round_weights import RoundWeights
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.pipeline import Pipeline
from qcompiler.runtime.simulate import Simulation, dequantize_codes, quantize_codes

QUANTIZE = (
    "normalize-ops,fold-pad,collect-statistics,propagate-ranges,share-qparams,quantize-weights"
)
LAYERS = {
    "conv 3x3": nn.Conv2d(8, 16, 3, padding=1),
    "conv 1x1": nn.Conv2d(8, 16, 1, bias=False),
    "conv strided, dilated": nn.Conv2d(8, 16, 3, stride=2, dilation=2),
    "conv padded on one side": nn.Sequential(nn.ZeroPad2d((0, 2, 1, 0)), nn.Conv2d(8, 8, (2, 3))),
    "depthwise": nn.Conv2d(8, 8, 5, padding=2, groups=8),
    "depthwise with multiplier": nn.Conv2d(8, 16, 3, groups=8),
    "grouped": nn.Conv2d(8, 12, 3, groups=4),
    "linear": nn.Linear(8, 16),
    "two": nn.Sequential(nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3, groups=2)),
}


def correlated(count: int = 32, seed: int = 0) -> Tensor:
    """Returns smooth images of channels that mostly move together, all at least 0."""
    generator = torch.Generator().manual_seed(seed)
    base = F.interpolate(torch.randn(count, 2, 4, 4, generator=generator), (12, 12), mode="bicubic")
    mix = torch.randn(8, 2, 1, 1, generator=torch.Generator().manual_seed(7))
    return F.relu(F.conv2d(base, mix) + 0.05 * torch.randn(count, 8, 12, 12, generator=generator))


def quantized(
    model: nn.Module, images: Tensor, pipeline: str = QUANTIZE
) -> tuple[QGraph, PassContext]:
    """Captures a model and quantizes its weights to the nearest codes."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    data = CalibrationData(images.split(8))
    dims = ({0: torch.export.Dim("batch")},)
    graph = capture(
        torch.export.export(model.eval(), (images[:2],), dynamic_shapes=dims, strict=False)
    )
    data.bind(graph)
    context = PassContext(data=data)
    Pipeline.parse(pipeline).run(graph, context)
    return graph, context


def codes_of(graph: QGraph) -> list[Tensor]:
    restored = [n for n in graph.calls if n.target is torch.ops.qfloat.dequantize_weight.default]
    return [graph.constant(argument(n, "weight")) for n in restored]


def noise(graph: QGraph, model: nn.Module, images: Tensor) -> float:
    """Returns the mean squared error that the weights make of inputs that are quantized."""
    qtype = qtype_of(graph.inputs[0])
    x = dequantize_codes(quantize_codes(images, qtype), qtype)
    with torch.no_grad():
        return float((graph.run(x)[0] - model(x)).square().mean())


def test_changes_nothing_but_the_codes() -> None:
    graph, context = quantized(LAYERS["two"], correlated())
    before, names = codes_of(graph), [n.name for n in graph.nodes]
    others = {n: graph.constant(n) for n in graph.nodes if n.op == "get_attr"}
    assert RoundWeights().run(graph, context)
    graph.recompile()
    verify_graph(graph, infer_types=True)
    assert [n.name for n in graph.nodes] == names
    for node, tensor in others.items():
        assert tensor.dtype == torch.int8 or torch.equal(graph.constant(node), tensor)
    for old, new in zip(before, codes_of(graph), strict=True):
        assert (new.dtype, new.shape) == (torch.int8, old.shape)
        changed = (new.to(torch.int32) - old).abs()
        assert 0.05 < float((changed > 0).float().mean()) < 0.8
        assert int(changed.max()) <= 4


@pytest.mark.parametrize("name", [n for n in LAYERS if n != "two"])
def test_results_err_less_than_with_nearest_rounding(name: str) -> None:
    model = LAYERS[name]
    images = correlated() if name != "linear" else correlated().permute(0, 2, 3, 1)
    graph, context = quantized(model, images)
    nearest = noise(graph, model, images)
    Pipeline.parse("round-weights").run(graph, context)
    # Images that the pass has not seen.
    fresh = correlated(seed=5)
    fresh = fresh if name != "linear" else fresh.permute(0, 2, 3, 1)
    assert noise(graph, model, images) < nearest / 1.6
    assert noise(graph, model, fresh) < nearest / 1.4


@pytest.mark.parametrize("method", ["gptq", "squant"])
@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_weights_of_groups_stay_multiples_of_their_factors(bits: int, method: str) -> None:
    model, images = LAYERS["conv 3x3"], correlated()
    pipeline = f"{QUANTIZE}{{bits={bits} group=16}}"
    graph, context = quantized(model, images, pipeline)
    nearest, (before,) = noise(graph, model, images), codes_of(graph)
    Pipeline.parse(f"round-weights{{method={method}}}").run(graph, context)
    (codes,) = codes_of(graph)
    (factors,) = context.weight_factors.values()
    assert int(factors.max()) > 1
    assert not torch.equal(codes, before)
    assert not bool((codes % factors).any())
    assert int((codes // factors).abs().max()) <= 2 ** (bits - 1) - 1
    if method == "gptq":
        assert noise(graph, model, images) < nearest / 1.4


@pytest.mark.parametrize("tile", [256, 32])
@pytest.mark.parametrize("at_once", [1024, 7])
def test_the_second_layer_sees_the_codes_of_the_first(
    monkeypatch: pytest.MonkeyPatch, at_once: int, tile: int
) -> None:
    monkeypatch.setattr(round_weights, "_EXACT_ROWS", at_once)
    monkeypatch.setattr(round_weights, "_TILE", tile)
    seen = []

    def record(weights: Tensor, moments: Tensor, *options: object) -> Tensor:
        seen.append(moments)
        return round_with_feedback(weights, moments, *options)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(round_weights, "round_with_feedback", record)
    images = correlated(16)
    graph, context = quantized(LAYERS["two"], images)
    Pipeline.parse("round-weights{rows_per_input=100000}").run(graph, context)
    simulation = Simulation(graph, [[images]])
    layers = []
    for node in simulation.steps():
        if node.target is torch.ops.qfloat.conv2d.default:
            x = argument(node, "x")
            codes = simulation.codes(x)[0].to(torch.float64) - qtype_of(x).tensor_zero_point
            groups = argument(node, "groups")
            windows = F.unfold(codes, 3).unflatten(1, (groups, -1)).movedim(1, 0)
            rows = windows.transpose(2, 3).flatten(1, 2)
            layers.append(rows.transpose(1, 2) @ rows)
    assert [m.shape for m in layers] == [(1, 72, 72), (2, 72, 72)]
    assert all(torch.equal(a, b) for a, b in zip(seen, layers, strict=True))


def test_takes_no_more_rows_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    take = round_weights._Windows.take

    def record(self: round_weights._Windows, share: float, groups: int, seed: int) -> Tensor:
        taken = take(self, share, groups, seed)
        counts.append(taken.shape[2])
        return taken

    monkeypatch.setattr(round_weights._Windows, "take", record)
    graph, context = quantized(LAYERS["conv 3x3"], correlated())
    Pipeline.parse("round-weights{rows=100 chunk=8}").run(graph, context)
    assert counts == [25] * 4
    counts.clear()
    Pipeline.parse("round-weights{rows_per_input=1 samples=16 chunk=8}").run(graph, context)
    assert counts == [36] * 2


def test_wide_layers_are_rounded_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = LAYERS["conv 3x3"], correlated()
    graph, context = quantized(model, images)
    nearest = noise(graph, model, images)
    monkeypatch.setattr(round_weights, "_MOST_INPUTS", 27)
    Pipeline.parse("round-weights").run(graph, context)
    assert noise(graph, model, images) < nearest / 1.3


@pytest.mark.parametrize("method", ["gptq", "squant"])
def test_repeats_itself_with_any_number_of_threads(method: str) -> None:
    found, threads = [], torch.get_num_threads()
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            graph, context = quantized(LAYERS["two"], correlated())
            Pipeline.parse(f"round-weights{{method={method}}}").run(graph, context)
            found.append(codes_of(graph))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_inputs_that_are_always_zero_keep_the_nearest_codes() -> None:
    images = correlated()
    images[:, 3] = 0.0
    graph, context = quantized(LAYERS["conv 3x3"], images)
    (nearest,) = codes_of(graph)
    Pipeline.parse("round-weights").run(graph, context)
    (codes,) = codes_of(graph)
    assert torch.equal(codes[:, 3], nearest[:, 3])
    assert not torch.equal(codes[:, 4], nearest[:, 4])


def test_squant_needs_no_data_and_balances_errors() -> None:
    graph, context = quantized(LAYERS["two"], correlated())
    context.data = None
    Pipeline.parse("round-weights{method=squant}").run(graph, context)
    restored = [n for n in graph.calls if n.target is torch.ops.qfloat.dequantize_weight.default]
    for node in restored:
        codes, scale = (graph.constant(argument(node, name)) for name in ("weight", "scale"))
        steps = context.float_weights[node.all_input_nodes[0].name] / scale.view(-1, 1, 1, 1)
        errors = codes - steps
        assert float(errors.abs().max()) < 1.0
        assert float(errors.sum((1, 2, 3)).abs().max()) <= 0.5


def test_refuses_a_graph_that_another_process_quantized() -> None:
    graph, context = quantized(LAYERS["conv 1x1"], correlated())
    context.float_weights.clear()
    with pytest.raises(QCompilerError, match=r"QC0503.*is not known any more"):
        Pipeline.parse("round-weights").run(graph, context)
