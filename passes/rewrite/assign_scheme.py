"""assign-scheme: the wanted bits of weights and activations, by one scheme and overrides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import networkx as nx
from torch import fx

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import origin_of, update_quant
from qcompiler.ir.float_ops import float_op_of
from qcompiler.ir.graph import QGraph, argument, is_constant
from qcompiler.ir.intent import KeepFloat, Spec
from qcompiler.ir.overrides import Override, Part
from qcompiler.ir.qtypes import Granularity
from qcompiler.ir.queries import is_island, quantized_values
from qcompiler.ir.scheme import Scheme
from qcompiler.ir.stages import Stage
from qcompiler.passes.rewrite.share_qparams import constraints_of
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext
from qcompiler.target.base import Target

_DEFAULT_BITS = 8


@dataclass(frozen=True)
class AssignScheme(Pass):
    """Says how many bits each weight and each activation is to have, as intents.

    ``scheme`` is for the whole model, ``overrides`` for parts of it (docs/concepts.md has the forms
    of both). The intent of a weight's constant is a ``Spec`` that quantize-weights follows, that of
    a value one that share-qparams follows; what an override asks for is pinned. Values that share
    parameters by necessity get the bits that an override asks of one of them.

    Raises:
        QCompilerError: QC0304 for a wrong scheme or rule, QC0305 for what the target does not run,
            QC0306 for a rule that matches nothing, QC0307 for two rules that contradict each other.

    Before: ``%weight = constant @weight``
    After: ``%weight = constant @weight {intent=spec(bits=4, symmetric=true, ...)}``
    """

    name: ClassVar[str] = "assign-scheme"
    needs: ClassVar[Needs] = Needs(Stage.NORMALIZED)
    gives: ClassVar[Gives] = Gives(preserves=("*",))

    scheme: str = "w8a8"
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._parsed  # noqa: B018  # a wrong text is told when the pass is made

    @cached_property
    def _parsed(self) -> tuple[Scheme, tuple[Override, ...]]:
        return Scheme.parse(self.scheme), tuple(map(Override.parse, self.overrides))

    def check(self, target: Target) -> None:
        """Refuses widths and groups that the target does not run."""
        scheme, rules = self._parsed
        for wanted in (scheme, *(rule.scheme for rule in rules)):
            wanted.check(target)

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Sets the intents of weights, values, and operators that stay in float."""
        if context.target is not None:
            self.check(context.target)
        scheme, rules = self._parsed
        nodes = [n for n in graph.nodes if n.op in ("placeholder", "call_function")]
        matched = [(rule, rule.matches(nodes)) for rule in rules]
        _check_float(matched)
        for rule, found in matched:
            if rule.scheme.is_float:
                for node in (n for n in found if float_op_of(n.target) is not None):
                    update_quant(node, intent=KeepFloat(f"override {rule.text}", pinned=True))
        self._assign_weights(graph, scheme, matched)
        self._assign_values(graph, scheme, matched)
        return True

    def _assign_weights(self, graph: QGraph, scheme: Scheme, matched: _Matched) -> None:
        readers = dict(_weights(graph))
        asked = _Asked("weight")
        for rule, nodes in matched:
            if rule.concerns("weight"):
                asked.add(rule, [(node, (readers[node],)) for node in nodes if node in readers])
        for node, weight in readers.items():
            found, op = asked.rules.get(weight), float_op_of(node.target)
            wanted = scheme if found is None else found.scheme
            granularity = Granularity(0 if op is None else op.weight_axis, wanted.group)
            bits = wanted.weight or _DEFAULT_BITS
            intent = Spec(bits, True, True, granularity, pinned=found is not None)
            update_quant(weight, intent=intent, why=_reason(found))

    def _assign_values(self, graph: QGraph, scheme: Scheme, matched: _Matched) -> None:
        rules = [(rule, found) for rule, found in matched if rule.concerns("activation")]
        if not rules and scheme.activation == _DEFAULT_BITS:
            return  # what passes do without intents
        values = {node.name: node for node in quantized_values(graph)}
        groups: nx.Graph[str] = nx.Graph()
        groups.add_nodes_from(values)
        constraints = constraints_of(values.values())
        groups.add_edges_from((c.one, c.other) for c in constraints if c.hard)
        asked = _Asked("activation")
        for rule, found in rules:
            inside = [node for node in found if node.name in groups and not is_island(node)]
            shared = [nx.node_connected_component(groups, node.name) for node in inside]
            members = [[values[name] for name in sorted(names)] for names in shared]
            asked.add(rule, list(zip(inside, members, strict=True)))
        for node in values.values():
            if is_island(node):
                continue
            own = asked.rules.get(node)
            bits = (scheme if own is None else own.scheme).activation or _DEFAULT_BITS
            update_quant(node, intent=Spec(bits, pinned=own is not None), why=_reason(own))


_Matched = Sequence[tuple[Override, list[fx.Node]]]


class _Asked:
    """What rules ask of one part of the model: the rule of each weight, or of each value."""

    def __init__(self, part: Part) -> None:
        self.rules: dict[fx.Node, Override] = {}
        self._part: Part = part
        self._named: dict[fx.Node, fx.Node] = {}

    def add(self, rule: Override, found: Sequence[tuple[fx.Node, Iterable[fx.Node]]]) -> None:
        """Adds what a rule asks of named nodes, each with all that must agree with it."""
        if not found:
            raise QCompilerError(
                "QC0306",
                f"the override {rule.text!r} matches no operator with a {self._part}",
                remedy="name a layer with a constant weight"
                if self._part == "weight"
                else "name operators that are not kept in float",
            )
        for named, members in found:
            for member in members:
                other = self.rules.setdefault(member, rule)
                self._named.setdefault(member, named)
                if self._wanted(other) != self._wanted(rule):
                    raise _contradiction(other, rule, self._named[member], named)

    def _wanted(self, rule: Override) -> tuple[int | None, int | None]:
        scheme = rule.scheme
        if self._part == "weight":
            return scheme.weight, scheme.group
        return scheme.activation, None


def _contradiction(
    one: Override, other: Override, first: fx.Node, second: fx.Node
) -> QCompilerError:
    where = first.name if first is second else f"{first.name} and {second.name}, which share them"
    return QCompilerError(
        "QC0307",
        f"the overrides {one.text!r} and {other.text!r} contradict each other on {where}",
        node=second.name,
        source=origin_of(second).source,
        remedy="leave one of them out, or let their names overlap nowhere",
    )


def _check_float(matched: _Matched) -> None:
    """Refuses rules that ask for bits where another one keeps an operator in float."""
    floats = {n: rule for rule, found in matched if rule.scheme.is_float for n in found}
    for rule, found in matched:
        for node in found:
            if not rule.scheme.is_float and node in floats:
                raise _contradiction(floats[node], rule, node, node)


def _weights(graph: QGraph) -> Iterator[tuple[fx.Node, fx.Node]]:
    """Yields the operators whose weight is a constant, with that constant."""
    for node in graph.calls:
        op = float_op_of(node.target)
        if op is not None and op.weight is not None and not is_island(node):
            weight = argument(node, op.weight)
            if is_constant(weight):
                yield node, weight


def _reason(rule: Override | None) -> str | None:
    return None if rule is None else f"override {rule.text}"
