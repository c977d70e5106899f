"""The one accessor of what is known about a node; nothing else reads or writes ``node.meta``.

Three facts are kept apart: the type (always there), the origin in the user's model, and the
quantization facts. A new node inherits no quantization fact unless it asks with ``inherit_quant``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from qcompiler.ir.intent import Intent
from qcompiler.ir.qtypes import QType
from qcompiler.ir.types import TensorType
from qcompiler.numerics.ranges import Range

_TYPE, _ORIGIN, _QUANT = "qc_type", "qc_origin", "qc_quant"


@dataclass(frozen=True)
class Origin:
    """Where a node comes from: the user's source line, the module path, the traced node's name."""

    source: str | None = None
    module: str | None = None
    node: str | None = None


@dataclass(frozen=True)
class Quant:
    """All quantization facts of one value.

    ``proof`` is the proven interval of an accumulator, ``inner_proof`` that of the first one in an
    operator that chains two products, ``why`` the decision's reason in the report, ``stands_for``
    the float value that an integer one represents.
    """

    range: Range | None = None
    intent: Intent | None = None
    qtype: QType | None = None
    proof: tuple[int, int] | None = None
    inner_proof: tuple[int, int] | None = None
    why: str | None = None
    stands_for: str | None = None


_NOTHING = Quant()
_NOWHERE = Origin()


def type_of(node: fx.Node) -> TensorType:
    """Returns the node's type; raises KeyError with the node's name when it has none."""
    try:
        found: TensorType = node.meta[_TYPE]
    except KeyError:
        message = f"node {node.name!r} has no type"
        raise KeyError(message) from None
    return found


def has_type(node: fx.Node) -> bool:
    """Says whether the node's value is a tensor of known type."""
    return _TYPE in node.meta


def set_type(node: fx.Node, tensor_type: TensorType) -> None:
    """Sets the node's type."""
    node.meta[_TYPE] = tensor_type


def origin_of(node: fx.Node) -> Origin:
    """Returns where the node comes from; empty for a node that a pass made from nothing."""
    found: Origin = node.meta.get(_ORIGIN, _NOWHERE)
    return found


def set_origin(node: fx.Node, origin: Origin) -> None:
    """Sets where the node comes from."""
    node.meta[_ORIGIN] = origin


def quant_of(node: fx.Node) -> Quant:
    """Returns the node's quantization facts, all None when nothing was set."""
    found: Quant = node.meta.get(_QUANT, _NOTHING)
    return found


def set_quant(node: fx.Node, quant: Quant) -> None:
    """Replaces the node's quantization facts."""
    node.meta[_QUANT] = quant


def update_quant(node: fx.Node, **changes: Any) -> None:
    """Replaces the named quantization facts and keeps the others."""
    node.meta[_QUANT] = replace(quant_of(node), **changes)


def inherit_quant(new: fx.Node, old: fx.Node) -> None:
    """Gives a new node the quantization facts of the node that it stands for."""
    node_quant = quant_of(old)
    if node_quant is not _NOTHING:
        new.meta[_QUANT] = node_quant


def qtype_of(node: fx.Node) -> QType:
    """Returns the node's QType; raises KeyError with the node's name when it has none."""
    qtype = quant_of(node).qtype
    if qtype is None:
        message = f"node {node.name!r} has no QType"
        raise KeyError(message)
    return qtype


def capture_facts(node: fx.Node) -> tuple[Any, str | None, dict[Any, Any]]:
    """Returns what torch.export left on a traced node: value, stack trace and module stack."""
    return (
        node.meta.get("val"),
        node.meta.get("stack_trace"),
        node.meta.get("nn_module_stack") or {},
    )
