"""Measures the settings of a program's operators on this machine, in one build and within a time.

The program is built once with all settings, and every run of it times one of each operator: with
the values and weights that a run leaves in the caches, and at no more cost than those of the
operator with the most settings. Settings go by successive halving: the half that was slower in its
least time is left out, until one is left beside that of the cost model (Jamieson, Talwalkar:
Non-stochastic Best Arm Identification, AISTATS 2016).
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import TypeVar

import torch

from qcompiler.backends.native.batching import MAX_SLICE, Batching, find_batching
from qcompiler.backends.native.choices import Setting, settings_of
from qcompiler.backends.native.emitter import NativeSources, Plan, emit
from qcompiler.backends.native.runtime import NativeProgram
from qcompiler.ir.annotations import type_of
from qcompiler.ir.graph import QGraph

# How much less time another choice must take than that of the cost model.
MARGIN = 0.02
# Settings of an operator that fast tuning measures.
FAST_SETTINGS = 5
# What was timed less often does not replace another choice.
LEAST_TIMES = 4
# Of the time, what is kept for the comparison of whole programs, and for the slices of a batch.
_COMPARISON, _SLICES = 0.1, 0.15

_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True)
class Tuning:
    """What was chosen on a machine.

    Attributes:
        settings: of each node that has a choice.
        batching: how threads share the samples of a batch, None where they do not.
        changed: number of nodes whose setting is not that of the cost model.
        gain: time of the whole program with the cost model's settings over that with these, 1.0
            where no other ones were taken.
    """

    settings: Mapping[str, Setting]
    batching: Batching | None
    changed: int
    gain: float


def tune(
    graph: QGraph,
    plan: Plan,
    build: Callable[[NativeSources], NativeProgram],
    *,
    seconds: float,
    threads: Sequence[int],
    most_settings: int | None = None,
) -> Tuning:
    """Returns the choices that were fastest on this machine.

    Args:
        graph: the program.
        plan: places of its values.
        build: what builds its sources.
        seconds: time for all of it. Neither the build nor a run is cut short; what no time is left
            to measure stays as the cost model chose it.
        threads: numbers of threads; times of an operator are added up over them.
        most_settings: settings of an operator that are measured, the cheapest ones by the cost
            model; None for all.
    """
    start = time.monotonic()
    found = {node.name: settings_of(graph, node)[:most_settings] for node in graph.calls}
    settings = {name: several for name, several in found.items() if several[0]}
    batching = find_batching(graph, plan.size)
    bench = _Bench(build(emit(graph, plan, batching, settings)), settings, threads)
    left = start + seconds - time.monotonic()
    bench.measure(left * (1 - _COMPARISON - _SLICES))
    gain = bench.take_winners(left * _COMPARISON)
    if batching is not None and bench.ops:
        samples = bench.fastest_slice(batching.slice, left * _SLICES)
        batching = replace(batching, slice=samples)
    chosen = {name: several[0] for name, several in settings.items()}
    chosen |= {op.node: op.settings[op.chosen] for op in bench.ops}
    return Tuning(chosen, batching, sum(op.chosen != 0 for op in bench.ops), gain)


@dataclass
class _Op:
    """An operator with several settings: those that are still open, and the times of each.

    ``times`` and ``counts`` are by setting and number of threads.
    """

    node: str
    index: int
    settings: Sequence[Setting]
    open: list[int]
    chosen: int = 0
    times: dict[tuple[int, int], float] = field(default_factory=dict)
    counts: dict[tuple[int, int], int] = field(default_factory=dict)

    def add(self, setting: int, threads: int, nanoseconds: float) -> None:
        """Takes in a measured time."""
        key = setting, threads
        self.times[key] = min(self.times.get(key, math.inf), nanoseconds)
        self.counts[key] = self.counts.get(key, 0) + 1

    def cost(self, setting: int) -> float:
        """Returns the sum of the least times over the numbers of threads."""
        return sum(time for (known, _), time in self.times.items() if known == setting)

    def is_known(self, setting: int) -> bool:
        """Says whether a setting was timed often enough."""
        counts = [count for (known, _), count in self.counts.items() if known == setting]
        return min(counts, default=0) >= LEAST_TIMES

    def halve(self) -> None:
        """Leaves out the slower half, but not the first setting."""
        others = sorted((i for i in self.open if i), key=self.cost)
        self.open = [0, *others[: -(-len(others) // 2)]]

    def winner(self) -> int:
        """Returns the fastest setting, the first one where no other is clearly faster."""
        known = [i for i in range(len(self.settings)) if self.is_known(i)]
        best = min(known, key=self.cost, default=0)
        return best if 0 in known and self.cost(best) < (1 - MARGIN) * self.cost(0) else 0


class _Bench:
    """Runs of a program that has all settings."""

    def __init__(
        self,
        program: NativeProgram,
        settings: Mapping[str, Sequence[Setting]],
        threads: Sequence[int],
    ) -> None:
        self._program = program
        self._threads = tuple(dict.fromkeys(threads))
        self._random = Random(0)
        self.ops = [
            _Op(op.node, i, settings[op.node], list(range(len(settings[op.node]))))
            for i, op in enumerate(program.ops)
            if len(settings.get(op.node, ())) > 1
        ]

    def measure(self, seconds: float) -> None:
        """Times the settings, all of them first, then the faster ones again, in equal shares."""
        run = self._prepare(1)
        end = time.monotonic() + seconds
        most = max((len(op.settings) for op in self.ops), default=1)
        rungs = math.ceil(math.log2(most))
        for rung in range(rungs):
            left = end - time.monotonic()
            until = time.monotonic() + left / (rungs - rung)
            while time.monotonic() < until:
                self._time_settings(run)
            for op in self.ops:
                op.halve()

    def _time_settings(self, run: Callable[[int, int | None], object]) -> None:
        """Times each open setting once."""
        orders = [self._random.sample(op.open, len(op.open)) for op in self.ops]
        for k in range(max(map(len, orders))):
            self._choose([order[k % len(order)] for order in orders])
            for threads in self._threads:
                spent = (ctypes.c_int64 * len(self._program.ops))()
                run(threads, ctypes.addressof(spent))
                for op in self.ops:
                    op.add(op.chosen, threads, spent[op.index])

    def take_winners(self, seconds: float) -> float:
        """Chooses the winners if they make the whole program faster; returns how much."""
        winners, first = [op.winner() for op in self.ops], [0] * len(self.ops)
        self._choose(first)
        if not any(winners):
            return 1.0
        run = self._prepare(1)

        def measure(chosen: Sequence[int], threads: int) -> float:
            self._choose(chosen)
            return _seconds(partial(run, threads, None))

        settings = {"model": first, "winners": winners}
        calls = {
            (name, threads): partial(measure, chosen, threads)
            for threads in self._threads
            for name, chosen in settings.items()
        }
        least = _interleave(calls, seconds)
        totals = {name: sum(least.get((name, n), 1.0) for n in self._threads) for name in settings}
        gain = totals["model"] / totals["winners"]
        self._choose(winners if gain > 1.0 else first)
        return max(gain, 1.0)

    def fastest_slice(self, given: int, seconds: float) -> int:
        """Returns the samples of a slice with which a batch of several slices runs fastest."""
        threads = max(self._threads)

        def total(samples: int) -> float:
            self._program.library.qc_choose_slice(samples)
            run = self._prepare(threads * MAX_SLICE)
            return _seconds(lambda: run(threads, None))

        sizes = [1 << i for i in range(MAX_SLICE.bit_length())]
        calls = {n: partial(total, n) for n in dict.fromkeys((given, *sizes))}
        least = _interleave(calls, seconds / 2) or {given: 0.0}
        best = min(least, key=least.__getitem__)
        final = _interleave({n: calls[n] for n in {given, best}}, seconds / 2)
        return best if final and final[best] < (1 - MARGIN) * final[given] else given

    def _choose(self, chosen: Sequence[int]) -> None:
        """Makes the program run the given setting of each operator."""
        for op, setting in zip(self.ops, chosen, strict=True):
            self._program.library.qc_choose(op.index, setting)
            op.chosen = setting

    def _prepare(self, batch: int) -> Callable[[int, int | None], object]:
        """Returns runs on random inputs, with a number of threads and where times go to."""
        graph, source = self._program.graph, torch.Generator().manual_seed(0)
        sizes = {name: min(max(batch, s.low), s.high) for name, s in graph.symbols.items()}
        shapes = [type_of(node).bind(sizes) for node in graph.inputs]
        inputs = [torch.randn(shape, generator=source) for shape in shapes]
        call = self._program.prepare(sizes)
        return lambda threads, times: call(inputs, threads, times)


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _interleave(
    alternatives: Mapping[_Key, Callable[[], float]], seconds: float
) -> dict[_Key, float]:
    """Returns the least time of each alternative, nothing where there is no time to compare them.

    Every round asks each alternative for a time once; the first round warms up.
    """
    until = time.monotonic() + seconds
    least = dict.fromkeys(alternatives, math.inf)
    rounds = -1
    while rounds < LEAST_TIMES or time.monotonic() < until:
        if time.monotonic() >= until:
            return {}
        times = {key: measure() for key, measure in alternatives.items()}
        if rounds >= 0:
            least = {key: min(least[key], time) for key, time in times.items()}
        rounds += 1
    return least
