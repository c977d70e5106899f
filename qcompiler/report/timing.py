"""Times alternatives side by side, so that a change of the machine's load meets all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """The seconds of each timed call of one alternative."""

    seconds: tuple[float, ...]

    @property
    def minimum(self) -> float:
        """The fastest call in seconds: the cost without disturbance."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """The median call in seconds: what a user sees."""
        return statistics.median(self.seconds)


def interleave(
    alternatives: Mapping[str, Callable[[], object]], *, rounds: int = 20, warmup: int = 3
) -> dict[str, Timing]:
    """Calls every alternative once per round and returns the timings under the same names.

    Args:
        alternatives: name -> call to be timed.
        rounds: timed calls of each alternative.
        warmup: calls of each alternative before timing starts.
    """
    for call in alternatives.values():
        for _ in range(warmup):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in alternatives}
    for _ in range(rounds):
        for name, call in alternatives.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}
