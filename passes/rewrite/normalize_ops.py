"""normalize-ops: traced operators become the closed set of normalized float operators."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import fx

from qcompiler import registry
from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import has_type, origin_of, type_of, update_quant
from qcompiler.ir.float_ops import float_op_of
from qcompiler.ir.graph import QGraph, is_constant
from qcompiler.ir.intent import KeepFloat
from qcompiler.ir.stages import Stage
from qcompiler.passes.rewrite._conversions import CONVERSIONS
from qcompiler.passmgr.base import Gives, Needs, Pass
from qcompiler.passmgr.context import PassContext
from qcompiler.rewrite.conversion import Conversion, NotConvertible, Site, refuse
from qcompiler.torch_compat import OpOverload


class _Refusal(NamedTuple):
    node: fx.Node
    reason: str


@dataclass(frozen=True)
class NormalizeOps(Pass):
    """Rewrites traced operators with the normalized float operators.

    Calls on constants only are evaluated; operators that do nothing in eval mode are removed. What
    has no conversion is one error that lists all such calls (QC0201), or with ``strict=False``
    stays as a float island with its reason; an island has one result, so that what has several, as
    a sort, is an error then, too.

    Before::

        %conv2d : f32[batch,8,4,4] = aten.conv2d.default(%x, %w, %b, [2, 2], [1, 1])
        %relu : f32[batch,8,4,4] = aten.relu.default(%conv2d)
        %view : f32[batch,128] = aten.view.default(%relu, [%sym_size, -1])

    After::

        %conv2d : f32[batch,8,4,4] = qfloat.conv2d(%x, %w, %b, [2, 2], [1, 1, 1, 1], [1, 1], 1)
        %relu : f32[batch,8,4,4] = qfloat.clamp(%conv2d, 0.0, none)
        %view : f32[batch,128] = qcompiler.reshape(%relu, [0, 128])
    """

    name: ClassVar[str] = "normalize-ops"
    needs: ClassVar[Needs] = Needs(Stage.TRACED)
    gives: ClassVar[Gives] = Gives(Stage.NORMALIZED)

    def run(self, graph: QGraph, context: PassContext) -> bool:
        """Changes the graph in place; returns whether it did."""
        refusals: list[_Refusal] = []
        changed = False
        for node in graph.calls:
            if node.target is operator.getitem or not isinstance(node.target, OpOverload):
                continue
            reason = _normalize(graph, node)
            if reason is not None:
                refusals.append(_Refusal(node, reason))
            else:
                changed = True
        graph.erase_dead()
        left = [r for r in refusals if r.node in set(graph.calls)]
        if left and context.strict:
            raise _refused(left)
        if several := [r for r in left if not has_type(r.node)]:
            raise _refused(several, "and several results, which no float island has")
        for node, reason in left:
            update_quant(node, intent=KeepFloat(reason))
            context.notes.append(f"{node.name} ({node.target}) stays in float: {reason}")
        for node in graph.calls:  # what only an island reads: its sizes and its parts
            if float_op_of(node.target) is None and node not in {r.node for r in left}:
                update_quant(node, intent=KeepFloat("a float operator reads it"))
        return changed


def _normalize(graph: QGraph, node: fx.Node) -> str | None:
    """Replaces one call by its conversion; returns why that cannot be, None when it is done."""
    target = node.target
    if float_op_of(target) is not None or not isinstance(target, OpOverload):
        return None
    if not node.users and not target._schema.is_mutable and has_type(node):
        graph.erase(node)
        return None
    if target._schema.name == "aten::sym_size":
        return None
    if _is_foldable(node):
        return _evaluate(graph, node)
    conversion = _conversion(str(target))
    if conversion is None:
        return "there is no conversion to normalized operators"
    try:
        made = conversion(Site(graph, node))
        if made is None:
            graph.erase(node)
        elif isinstance(made, fx.Node):
            _replace(graph, node, made)
        else:
            _replace_parts(graph, node, made)
    except NotConvertible as refusal:
        return str(refusal)
    return None


def _conversion(name: str) -> Conversion | None:
    if name in CONVERSIONS:
        return CONVERSIONS[name]
    if name in registry.names(registry.OPS):
        return registry.load(registry.OPS, name)  # type: ignore[return-value]  # by the group's rule
    return None


def _is_foldable(node: fx.Node) -> bool:
    """Says whether a call reads constants only and always gives the same tensor."""
    target = node.target
    if not isinstance(target, OpOverload) or not has_type(node):
        return False
    is_random = torch.Tag.nondeterministic_seeded in target.tags
    return not is_random and all(is_constant(n) for n in node.all_input_nodes)


def _evaluate(graph: QGraph, node: fx.Node) -> str | None:
    def held(arg: fx.Node) -> Any:
        return graph.constant(arg)

    args: Any = fx.node.map_arg(node.args, held)
    kwargs: Any = fx.node.map_arg(node.kwargs, held)
    value = node.target(*args, **kwargs)  # type: ignore[operator]  # an OpOverload
    _replace(graph, node, graph.add_constant(value, node.name, node))
    return None


def _replace(graph: QGraph, old: fx.Node, new: fx.Node) -> None:
    """Replaces a node by an equal one, which takes over its name when it was made for it."""
    if type_of(new) != type_of(old):
        problem = f"its conversion gives {type_of(new)} instead of {type_of(old)}"
        refuse(problem)
    is_own = new.op == "call_function" and origin_of(new) == origin_of(old)
    name = old.name
    graph.replace(old, new)
    if is_own:
        new.name = name


def _replace_parts(graph: QGraph, node: fx.Node, parts: Sequence[fx.Node]) -> None:
    """Replaces the reads of a call's several results."""
    for read in [user for user in node.users if not user.users]:
        graph.erase(read)
    reads = list(node.users)
    for read in reads:
        index = read.args[1]
        if not isinstance(index, int) or index >= len(parts):
            refuse("it has a result that no normalized operator gives")
    for read in reads:
        _replace(graph, read, parts[int(str(read.args[1]))])
    if not node.users:
        graph.erase(node)


def _place(node: fx.Node) -> str:
    origin = origin_of(node)
    return origin.source or (f"module {origin.module!r}" if origin.module else node.name)


def _refused(refusals: Sequence[_Refusal], but: str = "") -> QCompilerError:
    """Returns the one error that lists every call without a conversion.

    ``but`` says what is in the way of running them in float; nothing is if it is left out.
    """
    lines = [f"{r.node.target} at {_place(r.node)}: {r.reason}" for r in refusals]
    first = refusals[0].node
    count = "1 operator has" if len(lines) == 1 else f"{len(lines)} operators have"
    remedy = "write the model without them, or add conversions (entry points of qcompiler.ops)"
    if not but:
        remedy = (
            "write the model without them, add conversions (entry points of qcompiler.ops), "
            "or compile with strict=False to run them in float"
        )
    return QCompilerError(
        "QC0201",
        "\n    ".join([f"{count} no integer form {but}".rstrip(), *lines]),
        node=first.name,
        source=origin_of(first).source,
        remedy=remedy,
    )
