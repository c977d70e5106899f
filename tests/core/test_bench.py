"""Program.bench: the table of operators, their work at the measured sizes, and the limits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import qcompiler as qc
from qcompiler.backends.cpu.isa import VARIABLE, supported_levels
from qcompiler.report.rates import OpRate, rates_text
from qcompiler.target.base import Limits

CHANNELS, PIXELS = 24, 14 * 14


def compile_layer(target: str) -> qc.Program:
    """Returns a program of a 1x1 layer and a pooling."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, CHANNELS, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)).eval()
    return qc.compile(model, [torch.randn(4, 3, 14, 14)], target=target)


@pytest.fixture(scope="module")
def program() -> qc.Program:
    return compile_layer("cpu")


@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (3, 2), (4, 2)])
def test_work_is_that_of_the_measured_batch(program: qc.Program, batch: int, threads: int) -> None:
    program.set_num_threads(threads)
    result = program.bench(torch.randn(batch, 3, 14, 14), rounds=2)
    convolution = next(rate for rate in result.rates if rate.macs)
    assert convolution.macs == batch * PIXELS * 3 * CHANNELS
    row = next(row for row in result.report.rows if row.node == convolution.node)
    assert (row.macs, row.bytes) == (convolution.macs, convolution.bytes)
    title = f"batch {batch}, {threads} thread{'s' if threads > 1 else ''}"
    assert f"program for cpu, {title}" in str(result.report)
    assert str(result).startswith(f"{title}, first input ({batch}, 3, 14, 14)")
    assert ("those of one thread over its share" in str(result)) == (threads > 1)
    assert "program for cpu, batch 1" in str(program.report())
    assert convolution.bytes > batch * PIXELS * (3 + CHANNELS)
    assert convolution.microseconds == row.microseconds
    quantize = result.rates[0]
    assert quantize.bytes == batch * PIXELS * 3 * (4 + 1)


@pytest.mark.parametrize("rounds", [0, -1, 2.0, True, "3", None])
def test_rounds_are_a_whole_number_above_0(program: qc.Program, rounds: Any) -> None:
    with pytest.raises(qc.QCompilerError, match="QC0702: rounds is"):
        program.bench(rounds=rounds)


def test_each_level_measures_its_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectors multiply faster than plain C, all of them at a rate that a processor may have."""
    rates = {}
    for level in supported_levels():
        monkeypatch.setenv(VARIABLE, level.name)
        limits = compile_layer("cpu").bench(rounds=1).limits
        assert limits is not None
        rates[level.name] = limits.macs_per_second
        assert 1e8 < limits.macs_per_second < 1e13
        assert 1e8 < limits.bytes_per_second < 1e13
    assert all(rate > rates["portable"] for name, rate in rates.items() if name != "portable")


def test_a_target_without_kernels_shows_no_shares() -> None:
    result = compile_layer("reference").bench(rounds=1)
    assert result.limits is None
    assert "limits" not in str(result)


def test_the_table_states_rates_and_shares() -> None:
    rates = [OpRate("conv", "kernel_a", 10.0, 1_000_000, 5000), OpRate("pool", "k", 30.0, 0, 3000)]
    lines = rates_text(rates, Limits(200e9, 2e9), plain=True).splitlines()
    cells = [line.split() for line in lines]
    assert cells[1] == "conv kernel_a 10.0 25.0% 1.00 100.0 50.0% 5.0 0.5 25.0%".split()
    assert cells[2] == "pool k 30.0 75.0% 3.0 0.1 5.0%".split()
    assert cells[3] == "total 40.0 100.0% 1.00 25.0 12.5% 8.0 0.2 10.0%".split()
    bare = rates_text(rates, None, plain=True).splitlines()[1].split()
    assert bare == "conv kernel_a 10.0 25.0% 1.00 100.0 5.0 0.5".split()


def test_an_operator_that_took_no_time_has_no_rate() -> None:
    rate = OpRate("fast", "k", 0.0, 10, 10)
    assert (rate.macs_per_second, rate.bytes_per_second) == (0.0, 0.0)
    assert rates_text([rate], Limits(1e9, 1e9), plain=True)


def test_the_text_has_the_limits_and_the_notes(program: qc.Program) -> None:
    text = program.bench(rounds=1).text(plain=True)
    assert "GMAC/s of int8" in text
    assert "of peak" in text
    assert "cpu: runs at the level" in text
    framed = str(program.bench(rounds=1))
    assert "total" in framed
