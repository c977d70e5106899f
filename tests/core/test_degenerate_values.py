"""Values without information, dead, constant or all zero: no error, and right results."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import qcompiler as qc
from tests.core.test_bad_input import DATA, compiled, conv
from tests.passes.lowering.models import Function, decibels


def close(model: nn.Module, data: Any = DATA, sqnr: float = 30.0) -> qc.Program:
    """Checks a program against its float model on the first batch."""
    program = compiled(model, data)
    x = data[0]
    with torch.no_grad():
        expected = model(x)
    assert decibels(expected, program(x)) >= sqnr
    assert program.verify()
    return program


def test_dead_channels() -> None:
    model: Any = nn.Sequential(conv(), nn.ReLU(), nn.Conv2d(4, 5, 1))
    model[0].weight.data[1] = 0.0
    model[0].bias.data[1] = 0.0
    model[0].weight.data[2] *= 1e-20
    model[2].weight.data[:, 3] = 0.0
    close(model)


def test_constant_channels() -> None:
    model: Any = nn.Sequential(conv(), nn.ReLU(), nn.Conv2d(4, 5, 1))
    model[0].weight.data[1] = 0.0
    model[0].bias.data[1] = 0.7
    model[0].weight.data[3] = 1e-30
    model[0].bias.data[3] = 5.0
    close(model)


@pytest.mark.parametrize("bias", [0.0, 3.0, -3.0])
def test_all_weights_zero(bias: float) -> None:
    model: Any = nn.Sequential(conv(0.0), nn.Conv2d(4, 2, 1))
    model[0].bias.data.fill_(bias)
    close(model)


@pytest.mark.parametrize("value", [0.0, 1.5, -2.0, 1e-30, 1e20])
def test_inputs_that_never_change(value: float) -> None:
    data = [torch.full((4, 3, 8, 8), value)]
    program = close(nn.Sequential(conv(), nn.ReLU(), nn.AvgPool2d(2)), data, sqnr=20)
    torch.manual_seed(3)
    assert bool(program(torch.randn(2, 3, 8, 8)).isfinite().all())


def test_a_value_that_is_always_zero() -> None:
    program = close(Function(lambda x: (x - x) * 3.0 + F.relu(-x.abs())))
    assert float(program(DATA[0]).abs().max()) == 0.0
