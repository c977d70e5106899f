"""The command line on named and nested tensors, other outputs, and input that a user gets wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

import qcompiler
from qcompiler import QCompilerError
from tests.core.models_for_cli import Nested
from tests.core.test_cli import HERE, Caller


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Caller:
    """Returns a function that runs ``qcompiler ARGUMENTS`` in this process."""
    monkeypatch.setenv("COLUMNS", "200")
    return Caller(monkeypatch, capsys)


@pytest.fixture(scope="module")
def nested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the path of a program with the inputs left and right and nested results."""
    path = tmp_path_factory.mktemp("nested") / "nested.qcp"
    data = [(torch.linspace(-1, 1, 12).reshape(4, 3), torch.linspace(2, -1, 12).reshape(4, 3))]
    qcompiler.compile(Nested(), data, target="reference").save(path)
    return path


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((1, 3), 0.5), torch.full((1, 3), -0.25)


@pytest.mark.parametrize("names", [("right", "left"), ("input1", "input0")])
def test_tensors_go_by_name_or_number(
    call: Caller, nested: Path, tmp_path: Path, names: tuple[str, str]
) -> None:
    left, right = inputs()
    given, output = tmp_path / "x.safetensors", tmp_path / "y.safetensors"
    safetensors.torch.save_file(dict(zip(names, (right, left), strict=True)), given)
    outcome = call("run", nested, given, "-o", output)
    assert outcome.status == 0, outcome.err
    assert "parts.output0: float32[1, 3]" in outcome.out
    expected, found = qcompiler.load(nested)(left, right), safetensors.torch.load_file(output)
    assert torch.equal(found["sum"], expected["sum"])
    assert torch.equal(found["parts.output1"], expected["parts"][1])


def test_other_names_are_refused(call: Caller, nested: Path, tmp_path: Path) -> None:
    left, right = inputs()
    safetensors.torch.save_file({"a": left, "b": right}, tmp_path / "x.safetensors")
    arguments = ("run", nested, tmp_path / "x.safetensors", "-o", tmp_path / "y.safetensors")
    message = call.refused("QC0902", *arguments)
    assert "a, b" in message
    assert "left, right" in message


def test_a_program_takes_inputs_by_name(nested: Path) -> None:
    program, (left, right) = qcompiler.load(nested), inputs()
    assert torch.equal(program(left, right=right)["sum"], program(left, right)["sum"])
    for bad, problem in (
        ({"rigth": right}, "did you mean right"),
        ({"left": left, "right": right}, "given twice"),
    ):
        with pytest.raises(QCompilerError, match=f"QC0701.*{problem}"):
            program(left, **bad)
    with pytest.raises(QCompilerError, match="QC0701: 1 input was given"):
        program(left)
    with pytest.raises(QCompilerError, match=r"QC0701.*sparse"):
        program(left.to_sparse(), right)


@pytest.mark.parametrize("command", ["report", "bench"])
def test_a_table_that_is_piped_is_plain(call: Caller, nested: Path, command: str) -> None:
    outcome = call(command, nested)
    assert outcome.status == 0, outcome.err
    assert outcome.out.isascii()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_an_output_that_is_full_is_an_error(nested: Path) -> None:
    words = [sys.executable, "-c", "from qcompiler.cli import main; main()", "report", str(nested)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error QC0604: ")
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize(
    ("text", "problem"),
    [("x = (\n", "was never closed"), ("x = 1\ny = 1 / 0\n", "ZeroDivisionError")],
)
@pytest.mark.parametrize(("option", "code"), [("MODEL", "QC0901"), ("DATA", "QC0904")])
def test_a_module_that_fails_is_shown_with_its_line(
    call: Caller,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    problem: str,
    option: str,
    code: str,
) -> None:
    name = f"failing_{option.lower()}_{len(text)}"
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = [f"{name}:f"] if option == "MODEL" else [f"{HERE}:small", "--data", f"{name}:f"]
    message = call.refused(code, "compile", *words, "-o", tmp_path / "out.qcp")
    assert problem in message
    assert f"{name}.py:{text.count(chr(10))}" in message


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("folder/models.py", "write folder.models:NAME"),
        ("models.py:net", "write models:net"),
        (f"{HERE}:demanding", "requires the arguments path"),
        (f"{HERE}:bad_value", "models_for_cli.py:"),
    ],
)
def test_a_model_in_a_wrong_form(call: Caller, tmp_path: Path, model: str, problem: str) -> None:
    assert problem in call.refused("QC0901", "compile", model, "-o", tmp_path / "out.qcp")


@pytest.mark.parametrize("data", ["small", "demanding", "nope"])
def test_errors_of_data_speak_of_data(call: Caller, tmp_path: Path, data: str) -> None:
    arguments = ("compile", f"{HERE}:small", "--data", f"{HERE}:{data}", "-o", tmp_path / "o.qcp")
    message = call.refused("QC0904", *arguments)
    assert "DATA" in message
    assert "batches" in message
    assert "MODEL" not in message


@pytest.mark.parametrize("option", ["--print-before", "--print-after", "--stop-after"])
def test_a_pass_that_is_not_run_is_refused(call: Caller, option: str) -> None:
    arguments = ("opt", "missing.module:f", "--pipeline", "normalize-ops", option, "normalise-ops")
    assert "did you mean normalize-ops?" in call.refused("QC0501", *arguments)


def test_dumps_to_no_folder_are_refused_before_the_work(call: Caller, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    arguments = ("opt", "missing.module:f", "--pipeline", "normalize-ops")
    call.refused("QC0604", *arguments, "--dump", tmp_path / "file" / "folder")


def test_text_that_is_no_ir(call: Caller, tmp_path: Path) -> None:
    arguments = ("--pipeline", "normalize-ops")
    assert "no file" in call.refused("QC0601", "opt", tmp_path / "missing.qcir", *arguments)
    (tmp_path / "bad.qcir").write_text("qcir 1\nnonsense\n")
    assert "line 2, column 1" in call.refused("QC0601", "opt", tmp_path / "bad.qcir", *arguments)


@pytest.mark.parametrize(("target", "code"), [("cpu{isa=avx2", "QC0508"), ("cpu{foo=1}", "QC0502")])
def test_a_target_in_a_wrong_form(call: Caller, tmp_path: Path, target: str, code: str) -> None:
    arguments = ("compile", f"{HERE}:small", "-o", tmp_path / "o.qcp", "--target", target)
    assert "target" in call.refused(code, *arguments)


def test_a_target_of_another_type() -> None:
    with pytest.raises(QCompilerError, match="QC0506: the target is of type int"):
        qcompiler.compile(torch.nn.ReLU(), [torch.zeros(1, 2)], target=3)  # type: ignore[arg-type]  # on purpose


def test_errors_of_data_come_without_a_reproducer(call: Caller, tmp_path: Path) -> None:
    arguments = ("compile", f"{HERE}:small", "--data", f"{HERE}:spoiled")
    message = call.refused("QC0106", *arguments, "-o", tmp_path / "o.qcp")
    assert "collect-statistics" in message
    assert "reproduce" not in message


def test_an_explained_error_leads_to_the_list(call: Caller) -> None:
    assert "docs/reference/errors.md" in call("explain-error", "QC0904").out


def test_a_described_pass_has_no_marks_for_code(call: Caller) -> None:
    for name in qcompiler.registry.names("qcompiler.passes"):
        assert "``" not in call("passes", name).out
