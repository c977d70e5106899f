"""Capture: what a model becomes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import sympy
import torch
from torch import Tensor, nn

from qcompiler.capture import capture
from qcompiler.ir.annotations import origin_of, type_of
from qcompiler.ir.graph import QGraph
from qcompiler.ir.stages import Stage
from qcompiler.ir.structure import pack
from qcompiler.ir.types import symbol
from qcompiler.ir.verifier import verify_graph
from tests.passes.rewrite.helpers import flat, targets


def _captured(model: nn.Module, *inputs: Tensor, **options: Any) -> QGraph:
    graph = capture(model, inputs, **options)
    assert graph.stage == Stage.TRACED
    verify_graph(graph)
    return graph


def _agrees(model: nn.Module, graph: QGraph, *inputs: Tensor) -> None:
    model.eval()
    with torch.no_grad():
        expected = flat(model(*(x.clone() for x in inputs)))
    for a, b in zip(graph.run(*inputs), expected, strict=True):
        torch.testing.assert_close(a, b)


def _line(function: Callable[..., Any], offset: int) -> str:
    """Returns ``file.py:line`` so many lines below a function's first."""
    code = function.__code__
    return f"{Path(code.co_filename).name}:{code.co_firstlineno + offset}"


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, image: Tensor) -> Tensor:
        y: Tensor = self.drop(self.norm(self.conv(image)))
        return y.flatten(1)


def test_layers_stay_whole_and_the_batch_is_dynamic() -> None:
    model = _Net()
    graph = _captured(model, torch.randn(1, 3, 5, 5))
    assert targets(graph) == [
        "aten.conv2d",
        "aten.batch_norm",
        "aten.dropout",
        "aten.flatten.using_ints",
    ]
    assert [n.name for n in graph.inputs] == ["image"]
    assert type_of(graph.inputs[0]).shape == (symbol("batch"), 3, 5, 5)
    assert type_of(graph.results[0]).shape == (symbol("batch"), 36)
    assert graph.symbols["batch"].low == 1
    for batch in (1, 2, 7):
        _agrees(model, graph, torch.randn(batch, 3, 5, 5))


def test_the_model_is_left_as_it_was() -> None:
    model = _Net().train()
    model.norm.eval()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    graph = _captured(model, torch.randn(4, 3, 5, 5))
    assert model.training
    assert model.drop.training
    assert not model.norm.training
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    with torch.no_grad():
        model.conv.weight.zero_()
    assert bool(graph.constant(graph.node("conv_weight")).any())


def test_origins_name_the_line_and_the_module() -> None:
    graph = _captured(_Net(), torch.randn(2, 3, 5, 5))
    origin = origin_of(graph.node("conv2d"))
    assert origin.module == "conv"
    assert origin.source is not None
    assert f"{_line(_Net.forward, 1)} (y: Tensor = self.drop(" in origin.source
    assert not origin.source.startswith("/")


class _Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor, scale: float = 2.0) -> dict[str, Any]:
        return {"sum": x + y * scale, "rest": [(x, None), 3]}


def test_inputs_share_the_batch_and_results_keep_their_structure() -> None:
    x, y = torch.randn(3, 4), torch.randn(3, 4)
    graph = _captured(_Two(), x, y)
    assert [type_of(n).shape[0] for n in graph.inputs] == [symbol("batch")] * 2
    results = pack(graph.structure, graph.run(x, y))
    assert results.keys() == {"sum", "rest"}
    assert torch.equal(results["rest"][0][0], x)
    assert results["rest"] == [(results["rest"][0][0], None), 3]
    sums = graph.run(torch.ones(5, 4), torch.ones(5, 4))[0]
    assert torch.equal(sums, torch.full((5, 4), 3.0))


class _Any(nn.Module):
    def forward(self, *values: Tensor) -> Tensor:
        return values[0] + values[1]


def test_any_number_of_inputs() -> None:
    graph = _captured(_Any(), torch.randn(2, 3), torch.randn(2, 3))
    assert len(graph.inputs) == 2
    _agrees(_Any(), graph, torch.randn(4, 3), torch.randn(4, 3))


class _Length(nn.Module):
    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return (x.relu() @ weight).flatten(1)


def test_declared_dimensions() -> None:
    x, weight = torch.randn(2, 6, 4), torch.randn(4, 5)
    for shapes in ({"x": {0: "batch", 1: "length"}}, ({0: "batch", 1: "length"}, None)):
        graph = _captured(_Length(), x, weight, dynamic_shapes=shapes)
        assert type_of(graph.results[0]).shape == (symbol("batch"), 5 * symbol("length"))
        assert graph.symbols.keys() == {"batch", "length"}
        _agrees(_Length(), graph, torch.randn(3, 9, 4), weight)


def test_bounds_of_a_declared_dimension() -> None:
    dim = torch.export.Dim("length", min=2, max=40)
    graph = _captured(nn.ReLU(), torch.randn(3, 8), dynamic_shapes=({1: dim},))
    assert graph.symbols["length"].high == 40


class _Bounded(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch._check(x.shape[0] < 100)
        return x.relu()


def test_bounds_that_the_model_states() -> None:
    limits = _captured(_Bounded(), torch.randn(3, 8)).symbols["batch"]
    assert (limits.low, limits.high) == (1, 99)


def test_a_dynamic_size_under_convolution_and_pooling() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.MaxPool2d(2))
    shapes = ({0: "batch", 2: "height"},)
    graph = _captured(model, torch.randn(1, 3, 20, 8), dynamic_shapes=shapes)
    for height in (12, 33):
        _agrees(model, graph, torch.randn(2, 3, height, 8))


def test_fixed_shapes() -> None:
    graph = _captured(_Net(), torch.randn(4, 3, 5, 5), dynamic_shapes=())
    assert type_of(graph.results[0]).shape == (4, 36)
    assert graph.symbols == {}


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.first(x))
        return y @ self.second.weight


def test_tied_weights_are_one_constant() -> None:
    model = _Tied()
    graph = _captured(model, torch.randn(2, 4))
    weights = [n for n in graph.nodes if n.op == "get_attr" and type_of(n).rank == 2]
    assert len(weights) == 1
    assert len(weights[0].users) == 3
    # Strict export unites tied parameters itself; the other way does not.
    batch = {0: torch.export.Dim("batch")}
    program = torch.export.export(
        model, (torch.randn(2, 4),), dynamic_shapes=(batch,), strict=False
    )
    again = capture(program)
    assert sum(n.op == "get_attr" and type_of(n).rank == 2 for n in again.nodes) == 1


class _Blocks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = x.relu()
            with torch.autocast("cpu", enabled=False):
                y = y + x
        return y * 2


def test_blocks_are_entered() -> None:
    graph = _captured(_Blocks(), torch.randn(2, 4))
    assert targets(graph) == ["aten.relu", "aten.add.Tensor", "aten.mul.Tensor"]
    source = origin_of(graph.node("relu")).source
    assert source is not None
    assert _line(_Blocks.forward, 2) in source
    _agrees(_Blocks(), graph, torch.randn(3, 4))


class _InPlace(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        z = y.flatten(1)
        z += 1
        z.relu_()
        w = z.unsqueeze(0)
        w.squeeze_(0)
        return w + z


def test_in_place_operators_become_functional() -> None:
    graph = _captured(_InPlace(), torch.randn(2, 3, 4))
    assert not any("_." in str(n.target) for n in graph.calls)
    _agrees(_InPlace(), graph, torch.randn(5, 3, 4))


def test_exported_programs_and_files(tmp_path: Path) -> None:
    x, batch = torch.randn(2, 3, 5, 5), {0: torch.export.Dim("n")}
    program = torch.export.export(_Net().eval(), (x,), dynamic_shapes=(batch,))
    graph = capture(program)
    assert type_of(graph.inputs[0]).shape[0] == symbol("batch")
    torch.export.save(program, tmp_path / "net.pt2")
    again = capture(tmp_path / "net.pt2")
    torch.testing.assert_close(again.run(x)[0], graph.run(x)[0])


def test_a_program_of_fixed_shape_stays_fixed() -> None:
    program = torch.export.export(nn.ReLU(), (torch.randn(2, 3),))
    assert type_of(capture(program).inputs[0]).shape == (2, 3)


def test_dimensions_are_plain_sympy() -> None:
    graph = _captured(nn.Flatten(0, 1), torch.randn(2, 3, 4))
    dim = type_of(graph.results[0]).shape[0]
    assert isinstance(dim, sympy.Expr)
    assert dim == 3 * symbol("batch")
