"""What a call of a program costs beside its operators: python -m benchmarks.call_cost."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

import qcompiler
from benchmarks.tables import write_table

_CALLS = 500
_ROUNDS = 60


def microseconds(calls: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Returns the mean time of a call in each round; the alternatives take turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(_ROUNDS):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(_CALLS):
                call()
            times[name].append((time.perf_counter() - start) / _CALLS * 1e6)
    return times


class Pair(nn.Module):
    """Two inputs and a mapping of two results: more to check and to wrap."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns a sum and a product of a layer."""
        return {"sum": a + b, "layer": self.layer(a)}


def main() -> None:
    """Measures models so small that a call costs more than its operators."""
    torch.set_num_threads(1)
    rows = [["model", "threads", "operators", "call, minimum", "median", "eager, minimum"]]
    for name, model, count in (
        ("linear 8 -> 8", nn.Linear(8, 8).eval(), 1),
        ("two inputs, two results", Pair().eval(), 2),
    ):
        batches = [torch.randn(4, 8) if count == 1 else (torch.randn(4, 8), torch.randn(4, 8))] * 2
        program = qcompiler.compile(model, batches, target="cpu")
        inputs = [torch.randn(1, 8) for _ in range(count)]
        for threads in (1, 2):
            program.set_num_threads(threads)
            with torch.inference_mode():
                calls = {"program": partial(program, *inputs), "eager": partial(model, *inputs)}
                times = microseconds(calls)
            operators = sum(r.microseconds or 0.0 for r in program.bench(*inputs).report.rows)
            ours = times["program"]
            cells = [operators, min(ours), statistics.median(ours), min(times["eager"])]
            rows.append([name, str(threads), *(f"{cell:.2f} us" for cell in cells)])
    title = f"cost of a call, {_ROUNDS} rounds of {_CALLS} calls in turns; goal: under 20 us"
    write_table("call_cost", title, rows)


if __name__ == "__main__":
    main()
