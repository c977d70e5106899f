"""Random programs of integer operators whose values branch, die, are viewed and returned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from hypothesis import strategies as st
from torch import fx

import qcompiler.ir.integer_ops  # noqa: F401  # defines the operators
from qcompiler.ir.annotations import set_type, type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.stages import Stage
from qcompiler.ir.types import Dim, SymbolRange, TensorType, symbol

OPS = torch.ops.qcompiler
_LIMITS = [-3, -128, 127]
ADD = [-3, 2**19, 5, 2**19, 20, *_LIMITS]


class _Writer:
    """Appends operators to a graph and remembers its int8 values."""

    def __init__(self, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        empty = fx.Graph()
        for name in ("image", "codes"):
            empty.placeholder(name)
        empty.output(())
        module = fx.GraphModule(torch.nn.Module(), empty)
        self.draw = draw
        self.graph = QGraph(module, Stage.TARGETED, {"batch": SymbolRange(1, 64)})
        image, codes = self.graph.inputs
        channels, batch = draw(st.sampled_from([1, 3, 16, 20, 67])), symbol("batch")
        height, width = draw(st.sampled_from([(1, 1), (1, 1), (2, 9), (5, 4), (9, 7)]))
        set_type(image, TensorType(torch.float32, (batch, channels, height, width)))
        set_type(codes, TensorType(torch.int8, (batch, channels)))
        self.random = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
        self.values = [codes]
        self.call("quantize", image, 40.0, *_LIMITS)

    def call(self, name: str, *args: Any) -> fx.Node:
        """Calls an operator and keeps its result."""
        out = self.graph.output
        made = self.graph.call(getattr(OPS, name).default, args, before=out)
        self.values.append(made)
        return made

    def constant(self, *values: int) -> fx.Node:
        """Adds int32 numbers."""
        return self.tensor(torch.tensor(values, dtype=torch.int32))

    def tensor(self, values: torch.Tensor) -> fx.Node:
        """Adds a constant."""
        return self.graph.add_constant(values, "c", self.graph.output)

    def weights(self, *shape: int) -> list[fx.Node]:
        """Adds random weights, biases, a multiplier and a shift."""
        weight = torch.randint(-127, 128, shape, dtype=torch.int8, generator=self.random)
        bias = torch.randint(-999, 999, shape[:1], dtype=torch.int32, generator=self.random)
        shift = 36 + weight[0].numel().bit_length() // 2
        requant = self.constant(2**30 + 640), self.constant(shift)
        return [self.tensor(weight), self.tensor(bias), *requant]

    def like(self, node: fx.Node) -> fx.Node:
        """Draws a value of a node's type, which may be the node itself."""
        same = [value for value in self.values if type_of(value) == type_of(node)]
        found: fx.Node = self.draw(st.sampled_from([node, self.pick(same), same[0]]))
        return found

    def pick(self, values: list[fx.Node]) -> fx.Node:
        """Draws a value, late ones more often: they are the ends of chains."""
        place: int = self.draw(st.integers(0, len(values) - 1) | st.just(len(values) - 1))
        return values[place]


def _map(w: _Writer, x: fx.Node) -> None:
    match w.draw(st.integers(0, 4)):
        case 0:
            table = torch.randint(-128, 128, (256,), dtype=torch.int8, generator=w.random)
            w.call("table", x, w.tensor(table))
        case 1:
            w.call("clamp", x, -90, 100)
        case 2:
            w.call("requantize", x, w.constant(2**30), w.constant(30), 0, 4, *_LIMITS)
        case 3:
            w.call("add", x, w.like(x), *ADD)
        case _:
            w.call("mul", x, w.like(x), 1, -2, 2**30, 36, *_LIMITS)


def _product(w: _Writer, x: fx.Node) -> None:
    channels = type_of(x).shape[1]
    assert isinstance(channels, int)
    kernel = w.draw(st.sampled_from([1, 3]))
    depthwise = w.draw(st.booleans())
    parameters = w.weights(channels, 1 if depthwise else channels, kernel, kernel)
    groups = channels if depthwise else 1
    geometry = [[1, 1], [kernel // 2] * 4, [1, 1], groups]
    add: list[Any] = [None, None, None]
    if w.draw(st.booleans()):
        add = [None, w.like(x), ADD]
    w.call("conv2d_requant", x, *parameters, -3, *geometry, *_LIMITS, *add)


def _flat(w: _Writer, x: fx.Node) -> None:
    channels = type_of(x).shape[1]
    assert isinstance(channels, int)
    match w.draw(st.integers(0, 3)):
        case 0:
            w.call("reshape", x, [0, 0, 1, 1])
        case 1:
            w.call("reshape", x, [-1, channels])
        case 2:
            parameters = w.weights(channels, channels)
            w.call("linear_requant", x, *parameters, -3, *_LIMITS, None, w.like(x), ADD)
        case _:
            w.call("linear_requant", x, *w.weights(channels, channels), -3, *_LIMITS)


def _step(w: _Writer) -> None:
    x = w.pick(w.values)
    kind = w.draw(st.integers(0, 4))
    if kind < 2:
        _map(w, x)
    elif type_of(x).rank == 2:
        _flat(w, x)
    elif kind < 4:
        _product(w, x)
    elif type_of(x).shape[2:] == (1, 1):
        w.call("reshape", x, [0, -1])
    else:
        requant = w.constant(2**30), w.constant(32)
        w.call("mean", x, *requant, [2, 3], w.draw(st.booleans()), -3, *_LIMITS)


@st.composite
def programs(draw: st.DrawFn, most: int = 12) -> QGraph:
    """Draws a program; its results are values of any place in it, some twice, some inputs.

    Values that nothing reads are joined to a result where they can be.
    """
    w = _Writer(draw)
    for _ in range(draw(st.integers(most // 2, most))):
        _step(w)
    results = [w.pick(w.values) for _ in range(draw(st.integers(0, 2)))]
    joined: dict[TensorType, fx.Node] = {}
    for value in list(w.values):
        if not value.users:
            before = joined.get(type_of(value))
            joined[type_of(value)] = w.call("add", before, value, *ADD) if before else value
    for last in joined.values():
        results.append(w.call("dequantize", last, 0.05, -3) if draw(st.booleans()) else last)
    w.graph.output.args = (tuple(results),)
    w.graph.erase_dead()
    w.graph.recompile()
    return w.graph


def quantized(
    channels: int = 4,
    height: Dim = 1,
    width: Dim = 1,
    symbols: Mapping[str, SymbolRange] | None = None,
) -> tuple[QGraph, fx.Node]:
    """Returns a graph that quantizes its input, a batch of images, and the codes."""
    empty = fx.Graph()
    empty.placeholder("image")
    empty.output(())
    module = fx.GraphModule(torch.nn.Module(), empty)
    graph = QGraph(module, Stage.TARGETED, symbols or {"batch": SymbolRange(1, 64)})
    shape = (symbol("batch"), channels, height, width)
    set_type(graph.inputs[0], TensorType(torch.float32, shape))
    return graph, call(graph, "quantize", graph.inputs[0], 40.0, 0, -128, 127)


def call(graph: QGraph, name: str, *args: object) -> fx.Node:
    """Appends a call of a qcompiler operator."""
    return graph.call(getattr(OPS, name).default, args, before=graph.output)


def conv(graph: QGraph, x: fx.Node, residual: fx.Node) -> fx.Node:
    """Appends a 1x1 convolution that adds a residual."""
    numbers = (torch.ones(4, 4, 1, 1, dtype=torch.int8), torch.zeros(4, dtype=torch.int32))
    requant = (torch.full((1,), value, dtype=torch.int32) for value in (2**30, 36))
    constants = [graph.add_constant(t, "c", graph.output) for t in (*numbers, *requant)]
    geometry = (0, [1, 1], [0, 0, 0, 0], [1, 1], 1, *_LIMITS)
    return call(graph, "conv2d_requant", x, *constants, *geometry, None, residual, ADD)
