"""A batch without samples: empty results of the right form wherever each sample has its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qcompiler as qc

IMAGES = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
TARGETS = ["reference", "cpu"]


class Net(nn.Module):
    """Every kind of layer of an image network, an island, and nested results."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, stride=2, padding=1)
        self.side = nn.Conv2d(3, 8, 1, stride=2)
        self.last = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> dict[str, Any]:
        """Maps [N, 3, 16, 16] to scores, their distribution, and what pooling leaves."""
        y = F.relu(self.depthwise(torch.sigmoid(self.first(x)))) + self.side(x)
        y = F.interpolate(F.max_pool2d(y, 3, 2, 1), scale_factor=2, mode="bilinear")
        y = F.adaptive_avg_pool2d(F.avg_pool2d(y, 2), 2)
        scores = self.last(torch.cat([y.flatten(1), y.flatten(1)], 1)[:, :32])
        return {"scores": scores, "more": (torch.softmax(scores, -1), y)}


class Fold(nn.Module):
    """One row of results for each step of each sequence."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, L, 6] to [N * L, 4]."""
        y: Tensor = self.layer(x).reshape(-1, 4)
        return y


class Total(Fold):
    """A result that all samples share."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps [N, L, 6] to [L, 4]."""
        y: Tensor = self.layer(x).mean(0)
        return y


def refused(call: Callable[[], object], part: str) -> None:
    with pytest.raises(qc.QCompilerError, match=rf"QC0701.*{part}"):
        call()


@pytest.mark.parametrize("target", TARGETS)
def test_results_are_empty_and_of_the_right_form(target: str, tmp_path: Path) -> None:
    compiled = qc.compile(Net().eval(), IMAGES, target=target, strict=False)
    compiled.save(tmp_path / "net.qcp")
    shapes = [(0, 5), (0, 5), (0, 8, 2, 2)]
    for program in (compiled, qc.load(tmp_path / "net.qcp")):
        wanted = program.reference(IMAGES[:0])
        for threads in (1, 2):
            program.set_num_threads(threads)
            for empty in (IMAGES[:0], IMAGES.transpose(2, 3)[:0]):
                found = program(empty)
                values = [found["scores"], *found["more"]]
                assert [tuple(v.shape) for v in values] == shapes
                for have, want in zip(values, [wanted["scores"], *wanted["more"]], strict=True):
                    assert torch.equal(have, want)
                    assert have.dtype == want.dtype
            full, want = program(IMAGES), program.reference(IMAGES)
            assert torch.equal(full["scores"], want["scores"])


def test_rows_of_several_dimensions() -> None:
    data = torch.randn(8, 4, 6)
    for shapes in (None, ({0: "batch", 1: "length"},)):
        program = qc.compile(Fold().eval(), data, target="reference", dynamic_shapes=shapes)
        assert program(data[:0]).shape == (0, 4)
        assert torch.equal(program(data[:0]), program.reference(data[:0]))
    refused(partial(program, data[:, :0]), "length is 0")


@pytest.mark.parametrize("target", TARGETS)
def test_a_result_of_all_samples_needs_one(target: str) -> None:
    data = torch.randn(8, 4, 6)
    program = qc.compile(Total().eval(), data, target=target, strict=False)
    for call in (program, program.reference):
        refused(partial(call, data[:0]), "batch is 0")


def test_a_declared_minimum_and_a_fixed_batch_hold() -> None:
    data = torch.randn(8, 4, 6)
    exported = {
        least: torch.export.export(
            Fold().eval(),
            (data,),
            dynamic_shapes=({0: torch.export.Dim("batch", min=least, max=64)},),
        )
        for least in (0, 4)
    }
    program = qc.compile(exported[0], data, target="reference")
    assert program(data[:0]).shape == (0, 4)
    refused(partial(program, torch.randn(65, 4, 6)), "batch is 65")
    program = qc.compile(exported[4], data, target="reference")
    refused(partial(program, data[:0]), "batch is 0")
    refused(partial(program, data[:3]), "batch is 3")
    program = qc.compile(Fold().eval(), data, target="reference", dynamic_shapes=())
    refused(partial(program, data[:0]), "has shape")
