"""Calibrators against brute force on data of every shape that networks produce."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import numpy as np
import numpy.typing as npt
import pytest
import torch

from qcompiler.errors import QCompilerError
from qcompiler.numerics.calibrators import (
    CALIBRATORS,
    Calibrator,
    KlCalibrator,
    MinMaxCalibrator,
    MovingAverageCalibrator,
    MseCalibrator,
    OctavCalibrator,
    PercentileCalibrator,
    calibrator_class,
)
from qcompiler.numerics.ranges import Range, RangeState, qparams
from qcompiler.numerics.rounding import quantize_tensor

GENERATOR = torch.Generator().manual_seed(0)
NORMAL = torch.randn(40_000, generator=GENERATOR)
DATA = {
    "normal": NORMAL,
    "shifted": NORMAL + 2.0,
    "relu": NORMAL.relu(),
    "relu6": (NORMAL * 4).clamp(0, 6),
    "silu": torch.nn.functional.silu(NORMAL * 2),
    "outlier": torch.cat([NORMAL, torch.tensor([60.0])]),
    "negative": -NORMAL.relu(),
    "heavy": NORMAL**3,
}
EACH = [calibrator() for calibrator in CALIBRATORS.values()]


def calibrate(
    calibrator: Calibrator, *batches: torch.Tensor, num_bits: int = 8, symmetric: bool = False
) -> Range:
    observer = calibrator.statistic.observe()
    for batch in batches:
        observer.update(batch)
    return calibrator.range_of(observer.result(), num_bits, symmetric)


def error(x: torch.Tensor, range_: Range, num_bits: int, symmetric: bool, p: float = 2.0) -> float:
    scale, zero_point = qparams(range_, num_bits, True, symmetric)
    qmax = 2 ** (num_bits - 1) - 1
    q = quantize_tensor(x, scale, zero_point, -qmax - (0 if symmetric else 1), qmax)
    return float(((q - zero_point) * scale - x.double()).abs().pow(p).mean())


@pytest.mark.parametrize("calibrator", EACH, ids=lambda c: c.name)
@pytest.mark.parametrize("symmetric", [False, True])
class TestEveryCalibrator:
    @pytest.mark.parametrize("kind", DATA)
    def test_stays_within_the_data(
        self, calibrator: Calibrator, symmetric: bool, kind: str
    ) -> None:
        x = DATA[kind]
        range_ = calibrate(calibrator, x, symmetric=symmetric)
        assert range_.state is RangeState.FINITE
        assert range_.lo >= float(x.min())
        assert range_.hi <= float(x.max())
        noise = error(x, range_, 8, symmetric)
        share = 0.1 if kind in ("outlier", "heavy") else 2e-3
        assert noise < share * float(x.double().square().mean())

    def test_keeps_both_spikes_of_relu6(self, calibrator: Calibrator, symmetric: bool) -> None:
        range_ = calibrate(calibrator, DATA["relu6"], symmetric=symmetric)
        assert range_.lo == 0.0
        assert range_.hi == pytest.approx(6.0, rel=0.012)

    @pytest.mark.parametrize("value", [0.0, 3.5, -3.5])
    def test_constants(self, calibrator: Calibrator, symmetric: bool, value: float) -> None:
        range_ = calibrate(calibrator, torch.full((9,), value), symmetric=symmetric)
        assert range_ == Range.of(value, value)

    def test_no_data(self, calibrator: Calibrator, symmetric: bool) -> None:
        assert calibrate(calibrator, symmetric=symmetric) == Range.unobserved()

    def test_inf_and_nan_are_kept_in_mind(self, calibrator: Calibrator, symmetric: bool) -> None:
        x = torch.cat([NORMAL, torch.tensor([math.inf, math.nan])])
        range_ = calibrate(calibrator, x, symmetric=symmetric)
        assert range_.has_nonfinite
        plain = calibrate(calibrator, NORMAL, symmetric=symmetric)
        assert (range_.lo, range_.hi) == (plain.lo, plain.hi)

    def test_few_values(self, calibrator: Calibrator, symmetric: bool) -> None:
        range_ = calibrate(calibrator, torch.tensor([-1.0, 0.0, 4.0]), symmetric=symmetric)
        assert -1.0 <= range_.lo <= 0.0 < range_.hi <= 4.0


def test_minmax_and_moving_average() -> None:
    batches = (torch.tensor([0.0, 8.0]), torch.tensor([-4.0, 16.0]))
    assert calibrate(MinMaxCalibrator(), *batches) == Range.of(-4.0, 16.0)
    assert calibrate(MovingAverageCalibrator(0.25), *batches) == Range.of(-1.0, 10.0)


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("q", [99.0, 99.9, 99.99])
def test_percentile_equals_sorting(kind: str, q: float) -> None:
    x = DATA[kind].double()
    width = 2.0 ** math.ceil(math.log2(float(x.abs().max()) / 2048) + 1e-12)
    rank = math.ceil(len(x) * q / 100) - 1

    def percentile(values: torch.Tensor) -> float:
        return float(values.sort().values[rank])

    range_ = calibrate(PercentileCalibrator(q), DATA[kind])
    high, low = percentile(x), -percentile(-x)
    assert high <= range_.hi <= high + 2 * width
    assert low - 2 * width <= range_.lo <= low
    folded = calibrate(PercentileCalibrator(q), DATA[kind], symmetric=True)
    assert max(-folded.lo, folded.hi) == pytest.approx(percentile(x.abs()), abs=2 * width)


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("num_bits", [8, 4])
@pytest.mark.parametrize("p", [2.0, 2.4])
def test_mse_equals_brute_force(kind: str, num_bits: int, p: float) -> None:
    x = DATA[kind][:: len(DATA[kind]) // 2000]
    x = torch.cat([x, DATA[kind].min()[None], DATA[kind].max()[None]])
    lo, hi = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
    ratios = [r / 16 for r in range(2, 17)]
    for symmetric in (False, True):
        if symmetric:
            pairs = [Range.of(-max(-lo, hi) * r, max(-lo, hi) * r) for r in ratios]
        else:
            pairs = [Range.of(lo * a, hi * b) for a in ratios for b in (ratios if hi else [1.0])]
        least = min(error(x, pair, num_bits, symmetric, p) for pair in pairs)
        chosen = calibrate(MseCalibrator(p), x, num_bits=num_bits, symmetric=symmetric)
        assert error(x, chosen, num_bits, symmetric, p) <= 1.03 * least


def entropy_threshold(counts: npt.NDArray[np.float64], levels: int) -> float:
    """Searches the threshold by building both distributions, as the method is defined."""
    best, least = len(counts), math.inf
    for i in range(levels, len(counts) + 1):
        reference = counts[:i].copy()
        reference[-1] += counts[i:].sum()
        candidate = np.zeros(i)
        for level in range(levels):
            part = slice(level * i // levels, (level + 1) * i // levels)
            used = counts[part] > 0
            if used.any():
                candidate[part][used] = counts[part].sum() / used.sum()
        if ((reference > 0) & (candidate == 0)).any():
            continue
        p, q = reference / reference.sum(), candidate / candidate.sum()
        mask = p > 0
        divergence = float((p[mask] * np.log(p[mask] / q[mask])).sum())
        if divergence < least - 1e-13:
            best, least = i, divergence
    return best + 0.5


@pytest.mark.parametrize("kind", ["normal", "relu", "outlier", "heavy", "relu6"])
def test_kl_equals_brute_force(kind: str) -> None:
    calibrator = KlCalibrator(bins=512)
    x = DATA[kind]
    observer = calibrator.statistic.observe()
    observer.update(x)
    result = observer.result()
    width = result.bins.width
    counts = np.bincount((x.abs().double() / width).long().numpy()).astype(float)
    counts[0] = 0
    one_sided = kind in ("relu", "relu6")
    threshold = entropy_threshold(counts, 256 if one_sided else 128) * width
    range_ = calibrator.range_of(result, 8, False)
    assert max(-range_.lo, range_.hi) == min(threshold, float(x.abs().max()))


def test_octav_finds_the_known_thresholds_of_the_normal_law() -> None:
    share = torch.linspace(-1.0, 1.0, 1_000_001, dtype=torch.float64)[1:-1]
    x = math.sqrt(2) * torch.erfinv(share)
    for num_bits, expected in ((4, 2.562), (8, 3.924)):
        range_ = calibrate(OctavCalibrator(), x, num_bits=num_bits, symmetric=True)
        assert range_.hi == pytest.approx(expected, rel=0.005)
        assert range_.lo == -range_.hi


@pytest.mark.parametrize("kind", ["normal", "heavy", "outlier", "relu"])
def test_octav_is_near_the_least_squared_error(kind: str) -> None:
    x = DATA[kind]
    chosen = calibrate(OctavCalibrator(), x, num_bits=4, symmetric=True)
    best = calibrate(MseCalibrator(steps=200), x, num_bits=4, symmetric=True)
    assert error(x, chosen, 4, True) <= 1.1 * error(x, best, 4, True)


def test_registry() -> None:
    assert set(CALIBRATORS) == {"minmax", "moving-average", "percentile", "mse", "kl", "octav"}
    assert calibrator_class("kl") is KlCalibrator
    with pytest.raises(QCompilerError, match="did you mean minmax"):
        calibrator_class("min-max")
    with pytest.raises(FrozenInstanceError):
        PercentileCalibrator().q = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError, match="needs a HistogramResult"):
        MseCalibrator().range_of(MinMaxCalibrator().statistic.observe().result(), 8, False)
