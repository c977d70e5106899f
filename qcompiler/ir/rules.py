"""Rules of a graph as data: a name, the rule's text, the remedy, and a check that finds violations.

The rules here hold at every stage; ``specs`` adds those of each stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import sympy
import torch
from torch import fx

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import Quant, has_type, quant_of, set_type, type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.intent import DerivedFrom, SharedWith
from qcompiler.ir.printer import constant_type
from qcompiler.ir.qtypes import QType
from qcompiler.ir.stages import Stage
from qcompiler.torch_compat import OpOverload

LAST = max(Stage)


class Violation(NamedTuple):
    """A node that breaks a rule (None: the graph as a whole), and how."""

    node: fx.Node | None
    problem: str


Check = Callable[[QGraph], Iterable[Violation]]


@dataclass(frozen=True)
class Rule:
    """One statement that holds for graphs from stage ``since`` to stage ``until``."""

    name: str
    text: str
    remedy: str
    check: Check
    since: Stage = Stage.TRACED
    until: Stage = LAST


def each(find: Callable[[fx.Node], str | None]) -> Check:
    """Makes a check of a function that says what is wrong with one node."""

    def check(graph: QGraph) -> Iterator[Violation]:
        for node in graph.module.graph.nodes:
            problem = find(node)
            if problem is not None:
                yield Violation(node, problem)

    return check


def _known_kind(node: fx.Node) -> str | None:
    if node.op in ("placeholder", "get_attr", "call_function", "output"):
        return None
    return f"%{node.name} is a node of kind {node.op}"


def _one_output(graph: QGraph) -> Iterator[Violation]:
    nodes = graph.nodes
    outputs = [n for n in nodes if n.op == "output"]
    if len(outputs) != 1 or nodes[-1] is not outputs[0]:
        yield Violation(None, f"the graph has {len(outputs)} outputs, or nodes behind its output")
        return
    results = outputs[0].args[0]
    if not isinstance(results, tuple) or not all(isinstance(r, fx.Node) for r in results):
        yield Violation(outputs[0], "the output is no tuple of nodes")


def _in_order(graph: QGraph) -> Iterator[Violation]:
    seen: set[fx.Node] = set()
    for node in graph.module.graph.nodes:
        for used in node.all_input_nodes:
            if used not in seen:
                yield Violation(node, f"%{node.name} uses %{used.name} before it is computed")
        seen.add(node)


def _unique_names(graph: QGraph) -> Iterator[Violation]:
    seen: set[str] = set()
    for node in graph.module.graph.nodes:
        if node.name in seen:
            yield Violation(node, f"two nodes have the name %{node.name}")
        seen.add(node.name)


def yields_tensor(node: fx.Node) -> bool:
    """Says whether a node's value is one tensor by the schema of what it calls."""
    if node.op in ("placeholder", "get_attr"):
        return True
    if not isinstance(node.target, OpOverload):
        return False
    returns = node.target._schema.returns
    return len(returns) == 1 and str(returns[0].type) == "Tensor"


def _typed(node: fx.Node) -> str | None:
    if yields_tensor(node) and not has_type(node):
        return f"%{node.name} has no type"
    return None


def _known_symbols(graph: QGraph) -> Iterator[Violation]:
    for node in graph.module.graph.nodes:
        for dim in type_of(node).shape if has_type(node) else ():
            if isinstance(dim, int):
                if dim < 0:
                    yield Violation(node, f"%{node.name} has a dimension {dim}")
            elif unknown := {s.name for s in _symbols(dim)} - graph.symbols.keys():
                yield Violation(node, f"%{node.name} has the unknown symbol {min(unknown)}")


def _symbols(dim: sympy.Expr) -> set[sympy.Symbol]:
    found: set[sympy.Symbol] = dim.free_symbols
    return found


def _constants_exist(graph: QGraph) -> Iterator[Violation]:
    read = set()
    for node in graph.module.graph.nodes:
        if node.op != "get_attr":
            continue
        read.add(node.target)
        value = getattr(graph.module, str(node.target), None)
        if not isinstance(value, torch.Tensor):
            yield Violation(node, f"%{node.name} reads @{node.target}, which is no tensor")
        elif (actual := constant_type(value)) != type_of(node):
            yield Violation(
                node, f"%{node.name} is typed {type_of(node)}; @{node.target} is {actual}"
            )
    module = graph.module
    buffers = module.named_buffers(recurse=False, remove_duplicate=False)
    parameters = module.named_parameters(recurse=False, remove_duplicate=False)
    held = {name for name, _tensor in (*buffers, *parameters)}
    for name in sorted(held - read):
        yield Violation(None, f"no node reads the constant @{name}")


FORM: tuple[Rule, ...] = (
    Rule(
        "known-node-kinds",
        "nodes are inputs, constants, operator calls or the output",
        "trace the model with torch.export, or build nodes with QGraph.call",
        each(_known_kind),
    ),
    Rule(
        "one-output",
        "the last node is the only output and returns a tuple of nodes",
        "let the program return a tuple",
        _one_output,
    ),
    Rule(
        "topological-order",
        "a node stands behind the nodes that it uses",
        "insert the new node before its first user",
        _in_order,
    ),
    Rule("unique-names", "a name belongs to one node", "let fx name new nodes", _unique_names),
    Rule(
        "typed",
        "every tensor has a type",
        "build nodes with QGraph.call and QGraph.add_constant, which set it",
        each(_typed),
    ),
    Rule(
        "constants-exist",
        "a constant's node has the type of its tensor, and each tensor is read by a node",
        "change constants with QGraph.add_constant, set_constant and erase only",
        _constants_exist,
    ),
    Rule(
        "known-symbols",
        "dimensions are not negative, and their symbols are declared in QGraph.symbols",
        "declare the symbol with its range",
        _known_symbols,
    ),
)


def _inferred(graph: QGraph) -> Iterator[Violation]:
    for node in graph.calls:
        if not has_type(node) or not all(map(has_type, node.all_input_nodes)):
            continue
        recorded = type_of(node)
        try:
            graph.infer_type(node)
        except QCompilerError as error:
            yield Violation(node, error.problem)
            continue
        inferred = type_of(node)
        set_type(node, recorded)
        if inferred != recorded:
            yield Violation(node, f"%{node.name} is typed {recorded}; its call gives {inferred}")


TYPES_AS_INFERRED = Rule(
    "types-as-inferred",
    "a node's recorded type is the one that its call has",
    "call QGraph.infer_type on nodes whose arguments changed",
    _inferred,
)


def _related(graph: QGraph) -> Iterator[Violation]:
    names = {n.name for n in graph.module.graph.nodes}
    for node in graph.module.graph.nodes:
        match quant_of(node).intent:
            case SharedWith(other):
                others: tuple[str, ...] = (other,)
            case DerivedFrom(others):
                pass
            case _:
                continue
        for name in others:
            if name not in names:
                yield Violation(node, f"%{node.name} follows %{name}, which does not exist")
            elif name == node.name:
                yield Violation(node, f"%{node.name} follows itself")


def _consistent_quant(node: fx.Node) -> str | None:
    quant = quant_of(node)
    if quant == Quant():
        return None
    name = f"%{node.name}"
    for proof in (quant.proof, quant.inner_proof):
        if proof is not None and not proof[0] <= proof[1]:
            return f"{name} has the proof {proof}, which is empty"
    seen = quant.range
    if seen is not None and not (math.isfinite(seen.lo) and seen.lo <= seen.hi < math.inf):
        return f"{name} has the range [{seen.lo}, {seen.hi}]"
    if quant.qtype is not None:
        shape = type_of(node).shape if has_type(node) else ()
        problem = qtype_problem(quant.qtype, shape)
        return f"{name} {problem}" if problem else None
    return None


def qtype_problem(qtype: QType, shape: tuple[Any, ...]) -> str | None:
    """Returns what is wrong with the QType of a value of the given shape, None when nothing is."""
    count, axis = 1, qtype.granularity.axis
    if axis is not None:
        if not -len(shape) <= axis < len(shape):
            return f"is quantized along axis {axis} and has {len(shape)} dimensions"
        if not isinstance(shape[axis], int):
            return f"is quantized along axis {axis}, whose size varies"
        count = shape[axis]
    if not len(qtype.scale) == len(qtype.zero_point) == count:
        lengths = f"{len(qtype.scale)} scales and {len(qtype.zero_point)} zero points"
        return f"has {lengths} where {count} belong"
    if not all(0.0 < s < math.inf for s in qtype.scale):
        return "has a scale that is not positive and finite"
    if not all(qtype.qmin <= z <= qtype.qmax for z in qtype.zero_point):
        return f"has a zero point outside [{qtype.qmin}, {qtype.qmax}]"
    return None


FACTS: tuple[Rule, ...] = (
    Rule(
        "related-values-exist",
        "SharedWith and DerivedFrom name other nodes of the graph",
        "give the intent of an erased node to the node that replaces it",
        _related,
    ),
    Rule(
        "facts-agree",
        "a value's range, QType and proof are sound and fit its type",
        "set the facts with update_quant when the value changes",
        each(_consistent_quant),
    ),
)
