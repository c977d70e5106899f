"""The error of each value of an integer program against the float model, on a few samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from qcompiler.ir.annotations import quant_of
from qcompiler.ir.graph import QGraph
from qcompiler.report.table import decibels


def measure_errors(
    original: QGraph, lowered: QGraph, inputs: Sequence[torch.Tensor]
) -> dict[str, float]:
    """Returns the SQNR in dB of each integer node that stands for a value of the float graph.

    Args:
        original: the float graph.
        lowered: a graph of integer operators made from it.
        inputs: samples to run both on.
    """
    wanted = {quant_of(n).stands_for for n in lowered.calls} - {None}
    floats = {n.name: v for n, v in original.trace(*inputs) if n.name in wanted}
    found: dict[str, float] = {}
    for node, value in lowered.trace(*inputs):
        quant = quant_of(node)
        name, qtype = quant.stands_for, quant.qtype
        if name not in floats or qtype is None or not isinstance(value, torch.Tensor):
            continue
        if value.is_floating_point() or len(qtype.scale) != 1:
            continue
        expected = floats[name].to(torch.float64)
        actual = (value.to(torch.float64) - qtype.tensor_zero_point) * qtype.tensor_scale
        noise = float((expected - actual).square().sum())
        found[node.name] = decibels(float(expected.square().sum()), noise)
    return found
