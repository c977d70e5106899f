"""Each conversion of normalize-ops computes what torch does, at several batch sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from qcompiler import registry
from qcompiler.capture import capture
from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import quant_of
from qcompiler.ir.float_ops import float_op_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.intent import KeepFloat
from qcompiler.ir.verifier import verify_graph
from qcompiler.passes import ENTRY_POINTS
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.pipeline import Pipeline
from qcompiler.rewrite.conversion import Converted, Site
from tests.passes.rewrite.helpers import Calls, CallsTwo, check_equal, run_passes, targets, trained

IMAGE = (4, 6, 8)
SEQUENCE = (4, 12)
ROW = (12,)


def _normal(model: nn.Module, *shapes: tuple[int, ...]) -> QGraph:
    graph = run_passes(model, shapes, "normalize-ops")
    assert all(float_op_of(n.target) is not None for n in graph.calls)
    check_equal(model, graph, shapes)
    return graph


LAYERS: list[tuple[str, Callable[[], nn.Module], tuple[int, ...]]] = [
    ("conv2d", lambda: nn.Conv2d(4, 6, 3, 2, 1, 1, 2), IMAGE),
    ("conv2d dilated, no bias", lambda: nn.Conv2d(4, 4, (3, 2), dilation=2, bias=False), IMAGE),
    ("conv2d same", lambda: nn.Conv2d(4, 6, (2, 5), padding="same", dilation=(3, 1)), IMAGE),
    ("conv2d valid", lambda: nn.Conv2d(4, 6, 3, padding="valid"), IMAGE),
    ("conv1d", lambda: nn.Conv1d(4, 6, 3, 2, 1, 2, 2), SEQUENCE),
    ("conv1d same", lambda: nn.Conv1d(4, 6, 4, padding="same"), SEQUENCE),
    ("linear", lambda: nn.Linear(12, 5), ROW),
    ("linear rank 3", lambda: nn.Linear(12, 5, bias=False), SEQUENCE),
    ("batch_norm 2d", lambda: trained(nn.BatchNorm2d(4)), IMAGE),
    ("batch_norm 1d", lambda: trained(nn.BatchNorm1d(12)), ROW),
    ("batch_norm sequence", lambda: trained(nn.BatchNorm1d(4, affine=False)), SEQUENCE),
    ("dropout", lambda: nn.Sequential(nn.Dropout(), nn.Identity(), nn.ReLU()), ROW),
    ("max_pool2d", lambda: nn.MaxPool2d(3, 2, 1), IMAGE),
    ("max_pool2d ceil, dilated", lambda: nn.MaxPool2d(2, 3, 1, 2, ceil_mode=True), IMAGE),
    ("max_pool1d", lambda: nn.MaxPool1d(3, 2, 1), SEQUENCE),
    ("max_pool1d ceil", lambda: nn.MaxPool1d(5, 4, ceil_mode=True), SEQUENCE),
    ("adaptive_max_pool2d", lambda: nn.AdaptiveMaxPool2d((2, 4)), IMAGE),
    ("adaptive_avg_pool2d 1", lambda: nn.AdaptiveAvgPool2d(1), IMAGE),
    ("adaptive_avg_pool2d divides", lambda: nn.AdaptiveAvgPool2d((3, 4)), IMAGE),
    ("adaptive_avg_pool2d uneven", lambda: nn.AdaptiveAvgPool2d((4, 5)), IMAGE),
    ("adaptive_avg_pool2d same", lambda: nn.AdaptiveAvgPool2d((None, 8)), IMAGE),
    ("adaptive_avg_pool1d", lambda: nn.AdaptiveAvgPool1d(4), SEQUENCE),
    ("adaptive_avg_pool1d 1", lambda: nn.AdaptiveAvgPool1d(1), SEQUENCE),
    ("flatten", lambda: nn.Flatten(), IMAGE),
    ("unflatten", lambda: nn.Unflatten(1, (3, 4)), ROW),
    ("pixel_shuffle", lambda: nn.PixelShuffle(2), IMAGE),
    ("pixel_unshuffle", lambda: nn.PixelUnshuffle(2), IMAGE),
    ("channel_shuffle", lambda: nn.ChannelShuffle(2), IMAGE),
    ("zero pad", lambda: nn.ZeroPad2d((1, 2, 3, 0)), IMAGE),
    ("constant pad", lambda: nn.ConstantPad1d((1, 2), 0.5), SEQUENCE),
    ("leaky_relu", lambda: nn.LeakyReLU(0.2), ROW),
    ("relu in place", lambda: nn.Sequential(nn.Linear(12, 5), nn.ReLU(inplace=True)), ROW),
    ("relu6", lambda: nn.ReLU6(), ROW),
    ("hardtanh", lambda: nn.Hardtanh(-0.5, 0.7), ROW),
    ("elu", lambda: nn.ELU(0.7), ROW),
    ("selu", lambda: nn.SELU(), ROW),
    ("celu", lambda: nn.CELU(0.7), ROW),
    ("hardswish in place", lambda: nn.Sequential(nn.Linear(12, 5), nn.Hardswish(True)), ROW),
    ("hardsigmoid", lambda: nn.Hardsigmoid(), ROW),
    ("sigmoid", lambda: nn.Sigmoid(), ROW),
    ("logsigmoid", lambda: nn.LogSigmoid(), ROW),
    ("tanh", lambda: nn.Tanh(), ROW),
    ("silu", lambda: nn.SiLU(), ROW),
    ("gelu", lambda: nn.GELU(), ROW),
    ("gelu tanh", lambda: nn.GELU("tanh"), ROW),
    ("mish", lambda: nn.Mish(), ROW),
    ("softplus", lambda: nn.Softplus(2.0, 1.0), ROW),
    ("softsign", lambda: nn.Softsign(), ROW),
    ("hardshrink", lambda: nn.Hardshrink(0.3), ROW),
    ("softshrink", lambda: nn.Softshrink(0.3), ROW),
    ("tanhshrink", lambda: nn.Tanhshrink(), ROW),
    ("threshold", lambda: nn.Threshold(0.1, -0.4), ROW),
    ("upsample nearest", lambda: nn.Upsample(scale_factor=2), IMAGE),
    ("upsample nearest size", lambda: nn.Upsample((9, 5)), IMAGE),
    ("upsample nearest 1d", lambda: nn.Upsample(scale_factor=1.5), SEQUENCE),
    ("upsample exact", lambda: nn.Upsample((9, 5), mode="nearest-exact"), IMAGE),
    ("upsample bilinear", lambda: nn.Upsample(scale_factor=2.5, mode="bilinear"), IMAGE),
    ("upsample bilinear size", lambda: nn.Upsample((4, 11), mode="bilinear"), IMAGE),
    (
        "upsample bilinear corners",
        lambda: nn.Upsample((9, 1), mode="bilinear", align_corners=True),
        IMAGE,
    ),
    ("upsample linear", lambda: nn.Upsample(7, mode="linear"), SEQUENCE),
]


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(("make", "shape"), [c[1:] for c in LAYERS], ids=[c[0] for c in LAYERS])
def test_layer_is_converted(make: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    _normal(make(), shape)


def _in_place(x: Tensor) -> Tensor:
    y = x + 1
    y.mul_(2.0).sub_(0.25).clamp_(-1, 3).sigmoid_()
    y /= 2
    return y


W = torch.linspace(-1, 1, 12 * 5).reshape(12, 5)
C = torch.linspace(-1, 2, 12)

FUNCTIONS: list[tuple[str, Callable[[Tensor], Any], tuple[int, ...]]] = [
    ("add numbers", lambda x: torch.add(x, 3, alpha=2) + 0.5 - 2, ROW),
    ("rsub", lambda x: 1 - x, ROW),
    ("rsub alpha", lambda x: torch.rsub(x, 2.0, alpha=3), ROW),
    ("mul, div numbers", lambda x: -2 * x / 3, ROW),
    ("add itself", lambda x: x + torch.add(x, x, alpha=0.5), ROW),
    ("sub", lambda x: torch.sub(x, x * x, alpha=2) - x.exp(), ROW),
    ("constants", lambda x: (x + C) * C - C, ROW),
    ("one element", lambda x: x * torch.tensor([0.5]) + torch.tensor(2), ROW),
    ("broadcast", lambda x: x * C.reshape(12, 1)[:4], SEQUENCE),
    ("div constant", lambda x: x / (C + 5), ROW),
    ("div value", lambda x: x / (x.abs() + 2), ROW),
    ("number over value", lambda x: 2 / (x.abs() + 1), ROW),
    ("integer constant", lambda x: x + torch.arange(12), ROW),
    ("in place", _in_place, ROW),
    ("clamp", lambda x: torch.clamp(x, max=0.5).clamp_min(-0.5), ROW),
    ("clamp tensors", lambda x: torch.clamp(x, torch.tensor(-0.5), torch.tensor(0.5)), ROW),
    ("maximum", lambda x: torch.maximum(x, torch.tensor(0.1)), ROW),
    ("minimum", lambda x: torch.minimum(torch.tensor([0.1]), x), ROW),
    ("pow", lambda x: (x.abs() + 1) ** 1.5 + x**2 + x**3 + x**1, ROW),
    ("roots", lambda x: (x.abs() + 1) ** 0.5 + (x.abs() + 1).rsqrt() + (x.abs() + 1).sqrt(), ROW),
    ("exp, log", lambda x: x.exp() + x.expm1() + (x.abs() + 1).log() + x.abs().log1p(), ROW),
    ("waves", lambda x: x.sin() + x.cos() + x.erf() + x.sign() - x.neg(), ROW),
    ("rounding", lambda x: (3 * x).round() + (3 * x).floor() + (3 * x).ceil(), ROW),
    ("reciprocal", lambda x: (x.abs() + 1).reciprocal() + x.square(), ROW),
    ("matmul weight", lambda x: x @ W, ROW),
    ("matmul weight rank 3", lambda x: x @ W, SEQUENCE),
    ("weight on the left", lambda x: W.T @ x.mT, SEQUENCE),
    ("matmul vector", lambda x: x @ C, SEQUENCE),
    ("mm", lambda x: torch.mm(x, W), ROW),
    ("addmm", lambda x: torch.addmm(C[:5], x, W), ROW),
    ("addmm scaled", lambda x: torch.addmm(C[:5], x, W, beta=2, alpha=0.5), ROW),
    ("bmm", lambda x: torch.bmm(x, x.transpose(1, 2)), SEQUENCE),
    ("baddbmm", lambda x: torch.baddbmm(x[:, :, :4], x, x.mT), SEQUENCE),
    ("linear computed weight", lambda x: F.linear(x, x[0] + 0 * x[0], C[:4]), SEQUENCE),
    ("avg_pool2d", lambda x: F.avg_pool2d(x, 3, 2, 1), IMAGE),
    ("avg_pool2d ceil", lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True), IMAGE),
    (
        "avg_pool2d ceil, border not counted",
        lambda x: F.avg_pool2d(x, (3, 2), 2, 1, ceil_mode=True, count_include_pad=False),
        IMAGE,
    ),
    (
        "avg_pool2d divisor",
        lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, divisor_override=4),
        IMAGE,
    ),
    ("avg_pool1d", lambda x: F.avg_pool1d(x, 3, 2, 1, count_include_pad=False), SEQUENCE),
    ("mean", lambda x: x.mean((2, 3)), IMAGE),
    ("mean keepdim", lambda x: x.mean(-1, keepdim=True), IMAGE),
    ("sum", lambda x: x.sum(1), IMAGE),
    ("view", lambda x: x.view(x.shape[0], -1, 2).reshape(-1, 2), IMAGE),
    ("reshape batch away", lambda x: x.reshape(-1, 8).view(x.size(0), 24, 8), IMAGE),
    ("squeeze", lambda x: x.mean(1, True).squeeze(1).unsqueeze(-1), IMAGE),
    ("unflatten", lambda x: x.unflatten(1, (2, -1)), ROW),
    ("permute", lambda x: x.permute(0, 2, 3, 1).transpose(-1, 1), IMAGE),
    ("t", lambda x: x.t(), ROW),
    ("movedim", lambda x: x.movedim(1, -1).movedim((1, 2), (2, 3)), IMAGE),
    ("slice", lambda x: x[:, 1:-1, ::2, 3:100], IMAGE),
    ("select", lambda x: x[:, -1, 2], IMAGE),
    ("narrow", lambda x: x.narrow(2, -4, 3), IMAGE),
    ("split", lambda x: x.split(5, 3), IMAGE),
    ("split sizes", lambda x: x.split([1, 2, 5], -1), IMAGE),
    ("chunk", lambda x: x.chunk(3, 3), IMAGE),
    ("unbind", lambda x: x.unbind(2)[3], IMAGE),
    ("tensor_split", lambda x: x.tensor_split(3, 3), IMAGE),
    ("cat", lambda x: torch.cat([x, x.relu(), x[:, :1]], 1), IMAGE),
    ("stack", lambda x: torch.stack([x, x.relu()], -1), ROW),
    ("hstack", lambda x: torch.hstack([x, x]), ROW),
    ("expand", lambda x: x[:, :1].expand(-1, 5, -1, -1), IMAGE),
    ("expand front", lambda x: x[:, :1].expand(3, *x[:, :1].shape), ROW),
    ("repeat", lambda x: x.repeat(1, 3), ROW),
    ("repeat 1", lambda x: x[:, :1].repeat(2, 1, 5), ROW),
    ("pad", lambda x: F.pad(x, (1, 0, 2, 3, 0, 1), value=-1.0), IMAGE),
    ("crop", lambda x: F.pad(x, (-1, 2, 0, -2)), IMAGE),
    ("identities", lambda x: x.detach().clone().contiguous().to(torch.float32).float() + 0, ROW),
    ("interpolate factor", lambda x: F.interpolate(x, scale_factor=(0.5, 1.25)), IMAGE),
    (
        "interpolate bilinear shrink",
        lambda x: F.interpolate(x, scale_factor=0.7, mode="bilinear"),
        IMAGE,
    ),
    (
        "interpolate recompute",
        lambda x: F.interpolate(x, scale_factor=1.3, mode="bilinear", recompute_scale_factor=True),
        IMAGE,
    ),
]


@pytest.mark.parametrize(
    ("function", "shape"), [c[1:] for c in FUNCTIONS], ids=[c[0] for c in FUNCTIONS]
)
def test_function_is_converted(function: Callable[[Tensor], Any], shape: tuple[int, ...]) -> None:
    _normal(Calls(function), shape)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y: x * y - torch.sub(y, x, alpha=2),
        lambda x, y: torch.matmul(x, y.mT),
        lambda x, y: torch.cat([x, y], 1),
        lambda x, y: y.expand_as(x) + x.type_as(y),
    ],
    ids=["arithmetic", "matmul", "cat", "as another"],
)
def test_function_of_two_inputs_is_converted(function: Callable[..., Tensor]) -> None:
    _normal(CallsTwo(function), SEQUENCE, SEQUENCE)


def test_what_does_nothing_leaves_no_node() -> None:
    graph = _normal(Calls(lambda x: (x * 1 + 0).detach().view(x.shape).clone()), ROW)
    assert targets(graph) == []
    assert graph.results == graph.inputs


def test_calls_on_constants_are_evaluated() -> None:
    graph = _normal(Calls(lambda x: x @ (W * 2).clone().relu()), ROW)
    assert targets(graph) == ["qfloat.linear"]


def test_conversion_keeps_name_and_origin() -> None:
    graph = _normal(nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()), IMAGE)
    assert [n.name for n in graph.calls] == ["conv2d", "relu"]


class _Odd(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = torch.cumsum(x, 1)
        z = F.pad(y, (1, 1), mode="reflect")
        return torch.sort(z)[0].relu()


def test_all_unsupported_calls_are_one_error() -> None:
    with pytest.raises(QCompilerError) as caught:
        run_passes(_Odd(), [ROW], "normalize-ops")
    assert caught.value.code == "QC0201"
    text = str(caught.value)
    for part in ("aten.cumsum", "aten.pad", "'reflect'", "aten.sort", "test_normalize_ops.py:"):
        assert part in text
    assert caught.value.source is not None
    assert "y = torch.cumsum(x, 1)" in caught.value.source


def test_without_strict_they_are_float_islands() -> None:
    model = Calls(lambda x: torch.cumsum(x.relu(), 1).relu())
    graph = run_passes(model, [ROW], "normalize-ops", strict=False)
    assert targets(graph) == ["qfloat.clamp", "aten.cumsum", "qfloat.clamp"]
    intents = [quant_of(n).intent for n in graph.calls]
    assert intents[0] is None
    assert isinstance(intents[1], KeepFloat)
    assert "conversion" in intents[1].reason
    check_equal(model, graph, [ROW])


def test_an_island_has_one_result() -> None:
    model = Calls(lambda x: torch.cumsum(torch.sort(x.relu(), 1)[0], 1))
    with pytest.raises(QCompilerError, match="1 operator has no integer form and several") as told:
        run_passes(model, [ROW], "normalize-ops", strict=False)
    assert told.value.code == "QC0201"
    assert "aten.sort" in told.value.problem
    assert "strict" not in told.value.remedy


LIBRARY = torch.library.Library("tests_normalize", "DEF")
LIBRARY.define("twice(Tensor x) -> Tensor")
LIBRARY.impl("twice", lambda x: x * 2, "CompositeExplicitAutograd")


def convert_twice(site: Site) -> Converted:
    """Converts the operator above."""
    return site.affine(site.tensor("x"), 2.0, 0.0)


def test_operators_of_other_packages_bring_their_conversion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = Calls(lambda x: torch.ops.tests_normalize.twice(x).relu())
    with pytest.raises(QCompilerError, match=r"tests_normalize\.twice"):
        run_passes(model, [ROW], "normalize-ops")
    place = f"{__name__}:convert_twice"
    monkeypatch.setitem(ENTRY_POINTS, "qcompiler.ops", {"tests_normalize.twice.default": place})
    registry.refresh()
    try:
        assert targets(_normal(model, ROW)) == ["qfloat.unary", "qfloat.clamp"]
    finally:
        monkeypatch.undo()
        registry.refresh()


def test_dynamic_sizes_keep_their_expressions() -> None:
    model = nn.Sequential(nn.Conv1d(4, 6, 3, 2, 1), nn.ReLU(), nn.MaxPool1d(2, 2))
    graph = capture(model, (torch.randn(2, 4, 20),), ({0: "batch", 2: "length"},))
    Pipeline.parse("normalize-ops").run(graph, PassContext())
    verify_graph(graph, infer_types=True)
    x = torch.randn(3, 4, 33)
    with torch.no_grad():
        torch.testing.assert_close(graph.run(x)[0], model(x), rtol=2e-5, atol=2e-5)


def test_dropout_that_ignores_eval_is_refused() -> None:
    with pytest.raises(QCompilerError, match="at random"):
        run_passes(Calls(lambda x: F.dropout(x, 0.5, training=True)), [ROW], "normalize-ops")


def test_batch_statistics_are_refused() -> None:
    model = nn.BatchNorm1d(12, track_running_stats=False)
    with pytest.raises(QCompilerError, match="statistics of the batch"):
        run_passes(model, [ROW], "normalize-ops")
