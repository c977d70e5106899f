"""Statistics that passes ask for, merged into one calibration run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from qcompiler.numerics.observers import Statistic


@dataclass(frozen=True)
class StatisticRequest:
    """Asks for one statistic of one node's value.

    ``samples`` limits the statistic to the first samples of the data, so that it can be compared
    with a later run over the samples that the calibration data keep; None takes all.
    """

    node: str
    statistic: Statistic
    samples: int | None = None


Statistics = dict[StatisticRequest, Any]
