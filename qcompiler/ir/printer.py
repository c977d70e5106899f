"""Text IR: one line per node, stable, readable, and exact; ``parse_graph`` is the way back.

The grammar is in docs/reference/ir.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import fields
from enum import Enum
from typing import Any

import torch
from torch import fx

from qcompiler.ir.annotations import has_type, origin_of, quant_of, type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.records import FORMAT_VERSION, FUNCTION_NAMES, RECORD_NAMES, TORCH_WORDS, required
from qcompiler.ir.structure import flat
from qcompiler.ir.types import TensorType
from qcompiler.runtime.memory import MemoryPlan
from qcompiler.torch_compat import OpOverload

# Longer lists of facts, such as the scales of a weight, stand in lines of their own at the end.
_INLINE = 4


def print_graph(graph: QGraph) -> str:
    """Returns the text form of a graph at any stage, ending in a newline.

    Raises:
        TypeError: an argument or fact is of a type that text IR does not have.
    """
    return "\n".join((*_header(graph), "", *_body(graph), ""))


def print_node(node: fx.Node) -> str:
    """Returns the line of one node with its facts, long lists included."""
    return _line(node, None)


def graph_constants(graph: QGraph) -> dict[str, torch.Tensor]:
    """Returns the graph's constant tensors by name, sorted; unread ones are included."""
    module = graph.module
    held = dict(module.named_buffers(recurse=False, remove_duplicate=False))
    held.update(module.named_parameters(recurse=False, remove_duplicate=False))
    for node in module.graph.nodes:
        if node.op == "get_attr":
            held[str(node.target)] = graph.constant(node)
    return {name: held[name].detach() for name in sorted(held)}


def tensor_digest(tensor: torch.Tensor) -> str:
    """Returns the sha256 of a tensor's elements in row-major order."""
    dense = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(dense.view(torch.uint8).numpy().data).hexdigest()


def constant_type(tensor: torch.Tensor) -> TensorType:
    """Returns the type of a constant tensor."""
    return TensorType(tensor.dtype, tuple(tensor.shape))


def _header(graph: QGraph) -> Iterator[str]:
    yield f"qcir {FORMAT_VERSION}"
    yield f"stage {graph.stage.text}"
    if graph.properties:
        yield f"properties {', '.join(_quoted(p) for p in sorted(graph.properties))}"
    for name, limits in sorted(graph.symbols.items()):
        yield f"symbol {name} in [{limits.low}, {limits.high}]"
    if graph.structure != flat(len(graph.results)):
        yield f"results {json.dumps(graph.structure)}"
    for name, tensor in graph_constants(graph).items():
        yield f"constant @{name} : {constant_type(tensor)} sha256 {tensor_digest(tensor)}"


def _body(graph: QGraph) -> Iterator[str]:
    tables: dict[str, int] = {}
    for node in graph.module.graph.nodes:
        yield _line(node, tables)
    if graph.memory_plan is not None:
        yield ""
        yield from _memory(graph.memory_plan)
    if tables:
        yield ""
    for text, number in tables.items():
        yield f"${number} = {text}"


def _memory(plan: MemoryPlan) -> Iterator[str]:
    yield f"memory size {plan.size}, peak {plan.peak}, example_size {plan.example_size}"
    for name, offset in plan.offsets.items():
        yield f"memory {_quoted(name)} at {offset}"
    for name, owner in plan.aliases.items():
        yield f"memory {_quoted(name)} in {_quoted(owner)}"


def _line(node: fx.Node, tables: dict[str, int] | None) -> str:
    facts = _facts(node, tables)
    tail = f" {{{facts}}}" if facts else ""
    if node.op == "output":
        name = "" if node.name == "output" else f"%{node.name} = "
        results = ", ".join(_value(r, None) for r in node.args[0])  # type: ignore[union-attr]  # a tuple
        return f"{name}return ({results}){tail}"
    typed = f" : {type_of(node)}" if has_type(node) else ""
    return f"%{node.name}{typed} = {_right_side(node)}{tail}"


def _right_side(node: fx.Node) -> str:
    if node.op == "placeholder":
        return "input" if node.target == node.name else f"input @{node.target}"
    if node.op == "get_attr":
        return f"constant @{node.target}"
    args = [_value(a, None) for a in node.args]
    args += [f"{k}={_value(v, None)}" for k, v in node.kwargs.items()]
    return f"{target_name(node.target)}({', '.join(args)})"


def target_name(target: object) -> str:
    """Returns a call's target in text IR: ``qfloat.conv2d``, ``aten.add.Tensor``.

    Raises:
        TypeError: the target is neither an operator nor one of the functions that text IR has.
    """
    if isinstance(target, OpOverload):
        space, name = target._schema.name.split("::")
        overload = target._overloadname
        is_short = overload == "default" and space != "aten"
        return f"{space}.{name}" if is_short else f"{space}.{name}.{overload}"
    if callable(target) and target in FUNCTION_NAMES:
        return FUNCTION_NAMES[target]
    message = f"{target!r} has no name in text IR"
    raise TypeError(message)


def _facts(node: fx.Node, tables: dict[str, int] | None) -> str:
    quant, origin = quant_of(node), origin_of(node)
    shown = [
        f"{f.name}={_value(getattr(record, f.name), tables)}"
        for record in (quant, origin)
        for f in fields(record)
        if getattr(record, f.name) is not None
    ]
    return ", ".join(shown)


def _value(value: Any, tables: dict[str, int] | None) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case Enum():
            return value.name.lower()
        case int():
            return int.__repr__(value)
        case float():
            return float.__repr__(value)
        case str():
            return _quoted(value)
        case fx.Node():
            return f"%{value.name}"
        case list() | tuple():
            text = f"[{', '.join(_value(v, tables) for v in value)}]"
            if tables is None or len(value) <= _INLINE:
                return text
            return f"${tables.setdefault(text, len(tables))}"
        case torch.device():
            return f"device({_quoted(str(value))})"
    if str(value) in TORCH_WORDS:
        return str(value)
    if type(value) in RECORD_NAMES:
        return _record(value, tables)
    message = f"{value!r} of type {type(value).__name__} has no text form"
    raise TypeError(message)


def _record(value: Any, tables: dict[str, int] | None) -> str:
    parts = []
    for field in fields(value):
        held = getattr(value, field.name)
        if required(field):
            parts.append(_value(held, tables))
        elif held != field.default:
            parts.append(f"{field.name}={_value(held, tables)}")
    return f"{RECORD_NAMES[type(value)]}({', '.join(parts)})"


def _quoted(text: str) -> str:
    return json.dumps(text)
