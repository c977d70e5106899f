"""QGraph: a runnable torch.fx graph with its stage, its symbols and typed nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import Origin, has_type, origin_of, set_origin, set_type, type_of
from qcompiler.ir.stages import Stage
from qcompiler.ir.structure import Structure, flat
from qcompiler.ir.types import SymbolRange, TensorType
from qcompiler.torch_compat import OpOverload, ShapeInference

if TYPE_CHECKING:
    from qcompiler.runtime.memory import MemoryPlan


class QGraph:
    """One program at one stage.

    ``module`` is the torch.fx GraphModule that runs; constants are its buffers, read by get_attr
    nodes. ``properties`` holds what passes have established beyond the stage; ``structure`` how the
    user's model nests its results.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        stage: Stage,
        symbols: Mapping[str, SymbolRange] | None = None,
    ) -> None:
        self.module = module
        self.stage = stage
        self.properties: set[str] = set()
        self.symbols: dict[str, SymbolRange] = dict(symbols or {})
        self.structure: Structure = flat(len(self.results))
        self.memory_plan: MemoryPlan | None = None
        self._shapes: ShapeInference | None = None

    # -- reading -------------------------------------------------------------------------------

    @property
    def nodes(self) -> list[fx.Node]:
        """The nodes in execution order, as a list that stays valid while the graph changes."""
        return list(self.module.graph.nodes)

    @property
    def calls(self) -> list[fx.Node]:
        """The operator calls in execution order."""
        return [n for n in self.module.graph.nodes if n.op == "call_function"]

    @property
    def inputs(self) -> list[fx.Node]:
        """The placeholders in order."""
        return [n for n in self.module.graph.nodes if n.op == "placeholder"]

    @property
    def output(self) -> fx.Node:
        """The output node."""
        return self.module.graph.output_node()

    @property
    def results(self) -> list[fx.Node]:
        """The nodes whose values the program returns, in order."""
        return list(self.output.args[0])  # type: ignore[arg-type]  # always a tuple of nodes

    def node(self, name: str) -> fx.Node:
        """Returns the node with the given name; raises KeyError."""
        found = {n.name: n for n in self.nodes}
        return found[name]

    def constant(self, node: fx.Node) -> torch.Tensor:
        """Returns the tensor that a get_attr node reads."""
        value = getattr(self.module, str(node.target))
        if not isinstance(value, torch.Tensor):
            message = f"{node.target} is no tensor"
            raise TypeError(message)
        return value.detach()

    @property
    def shapes(self) -> ShapeInference:
        """Infers result types with this graph's symbols."""
        if self._shapes is None:
            self._shapes = ShapeInference(self.symbols)
        return self._shapes

    # -- changing ------------------------------------------------------------------------------

    def add_constant(self, tensor: torch.Tensor, name: str, before: fx.Node) -> fx.Node:
        """Stores a tensor under a free name and inserts the node that reads it."""
        free, count = name.replace(".", "_"), 0
        while hasattr(self.module, free):
            count += 1
            free = f"{name.replace('.', '_')}_{count}"
        self.module.register_buffer(free, tensor.detach().clone().contiguous())
        with self.module.graph.inserting_before(before):
            node = self.module.graph.get_attr(free)
        set_type(node, TensorType(tensor.dtype, tuple(tensor.shape)))
        set_origin(node, origin_of(before))
        return node

    def set_constant(self, node: fx.Node, tensor: torch.Tensor) -> None:
        """Replaces the tensor of a constant; other readers of the same tensor keep the old one."""
        users = [n for n in self.module.graph.nodes if n.op == "get_attr" and n is not node]
        if any(n.target == node.target for n in users):
            fresh = self.add_constant(tensor, str(node.target), node)
            node.target = fresh.target
            self.module.graph.erase_node(fresh)
        else:
            setattr(self.module, str(node.target), tensor.detach().clone().contiguous())
        set_type(node, TensorType(tensor.dtype, tuple(tensor.shape)))

    def call(
        self,
        target: OpOverload,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None = None,
        *,
        before: fx.Node | None = None,
        after: fx.Node | None = None,
        origin: fx.Node | None = None,
        name: str | None = None,
    ) -> fx.Node:
        """Inserts an operator call, infers its type, and gives it the origin of another node.

        Exactly one of ``before`` and ``after`` is given. No quantization fact is inherited.
        """
        graph = self.module.graph
        name = name or target._schema.name.split("::")[1]
        place = graph.inserting_before(before) if before else graph.inserting_after(after)
        with place:
            node = graph.create_node("call_function", target, tuple(args), dict(kwargs or {}), name)
        self.infer_type(node)
        set_origin(node, origin_of(origin) if origin is not None else Origin())
        return node

    def infer_type(self, node: fx.Node) -> None:
        """Sets the type of a call from the types of its arguments."""
        args = [_plain(map_nodes(a, type_of)) for a in node.args]
        kwargs = {k: _plain(map_nodes(v, type_of)) for k, v in node.kwargs.items()}
        try:
            found = self.shapes.infer(node.target, args, kwargs)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            raise QCompilerError(
                "QC0504",
                f"{node.target} does not accept its arguments: {error}",
                node=node.name,
                source=origin_of(node).source,
                remedy="correct the pass that built this call",
            ) from error
        if found is not None:
            set_type(node, found)

    def replace(self, old: fx.Node, new: fx.Node) -> None:
        """Makes every user of ``old`` use ``new`` and erases ``old``."""
        old.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)
        self.erase(old)

    def erase(self, node: fx.Node) -> None:
        """Removes a node without users, and its constant when no other node reads it."""
        self.module.graph.erase_node(node)
        if node.op == "get_attr":
            left = any(
                n.op == "get_attr" and n.target == node.target for n in self.module.graph.nodes
            )
            if not left:
                delattr(self.module, str(node.target))

    def erase_dead(self) -> int:
        """Erases calls and constants without users and returns how many; inputs stay."""
        count = 0
        for node in reversed(self.nodes):
            if not node.users and node.op in ("call_function", "get_attr"):
                self.erase(node)
                count += 1
        return count

    def erase_unused(self, nodes: Iterable[fx.Node]) -> None:
        """Erases those of the nodes that no other node uses."""
        for node in dict.fromkeys(nodes):
            if not node.users:
                self.erase(node)

    def recompile(self) -> None:
        """Checks the graph's structure and regenerates the code of the module."""
        self.module.graph.lint()
        self.module.recompile()

    def copy(self) -> QGraph:
        """Returns an independent copy; tensors are shared, since no pass changes one in place."""
        nodes = fx.Graph()
        result = nodes.graph_copy(self.module.graph, {})
        nodes.output(result)
        twin = QGraph(fx.GraphModule(self.module, nodes), self.stage, self.symbols)
        twin.properties = set(self.properties)
        twin.structure = self.structure
        twin.memory_plan = self.memory_plan
        return twin

    # -- running -------------------------------------------------------------------------------

    def run(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Runs the graph node by node on CPU tensors and returns all results."""
        *_, last = self.trace(*inputs)
        return tuple(last[1])

    def trace(self, *inputs: torch.Tensor) -> Iterator[tuple[fx.Node, Any]]:
        """Yields each node with its value as it runs, freeing values after their last use."""
        last_use: dict[fx.Node, fx.Node] = {}
        for node in self.module.graph.nodes:
            for used in node.all_input_nodes:
                last_use[used] = node
        dying: dict[fx.Node, list[fx.Node]] = {}
        for used, user in last_use.items():
            dying.setdefault(user, []).append(used)
        values: dict[fx.Node, Any] = {}
        feed = iter(inputs)
        with torch.no_grad():
            for node in self.module.graph.nodes:
                values[node] = value = self._value(node, values, feed)
                yield node, value
                for used in dying.get(node, ()):
                    del values[used]
                if node not in last_use:
                    del values[node]

    def _value(self, node: fx.Node, values: dict[fx.Node, Any], feed: Iterator[Any]) -> Any:
        def load(arg: Any) -> Any:
            return map_nodes(arg, lambda n: values[n])

        if node.op == "placeholder":
            return next(feed)
        if node.op == "get_attr":
            return getattr(self.module, str(node.target))
        if node.op == "output":
            return load(node.args[0])
        if not callable(node.target):
            message = f"node {node.name!r} is no call"
            raise TypeError(message)
        return node.target(
            *(load(a) for a in node.args), **{k: load(v) for k, v in node.kwargs.items()}
        )


def map_nodes(arg: Any, function: Callable[[fx.Node], Any]) -> Any:
    """Returns an argument of a call with each node in it replaced by the function's value."""
    return fx.node.map_arg(arg, function)


def _plain(arg: Any) -> Any:
    """Turns fx's immutable containers into plain ones."""
    if isinstance(arg, TensorType):
        return arg
    if isinstance(arg, (list, tuple)):
        return [_plain(a) for a in arg]
    return arg


def is_call(node: Any, *targets: OpOverload) -> bool:
    """Says whether a value is a node that calls one of the given operators."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in targets


def is_constant(node: Any) -> bool:
    """Says whether a value is a node that reads a constant tensor."""
    return isinstance(node, fx.Node) and node.op == "get_attr" and has_type(node)


def operator_of(node: fx.Node) -> OpOverload:
    """Returns the operator that a call targets; raises TypeError for other nodes."""
    if not isinstance(node.target, OpOverload):
        message = f"node {node.name!r} calls no operator"
        raise TypeError(message)
    return node.target


@cache
def _parameters(target: OpOverload) -> dict[str, tuple[int, Any]]:
    """Returns position and default of each argument; reading a schema is slow."""
    listed = target._schema.arguments
    return {arg.name: (place, arg.default_value) for place, arg in enumerate(listed)}


def argument(node: fx.Node, name: str) -> Any:
    """Returns an argument of a call by its name in the operator's schema, default included."""
    parameters = _parameters(operator_of(node))
    if name not in parameters:
        message = f"{node.target} has no argument {name!r}"
        raise KeyError(message)
    if name in node.kwargs:
        return node.kwargs[name]
    place, default = parameters[name]
    return node.args[place] if place < len(node.args) else default


def arguments(node: fx.Node) -> dict[str, Any]:
    """Returns all arguments of a call by name, defaults included."""
    return {name: argument(node, name) for name in _parameters(operator_of(node))}
