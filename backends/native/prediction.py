"""Predicted times of calls, from the cost model of products and from what other calls move.

Products count with their cheapest setting (backends/native/costs.py), requantization included. A
call that the model leaves out counts multiply-accumulates and bytes at the rates of depthwise and
elementwise kernels in the second-level cache. The rates are those of one core with 512-bit dot
products; what they are for is to rank programs, and ``tune`` replaces them by measured times.
"""

from __future__ import annotations

from torch import fx

from qcompiler.backends.native.choices import cycles_of
from qcompiler.ir.graph import QGraph
from qcompiler.report.counts import bytes_moved, example_sizes, macs_of

CYCLES_PER_SECOND = 3.5e9
_MACS_PER_CYCLE, _BYTES_PER_CYCLE = 24.0, 12.0
# What a call costs beside its work.
_CALL = 300.0


def predict_seconds(graph: QGraph, node: fx.Node, is_view: bool) -> float:
    """Returns the time of a call of a lowered graph on one thread.

    Weights of fewer bits are unpacked when a program is loaded, so their width changes nothing.
    """
    if is_view:
        return 0.0
    cycles = cycles_of(graph, node)
    if cycles is None:
        sizes = example_sizes(graph)
        work = macs_of(node, sizes) / _MACS_PER_CYCLE
        cycles = work + bytes_moved(node, sizes) / _BYTES_PER_CYCLE
    return (cycles + _CALL) / CYCLES_PER_SECOND
