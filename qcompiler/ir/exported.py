"""Reads a torch ExportedProgram into a graph at the stage ``traced``.

Parameters and buffers become constants, one per storage; bodies of higher-order operators are
entered; in-place operators become functional ones, so that a name has one value.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from typing import Any, NoReturn

import sympy
import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument

from qcompiler.errors import QCompilerError
from qcompiler.ir.aliases import Aliases, functional_overload, is_view, written_argument
from qcompiler.ir.annotations import (
    Origin,
    capture_facts,
    has_type,
    origin_of,
    set_origin,
    set_type,
)
from qcompiler.ir.graph import QGraph
from qcompiler.ir.sources import frames_of, user_line
from qcompiler.ir.stages import Stage
from qcompiler.ir.structure import Structure, describe
from qcompiler.ir.types import SymbolRange, TensorType
from qcompiler.torch_compat import HigherOrderOperator, OpOverload, symbolic_dim

Values = dict[fx.Node, Any]

# Operators whose body runs once and whose last arguments are the body's inputs; so do wrap_*.
_ENTERED = ("tag_activation_checkpoint", "invoke_subgraph", "hints_wrapper", "strict_mode")
_BRANCHES = ("cond", "while_loop", "scan", "map", "map_impl", "associative_scan")
_READS_A_VALUE = ("aten::item", "aten::_local_scalar_dense", "aten::nonzero")
_OUTSIDE = "compute it outside of the model, or write the model without it"
_REMEDIES = {
    "QC0101": "write the choice with torch.where, or take it out of the forward method",
    "QC0102": _OUTSIDE,
    "QC0108": "write the operation out of place and return the new value",
}


def read_exported(program: ExportedProgram, names: Mapping[sympy.Symbol, str]) -> QGraph:
    """Returns the graph of an exported program, its symbols named.

    Raises:
        QCompilerError: QC0101 control flow that depends on data, QC0102 an operator or a result
            that has no place in a graph, QC0105 a parameter that is not finite, QC0108 a changed
            input or state, QC0109 a value in another precision than float32.
    """
    return _Reader(program, names).read()


class _Reader:
    def __init__(self, program: ExportedProgram, names: Mapping[sympy.Symbol, str]) -> None:
        self.program = program
        self.names = names
        self.root = torch.nn.Module()
        self.graph = fx.Graph()
        self.aliases = Aliases()
        self.constants: dict[tuple[object, ...], fx.Node] = {}

    def read(self) -> QGraph:
        traced = self.program.graph_module
        values: Values = {}
        self._read_inputs(traced.graph, values)
        leaves = self._read_body(traced, values)
        results, structure = self._results(leaves)
        self.graph.output(tuple(results))
        graph = QGraph(fx.GraphModule(self.root, self.graph), Stage.TRACED, self._symbols())
        graph.structure = structure
        return graph

    def _symbols(self) -> dict[str, SymbolRange]:
        found, widest = {}, SymbolRange()
        for theirs, name in self.names.items():
            limits = self.program.range_constraints.get(theirs)
            if limits is None:
                found[name] = widest
            else:
                # Torch says 2 for dimensions that it did not trace at 0 and 1.
                low = int(limits.lower) if limits.lower > 2 else widest.low
                high = int(limits.upper) if limits.upper < widest.high else widest.high
                found[name] = SymbolRange(low, high)
        return found

    # -- inputs and results --------------------------------------------------------------------

    def _read_inputs(self, traced: fx.Graph, values: Values) -> None:
        specs = {s.arg.name: s for s in self.program.graph_signature.input_specs}
        for node in (n for n in traced.nodes if n.op == "placeholder"):
            spec = specs[node.name]
            match spec.kind, spec.arg:
                case InputKind.USER_INPUT, TensorArgument():
                    values[node] = self._input(node)
                case InputKind.USER_INPUT, ConstantArgument(value=value):
                    values[node] = value
                case ((InputKind.PARAMETER | InputKind.BUFFER | InputKind.CONSTANT_TENSOR), _):
                    if node.users:
                        values[node] = self._constant(str(spec.target))
                case _:
                    self._refuse(
                        node, f"the model takes or holds {node.name!r}, which is no tensor"
                    )

    def _input(self, node: fx.Node) -> fx.Node:
        new = self.graph.placeholder(node.name)
        self._annotate(new, node)
        dtype = capture_facts(node)[0].dtype
        if dtype.is_floating_point and dtype != torch.float32:
            refuse_precision(f"the input {node.name!r} is {dtype}")
        self.aliases.add(new)
        self.aliases.own(new, f"its input {node.name!r}")
        return new

    def _constant(self, target: str) -> fx.Node:
        tensor = self._held(target).detach()
        if tensor.is_floating_point():
            if tensor.dim() and tensor.dtype != torch.float32:
                refuse_precision(f"the parameter {target!r} is {tensor.dtype}")
            _check_finite(target, tensor)
        place = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.dtype)
        key = (*place, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and key in self.constants:
            return self.constants[key]
        stem = name = re.sub(r"\W", "_", target)
        count = 0
        while hasattr(self.root, name):
            count += 1
            name = f"{stem}_{count}"
        self.root.register_buffer(name, tensor.cpu().clone(memory_format=torch.contiguous_format))
        node = self.graph.get_attr(name)
        set_type(node, TensorType(tensor.dtype, tuple(tensor.shape)))
        set_origin(node, Origin(module=target.rpartition(".")[0] or None, node=target))
        self.constants[key] = node
        self.aliases.add(node)
        self.aliases.own(node, f"its parameter or buffer {target!r}")
        return node

    def _held(self, target: str) -> torch.Tensor:
        held = self.program.state_dict.get(target, self.program.constants.get(target))
        if not isinstance(held, torch.Tensor):
            self._refuse(None, f"the model holds {target!r}, which is no tensor")
        return held

    def _results(self, leaves: Any) -> tuple[list[fx.Node], Structure]:
        specs = self.program.graph_signature.output_specs
        results: list[fx.Node] = []

        def leaf(position: object) -> Structure:
            value = user_leaves[int(str(position))]
            if isinstance(value, fx.Node):
                if not has_type(value):
                    self._refuse(value, "the model returns a size, not a tensor")
                self._check_fresh(value, value)
                results.append(value)
                return len(results) - 1
            return {"value": value}

        user_leaves = []
        for spec, value in zip(specs, leaves, strict=True):
            if spec.kind == OutputKind.USER_OUTPUT:
                user_leaves.append(value)
            else:
                self._refuse(None, f"the model changes {spec.target!r}", "QC0108")
        spec = self.program.call_spec.out_spec
        nested = spec.unflatten(list(range(len(user_leaves)))) if spec is not None else ()
        structure = describe(nested, leaf)
        if not results:
            self._refuse(None, "the model returns no tensor")
        return results, structure

    # -- calls ---------------------------------------------------------------------------------

    def _read_body(self, module: fx.GraphModule, values: Values) -> Any:
        """Copies the calls of a graph and returns what its output node returns."""
        for node in module.graph.nodes:
            match node.op:
                case "get_attr":
                    values[node] = self._attribute(module, node)
                case "call_function":
                    values[node] = self._call(node, values)
                case "output":
                    return self._load(node.args[0], values)
        return ()

    def _load(self, arg: Any, values: Values) -> Any:
        """Returns an argument with traced nodes replaced by what stands for them now."""
        if isinstance(arg, fx.Node):
            return self._now(values[arg])
        if isinstance(arg, (list, tuple)):
            return [self._load(a, values) for a in arg]
        return arg

    def _now(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._now(v) for v in value]
        return self.aliases.now(value) if isinstance(value, fx.Node) else value

    def _attribute(self, module: fx.GraphModule, node: fx.Node) -> Any:
        held: Any = module
        for part in str(node.target).split("."):
            held = getattr(held, part)
        if isinstance(held, torch.Tensor):
            self._refuse(node, f"the traced program reads {node.target!r} past its signature")
        return held

    def _call(self, node: fx.Node, values: Values) -> Any:
        args = [self._load(a, values) for a in node.args]
        kwargs = {k: self._load(v, values) for k, v in node.kwargs.items()}
        if isinstance(node.target, HigherOrderOperator):
            return self._enter(node, str(node.target), args)
        if node.target is operator.getitem and isinstance(args[0], list):
            return args[0][args[1]]
        written = written_argument(node.target) if isinstance(node.target, OpOverload) else None
        if written is None:
            return self._copy(node, node.target, args, kwargs)
        return self._write(node, args, kwargs, written)

    def _copy(self, node: fx.Node, target: Any, args: list[Any], kwargs: dict[str, Any]) -> fx.Node:
        if isinstance(target, OpOverload) and target._schema.name in _READS_A_VALUE:
            self._refuse(node, f"{target} makes the program depend on a tensor's value", "QC0101")
        new = self.graph.create_node("call_function", target, tuple(args), kwargs, node.name)
        self._annotate(new, node)
        for used in new.all_input_nodes:
            self._check_fresh(used, node)
        self.aliases.add(new, target, new.all_input_nodes)
        return new

    def _check_fresh(self, used: fx.Node, reader: fx.Node) -> None:
        by = self.aliases.staleness(used)
        if by is not None:
            self._refuse(reader, f"{by} writes into a view of a value that is read again", "QC0108")

    def _write(self, node: fx.Node, args: list[Any], kwargs: dict[str, Any], place: int) -> fx.Node:
        """Copies an in-place call as a functional one; later readers see the new value."""
        target: Any = node.target
        functional = functional_overload(target)
        changed = args[place] if place < len(args) else None
        if functional is None or not isinstance(changed, fx.Node):
            self._refuse(node, f"{target} writes into a tensor", "QC0108")
        if is_view(functional):  # it changes the shape or the gradient, no element
            new = self._copy(node, functional, args, kwargs)
            self.aliases.rename(changed, new)
            return new
        owner = self.aliases.owner(changed)
        if owner is not None:
            self._refuse(node, f"the model changes {owner} with {target}", "QC0108")
        new = self._copy(node, functional, args, kwargs)
        self.aliases.overwrite(changed, new, str(target))
        return new

    def _enter(self, node: fx.Node, name: str, args: list[Any]) -> Any:
        """Copies the body of a higher-order operator that runs it once."""
        if name in _BRANCHES:
            self._refuse(node, f"the model runs {name}, which depends on tensor values", "QC0101")
        bodies = [a for a in args if isinstance(a, fx.GraphModule)]
        if len(bodies) != 1 or not (name.startswith("wrap") or name in _ENTERED):
            self._refuse(node, f"the higher-order operator {name} cannot be entered")
        if name == "wrap_with_autocast" and args[2]:
            source = self._body_source(bodies[0])
            refuse_precision(f"a block runs under torch.autocast to {args[1]}", source)
        inputs = [n for n in bodies[0].graph.nodes if n.op == "placeholder"]
        given = args[len(args) - len(inputs) :]
        return self._read_body(bodies[0], dict(zip(inputs, given, strict=True)))

    # -- facts ---------------------------------------------------------------------------------

    def _annotate(self, new: fx.Node, traced: fx.Node) -> None:
        value, _, modules = capture_facts(traced)
        path = next((str(entry[0]) for entry in reversed(list(modules.values()))), "")
        path = "" if path.startswith("_empty") else path
        set_origin(new, Origin(_source(traced), path or None, traced.name))
        if isinstance(value, torch.Tensor):
            dims = []
            for size in value.shape:
                dim = symbolic_dim(size, self.names)
                known = isinstance(dim, int) or {s.name for s in dim.free_symbols} <= set(
                    self.names.values()
                )
                if not known:
                    self._refuse(traced, "the size of a tensor depends on tensor values", "QC0101")
                dims.append(dim)
            set_type(new, TensorType(value.dtype, tuple(dims)))

    def _body_source(self, body: fx.GraphModule) -> str | None:
        return next((s for n in body.graph.nodes if (s := _source(n)) is not None), None)

    def _refuse(self, node: fx.Node | None, problem: str, code: str = "QC0102") -> NoReturn:
        source = None
        if node is not None:
            source = _source(node) or origin_of(node).source
            bodies = [a for a in node.all_input_nodes if a.op == "get_attr"]
            for body in bodies if source is None else ():
                held = getattr(node.graph.owning_module, str(body.target), None)
                if isinstance(held, fx.GraphModule):
                    source = source or self._body_source(held)
        raise QCompilerError(
            code,
            problem,
            node=node.name if node is not None else None,
            source=source,
            remedy=_REMEDIES[code],
        )


def refuse_precision(problem: str, source: str | None = None) -> NoReturn:
    """Raises the error about a value that is not float32."""
    raise QCompilerError(
        "QC0109", problem, source=source, remedy="call model.float() and give float32 inputs"
    )


def _source(node: fx.Node) -> str | None:
    trace = capture_facts(node)[1]
    return user_line(frames_of(trace)) if trace else None


def _check_finite(name: str, tensor: torch.Tensor) -> None:
    wrong = int((~torch.isfinite(tensor)).sum())
    if wrong:
        raise QCompilerError(
            "QC0105",
            f"the parameter {name!r} holds {wrong} values that are NaN or infinite",
            node=name,
            remedy="load intact weights or train again; no scale can represent them",
        )
