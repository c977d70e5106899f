"""EfficientNet-Lite0 in int8: what the demo promises, on the cpu and on the reference target."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qcompiler
from benchmarks.efficientnet_lite0 import agreement
from qcompiler import Program
from qcompiler.ir.annotations import has_type, type_of
from tests.assets import (
    CropBatches,
    center_crop,
    corner_crops,
    labelled_photos,
    load_model,
    sample_photos,
)

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """Returns the network in float."""
    return load_model()


@pytest.fixture(scope="module")
def program(model: nn.Module) -> Program:
    """Returns the network compiled for the host from 64 crops."""
    return qcompiler.compile(model, CropBatches(sample_photos()), target="cpu")


@pytest.fixture(scope="module")
def images() -> Tensor:
    """Returns the 20 labelled photos as the network takes them."""
    return torch.stack([center_crop(photo.image) for photo in labelled_photos()])


def test_top1_is_at_most_one_below_float(
    model: nn.Module, program: Program, images: Tensor
) -> None:
    labels = torch.tensor([photo.label for photo in labelled_photos()])
    with torch.inference_mode():
        fp32 = int((model(images).argmax(1) == labels).sum())
    int8 = int((program(images).argmax(1) == labels).sum())
    assert int8 >= fp32 - 1


def test_outputs_are_close_to_float(model: nn.Module, program: Program) -> None:
    crops = [corner_crops(photo.image) for photo in labelled_photos()]
    with torch.inference_mode():
        found = agreement(model, program, crops)
    assert found.sqnr >= 22.0
    assert found.top1 >= 0.95


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("batch", [1, 3, 16])
def test_native_equals_reference(
    program: Program, images: Tensor, batch: int, threads: int
) -> None:
    program.num_threads = threads
    assert torch.equal(program(images[:batch]), program.reference(images[:batch]))


def test_verify_finds_no_difference(program: Program) -> None:
    result = program.verify()
    assert result, str(result)


def test_nothing_stays_in_float(program: Program) -> None:
    names = ("quantize", "dequantize", "dequantize_accumulator")
    border = [f"qcompiler.{name}.default" for name in names]
    for node in program.graph.calls:
        values = [n for n in (node, *node.all_input_nodes) if has_type(n)]
        if any(type_of(value).is_float for value in values):
            assert str(node.target) in border, node.name
