"""compile: every form of model and data, dynamic dimensions, targets, pipelines, options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import qcompiler as qc
from qcompiler.backends.cpu import CpuTarget
from qcompiler.backends.cpu.isa import supported_levels
from qcompiler.backends.reference import ReferenceTarget
from qcompiler.passmgr.instruments import StopAfter
from qcompiler.passmgr.pipeline import Pipeline
from tests.passes.lowering.models import decibels

# -- models and data -----------------------------------------------------------------------------


class Two(nn.Module):
    """Two inputs, one of which may be left out of the sum, and two results."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.left, self.right = nn.Linear(6, 5), nn.Linear(4, 5)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Maps [N, 6] and [N, 4] to [N, 5] twice."""
        x, y = self.left(a), self.right(b)
        return x + y, x * torch.sigmoid(y)


RANDOM = torch.Generator().manual_seed(0)
A, B = torch.randn(24, 6, generator=RANDOM), torch.randn(24, 4, generator=RANDOM)
LABEL = torch.arange(24)


def generated() -> Iterator[tuple[Tensor, Tensor]]:
    """Yields batches of different sizes."""
    yield A[:5], B[:5]
    yield A[5:], B[5:]


@pytest.mark.parametrize(
    "data",
    [
        [(A, B)],
        [[A, B.numpy()]],
        {"b": B, "a": A},
        [{"b": B, "a": A, "label": LABEL}],
        [(A, B, LABEL)],
        [((A, B), LABEL)],
        [({"a": A, "b": B}, LABEL)],
        DataLoader(TensorDataset(A, B, LABEL), batch_size=24),
    ],
    ids=range(8),
)
def test_forms_of_calibration_data_give_the_same_program(data: Any) -> None:
    program = qc.compile(Two().eval(), data, target="reference", pipeline="plain")
    expected = qc.compile(Two().eval(), [(A, B)], target="reference", pipeline="plain")
    for have, want in zip(program(A[:3], B[:3]), expected(A[:3], B[:3]), strict=True):
        assert torch.equal(have, want)
    assert program.manifest["weights_sha256"] == expected.manifest["weights_sha256"]
    assert program.manifest["calibration"]["samples"] == 24


@pytest.mark.parametrize(
    "data", [generated(), DataLoader(TensorDataset(A, B, LABEL), batch_size=7)], ids=range(2)
)
def test_other_batches_of_the_same_samples_give_nearly_the_same_program(data: Any) -> None:
    """Float sums of other batches may differ in their last bits, which codes seldom show."""
    program = qc.compile(Two().eval(), data, target="reference")
    expected = qc.compile(Two().eval(), [(A, B)], target="reference")
    assert program.manifest["calibration"]["samples"] == 24
    for have, want in zip(program(A, B), expected(A, B), strict=True):
        assert decibels(want, have) > 45


def test_exported_programs_and_files(tmp_path: Path) -> None:
    dims = {0: torch.export.Dim("batch")}
    exported = torch.export.export(Two().eval(), (A, B), dynamic_shapes=(dims, dims))
    torch.export.save(exported, tmp_path / "two.pt2")
    expected = qc.compile(Two().eval(), [(A, B)], target="reference")
    for model in (exported, tmp_path / "two.pt2", str(tmp_path / "two.pt2")):
        program = qc.compile(model, [(A, B)], target="reference")
        for have, want in zip(program(A[:3], B[:3]), expected(A[:3], B[:3]), strict=True):
            assert torch.equal(have, want)


class Fixed(nn.Module):
    """A batch of images and one table that all share."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        """Maps [N, 6] and [12, 6] to [N, 12]."""
        y: Tensor = self.layer(x) @ self.layer(table).T
        return y


def test_inputs_without_a_batch_are_not_cut() -> None:
    table = torch.randn(12, 6)
    shapes = {"x": {0: "batch"}, "table": None}
    program = qc.compile(Fixed().eval(), [(A, table)], target="reference", dynamic_shapes=shapes)
    with torch.no_grad():
        expected = Fixed().eval()(A, table)
    assert program(A, table).shape == (24, 12)
    assert decibels(expected, program(A, table)) > 28
    with pytest.raises(qc.QCompilerError, match="QC0701"):
        program(A, table[:5])


def test_several_dynamic_dimensions() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    shapes = ({0: "batch", 2: "height", 3: "width"},)
    program = qc.compile(model, [torch.randn(4, 3, 12, 12)], target="cpu", dynamic_shapes=shapes)
    for shape in ((1, 3, 12, 12), (2, 3, 20, 9), (5, 3, 3, 31)):
        x = torch.randn(shape)
        assert torch.equal(program(x), program.reference(x))
    assert program.verify(torch.randn(2, 3, 7, 8))


def test_a_fixed_batch() -> None:
    program = qc.compile(Two().eval(), [(A, B), (B[:, :1] + A, B)], dynamic_shapes=(), target="cpu")
    assert [t.shape for t in program.input_types] == [(24, 6), (24, 4)]
    assert program.verify()
    with pytest.raises(qc.QCompilerError, match="QC0701"):
        program(A[:3], B[:3])


def test_training_mode_is_refused_or_left(capsys: pytest.CaptureFixture[str]) -> None:
    model = Two()
    assert model.training
    program = qc.compile(model, [(A, B)], target="reference")
    assert program.verify()
    assert model.training
    assert capsys.readouterr().out == ""


# -- options -------------------------------------------------------------------------------------


def test_targets_by_name_with_options_or_as_objects(tmp_path: Path) -> None:
    level = supported_levels()[-1].name
    results = []
    for target in ("reference", ReferenceTarget(), f"cpu{{isa={level}}}", CpuTarget(isa=level)):
        program = qc.compile(Two().eval(), [(A, B)], target=target)
        results.append(program(A, B))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], result, strict=True))
    program.save(tmp_path / "a.qcp")
    loaded = qc.load(tmp_path / "a.qcp")
    assert loaded.manifest["target"] == f"cpu{{isa={level}}}"
    assert loaded.target == CpuTarget(isa=level)
    assert loaded.manifest["pipeline"].startswith("normalize-ops,")


def test_pipelines_by_name_text_or_object() -> None:
    plain = qc.compile(Two().eval(), [(A, B)], target="reference", pipeline="plain")
    text = plain.manifest["pipeline"]
    for pipeline in (text, Pipeline.parse(text)):
        again = qc.compile(Two().eval(), [(A, B)], target="reference", pipeline=pipeline)
        assert again.manifest == plain.manifest
    better = qc.compile(Two().eval(), [(A, B)], target="reference")
    assert better.manifest["weights_sha256"] != plain.manifest["weights_sha256"]


@pytest.mark.parametrize("method", ["minmax", "moving-average", "percentile", "mse", "kl", "octav"])
def test_every_calibrator_gives_a_good_program(method: str) -> None:
    text = f"propagate-ranges{{method={method}}}"
    pipeline = qc.compile(Two().eval(), [(A, B)], target="reference", pipeline="plain").manifest
    program = qc.compile(
        Two().eval(),
        [(A, B)],
        target="reference",
        pipeline=pipeline["pipeline"].replace("propagate-ranges", text),
    )
    with torch.no_grad():
        expected = Two().eval()(A, B)
    for want, have in zip(expected, program(A, B), strict=True):
        assert decibels(want, have) > 15


def test_a_stopped_pipeline_is_no_program() -> None:
    with pytest.raises(qc.QCompilerError, match="QC0503"):
        qc.compile(Two().eval(), [(A, B)], instruments=[StopAfter("fold-pad")])


def test_progress_is_shown_on_the_error_stream(capsys: pytest.CaptureFixture[str]) -> None:
    qc.compile(Two().eval(), [(A, B)], target="reference", progress=True)
    assert capsys.readouterr().out == ""
