"""Times on the device: of the steps of a program, and of what its memory and matrix units do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby

import torch

from qcompiler.backends.cuda.replay import Recorded, record
from qcompiler.target.base import Limits

# Runs of a step that one recording repeats, so that starting it does not count.
_REPEATS = 20
_PRODUCT = 8192
_COPIED = 1 << 29


def microseconds(run: Callable[[], object], repeats: int, *, inner: int = _REPEATS) -> float:
    """Returns the least time of a run in microseconds, over several replays of a recording.

    Data stay in the cache of the second level where they fit.
    """
    run()  # compiles
    graph = record(lambda: [run() for _ in range(inner)])
    least = float("inf")
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        least = min(least, start.elapsed_time(end) * 1e3 / inner)
    return least


def time_steps(
    recorded: Recorded, inputs: Sequence[torch.Tensor], repeats: int
) -> dict[str, float]:
    """Returns the least microseconds of each node."""
    bound = recorded.bind(inputs)
    bound.start(*recorded.steps)
    times = {}
    for node, steps in groupby(recorded.steps, key=lambda step: step.node):
        times[node] = microseconds(partial(bound.start, *steps), repeats)
    return times


def measure_limits(device: torch.device) -> Limits:
    """Returns what a device does at best: torch's int8 product, and a copy of its memory."""
    side = _PRODUCT
    a = torch.randint(-128, 128, (side, side), dtype=torch.int8, device=device)
    b = torch.randint(-128, 128, (side, side), dtype=torch.int8, device=device).t()
    product = microseconds(lambda: torch._int_mm(a, b), 5, inner=3)
    x = torch.empty(_COPIED, dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    copied = microseconds(lambda: y.copy_(x), 5, inner=3)
    return Limits(side**3 / product * 1e6, 2 * _COPIED / copied * 1e6)
