"""quantize-weights: one scale per channel, symmetric, narrow; raised only where it must be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import qtype_of, update_quant
from qcompiler.ir.graph import QGraph, argument, is_call
from qcompiler.ir.intent import Spec
from qcompiler.ir.qtypes import Granularity
from qcompiler.ir.stages import Stage
from qcompiler.numerics.bitpack import pack_weight
from qcompiler.passes.rewrite.quantize_weights import QuantizeWeights
from qcompiler.testing import check_ir
from tests.passes.lowering.models import Function
from tests.passes.quantize import TYPED, run

WEIGHTED = (torch.ops.qfloat.conv2d.default, torch.ops.qfloat.linear.default)
X = torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(0))


def quantized(
    model: nn.Module, x: Tensor = X, options: str = ""
) -> tuple[QGraph, list[tuple[Tensor, Tensor]]]:
    """Returns the graph, and codes and scales of each weight in order."""
    graph, _ = run(model, [x], f"{TYPED},quantize-weights{options}")
    assert graph.stage == Stage.QUANTIZED
    found = []
    for node in graph.calls:
        if is_call(node, *WEIGHTED):
            codes, scale, _ = argument(node, "weight").args
            assert qtype_of(codes).scale == tuple(graph.constant(scale).tolist())
            found.append((graph.constant(codes), graph.constant(scale)))
    return graph, found


def conv(**options: int) -> nn.Conv2d:
    """Returns a convolution whose channels have ranges of several decades."""
    torch.manual_seed(0)
    layer = nn.Conv2d(4, 6, 3, **options)  # type: ignore[arg-type]  # integers
    layer.weight.data.mul_(10.0 ** (torch.arange(-3, 3) / 1.5).view(-1, 1, 1, 1))
    return layer


def test_the_printed_form() -> None:
    graph, _ = quantized(nn.Sequential(conv()))
    check_ir(
        graph,
        """
        CHECK: %[[W:.*]] : i8[6,4,3,3] = constant
        CHECK: %[[S:.*]] : f64[6] = constant
        CHECK: %[[D:.*]] : f32[6,4,3,3] = qfloat.dequantize_weight(%[[W]], %[[S]], 0)
        CHECK: qfloat.conv2d(%x, %[[D]],
        """.replace("%x", "%{{.*}}"),
    )


def test_each_channel_uses_its_whole_range() -> None:
    layer = conv()
    _, ((codes, scale),) = quantized(nn.Sequential(layer))
    flat = layer.weight.detach().double().flatten(1)
    assert (codes.dtype, scale.dtype) == (torch.int8, torch.float64)
    assert codes.flatten(1).abs().amax(1).tolist() == [127] * 6
    torch.testing.assert_close(scale, flat.abs().amax(1) / 127, rtol=1e-12, atol=0)
    error = (codes.flatten(1) * scale[:, None] - flat).abs()
    assert bool((error <= scale[:, None] * 0.5 * (1 + 1e-9)).all())


def test_fewer_bits_and_another_method() -> None:
    _, ((codes, _),) = quantized(nn.Sequential(conv()), options="{bits=4}")
    assert int(codes.abs().max()) == 7
    layer = conv()
    layer.weight.data[5, 0, 0, 0] *= 3.0
    error = []
    for options in ("{bits=4 method=minmax}", "{bits=4}"):
        _, ((codes, scale),) = quantized(nn.Sequential(layer), options=options)
        restored = codes * scale.view(-1, 1, 1, 1)
        error.append(float((restored - layer.weight.detach()).square().sum()))
    assert error[1] < error[0]


def test_a_weight_gets_the_bits_that_its_intent_asks_for() -> None:
    graph, context = run(nn.Sequential(conv(), nn.ReLU(), nn.Conv2d(6, 4, 3)), [X], TYPED)
    first, second = (argument(n, "weight") for n in graph.calls if is_call(n, *WEIGHTED))
    update_quant(second, intent=Spec(3, symmetric=True))
    QuantizeWeights(bits=5).run(graph, context)
    codes = [argument(n, "weight").args[0] for n in graph.calls if is_call(n, *WEIGHTED)]
    assert [qtype_of(c).bits for c in codes] == [5, 3]
    assert [int(graph.constant(c).abs().max()) for c in codes] == [15, 3]
    assert first not in graph.nodes


def test_a_channel_of_zeros_has_codes_of_zero() -> None:
    layer = conv()
    layer.weight.data[2] = 0.0
    _, ((codes, scale),) = quantized(nn.Sequential(layer))
    assert not codes[2].any()
    assert bool((scale > 0).all())


def test_a_bias_that_dwarfs_its_weights_raises_the_scale() -> None:
    layer = conv()
    layer.weight.data[0] *= 1e-9
    assert layer.bias is not None
    layer.bias.data[0] = 30.0
    graph, ((codes, scale),) = quantized(nn.Sequential(layer))
    x_scale = qtype_of(graph.inputs[0]).tensor_scale
    assert abs(30.0 / (x_scale * float(scale[0]))) <= 2**29 * (1 + 1e-6)
    assert not codes[0].any()


def test_a_multiplier_is_always_encodable() -> None:
    layer = conv()
    layer.weight.data[0] *= 1e-30
    run(nn.Sequential(layer), [X], f"{TYPED},quantize-weights,lower-to-integer")


def test_a_visible_loss_is_refused() -> None:
    layer = conv()
    assert layer.bias is not None
    layer.bias.data[3] = 1e8
    with pytest.raises(QCompilerError, match="channel 3") as caught:
        quantized(nn.Sequential(layer, nn.ReLU6()))
    assert caught.value.code == "QC0403"


def test_a_tied_weight_is_quantized_for_each_reader() -> None:
    def twice(x: Tensor, layer: nn.Module) -> Tensor:
        y: Tensor = layer(torch.relu(layer(x)) * 100.0)
        return y

    torch.manual_seed(0)
    _, weights = quantized(Function(twice, nn.Conv2d(4, 4, 3, padding=1)))
    assert len(weights) == 2
    assert torch.equal(weights[0][0], weights[1][0])


def test_the_float_weight_is_dropped() -> None:
    graph, _ = quantized(nn.Sequential(conv(), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3)))
    held = [graph.constant(n) for n in graph.nodes if n.op == "get_attr"]
    assert not [t for t in held if t.dtype == torch.float32 and t.dim() > 1]


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6])
def test_groups_of_a_channel_have_factors_of_their_own(bits: int) -> None:
    layer = conv()
    layer.weight.data[:, 2:] *= 0.1
    noise = {}
    for options in (f"{{bits={bits}}}", f"{{bits={bits} group=16}}"):
        graph, ((codes, scale),) = quantized(nn.Sequential(layer), options=options)
        weight = next(n for n in graph.nodes if n.op == "get_attr" and "_i" in str(n.target))
        real = codes * scale.view(-1, 1, 1, 1)
        noise[qtype_of(weight).granularity.group] = float(
            (real - layer.weight.detach()).square().sum()
        )
        assert qtype_of(weight).bits == bits
    assert int(codes.abs().max()) <= 127
    packed = pack_weight(codes, bits, 16)
    assert packed is not None
    assert packed.factors is not None
    assert packed.factors.shape == (6, 3)  # 36 inputs: two groups of 16 and a tail of 4
    assert noise[16] < noise[None]


def test_one_group_for_all_inputs_is_a_scale_per_channel() -> None:
    graph, _ = quantized(nn.Sequential(conv()), options="{bits=4 group=36}")
    assert [qtype_of(n).granularity for n in graph.nodes if "_i4" in str(n.target)] == [
        Granularity(0)
    ]
