"""What users can do wrong with the CUDA targets: each has a code and a remedy."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest
import torch
from torch import nn

import qcompiler
from qcompiler.backends.cuda import devices, runtime
from qcompiler.backends.cuda.architectures import ARCHITECTURES
from qcompiler.errors import QCompilerError
from qcompiler.runtime.inputs import check_inputs
from tests.backends.cuda import networks
from tests.backends.cuda.interpreter import interpreted


def refused(code: str, call: Callable[[], object]) -> QCompilerError:
    """Returns the error of a call that is refused."""
    with pytest.raises(QCompilerError) as caught:
        call()
    assert caught.value.code == code, str(caught.value)
    return caught.value


@pytest.fixture
def no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides the GPUs of the machine."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_device")
def test_no_device() -> None:
    program = networks.inverted("cuda-sm80")
    x = torch.zeros(1, 3, 16, 16)
    calls = [lambda: program(x), program.verify, program.bench]
    calls.append(lambda: networks.inverted("cuda"))
    calls.append(lambda: networks.inverted("cuda-sm80", tune="fast"))
    for call in calls:
        error = refused("QC0840", call)
        assert "cuda-sm80" in error.remedy
    assert program.reference(x).shape == (1, 10)


def test_unknown_architecture() -> None:
    assert "cuda-sm80" in refused("QC0506", lambda: networks.inverted("cuda-sm70")).remedy


def test_devices_that_are_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "sm_80" in refused("QC0841", devices.architecture_here).remedy
    program = networks.inverted("cuda-sm80")
    assert "Tesla T4" in refused("QC0841", lambda: program(torch.zeros(1, 3, 16, 16))).problem
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (12, 0))
    assert devices.architecture_here() == ARCHITECTURES["sm_90"]


def test_triton_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    program = networks.inverted("cuda-sm80")
    error = refused("QC0802", lambda: program(torch.zeros(1, 3, 16, 16)))
    assert "qcompiler[cuda]" in error.remedy


def test_the_remedy_names_the_right_device() -> None:
    graph = networks.inverted("cuda-sm80").graph
    x = torch.zeros(1, 3, 16, 16)
    error = refused("QC0701", lambda: check_inputs(graph, [x], device="cuda"))
    assert "is on cpu" in error.problem
    assert "CUDA tensors" in error.remedy


def _wrong_inputs() -> list[str]:
    program = networks.inverted("cuda-sm80")
    codes = []
    for x in (
        torch.zeros(1, 3, 16, 16, dtype=torch.float64),
        torch.zeros(1, 3, 16, 17),
        torch.zeros(1, 3, 16, 16, device="meta"),
    ):
        try:
            program(x)
        except QCompilerError as error:
            codes.append(error.code)
    return codes


def test_inputs_of_another_form() -> None:
    assert interpreted(_wrong_inputs) == ["QC0701"] * 3


def _no_room(where: str, error: type[Exception]) -> tuple[str, bool]:
    """Runs out of memory where a name of a module says, and calls the program once more."""
    program = qcompiler.compile(Small(), [torch.randn(4, 3)], target="cuda-sm80")
    x = torch.randn(2, 3)

    def too_large(*args: object) -> None:
        message = "CUDA error: out of memory"
        raise error(message)

    problem = ""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"qcompiler.backends.cuda.{where}", too_large)
        try:
            program(x)
        except QCompilerError as caught:
            problem = f"{caught.code}: {caught.problem}"
    return problem, torch.equal(program(x), program.reference(x))


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("runtime.Memory", torch.OutOfMemoryError),  # the arena
        ("starting.kernel", RuntimeError),  # a kernel's code, as Triton says it
        ("replay.Recorded.bind", torch.OutOfMemoryError),  # a result
    ],
)
def test_out_of_memory_leaves_the_program_intact(where: str, error: type[Exception]) -> None:
    problem, works = interpreted(_no_room, where, error)
    assert problem.startswith("QC0842"), problem
    assert "arena of" in problem
    assert works


class Small(nn.Module):
    """One operator."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns what is not negative."""
        return torch.relu(x)


def _many_shapes() -> list[int]:
    program = qcompiler.compile(Small(), [torch.randn(4, 3)], target="cuda-sm80")
    for batch in range(1, 12):
        x = torch.randn(batch, 3)
        assert torch.equal(program(x), program.reference(x))
    (made,) = program._executable._programs.values()  # type: ignore[attr-defined]  # of CUDA
    return [len(made._kept), len(made._lowered)]


def test_memory_is_kept_for_a_bounded_number_of_shapes() -> None:
    assert interpreted(_many_shapes) == [runtime._KEPT] * 2
