"""Capture: which coded error, at which line, a model gets that cannot be captured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qcompiler.capture import capture
from qcompiler.errors import QCompilerError
from qcompiler.ir.annotations import type_of


def _error(model: Any, *inputs: Tensor, **options: Any) -> QCompilerError:
    with pytest.raises(QCompilerError) as caught:
        capture(model, inputs, **options)
    return caught.value


def _line(function: Callable[..., Any], offset: int) -> str:
    """Returns ``file.py:line`` so many lines below a function's first."""
    code = function.__code__
    return f"{Path(code.co_filename).name}:{code.co_firstlineno + offset}"


def _is_at(error: QCompilerError, function: Callable[..., Any], offset: int = 1) -> bool:
    return error.source is not None and f"{_line(function, offset)} (" in error.source


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(0.5)

    def forward(self, image: Tensor) -> Tensor:
        y: Tensor = self.drop(self.norm(self.conv(image)))
        return y.flatten(1)


class _Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor, scale: float = 2.0) -> dict[str, Any]:
        return {"sum": x + y * scale, "rest": [(x, None), 3]}


class _Length(nn.Module):
    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return (x.relu() @ weight).flatten(1)


class _Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return x + 1


class _Reads(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * x.sum().item()


class _Cond(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x * 2, (x,))
        return y


class _Sizes(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[x > 0]


@pytest.mark.parametrize("model", [_Branches(), _Reads(), _Cond(), _Sizes()])
def test_control_flow_on_data(model: nn.Module) -> None:
    error = _error(model, torch.randn(2, 4))
    assert error.code == "QC0101"
    assert _is_at(error, model.forward)


class _Fails(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x.relu()
        return y @ torch.ones(3, 3)


def test_other_failures() -> None:
    error = _error(_Fails(), torch.randn(2, 4))
    assert error.code == "QC0102"
    assert _is_at(error, _Fails.forward, 2)
    assert error.__cause__ is not None


class _Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[0] == 16
        return x


def test_a_model_that_fixes_its_batch() -> None:
    error = _error(_Fixed(), torch.randn(16, 4))
    assert error.code == "QC0102"
    assert "dimension 0 of ['x']" in error.problem
    assert "16" in error.problem
    assert "dynamic_shapes" in error.remedy
    graph = capture(_Fixed(), torch.randn(16, 4), dynamic_shapes=())
    assert type_of(graph.inputs[0]).shape == (16, 4)


class _NeedsLength(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[1] > 9 else x


@pytest.mark.parametrize("name", ["length", torch.export.Dim("length")])
def test_a_declared_dimension_with_too_small_a_minimum(name: Any) -> None:
    shapes = ({0: name, 1: name},)
    error = _error(_NeedsLength(), torch.randn(12, 12), dynamic_shapes=shapes)
    assert error.code == "QC0102"
    assert "torch.export.Dim('length', min=10)" in error.remedy
    assert "leave the dimension out" in error.remedy
    wide = torch.export.Dim("length", min=10)
    graph = capture(_NeedsLength(), torch.randn(12, 12), ({0: wide, 1: wide},))
    assert graph.symbols["length"].low == 10


class _WritesInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.add_(1)


class _WritesView(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y = x * 2
        y[:, 0].mul_(3)
        return y


class _WritesState(nn.Module):
    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return x + self.count


@pytest.mark.parametrize("model", [_WritesInput(), _WritesState()])
def test_changes_of_inputs_and_state(model: nn.Module) -> None:
    error = _error(model, torch.randn(2, 4))
    assert error.code == "QC0108"
    assert _is_at(error, model.forward)


def test_changes_through_another_view() -> None:
    error = _error(_WritesView(), torch.randn(2, 4))
    assert error.code == "QC0108"
    assert "view" in error.problem


def test_parameters_that_are_not_finite() -> None:
    model = _Net()
    with torch.no_grad():
        model.conv.weight[0, 0, 0, 0] = float("nan")
    error = _error(model, torch.randn(2, 3, 5, 5))
    assert error.code == "QC0105"
    assert "'conv.weight'" in error.problem
    assert "1 value" in error.problem


class _Autocast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return x @ x.mT


@pytest.mark.parametrize(
    ("model", "x", "part"),
    [
        (nn.Linear(4, 4).double(), torch.randn(2, 4), "'weight' is torch.float64"),
        (nn.ReLU(), torch.randn(2, 4).half(), "example input 0"),
        (_Autocast(), torch.randn(2, 4), "autocast"),
    ],
)
def test_other_precisions(model: nn.Module, x: Tensor, part: str) -> None:
    error = _error(model, x)
    assert error.code == "QC0109"
    assert part in error.problem


@pytest.mark.parametrize("model", [3, lambda x: x, "nowhere.pt2"])
def test_other_kinds_of_model(model: Any) -> None:
    assert _error(model, torch.randn(2, 4)).code == "QC0107"


def test_a_file_of_another_form(tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    path.write_bytes(b"no program")
    assert _error(path).code == "QC0107"


@pytest.mark.parametrize(
    "shapes",
    [
        {"image": {0: "batch"}},
        ({0: "batch"},),
        ({0: "batch"}, {5: "length"}),
        ({0: "not a name"}, {}),
        ({0: "batch", 1: "batch"}, {}),
        ({0: 3}, {}),
    ],
)
def test_dynamic_shapes_that_do_not_fit(shapes: Any) -> None:
    inputs = torch.randn(2, 6, 4), torch.randn(4, 5)
    assert _error(_Length(), *inputs, dynamic_shapes=shapes).code == "QC0110"


def test_inputs_of_different_batches() -> None:
    error = _error(_Length(), torch.randn(2, 6, 4), torch.randn(4, 5))
    assert error.code == "QC0110"
    assert "dynamic_shapes" in error.remedy


def test_inputs_that_are_no_tensors() -> None:
    error = _error(_Two(), torch.randn(2, 4), [torch.randn(2, 4)])  # type: ignore[arg-type]  # on purpose
    assert error.code == "QC0102"


def test_torch_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    _error(_Branches(), torch.randn(2, 4))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""
