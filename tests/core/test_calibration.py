"""Calibration data of every form, and the coded errors of data that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qcompiler.calibration import CalibrationData
from qcompiler.capture import capture
from qcompiler.errors import QCompilerError


class _One(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu()


class _Two(nn.Module):
    def forward(self, x: Tensor, y: Tensor, scale: float = 1.0) -> Tensor:
        return x + y.mean(-1, keepdim=True) * scale


X, Y, LABEL = torch.randn(6, 4), torch.randn(6, 3), torch.arange(6)


def _bound(data: Any, model: nn.Module, keep: int = 64, **options: Any) -> CalibrationData:
    calibration = CalibrationData(data, keep)
    graph = capture(model, calibration.example_inputs(model), **options)
    calibration.bind(graph)
    return calibration


def _error(data: Any, model: nn.Module | None = None) -> QCompilerError:
    """Returns the error of reading data that begin with one good batch."""
    good = [X] if model is None else [(X, Y)]
    calibration = _bound([*good, *data], model or _One())
    with pytest.raises(QCompilerError) as caught:
        list(calibration.batches())
    return caught.value


@pytest.mark.parametrize(
    "batch",
    [
        X,
        X.numpy(),
        (X,),
        [X],
        {"x": X, "label": LABEL},
        (X, LABEL),
        (X, 3),
        ((X,), LABEL),
        ({"x": X}, LABEL),
        (X, LABEL, ["name"]),
    ],
)
def test_forms_of_a_batch_of_one_input(batch: Any) -> None:
    ((x,),) = _bound([batch], _One()).batches()
    assert torch.equal(x, X)


@pytest.mark.parametrize(
    "batch",
    [
        (X, Y),
        [X, Y.numpy()],
        {"y": Y, "x": X},
        (X, Y, LABEL),
        ((X, Y), LABEL),
        [{"y": Y, "x": X}, LABEL],
    ],
)
def test_forms_of_a_batch_of_two_inputs(batch: Any) -> None:
    ((x, y),) = _bound([batch], _Two()).batches()
    assert torch.equal(x, X)
    assert torch.equal(y, Y)


def test_labels_of_the_shape_of_inputs() -> None:
    """An autoencoder's target looks like its input."""
    ((x,),) = _bound([(X, X + 1)], _One()).batches()
    assert torch.equal(x, X)


@pytest.mark.parametrize("data", [X, {"x": X}])
def test_one_batch_by_itself(data: Any) -> None:
    assert len(list(_bound(data, _One()).batches())) == 1


def _stream(count: int, log: list[int]) -> Iterator[tuple[Tensor, Tensor]]:
    for index in range(count):
        log.append(index)
        yield torch.full((16, 4), float(index)), torch.zeros(16, dtype=torch.int64)


def test_a_generator_is_read_once_and_lazily() -> None:
    log: list[int] = []
    data = _bound(_stream(9, log), _One(), keep=40)
    assert log == [0]
    peeked = [len(x) for (x,) in data.kept_batches(20)]
    assert peeked == [16, 4]
    assert log == [0, 1]
    assert [float(x[0, 0]) for (x,) in data.batches()] == list(range(9))
    assert [len(x) for (x,) in data.kept_batches()] == [16, 16, 8]
    assert [len(x) for (x,) in data.kept_batches(17)] == [16, 1]
    with pytest.raises(QCompilerError) as caught:
        list(data.batches())
    assert caught.value.code == "QC0103"


def test_a_list_can_be_read_again() -> None:
    data = _bound([X, X[:3]], _One())
    for _ in range(2):
        assert [len(x) for (x,) in data.batches()] == [6, 3]
    assert data.summary()["samples"] == 9


def test_the_summary_depends_on_the_kept_samples_only() -> None:
    def digest(*batches: Tensor) -> tuple[int, int, str]:
        data = _bound(list(batches), _One(), keep=6)
        list(data.batches())
        held = data.summary()
        return held["samples"], held["kept_samples"], held["kept_sha256"]

    first = digest(X, X)
    assert first == digest(X, X + 1)
    assert first[:2] == (12, 6)
    assert first[2] != digest(X + 1, X)[2]


def test_kept_samples_do_not_follow_the_users_tensor() -> None:
    x = X.clone()
    data = _bound([x], _One())
    list(data.batches())
    x.zero_()
    ((kept,),) = data.kept_batches()
    assert torch.equal(kept, X)


def test_batches_of_fixed_size_are_kept_whole() -> None:
    data = _bound([X, X, X], _One(), keep=8, dynamic_shapes=())
    list(data.batches())
    assert [len(x) for (x,) in data.kept_batches()] == [6, 6]


def test_empty_data() -> None:
    with pytest.raises(QCompilerError) as caught:
        CalibrationData([]).example_inputs()
    assert caught.value.code == "QC0103"


@pytest.mark.parametrize("batches", [[X[:0]], [X, X[:0]]], ids=["first", "later"])
def test_a_batch_without_samples(batches: list[Tensor]) -> None:
    with pytest.raises(QCompilerError) as caught:
        list(_bound(batches, _One()).batches())
    assert caught.value.code == "QC0104"
    assert f"calibration batch {len(batches) - 1}: " in caught.value.problem
    assert "leave empty batches out" in caught.value.remedy


def test_data_that_cannot_be_iterated() -> None:
    with pytest.raises(QCompilerError) as caught:
        CalibrationData(3)  # type: ignore[arg-type]  # on purpose
    assert caught.value.code == "QC0104"


@pytest.mark.parametrize(
    ("batch", "found", "remedy"),
    [
        (torch.randn(6, 5), "f32[6,5], expected f32[batch,4]", "dynamic_shapes"),
        (torch.randn(4), "f32[4]", "DataLoader"),
        (X.double(), "f64[6,4]", "float32"),
        (X.to(torch.uint8), "u8[6,4]", "preprocessing"),
        (np.zeros((6, 4)), "f64[6,4]", "float32"),
        ("photo.png", "of type str", "tensors"),
        ({"image": X}, "a dict with the keys image", "name"),
        ((), "a tuple of 0", "tensors"),
    ],
)
def test_batches_that_do_not_fit(batch: Any, found: str, remedy: str) -> None:
    error = _error([batch])
    assert error.code == "QC0104"
    assert "batch 1" in error.problem
    assert found in error.problem
    assert remedy in error.remedy


def test_inputs_of_different_batch_sizes() -> None:
    error = _error([(X, Y[:5])], _Two())
    assert error.code == "QC0104"
    assert "'y' is f32[5,3]" in error.problem


def test_a_missing_input() -> None:
    assert _error([X], _Two()).code == "QC0104"


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite(bad: float) -> None:
    wrong = Y.clone()
    wrong[2, 1] = bad
    error = _error([(X, Y), (X, wrong)], _Two())
    assert error.code == "QC0106"
    assert "batch 2" in error.problem
    assert "'y'" in error.problem
