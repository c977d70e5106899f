"""Each kind of bad input of a compile or a run: its code, node, source line, rule and remedy."""

from __future__ import annotations

import errno
import json
import os
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qcompiler as qc
from qcompiler.backends.native import toolchain
from qcompiler.errors import CATALOG
from tests.passes.lowering.models import decibels

DATA = [torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(s)) for s in range(2)]


def compiled(model: nn.Module, data: Any = DATA, **options: Any) -> qc.Program:
    """Compiles for the reference, which needs no C compiler."""
    return qc.compile(model.eval(), data, **{"target": "reference", **options})


def refused(code: str, call: Callable[[], object], *, near: Any = None, at: bool = True) -> Any:
    """Checks that a call is refused with a code, a rule and a remedy.

    ``near`` is the class whose forward method the error's source line and node must belong to.
    """
    with pytest.raises(qc.QCompilerError) as caught:
        call()
    error = caught.value
    assert error.code == code, str(error)
    assert error.rule == CATALOG[code]
    assert error.remedy
    assert f"rule:   {error.rule}" in str(error)
    if near is not None:
        code_object = near.forward.__code__
        lines = [line for *_, line in code_object.co_lines() if line]
        assert error.source is not None
        place = error.source.split(" ")[0]
        assert place.rpartition(":")[0].endswith(Path(__file__).name)
        assert min(lines) <= int(place.rpartition(":")[2]) <= max(lines)
        assert bool(error.node) == at
    return error


def conv(weight: float = 1.0, **options: Any) -> nn.Conv2d:
    """Returns a convolution of 3 to 4 channels with weights that do not change between runs."""
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3, **options)
    layer.weight.data.mul_(weight)
    return layer


# -- models --------------------------------------------------------------------------------------


class Branches(nn.Module):
    """Depends on its data."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return x + 1


def test_control_flow_that_depends_on_data() -> None:
    error = refused("QC0101", lambda: compiled(Branches()), near=Branches, at=False)
    assert "torch.where" in error.remedy or "torch" in error.remedy


class Unsupported(nn.Module):
    """Has two operators without an integer form."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cumsum(F.relu(self.conv(x)), 1)
        return torch.sort(y, 1)[0] + 1.0


class Cumulative(nn.Module):
    """Has one operator without an integer form between integer ones."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cumsum(F.relu(self.conv(x)), 1)
        z: Tensor = self.last(y)
        return z


MODEL = Cumulative().eval()


def test_unsupported_operators_are_listed_at_once() -> None:
    error = refused("QC0201", lambda: compiled(Unsupported()), near=Unsupported)
    for operator in ("cumsum", "sort"):
        assert operator in str(error)
    assert "strict=False" in error.remedy


@pytest.mark.parametrize("target", ["reference", "cpu"])
def test_an_unsupported_operator_becomes_a_float_island_of_the_report(target: str) -> None:
    program = compiled(MODEL, strict=False, target=target)
    (island,) = program.report().islands
    assert "cumsum" in island.op
    assert island.why
    assert Path(__file__).name in island.source
    assert "float island: " in str(program.report())
    assert "cumsum" in str(program.report())
    assert program.verify()
    x = DATA[0]
    with torch.no_grad():
        assert decibels(MODEL(x), program(x)) > 30


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(bad: float) -> None:
    model: Any = nn.Sequential(conv())
    model[0].weight.data[1, 0, 0, 0] = bad
    error = refused("QC0105", lambda: compiled(model))
    assert "'0.weight'" in error.problem


class Overflows(nn.Module):
    """Has an infinite activation for finite data and weights."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(x * 1000.0) + 1.0


class Nans(nn.Module):
    """Has an activation that is not a number for finite data and weights."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sqrt(x) * 2.0


@pytest.mark.parametrize("model", [Overflows, Nans])
def test_activations_that_are_not_finite(model: type[nn.Module]) -> None:
    refused("QC0106", lambda: compiled(model()), near=model)


class Biased(nn.Module):
    """Has a bias that no accumulator holds next to its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        assert self.conv.bias is not None
        self.conv.bias.data[2] = 1e9

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self.conv(x))


def test_a_bias_that_overflows() -> None:
    error = refused("QC0403", lambda: compiled(Biased()), near=Biased)
    assert "channel 2" in error.problem


class Weightless(nn.Module):
    """Convolves with a weight that is computed at run time."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, x[:1, :, :3, :3])


def test_a_weight_of_the_run_time() -> None:
    error = refused("QC0201", lambda: compiled(Weightless()), near=Weightless)
    assert "weight is computed" in error.problem


# -- calibration data ----------------------------------------------------------------------------


def test_no_calibration_data() -> None:
    forms: list[Any] = [[], iter(()), (x for x in DATA[:0])]
    for empty in forms:
        error = refused("QC0103", partial(compiled, nn.ReLU(), empty))
        assert "batch" in error.remedy


def test_a_generator_that_was_read_before() -> None:
    used = (x for x in DATA)
    compiled(nn.Sequential(conv()), used)
    refused("QC0103", lambda: compiled(nn.Sequential(conv()), used))


@pytest.mark.parametrize(
    ("other", "part"),
    [
        (torch.randn(6, 3, 8, 9), "f32[6,3,8,9]"),
        (torch.randn(3, 8, 8), "f32[3,8,8]"),
        (torch.zeros(6, 3, 8, 8, dtype=torch.uint8), "u8[6,3,8,8]"),
        ("photo.png", "type str"),
        ({"y": DATA[0]}, "keys y"),
    ],
)
def test_calibration_batches_of_another_form(other: Any, part: str) -> None:
    error = refused("QC0104", lambda: compiled(nn.Sequential(conv()), [*DATA, other]))
    assert part in error.problem
    assert "batch 2" in error.problem


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_calibration_data_that_are_not_finite(bad: float) -> None:
    wrong = DATA[1].clone()
    wrong[0, 0, 0, 0] = bad
    error = refused("QC0106", lambda: compiled(nn.Sequential(conv()), [DATA[0], wrong]))
    assert "batch 1" in error.problem


# -- at run time ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def program() -> qc.Program:
    return compiled(nn.Sequential(conv(), nn.ReLU()), target="cpu")


@pytest.mark.parametrize(
    ("inputs", "part"),
    [
        ((), "0 inputs"),
        ((DATA[0], DATA[0]), "2 inputs"),
        ((DATA[0][0],), "(3, 8, 8)"),
        ((torch.randn(1, 3, 8, 9),), "(1, 3, 8, 9)"),
        ((torch.randn(1, 4, 8, 8),), "(1, 4, 8, 8)"),
        ((DATA[0].double(),), "float64"),
        ((DATA[0].to(torch.uint8),), "uint8"),
        ((torch.empty(1, 3, 8, 8, device="meta"),), "on meta"),
        ((DATA[0].numpy(),), "ndarray"),
        ((None,), "NoneType"),
    ],
)
def test_inputs_of_another_form(program: qc.Program, inputs: tuple[Any, ...], part: str) -> None:
    calls: list[Callable[..., object]] = [program, program.reference]
    calls += [program.bench, program.verify] if inputs else []
    for call in calls:
        error = refused("QC0701", partial(call, *inputs))
        assert part in error.problem
        assert "f32[batch,3,8,8]" in error.remedy
        assert "batch from" not in error.remedy


def test_measuring_and_verifying_need_a_sample(program: qc.Program) -> None:
    for call in (program.bench, program.verify):
        error = refused("QC0701", partial(call, DATA[0][:0]))
        assert "batch is 0" in error.problem
        assert "batch from 1 to " in error.remedy


def test_inputs_that_are_not_contiguous(program: qc.Program) -> None:
    x = DATA[0].permute(0, 1, 3, 2)
    strided = torch.randn(12, 3, 8, 16)[::2, :, :, ::2]
    for given in (x, strided, DATA[0].expand(6, 3, 8, 8), DATA[0].requires_grad_(False)):
        assert torch.equal(program(given), program.reference(given.contiguous()))


def test_inputs_that_are_not_finite(program: qc.Program) -> None:
    x = torch.full((2, 3, 8, 8), float("nan"))
    assert torch.equal(program(x), program(torch.zeros(2, 3, 8, 8)))
    x[0], x[1] = float("inf"), -float("inf")
    assert torch.equal(program(x), program.reference(x))
    assert torch.equal(program(x), program(x.clamp(-1e30, 1e30)))


# -- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "near"),
    [
        ({"pipeline": "normalise-ops"}, "QC0501", "did you mean normalize-ops"),
        ({"pipeline": "defualt"}, "QC0501", "did you mean default"),
        ({"pipeline": "normalize-ops{x=1}"}, "QC0502", "takes no options"),
        ({"pipeline": "normalize-ops,collect-statistics{chunks=2}"}, "QC0502", "chunk"),
        ({"pipeline": "normalize-ops,,"}, "QC0508", "name{option=value"),
        ({"pipeline": ""}, "QC0503", "plan-memory"),
        ({"pipeline": "normalize-ops"}, "QC0503", "legalize-for-target"),
        ({"target": "cpuu"}, "QC0506", "did you mean cpu"),
        ({"target": "cpu{isa=avx3}"}, "QC0502", "avx2"),
        ({"target": "cpu{level=avx2}"}, "QC0502", "isa"),
        ({"target": "cpu,reference"}, "QC0506", "one target"),
        ({"target": ""}, "QC0506", "one target"),
    ],
)
def test_unknown_names_offer_the_nearest(options: dict[str, Any], code: str, near: str) -> None:
    error = refused(code, lambda: compiled(nn.Sequential(conv()), **options))
    assert near in error.remedy


# -- tools, files --------------------------------------------------------------------------------


def test_a_missing_compiler_and_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchain, "find_spec", lambda name: None)
    error = refused("QC0801", lambda: compiled(nn.Sequential(conv()), target="cpu"))
    assert "apt install gcc" in error.remedy
    assert "qcompiler[zig]" in error.remedy
    assert compiled(nn.Sequential(conv())).verify()


@pytest.fixture(scope="module")
def saved(program: qc.Program, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("artifact") / "a.qcp"
    program.save(path)
    return path.read_bytes()


def test_artifacts_that_were_cut_or_changed(saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.qcp"
    for data in (saved[: len(saved) // 2], saved[:-1], b"", saved.replace(b"conv2d", b"conv3d", 1)):
        path.write_bytes(data)
        error = refused("QC0602", lambda: qc.load(path))
        assert str(error.remedy).startswith("copy the file again")
    refused("QC0602", lambda: qc.load(tmp_path / "absent.qcp"))


def test_an_artifact_of_a_newer_version(saved: bytes, tmp_path: Path) -> None:
    from qcompiler.runtime import artifact

    path = tmp_path / "a.qcp"
    path.write_bytes(saved)
    held = artifact.read_artifact(path)
    newer = {**held.manifest, "format": 99}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", json.dumps(newer))
        archive.comment = bytes(64)
    refused("QC0603", lambda: qc.load(path))


def test_a_path_that_cannot_be_written(program: qc.Program, tmp_path: Path) -> None:
    for path in (tmp_path / "absent" / "a.qcp", tmp_path):
        error = refused("QC0604", partial(program.save, path))
        assert "writable" in error.remedy
    assert not list(tmp_path.iterdir())


def test_a_full_disk(program: qc.Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.qcp"
    path.write_bytes(b"old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    error = refused("QC0604", lambda: program.save(path))
    assert "No space left" in error.problem
    assert [p.name for p in tmp_path.iterdir()] == ["a.qcp"]
    assert path.read_bytes() == b"old"
