"""Reads text IR back into a graph; builds only what the closed tables of ``records`` name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import fx

from qcompiler import registry
from qcompiler.ir.annotations import Origin, Quant, set_origin, set_quant, set_type
from qcompiler.ir.dims import read_dim
from qcompiler.ir.float_ops import FLOAT_OPS
from qcompiler.ir.graph import QGraph
from qcompiler.ir.integer_ops import INTEGER_OPS
from qcompiler.ir.lexer import Line
from qcompiler.ir.printer import constant_type, tensor_digest
from qcompiler.ir.records import (
    FORMAT_VERSION,
    FUNCTIONS,
    ORIGIN_KEYS,
    QUANT_KEYS,
)
from qcompiler.ir.stages import Stage
from qcompiler.ir.structure import Structure
from qcompiler.ir.types import Dim, SymbolRange, TensorType, dtype_of_name
from qcompiler.ir.values import ValueReader, build_record
from qcompiler.runtime.memory import MemoryPlan

# Operators of torch that reach beyond tensors.
_NEVER = frozenset({"from_file"})


def parse_graph(text: str, constants: Mapping[str, torch.Tensor]) -> QGraph:
    """Returns the graph that ``print_graph`` printed; ``print_graph`` of it is the same text.

    Args:
        text: text IR.
        constants: the tensors of the graph by name.

    Raises:
        QCompilerError: QC0601 with line and column when the text does not follow the grammar, names
            an operator that is not registered, or states other constants than those given.
    """
    return _Parser(text, constants).parse()


class _Parser:
    def __init__(self, text: str, constants: Mapping[str, torch.Tensor]) -> None:
        rows = text.split("\n")
        self._lines = [Line(row, i) for i, row in enumerate(rows, 1) if row.strip(" \t\r")]
        self._end = Line("", len(rows))
        self._given = constants
        self._held: dict[str, torch.Tensor] = {}
        self._tables: dict[str, list[Any]] = {}
        self._nodes: dict[str, fx.Node] = {}
        self._values = ValueReader(self._nodes, self._tables)
        self._symbols: dict[str, SymbolRange] = {}
        self._properties: set[str] = set()
        self._fx = fx.Graph()
        self._plan: dict[str, Any] | None = None
        self._offsets: dict[str, Dim] = {}
        self._aliases: dict[str, str] = {}
        self._stage = Stage.TRACED
        self._structure: tuple[Structure, Line, int] | None = None

    def parse(self) -> QGraph:
        self._version()
        for line in self._lines:  # lists of facts stand at the end and are used before
            if line.next.kind == "table":
                self._table(line)
        for line in self._lines:
            self._statement(line)
            line.finish()
        if not any(n.op == "output" for n in self._fx.nodes):
            self._end.fail("the graph returns nothing")
        return self._graph()

    def _graph(self) -> QGraph:
        module = torch.nn.Module()
        for name, tensor in self._held.items():
            module.register_buffer(name, tensor)
        holder = fx.GraphModule(module, self._fx)
        for name, tensor in self._held.items():  # GraphModule takes over only those that are read
            if not hasattr(holder, name):
                holder.register_buffer(name, tensor)
        graph = QGraph(holder, self._stage, self._symbols)
        graph.properties = self._properties
        if self._structure is not None:
            graph.structure, line, column = self._structure
            if not _is_structure(graph.structure, len(graph.results)):
                line.fail("this does not nest the results of the graph", column)
        if self._plan is not None:
            graph.memory_plan = MemoryPlan(self._offsets, **self._plan, aliases=self._aliases)
        return graph

    def _version(self) -> None:
        line = self._lines.pop(0) if self._lines else self._end
        line.expect("qcir")
        column = line.next.column
        if line.take_integer() != FORMAT_VERSION:
            line.fail(f"this release reads qcir {FORMAT_VERSION}", column)
        line.finish()

    def _statement(self, line: Line) -> None:
        if line.next.kind == "end":
            return  # a list of facts, already read
        if line.next.kind == "node" or line.at("return"):
            self._node(line)
            return
        word = line.take("word")
        match word.text:
            case "stage":
                self._read_stage(line)
            case "properties":
                self._properties.add(line.take_string())
                while line.accept(","):
                    self._properties.add(line.take_string())
            case "symbol":
                self._symbol(line)
            case "results":
                self._results(line)
            case "constant":
                self._constant(line)
            case "memory":
                self._memory(line)
            case other:
                line.fail(f"a line cannot start with {other!r}", word.column)

    # -- header --------------------------------------------------------------------------------

    def _read_stage(self, line: Line) -> None:
        name = line.take("word")
        try:
            self._stage = Stage[name.text.upper()]
        except KeyError:
            known = ", ".join(s.text for s in Stage)
            line.fail(f"no stage {name.text!r}; stages are {known}", name.column)

    def _symbol(self, line: Line) -> None:
        name = line.take("word").text
        line.expect("in")
        line.expect("[")
        low = line.take_integer()
        line.expect(",")
        self._symbols[name] = SymbolRange(low, line.take_integer())
        line.expect("]")

    def _results(self, line: Line) -> None:
        column, text = line.take_rest()
        try:
            structure: Structure = json.loads(text)
        except (ValueError, RecursionError) as error:
            line.fail(f"no JSON: {error}", column)
        self._structure = structure, line, column

    def _constant(self, line: Line) -> None:
        column, name = line.next.column, line.take_name("constant")
        line.expect(":")
        stated = self._type(line)
        line.expect("sha256")
        digest = line.take_digest()
        tensor = self._given.get(name)
        if name in self._held or hasattr(_empty_module(), name):
            line.fail(f"the constant name @{name} is taken", column)
        if tensor is None:
            line.fail(f"the tensor of @{name} is not given", column)
        if constant_type(tensor) != stated:
            line.fail(f"@{name} is {constant_type(tensor)}, not {stated}", column)
        if tensor_digest(tensor) != digest:
            line.fail(f"the tensor of @{name} has another sha256", column)
        self._held[name] = tensor

    def _memory(self, line: Line) -> None:
        if line.next.kind == "string":
            name = line.take_string()
            if line.accept("in"):
                self._aliases[name] = line.take_string()
                return
            line.expect("at")
            self._offsets[name] = read_dim(line, self._symbols)
            return
        line.expect("size")
        size = read_dim(line, self._symbols)
        plan: dict[str, Any] = {"size": size}
        for key in ("peak", "example_size"):
            line.expect(",")
            line.expect(key)
            plan[key] = line.take_integer()
        self._plan = plan

    def _table(self, line: Line) -> None:
        name = line.take_name("table")
        line.expect("=")
        if not line.at("["):
            line.fail("expected a list")
        self._tables[name] = self._values.value(line)

    def _type(self, line: Line) -> TensorType:
        name = line.take("word")
        try:
            dtype = dtype_of_name(name.text)
        except KeyError:
            line.fail(f"unknown element type {name.text!r}", name.column)
        line.expect("[")
        dims: list[Dim] = []
        while not line.at("]"):
            dims.append(read_dim(line, self._symbols))
            if not line.accept(","):
                break
        line.expect("]")
        return TensorType(dtype, tuple(dims))

    # -- nodes ---------------------------------------------------------------------------------

    def _node(self, line: Line) -> None:
        column = line.next.column
        name, found = "output", None
        if line.next.kind == "node":
            name = line.take_name("node")
            found = self._type(line) if line.accept(":") else None
            line.expect("=")
        node = self._right_side(line, name)
        if node.name != name or name in self._nodes:
            line.fail(f"the name %{name} is taken or is a word of Python", column)
        self._nodes[name] = node
        if found is not None:
            set_type(node, found)
        if line.accept("{"):
            self._facts(line, node)
        if node.op == "get_attr" and (
            not found or constant_type(self._held[str(node.target)]) != found
        ):
            line.fail(f"%{name} has another type than its constant", column)

    def _right_side(self, line: Line, name: str) -> fx.Node:
        if line.accept("return"):
            line.expect("(")
            results = self._values.items(line, ")")
            if not all(isinstance(r, fx.Node) for r in results):
                line.fail("a graph returns nodes")
            return self._fx.create_node("output", "output", (tuple(results),), {}, name)
        if line.accept("input"):
            target = line.take_name("constant") if line.next.kind == "constant" else name
            return self._fx.create_node("placeholder", target, (), {}, name)
        if line.accept("constant"):
            column, target = line.next.column, line.take_name("constant")
            if target not in self._held:
                line.fail(f"no line declares the constant @{target}", column)
            return self._fx.create_node("get_attr", target, (), {}, name)
        operator = self._target(line)
        line.expect("(")
        args, kwargs = self._values.arguments(line, ")")
        return self._fx.create_node("call_function", operator, tuple(args), kwargs, name)

    def _target(self, line: Line) -> Any:
        first = line.next
        parts = [line.take("word").text]
        while line.accept("."):
            parts.append(line.take("word").text)
        text = ".".join(parts)
        if text in FUNCTIONS:
            return FUNCTIONS[text]
        if len(parts) not in (2, 3):
            line.fail(f"{text} is no operator", first.column)
        space, name, overload = (*parts, "default")[:3]
        if not _may_call(space, name):
            line.fail(f"the operator {text} is not registered", first.column)
        try:
            return getattr(getattr(getattr(torch.ops, space), name), overload)
        except AttributeError:
            line.fail(f"there is no operator {text}", first.column)

    def _facts(self, line: Line, node: fx.Node) -> None:
        column = line.next.column
        args, facts = self._values.arguments(line, "}")
        if args:
            line.fail("a fact has no name", column)
        if unknown := facts.keys() - {*QUANT_KEYS, *ORIGIN_KEYS}:
            line.fail(f"there is no fact {min(unknown)!r}", column)
        for cls, keys, store in (
            (Quant, QUANT_KEYS, set_quant),
            (Origin, ORIGIN_KEYS, set_origin),
        ):
            given = {key: facts[key] for key in keys if key in facts}
            if given:
                store(node, build_record(line, cls, [], given, column))


def _is_structure(value: object, count: int) -> bool:
    if not isinstance(value, dict):
        return type(value) is int and 0 <= value < count
    match list(value.items()):
        case [("tuple" | "list", list(items))]:
            return all(_is_structure(item, count) for item in items)
        case [("dict", list(items))]:
            pairs = all(isinstance(p, list) and len(p) == 2 for p in items)
            return pairs and all(_is_structure(item, count) for _key, item in items)
        case [("value", _)]:
            return True
    return False


@cache
def _empty_module() -> fx.GraphModule:
    return fx.GraphModule(torch.nn.Module(), fx.Graph())


def _may_call(space: str, name: str) -> bool:
    """Says whether text IR may call an operator: torch's own, ours, or one that a plug-in added."""
    if space == "aten":
        return name not in _NEVER
    if space not in _namespaces():
        for plugin in registry.names(registry.OPS):
            registry.load(registry.OPS, plugin)
    return space in _namespaces()


def _namespaces() -> set[str]:
    return {name.split("::")[0] for name in (*FLOAT_OPS, *INTEGER_OPS)}
