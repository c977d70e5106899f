"""Seconds of each group at each width: what a target predicts, or what was measured on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx

from qcompiler.errors import QCompilerError
from qcompiler.ir.graph import QGraph, arguments
from qcompiler.ir.queries import is_island
from qcompiler.passes import pipelines
from qcompiler.passes.analysis._groups import DecisionGroup
from qcompiler.passmgr.context import PassContext
from qcompiler.passmgr.pipeline import Pipeline

_REPEATS = 10


def latency_table(
    graph: QGraph, context: PassContext, groups: Sequence[DecisionGroup], widths: Sequence[int]
) -> tuple[list[dict[int, float]], float]:
    """Returns the seconds of each group by bits, and those of all other operators.

    A copy of the graph is lowered with weights of 8 bits; of each operator the target's cost model
    tells the time with weights of a width, requantization and unpacking included. Where the context
    says that this machine may be measured, these times are scaled to those that were measured.

    Raises:
        QCompilerError: QC0324 where the target has no cost model.
    """
    target = context.target
    lowered = graph.copy()
    inner = PassContext(target=target, strict=context.strict, data=context.data)
    Pipeline.parse(f"quantize-weights,{pipelines.LOWER}").run(lowered, inner)
    names = {
        str(layer.weight.target): i for i, group in enumerate(groups) for layer in group.layers
    }
    measured = _measured(lowered, context)
    table: list[dict[int, float]] = [dict.fromkeys(widths, 0.0) for _ in groups]
    others = 0.0
    for node in lowered.calls:
        if is_island(node):
            continue
        eight = None if target is None else target.predict_seconds(lowered, node, 8)
        if eight is None:
            raise QCompilerError(
                "QC0324",
                f"the target {target.name if target else 'of this run'} predicts no time",
                node=node.name,
                remedy="give a budget of size or average bits, or choose another target",
            )
        factor = measured[node.name] / eight if measured.get(node.name) and eight > 0 else 1.0
        owner = _owner(node, names)
        if owner is None:
            others += eight * factor
            continue
        for bits in widths:
            seconds = target.predict_seconds(lowered, node, bits) if target else None
            table[owner][bits] += (eight if seconds is None else seconds) * factor
    return table, others


def _measured(lowered: QGraph, context: PassContext) -> Mapping[str, float]:
    """Returns the measured seconds of each operator, empty where nothing is to be measured."""
    if not context.tunes or context.target is None:
        return {}
    sample = next(iter(context.calibration().kept_batches(1)), None)
    if sample is None:
        return {}
    spent = context.target.build(lowered).time_ops(list(sample), 1, _REPEATS)
    return {name: microseconds * 1e-6 for name, microseconds in spent.items()}


def _owner(node: fx.Node, names: Mapping[str, int]) -> int | None:
    """Returns the group whose weight a lowered operator reads, the first of a chain."""
    for value in arguments(node).values():
        if isinstance(value, fx.Node) and value.op == "get_attr":
            stem = str(value.target).rpartition("_i")[0]
            if stem in names:
                return names[stem]
    return None
