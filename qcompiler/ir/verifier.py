"""Checks a graph against the written specification of its stage."""

from __future__ import annotations

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import origin_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.rules import TYPES_AS_INFERRED, Rule, Violation
from qcompiler.ir.specs import FORM, STAGES


def violations(graph: QGraph, *, infer_types: bool = False) -> list[tuple[Rule, Violation]]:
    """Returns every violation of the rules that hold at the graph's stage.

    The rules of form come first; when one is broken the others, which rely on it, are not asked.
    ``infer_types`` also infers the type of each call again, about a millisecond per node.
    """
    found = [(rule, violation) for rule in FORM for violation in rule.check(graph)]
    if found:
        return found
    rules = [r for r in STAGES if r.since <= graph.stage <= r.until]
    if infer_types:
        rules.append(TYPES_AS_INFERRED)
    return [(rule, violation) for rule in rules for violation in rule.check(graph)]


def verify_graph(graph: QGraph, *, infer_types: bool = False) -> None:
    """Checks a graph against the specification of its stage.

    Raises:
        QCompilerError: QC0504 with the node, its source line, the rule and the remedy of the first
            violation, and the number of the others.
    """
    found = violations(graph, infer_types=infer_types)
    if not found:
        return
    rule, (node, problem) = found[0]
    more = len(found) - 1
    others = f" (and {more} more violation{'s' if more > 1 else ''})" if more else ""
    raise QCompilerError(
        "QC0504",
        f"{problem}; rule {rule.name!r} of stage {graph.stage.text}: {rule.text}{others}",
        node=node.name if node is not None else None,
        source=origin_of(node).source if node is not None else None,
        remedy=rule.remedy,
    )
