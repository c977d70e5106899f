"""Which traced values share memory, so that writes in place can become new values."""

from __future__ import annotations

import operator
from collections.abc import Iterable

import torch
from torch import fx

from qcompiler.torch_compat import OpOverload

# Operators that return their input in eval mode although their schema does not say so.
_SILENT_VIEWS = ("aten::dropout", "aten::feature_dropout", "aten::alpha_dropout")


def written_argument(target: OpOverload) -> int | None:
    """Returns the position of the argument that an operator writes into, None for a pure one."""
    for position, argument in enumerate(target._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            return position
    return None


def functional_overload(target: OpOverload) -> OpOverload | None:
    """Returns the operator that computes what an in-place one writes, as add for add\\_."""
    space, name = target._schema.name.split("::")
    packet = getattr(getattr(torch.ops, space), name.removesuffix("_"), None)
    if packet is None or not name.endswith("_"):
        return None
    found = getattr(packet, target._overloadname, None)
    return found if isinstance(found, OpOverload) else None


def is_view(target: object) -> bool:
    """Says whether a call's result may share the memory of its arguments."""
    if target is operator.getitem:
        return True
    if not isinstance(target, OpOverload):
        return False
    schema = target._schema
    return schema.name in _SILENT_VIEWS or any(r.alias_info is not None for r in schema.returns)


class Aliases:
    """Groups of nodes that may share memory, and the nodes that a write has made stale."""

    def __init__(self) -> None:
        self._group: dict[fx.Node, set[fx.Node]] = {}
        self._owner: dict[fx.Node, str] = {}
        self._stale: dict[fx.Node, str] = {}
        self._now: dict[fx.Node, fx.Node] = {}

    def add(self, node: fx.Node, target: object = None, used: Iterable[fx.Node] = ()) -> None:
        """Notes a new node; a view joins the groups of the nodes that it reads."""
        group = {node}
        if is_view(target):
            for other in used:
                group |= self._group.get(other, set())
        for member in group:
            self._group[member] = group

    def own(self, node: fx.Node, owner: str) -> None:
        """Notes that a node's memory belongs to the caller."""
        self._owner[node] = owner

    def owner(self, node: fx.Node) -> str | None:
        """Returns to whom the memory behind a node belongs, None if the program made it."""
        owners = [self._owner[n] for n in self._group[node] if n in self._owner]
        return owners[0] if owners else None

    def rename(self, old: fx.Node, new: fx.Node) -> None:
        """Lets later readers of a node read a new one."""
        self._now[old] = new

    def overwrite(self, old: fx.Node, new: fx.Node, by: str) -> None:
        """Does the same and makes reading other views of the old node an error."""
        self.rename(old, new)
        for member in self._group[old] - {old, new}:
            self._stale[member] = by

    def now(self, node: fx.Node) -> fx.Node:
        """Returns the node that holds the present value of a traced value."""
        while node in self._now:
            node = self._now[node]
        return node

    def staleness(self, node: fx.Node) -> str | None:
        """Returns the operator that wrote into a node's memory through another view."""
        return self._stale.get(node)
