"""Simulation: conversions equal their definition in any layout, and constants are read anew."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qcompiler.ir.annotations import qtype_of
from qcompiler.ir.graph import argument
from qcompiler.runtime import simulate
from qcompiler.runtime.simulate import Simulation, dequantize_codes, quantize_codes
from tests.passes.quantize import QUANTIZED, run

X = torch.randn(6, 4, 5, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("block", [1 << 16, 7])
def test_codes_do_not_depend_on_blocks_or_layout(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(simulate, "_BLOCK", block)
    graph, _ = run(nn.Conv2d(4, 3, 1), [X], QUANTIZED)
    qtype = qtype_of(graph.inputs[0])
    assert qtype.tensor_zero_point != 0
    low, high = qtype.qmin, qtype.qmax
    for x in (X, 2.0 * X.permute(2, 0, 3, 1), X[:0], X[0, 0, 0, 0]):
        scaled = x * (1.0 / qtype.tensor_scale)
        codes = quantize_codes(x, qtype)
        assert torch.equal(codes, (scaled.round() + qtype.tensor_zero_point).clamp(low, high))
        assert codes.dtype == qtype.dtype
        for layout in (codes, codes.movedim(0, -1) if codes.dim() else codes):
            offset = layout.to(torch.float32) - qtype.tensor_zero_point
            assert torch.equal(dequantize_codes(layout, qtype), offset * qtype.tensor_scale)


def test_a_weight_changed_before_its_step_is_what_the_step_sees() -> None:
    graph, _ = run(nn.Conv2d(4, 3, 1, bias=False), [X], QUANTIZED)
    simulation = Simulation(graph, [[X[:2]], [X[2:]]])
    for node in simulation.steps():
        if node.target is torch.ops.qfloat.conv2d.default:
            codes = argument(argument(node, "weight"), "weight")
            graph.set_constant(codes, torch.zeros_like(graph.constant(codes)))
    result = graph.results[0]
    assert all(not simulation.operand(result, i).any() for i in range(2))
